//! The full check: SHA-256 over the whole content, and whether the disk still holds what was verified (X2).
//!
//! Every piece was proven against the BLAKE3 root before it was written, so that SHA-256 alone says whether the disk holds
//! all of it. Only where it does not is BLAKE3 asked once more, for the pieces that changed.

use super::{CheckError, ContentStore, Error, Record};
use crate::disk;
use protocol::digest::{Blake3Root, Sha256};
use protocol::limits::PIECE_BYTES;
use protocol::piece::{PieceIndex, PieceTree, TreeBuilder};
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Bytes that are read and hashed at a time: few enough to stay in a processor's own cache in between.
const CHUNK_BYTES: usize = 128 << 10;

impl ContentStore {
    /// Reads the whole content from the disk and compares it with `sha256`, as the manifest names it, and where it differs
    /// with its root. Afterwards [`ContentStore::open_complete`] opens it. Made again at any time, it notices changes on the disk.
    ///
    /// # Errors
    /// [`CheckError::Digest`] is an incident; [`CheckError::Changed`] is this disk's fault and mends itself by fetching;
    /// [`CheckError::Content`] when not all pieces are here or the disk fails.
    pub fn full_check(&self, root: Blake3Root, sha256: Sha256) -> Result<(), CheckError> {
        self.sync(root)?;
        let (tree, missing, generation) = self.entry(root, |entry| {
            (entry.tree.clone(), entry.tree.pieces() - entry.durable.len(), entry.generation)
        })?;
        if missing > 0 {
            return Err(Error::Incomplete { root, missing }.into());
        }
        let path = self.path(root);
        let file = disk::open_regular(&path, u64::MAX).map_err(self.lost(root, &path))?;
        let ahead = self.take_ahead(root, generation).unwrap_or_default();
        (&file).seek(SeekFrom::Start(ahead.bytes)).map_err(Error::at(&path))?;
        let (bytes, found) = ahead.finish(&file, &path, tree.size())?;
        if bytes != tree.size() || found != sha256 {
            (&file).rewind().map_err(Error::at(&path))?;
            let (found_tree, found) = hash(&file, &path, tree.size(), |_| Ok(()))?;
            let pieces = differing(&tree, &found_tree);
            if !pieces.is_empty() {
                self.forget(root, generation, &pieces)?;
                return Err(CheckError::Changed { root, pieces });
            }
            if found != sha256 {
                return Err(CheckError::Digest { root, expected: sha256, found });
            }
        }
        Ok(self.mark_checked(root, generation, sha256)?)
    }

    /// Reads and hashes the pieces that lie without a gap at the beginning, as far as they are here, so that the full check
    /// has only the rest to read. For a content that is still arriving; one caller at a time does the work.
    ///
    /// # Errors
    /// [`Error`] from the disk; the full check then reads everything.
    pub fn hash_ahead(&self, root: Blake3Root) -> Result<(), Error> {
        let (tree, written, generation) =
            self.entry(root, |entry| (entry.tree.clone(), entry.written.clone(), entry.generation))?;
        let Some(mut ahead) = self.take_ahead(root, generation) else { return Ok(()) };
        let path = self.path(root);
        let file = disk::open_regular(&path, u64::MAX).map_err(self.lost(root, &path))?;
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Some((index, offset, length)) = ahead.next_piece(&tree) {
            if !written.contains(index) {
                break;
            }
            for at in (0..length).step_by(CHUNK_BYTES) {
                let part = &mut chunk[..(length - at).min(CHUNK_BYTES)];
                file.read_exact_at(part, offset + at as u64).map_err(Error::at(&path))?;
                ahead.update(part);
            }
        }
        self.put_back(root, generation, ahead);
        Ok(())
    }

    /// Takes what was hashed ahead, so that nobody else goes on with it meanwhile.
    fn take_ahead(&self, root: Blake3Root, generation: u64) -> Option<Ahead> {
        let mut state = self.state();
        let entry = state.entries.get_mut(&root).filter(|entry| entry.generation == generation)?;
        entry.ahead.take()
    }

    fn put_back(&self, root: Blake3Root, generation: u64, ahead: Ahead) {
        if let Some(entry) =
            self.state().entries.get_mut(&root).filter(|entry| entry.generation == generation)
        {
            entry.ahead = Some(ahead);
        }
    }

    fn mark_checked(&self, root: Blake3Root, generation: u64, sha256: Sha256) -> Result<(), Error> {
        let _changing = self.changing();
        let record = match self.state().entries.get(&root) {
            Some(entry) if entry.generation == generation && entry.checked == Some(sha256) => return Ok(()),
            Some(entry) if entry.generation == generation => {
                Record::new(entry.tree.size(), Some(sha256), &entry.durable)
            }
            _ => return Err(Error::Unknown(root)),
        };
        self.record(&[(root, record)])?;
        if let Some(entry) = self.state().entries.get_mut(&root) {
            entry.checked = Some(sha256);
        }
        Ok(())
    }

    /// Takes pieces that the disk changed out of the record; the file gets its length back.
    fn forget(&self, root: Blake3Root, generation: u64, pieces: &[PieceIndex]) -> Result<(), Error> {
        let _changing = self.changing();
        let (tree, mut kept) = match self.state().entries.get(&root) {
            Some(entry) if entry.generation == generation => (entry.tree.clone(), entry.durable.clone()),
            _ => return Err(Error::Unknown(root)),
        };
        pieces.iter().for_each(|index| kept.remove(*index));
        let path = self.path(root);
        let file = File::options().write(true).open(&path).map_err(self.lost(root, &path))?;
        file.set_len(tree.size()).and_then(|()| file.sync_all()).map_err(Error::at(&path))?;
        self.record(&[(root, Record::new(tree.size(), None, &kept))])?;
        // A new generation: a piece that is being written or synced right now does not count towards this state.
        self.insert(tree, kept, None);
        Ok(())
    }
}

/// The SHA-256 of a file, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    sha256: sha2::Sha256,
    bytes: u64,
}

impl Ahead {
    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// The piece that comes next: its index, and where it lies in the file.
    fn next_piece(&self, tree: &PieceTree) -> Option<(PieceIndex, u64, usize)> {
        let index = PieceIndex(u32::try_from(self.bytes / PIECE_BYTES).ok()?);
        let (offset, length) = tree.extent(index)?;
        (offset == self.bytes && length > 0).then_some((index, offset, length))
    }

    /// Reads the rest of a file of `size` bytes as it is now; how many bytes it has, and what they hash to. One byte more
    /// than `size` is read where there is one, so that growth shows.
    fn finish(mut self, file: &File, path: &Path, size: u64) -> Result<(u64, Sha256), Error> {
        let rest = file.take((size + 1).saturating_sub(self.bytes));
        read(rest, path, |bytes| {
            self.update(bytes);
            Ok(())
        })?;
        Ok((self.bytes, Sha256::from_bytes(self.sha256.finalize().into())))
    }
}

/// Reads a file of `size` bytes from where it stands, hands the bytes to `sink` in order and returns what the whole hashes
/// to. One byte more than `size` is read where there is one, so that growth shows in the size of the tree.
pub(super) fn hash(
    file: &File,
    path: &Path,
    size: u64,
    mut sink: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(PieceTree, Sha256), Error> {
    let (mut tree, mut sha256) = (TreeBuilder::default(), sha2::Sha256::default());
    read(file.take(size + 1), path, |bytes| {
        tree.update(bytes);
        sha256.update(bytes);
        sink(bytes)
    })?;
    Ok((tree.finish(), Sha256::from_bytes(sha256.finalize().into())))
}

fn read(
    mut file: impl Read,
    path: &Path,
    mut sink: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => sink(&chunk[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::at(path)(error)),
        }
    }
}

/// The pieces of `expected` that `found` does not have, all of the last one's successors included when it grew.
fn differing(expected: &PieceTree, found: &PieceTree) -> Vec<PieceIndex> {
    if expected.root() == found.root() {
        return Vec::new();
    }
    let same = |index: PieceIndex| {
        let at = index.0 as usize;
        found.extent(index) == expected.extent(index) && found.values().get(at) == expected.values().get(at)
    };
    let different: Vec<_> = (0..expected.pieces()).map(PieceIndex).filter(|index| !same(*index)).collect();
    // The file as a whole differs, so at least one piece does: a file that only grew differs at its last piece.
    if different.is_empty() { vec![PieceIndex(expected.pieces() - 1)] } else { different }
}
