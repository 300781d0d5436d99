//! The seed's view of every site: who is there, who fetches which piece over the WAN, who holds it.

mod content;
mod exchange;
mod link;
mod places;
mod site;

use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::fetch::Priority;
use crate::fetch::rendezvous;
use crate::fetch::shares::Shares;
use crate::fetch::window::Advice;
use crate::identifier::{DeviceId, SiteName};
use crate::limits;
use crate::membership::Member;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::{SiteMember, Versions};
use site::{Present, Site};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A lease ends when no block was asked for by its holder for this long, or for [`LEASE_ROUND_TRIPS`] of the site.
pub const LEASE_IDLE: Duration = Duration::from_secs(1);
/// See [`LEASE_IDLE`].
pub const LEASE_ROUND_TRIPS: u32 = 4;
/// The chosen fetcher of new metadata has this long before somebody else of the site is chosen.
pub const METADATA_TURN: Duration = Duration::from_secs(5);

/// The seed's tracker for all sites.
#[derive(Debug, Default)]
pub struct Tracker {
    sites: BTreeMap<SiteName, Site>,
    shares: Shares,
}

/// Whether a member exchanges pieces with others of its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// It takes from them and gives to them.
    Open,
    /// It would, and is away or reaches none of them.
    Cut,
    /// Policy forbids it (N7).
    Forbidden,
}

impl Exchange {
    /// Under whom the tracker keeps what `device` gets: under the site, or under the device itself.
    fn owner(self, device: DeviceId) -> Option<DeviceId> {
        (self != Exchange::Open).then_some(device)
    }
}

/// What a member asks leases on.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// The content.
    pub root: Blake3Root,
    /// Its bytes.
    pub size: u64,
    /// The pieces.
    pub wanted: &'a PieceSet,
    /// What it goes before, as its manifest and policy say.
    pub priority: Priority,
}

impl Ask<'_> {
    fn rank(&self) -> places::Rank {
        (self.priority.rank(self.size), self.size)
    }
}

/// Under which terms.
#[derive(Clone, Debug)]
pub struct Terms<'a> {
    /// Members that the asker cannot get pieces from: everybody, where there are [`limits::MEMBERS_PER_ANSWER`].
    pub unreachable: &'a [DeviceId],
    /// Bytes that it wants to hold leases on, those that it holds included.
    pub room_bytes: u64,
    /// The smallest round trip that it has seen.
    pub round_trip: Option<Duration>,
    /// What it fetches over the WAN; 0 when it has not fetched.
    pub bytes_per_second: u32,
    /// How many devices of the site may fetch over the WAN at once.
    pub fetchers: u8,
    /// Whether it takes from neighbours and gives to them.
    pub exchange: Exchange,
}

/// What the tracker decides about one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The answer for each content, in the order of the question.
    pub lines: Vec<Line>,
    /// When the asker may ask again for what it did not get.
    pub retry: Duration,
    /// What the asker is to know of the way.
    pub advice: Advice,
}

/// What the tracker decides about one content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Pieces leased to the asker, each with the reason for its bytes.
    pub leased: Vec<(PieceIndex, Reason)>,
    /// Devices that hold or fetch the others.
    pub holders: Vec<DeviceId>,
    /// Devices whose leases these were before: the seed does not serve them those any more.
    pub ended: BTreeSet<DeviceId>,
}

impl Tracker {
    /// Notes that `member` is there and where it listens; returns up to `most` other members of its site, those first that
    /// can share with it. One that may not share (N7) hears of nobody, and nobody hears of it; on one that is cut off nobody counts.
    pub fn announce(
        &mut self,
        member: &Member,
        addresses: Vec<String>,
        exchange: Exchange,
        most: usize,
        now: Moment,
    ) -> Vec<SiteMember> {
        let site = self.sites.entry(member.site.clone()).or_default();
        // Only blocks that are asked for are activity: an announcement keeps no lease.
        let before = site.present.get(&member.device);
        let active = before.map_or(now, |present| present.active);
        let brought = before.and_then(|present| present.brought);
        let rests = before.is_none_or(|present| present.rests);
        let since = before.map_or(now, |present| present.since);
        let weight = rendezvous::weight(member.site.as_str().as_bytes(), member.device);
        let known = before.map_or(exchange, |present| present.exchange);
        let present = Present {
            system: member.system.clone(),
            addresses,
            since,
            active,
            rests,
            exchange: known,
            weight,
            brought,
        };
        site.present.insert(member.device, present);
        site.set_exchange(member.device, exchange);
        if exchange == Exchange::Forbidden || most == 0 {
            return Vec::new();
        }
        let key = member.device.as_bytes();
        let sharing = site.present.iter().filter(|(_, present)| present.exchange != Exchange::Forbidden);
        let mut others: Vec<DeviceId> =
            sharing.map(|(device, _)| *device).filter(|device| *device != member.device).collect();
        others.sort_by_cached_key(|&device| {
            let same = site.present[&device].system == member.system;
            (!same, std::cmp::Reverse(rendezvous::weight(key, device)))
        });
        others.truncate(most.min(limits::MEMBERS_PER_ANSWER));
        others.into_iter().filter_map(|device| site.member(device)).collect()
    }

    /// Whether `member`, whose metadata is older than `newest`, is the one to fetch it for its site now.
    pub fn metadata_turn(&mut self, member: &Member, newest: Versions, now: Moment) -> bool {
        let site = self.sites.entry(member.site.clone()).or_default();
        match site.metadata_turn {
            Some((versions, device, since))
                if versions == newest
                    && device != member.device
                    && site.present.contains_key(&device)
                    && now.since(since) < METADATA_TURN =>
            {
                false
            }
            _ => {
                site.metadata_turn = Some((newest, member.device, now));
                true
            }
        }
    }

    /// Leases pieces to `member`, as far as nobody else of the site has them. One that does not share is on its own.
    pub fn lease(&mut self, member: &Member, asks: &[Ask<'_>], terms: &Terms<'_>, now: Moment) -> Decision {
        let site = self.sites.entry(member.site.clone()).or_default();
        site.expire(now);
        site.note(member.device, terms, now);
        site.set_exchange(member.device, terms.exchange);
        site.make_place(member.device, asks, terms, now);
        let left = asks.iter().map(|ask| site.left(member.device, ask, terms)).sum();
        let lines = asks.iter().map(|ask| site.lease(member.device, ask, terms, left, now)).collect();
        site.note_fetched(member.device, asks, terms, now);
        let advice = Advice {
            round_trip: site.round_trip(now),
            target: self.shares.target(&member.site, now),
            drain: self.shares.drain(now),
        };
        Decision { lines, retry: site.retry(member.device, terms, now), advice }
    }

    /// A member of a site, as others are told of it.
    pub fn member(&self, site: &SiteName, device: DeviceId) -> Option<SiteMember> {
        self.sites.get(site)?.member(device)
    }

    /// A piece went to `device` completely: it holds it, as far as the seed can know.
    pub fn served(
        &mut self,
        site: &SiteName,
        device: DeviceId,
        root: Blake3Root,
        piece: PieceIndex,
        now: Moment,
    ) {
        if let Some(site) = self.sites.get_mut(site) {
            site.served(device, root, piece, now);
        }
    }

    /// Blocks of so many bytes go to `device`: none of its leases ends, and they count in its site's share.
    pub fn active(&mut self, site: &SiteName, device: DeviceId, bytes: u64, now: Moment) {
        self.shares.note(site, bytes, now);
        if let Some(site) = self.sites.get_mut(site) {
            site.active(device, bytes, now);
        }
    }

    /// `device` may not have a content any more: its leases on it end. It will not ask for the pieces, and is not to be
    /// taken for one that fell silent.
    pub fn withdrawn(&mut self, site: &SiteName, device: DeviceId, root: Blake3Root) {
        if let Some(site) = self.sites.get_mut(site) {
            site.withdraw(device, root);
        }
    }

    /// `device` is gone: its leases end, and what only it held has to be fetched again.
    pub fn disconnected(&mut self, site: &SiteName, device: DeviceId) {
        if let Some(site) = self.sites.get_mut(site) {
            site.present.remove(&device);
            site.drop_leases(device);
            site.forget_own(device);
        }
    }

    /// The pieces of a content that `device` holds leases on: the seed serves nothing over the WAN without one.
    pub fn leased_to(&self, site: &SiteName, device: DeviceId, root: Blake3Root) -> PieceSet {
        self.sites.get(site).map(|site| site.leased_to(device, root)).unwrap_or_default()
    }

    /// Members of `site` that are there now.
    pub fn present(&self, site: &SiteName) -> impl Iterator<Item = DeviceId> + '_ {
        self.sites.get(site).into_iter().flat_map(|site| site.present.keys().copied())
    }
}

#[cfg(test)]
mod tests;
