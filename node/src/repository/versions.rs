//! What the seed adds to every publication with its online keys: which versions belong together, and that they are fresh.

use super::{Repository, RepositoryError};
use crate::key_source::KeySource;
use protocol::time::WallTime;
use protocol::trust::publish::{SNAPSHOT_DAYS, TIMESTAMP_DAYS, is_due, next_snapshot, next_timestamp};
use protocol::trust::{Current, ListedMetadata, RoleName, Snapshot, metadata_path, role_of_metadata_path};
use std::collections::BTreeMap;

/// Versions of the two roles that the seed signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Version of the snapshot.
    pub snapshot: u64,
    /// Version of the timestamp.
    pub timestamp: u64,
}

impl Repository {
    /// Publishes what administrators signed (metadata of targets roles, target files, roots, by their paths): signs
    /// snapshot and timestamp with the `online` keys and swaps if the timestamp is still of version `base`.
    /// Without files, it signs again only what nears its expiry. Where the repository lost versions that devices have seen, both
    /// get versions `above` those; 0 where it did not.
    ///
    /// # Errors
    /// [`RepositoryError`]; nothing that nodes see has changed then.
    pub fn accept(
        &self,
        base: u64,
        mut files: BTreeMap<String, Vec<u8>>,
        above: u64,
        online: &dyn KeySource,
        now: WallTime,
    ) -> Result<Versions, RepositoryError> {
        let mut changed = BTreeMap::new();
        for (path, bytes) in files.iter().filter(|(path, _)| path.starts_with("metadata/")) {
            match role_of_metadata_path(path) {
                Some((role, version)) if !role.is_top_level() || role == RoleName::targets() => {
                    changed.insert(role, ListedMetadata::of(version, bytes));
                }
                Some((role, _)) if role == RoleName::root() => {}
                _ => return Err(RepositoryError::NotToBePublished(path.clone())),
            }
        }
        let current = self.current()?;
        let mut old = current.as_ref().and_then(|current| current.snapshot.clone());
        if above > 0 {
            let nothing = || Snapshot { version: 0, expires: WallTime::default(), meta: BTreeMap::new() };
            let old = old.get_or_insert_with(nothing);
            old.version = old.version.max(above);
        }
        let stands =
            |old: &Snapshot| above == 0 && changed.is_empty() && !is_due(old.expires, SNAPSHOT_DAYS, now);
        let listed = match (&current, old) {
            (Some(current), Some(old)) if stands(&old) => {
                ListedMetadata::of(old.version, &current.snapshot_bytes)
            }
            (_, old) => {
                let unsigned = next_snapshot(old.as_ref(), &changed, now);
                let version = unsigned.version();
                let bytes = online.finish(unsigned)?;
                let listed = ListedMetadata::of(version, &bytes);
                files.insert(metadata_path(&RoleName::snapshot(), version), bytes);
                listed
            }
        };
        let snapshot = listed.version;
        let timestamp = current.as_ref().and_then(|current| current.timestamp.as_ref());
        let fresh = timestamp.filter(|old| !is_due(old.expires, TIMESTAMP_DAYS, now));
        if let Some(timestamp) = fresh.filter(|_| files.is_empty()) {
            return Ok(Versions { snapshot, timestamp: timestamp.version });
        }
        let version = current.as_ref().map_or(0, Current::timestamp_version).max(above);
        let unsigned = next_timestamp(version, listed, now);
        let timestamp = unsigned.version();
        files.insert(metadata_path(&RoleName::timestamp(), timestamp), online.finish(unsigned)?);
        self.publish(base, &files, now)?;
        Ok(Versions { snapshot, timestamp })
    }

    /// Signs snapshot and timestamp again where they near their expiry. The seed calls it every hour.
    ///
    /// # Errors
    /// [`RepositoryError`]; [`RepositoryError::Conflict`] is harmless, the next call sees what was published.
    pub fn sign_again(&self, online: &dyn KeySource, now: WallTime) -> Result<Versions, RepositoryError> {
        let base = self.current()?.map_or(0, |current| current.timestamp_version());
        if base == 0 {
            return Err(RepositoryError::NoRepository(self.directory().to_owned()));
        }
        self.accept(base, BTreeMap::new(), 0, online, now)
    }
}
