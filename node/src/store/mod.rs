//! The node's database: small records that survive `kill -9` and power loss, behind one trait.

mod memory;
mod seal;
mod sled;

pub use self::sled::SledStore;
pub use memory::MemoryStore;

use protocol::limits;
use std::path::PathBuf;

/// Version of the layout of keys and values. A store of this version and of the one before is accepted.
pub const FORMAT: u32 = 1;

/// One key with its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// Durable records under byte keys, in the order of their keys. All functions block: call them on the blocking pool.
pub trait Store: Send + Sync {
    /// The value under `key`, or `None`.
    ///
    /// # Errors
    /// [`Error`]; what is stored is then unknown, not absent.
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// At most `records` records whose keys begin with `prefix` and lie after `after`, in the order of their keys.
    ///
    /// # Errors
    /// [`Error`] when the database cannot be read.
    fn page(&self, prefix: &[u8], after: Option<&[u8]>, records: usize) -> Result<Vec<Record>, Error>;

    /// Makes all changes of `batch` or none, and returns when they are on the disk.
    ///
    /// # Errors
    /// [`Error`]; after [`Error::DiskFull`] and [`Error::TooLarge`] nothing was changed, after any other it is not known
    /// whether the batch is there, and the store must be opened again.
    fn apply(&self, batch: Batch) -> Result<(), Error>;

    /// All records whose keys begin with `prefix`, in the order of their keys.
    ///
    /// # Errors
    /// [`Error::TooMany`] when there are more than [`limits::STORE_SCAN_RECORDS`]; read those with [`Store::page`].
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Record>, Error> {
        let found = self.page(prefix, None, limits::STORE_SCAN_RECORDS + 1)?;
        if found.len() > limits::STORE_SCAN_RECORDS {
            return Err(Error::TooMany { prefix: protocol::codec::hex(prefix) });
        }
        Ok(found)
    }
}

/// Changes that become durable together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Puts `value` under `key`; of several changes to one key the last one wins.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Batch {
        self.changes.push((key.into(), Some(value.into())));
        self
    }

    /// Takes `key` away, if it is there.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) -> &mut Batch {
        self.changes.push((key.into(), None));
        self
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        let of = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        self.changes.iter().map(of).sum::<usize>() as u64
    }

    fn check(&self) -> Result<(), Error> {
        let bounded = |what: &'static str, found: usize, limit: usize| {
            if found > limit { Err(Error::TooLarge { what, found, limit }) } else { Ok(()) }
        };
        bounded("batch (changes)", self.changes.len(), limits::STORE_BATCH_CHANGES)?;
        for (key, value) in &self.changes {
            bounded("key (bytes)", key.len(), limits::STORE_KEY_BYTES)?;
            bounded("value (bytes)", value.as_ref().map_or(0, Vec::len), limits::STORE_VALUE_BYTES)?;
        }
        Ok(())
    }
}

/// Why a database did not open; nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("database {} is in use by another process; stop that node, or set another node.directory", .directory.display())]
    Locked {
        /// The directory of the database.
        directory: PathBuf,
    },
    /// Its files are damaged.
    #[error(
        "database {} is damaged; move it aside and start again: content and reports that were not yet confirmed are \
         fetched and made anew, and a headquarters restores its backup",
        .directory.display()
    )]
    Corrupt {
        /// The directory of the database.
        directory: PathBuf,
        /// What the database library says, when it says anything.
        source: Option<::sled::Error>,
    },
    /// A later version of Patchmesh wrote it.
    #[error(
        "database {} has format {found} and this version reads up to {FORMAT}; start the newer version again, or move the \
         directory aside",
        .directory.display()
    )]
    Newer {
        /// The directory of the database.
        directory: PathBuf,
        /// Format that was found.
        found: u32,
    },
    /// A version long before this one wrote it, or something else did.
    #[error(
        "database {} is not one that this version reads; start the version before this one once, or move the directory \
         aside",
        .directory.display()
    )]
    Unknown {
        /// The directory of the database.
        directory: PathBuf,
    },
    /// No space is left.
    #[error("no space left for database {}; free at least {needed} bytes there and start again", .directory.display())]
    DiskFull {
        /// The directory of the database.
        directory: PathBuf,
        /// Bytes that must be free.
        needed: u64,
    },
    /// The operating system is short of something that comes free again.
    #[error(
        "the system has no file descriptors or no memory left for database {}, which is as it was; raise the limit \
         (`ulimit -n`, or LimitNOFILE= of a service) or free memory, then start again",
        .directory.display()
    )]
    Shortage {
        /// The directory of the database.
        directory: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The operating system refuses.
    #[error("cannot open database {}; give this user read and write rights on it, and check the disk", .directory.display())]
    Io {
        /// The directory of the database.
        directory: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
}

/// Why a read or a batch failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No space is left; nothing was changed.
    #[error("no space left for database {}; free at least {needed} bytes there", .directory.display())]
    DiskFull {
        /// The directory of the database.
        directory: PathBuf,
        /// Bytes that must be free.
        needed: u64,
    },
    /// A key, a value or a batch beyond its limit, which is a mistake of the caller; nothing was changed.
    #[error("database {what} of {found} is larger than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// More records under one prefix than fit into memory.
    #[error("more records under prefix {prefix} than one scan reads; read them in pages")]
    TooMany {
        /// The prefix in hexadecimal digits.
        prefix: String,
    },
    /// The database failed; what it holds is only known after it was opened again.
    #[error("database {} failed; stop the node, check the disk, and start it again", .directory.display())]
    Failed {
        /// The directory of the database.
        directory: PathBuf,
        /// What the database library says.
        source: ::sled::Error,
    },
}

#[cfg(test)]
mod tests;
