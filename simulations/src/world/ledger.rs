//! What is counted: bytes by way and purpose, what was lost, what crossed the WAN twice and why, which options fired.

use super::Broken;
use super::parcel::{Freight, Parcel, Path};
use crate::fleet::HEADQUARTERS;
use protocol::digest::Blake3Root;
use protocol::piece::PieceIndex;
use protocol::time::Moment;
use std::collections::BTreeMap;

/// A piece crossed the WAN again, and nothing that went wrong explains it.
pub(super) const NO_CAUSE: &str = "none";
/// Two devices read a piece at a mirror before they heard of each other, or one while the other has it from a seed that came back.
pub(super) const AT_MIRROR: &str = "two read it at a mirror, or a seed came back";
/// So much may be on its way from a mirror to each reader.
const READ_AHEAD: u64 = 2 << 20;
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
    /// Pieces that came over the WAN, to whom last and when.
    fetched: BTreeMap<(usize, Blake3Root, PieceIndex), (usize, Moment)>,
    /// When a piece last came from a mirror.
    mirrored: BTreeMap<(usize, Blake3Root, PieceIndex), Moment>,
    /// When a device stored a piece.
    stored: BTreeMap<(usize, Blake3Root, PieceIndex), Moment>,
    /// Bytes that came over the WAN although the site had them, by cause.
    again: BTreeMap<(usize, Blake3Root), BTreeMap<&'static str, u64>>,
    /// How often each option of the world took effect.
    pub fired: BTreeMap<&'static str, u64>,
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

    pub(super) fn count_bytes(&mut self, parcel: &Parcel, bytes: u64, now: Moment) {
        match parcel.path {
            Path::WanDown(_) => *self.down.entry(parcel.label).or_default() += bytes,
            Path::WanUp(_) => *self.up.entry(parcel.label).or_default() += bytes,
            Path::Lan(_) => self.lan += bytes,
            Path::Air(_) => self.air += bytes,
            Path::Own(_) => {}
        }
        if let (Some((root, piece)), Path::WanDown(site)) = (parcel.freight.piece(), parcel.path) {
            *self.pieces.entry((site, root)).or_default() += bytes;
            if bytes == parcel.bytes {
                self.fetched.insert((site, root, piece), (parcel.to, now));
                if matches!(parcel.freight, Freight::MirrorBytes { .. }) {
                    self.mirrored.insert((site, root, piece), now);
                }
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

    /// Bytes that came again for a cause that is known, to a site of so many devices.
    pub(super) fn caused(&self, site: usize, devices: usize, root: Blake3Root) -> u64 {
        let causes = self.again.get(&(site, root)).into_iter().flatten();
        let excused = |(cause, bytes): (&&str, &u64)| match *cause {
            NO_CAUSE => 0,
            AT_MIRROR => (*bytes).min(READ_AHEAD * devices as u64),
            _ => *bytes,
        };
        causes.map(excused).sum()
    }

    /// Bytes that came again, by cause.
    pub(super) fn duplicates_by_cause(&self) -> BTreeMap<&'static str, u64> {
        let mut all: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (cause, bytes) in self.again.values().flatten() {
            *all.entry(cause).or_default() += bytes;
        }
        all
    }

    /// The pieces that came over the WAN, and to whom last.
    pub(super) fn fetched(&self, site: usize) -> Vec<(Blake3Root, PieceIndex, usize)> {
        let of_site = self.fetched.iter().filter(|((there, _, _), _)| *there == site);
        of_site.map(|((_, root, piece), (at, _))| (*root, *piece, *at)).collect()
    }

    /// To whom a piece came over the WAN last, and when.
    pub(super) fn came_to(
        &self,
        site: usize,
        root: Blake3Root,
        piece: PieceIndex,
    ) -> Option<(usize, Moment)> {
        self.fetched.get(&(site, root, piece)).copied()
    }

    /// When a piece last came to a site from a mirror.
    pub(super) fn mirrored(&self, site: usize, root: Blake3Root, piece: PieceIndex) -> Option<Moment> {
        self.mirrored.get(&(site, root, piece)).copied()
    }

    pub(super) fn note_stored(&mut self, at: usize, root: Blake3Root, piece: PieceIndex, now: Moment) {
        self.stored.insert((at, root, piece), now);
    }

    /// When a device stored a piece that it has.
    pub(super) fn stored(&self, at: usize, root: Blake3Root, piece: PieceIndex) -> Option<Moment> {
        self.stored.get(&(at, root, piece)).copied()
    }

    /// A piece is gone from the branch.
    pub(super) fn lose_piece(&mut self, site: usize, root: Blake3Root, piece: PieceIndex, bytes: u64) {
        self.fetched.remove(&(site, root, piece));
        self.lose(site, root, bytes);
    }
}
