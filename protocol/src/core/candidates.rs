//! Members of the site that may be dialled: who named them, how far that is to be believed, and when each comes next.

use super::meeting::GATHER;
use super::timers::Timer;
use super::{Core, Rung};
use crate::fetch::rendezvous;
use crate::identifier::{DeviceId, SiteName};
use crate::limits;
use crate::system::System;
use crate::time::Moment;
use crate::wire::SiteMember;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A device that starts has no neighbours before the seed has answered or this time is over: handshakes with all who start in
/// the same second would hold up the one with the seed, and with it the first piece.
const SEED_FIRST: Duration = Duration::from_millis(400);
/// First pause before a member is dialled again that could not be reached; it doubles.
const UNREACHED: Duration = Duration::from_secs(5);
/// A member that was not reached so often is forgotten; whoever names it begins anew.
const UNREACHED_MOST: u32 = 8;
/// Devices at which those of one kind meet that hardly know any other of it.
const MEETING_POINTS: usize = 4;

/// A member of the site that may be dialled.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) addresses: Vec<String>,
    pub(super) rung: Rung,
    /// Its operating system, where a member said so that is connected or was, or the seed.
    pub(super) system: Option<System>,
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
    pub(super) proven: bool,
}

/// The members that may be dialled, and the search among them.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub(super) known: BTreeMap<DeviceId, Candidate>,
    /// Searches for devices of the own kind since there were enough.
    pub(super) searches: u32,
    /// When the next one is due.
    pub(super) search: Moment,
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

impl Candidate {
    /// Not to be dialled before.
    pub(super) fn waits_until(&self) -> Moment {
        self.not_before.max(self.missed_until)
    }

    /// Whether others may be told of it: not what others only told, nor whoever could not be reached, or a false address would
    /// go from device to device.
    pub(super) fn may_be_named(&self) -> bool {
        self.proven && self.unreached == 0 && !self.addresses.is_empty()
    }

    /// It is connected.
    pub(super) fn reached(&mut self) {
        (self.failures, self.unreached) = (0, 0);
    }

    /// To be dialled when there is a reason.
    pub(super) fn is_due(&mut self, now: Moment) {
        (self.not_before, self.missed_until) = (now, now);
    }
}

impl Core {
    /// Somebody named a member of the site, or a device that may be one.
    pub(super) fn on_candidate(&mut self, now: Moment, member: SiteMember, rung: Rung) {
        let system = (rung != Rung::Lan).then_some(member.system);
        self.learn(now, member.device, member.addresses, rung, system);
    }

    pub(super) fn on_discovered(&mut self, now: Moment, device: DeviceId, addresses: Vec<String>) {
        self.learn(now, device, addresses, Rung::Lan, None);
    }

    pub(super) fn learn(
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
}

impl Candidates {
    /// Where devices of the own kind meet: those that come first in rendezvous order, of all that are known.
    pub(super) fn meeting_points(&self) -> BTreeSet<DeviceId> {
        let mut points: Vec<(u64, DeviceId)> =
            self.known.iter().map(|(device, candidate)| (candidate.weight, *device)).collect();
        points.sort_unstable_by(|left, right| right.cmp(left));
        points.into_iter().take(MEETING_POINTS).map(|(_, device)| device).collect()
    }
}
