//! The set of pieces of one artifact that are here.

use protocol::piece::PieceIndex;

/// Pieces of one artifact, one bit for each; a piece beyond the artifact's size is never in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceSet {
    pieces: u32,
    bits: Vec<u8>,
}

impl PieceSet {
    /// No piece of an artifact that has `pieces` of them.
    pub fn none(pieces: u32) -> PieceSet {
        PieceSet { pieces, bits: vec![0; pieces.div_ceil(8) as usize] }
    }

    /// Every piece of an artifact that has `pieces` of them.
    pub fn all(pieces: u32) -> PieceSet {
        let mut set = PieceSet::none(pieces);
        (0..pieces).for_each(|index| set.insert(PieceIndex(index)));
        set
    }

    /// Reads the form of [`PieceSet::bits`]; `None` when it is not of an artifact with `pieces` pieces.
    pub fn from_bits(pieces: u32, bits: Vec<u8>) -> Option<PieceSet> {
        let in_last = pieces % 8;
        let clean = in_last == 0 || bits.last().is_some_and(|last| last >> in_last == 0);
        (bits.len() == pieces.div_ceil(8) as usize && clean).then_some(PieceSet { pieces, bits })
    }

    /// The set as bytes: piece `i` is bit `i % 8` (from the lowest) of byte `i / 8`.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// Number of pieces that the artifact has.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Number of pieces in the set.
    pub fn count(&self) -> u32 {
        self.bits.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Whether every piece is in the set.
    pub fn is_complete(&self) -> bool {
        self.count() == self.pieces
    }

    /// Whether the piece is in the set.
    pub fn contains(&self, index: PieceIndex) -> bool {
        let byte = self.bits.get(index.0 as usize / 8);
        byte.is_some_and(|byte| byte & (1 << (index.0 % 8)) != 0)
    }

    /// Puts a piece into the set; one that the artifact does not have is left out.
    pub fn insert(&mut self, index: PieceIndex) {
        if index.0 < self.pieces {
            self.bits[index.0 as usize / 8] |= 1 << (index.0 % 8);
        }
    }

    /// Takes a piece out of the set.
    pub fn remove(&mut self, index: PieceIndex) {
        if index.0 < self.pieces {
            self.bits[index.0 as usize / 8] &= !(1 << (index.0 % 8));
        }
    }

    /// Puts every piece of `other`, a set of the same artifact, into this one.
    pub fn extend(&mut self, other: &PieceSet) {
        other.iter().for_each(|index| self.insert(index));
    }

    /// The pieces in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        (0..self.pieces).map(PieceIndex).filter(|index| self.contains(*index))
    }

    /// The pieces that are not in the set, in order.
    pub fn missing(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        (0..self.pieces).map(PieceIndex).filter(|index| !self.contains(*index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_the_set_it_says(pieces in 1u32..70, inserted: Vec<u8>, removed: Vec<u8>) {
            let mut set = PieceSet::none(pieces);
            let mut model = BTreeSet::new();
            for index in inserted.into_iter().map(u32::from) {
                set.insert(PieceIndex(index));
                if index < pieces { model.insert(PieceIndex(index)); }
            }
            for index in removed.into_iter().map(u32::from) {
                set.remove(PieceIndex(index));
                model.remove(&PieceIndex(index));
            }
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), model.clone());
            prop_assert_eq!(set.missing().count() + model.len(), pieces as usize);
            prop_assert_eq!(set.is_complete(), model.len() == pieces as usize);
            prop_assert_eq!(PieceSet::from_bits(pieces, set.bits().to_vec()), Some(set));
        }

        #[test]
        fn wrong_bits_are_refused(pieces in 0u32..40, bits: Vec<u8>) {
            if let Some(set) = PieceSet::from_bits(pieces, bits.clone()) {
                prop_assert_eq!(set.bits(), &bits[..]);
                prop_assert!(set.count() <= pieces);
                prop_assert!(bits.len() == pieces.div_ceil(8) as usize);
            }
        }
    }

    #[test]
    fn a_bit_beyond_the_last_piece_is_refused() {
        assert!(PieceSet::from_bits(3, vec![0b0000_0111]).is_some_and(|set| set.is_complete()));
        assert_eq!(PieceSet::from_bits(3, vec![0b0000_1111]), None);
        assert_eq!(PieceSet::all(9).bits(), [255, 1]);
    }
}
