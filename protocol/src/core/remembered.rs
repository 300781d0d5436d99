//! Remembered peers: where the members of the site were reached before, so that a branch finds itself without headquarters.

use super::timers::Timer;
use super::{Core, Output, Pending, Record, Rung, prefix};
use crate::codec;
use crate::identifier::{DeviceId, SiteName};
use crate::limits;
use crate::time::{Moment, WallTime};
use crate::wire::SiteMember;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A node with so many neighbours does not look for remembered ones.
const ENOUGH: usize = 4;
/// Remembered peers that are dialled at a time.
const DIALS: usize = 8;
/// First pause before others are dialled; it doubles, with jitter.
const SEEK_FIRST: Duration = Duration::from_secs(5);
/// Longest such pause.
const SEEK_MOST: Duration = Duration::from_secs(600);
/// How long changes gather before they are stored.
const GATHER: Duration = Duration::from_secs(10);
/// How often it is stored that neighbours are still there, so that nobody is forgotten who was seen every day.
const STILL_THERE: Duration = Duration::from_secs(24 * 3600);

/// One member of the site that this node was connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Where it was reached, or told the seed that it listens; the latest first.
    addresses: Vec<String>,
    /// When it was last connected, give or take a day.
    seen: WallTime,
}

/// The record in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    site: SiteName,
    peers: BTreeMap<DeviceId, Entry>,
}

/// The peers that this node remembers, and its search for them.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    peers: BTreeMap<DeviceId, Entry>,
    /// Addresses that members of the site announced to the seed, of its latest answer: remembered once they connect.
    announced: BTreeMap<DeviceId, Vec<String>>,
    /// Something changed that is not stored yet.
    changed: bool,
    /// Searches since there were neighbours enough.
    searches: u32,
}

impl Remembered {
    /// What the record says, if it is about this `site`. A record that cannot be read costs nothing but a slower start.
    pub(super) fn restore(record: Option<&[u8]>, site: &SiteName) -> Remembered {
        let stored = record.and_then(|bytes| codec::decode::<Stored, { limits::MESSAGE_BYTES }>(bytes).ok());
        let peers = stored.filter(|stored| stored.site == *site).map(|stored| stored.peers);
        Remembered { peers: peers.unwrap_or_default(), ..Remembered::default() }
    }

    fn learn(&mut self, device: DeviceId, addresses: &[String], now: WallTime) {
        let usable = addresses.iter().filter(|address| address.len() <= limits::NAME_BYTES);
        let entry = self.peers.entry(device).or_insert_with(|| Entry { addresses: Vec::new(), seen: now });
        entry.seen = now;
        let before = entry.addresses.clone();
        for address in usable {
            if !entry.addresses.contains(address) {
                entry.addresses.insert(0, address.clone());
            }
        }
        entry.addresses.truncate(limits::ADDRESSES_REMEMBERED);
        self.changed |= entry.addresses != before;
        if entry.addresses.is_empty() {
            self.peers.remove(&device);
        }
        if self.peers.len() > limits::PEERS_REMEMBERED {
            let others = self.peers.iter().filter(|(other, _)| **other != device);
            let oldest = others.min_by_key(|(_, entry)| entry.seen).map(|(other, _)| *other);
            oldest.map(|oldest| self.peers.remove(&oldest));
        }
    }
}

impl Core {
    /// Peers are remembered where peers are talked to (N7); a seed waits for its members.
    fn remembers(&self) -> bool {
        self.rules.effective.peer_download && !self.setup.roles.seed
    }

    /// A connected member of our own site that is no service: services are found otherwise.
    fn is_memorable(&self, device: DeviceId) -> bool {
        let neighbour = self.peers.get(&device).is_some_and(|peer| self.is_neighbour(&peer.member));
        self.remembers() && neighbour && !self.is_service(device)
    }

    /// A device was reached under an address that we dialled: it proved to be there.
    pub(super) fn on_reached(&mut self, now: Moment, device: DeviceId, address: String) {
        self.remember(now, device, &[address]);
    }

    /// The seed says where the members of the site listen, as each told it over its own connection.
    pub(super) fn on_announced(&mut self, now: Moment, members: &[SiteMember]) {
        let entries = members.iter().map(|member| (member.device, member.addresses.clone()));
        // Whoever has neighbours enough asks for nobody.
        if !members.is_empty() {
            self.remembered.announced = entries.collect();
        }
        for member in members {
            self.remember(now, member.device, &member.addresses);
        }
    }

    /// A neighbour came: whoever is looking for some has found one.
    pub(super) fn on_neighbour(&mut self, now: Moment, device: DeviceId) {
        if !self.is_memorable(device) {
            return;
        }
        self.remembered.searches = 0;
        let addresses = self.remembered.announced.get(&device).cloned();
        let known = self.remembered.peers.get(&device).map(|entry| entry.addresses.clone());
        self.remember(now, device, &addresses.or(known).unwrap_or_default());
    }

    fn remember(&mut self, now: Moment, device: DeviceId, addresses: &[String]) {
        if !self.is_memorable(device) {
            return;
        }
        self.remembered.learn(device, addresses, self.wall);
        let pause = if self.remembered.changed { GATHER } else { STILL_THERE };
        self.timers.bring_forward(Timer::Remember, now + pause);
    }

    /// The rules changed: who was expelled is forgotten, and with peer download off everybody is.
    pub(super) fn revise_memory(&mut self, now: Moment) {
        let (before, remembers) = (self.remembered.peers.len(), self.remembers());
        let rules = &self.rules;
        self.remembered.peers.retain(|device, _| remembers && !rules.is_revoked(*device));
        if self.remembered.peers.len() != before {
            self.remembered.changed = true;
            self.timers.bring_forward(Timer::Remember, now);
        }
        self.timers.bring_forward(Timer::Seek, now + SEEK_FIRST);
    }

    /// Stores who is remembered: those of long ago no more, those that are connected as seen now.
    pub(super) fn store_memory(&mut self, now: Moment) {
        let connected: Vec<DeviceId> = self.peers.keys().copied().collect();
        for device in connected {
            if let Some(entry) = self.remembered.peers.get_mut(&device) {
                entry.seen = self.wall;
            }
        }
        let wall = self.wall;
        self.remembered.peers.retain(|_, entry| wall < entry.seen.plus_days(limits::DAYS_REMEMBERED));
        self.remembered.changed = false;
        let peers = self.remembered.peers.clone();
        let stored = Stored { site: self.setup.member.site.clone(), peers };
        let value = (!stored.peers.is_empty()).then(|| codec::encode(&stored));
        self.store(vec![Record { key: prefix::REMEMBERED.to_vec(), value }], Pending::StoreOther);
        self.timers.set(Timer::Remember, now + STILL_THERE);
    }

    /// The node stops: what gathered is stored.
    pub(super) fn on_stopping(&mut self, now: Moment) {
        if self.remembered.changed {
            self.store_memory(now);
        }
    }

    /// Dials a few remembered peers when there are few neighbours; when there are none, and those did not answer
    /// either, addresses that the organisation wrote down for the site.
    pub(super) fn seek_neighbours(&mut self, now: Moment) {
        let neighbours = self.peers.keys().filter(|device| self.is_memorable(**device)).count();
        let written = self.rules.site_addresses(&self.setup.member.site).to_vec();
        if !self.remembers() || neighbours >= ENOUGH {
            self.remembered.searches = 0;
            return;
        }
        let wall = self.wall;
        let missing = self.remembered.peers.iter().filter(|(device, entry)| {
            !self.peers.contains_key(device)
                && !self.is_service(**device)
                && wall < entry.seen.plus_days(limits::DAYS_REMEMBERED)
        });
        let missing: Vec<(DeviceId, Vec<String>)> =
            missing.map(|(device, entry)| (*device, entry.addresses.clone())).collect();
        let last_rung = neighbours == 0 && !written.is_empty();
        if missing.is_empty() && !last_rung {
            return;
        }
        for (device, addresses) in self.draw(missing, DIALS) {
            self.dial_member(now, device, addresses, Rung::Remembered);
        }
        if last_rung && self.remembered.searches > 0 && self.roaming_at().is_none() {
            let addresses = self.draw(written, DIALS);
            self.outputs.push_back(Output::DialWritten(addresses));
        }
        let pause = SEEK_FIRST.saturating_mul(1 << self.remembered.searches.min(7)).min(SEEK_MOST);
        self.remembered.searches = self.remembered.searches.saturating_add(1);
        let jitter = Duration::from_millis(self.random() % 2_000);
        self.timers.set(Timer::Seek, now + pause + jitter);
    }

    /// Whom this node remembers.
    #[cfg(test)]
    pub(super) fn remembered_devices(&self) -> Vec<DeviceId> {
        self.remembered.peers.keys().copied().collect()
    }

    /// Up to `count` of `from`, at random.
    pub(super) fn draw<T>(&mut self, mut from: Vec<T>, count: usize) -> Vec<T> {
        let mut drawn = Vec::new();
        while drawn.len() < count && !from.is_empty() {
            let at = self.random() % from.len() as u64;
            drawn.push(from.swap_remove(usize::try_from(at).unwrap_or(0)));
        }
        drawn
    }
}
