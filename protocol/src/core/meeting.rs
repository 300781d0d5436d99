//! Meeting neighbours: which of the members that one hears of are dialled, who is let in, whom the others are referred to.
//!
//! A device wants 8 neighbours that may share content with it, or 8 of any kind where there are no such, and takes in up
//! to 24. It chooses at random, half of them among those that it heard on its own LAN: what everybody does at random has
//! no islands. Whoever is full names others instead. A device that has hardly any neighbour is let in all the same, in
//! another one's place; so nobody stays outside.

use super::timers::Timer;
use super::{Core, Output, Pending, Rung};
use crate::crowd;
use crate::identifier::DeviceId;
use crate::limits;
use crate::membership::Member;
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::{Meet, Met, Request, Response, SiteMember};
use std::time::Duration;

/// Neighbours that a device looks for.
const WANTED: usize = crowd::NEIGHBOURS_WANTED;
/// With fewer neighbours than this a device is let in where it is full; with fewer that may share with it, it goes
/// where such devices meet.
const FEW: usize = 4;
/// Members that are dialled in one round.
const DIALS: usize = 4;
/// What is heard gathers for so long before some of it is dialled, or the first to speak would have all connections.
pub(super) const GATHER: Duration = Duration::from_millis(50);
/// A dial of which nothing was heard for so long is over.
const DIALLED: Duration = Duration::from_secs(60);
/// Between two rounds.
pub(super) const ROUND: Duration = Duration::from_millis(250);
/// Before a member is asked again that was full.
const FULL: Duration = Duration::from_secs(30);
/// First pause between two searches for devices of the own kind among others; it doubles up to 512 times.
const SEARCH: Duration = Duration::from_secs(2);
/// Members of the asker's kind that it is referred to, and others where it is not let in.
const REFERRED: (usize, usize) = (12, 4);

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

    /// Dials some candidates while there are too few neighbours.
    pub(super) fn meet(&mut self, now: Moment) {
        if !self.meets() {
            return self.candidates.known.clear();
        }
        let away_until = self.forget_foreign(now);
        self.tell_whether_alone(now);
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
        let proven = self.candidates.known.iter().filter_map(|(device, candidate)| {
            let system = candidate.system.clone().filter(|_| candidate.may_be_named())?;
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
            candidate.reached();
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

    /// Guests that do not leave by themselves.
    pub(super) fn guests(&self) -> Vec<DeviceId> {
        self.peers.iter().filter(|(_, peer)| peer.guest).map(|(device, _)| *device).collect()
    }
}
