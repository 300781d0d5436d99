//! What a start finds: records with their files, pieces that were written and not recorded, leftovers.

use super::record::{PREFIX, Record};
use super::{ContentStore, Error};
use crate::disk;
use crate::store::Batch;
use protocol::bitmap::PieceSet;
use protocol::digest::Blake3Root;
use protocol::limits::PIECE_BYTES;
use protocol::piece::{PieceIndex, PieceTree};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

impl ContentStore {
    /// Reads all records into memory. A record whose files are not what it says is dropped with a warning: its content is
    /// fetched again.
    pub(super) fn recover(&self) -> Result<(), Error> {
        let mut batch = Batch::default();
        for (key, value) in self.store.scan(PREFIX)? {
            let read = Record::decode(&key, &value);
            let kept = match &read {
                Some((root, record)) => self.recover_one(*root, record)?,
                None => None,
            };
            match (read, kept) {
                (Some((root, record)), Some((tree, found))) => {
                    if found != record.durable {
                        batch.put(key, Record::new(record.size, record.checked, &found).encode());
                    }
                    tracing::debug!(%root, pieces = found.len(), of = tree.pieces(), "content found");
                    self.insert(Arc::new(tree), found, record.checked);
                }
                (read, _) => {
                    let root = read.map(|(root, _)| root);
                    tracing::warn!(?root, "content record without its file is dropped");
                    batch.delete(key);
                }
            }
        }
        self.store.apply(batch)?;
        self.remove_leftovers()
    }

    /// Tree and pieces of one recorded content, after what was not recorded was hashed and made durable.
    fn recover_one(&self, root: Blake3Root, record: &Record) -> Result<Option<(PieceTree, PieceSet)>, Error> {
        let path = self.path(root);
        let file = match disk::open_file(OpenOptions::new().read(true).write(true), &path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if disk::is_no_file(&error) => {
                tracing::warn!(path = %path.display(), "content lies there no more, but something that is no file; remove it");
                return Ok(None);
            }
            Err(error) => return Err(Error::at(&path)(error)),
        };
        let size = file.metadata().map_err(Error::at(&path))?.len();
        let Some(tree) = self.read_tree(root, record.size)?.filter(|_| size == record.size) else {
            return Ok(None);
        };
        let mut found = record.durable.clone();
        rehash(&file, &tree, &mut found).map_err(Error::at(&path))?;
        if found != record.durable {
            file.sync_data().map_err(Error::at(&path))?;
        }
        Ok(Some((tree, found)))
    }

    fn read_tree(&self, root: Blake3Root, size: u64) -> Result<Option<PieceTree>, Error> {
        let path = self.tree_path(root);
        let bytes = match disk::read_bounded(&path, (size / PIECE_BYTES + 1) * 32) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) if disk::is_no_file(&error) || error.kind() == io::ErrorKind::FileTooLarge => {
                tracing::warn!(path = %path.display(), "that is no piece list");
                return Ok(None);
            }
            Err(error) => return Err(Error::at(&path)(error)),
        };
        let (values, rest) = bytes.as_chunks::<32>();
        let proven = PieceTree::prove(root, size, values.to_vec()).ok();
        Ok(proven.filter(|_| rest.is_empty()))
    }

    /// Removes files of our own naming that no record knows; anything else in the directory is left alone.
    fn remove_leftovers(&self) -> Result<(), Error> {
        let at = Error::at(&self.directory);
        disk::remove_unfinished(&self.directory).map_err(&at)?;
        for entry in fs::read_dir(&self.directory).map_err(&at)? {
            let entry = entry.map_err(&at)?;
            if entry.file_type().map_err(&at)?.is_dir() {
                continue;
            }
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let (stem, end) = name.split_once('.').unwrap_or((name, ""));
            let ours = match stem.parse::<Blake3Root>() {
                Ok(root) => match end {
                    "" | "tree" => self.tree(root).is_none(),
                    _ => false,
                },
                Err(_) => end == super::import::COPY_END,
            };
            if ours {
                disk::remove_if_there(&self.directory.join(name)).map_err(&at)?;
            }
        }
        Ok(())
    }
}

/// Adds to `found` the pieces in `file` that match the tree. Holes of the sparse file are passed over unread.
fn rehash(file: &File, tree: &PieceTree, found: &mut PieceSet) -> io::Result<()> {
    let missing: Vec<PieceIndex> = found.missing(tree.pieces()).collect();
    let mut data_from = 0;
    for index in missing {
        let Some((offset, length)) = tree.extent(index) else { continue };
        let end = offset + length as u64;
        if data_from >= end && length > 0 {
            continue;
        }
        match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(from) if from >= end && length > 0 => {
                data_from = from;
                continue;
            }
            // No data from here to the end of the file.
            Err(Errno::NXIO) if length > 0 => return Ok(()),
            // Also when the file system does not know where its holes are: then every piece is read.
            _ => {}
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset)?;
        if tree.check(index, bytes).is_ok() {
            found.insert(index);
        }
    }
    Ok(())
}
