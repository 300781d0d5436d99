//! What is counted: bytes by way and purpose, what was lost, what crossed the WAN twice and why, which options fired.

use super::network::{Freight, Parcel, Path};
use super::{Broken, World};
use crate::fleet::HEADQUARTERS;
use protocol::digest::Blake3Root;
use protocol::piece::PieceIndex;
use protocol::time::Moment;
use std::collections::{BTreeMap, BTreeSet};

/// A piece crossed the WAN again, and nothing that went wrong explains it.
pub(super) const NO_CAUSE: &str = "none";
/// Wake-ups of one device at one moment that are no endless loop yet.
const WAKES_AT_ONCE: u32 = 50;

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub inputs: u64,
    pub refused: u64,
    pub duplicates: u64,
    pub deaths: u32,
    pub messages: u64,
    pub messages_to_headquarters: u64,
    pub message_bytes_to_headquarters: u64,
    pub down: BTreeMap<&'static str, u64>,
    pub up: BTreeMap<&'static str, u64>,
    pub lan: u64,
    pub air: u64,
    /// Bytes of pieces over a site's WAN.
    pub pieces: BTreeMap<(usize, Blake3Root), u64>,
    /// Of them, those that were lost on the way or with their holder.
    pub lost: BTreeMap<(usize, Blake3Root), u64>,
    /// Pieces that came over the WAN, and to whom last.
    fetched: BTreeMap<(usize, Blake3Root, PieceIndex), usize>,
    /// Bytes that came over the WAN although the site had them, by cause.
    again: BTreeMap<(usize, Blake3Root), BTreeMap<&'static str, u64>>,
    corrupted: BTreeSet<Blake3Root>,
    /// How often each option of the world took effect.
    pub fired: BTreeMap<&'static str, u64>,
    pub seed_restarts: u32,
    pub sleeps: u32,
    pub lies: u32,
    pub lost_writes: u32,
    wakes: BTreeMap<usize, (Moment, u32)>,
}

impl Ledger {
    pub(super) fn count_wake(&mut self, at: usize, now: Moment) -> Result<(), Broken> {
        let (moment, count) = self.wakes.entry(at).or_insert((now, 0));
        *count = if *moment == now { *count + 1 } else { 1 };
        *moment = now;
        if *count > WAKES_AT_ONCE {
            return Err(format!("device {at} wants to be woken again and again at the same moment"));
        }
        Ok(())
    }

    pub(super) fn count_message(&mut self, to: usize, freight: &Freight) {
        let (Freight::Request { bytes, .. } | Freight::Response { bytes, .. }) = freight else { return };
        self.messages += 1;
        if to == HEADQUARTERS {
            self.messages_to_headquarters += 1;
            self.message_bytes_to_headquarters += bytes.len() as u64;
        }
    }

    pub(super) fn count_bytes(&mut self, parcel: &Parcel, bytes: u64) {
        match parcel.path {
            Path::WanDown(_) => *self.down.entry(parcel.label).or_default() += bytes,
            Path::WanUp(_) => *self.up.entry(parcel.label).or_default() += bytes,
            Path::Lan(_) => self.lan += bytes,
            Path::Air(_) => self.air += bytes,
            Path::Own(_) => {}
        }
        if let (Freight::PieceBytes { root, piece, .. }, Path::WanDown(site)) = (&parcel.freight, parcel.path)
        {
            *self.pieces.entry((site, *root)).or_default() += bytes;
            if bytes == parcel.bytes {
                self.fetched.insert((site, *root, *piece), parcel.to);
            }
        }
    }

    /// An option of the world took effect.
    pub(super) fn fire(&mut self, option: &'static str) {
        *self.fired.entry(option).or_default() += 1;
    }

    /// WAN bytes of a piece did not arrive, or what they brought is gone.
    pub(super) fn lose(&mut self, site: usize, root: Blake3Root, bytes: u64) {
        *self.lost.entry((site, root)).or_default() += bytes;
    }

    /// A piece crosses the WAN although somebody of the site has it.
    pub(super) fn note_again(&mut self, site: usize, root: Blake3Root, bytes: u64, cause: &'static str) {
        *self.again.entry((site, root)).or_default().entry(cause).or_default() += bytes;
    }

    /// Bytes that came again for a cause that is known.
    pub(super) fn caused(&self, site: usize, root: Blake3Root) -> u64 {
        let causes = self.again.get(&(site, root)).into_iter().flatten();
        causes.filter(|(cause, _)| **cause != NO_CAUSE).map(|(_, bytes)| bytes).sum()
    }

    /// Bytes that came again, by cause.
    pub(super) fn duplicates_by_cause(&self) -> BTreeMap<&'static str, u64> {
        let mut all: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (cause, bytes) in self.again.values().flatten() {
            *all.entry(cause).or_default() += bytes;
        }
        all
    }

    pub(super) fn is_corrupted(&self, root: Blake3Root) -> bool {
        self.corrupted.contains(&root)
    }

    pub(super) fn note_corrupt(&mut self, root: Blake3Root) {
        self.corrupted.insert(root);
    }

    /// The pieces that came over the WAN, and to whom last.
    pub(super) fn fetched(&self, site: usize) -> Vec<(Blake3Root, PieceIndex, usize)> {
        let of_site = self.fetched.iter().filter(|((there, _, _), _)| *there == site);
        of_site.map(|((_, root, piece), at)| (*root, *piece, *at)).collect()
    }

    /// To whom a piece came over the WAN last.
    pub(super) fn came_to(&self, site: usize, root: Blake3Root, piece: PieceIndex) -> Option<usize> {
        self.fetched.get(&(site, root, piece)).copied()
    }

    /// A piece is gone from the branch.
    pub(super) fn lose_piece(&mut self, site: usize, root: Blake3Root, piece: PieceIndex, bytes: u64) {
        self.fetched.remove(&(site, root, piece));
        self.lose(site, root, bytes);
    }
}

impl World<'_> {
    /// A piece is about to cross the WAN of the asker's site: if somebody there has it already, why?
    pub(super) fn note_duplicate(&mut self, asker: usize, root: Blake3Root, piece: PieceIndex) {
        let Some(site) = self.scenario.site_of(asker) else { return };
        let holders: Vec<usize> = (1..self.devices.len())
            .filter(|at| self.scenario.site_of(*at) == Some(site))
            .filter(|at| self.devices[*at].disk.holds(root, piece) || self.is_receiving(*at, root, piece))
            .collect();
        if !holders.is_empty() {
            let cause = self.cause(asker, root, &holders);
            let length = self.length(root, piece);
            self.ledger.note_again(site, root, length, cause);
        }
    }

    fn is_receiving(&self, at: usize, root: Blake3Root, piece: PieceIndex) -> bool {
        self.parcels.values().any(|parcel| {
            let same = matches!(parcel.freight, Freight::PieceBytes { root: r, piece: p, .. } if (r, p) == (root, piece));
            parcel.to == at && parcel.from == HEADQUARTERS && same
        })
    }

    fn cause(&self, asker: usize, root: Blake3Root, holders: &[usize]) -> &'static str {
        let any = |is: &dyn Fn(usize) -> bool| holders.iter().all(|at| is(*at));
        match () {
            () if self.ledger.is_corrupted(root) => "a wrong piece",
            () if !self.ledger.corrupted.is_empty() => "a neighbour that sent wrong bytes is not asked",
            () if holders == [asker] => "the asker lost track of it",
            () if any(&|at| self.devices[at].process.is_none()) => "its holder is down",
            () if any(&|at| self.expelled.contains(&at) || self.expelled.contains(&asker)) => "expelled",
            () if any(&|at| self.devices[at].is_asleep(self.now)) => "its holder sleeps",
            () if any(&|at| self.is_cut(asker, at)) => "partition",
            () if any(&|at| self.scenario.stragglers.contains_key(&at)) => "its holder is slow",
            () if self.firewalled.contains(&asker) || any(&|at| self.firewalled.contains(&at)) => {
                "one-way reachability"
            }
            () if self.ledger.lies > 0 => "a lying peer",
            () if self.ledger.seed_restarts > 0 => "the seed started again",
            () if self.ledger.deaths > 0 || self.ledger.sleeps > 0 => "somebody was away",
            () if self.ledger.fired.contains_key("partition inside a site")
                || self.ledger.fired.contains_key("partition from headquarters") =>
            {
                "partition before"
            }
            () if (1..self.devices.len()).any(|at| self.devices[at].clock_off != 0) => "a wrong clock",
            () if self.ledger.fired.contains_key("disk refuses") => "a full disk",
            () => NO_CAUSE,
        }
    }
}
