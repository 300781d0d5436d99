//! What can go wrong with content on the disk, one variant for each thing that the caller can do about it.

use crate::{disk, store};
use protocol::digest::{Blake3Root, Sha256};
use protocol::piece::PieceIndex;
use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on content failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such content, or it was discarded meanwhile.
    #[error("content {0} is not here; fetch or import it first")]
    Unknown(Blake3Root),
    /// The piece has not arrived.
    #[error("piece {} of content {root} is not here", .index.0)]
    Missing {
        /// The content.
        root: Blake3Root,
        /// The piece.
        index: PieceIndex,
    },
    /// Not every piece has arrived, or the full check has not passed.
    #[error("content {root} is not complete ({missing} pieces missing) or did not pass its full check yet")]
    Incomplete {
        /// The content.
        root: Blake3Root,
        /// Pieces that have not arrived.
        missing: u32,
    },
    /// The quota does not allow it.
    #[error(
        "content of {needed} bytes does not fit: {used} of the content quota of {quota} bytes are used; raise the quota to \
         at least {} bytes or discard content",
        .used.saturating_add(*.needed)
    )]
    Quota {
        /// Bytes of the new content.
        needed: u64,
        /// Bytes that content takes up now.
        used: u64,
        /// Bytes that it may take up.
        quota: u64,
    },
    /// More contents than a node keeps track of.
    #[error("this node already holds {0} contents, its limit; discard some")]
    TooMany(usize),
    /// Larger than any artifact may be.
    #[error("{} has {size} bytes, more than an artifact may have", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Not a file, or one that somebody else writes to.
    #[error("{} {what}", .path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what helps.
        what: &'static str,
    },
    /// No space is left on the disk.
    #[error("no space left for content in {}; free at least {needed} bytes there", .path.display())]
    DiskFull {
        /// Where there is no space.
        path: PathBuf,
        /// Bytes that must be free.
        needed: u64,
    },
    /// The operating system does not let this user at the file.
    #[error("no permission for {}; give it to the user that this node runs as", .path.display())]
    Permission {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The disk failed.
    #[error("cannot read or write {}; check the disk", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// For `map_err`: what an error of the operating system at `path` means.
    pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
        move |source| {
            let path = path.to_path_buf();
            match source.kind() {
                _ if disk::is_full(&source) => {
                    Error::DiskFull { path, needed: protocol::limits::DISK_RESERVE_BYTES }
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Error::Permission { path, source }
                }
                _ => Error::Io { path, source },
            }
        }
    }
}

/// Why content did not pass its full check.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The bytes are those of the root, but not those of the digest that the manifest names: whoever bound the two is to
    /// blame, and the content must be discarded everywhere. Trying again does not help.
    #[error("content {root} has SHA-256 {found} instead of {expected}; it must be discarded")]
    Digest {
        /// The content.
        root: Blake3Root,
        /// What the manifest claims.
        expected: Sha256,
        /// What the bytes have.
        found: Sha256,
    },
    /// Bytes on this disk were changed since they were checked. The pieces are forgotten; fetching them again helps, and
    /// so does handing the file in again.
    #[error("content {root} was changed on the disk ({} pieces); check the disk", .pieces.len())]
    Changed {
        /// The content.
        root: Blake3Root,
        /// The pieces that are not what they were.
        pieces: Vec<PieceIndex>,
    },
    /// The check could not be made.
    #[error(transparent)]
    Content(#[from] Error),
}

impl CheckError {
    /// Takes out what says that the operating system is short of something, and nothing about the content.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn into_shortage(self) -> io::Result<CheckError> {
        match self {
            CheckError::Content(Error::Io { source, .. }) if disk::is_shortage(&source) => Err(source),
            error => Ok(error),
        }
    }
}
