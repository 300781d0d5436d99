//! Content files: artifacts and evidence by BLAKE3 root, written piece by piece, durable before they are recorded.
//!
//! A file is named by its root; beside it, with `.tree` at the end, lies its piece list, which proves itself against the
//! root. Piece bytes reach the disk first, then the record in the database; what was written but not recorded when the node
//! stopped is hashed again at the next start, so that nothing verified is fetched twice.

mod check;
mod error;
mod import;
mod record;
mod recover;

pub use error::{CheckError, Error};

use check::Ahead;

use crate::disk;
use crate::store::{Batch, Store};
use protocol::bitmap::PieceSet;
use protocol::digest::{Blake3Root, Sha256};
use protocol::limits::{ARTIFACTS_TRACKED, DISK_RESERVE_BYTES};
use protocol::piece::{CheckedPiece, PieceIndex, PieceTree};
use record::Record;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The content files of one node. All functions block (call them on the blocking pool) and may run at the same time.
pub struct ContentStore {
    directory: PathBuf,
    quota_bytes: u64,
    store: Arc<dyn Store>,
    state: Mutex<State>,
    /// Held while files appear or go and while records are written, so that a record never overtakes its file.
    changing: Mutex<()>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Blake3Root, Entry>,
    /// Bytes of imports that are being copied.
    importing: u64,
    generations: u64,
}

struct Entry {
    tree: Arc<PieceTree>,
    /// Pieces in the file, on the disk or on their way to it.
    written: PieceSet,
    /// Pieces on the disk and in the record.
    durable: PieceSet,
    checked: Option<Sha256>,
    /// What was hashed of the beginning while the rest arrives; none while somebody goes on with it, and after the check.
    ahead: Option<Ahead>,
    /// Tells this entry from an earlier one of the same root, for operations that began before it was discarded.
    generation: u64,
}

impl Entry {
    fn record(&self, durable: &PieceSet) -> Record {
        Record::new(self.tree.size(), self.checked, durable)
    }
}

/// One content that is here, whole or in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its identity.
    pub root: Blake3Root,
    /// Its size in bytes; all of it counts against the quota, arrived or not.
    pub size: u64,
    /// The pieces whose bytes and record are on the disk.
    pub durable: PieceSet,
    /// The SHA-256 of the whole, since it passed its full check.
    pub checked: Option<Sha256>,
}

/// What the content takes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Contents, whole or in part.
    pub contents: usize,
    /// Their bytes, imports under way included; parts count with their full size.
    pub bytes: u64,
    /// Bytes that they may take up.
    pub quota_bytes: u64,
}

/// Where one piece lies: an open file that stays readable when the content is discarded meanwhile.
#[derive(Debug)]
pub struct PieceFile {
    /// The content file, open for reading.
    pub file: File,
    /// Where the piece begins, in bytes.
    pub offset: u64,
    /// Length of the piece in bytes.
    pub length: usize,
}

impl ContentStore {
    /// Opens the content files in `directory`, which is made (for this user alone) when it is not there, hashes again what
    /// was not recorded, and removes what an interrupted import left.
    ///
    /// # Errors
    /// [`Error`] when the directory or the database cannot be read or written.
    pub fn open(
        directory: impl AsRef<Path>,
        quota_bytes: u64,
        store: Arc<dyn Store>,
    ) -> Result<ContentStore, Error> {
        let directory = directory.as_ref().to_path_buf();
        disk::make_private_directory(&directory).map_err(Error::at(&directory))?;
        let content = ContentStore {
            directory,
            quota_bytes,
            store,
            state: Mutex::default(),
            changing: Mutex::default(),
        };
        content.recover()?;
        Ok(content)
    }

    /// Gets ready to write pieces of the artifact whose tree was proven, and returns the pieces that are already here.
    /// Reserves the whole size; beginning the same artifact again changes nothing.
    ///
    /// # Errors
    /// [`Error::Quota`], [`Error::TooMany`], [`Error::DiskFull`] before anything was written; others from the disk.
    pub fn begin(&self, tree: &PieceTree) -> Result<PieceSet, Error> {
        let _changing = self.changing();
        if let Some(entry) = self.state().entries.get(&tree.root()) {
            return Ok(entry.written.clone());
        }
        self.check_room(&self.state(), tree.size())?;
        self.check_disk(tree.size())?;
        let path = self.path(tree.root());
        disk::remove_if_there(&path).map_err(Error::at(&path))?;
        self.write_tree(tree)?;
        let file = disk::create_private(&path).map_err(Error::at(&path))?;
        file.set_len(tree.size()).and_then(|()| file.sync_all()).map_err(Error::at(&path))?;
        disk::sync_directory_of(&path).map_err(Error::at(&self.directory))?;
        let none = PieceSet::new();
        self.record(&[(tree.root(), Record::new(tree.size(), None, &none))])?;
        self.insert(Arc::new(tree.clone()), none.clone(), None);
        Ok(none)
    }

    /// Writes a piece into its file. It may be served at once; it is durable only after [`ContentStore::sync`].
    ///
    /// # Errors
    /// [`Error::Unknown`] when the artifact was not begun or was discarded meanwhile; [`Error::DiskFull`] with the bytes
    /// needed; others from the disk. The piece must then be written again.
    pub fn write(&self, piece: &CheckedPiece) -> Result<(), Error> {
        let root = piece.root();
        let generation = self.entry(root, |entry| entry.generation)?;
        self.check_disk(piece.bytes().len() as u64)?;
        let path = self.path(root);
        let opened = disk::open_file(OpenOptions::new().write(true), &path);
        let file = opened.map_err(self.lost(root, &path))?;
        file.write_all_at(piece.bytes(), piece.offset()).map_err(Error::at(&path))?;
        match self.state().entries.get_mut(&root) {
            Some(entry) if entry.generation == generation => {
                entry.written.insert(piece.index());
                Ok(())
            }
            _ => Err(Error::Unknown(root)),
        }
    }

    /// Makes the pieces of one artifact that were written so far durable (bytes first, then the record) and returns all of
    /// its durable pieces.
    ///
    /// # Errors
    /// [`Error`]; pieces that were written since the last success then count as not durable.
    pub fn sync(&self, root: Blake3Root) -> Result<PieceSet, Error> {
        self.sync_these(&[root])?;
        self.durable(root).ok_or(Error::Unknown(root))
    }

    /// Makes all pieces that were written so far durable, with one record batch for all artifacts, and returns the
    /// artifacts that gained some, each with all of its durable pieces.
    ///
    /// # Errors
    /// [`Error`]; pieces that were written since the last success then count as not durable.
    pub fn sync_all(&self) -> Result<Vec<(Blake3Root, PieceSet)>, Error> {
        let dirty = |(root, entry): (&Blake3Root, &Entry)| (entry.written != entry.durable).then_some(*root);
        let roots: Vec<_> = self.state().entries.iter().filter_map(dirty).collect();
        self.sync_these(&roots)?;
        Ok(roots.into_iter().filter_map(|root| Some((root, self.durable(root)?))).collect())
    }

    fn sync_these(&self, roots: &[Blake3Root]) -> Result<(), Error> {
        let mut synced = Vec::new();
        for root in roots {
            let (written, durable, generation) =
                self.entry(*root, |entry| (entry.written.clone(), entry.durable.clone(), entry.generation))?;
            if written == durable {
                continue;
            }
            let path = self.path(*root);
            let opened = disk::open_file(OpenOptions::new().write(true), &path);
            let file = opened.map_err(self.lost(*root, &path))?;
            file.sync_data().map_err(Error::at(&path))?;
            synced.push((*root, written, generation));
        }
        let _changing = self.changing();
        let mut records = Vec::new();
        {
            let state = self.state();
            synced.retain_mut(|(root, written, generation)| match state.entries.get(root) {
                Some(entry) if entry.generation == *generation => {
                    written.merge(&entry.durable);
                    records.push((*root, entry.record(written)));
                    true
                }
                _ => false,
            });
        }
        self.record(&records)?;
        let mut state = self.state();
        for (root, durable, _) in synced {
            if let Some(entry) = state.entries.get_mut(&root) {
                entry.durable = durable;
            }
        }
        Ok(())
    }

    /// The piece list of a content that is here, whole or in part.
    pub fn tree(&self, root: Blake3Root) -> Option<Arc<PieceTree>> {
        self.state().entries.get(&root).map(|entry| entry.tree.clone())
    }

    /// The pieces of a content whose bytes and record are on the disk; `None` when it was not begun.
    pub fn durable(&self, root: Blake3Root) -> Option<PieceSet> {
        self.state().entries.get(&root).map(|entry| entry.durable.clone())
    }

    /// Opens one piece for serving; it was verified when it was written.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Missing`], or from the disk.
    pub fn open_piece(&self, root: Blake3Root, index: PieceIndex) -> Result<PieceFile, Error> {
        let (offset, length) = self
            .entry(root, |entry| entry.written.contains(index).then(|| entry.tree.extent(index)).flatten())?
            .ok_or(Error::Missing { root, index })?;
        let path = self.path(root);
        let file = disk::open_regular(&path, u64::MAX).map_err(self.lost(root, &path))?;
        Ok(PieceFile { file, offset, length })
    }

    /// Opens a content that has passed its full check, for reading only.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Incomplete`], or from the disk.
    pub fn open_complete(&self, root: Blake3Root) -> Result<File, Error> {
        let (checked, missing) =
            self.entry(root, |entry| (entry.checked, entry.tree.pieces() - entry.written.len()))?;
        if checked.is_none() || missing > 0 {
            return Err(Error::Incomplete { root, missing });
        }
        let path = self.path(root);
        disk::open_regular(&path, u64::MAX).map_err(self.lost(root, &path))
    }

    /// Opens a content of which every piece is here, although it may not have passed its full check.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Incomplete`], or from the disk.
    pub(crate) fn open_whole(&self, root: Blake3Root) -> Result<File, Error> {
        let missing = self.entry(root, |entry| entry.tree.pieces() - entry.written.len())?;
        if missing > 0 {
            return Err(Error::Incomplete { root, missing });
        }
        let path = self.path(root);
        disk::open_regular(&path, u64::MAX).map_err(self.lost(root, &path))
    }

    /// Where a content that has passed its full check lies, for programs that want a path. Hand out a verified copy where
    /// the program is not trusted with the original.
    ///
    /// # Errors
    /// As [`ContentStore::open_complete`].
    pub fn complete_path(&self, root: Blake3Root) -> Result<PathBuf, Error> {
        self.open_complete(root).map(|_| self.path(root))
    }

    /// Forgets a content and removes its files; whoever has them open may read on. Unknown content is no error.
    ///
    /// # Errors
    /// [`Error`] from the disk or the database.
    pub fn discard(&self, root: Blake3Root) -> Result<(), Error> {
        let _changing = self.changing();
        if self.state().entries.remove(&root).is_none() {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.delete(Record::key(root));
        self.store.apply(batch)?;
        self.remove_files(root)
    }

    /// Every content that is here, whole or in part, in the order of the roots.
    pub fn held(&self) -> Vec<Held> {
        let held = |(root, entry): (&Blake3Root, &Entry)| Held {
            root: *root,
            size: entry.tree.size(),
            durable: entry.durable.clone(),
            checked: entry.checked,
        };
        self.state().entries.iter().map(held).collect()
    }

    /// What the content takes up.
    pub fn usage(&self) -> Usage {
        self.state().usage(self.quota_bytes)
    }

    /// Discards contents until `needed` bytes fit into the quota: those that `order` returns of what is held, first to
    /// last, and no more than necessary. Returns what was discarded.
    ///
    /// # Errors
    /// [`Error::Quota`] when that is not enough (what was discarded stays so), or from the disk.
    pub fn make_room(
        &self,
        needed: u64,
        order: impl FnOnce(Vec<Held>) -> Vec<Blake3Root>,
    ) -> Result<Vec<Blake3Root>, Error> {
        let mut discarded = Vec::new();
        if self.check_room(&self.state(), needed).is_ok() {
            return Ok(discarded);
        }
        for root in order(self.held()) {
            self.discard(root)?;
            discarded.push(root);
            if self.check_room(&self.state(), needed).is_ok() {
                return Ok(discarded);
            }
        }
        self.check_room(&self.state(), needed)?;
        Ok(discarded)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry<T>(&self, root: Blake3Root, read: impl FnOnce(&Entry) -> T) -> Result<T, Error> {
        self.state().entries.get(&root).map(read).ok_or(Error::Unknown(root))
    }

    fn insert(&self, tree: Arc<PieceTree>, durable: PieceSet, checked: Option<Sha256>) {
        let mut state = self.state();
        state.generations += 1;
        let generation = state.generations;
        let written = durable.clone();
        let ahead = checked.is_none().then(Ahead::default);
        state.entries.insert(tree.root(), Entry { tree, written, durable, checked, ahead, generation });
    }

    fn record(&self, records: &[(Blake3Root, Record)]) -> Result<(), Error> {
        let mut batch = Batch::default();
        for (root, record) in records {
            batch.put(Record::key(*root), record.encode());
        }
        Ok(self.store.apply(batch)?)
    }

    fn path(&self, root: Blake3Root) -> PathBuf {
        self.directory.join(root.to_string())
    }

    fn tree_path(&self, root: Blake3Root) -> PathBuf {
        self.directory.join(format!("{root}.tree"))
    }

    fn write_tree(&self, tree: &PieceTree) -> Result<(), Error> {
        let path = self.tree_path(tree.root());
        disk::replace(&path, tree.values().as_flattened(), disk::Readers::Owner).map_err(Error::at(&path))
    }

    fn remove_files(&self, root: Blake3Root) -> Result<(), Error> {
        for path in [self.path(root), self.tree_path(root)] {
            disk::remove_if_there(&path).map_err(Error::at(&path))?;
        }
        disk::sync_directory_of(&self.path(root)).map_err(Error::at(&self.directory))
    }

    /// For `map_err`: a file that is not there was discarded meanwhile, or somebody took it away.
    fn lost<'a>(&self, root: Blake3Root, path: &'a Path) -> impl Fn(std::io::Error) -> Error + 'a {
        move |error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::Unknown(root),
            _ => Error::at(path)(error),
        }
    }

    fn check_room(&self, state: &State, needed: u64) -> Result<(), Error> {
        let Usage { contents, bytes: used, quota_bytes: quota } = state.usage(self.quota_bytes);
        if contents >= ARTIFACTS_TRACKED {
            return Err(Error::TooMany(ARTIFACTS_TRACKED));
        }
        if used.saturating_add(needed) > quota {
            return Err(Error::Quota { needed, used, quota });
        }
        Ok(())
    }

    /// Whether the disk takes so many bytes more and keeps its reserve.
    ///
    /// # Errors
    /// [`Error::DiskFull`], or from the disk.
    pub fn check_space(&self, bytes: u64) -> Result<(), Error> {
        self.check_disk(bytes)
    }

    fn check_disk(&self, bytes: u64) -> Result<(), Error> {
        let needed = bytes.saturating_add(DISK_RESERVE_BYTES);
        let free = disk::free_bytes(&self.directory).map_err(Error::at(&self.directory))?;
        if free < needed {
            return Err(Error::DiskFull { path: self.directory.clone(), needed });
        }
        Ok(())
    }
}

impl State {
    fn usage(&self, quota_bytes: u64) -> Usage {
        let held: u64 = self.entries.values().map(|entry| entry.tree.size()).sum();
        Usage { contents: self.entries.len(), bytes: held + self.importing, quota_bytes }
    }
}

#[cfg(test)]
mod tests;
