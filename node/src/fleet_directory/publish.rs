//! `fleet publish`: signs what changed since the repository's current version, and nothing else.

use super::{FleetDirectory, StagingError};
use crate::key_source::{KeyError, KeySource};
use crate::repository::{Repository, RepositoryError};
use protocol::digest::Sha256;
use protocol::fleet::{self, VENDORS_PATH, Vendors};
use protocol::identifier::{FleetId, VendorName};
use protocol::signature::PublicKey;
use protocol::time::WallTime;
use protocol::trust::publish::{
    SNAPSHOT_DAYS, TIMESTAMP_DAYS, delegated_roles, delegations, is_due, next_snapshot, next_targets,
    next_timestamp, role_of,
};
use protocol::trust::{
    Current, Key, ListedFile, ListedMetadata, RoleName, Targets, metadata_path, target_file_path,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Why nothing was published. The repository is as it was.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A staged file.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The repository of another fleet.
    #[error("{path} is the repository of fleet {found}, this directory holds fleet {expected}")]
    OtherFleet {
        /// The repository.
        path: PathBuf,
        /// Fleet of the fleet directory.
        expected: FleetId,
        /// Fleet of the repository.
        found: FleetId,
    },
    /// A staged file that no role may sign.
    #[error(
        "no role may sign {0}; catalogues go to catalogue/VENDOR/ of a vendor in fleet/vendors.toml, \
         rules to policy/NAME.toml; move or remove it"
    )]
    NoRole(String),
}

/// What a publication did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The fleet.
    pub fleet: FleetId,
    /// Roles that were signed anew, with their new versions; empty when nothing had changed.
    pub roles: BTreeMap<RoleName, u64>,
    /// Target paths whose content is new, changed, or gone.
    pub targets: Vec<String>,
    /// Version of the snapshot now.
    pub snapshot: u64,
    /// Version of the timestamp now.
    pub timestamp: u64,
}

impl FleetDirectory {
    /// Signs what changed and publishes it into the repository directory, which is made if it does not exist.
    ///
    /// # Errors
    /// [`PublishError`]; then nothing changed in the repository.
    pub fn publish(&self, repository: &Path, now: WallTime) -> Result<Summary, PublishError> {
        let mut keys = self.keys()?;
        self.publish_with(&mut keys, repository, now)
    }

    /// As [`FleetDirectory::publish`], with keys from elsewhere than the fleet directory.
    ///
    /// # Errors
    /// [`PublishError`]; then nothing changed in the repository.
    pub fn publish_with(
        &self,
        keys: &mut dyn KeySource,
        repository: &Path,
        now: WallTime,
    ) -> Result<Summary, PublishError> {
        let repository = Repository::prepare(repository)?;
        let current = repository.current()?;
        if let Some(found) =
            current.as_ref().map(|current| current.fleet).filter(|found| *found != self.fleet())
        {
            let (path, expected) = (repository.directory().to_owned(), self.fleet());
            return Err(PublishError::OtherFleet { path, expected, found });
        }
        let staged = self.all_staged()?;
        let vendors = vendors(&staged)?;
        let mut work = Work { keys, current, now, new: BTreeMap::new(), changed: BTreeMap::new() };
        if work.current.is_none() {
            work.new.insert(metadata_path(&RoleName::root(), 1), self.first_root().to_vec());
        }
        let targets = work.sign_targets(&staged, &vendors)?;
        let (snapshot, timestamp) = work.sign_versions()?;
        let expected = work.current.as_ref().map_or(0, Current::timestamp_version);
        if !work.new.is_empty() {
            repository.publish(expected, &work.new, now)?;
        }
        let roles = work.changed.iter().map(|(role, listed)| (role.clone(), listed.version)).collect();
        Ok(Summary { fleet: self.fleet(), roles, targets, snapshot, timestamp })
    }
}

fn vendors(staged: &BTreeMap<String, Vec<u8>>) -> Result<Vec<VendorName>, StagingError> {
    let bytes = staged.get(VENDORS_PATH).map(Vec::as_slice).unwrap_or_default();
    let vendors: Vendors = fleet::parse_toml(VENDORS_PATH, bytes)?;
    let mut names: Vec<_> = vendors.vendors.into_iter().map(|vendor| vendor.name).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// One publication under way.
struct Work<'a> {
    keys: &'a mut dyn KeySource,
    current: Option<Current>,
    now: WallTime,
    /// Files to write, by their paths in the repository.
    new: BTreeMap<String, Vec<u8>>,
    /// Roles that were signed anew.
    changed: BTreeMap<RoleName, ListedMetadata>,
}

impl Work<'_> {
    fn targets(&self, role: &RoleName) -> Option<&Targets> {
        self.current.as_ref().and_then(|current| current.roles.get(role))
    }

    /// Signs the targets roles whose files changed; returns the target paths that differ.
    fn sign_targets(
        &mut self,
        staged: &BTreeMap<String, Vec<u8>>,
        vendors: &[VendorName],
    ) -> Result<Vec<String>, PublishError> {
        let roles = delegated_roles(vendors);
        let mut listed: BTreeMap<RoleName, BTreeMap<String, ListedFile>> =
            [RoleName::targets()].iter().chain(&roles).map(|role| (role.clone(), BTreeMap::new())).collect();
        for (path, bytes) in staged {
            let role = role_of(path, vendors).ok_or_else(|| PublishError::NoRole(path.clone()))?;
            listed.entry(role).or_default().insert(path.clone(), ListedFile::of(bytes));
        }
        let known = self.role_keys(&roles)?;
        let mut differing = BTreeSet::new();
        for (role, files) in listed {
            let empty = BTreeMap::new();
            let before = self.targets(&role).map_or(&empty, |old| &old.targets);
            let paths = before.keys().chain(files.keys());
            differing.extend(paths.filter(|path| before.get(*path) != files.get(*path)).cloned());
            let top = role == RoleName::targets();
            let delegations =
                top.then(|| delegations(vendors, &|role| known.get(role).cloned().unwrap_or_default()));
            let Some(unsigned) = next_targets(&role, self.targets(&role), files, delegations, self.now)
            else {
                continue;
            };
            let version = unsigned.version();
            let bytes = self.keys.finish(unsigned)?;
            self.changed.insert(role.clone(), ListedMetadata::of(version, &bytes));
            self.new.insert(metadata_path(&role, version), bytes);
        }
        for path in &differing {
            if let Some(bytes) = staged.get(path) {
                self.new.insert(target_file_path(path, Sha256::of(bytes)), bytes.clone());
            }
        }
        Ok(differing.into_iter().collect())
    }

    /// The keys of delegated roles: those that `targets` names already, since they may lie elsewhere, else our own.
    fn role_keys(&mut self, roles: &[RoleName]) -> Result<BTreeMap<RoleName, Vec<PublicKey>>, KeyError> {
        let mut known: BTreeMap<RoleName, Vec<PublicKey>> = BTreeMap::new();
        let delegations = self.targets(&RoleName::targets()).and_then(|top| top.delegations.as_ref());
        for delegation in delegations.iter().flat_map(|delegations| &delegations.roles) {
            let keys = delegation.keys.keyids.iter();
            let keys = keys.filter_map(|id| delegations?.keys.get(id).and_then(Key::public)).collect();
            known.insert(delegation.name.clone(), keys);
        }
        for role in roles.iter().filter(|role| !known.contains_key(*role)).cloned().collect::<Vec<_>>() {
            let mut keys = self.keys.public(&role);
            if keys.is_empty() {
                keys = vec![self.keys.create(&role)?];
            }
            known.insert(role, keys);
        }
        Ok(known)
    }

    /// Signs snapshot and timestamp where something changed or they near their expiry; returns their versions.
    fn sign_versions(&mut self) -> Result<(u64, u64), PublishError> {
        let old = self.current.as_ref().and_then(|current| current.snapshot.as_ref());
        let timestamp = self.current.as_ref().and_then(|current| current.timestamp.as_ref());
        let old_timestamp = timestamp.map_or(0, |timestamp| timestamp.version);
        let due = old.is_none_or(|old| is_due(old.expires, SNAPSHOT_DAYS, self.now));
        let listed = if self.changed.is_empty() && !due {
            let bytes = self.current.as_ref().map_or(&[][..], |current| &current.snapshot_bytes);
            let listed = ListedMetadata::of(old.map_or(0, |old| old.version), bytes);
            if timestamp.is_some_and(|timestamp| !is_due(timestamp.expires, TIMESTAMP_DAYS, self.now)) {
                return Ok((listed.version, old_timestamp));
            }
            listed
        } else {
            let unsigned = next_snapshot(old, &self.changed, self.now);
            let version = unsigned.version();
            let bytes = self.keys.finish(unsigned)?;
            let listed = ListedMetadata::of(version, &bytes);
            self.new.insert(metadata_path(&RoleName::snapshot(), version), bytes);
            listed
        };
        let snapshot = listed.version;
        let unsigned = next_timestamp(old_timestamp, listed, self.now);
        let version = unsigned.version();
        self.new.insert(metadata_path(&RoleName::timestamp(), version), self.keys.finish(unsigned)?);
        Ok((snapshot, version))
    }
}
