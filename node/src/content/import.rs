//! Content from a file on this machine: seeds and sideloaded patches.

use super::check::hash;
use super::{ContentStore, Entry, Error, Record};
use crate::disk;
use protocol::bitmap::PieceSet;
use protocol::digest::{Blake3Root, Sha256};
use protocol::limits::ARTIFACT_BYTES;
use protocol::manifest::Content;
use protocol::piece::PieceTree;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// End of the name of a copy that is not yet whole.
pub(super) const COPY_END: &str = "importing";

impl ContentStore {
    /// Copies the file at `path` in, hashing it on the way, and returns what it is. It counts as having passed its full
    /// check. A content that is already here is left as it is, and needs no room; a file whose name is the root of one, as in
    /// a fleet directory, is not even read.
    ///
    /// # Errors
    /// [`Error::Source`] when `path` is no regular file or changes while it is read; [`Error::Quota`], [`Error::DiskFull`]
    /// and others from the disk. Nothing is left behind.
    pub fn import_file(&self, path: impl AsRef<Path>) -> Result<Content, Error> {
        let path = path.as_ref();
        self.import(path, |_| true)?.ok_or(Error::Source { path: path.into(), what: "is not wanted" })
    }

    /// Copies the file at `path` in if it is the content with this root; `None` when it is something else.
    ///
    /// # Errors
    /// As [`ContentStore::import_file`].
    pub fn import_content(&self, path: &Path, root: Blake3Root) -> Result<Option<Content>, Error> {
        self.import(path, |found| found == root)
    }

    fn import(&self, path: &Path, is_wanted: impl Fn(Blake3Root) -> bool) -> Result<Option<Content>, Error> {
        // A pipe would otherwise make this wait for whoever writes to it.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let source = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(Error::at(path))?;
        let about = source.metadata().map_err(Error::at(path))?;
        if !about.is_file() {
            return Err(Error::Source { path: path.into(), what: "is not a regular file" });
        }
        let size = about.len();
        if size > ARTIFACT_BYTES {
            return Err(Error::TooLarge { path: path.into(), size });
        }
        if let Some(same) = self.find_same(&source, path, size)? {
            return Ok(is_wanted(same.root).then_some(same));
        }
        let _reserved = Reserved::new(self, size)?;
        self.check_disk(size)?;
        let copy = Copy::create(self)?;
        let (tree, sha256) = copy.fill(&source, path, size)?;
        let content = Content { root: tree.root(), sha256, size };
        if !is_wanted(content.root) {
            return Ok(None);
        }
        self.adopt(copy, tree, sha256)?;
        Ok(Some(content))
    }

    /// The content that the file is, if it is already here: by its name, or by its bytes where there is one of this size.
    /// Afterwards the file stands at its beginning.
    fn find_same(&self, mut source: &File, path: &Path, size: u64) -> Result<Option<Content>, Error> {
        let root = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        if let Some(named) = root.and_then(|root| self.whole(root, size)) {
            return Ok(Some(named));
        }
        let of_this_size = self.state().entries.values().any(|entry| entry.tree.size() == size);
        if !of_this_size {
            return Ok(None);
        }
        let (tree, sha256) = hash(source, path, size, |_| Ok(()))?;
        source.rewind().map_err(Error::at(path))?;
        Ok(self.whole(tree.root(), tree.size()).filter(|same| same.sha256 == sha256))
    }

    /// The content with this root and size, if it passed its full check here and its file still has that size.
    fn whole(&self, root: Blake3Root, size: u64) -> Option<Content> {
        let checked = |entry: &Entry| {
            entry.checked.filter(|_| entry.tree.size() == size && entry.durable.len() == entry.tree.pieces())
        };
        let sha256 = self.state().entries.get(&root).and_then(checked)?;
        let there = fs::metadata(self.path(root)).is_ok_and(|file| file.len() == size);
        there.then_some(Content { root, sha256, size })
    }

    /// Makes a whole, synced copy the content file of its root: file, tree, directory, then the record.
    fn adopt(&self, copy: Copy, tree: PieceTree, sha256: Sha256) -> Result<(), Error> {
        let root: Blake3Root = tree.root();
        let _changing = self.changing();
        if self.whole(root, tree.size()).is_some_and(|same| same.sha256 == sha256) {
            return Ok(());
        }
        self.write_tree(&tree)?;
        let path = self.path(root);
        fs::rename(&copy.path, &path).map_err(Error::at(&path))?;
        disk::sync_directory_of(&path).map_err(Error::at(&self.directory))?;
        let all = PieceSet::full(tree.pieces());
        self.record(&[(root, Record::new(tree.size(), Some(sha256), &all))])?;
        self.insert(Arc::new(tree), all, Some(sha256));
        Ok(())
    }
}

/// Quota set aside for a copy under way.
struct Reserved<'a> {
    content: &'a ContentStore,
    size: u64,
}

impl<'a> Reserved<'a> {
    fn new(content: &'a ContentStore, size: u64) -> Result<Reserved<'a>, Error> {
        let mut state = content.state();
        content.check_room(&state, size)?;
        state.importing += size;
        Ok(Reserved { content, size })
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.content.state().importing -= self.size;
    }
}

/// A copy under way; removed when it is not adopted.
struct Copy {
    file: File,
    path: PathBuf,
}

impl Copy {
    fn create(content: &ContentStore) -> Result<Copy, Error> {
        let number = {
            let mut state = content.state();
            state.generations += 1;
            state.generations
        };
        let path = content.directory.join(format!("{number}.{COPY_END}"));
        let file = disk::create_private(&path).map_err(Error::at(&path))?;
        Ok(Copy { file, path })
    }

    fn fill(&self, source: &File, path: &Path, size: u64) -> Result<(PieceTree, Sha256), Error> {
        let (tree, sha256) =
            hash(source, path, size, |bytes| (&self.file).write_all(bytes).map_err(Error::at(&self.path)))?;
        if tree.size() != size {
            return Err(Error::Source {
                path: path.into(),
                what: "changed while it was read; try again when nobody writes to it",
            });
        }
        self.file.sync_all().map_err(Error::at(&self.path))?;
        Ok((tree, sha256))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // After adoption there is nothing under this name any more; what cannot be removed now is removed at the next start.
        let _ = fs::remove_file(&self.path);
    }
}
