//! One content in one site: which pieces are leased, and who got which.

use super::places::Rank;
use crate::bitmap::PieceSet;
use crate::identifier::DeviceId;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use crate::time::Moment;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A content that somebody of a site asked for.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) leases: BTreeMap<PieceIndex, DeviceId>,
    /// Whose leases ended because they did nothing: until others get them they may go on.
    pub(super) lapsed: BTreeMap<PieceIndex, DeviceId>,
    /// Who got each piece, and when.
    delivered: BTreeMap<PieceIndex, BTreeMap<DeviceId, Moment>>,
    pub(super) size: u64,
    pub(super) rank: Rank,
    /// Who asked for it and has a place, and when.
    pub(super) fetchers: BTreeMap<DeviceId, Moment>,
    /// When anybody asked last.
    pub(super) asked: Moment,
}

/// What becomes of one piece that somebody asks for.
pub(super) enum Judged {
    /// Others hold it or are fetching it.
    Elsewhere(Vec<DeviceId>),
    /// The asker has the lease already.
    Mine,
    /// Nobody has it whom the asker can reach.
    Free(Reason),
}

impl Tracked {
    pub(super) fn new(rank: Rank, now: Moment) -> Tracked {
        Tracked {
            leases: BTreeMap::new(),
            lapsed: BTreeMap::new(),
            delivered: BTreeMap::new(),
            size: rank.1,
            rank,
            fetchers: BTreeMap::new(),
            asked: now,
        }
    }

    /// Bytes of one piece.
    pub(super) fn length(&self, piece: PieceIndex) -> u64 {
        let from = u64::from(piece.0) * crate::limits::PIECE_BYTES;
        self.size.saturating_sub(from).min(crate::limits::PIECE_BYTES)
    }

    /// Bytes of those of `wanted` that went to nobody yet who is `there`.
    pub(super) fn left(&self, wanted: &PieceSet, there: impl Fn(DeviceId) -> bool) -> u64 {
        let came = |piece: &PieceIndex| {
            self.delivered.get(piece).is_some_and(|to| to.keys().any(|device| there(*device)))
        };
        wanted.iter().filter(|piece| !came(piece)).map(|piece| self.length(piece)).sum()
    }

    /// Takes in what one device fetched for itself; returns those of its leases that somebody else has here.
    pub(super) fn take_over(&mut self, own: Tracked) -> Vec<PieceIndex> {
        self.asked = self.asked.max(own.asked);
        for (piece, to) in own.delivered {
            self.delivered.entry(piece).or_default().extend(to);
        }
        let mut taken = Vec::new();
        for (piece, device) in own.leases {
            match self.leases.entry(piece) {
                Entry::Vacant(free) => drop(free.insert(device)),
                Entry::Occupied(_) => taken.push(piece),
            }
        }
        taken
    }

    /// Who else than `asker` fetches it: holds a lease, or asked for it lately and holds others.
    pub(super) fn others(&self, asker: DeviceId) -> impl Iterator<Item = DeviceId> {
        let all = self.leases.values().chain(self.fetchers.keys());
        all.copied().filter(move |device| *device != asker)
    }

    /// The piece went to `device` completely.
    pub(super) fn deliver(&mut self, piece: PieceIndex, device: DeviceId, now: Moment) {
        if crate::mutant::mutated(crate::mutant::Mutant::ForgetDelivered) {
            return;
        }
        self.delivered.entry(piece).or_default().insert(device, now);
    }

    /// `device` says that it lacks a piece, whatever went to it: its disk did not take it, or lost it.
    pub(super) fn lacks(&mut self, piece: PieceIndex, device: DeviceId) {
        if let Some(holders) = self.delivered.get_mut(&piece) {
            holders.remove(&device);
        }
    }

    /// Judges a piece for `asker`, which gets pieces from those of whom `reachable` says so, told since when each has it: now,
    /// where it is still fetching.
    pub(super) fn judge(
        &self,
        piece: PieceIndex,
        asker: DeviceId,
        now: Moment,
        reachable: impl Fn(DeviceId, Moment) -> bool,
    ) -> Judged {
        let lessee = self.leases.get(&piece).copied();
        if lessee != Some(asker)
            && lessee.is_some()
            && crate::mutant::mutated(crate::mutant::Mutant::LeaseTwice)
        {
            return Judged::Free(Reason::Lease);
        }
        if lessee == Some(asker) {
            return Judged::Mine;
        }
        let delivered = self.delivered.get(&piece).into_iter().flatten().map(|(device, at)| (*device, *at));
        let fetching = lessee.map(|device| (device, now));
        let known = fetching.into_iter().chain(delivered);
        let elsewhere: Vec<DeviceId> =
            known.filter(|(device, since)| reachable(*device, *since)).map(|(device, _)| device).collect();
        if !elsewhere.is_empty() {
            return Judged::Elsewhere(elsewhere);
        }
        let fetched_before = lessee.is_some() || self.delivered.contains_key(&piece);
        Judged::Free(if fetched_before { Reason::Takeover } else { Reason::Lease })
    }
}
