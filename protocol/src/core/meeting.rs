//! Meeting neighbours: which of the members that one hears of are dialled, who is let in, whom the others are referred to.
//!
//! A device wants 8 neighbours that may share content with it, or 8 of any kind where there are no such, and takes in up
//! to 24. It chooses at random, half of them among those that it heard on its own LAN: what everybody does at random has
//! no islands. Whoever is full names others instead. A device that has hardly any neighbour is let in all the same, in
//! another one's place; so nobody stays outside.

use super::timers::Timer;
use super::{Core, Output, Pending, Rung};
use crate::crowd;
use crate::fetch::rendezvous;
use crate::identifier::{DeviceId, SiteName};
use crate::limits;
use crate::membership::Member;
use crate::reason::Reason;
use crate::system::System;
use crate::time::Moment;
use crate::wire::{Meet, Met, Request, Response, SiteMember};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Neighbours that a device looks for.
const WANTED: usize = crowd::NEIGHBOURS_WANTED;
/// With fewer neighbours than this a device is let in where it is full; with fewer that may share with it, it goes
/// where such devices meet.
const FEW: usize = 4;
/// Members that are dialled in one round.
const DIALS: usize = 4;
/// What is heard gathers for so long before some of it is dialled, or the first to speak would have all connections.
const GATHER: Duration = Duration::from_millis(50);
/// A device that starts has no neighbours before the seed has answered or this time is over: handshakes with all who start in
/// the same second would hold up the one with the seed, and with it the first piece.
const SEED_FIRST: Duration = Duration::from_millis(400);
/// A dial of which nothing was heard for so long is over.
const DIALLED: Duration = Duration::from_secs(60);
/// Between two rounds.
pub(super) const ROUND: Duration = Duration::from_millis(250);
/// First pause before a member is dialled again that could not be reached; it doubles.
const UNREACHED: Duration = Duration::from_secs(5);
/// A member that was not reached so often is forgotten; whoever names it begins anew.
const UNREACHED_MOST: u32 = 8;
/// Before a member is asked again that was full.
const FULL: Duration = Duration::from_secs(30);
/// First pause between two searches for devices of the own kind among others; it doubles up to 512 times.
const SEARCH: Duration = Duration::from_secs(2);
/// Devices at which those of one kind meet that hardly know any other of it.
const MEETING_POINTS: usize = 4;
/// Members of the asker's kind that it is referred to, and others where it is not let in.
const REFERRED: (usize, usize) = (12, 4);

/// A member of the site that may be dialled.
#[derive(Debug)]
pub(super) struct Candidate {
    addresses: Vec<String>,
    pub(super) rung: Rung,
    /// Its operating system, where a member said so that is connected or was, or the seed.
    system: Option<System>,
    /// Rank as a meeting point of our own kind.
    weight: u64,
    /// Not to be dialled before, whoever names it: it was full, or is at the other end of a tunnel.
    pub(super) not_before: Moment,
    /// Nor before this, because it was not reached or its connection ended.
    missed_until: Moment,
    failures: u32,
    /// Dials that failed since it was last connected, and when the last of them did.
    unreached: u32,
    unreached_at: Moment,
    /// Whether it was connected once, or the seed named it: what is known of it is more than hearsay.
    proven: bool,
}

/// The members that may be dialled, and the search among them.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub(super) known: BTreeMap<DeviceId, Candidate>,
    /// Searches for devices of the own kind since there were enough.
    searches: u32,
    /// When the next one is due.
    search: Moment,
    /// Members of another site that were found on this LAN.
    pub(super) foreign: Option<Foreign>,
}

/// Members of another site that were found on this LAN.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) site: SiteName,
    pub(super) count: u32,
    /// When the last of them was found.
    pub(super) sighted: Moment,
}

/// Neighbours that are connected.
pub(super) struct Company {
    /// Those that may share content with us.
    pub(super) kin: Vec<DeviceId>,
    pub(super) others: Vec<DeviceId>,
}

/// Candidates that are not connected.
#[derive(Default)]
struct Choice {
    /// They may share content with us.
    kin: Vec<DeviceId>,
    /// Heard on our own LAN.
    near: Vec<DeviceId>,
    far: Vec<DeviceId>,
    /// Being dialled, and how many of them may share content with us.
    coming: usize,
    coming_kin: usize,
    /// When the first of those may be dialled that must wait.
    later: Option<Moment>,
}

impl Candidate {
    /// Not to be dialled before.
    fn waits_until(&self) -> Moment {
        self.not_before.max(self.missed_until)
    }

    /// To be dialled when there is a reason.
    pub(super) fn is_due(&mut self, now: Moment) {
        (self.not_before, self.missed_until) = (now, now);
    }
}

impl Company {
    pub(super) fn len(&self) -> usize {
        self.kin.len() + self.others.len()
    }
}

impl Core {
    /// Whether this device looks for neighbours; services are looked for.
    pub(super) fn meets(&self) -> bool {
        let serves = self.setup.roles.seed || self.setup.roles.aggregator;
        self.rules.effective.peer_download && !serves
    }

    pub(super) fn company(&self) -> Company {
        let own = &self.setup.member.system;
        let present = self.peers.iter().filter(|(device, peer)| {
            !peer.guest && self.is_neighbour(&peer.member) && !self.is_service(**device)
        });
        let (kin, others): (Vec<_>, Vec<_>) =
            present.partition(|(_, peer)| peer.member.system.may_share(own));
        let devices = |peers: Vec<(&DeviceId, _)>| peers.into_iter().map(|(device, _)| *device).collect();
        Company { kin: devices(kin), others: devices(others) }
    }

    /// How many devices were heard on the LAN, no more than candidates are kept.
    pub(super) fn heard_on_lan(&self) -> usize {
        self.candidates.known.values().filter(|candidate| candidate.rung == Rung::Lan).count()
    }

    /// Whether `member` would be one neighbour too many; it may get a place all the same when it says hello.
    pub(super) fn is_full_for(&self, member: &Member) -> bool {
        self.meets()
            && self.is_neighbour(member)
            && !self.is_service(member.device)
            && self.company().len() >= limits::NEIGHBOURS
    }

    /// Somebody named a member of the site, or a device that may be one.
    pub(super) fn on_candidate(&mut self, now: Moment, member: SiteMember, rung: Rung) {
        let system = (rung != Rung::Lan).then_some(member.system);
        self.learn(now, member.device, member.addresses, rung, system);
    }

    pub(super) fn on_discovered(&mut self, now: Moment, device: DeviceId, addresses: Vec<String>) {
        self.learn(now, device, addresses, Rung::Lan, None);
    }

    fn learn(
        &mut self,
        now: Moment,
        device: DeviceId,
        mut addresses: Vec<String>,
        rung: Rung,
        system: Option<System>,
    ) {
        let own = device == self.setup.member.device;
        if !self.meets() || own || self.rules.is_revoked(device) || self.is_service(device) {
            return;
        }
        addresses.retain(|address| address.len() <= limits::NAME_BYTES);
        let proven = matches!(rung, Rung::Tracker | Rung::Incoming);
        let known = &mut self.candidates.known;
        match known.get_mut(&device) {
            Some(candidate) => {
                // What anybody on the LAN may claim stands behind what a member said, and hearsay behind all that is known.
                let hearsay = rung == Rung::Referred;
                let claimed = hearsay || (rung == Rung::Lan && candidate.system.is_some());
                let before = std::mem::take(&mut candidate.addresses);
                let (first, then) = if claimed { (before, addresses) } else { (addresses, before) };
                for address in first.into_iter().chain(then) {
                    if !candidate.addresses.contains(&address) {
                        candidate.addresses.push(address);
                    }
                }
                candidate.addresses.truncate(limits::ADDRESSES_PER_DEVICE);
                let known = candidate.system.take();
                candidate.system = if hearsay { known.or(system) } else { system.or(known) };
                candidate.proven |= proven;
                if rung == Rung::Lan {
                    candidate.rung = rung;
                }
            }
            None => {
                addresses.truncate(limits::ADDRESSES_PER_DEVICE);
                let key = self.setup.member.system.to_string();
                let weight = rendezvous::weight(key.as_bytes(), device);
                let candidate = Candidate {
                    addresses,
                    rung,
                    system,
                    weight,
                    not_before: now,
                    missed_until: now,
                    failures: 0,
                    unreached: 0,
                    unreached_at: now,
                    proven,
                };
                known.insert(device, candidate);
                if known.len() > limits::CANDIDATES {
                    self.forget_one();
                }
            }
        }
        let jitter = Duration::from_millis(self.random() % 50);
        let earliest = if self.fetcher.knows_site() { now } else { now.max(Moment::START + SEED_FIRST) };
        self.timers.bring_forward(Timer::Meet, earliest + GATHER + jitter);
    }

    /// Forgets a candidate of those that there are most of, at random, but no meeting point and nobody who is connected.
    fn forget_one(&mut self) {
        let points = self.candidates.meeting_points();
        let mut kinds: BTreeMap<Option<System>, Vec<DeviceId>> = BTreeMap::new();
        for (device, candidate) in &self.candidates.known {
            if !points.contains(device) && !self.peers.contains_key(device) {
                kinds.entry(candidate.system.clone()).or_default().push(*device);
            }
        }
        let most = kinds.into_values().max_by_key(Vec::len).unwrap_or_default();
        for device in self.draw(most, 1) {
            self.candidates.known.remove(&device);
        }
    }

    /// Dials some candidates while there are too few neighbours.
    pub(super) fn meet(&mut self, now: Moment) {
        if !self.meets() {
            return self.candidates.known.clear();
        }
        let away_until = self.forget_foreign(now);
        let company = self.company();
        let mut choice = self.choice(now);
        let wants = company.kin.len() < WANTED && company.len() < limits::NEIGHBOURS;
        let again = choice.later.filter(|_| wants);
        let mut chosen = self.choose(&company, &mut choice);
        let room = limits::NEIGHBOURS > company.len() + choice.coming;
        let searches = company.kin.len() < FEW && company.len() >= FEW && chosen.is_empty() && room;
        if searches && self.candidates.search <= now {
            chosen = self.search(now, &company);
        }
        let again = if chosen.is_empty() { again } else { Some(now) };
        let again =
            again.into_iter().chain(searches.then_some(self.candidates.search)).chain(away_until).min();
        for device in chosen {
            if let Some(candidate) = self.candidates.known.get(&device) {
                let (addresses, rung) = (candidate.addresses.clone(), candidate.rung);
                self.dial_member(now, device, addresses, rung);
            }
        }
        if let Some(again) = again {
            let jitter = Duration::from_millis(self.random() % 250);
            self.timers.bring_forward(Timer::Meet, again.max(now + ROUND) + jitter);
        }
    }

    /// Whether a member is not to be dialled yet, whoever names it: it was full, at the other end of a tunnel, or not reached.
    pub(super) fn is_left_alone(&self, now: Moment, device: DeviceId) -> bool {
        self.candidates.known.get(&device).is_some_and(|candidate| candidate.waits_until() > now)
    }

    /// A seed named a member as holder of what is wanted here: the WAN is spared when it can be reached again by now, however
    /// long it was not.
    pub(super) fn on_named(&mut self, now: Moment, member: SiteMember) {
        let device = member.device;
        // It becomes known first, so that it is left alone for a while when it is not reached.
        self.on_candidate(now, member.clone(), Rung::Tracker);
        if let Some(candidate) = self.candidates.known.get_mut(&device)
            && (candidate.unreached == 0 || now.since(candidate.unreached_at) >= UNREACHED)
        {
            candidate.missed_until = now;
        }
        self.dial_member(now, device, member.addresses, Rung::Tracker);
    }

    /// The candidates that could be dialled now.
    fn choice(&mut self, now: Moment) -> Choice {
        self.refreshing.dialling.retain(|_, at| now.since(*at) < DIALLED);
        let own = &self.setup.member.system;
        let abroad = self.roaming_at().is_some();
        let mut choice = Choice::default();
        for (device, candidate) in &self.candidates.known {
            let is_kin = candidate.system.as_ref().is_some_and(|system| system.may_share(own));
            if self.peers.contains_key(device) || (abroad && candidate.rung != Rung::Lan) {
                continue;
            }
            if self.refreshing.dialling.contains_key(device) {
                choice.coming += 1;
                choice.coming_kin += usize::from(is_kin);
            } else if candidate.waits_until() > now {
                choice.later = choice.later.into_iter().chain([candidate.waits_until()]).min();
            } else if is_kin {
                choice.kin.push(*device);
            } else if candidate.rung == Rung::Lan {
                choice.near.push(*device);
            } else {
                choice.far.push(*device);
            }
        }
        choice
    }

    /// Those that are dialled in this round: of our own kind as many as are wanted; for what lacks then, half from our own
    /// LAN and the rest from everywhere.
    fn choose(&mut self, company: &Company, choice: &mut Choice) -> Vec<DeviceId> {
        let room = limits::NEIGHBOURS.saturating_sub(company.len() + choice.coming).min(DIALS);
        let want_kin = WANTED.saturating_sub(company.kin.len() + choice.coming_kin).min(room);
        let mut chosen = self.draw(std::mem::take(&mut choice.kin), want_kin);
        let known = company.len() + choice.coming + chosen.len();
        let want = WANTED.saturating_sub(known).min(DIALS - chosen.len());
        let near = self.draw(choice.near.clone(), want.div_ceil(2));
        choice.near.retain(|device| !near.contains(device));
        let rest = want - near.len();
        chosen.extend(near);
        let far = self.draw(std::mem::take(&mut choice.far), rest);
        let rest = rest - far.len();
        chosen.extend(far);
        chosen.extend(self.draw(std::mem::take(&mut choice.near), rest));
        chosen
    }

    /// Few neighbours are of this device's kind: asks two of the others whom they know, and chooses two devices where those of
    /// the kind meet. All of the kind compute the same ones from whom they heard on the LAN.
    fn search(&mut self, now: Moment, company: &Company) -> Vec<DeviceId> {
        let searches = self.candidates.searches;
        self.candidates.searches = searches.saturating_add(1);
        self.candidates.search = now + SEARCH.saturating_mul(1 << searches.min(9));
        for device in self.draw(company.others.clone(), 2) {
            self.ask_to_meet(device);
        }
        let points = self.candidates.meeting_points().into_iter().filter(|device| {
            let candidate = self.candidates.known.get(device);
            !self.peers.contains_key(device) && candidate.is_some_and(|one| one.waits_until() <= now)
        });
        points.take(2).collect()
    }

    /// Says how many neighbours we have, and asks whom the other one knows.
    pub(super) fn ask_to_meet(&mut self, device: DeviceId) {
        let mut company = self.company();
        company.kin.retain(|other| *other != device);
        company.others.retain(|other| *other != device);
        let count = |devices: usize| u16::try_from(devices).unwrap_or(u16::MAX);
        let meet = Meet {
            addresses: self.addresses.clone(),
            neighbours: count(company.len()),
            kin: count(company.kin.len()),
        };
        self.ask(device, Request::Meet(meet), Pending::Meet(device));
    }

    /// A member of the site says hello as a neighbour: it is let in, or referred to others.
    pub(super) fn on_meet(&mut self, now: Moment, member: &Member, meet: Meet) -> Response {
        let device = member.device;
        if !self.meets() || !self.is_neighbour(member) || self.is_service(device) {
            return Response::Met(Met { welcome: true, members: Vec::new() });
        }
        self.learn(now, device, meet.addresses, Rung::Incoming, Some(member.system.clone()));
        let welcome = self.make_room(member, meet.neighbours.into());
        let was_guest = match self.peers.get_mut(&device) {
            Some(peer) => std::mem::replace(&mut peer.guest, !welcome),
            None => !welcome,
        };
        match welcome {
            true if was_guest => self.join_as_source(device),
            false => self.fetcher.remove(device),
            true => {}
        }
        let hungry = usize::from(meet.kin) < FEW;
        let kin = if hungry || !welcome { REFERRED.0 } else { 0 };
        let members = self.refer(member, kin, if welcome { 0 } else { REFERRED.1 });
        Response::Met(Met { welcome, members })
    }

    /// Whether there is a place for `member`, which has so many other neighbours; somebody else's, if need be.
    fn make_room(&mut self, member: &Member, neighbours: usize) -> bool {
        let mut company = self.company();
        company.kin.retain(|other| *other != member.device);
        company.others.retain(|other| *other != member.device);
        if company.len() < limits::NEIGHBOURS {
            return true;
        }
        let is_kin = member.system.may_share(&self.setup.member.system);
        let lonely = neighbours < FEW;
        let leaves = match company.others.is_empty() {
            false if is_kin || lonely => company.others,
            true if lonely => company.kin,
            _ => return false,
        };
        for device in self.draw(leaves, 1) {
            self.leave(device, Reason::NeighboursFull);
        }
        true
    }

    /// Members for `asker` to go to: up to `kin` that may share content with it, and up to `others` that may not.
    fn refer(&mut self, asker: &Member, kin: usize, others: usize) -> Vec<SiteMember> {
        // Not what others only told, nor whoever could not be reached: a false address would go from device to device.
        let good = |candidate: &Candidate| {
            candidate.proven && candidate.unreached == 0 && !candidate.addresses.is_empty()
        };
        let proven = self.candidates.known.iter().filter_map(|(device, candidate)| {
            let system = candidate.system.clone().filter(|_| good(candidate))?;
            Some(SiteMember { device: *device, system, addresses: candidate.addresses.clone() })
        });
        let proven = proven.filter(|member| member.device != asker.device);
        let proven = proven.filter(|member| !self.rules.is_revoked(member.device));
        let (like, unlike): (Vec<_>, Vec<_>) =
            proven.partition(|member| member.system.may_share(&asker.system));
        let mut members = self.draw(like, kin);
        members.extend(self.draw(unlike, others));
        members
    }

    /// The other one answered: it lets us in, or it does not; and it names others.
    pub(super) fn on_met(&mut self, now: Moment, from: DeviceId, met: Met) {
        for member in met.members.into_iter().take(limits::MEMBERS_PER_ANSWER) {
            self.on_candidate(now, member, Rung::Referred);
        }
        if met.welcome {
            return;
        }
        let jitter = Duration::from_millis(self.random() % 5_000);
        if let Some(candidate) = self.candidates.known.get_mut(&from) {
            candidate.not_before = now + FULL + jitter;
        }
        self.outputs.push_back(Output::Disconnect(from, Reason::NeighboursFull));
        self.timers.bring_forward(Timer::Meet, now + GATHER);
    }

    /// A neighbour is connected.
    pub(super) fn on_company(&mut self, now: Moment, device: DeviceId) {
        self.refreshing.dialling.remove(&device);
        if let Some(candidate) = self.candidates.known.get_mut(&device) {
            (candidate.failures, candidate.unreached) = (0, 0);
        }
        if !self.meets() || self.is_service(device) {
            return;
        }
        let Some(member) = self.peers.get(&device).map(|peer| peer.member.clone()) else { return };
        if !self.is_neighbour(&member) {
            return self.on_foreigner(now, member);
        }
        if self.is_near(device) {
            self.candidates.foreign = None;
        }
        if let Some(candidate) = self.candidates.known.get_mut(&device) {
            candidate.system = Some(member.system);
            candidate.proven = true;
        }
        if self.company().kin.len() >= FEW {
            self.candidates.searches = 0;
        }
        self.ask_to_meet(device);
        self.timers.bring_forward(Timer::Meet, now + GATHER);
    }

    /// Ends the connection to a neighbour, which is none from now on.
    pub(super) fn leave(&mut self, device: DeviceId, reason: Reason) {
        if let Some(peer) = self.peers.get_mut(&device) {
            peer.guest = true;
        }
        self.fetcher.remove(device);
        self.outputs.push_back(Output::Disconnect(device, reason));
    }

    /// A member was not reached, or is connected no more: another one takes its place.
    pub(super) fn on_missed(&mut self, now: Moment, device: DeviceId, pause: Duration) {
        if let Some(candidate) = self.candidates.known.get_mut(&device) {
            candidate.failures = candidate.failures.saturating_add(1);
            let wait = UNREACHED.saturating_mul(1 << candidate.failures.min(7));
            candidate.missed_until = candidate.missed_until.max(now + wait);
        }
        self.timers.bring_forward(Timer::Meet, now + pause);
    }

    /// A member was not reached.
    pub(super) fn on_unreached(&mut self, now: Moment, device: DeviceId, pause: Duration) {
        self.on_missed(now, device, pause);
        let Some(candidate) = self.candidates.known.get_mut(&device) else { return };
        candidate.unreached = candidate.unreached.saturating_add(1);
        candidate.unreached_at = now;
        if candidate.unreached >= UNREACHED_MOST && !self.peers.contains_key(&device) {
            self.candidates.known.remove(&device);
        }
    }

    /// Guests that do not leave by themselves.
    pub(super) fn guests(&self) -> Vec<DeviceId> {
        self.peers.iter().filter(|(_, peer)| peer.guest).map(|(device, _)| *device).collect()
    }
}

impl Candidates {
    /// Where devices of the own kind meet: those that come first in rendezvous order, of all that are known.
    fn meeting_points(&self) -> BTreeSet<DeviceId> {
        let mut points: Vec<(u64, DeviceId)> =
            self.known.iter().map(|(device, candidate)| (candidate.weight, *device)).collect();
        points.sort_unstable_by(|left, right| right.cmp(left));
        points.into_iter().take(MEETING_POINTS).map(|(_, device)| device).collect()
    }
}
