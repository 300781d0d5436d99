//! One site as the seed sees it: its members, its fetchers, and how its WAN link goes.

use super::content::{Judged, Tracked};
use super::places::Claim;
use super::{Ask, Exchange, LEASE_IDLE, LEASE_ROUND_TRIPS, Line, Terms};
use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::fetch::brought::Brought;
use crate::fetch::window;
use crate::identifier::DeviceId;
use crate::limits;
use crate::piece::{self, PieceIndex};
use crate::reason::Reason;
use crate::system::System;
use crate::time::Moment;
use crate::wire::{SiteMember, Versions};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who holds what in a site is forgotten when nobody asked for the content for this long.
const CONTENT_IDLE: Duration = Duration::from_secs(3_600);
/// A device that let a lease lapse gets no other for this long, as long as somebody else asks.
const LAPSED: Duration = Duration::from_secs(10);
/// A piece needs up to this long from whoever fetched it to everybody in the site, by way of others: before, nobody can know
/// whether it can be had there.
const SPREADS: Duration = Duration::from_secs(6);
/// Within this time after it came a device has met its neighbours and heard what they hold: before, it takes over nothing.
const MEETS: Duration = Duration::from_millis(1_500);
/// Whoever asked within this time asks still.
const ASKS: Duration = Duration::from_secs(5);
/// What fetchers said of the link counts for this long.
pub(super) const LINK_KNOWN: Duration = Duration::from_secs(600);
/// A claim counts while the claimant asked within this time,
const CLAIMED: Duration = Duration::from_secs(30);
/// and a fetcher wants a content while it asked for that within this time, or holds leases on it.
const FETCHED: Duration = Duration::from_secs(10);
/// So many wait for their turn; the others ask seldom.
const LIKELY: u32 = 2;
/// How soon an asker that got no lease may ask again: one that is likely to fetch, and the others, by their rank.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_SOON: Duration = Duration::from_millis(300);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// In a site of hundreds they ask no more often than this all together: each answer costs a thin link a kilobyte.
const RETRY_APART: Duration = Duration::from_millis(200);

/// All that is known of one site.
#[derive(Debug, Default)]
pub(super) struct Site {
    pub(super) present: BTreeMap<DeviceId, Present>,
    pub(super) metadata_turn: Option<(Versions, DeviceId, Moment)>,
    /// By content; apart from it, for each device that takes nothing from peers and gives them nothing.
    pub(super) contents: BTreeMap<(Blake3Root, Option<DeviceId>), Tracked>,
    /// Who holds leases.
    pub(super) fetchers: BTreeMap<DeviceId, Held>,
    /// Devices that did nothing with a lease.
    lapsed: BTreeMap<DeviceId, Lapse>,
    /// When each device asked last.
    asked: BTreeMap<DeviceId, Moment>,
    /// What each fetcher said of its connection, and when.
    pub(super) rates: BTreeMap<DeviceId, (u32, Moment)>,
    round_trip: Option<(Duration, Moment)>,
    /// Who waits for a place with a content that nobody else fetches.
    pub(super) claims: BTreeMap<DeviceId, Claim>,
}

/// A member that is there.
#[derive(Debug)]
pub(super) struct Present {
    pub(super) system: System,
    pub(super) addresses: Vec<String>,
    /// When it came.
    pub(super) since: Moment,
    pub(super) active: Moment,
    /// Whether nothing went to it since its last whole piece.
    pub(super) rests: bool,
    pub(super) exchange: Exchange,
    /// Its rendezvous weight in the site.
    pub(super) weight: u64,
    /// What went to it lately, if anything.
    pub(super) brought: Option<Brought>,
}

impl Present {
    pub(super) fn shares(&self) -> bool {
        self.exchange == Exchange::Open
    }
}

/// The leases of one device.
#[derive(Debug)]
pub(super) struct Held {
    pieces: usize,
    bytes: u64,
    /// When it got the first of them.
    since: Moment,
    /// Whether it gave up its place: these are its last.
    ending: bool,
    pub(super) exchange: Exchange,
}

/// How leases ended because their holder did nothing with them.
#[derive(Clone, Copy, Debug)]
struct Lapse {
    ended: Moment,
    /// It had finished what it began: it has no need of the others, and is not gone.
    rested: bool,
}

impl Site {
    pub(super) fn member(&self, device: DeviceId) -> Option<SiteMember> {
        let present = self.present.get(&device)?;
        Some(SiteMember { device, system: present.system.clone(), addresses: present.addresses.clone() })
    }

    /// Takes in what an asker says of itself and of the link.
    pub(super) fn note(&mut self, asker: DeviceId, terms: &Terms<'_>, now: Moment) {
        self.asked.insert(asker, now);
        if terms.bytes_per_second > 0 {
            self.rates.insert(asker, (terms.bytes_per_second, now));
        }
        if let Some(seen) = terms.round_trip {
            let known = self.round_trip(now);
            if known.is_none_or(|known| seen <= known) {
                self.round_trip = Some((seen, now));
            }
        }
    }

    pub(super) fn round_trip(&self, now: Moment) -> Option<Duration> {
        self.round_trip.filter(|(_, at)| now.since(*at) < LINK_KNOWN).map(|(round_trip, _)| round_trip)
    }

    /// Bytes of what `ask` wants that came to nobody of the site yet.
    pub(super) fn left(&self, asker: DeviceId, ask: &Ask<'_>, terms: &Terms<'_>) -> u64 {
        // What only those have who are gone, or are on their own, is still to come.
        let there = |device: DeviceId| self.present.get(&device).is_some_and(Present::shares);
        self.tracked(asker, ask, terms).map_or(ask.size, |tracked| tracked.left(ask.wanted, there))
    }

    pub(super) fn tracked(&self, asker: DeviceId, ask: &Ask<'_>, terms: &Terms<'_>) -> Option<&Tracked> {
        self.contents.get(&(ask.root, terms.exchange.owner(asker)))
    }

    /// Who of those of this kind fetches and may go on, and since when: whoever is on its own has another link, or one for itself.
    pub(super) fn places(&self, exchange: Exchange) -> impl Iterator<Item = (DeviceId, Moment)> {
        let standing =
            self.fetchers.iter().filter(move |(_, held)| !held.ending && held.exchange == exchange);
        standing.map(|(device, held)| (*device, held.since))
    }

    pub(super) fn standing(&self, exchange: Exchange) -> usize {
        self.places(exchange).count()
    }

    pub(super) fn has_place(&self, device: DeviceId) -> bool {
        self.fetchers.get(&device).is_some_and(|held| !held.ending)
    }

    /// A fetcher gives up its place: it gets no more leases before those that it has are over.
    pub(super) fn ends_with_what_it_has(&mut self, device: DeviceId) {
        if let Some(held) = self.fetchers.get_mut(&device) {
            held.ending = true;
        }
    }

    /// Notes what an asker that has a place wants.
    pub(super) fn note_fetched(&mut self, asker: DeviceId, asks: &[Ask<'_>], terms: &Terms<'_>, now: Moment) {
        for ask in asks.iter().filter(|_| self.fetchers.contains_key(&asker)) {
            if let Some(tracked) = self.contents.get_mut(&(ask.root, terms.exchange.owner(asker))) {
                tracked.fetchers.insert(asker, now);
                tracked.rank = tracked.rank.min(ask.rank());
            }
        }
    }

    /// How many bytes `asker` may hold leases for, so that it does not keep the site waiting when all others are done: where
    /// somebody else is faster, as many as it gets while all together fetch the `left` bytes.
    fn worth(&self, asker: DeviceId, left: u64, now: Moment) -> u64 {
        // Not what they say of themselves: one that boasts would keep all others from fetching.
        let rate = |present: &Present| {
            let lately = present.brought.filter(|brought| brought.is_recent(now));
            lately.map(Brought::rate)
        };
        let others = self.fetchers.keys().filter(|device| **device != asker);
        let others = others.filter_map(|device| self.present.get(device).filter(|present| present.shares()));
        let others: Vec<u64> = others.filter_map(rate).collect();
        let asker = self.present.get(&asker).filter(|present| present.shares());
        let (Some(asker), Some(slowest), Some(fastest)) = (asker, others.iter().min(), others.iter().max())
        else {
            return u64::MAX;
        };
        // A newcomer begins slowly, and on a long way that the others fill goes on so.
        let own = rate(asker).unwrap_or_else(|| {
            self.round_trip(now).map_or(u64::MAX, window::first_bytes_per_second).min(slowest / 4)
        });
        if own >= *fastest {
            return u64::MAX;
        }
        let all = u128::from(own) + others.iter().copied().map(u128::from).sum::<u128>();
        u64::try_from(u128::from(left) * u128::from(own) / all).unwrap_or(u64::MAX)
    }

    /// Leases pieces of one content to `asker`, as far as it has room and nobody else has them; `left` bytes are still to
    /// come of all that it asks for.
    pub(super) fn lease(
        &mut self,
        asker: DeviceId,
        ask: &Ask<'_>,
        terms: &Terms<'_>,
        left: u64,
        now: Moment,
    ) -> Line {
        // What nobody else fetches keeps nobody else waiting.
        let worth = if self.is_fetched(asker, ask, terms) { self.worth(asker, left, now) } else { u64::MAX };
        let may_fetch = self.may_fetch(asker, terms, now);
        let Site { contents, present, fetchers, lapsed, asked, .. } = self;
        let (root, exchange) = (ask.root, terms.exchange);
        let tracked = contents
            .entry((root, terms.exchange.owner(asker)))
            .or_insert_with(|| Tracked::new(ask.rank(), now));
        tracked.asked = now;
        // In a large site the asker has no connection to most fetchers: what these are fetching, or have just fetched, comes to
        // it through neighbours. A fetcher that stands still has lost its lease already, and is gone when it stopped within a piece
        // and said nothing since.
        let gone = |device: DeviceId| {
            let silent = lapsed.get(&device).filter(|lapse| !lapse.rested);
            silent.is_some_and(|lapse| asked.get(&device).is_none_or(|asked| *asked <= lapse.ended))
        };
        let nobody = terms.unreachable.len() >= limits::MEMBERS_PER_ANSWER;
        let reachable = |device: DeviceId, since: Moment| {
            present.get(&device).is_some_and(|present| present.shares())
                && (now.since(since) < SPREADS || !(nobody || terms.unreachable.contains(&device)))
                && !gone(device)
        };
        let is_new = present.get(&asker).is_some_and(|present| now.since(present.since) < MEETS);
        let company = present.iter().any(|(device, present)| *device != asker && present.shares());
        let waits = terms.exchange == Exchange::Open && is_new && company;
        let (mut line, mut holders) = (Line::default(), BTreeSet::new());
        let room_bytes = terms.room_bytes.min(limits::LEASED_BYTES);
        for piece in ask.wanted.iter().take_while(|piece| piece.0 < piece::count(ask.size)) {
            let held = fetchers.get(&asker).map_or((0, 0), |held| (held.pieces, held.bytes));
            tracked.lacks(piece, asker);
            match tracked.judge(piece, asker, now, reachable) {
                Judged::Elsewhere(devices) => holders.extend(devices),
                Judged::Mine => line.leased.push((piece, Reason::Lease)),
                Judged::Free(reason)
                    if may_fetch
                        && !(waits && reason == Reason::Takeover)
                        && held.0 < limits::LEASED_PIECES
                        && held.1 < room_bytes
                        && held.1 + tracked.length(piece) <= worth =>
                {
                    let length = tracked.length(piece);
                    line.ended.extend(tracked.lapsed.remove(&piece).filter(|before| *before != asker));
                    if let Some(before) = tracked.leases.insert(piece, asker) {
                        release(fetchers, before, length);
                        line.ended.insert(before);
                    }
                    let held = fetchers.entry(asker).or_insert(Held {
                        pieces: 0,
                        bytes: 0,
                        since: now,
                        ending: false,
                        exchange,
                    });
                    held.pieces += 1;
                    held.bytes += length;
                    line.leased.push((piece, reason));
                }
                Judged::Free(_) => {}
            }
        }
        holders.remove(&asker);
        line.holders = holders.into_iter().collect();
        line
    }

    /// Whether `asker` fetches already, or fewer others do than may; and not when it let a lease lapse just now and
    /// somebody asks who did not.
    fn may_fetch(&self, asker: DeviceId, terms: &Terms<'_>, now: Moment) -> bool {
        let most = self.most_fetchers(terms, now);
        let room = match self.fetchers.get(&asker) {
            Some(held) if held.ending => false,
            // On a thin link those that began first go on alone.
            Some(held) if self.is_thin(terms.exchange, now) => {
                let own = (held.since, asker);
                let before = self.places(terms.exchange).filter(|(device, since)| (*since, *device) < own);
                before.count() < most
            }
            Some(_) => true,
            None => self.standing(terms.exchange) < most,
        };
        room && !self.has_lapsed(asker, now)
    }

    /// Whether `asker` let a lease lapse just now, and somebody asks who did not.
    pub(super) fn has_lapsed(&self, asker: DeviceId, now: Moment) -> bool {
        let mut asks = self.asked.iter().filter(|(_, at)| now.since(**at) < ASKS).map(|(device, _)| device);
        self.lapsed.contains_key(&asker)
            && asks.any(|device| *device != asker && !self.lapsed.contains_key(device))
    }

    /// When `asker` may ask again for what it did not get: the fewer will fetch before it, the sooner.
    pub(super) fn retry(&self, asker: DeviceId, terms: &Terms<'_>, now: Moment) -> Duration {
        let weight = |device: &DeviceId| self.present.get(device).map_or(0, |present| present.weight);
        let own = weight(&asker);
        let before = self.present.iter().filter(|(device, present)| {
            // Those on their own do not get what others of them fetch: only who still asks is before anybody.
            let asks = || self.asked.get(device).is_some_and(|at| now.since(*at) < RETRY_MOST * 2);
            present.exchange == terms.exchange
                && present.weight > own
                && !self.fetchers.contains_key(device)
                && (present.shares() || asks())
        });
        let rank = u32::try_from(before.count()).unwrap_or(u32::MAX);
        let claims = self.claims.contains_key(&asker)
            && self.claims.keys().filter(|device| weight(device) > own).count() < LIKELY as usize;
        let next = claims || self.fetchers.contains_key(&asker) || rank < LIKELY;
        let soon = self.standing(terms.exchange) < self.most_fetchers(terms, now) || !self.knows_link(now);
        match (next, soon) {
            (true, true) => RETRY_SOON,
            (true, false) => RETRY,
            (false, _) => {
                let present = u32::try_from(self.present.len()).unwrap_or(u32::MAX);
                (RETRY * (3 + rank)).min(RETRY_MOST.max(RETRY_APART * present))
            }
        }
    }

    /// Bytes go to a device.
    pub(super) fn active(&mut self, device: DeviceId, bytes: u64, now: Moment) {
        let began = self.fetchers.get(&device).map_or(now, |held| held.since);
        if let Some(present) = self.present.get_mut(&device) {
            (present.active, present.rests) = (now, false);
            present.brought = Some(Brought::note(present.brought, bytes, began, now));
        }
    }

    pub(super) fn served(&mut self, device: DeviceId, root: Blake3Root, piece: PieceIndex, now: Moment) {
        if let Some(present) = self.present.get_mut(&device) {
            (present.active, present.rests) = (now, true);
        }
        // Whether it shares may have changed since it got the lease.
        let shares = self.present.get(&device).is_some_and(|present| present.shares());
        let leased = [(root, Some(device)), (root, None)].into_iter().find(|key| {
            let tracked = self.contents.get(key);
            tracked.is_some_and(|tracked| tracked.leases.get(&piece) == Some(&device))
        });
        let key = leased.unwrap_or((root, (!shares).then_some(device)));
        let Some(tracked) = self.contents.get_mut(&key) else { return };
        if tracked.leases.get(&piece) == Some(&device) {
            tracked.leases.remove(&piece);
            let length = tracked.length(piece);
            release(&mut self.fetchers, device, length);
        }
        self.lapsed.remove(&device);
        tracked.deliver(piece, device, now);
    }

    /// Ends the leases of a device on one content.
    pub(super) fn withdraw(&mut self, device: DeviceId, root: Blake3Root) {
        for key in [(root, None), (root, Some(device))] {
            let Some(tracked) = self.contents.get_mut(&key) else { continue };
            let ends = tracked.leases.extract_if(.., |_, lessee| *lessee == device);
            let ends: Vec<PieceIndex> = ends.map(|(piece, _)| piece).collect();
            for piece in ends {
                release(&mut self.fetchers, device, tracked.length(piece));
            }
        }
    }

    /// Ends every lease of a device.
    pub(super) fn drop_leases(&mut self, device: DeviceId) {
        if self.fetchers.remove(&device).is_some() {
            for tracked in self.contents.values_mut() {
                let ends = tracked.leases.extract_if(.., |_, lessee| *lessee == device);
                tracked.lapsed.extend(ends);
            }
        }
    }

    pub(super) fn leased_to(&self, device: DeviceId, root: Blake3Root) -> PieceSet {
        let tracked = [None, Some(device)].into_iter().filter_map(|owner| self.contents.get(&(root, owner)));
        let leases = tracked.flat_map(|tracked| &tracked.leases);
        leases.filter(|(_, lessee)| **lessee == device).map(|(piece, _)| *piece).collect()
    }

    /// Ends leases whose holder asked for nothing for too long, and forgets what nobody asks for.
    pub(super) fn expire(&mut self, now: Moment) {
        let round_trip = self.round_trip(now).unwrap_or_default();
        let idle = LEASE_IDLE.max(round_trip * LEASE_ROUND_TRIPS);
        let ends = self.fetchers.iter().map(|(device, held)| {
            let present = self.present.get(device);
            let ended = present.map_or(now, |present| present.active.max(held.since) + idle);
            (*device, Lapse { ended, rested: present.is_some_and(|present| present.rests) })
        });
        let silent: Vec<(DeviceId, Lapse)> = ends
            .filter(|(_, lapse)| lapse.ended <= now)
            .filter(|_| !crate::mutant::mutated(crate::mutant::Mutant::LeaseForEver))
            .collect();
        for (device, lapse) in silent {
            self.drop_leases(device);
            // When it ended, not when somebody came to look: that may be much later.
            self.lapsed.insert(device, lapse);
        }
        self.lapsed.retain(|_, lapse| now.since(lapse.ended) < LAPSED);
        self.asked.retain(|_, at| now.since(*at) < CONTENT_IDLE);
        self.contents.retain(|_, tracked| now.since(tracked.asked) < CONTENT_IDLE);
        let Site { claims, asked, contents, fetchers, .. } = self;
        claims.retain(|device, _| asked.get(device).is_some_and(|at| now.since(*at) < CLAIMED));
        for tracked in contents.values_mut() {
            tracked.fetchers.retain(|device, at| fetchers.contains_key(device) && now.since(*at) < FETCHED);
        }
    }
}

/// A lease of a device ended.
pub(super) fn release(fetchers: &mut BTreeMap<DeviceId, Held>, device: DeviceId, length: u64) {
    let Some(held) = fetchers.get_mut(&device) else { return };
    held.pieces = held.pieces.saturating_sub(1);
    held.bytes = held.bytes.saturating_sub(length);
    if held.pieces == 0 {
        fetchers.remove(&device);
    }
}
