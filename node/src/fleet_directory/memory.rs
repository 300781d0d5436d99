//! What a fleet directory remembers of the repository, so that two copies of it do not undo each other's work.

use super::publish::PublishError;
use super::staging::Old;
use super::{FleetDirectory, StagingError};
use crate::disk::{self, Readers};
use crate::repository::{Repository, RepositoryError};
use protocol::digest::Sha256;
use protocol::fleet::{self, VENDORS_PATH, Vendors};
use protocol::identifier::VendorName;
use protocol::limits;
use protocol::time::WallTime;
use protocol::trust::basis::{Basis, Standing, standing};
use protocol::trust::publish::{delegated_roles, role_of};
use protocol::trust::{Current, RoleName, Targets, metadata_path};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

/// File of the fleet directory that says which versions its files are based on.
const MEMORY_FILE: &str = "published.json";

/// Directory of the roots after the first.
const ROOTS: &str = "roots";

/// What to do about what is published already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// Roles whose published files take the place of this directory's, which stay beside them.
    pub take: BTreeSet<RoleName>,
    /// Roles whose published files give way to this directory's.
    pub overwrite: BTreeSet<RoleName>,
    /// Publish although what is published was signed later than it is now.
    pub clock_is_right: bool,
    /// Go above all versions that devices can have seen: where there is no repository any more, or one from a backup.
    pub anew: bool,
}

/// On what each role in the directory is based.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    /// As last published from here or taken over.
    roles: BTreeMap<RoleName, Basis>,
    /// As last signed here: after a crash nobody knows whether it was published.
    #[serde(default)]
    signed: BTreeMap<RoleName, Basis>,
}

impl Memory {
    fn basis(&self, role: &RoleName, published: &Basis) -> Basis {
        let signed = self.signed.get(role).filter(|signed| signed.sha256 == published.sha256);
        signed.or_else(|| self.roles.get(role)).cloned().unwrap_or_default()
    }
}

/// What the comparison of the directory with the repository led to.
pub(super) struct Settled {
    /// The files as they are staged now.
    pub staged: BTreeMap<String, Vec<u8>>,
    /// Roles that were taken over, with their versions.
    pub taken: BTreeMap<RoleName, u64>,
    /// Roles that have to be signed with a higher version than this one, whatever the repository says.
    pub above: BTreeMap<RoleName, u64>,
}

impl FleetDirectory {
    /// Compares the staged files with what is published. What somebody else published, and nobody changed here, is taken
    /// over, once its signatures are verified.
    ///
    /// # Errors
    /// [`PublishError::Diverged`] and [`PublishError::SetBack`] when something would be lost; nothing has changed then.
    pub(super) fn settle(
        &self,
        repository: &Repository,
        current: Option<&Current>,
        choices: &Choices,
    ) -> Result<Settled, PublishError> {
        let mut settled =
            Settled { staged: self.all_staged()?, taken: BTreeMap::new(), above: BTreeMap::new() };
        let Some(current) = current else { return Ok(settled) };
        let memory = self.memory()?;
        let here = by_role(&settled.staged, current)?;
        let published = published(current);
        let nothing = (BTreeMap::new(), Basis::default());
        let roles: BTreeSet<&RoleName> = here.keys().chain(published.keys()).collect();
        for role in roles {
            let staged = here.get(role).unwrap_or(&nothing.0);
            let published = published.get(role).unwrap_or(&nothing.1);
            let basis = memory.as_ref().map(|memory| memory.basis(role, published));
            match standing(staged, basis.as_ref(), published) {
                Standing::Current if choices.take.contains(role) && *staged != published.files => {
                    settled.taken.insert(role.clone(), published.version);
                }
                Standing::Current => {}
                Standing::Diverged if choices.overwrite.contains(role) => {}
                Standing::SetBack if choices.anew || choices.overwrite.contains(role) => {
                    settled.above.insert(role.clone(), basis.map_or(0, |basis| basis.version));
                }
                Standing::Behind => drop(settled.taken.insert(role.clone(), published.version)),
                Standing::Diverged if choices.take.contains(role) => {
                    settled.taken.insert(role.clone(), published.version);
                }
                Standing::Diverged => {
                    let differs = |path: &&String| staged.get(*path) != published.files.get(*path);
                    let paths: BTreeSet<&String> =
                        staged.keys().chain(published.files.keys()).filter(differs).collect();
                    return Err(PublishError::Diverged {
                        role: role.clone(),
                        published: published.version,
                        basis: basis.map(|basis| basis.version),
                        files: paths.into_iter().cloned().collect(),
                    });
                }
                Standing::SetBack => {
                    return Err(PublishError::SetBack {
                        role: role.clone(),
                        published: published.version,
                        basis: basis.map_or(0, |basis| basis.version),
                    });
                }
            }
        }
        if !settled.taken.is_empty() {
            self.take_over(repository, current, &here, &settled.taken, choices)?;
            settled.staged = self.all_staged()?;
        }
        Ok(settled)
    }

    /// Replaces the staged files of these roles by the published ones. They come from a machine that may be in wrong hands,
    /// and this directory signs what is staged: so they are verified as a node would, from the first root on.
    fn take_over(
        &self,
        repository: &Repository,
        current: &Current,
        here: &BTreeMap<RoleName, BTreeMap<String, Sha256>>,
        roles: &BTreeMap<RoleName, u64>,
        choices: &Choices,
    ) -> Result<(), PublishError> {
        let trusted = self
            .trusted()
            .map_err(|source| RepositoryError::Damaged { path: self.directory().to_owned(), source })?;
        let verified = repository.verified(&trusted, &current.target_paths())?;
        let (expected, found) = (current.timestamp_version(), verified.timestamp_version());
        if expected != found {
            return Err(RepositoryError::Conflict { expected, found }.into());
        }
        for role in roles.keys() {
            let old = if choices.take.contains(role) { Old::Kept } else { Old::Dropped };
            let empty = BTreeMap::new();
            let theirs = current.roles.get(role).map_or(&empty, |role| &role.targets);
            for path in theirs.keys() {
                if let Some(bytes) = verified.target(path) {
                    self.replace_staged(path, Some(bytes), old)?;
                }
            }
            for path in here.get(role).into_iter().flat_map(BTreeMap::keys) {
                if !theirs.contains_key(path) {
                    self.replace_staged(path, None, old)?;
                }
            }
        }
        Ok(())
    }

    /// What the directory remembers; `None` for one that an older version made.
    fn memory(&self) -> Result<Option<Memory>, StagingError> {
        let path = self.directory().join(MEMORY_FILE);
        let read = disk::read_bounded(&path, limits::TARGET_BYTES as u64).and_then(|bytes| {
            let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes).map_err(io::Error::other);
            bytes.map(parse).transpose()
        });
        read.map_err(|source| StagingError::File { action: "read", path, source })
    }

    /// Roles that were published from here, or taken over, and their versions.
    pub(super) fn was_published(&self) -> Result<BTreeMap<RoleName, u64>, StagingError> {
        let roles = self.memory()?.unwrap_or_default().roles;
        Ok(roles.into_iter().map(|(role, basis)| (role, basis.version)).collect())
    }

    /// What a repository that is lost counts as: roots are kept here, and of the rest nothing is known but that every role has
    /// to go above `version`.
    ///
    /// # Errors
    /// [`PublishError::Vanished`] for a role of `published` that nobody would sign any more, which devices do not let go.
    pub(super) fn lost(
        &self,
        published: &BTreeMap<RoleName, u64>,
        vendors: &[VendorName],
        version: u64,
    ) -> Result<Current, PublishError> {
        let mut signed: BTreeSet<RoleName> = delegated_roles(vendors).into_iter().collect();
        signed.insert(RoleName::targets());
        if let Some(role) = published.keys().find(|role| !signed.contains(role)) {
            return Err(PublishError::Vanished(role.clone()));
        }
        let roots = self.roots()?;
        let mut current = Current::read(|path| roots.get(path).cloned())
            .map_err(|source| RepositoryError::Damaged { path: self.directory().to_owned(), source })?;
        raise(&mut current, &signed.into_iter().map(|role| (role, version)).collect());
        Ok(current)
    }

    /// The roots, first to last, by their paths in a repository.
    pub(super) fn roots(&self) -> Result<BTreeMap<String, Vec<u8>>, StagingError> {
        let first = metadata_path(&RoleName::root(), 1);
        let mut roots = BTreeMap::from([(first, self.first_root().to_vec())]);
        for version in 2.. {
            let (path, place) = (metadata_path(&RoleName::root(), version), self.kept_root(version));
            let read = disk::read_bounded(&place, limits::TARGET_BYTES as u64);
            match read.map_err(|source| StagingError::File { action: "read", path: place, source })? {
                Some(bytes) => roots.insert(path, bytes),
                None => break,
            };
        }
        Ok(roots)
    }

    fn kept_root(&self, version: u64) -> PathBuf {
        self.directory().join(ROOTS).join(format!("{version}.root.json"))
    }

    /// Keeps the roots of the repository that are not here yet: without them no other repository could go on.
    pub(super) fn keep_roots(&self, repository: &Repository) -> Result<(), PublishError> {
        let kept = self.roots()?.len() as u64;
        for version in kept + 1.. {
            let path = metadata_path(&RoleName::root(), version);
            let Some(bytes) = repository.read(&path)? else { break };
            let place = self.kept_root(version);
            let made = std::fs::create_dir_all(self.directory().join(ROOTS));
            let written = made.and_then(|()| disk::replace(&place, &bytes, Readers::Everyone));
            written.map_err(|source| StagingError::File { action: "write", path: place, source })?;
        }
        Ok(())
    }

    /// Notes what was signed and is about to be published.
    pub(super) fn remember_signed(&self, bases: &BTreeMap<RoleName, Basis>) -> Result<(), StagingError> {
        let memory = self.memory()?.unwrap_or_default();
        self.remember(&Memory { signed: bases.clone(), ..memory })
    }

    /// Notes what is published now, as this directory has it.
    pub(super) fn remember_published(&self, bases: BTreeMap<RoleName, Basis>) -> Result<(), StagingError> {
        self.remember(&Memory { roles: bases, signed: BTreeMap::new() })
    }

    fn remember(&self, memory: &Memory) -> Result<(), StagingError> {
        if self.memory()?.as_ref() == Some(memory) {
            return Ok(());
        }
        let path = self.directory().join(MEMORY_FILE);
        let bytes = serde_json::to_vec_pretty(memory).expect("our own types have a JSON form");
        let written = disk::replace(&path, &bytes, Readers::Everyone);
        written.map_err(|source| StagingError::File { action: "write", path, source })
    }
}

/// What is published of each role.
pub(super) fn published(current: &Current) -> BTreeMap<RoleName, Basis> {
    let basis = |(role, targets): (&RoleName, &Targets)| {
        let listed = current.snapshot.as_ref()?.role(role)?;
        Some((role.clone(), Basis::of(listed, targets)))
    };
    current.roles.iter().filter_map(basis).collect()
}

/// The digests of the staged files by the role that signs them. Vendors that either side knows count: a file that is no role's
/// is refused when it is to be signed.
fn by_role(
    staged: &BTreeMap<String, Vec<u8>>,
    current: &Current,
) -> Result<BTreeMap<RoleName, BTreeMap<String, Sha256>>, StagingError> {
    let mut vendors = vendors(staged)?;
    let theirs = current.roles.keys().filter_map(|role| role.as_str().strip_prefix("catalogue-"));
    vendors.extend(theirs.filter_map(|name| VendorName::new(name).ok()));
    vendors.sort();
    vendors.dedup();
    let mut roles: BTreeMap<RoleName, BTreeMap<String, Sha256>> = BTreeMap::new();
    for (path, bytes) in staged {
        if let Some(role) = role_of(path, &vendors) {
            roles.entry(role).or_default().insert(path.clone(), Sha256::of(bytes));
        }
    }
    Ok(roles)
}

/// The vendors that the staged files name, by name.
pub(super) fn vendors(staged: &BTreeMap<String, Vec<u8>>) -> Result<Vec<VendorName>, StagingError> {
    let bytes = staged.get(VENDORS_PATH).map(Vec::as_slice).unwrap_or_default();
    let vendors: Vendors = fleet::parse_toml(VENDORS_PATH, bytes)?;
    let mut names: Vec<_> = vendors.vendors.into_iter().map(|vendor| vendor.name).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Raises the versions of roles in `current` so that the next ones are above those that devices have seen, and are signed
/// whether or not anything changed.
pub(super) fn raise(current: &mut Current, above: &BTreeMap<RoleName, u64>) {
    for (role, version) in above {
        let entry = current.roles.entry(role.clone()).or_insert_with(|| Targets {
            version: 0,
            expires: WallTime::default(),
            targets: BTreeMap::new(),
            delegations: None,
        });
        entry.version = entry.version.max(*version);
        entry.expires = WallTime::default();
    }
}
