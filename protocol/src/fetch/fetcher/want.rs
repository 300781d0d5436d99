//! A content that is wanted: what of it is here, on its way, or open, and how rare each open piece is among the neighbours.

use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::identifier::{DeviceId, ManifestDigest};
use crate::limits;
use crate::manifest::Content;
use crate::piece::{self, PieceIndex, PieceTree};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a content goes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// Whether the deadline of its patch is near (decision 0060).
    pub due: Due,
    /// How urgently it is wanted at any time.
    pub urgency: Urgency,
}

impl From<Urgency> for Priority {
    /// Of what has no deadline, or one that is far.
    fn from(urgency: Urgency) -> Priority {
        Priority { due: Due::Later, urgency }
    }
}

impl Priority {
    /// The rank of a content of so many bytes.
    pub fn rank(self, size: u64) -> Rank {
        match (self.urgency, self.due) {
            (Urgency::Evidence, _) => Rank::Evidence,
            (Urgency::Critical, _) if size <= limits::SMALL_BYTES => Rank::SmallCritical,
            (_, Due::Now) => Rank::Due,
            (Urgency::Critical, Due::Later) => Rank::Critical,
            (Urgency::Normal, Due::Later) => Rank::Normal,
        }
    }
}

/// What goes first. Within one rank small ones come first, so that none waits behind a large one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Evidence: it opens the gate for what it proves.
    Evidence,
    /// Critical, and small: whatever waits behind it does not wait long.
    SmallCritical,
    /// Due.
    Due,
    /// Critical, and not due.
    Critical,
    /// Neither.
    Normal,
}

/// Whether a content is due, by the deadline of its patch and the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The deadline has passed, or passes within a day.
    Now,
    /// It is further off, or there is none.
    Later,
}

/// How urgently a content is wanted, whatever the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Evidence.
    Evidence,
    /// An artifact of a patch that the vendor calls critical.
    Critical,
    /// Any other artifact.
    Normal,
}

/// A content that the node wants, and how far it is.
#[derive(Debug)]
pub struct Want {
    /// The content.
    pub content: Content,
    /// The approved manifest for which it is wanted.
    pub manifest: ManifestDigest,
    /// What it goes before. The WAN bytes of evidence carry that reason.
    pub priority: Priority,
    pub(super) tree: Option<Arc<PieceTree>>,
    have: PieceSet,
    /// Pieces on their way, with every effect that brings them.
    active: BTreeMap<PieceIndex, Vec<EffectId>>,
    /// Open pieces, the rarest first; equally rare ones in an order of this device's own, so that neighbours differ.
    open: BTreeSet<(u32, u32, PieceIndex)>,
    /// The same pieces as a set.
    lacking: PieceSet,
    /// How many of them at least one neighbour says it holds.
    offered: usize,
    /// How many neighbours say that they hold each piece.
    holders: Vec<u32>,
    salt: u32,
}

impl Want {
    /// A want of which `have` is here; nobody is known to hold any of it.
    pub(super) fn new(
        me: DeviceId,
        content: Content,
        manifest: ManifestDigest,
        priority: Priority,
        have: PieceSet,
    ) -> Want {
        let count = piece::count(content.size);
        let word = |bytes: &[u8; 32]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let mut want = Want {
            content,
            manifest,
            priority,
            tree: PieceTree::prove(content.root, content.size, Vec::new()).ok().map(Arc::new),
            have,
            active: BTreeMap::new(),
            open: BTreeSet::new(),
            lacking: PieceSet::new(),
            offered: 0,
            holders: vec![0; count as usize],
            salt: word(me.as_bytes()) ^ word(content.root.as_bytes()),
        };
        let missing: Vec<PieceIndex> = want.have.missing(count).collect();
        missing.into_iter().for_each(|piece| want.open_up(piece));
        want
    }

    /// Its place among all wants.
    pub(super) fn place_in_order(&self) -> (Rank, u64, Blake3Root) {
        (self.priority.rank(self.content.size), self.content.size, self.content.root)
    }

    /// Pieces verified and stored.
    pub fn have(&self) -> &PieceSet {
        &self.have
    }

    pub(super) fn pieces(&self) -> u32 {
        piece::count(self.content.size)
    }

    /// Bytes of one piece.
    pub(super) fn length(&self, piece: PieceIndex) -> u64 {
        let from = u64::from(piece.0) * limits::PIECE_BYTES;
        self.content.size.saturating_sub(from).min(limits::PIECE_BYTES)
    }

    /// Open pieces that at least one neighbour says it holds, the rarest first.
    pub(super) fn offered(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.open.range((1, 0, PieceIndex(0))..).map(|(_, _, piece)| *piece)
    }

    /// All open pieces.
    pub(super) fn open(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.open.iter().map(|(_, _, piece)| *piece)
    }

    /// The same as a set.
    pub(super) fn lacking(&self) -> &PieceSet {
        &self.lacking
    }

    /// How many open pieces at least one neighbour says it holds.
    pub(super) fn count_offered(&self) -> usize {
        self.offered
    }

    pub(super) fn is_open(&self, piece: PieceIndex) -> bool {
        piece.0 < self.pieces() && !self.have.contains(piece) && !self.active.contains_key(&piece)
    }

    /// Pieces on their way, with the effects that bring them.
    pub(super) fn active(&self) -> impl Iterator<Item = (PieceIndex, &[EffectId])> {
        self.active.iter().map(|(piece, effects)| (*piece, effects.as_slice()))
    }

    /// `piece` is on its way, once more where it was already.
    pub(super) fn start(&mut self, piece: PieceIndex, effect: EffectId) {
        self.close(piece);
        self.active.entry(piece).or_default().push(effect);
    }

    /// `effect` brings `piece` no more: it is here now, or it did not come.
    pub(super) fn end(&mut self, piece: PieceIndex, effect: EffectId, came: bool) {
        if came {
            self.have.insert(piece);
            self.close(piece);
        }
        if let Some(effects) = self.active.get_mut(&piece) {
            effects.retain(|active| *active != effect);
            if effects.is_empty() {
                self.active.remove(&piece);
            }
        }
        if self.is_open(piece) {
            self.open_up(piece);
        }
    }

    fn open_up(&mut self, piece: PieceIndex) {
        let place = self.place(piece);
        if self.open.insert(place) {
            self.lacking.insert(piece);
            self.offered += usize::from(place.0 > 0);
        }
    }

    fn close(&mut self, piece: PieceIndex) {
        // The set answers faster, and a piece that came was seldom open.
        if self.lacking.contains(piece) {
            let place = self.place(piece);
            self.open.remove(&place);
            self.lacking.remove(piece);
            self.offered -= usize::from(place.0 > 0);
        }
    }

    /// One more neighbour says that it holds a piece; whether that is open.
    pub(super) fn appear(&mut self, piece: PieceIndex) -> bool {
        self.count(piece, |holders| holders.saturating_add(1))
    }

    /// One neighbour fewer holds a piece.
    pub(super) fn vanish(&mut self, piece: PieceIndex) {
        self.count(piece, |holders| holders.saturating_sub(1));
    }

    fn count(&mut self, piece: PieceIndex, change: impl Fn(u32) -> u32) -> bool {
        let open = self.lacking.contains(piece);
        if open {
            self.close(piece);
        }
        if let Some(holders) = self.holders.get_mut(piece.0 as usize) {
            *holders = change(*holders);
        }
        if open {
            self.open_up(piece);
        }
        open
    }

    /// Whether what is kept twice says the same.
    pub(super) fn agrees(&self) -> bool {
        self.lacking == self.open().collect() && self.offered == self.offered().count()
    }

    pub(super) fn holders(&self, piece: PieceIndex) -> u32 {
        self.holders.get(piece.0 as usize).copied().unwrap_or(0)
    }

    fn place(&self, piece: PieceIndex) -> (u32, u32, PieceIndex) {
        // Multiplication by an odd number mixes without meeting itself (Knuth, The Art of Computer Programming 6.4).
        let order = (piece.0 ^ self.salt).wrapping_mul(0x9e37_79b1);
        (self.holders(piece), order, piece)
    }
}
