//! A store in memory, for tests: the same behaviour without the disk.

use super::{Batch, Error, Record, Store};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Records in memory; they are gone when the last owner is.
#[derive(Debug, Default)]
pub struct MemoryStore {
    records: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.lock().get(key).cloned())
    }

    fn page(&self, prefix: &[u8], after: Option<&[u8]>, records: usize) -> Result<Vec<Record>, Error> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let held = self.lock();
        let range = held.range::<[u8], _>((from, Bound::Unbounded));
        let under = range.take_while(|(key, _)| key.starts_with(prefix)).take(records);
        Ok(under.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn apply(&self, batch: Batch) -> Result<(), Error> {
        batch.check()?;
        let mut records = self.lock();
        for (key, value) in batch.changes {
            match value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
        Ok(())
    }
}
