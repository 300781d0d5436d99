//! Pieces of an artifact: 1 MiB subtrees of its ordinary BLAKE3 hash tree, each verified on its own (X2).

use crate::digest::Blake3Root;
use crate::limits::{ARTIFACT_BYTES, PIECE_BYTES};
use blake3::hazmat::{self, HasherExt as _};
use serde::{Deserialize, Serialize};

/// Which piece of an artifact, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PieceIndex(pub u32);

/// Number of pieces of an artifact of `size` bytes; an empty artifact has one empty piece.
pub fn count(size: u64) -> u32 {
    u32::try_from(size.div_ceil(PIECE_BYTES).max(1)).unwrap_or(u32::MAX)
}

/// The piece list of one artifact: the chaining value of every piece, proven against the BLAKE3 root when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceTree {
    root: Blake3Root,
    size: u64,
    chaining_values: Vec<[u8; 32]>,
}

/// A piece list that is not the one of this artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotThisTree {
    /// Another number of values than the artifact has pieces.
    #[error("piece list has {found} entries, an artifact of this size has {expected}")]
    Length {
        /// Entries in the list.
        found: usize,
        /// Pieces of the artifact.
        expected: u32,
    },
    /// The values do not hash to the root.
    #[error("piece list does not hash to the artifact's root")]
    Root,
    /// The artifact is larger than any that a manifest may name.
    #[error("artifact of {0} bytes is larger than the limit")]
    Size(u64),
}

/// Bytes that are not the piece they should be: the fault of exactly the peer that sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPiece {
    /// No such piece in this artifact.
    #[error("piece {} does not exist", .0.0)]
    Index(PieceIndex),
    /// Not the length of this piece.
    #[error("piece has {found} bytes instead of {expected}")]
    Length {
        /// Bytes that arrived.
        found: usize,
        /// Bytes of this piece.
        expected: usize,
    },
    /// The bytes do not hash to the piece's chaining value.
    #[error("piece does not match the artifact's root")]
    Hash,
}

/// One piece whose bytes were checked; made by [`PieceTree::check`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedPiece {
    root: Blake3Root,
    index: PieceIndex,
    bytes: Vec<u8>,
}

impl CheckedPiece {
    /// The artifact that the piece belongs to.
    pub fn root(&self) -> Blake3Root {
        self.root
    }

    /// Which piece it is.
    pub fn index(&self) -> PieceIndex {
        self.index
    }

    /// Offset of the piece in the artifact, in bytes.
    pub fn offset(&self) -> u64 {
        u64::from(self.index.0) * PIECE_BYTES
    }

    /// The checked bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes alone: they count as checked no more.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl PieceTree {
    /// Proves a list of chaining values, as a peer sends it, against `root`. For an artifact of one piece the list is
    /// the root itself and may be left empty.
    ///
    /// # Errors
    /// [`NotThisTree`]; the list is then the fault of whoever sent it.
    pub fn prove(root: Blake3Root, size: u64, values: Vec<[u8; 32]>) -> Result<PieceTree, NotThisTree> {
        if size > ARTIFACT_BYTES {
            return Err(NotThisTree::Size(size));
        }
        let expected = count(size);
        if expected == 1 && values.is_empty() {
            return Ok(PieceTree { root, size, chaining_values: vec![*root.as_bytes()] });
        }
        if values.len() != expected as usize {
            return Err(NotThisTree::Length { found: values.len(), expected });
        }
        let found = if expected == 1 { values[0] } else { merge_root(&values, size) };
        if found != *root.as_bytes() {
            return Err(NotThisTree::Root);
        }
        Ok(PieceTree { root, size, chaining_values: values })
    }

    /// The BLAKE3 root.
    pub fn root(&self) -> Blake3Root {
        self.root
    }

    /// Size of the artifact in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of pieces.
    pub fn pieces(&self) -> u32 {
        count(self.size)
    }

    /// The chaining values in order, 32 bytes for each piece, as they go to a peer.
    pub fn values(&self) -> &[[u8; 32]] {
        &self.chaining_values
    }

    /// Offset and length in bytes of one piece, or `None` when there is no such piece.
    pub fn extent(&self, index: PieceIndex) -> Option<(u64, usize)> {
        extent(self.size, index)
    }

    /// Checks bytes from anywhere against the tree and, when they are right, makes them a checked piece.
    ///
    /// # Errors
    /// [`BadPiece`]; whoever sent the bytes is to blame.
    pub fn check(&self, index: PieceIndex, bytes: Vec<u8>) -> Result<CheckedPiece, BadPiece> {
        let (offset, expected) = self.extent(index).ok_or(BadPiece::Index(index))?;
        if bytes.len() != expected {
            return Err(BadPiece::Length { found: bytes.len(), expected });
        }
        let found =
            if self.pieces() == 1 { *blake3::hash(&bytes).as_bytes() } else { subtree(offset, &bytes) };
        if found != self.chaining_values[index.0 as usize] {
            return Err(BadPiece::Hash);
        }
        Ok(CheckedPiece { root: self.root, index, bytes })
    }
}

/// Offset and length in bytes of piece `index` of an artifact of `size` bytes, or `None` when there is no such piece.
pub fn extent(size: u64, index: PieceIndex) -> Option<(u64, usize)> {
    if index.0 >= count(size) {
        return None;
    }
    let offset = u64::from(index.0) * PIECE_BYTES;
    let length = (size - offset).min(PIECE_BYTES);
    Some((offset, usize::try_from(length).expect("a piece is at most 1 MiB")))
}

/// Builds the tree of a file while its bytes stream past in order.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    /// The beginning of a piece that is not whole yet.
    buffer: Vec<u8>,
    values: Vec<[u8; 32]>,
    size: u64,
}

impl TreeBuilder {
    /// Takes the next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while self.buffer.len() + bytes.len() > PIECE_BYTES as usize {
            // Whole pieces are hashed where they lie.
            let (now, later) = bytes.split_at(PIECE_BYTES as usize - self.buffer.len());
            if self.buffer.is_empty() {
                self.finish_piece(now);
            } else {
                self.buffer.extend_from_slice(now);
                let piece = std::mem::take(&mut self.buffer);
                self.finish_piece(&piece);
            }
            bytes = later;
        }
        // The last piece stays until it is known to be the last: the only one is hashed in another way.
        self.buffer.extend_from_slice(bytes);
    }

    fn finish_piece(&mut self, piece: &[u8]) {
        self.values.push(subtree(self.size, piece));
        self.size += piece.len() as u64;
    }

    /// Ends the file and returns its tree.
    pub fn finish(mut self) -> PieceTree {
        if self.values.is_empty() {
            let root = Blake3Root::of(&self.buffer);
            let size = self.buffer.len() as u64;
            return PieceTree { root, size, chaining_values: vec![*root.as_bytes()] };
        }
        let last = std::mem::take(&mut self.buffer);
        self.finish_piece(&last);
        let root = Blake3Root::from_bytes(merge_root(&self.values, self.size));
        PieceTree { root, size: self.size, chaining_values: self.values }
    }
}

fn subtree(offset: u64, bytes: &[u8]) -> [u8; 32] {
    blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
}

/// Root of the whole tree over the values of its pieces, split as BLAKE3 splits (section 2.1 of its paper).
fn merge_root(values: &[[u8; 32]], size: u64) -> [u8; 32] {
    let (left, right) = merge_children(values, size);
    *hazmat::merge_subtrees_root(&left, &right, hazmat::Mode::Hash).as_bytes()
}

fn merge(values: &[[u8; 32]], size: u64) -> [u8; 32] {
    if let [single] = values {
        return *single;
    }
    let (left, right) = merge_children(values, size);
    hazmat::merge_subtrees_non_root(&left, &right, hazmat::Mode::Hash)
}

fn merge_children(values: &[[u8; 32]], size: u64) -> ([u8; 32], [u8; 32]) {
    let left_size = hazmat::left_subtree_len(size);
    let at = usize::try_from(left_size / PIECE_BYTES).expect("bounded by the largest artifact");
    (merge(&values[..at], left_size), merge(&values[at..], size - left_size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(size: usize, seed: u8) -> Vec<u8> {
        (0..size).map(|at| (at as u64).wrapping_mul(2_654_435_761).to_le_bytes()[2] ^ seed).collect()
    }

    fn tree_of(bytes: &[u8]) -> PieceTree {
        let mut builder = TreeBuilder::default();
        for part in bytes.chunks(70_001) {
            builder.update(part);
        }
        builder.finish()
    }

    // proves X2
    #[test]
    fn pieces_prove_themselves_against_the_ordinary_hash() {
        let mib = PIECE_BYTES as usize;
        for size in [0, 1, 1024, mib - 1, mib, mib + 1, 2 * mib, 3 * mib + 17, 5 * mib, 8 * mib + 1] {
            let bytes = content(size, 3);
            let tree = tree_of(&bytes);
            assert_eq!(tree.root(), Blake3Root::of(&bytes), "{size}");
            let proven = PieceTree::prove(tree.root(), size as u64, tree.values().to_vec());
            assert_eq!(proven.as_ref(), Ok(&tree), "{size}");
            for index in (0..tree.pieces()).map(PieceIndex) {
                let (offset, length) = tree.extent(index).expect("exists");
                let piece = bytes[offset as usize..offset as usize + length].to_vec();
                assert!(tree.check(index, piece.clone()).is_ok());
                if length > 0 {
                    let mut flipped = piece;
                    flipped[length / 2] ^= 1;
                    assert_eq!(tree.check(index, flipped), Err(BadPiece::Hash));
                }
            }
        }
    }

    #[test]
    fn wrong_lists_are_refused() {
        let bytes = content(3 * PIECE_BYTES as usize, 1);
        let tree = tree_of(&bytes);
        let mut values = tree.values().to_vec();
        values[1][0] ^= 1;
        assert_eq!(PieceTree::prove(tree.root(), tree.size(), values), Err(NotThisTree::Root));
        let short = tree.values()[..2].to_vec();
        assert!(matches!(PieceTree::prove(tree.root(), tree.size(), short), Err(NotThisTree::Length { .. })));
        assert!(matches!(PieceTree::prove(tree.root(), u64::MAX, Vec::new()), Err(NotThisTree::Size(_))));
        assert_eq!(tree.check(PieceIndex(3), Vec::new()), Err(BadPiece::Index(PieceIndex(3))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_size_proves(size in 0usize..5_000_000) {
            let bytes = content(size, 9);
            let tree = tree_of(&bytes);
            prop_assert_eq!(tree.root(), Blake3Root::of(&bytes));
            prop_assert_eq!(PieceTree::prove(tree.root(), size as u64, tree.values().to_vec()), Ok(tree));
        }
    }
}
