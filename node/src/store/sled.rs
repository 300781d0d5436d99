//! The store on sled, with the fsyncs that sled 0.34 leaves out.

use super::seal::{Seal, Witness};
use super::{Batch, Error, FORMAT, OpenError, Record, Store};
use crate::disk::{self, free_bytes};
use protocol::limits::{DISK_RESERVE_BYTES, STORE_KEY_BYTES};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pages that sled keeps in memory, in bytes; its own default of 1 GiB is not for a node that runs on every device.
const CACHE_BYTES: u64 = 32 << 20;

/// How often sled cleans its log, in milliseconds. Durability does not depend on it: every batch is flushed.
const CLEAN_MILLISECONDS: u64 = 5_000;

/// Descriptors that must be free before the database is opened: it needs half a dozen.
const DESCRIPTORS: usize = 16;

/// How long to wait for background work of a store that this process has just closed.
const CLOSING: Duration = Duration::from_secs(5);

const FORMAT_KEY: &[u8] = b"format";

/// Where the seal stands among the records: a key longer than any that can be put.
const SEAL_KEY: &[u8] = &[0; STORE_KEY_BYTES + 1];

/// A database directory, open in this process alone.
#[derive(Debug)]
pub struct SledStore {
    records: sled::Tree,
    directory: PathBuf,
    /// Of the last batch that reached sled's buffers; held while a batch goes there.
    seal: Mutex<Seal>,
    synced: Mutex<Synced>,
    // Declared last: the lock is given up after sled has closed its files.
    _lock: File,
}

/// What is known to be on the disk.
#[derive(Debug)]
struct Synced {
    witness: Witness,
    blobs: BTreeSet<OsString>,
}

impl SledStore {
    /// Opens the database in `directory`, which is made (for this user alone) when it is not there.
    ///
    /// # Errors
    /// [`OpenError`], each variant with its own remedy.
    pub fn open(directory: impl AsRef<Path>) -> Result<SledStore, OpenError> {
        SledStore::open_as(directory.as_ref(), FORMAT)
    }

    fn open_as(directory: &Path, format: u32) -> Result<SledStore, OpenError> {
        let at = || directory.to_path_buf();
        let io = |source: io::Error| match () {
            () if disk::is_full(&source) => {
                OpenError::DiskFull { directory: at(), needed: DISK_RESERVE_BYTES }
            }
            () if disk::is_shortage(&source) => OpenError::Shortage { directory: at(), source },
            () => OpenError::Io { directory: at(), source },
        };
        disk::make_private_directory(directory).map_err(io)?;
        for place in [directory.to_owned(), directory.join("blobs")].iter().filter(|place| place.is_dir()) {
            disk::refuse_others(place).map_err(io)?;
        }
        let lock =
            disk::open_file(File::options().write(true).create(true), &directory.join("lock")).map_err(io)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Locked { directory: at() },
            TryLockError::Error(source) => io(source),
        })?;
        if free_bytes(directory).map_err(io)? < DISK_RESERVE_BYTES {
            return Err(OpenError::DiskFull { directory: at(), needed: DISK_RESERVE_BYTES });
        }
        // Without descriptors sled would stop half-way, and drop what it could not read.
        (0..DESCRIPTORS).map(|_| lock.try_clone()).collect::<io::Result<Vec<File>>>().map_err(io)?;
        let corrupt = |error| match error {
            Some(sled::Error::Io(source)) if is_of_the_system(&source) => io(source),
            source => OpenError::Corrupt { directory: at(), source },
        };
        let database = open_database(directory).map_err(corrupt)?;
        let records = (*database).clone();
        let mut witness = Witness::open(&directory.join("acknowledged")).map_err(io)?;
        let seal = check_seal(&records, &witness).map_err(corrupt)?;
        check_format(&database, directory, format, &corrupt)?;
        if witness.acknowledged.is_none() {
            witness.acknowledge(seal.sequence).map_err(io)?;
        }
        let synced = Mutex::new(Synced { witness, blobs: BTreeSet::new() });
        let store = SledStore { records, directory: at(), seal: Mutex::new(seal), synced, _lock: lock };
        store.flush(&mut store.synced()).map_err(|source| corrupt(Some(source)))?;
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
        for directory in [Some(directory), parent].into_iter().flatten() {
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
        }
        Ok(store)
    }

    /// Returns when everything up to batch `sequence` is on the disk; one fsync serves all that wait for it.
    fn make_durable(&self, sequence: u64) -> Result<(), sled::Error> {
        let mut synced = self.synced();
        if synced.witness.acknowledged.is_some_and(|acknowledged| acknowledged >= sequence) {
            return Ok(());
        }
        let upto = self.seal().sequence;
        self.flush(&mut synced)?;
        Ok(synced.witness.acknowledge(upto)?)
    }

    /// On Linux sled ends a flush with `sync_file_range`, which leaves out the file's length and the disk's own cache,
    /// and it never syncs the files of large values (`blobs/`): both are made up for here.
    fn flush(&self, synced: &mut Synced) -> Result<(), sled::Error> {
        self.records.flush()?;
        let blobs = self.directory.join("blobs");
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&blobs)? {
            found.insert(entry?.file_name());
        }
        let mut grown = false;
        for name in found.difference(&synced.blobs) {
            match File::open(blobs.join(name)) {
                Ok(blob) => blob.sync_all()?,
                // Its value was overwritten meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            grown = true;
        }
        if grown {
            File::open(&blobs)?.sync_all()?;
        }
        File::open(self.directory.join("db"))?.sync_all()?;
        synced.blobs = found;
        Ok(())
    }

    fn seal(&self) -> MutexGuard<'_, Seal> {
        self.seal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn synced(&self) -> MutexGuard<'_, Synced> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a batch with its seal into sled's buffers and returns its number.
    fn put_sealed(&self, batch: Batch) -> Result<u64, sled::Error> {
        // Of several changes to one key the last one wins, and only it counts.
        let last: BTreeMap<_, _> = batch.changes.into_iter().collect();
        let mut seal = self.seal();
        let mut next = *seal;
        next.sequence += 1;
        let mut changes = sled::Batch::default();
        for (key, value) in last {
            if let Some(before) = self.records.get(&key)? {
                next.remove(&key, &before);
            }
            match value {
                Some(value) => {
                    next.add(&key, &value);
                    changes.insert(key, value);
                }
                None => changes.remove(key),
            }
        }
        changes.insert(SEAL_KEY, next.encode());
        self.records.apply_batch(changes)?;
        *seal = next;
        Ok(next.sequence)
    }

    fn failed(&self, source: sled::Error) -> Error {
        let directory = self.directory.clone();
        match source {
            sled::Error::Io(error) if disk::is_full(&error) => {
                Error::DiskFull { directory, needed: DISK_RESERVE_BYTES }
            }
            source => Error::Failed { directory, source },
        }
    }
}

impl Store for SledStore {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if key == SEAL_KEY {
            return Ok(None);
        }
        let found = self.records.get(key).map_err(|error| self.failed(error))?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn page(&self, prefix: &[u8], after: Option<&[u8]>, records: usize) -> Result<Vec<Record>, Error> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut found = Vec::new();
        for record in self.records.range::<&[u8], _>((from, Bound::Unbounded)) {
            let (key, value) = record.map_err(|error| self.failed(error))?;
            if found.len() >= records || !key.starts_with(prefix) {
                break;
            }
            if key == SEAL_KEY {
                continue;
            }
            found.push((key.to_vec(), value.to_vec()));
        }
        Ok(found)
    }

    fn apply(&self, batch: Batch) -> Result<(), Error> {
        batch.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        // sled stops for good when it meets a full disk in the middle of a write, so it is never sent there.
        let needed = DISK_RESERVE_BYTES + batch.bytes();
        let free = free_bytes(&self.directory).map_err(|error| self.failed(error.into()))?;
        if free < needed {
            return Err(Error::DiskFull { directory: self.directory.clone(), needed });
        }
        let sequence = self.put_sealed(batch).map_err(|error| self.failed(error))?;
        self.make_durable(sequence).map_err(|error| self.failed(error))
    }
}

/// The seal of the records that are there, or the damage: their sum is another one, or acknowledged batches are missing.
fn check_seal(records: &sled::Tree, witness: &Witness) -> Result<Seal, Option<sled::Error>> {
    let mut found = Seal::default();
    let mut sealed = Seal::default();
    for record in records.iter() {
        let (key, value) = record.map_err(Some)?;
        if key == SEAL_KEY {
            sealed = Seal::decode(&value).ok_or(None)?;
        } else {
            found.add(&key, &value);
        }
    }
    found.sequence = sealed.sequence;
    let acknowledged = match witness.acknowledged {
        Some(acknowledged) => acknowledged <= sealed.sequence,
        None => sealed.sequence == 0,
    };
    if found == sealed && acknowledged { Ok(sealed) } else { Err(None) }
}

fn check_format(
    database: &sled::Db,
    directory: &Path,
    format: u32,
    corrupt: &dyn Fn(Option<sled::Error>) -> OpenError,
) -> Result<(), OpenError> {
    let at = || directory.to_path_buf();
    let corrupt = |error| corrupt(Some(error));
    let about = database.open_tree("about").map_err(corrupt)?;
    match about.get(FORMAT_KEY).map_err(corrupt)? {
        None if database.is_empty() => {
            about.insert(FORMAT_KEY, &format.to_le_bytes()).map_err(corrupt)?;
            Ok(())
        }
        None => Err(OpenError::Unknown { directory: at() }),
        Some(found) => match found.as_ref().try_into().map(u32::from_le_bytes) {
            Ok(found) if found > format => Err(OpenError::Newer { directory: at(), found }),
            Ok(found) if found + 1 >= format => Ok(()),
            _ => Err(OpenError::Unknown { directory: at() }),
        },
    }
}

/// Opens sled's files. Damage makes sled 0.34 return an error or panic, depending on the place; `None` is the panic.
fn open_database(directory: &Path) -> Result<sled::Db, Option<sled::Error>> {
    let until = Instant::now() + CLOSING;
    loop {
        let configuration = sled::Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(CLEAN_MILLISECONDS));
        match catch_unwind(AssertUnwindSafe(|| configuration.open())) {
            Ok(Ok(database)) => return Ok(database),
            // We hold our own lock, so this is a background thread of a store that this process closed just now.
            Ok(Err(sled::Error::Io(error)))
                if error.to_string().contains("could not acquire lock") && Instant::now() < until =>
            {
                std::thread::yield_now();
            }
            Ok(Err(error)) => return Err(Some(error)),
            Err(_) => return Err(None),
        }
    }
}

/// Whether the operating system refused, rather than sled finding bytes that it did not expect.
fn is_of_the_system(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    let is_of_the_disk = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    let is_refusal = matches!(
        error.kind(),
        Kind::PermissionDenied
            | Kind::StorageFull
            | Kind::QuotaExceeded
            | Kind::ReadOnlyFilesystem
            | Kind::IsADirectory
    );
    is_refusal || is_of_the_disk || disk::is_shortage(error)
}

#[cfg(test)]
pub(super) fn open_as(directory: &Path, format: u32) -> Result<SledStore, OpenError> {
    SledStore::open_as(directory, format)
}
