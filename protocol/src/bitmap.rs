//! Which pieces of an artifact somebody has: a fact set that only grows, merged by union.

use crate::piece::PieceIndex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Words that lie in the set itself: most artifacts have 512 pieces at most, and each word of a neighbour is compared with
/// what others hold, which would otherwise have to be fetched from elsewhere in memory.
const FEW_WORDS: usize = 8;
/// Words of the largest set: 64 GiB in pieces of 1 MiB.
const MOST_WORDS: usize = 1_024;

/// A set of piece indices, one bit each. Bits past the artifact's end are the reader's to ignore: see [`PieceSet::clip`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceSet {
    few: [u64; FEW_WORDS],
    /// The words after those; the last one is not zero.
    more: Vec<u64>,
}

impl PieceSet {
    /// The empty set.
    pub const fn new() -> PieceSet {
        PieceSet { few: [0; FEW_WORDS], more: Vec::new() }
    }

    /// All pieces of an artifact with `count` pieces.
    pub fn full(count: u32) -> PieceSet {
        let mut set = PieceSet::new();
        for index in 0..count {
            set.insert(PieceIndex(index));
        }
        set
    }

    /// Adds a piece; returns whether it is new. A piece that no artifact can have is not added.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        let (word, bit) = place(piece);
        if word >= MOST_WORDS || self.contains(piece) {
            return false;
        }
        match word.checked_sub(FEW_WORDS) {
            None => self.few[word] |= bit,
            Some(word) => {
                self.reach(word + 1);
                self.more[word] |= bit;
            }
        }
        true
    }

    /// Takes a piece out, because its bytes were lost or found wrong.
    pub fn remove(&mut self, piece: PieceIndex) {
        let (word, bit) = place(piece);
        if let Some(bits) = self.all_mut().nth(word) {
            *bits &= !bit;
        }
        self.trim();
    }

    /// Whether a piece is in the set.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        let (word, bit) = place(piece);
        let bits = self.few.get(word).or_else(|| self.more.get(word - FEW_WORDS));
        bits.is_some_and(|bits| bits & bit != 0)
    }

    /// Number of pieces in the set.
    pub fn len(&self) -> u32 {
        self.all().map(|bits| bits.count_ones()).sum()
    }

    /// Words of 64 pieces up to the last piece in the set.
    pub fn words(&self) -> usize {
        if self.more.is_empty() {
            self.few.iter().rposition(|&bits| bits != 0).map_or(0, |last| last + 1)
        } else {
            FEW_WORDS + self.more.len()
        }
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.all().all(|&bits| bits == 0)
    }

    /// Adds all of `other`; returns whether anything was new.
    pub fn merge(&mut self, other: &PieceSet) -> bool {
        let mut grew = false;
        self.absorb(other, |_| grew = true);
        grew
    }

    /// Adds all of `other` and shows each piece that is new.
    pub fn absorb(&mut self, other: &PieceSet, mut each: impl FnMut(PieceIndex)) {
        self.reach(other.more.len());
        for (word, (mine, theirs)) in self.all_mut().zip(other.all()).enumerate() {
            let new = *theirs & !*mine;
            *mine |= new;
            bits(word, new).for_each(&mut each);
        }
    }

    /// Takes out all of `other`.
    pub fn subtract(&mut self, other: &PieceSet) {
        for (mine, theirs) in self.all_mut().zip(other.all()) {
            *mine &= !theirs;
        }
        self.trim();
    }

    /// Whether any piece is in both sets.
    pub fn meets(&self, other: &PieceSet) -> bool {
        self.beside(other).any(|(mine, theirs)| mine & theirs != 0)
    }

    /// The pieces that are in this set and not in `other`.
    #[must_use]
    pub fn without(&self, other: &PieceSet) -> PieceSet {
        let mut rest = self.clone();
        rest.subtract(other);
        rest
    }

    /// Whether any piece is in this set and not in `other`.
    pub fn has_beyond(&self, other: &PieceSet) -> bool {
        self.beside(other).any(|(mine, theirs)| mine & !theirs != 0)
    }

    /// Takes out every piece that an artifact with `count` pieces does not have, so that no peer can claim more.
    pub fn clip(&mut self, count: u32) {
        let beyond: Vec<PieceIndex> = self.iter().filter(|piece| piece.0 >= count).collect();
        for piece in beyond {
            self.remove(piece);
        }
    }

    /// The pieces in rising order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.all().enumerate().flat_map(|(word, &held)| bits(word, held))
    }

    /// The pieces of an artifact with `count` pieces that are not in the set, in rising order.
    pub fn missing(&self, count: u32) -> impl Iterator<Item = PieceIndex> + '_ {
        (0..count).map(PieceIndex).filter(|&piece| !self.contains(piece))
    }

    fn all(&self) -> impl Iterator<Item = &u64> {
        self.few.iter().chain(&self.more)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        self.few.iter_mut().chain(&mut self.more)
    }

    /// Each word, and the same one of `other`.
    fn beside(&self, other: &PieceSet) -> impl Iterator<Item = (u64, u64)> {
        let more = other.more.iter().copied().chain(std::iter::repeat(0));
        self.few.into_iter().zip(other.few).chain(self.more.iter().copied().zip(more))
    }

    /// Makes room for so many words after the few.
    fn reach(&mut self, more: usize) {
        if self.more.len() < more {
            self.more.resize(more, 0);
        }
    }

    fn trim(&mut self) {
        while self.more.last() == Some(&0) {
            self.more.pop();
        }
    }
}

/// The pieces of one word, in rising order.
fn bits(word: usize, mut left: u64) -> impl Iterator<Item = PieceIndex> {
    std::iter::from_fn(move || {
        let bit = (left != 0).then(|| left.trailing_zeros())?;
        left &= left - 1;
        Some(PieceIndex(word as u32 * 64 + bit))
    })
}

fn place(piece: PieceIndex) -> (usize, u64) {
    ((piece.0 / 64) as usize, 1 << (piece.0 % 64))
}

impl FromIterator<PieceIndex> for PieceSet {
    fn from_iter<I: IntoIterator<Item = PieceIndex>>(pieces: I) -> PieceSet {
        let mut set = PieceSet::new();
        for piece in pieces {
            set.insert(piece);
        }
        set
    }
}

/// What is sent and stored: the words up to the last piece.
#[derive(Serialize, Deserialize)]
struct Raw {
    words: Vec<u64>,
}

impl Serialize for PieceSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Raw { words: self.all().copied().take(self.words()).collect() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PieceSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PieceSet, D::Error> {
        let Raw { words } = Raw::deserialize(deserializer)?;
        if words.len() > MOST_WORDS {
            return Err(serde::de::Error::invalid_length(words.len(), &"at most 1024 words of pieces"));
        }
        let mut set = PieceSet::new();
        set.reach(words.len().saturating_sub(FEW_WORDS));
        set.all_mut().zip(words).for_each(|(mine, word)| *mine = word);
        set.trim();
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(pieces: &BTreeSet<u32>) -> PieceSet {
        pieces.iter().map(|&piece| PieceIndex(piece)).collect()
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(a: BTreeSet<u16>, b: BTreeSet<u16>, count in 0u32..70_000) {
            let (a, b): (BTreeSet<u32>, BTreeSet<u32>) = (a.into_iter().map(u32::from).collect(), b.into_iter().map(u32::from).collect());
            let mut union = set(&a);
            prop_assert_eq!(union.merge(&set(&b)), !b.is_subset(&a));
            prop_assert_eq!(&union, &set(&a.union(&b).copied().collect()));
            prop_assert!(!union.clone().merge(&set(&a)));
            let (mut absorbed, mut new) = (set(&a), PieceSet::new());
            absorbed.absorb(&set(&b), |piece| assert!(new.insert(piece), "shown once"));
            prop_assert_eq!((&absorbed, new), (&union, set(&b).without(&set(&a))));
            absorbed.subtract(&set(&a));
            prop_assert_eq!(absorbed, set(&b).without(&set(&a)));
            prop_assert_eq!(set(&a).meets(&set(&b)), !a.is_disjoint(&b));
            prop_assert_eq!(set(&a).iter().map(|piece| piece.0).collect::<Vec<u32>>(), a.iter().copied().collect::<Vec<u32>>());
            let mut clipped = set(&a);
            clipped.clip(count);
            prop_assert_eq!(clipped, set(&a.iter().copied().filter(|&piece| piece < count).collect()));
            prop_assert_eq!(union.len() as usize, a.union(&b).count());
            prop_assert_eq!(codec::decode::<PieceSet, 100_000>(&codec::encode(&union)), Ok(union));
        }
    }

    #[test]
    fn a_claim_too_large_is_refused() {
        let mut set = PieceSet::new();
        assert!(!set.insert(PieceIndex(u32::MAX)));
        assert!(codec::decode::<PieceSet, 100_000>(&codec::encode(&vec![1u64; MOST_WORDS + 1])).is_err());
        assert_eq!(PieceSet::full(65).missing(67).collect::<Vec<_>>(), [PieceIndex(65), PieceIndex(66)]);
    }
}
