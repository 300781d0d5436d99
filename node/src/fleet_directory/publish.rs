//! `fleet publish`: signs what changed since the repository's current version, and nothing else.

use super::memory::{self, Choices};
use super::{FleetDirectory, StagingError};
use crate::key_source::{KeyError, KeySource};
use crate::repository::{Repository, RepositoryError, Versions};
use protocol::digest::Sha256;
use protocol::fleet::parse_toml;
use protocol::identifier::{FleetId, VendorName};
use protocol::policy::{HOLDS_PATH, Hold, Holds};
use protocol::signature::PublicKey;
use protocol::time::WallTime;
use protocol::trust::basis::Basis;
use protocol::trust::publish::{ROOT_DAYS, delegated_roles, delegations, next_root, next_targets, role_of};
use protocol::trust::{Current, Key, ListedFile, RoleName, Targets, metadata_path, target_file_path};
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
    #[error(
        "this directory holds fleet {expected}, the repository is of fleet {found}; name the right one with --fleet, or with --repository and --socket"
    )]
    OtherFleet {
        /// Fleet of the fleet directory.
        expected: FleetId,
        /// Fleet of the repository.
        found: FleetId,
    },
    /// No repository where there was one.
    #[error(
        "not published: this directory has published before, and there is no repository in {}; name the one that \
         seed.repository of the seed's configuration names with --repository, or restore it from a backup; if it is lost for \
         good, begin another one that devices go on with: `patchmesh fleet publish --anew`",
        .0.display()
    )]
    NoRepository(PathBuf),
    /// A role that devices know and that nobody would sign.
    #[error(
        "not published: devices know role {0} and take no repository without it; name its vendor in fleet/vendors.toml again"
    )]
    Vanished(RoleName),
    /// What is published was signed later than it is now.
    #[error(
        "not published: the clock of this machine says {now}, and what is published was signed later ({signed}); devices \
         whose clock is right would sooner or later refuse what is signed now as expired; set the clock, or publish with --clock-is-right \
         when it was wrong at the last publication"
    )]
    Clock {
        /// Now, as this machine says.
        now: WallTime,
        /// When the newest timestamp was signed.
        signed: WallTime,
    },
    /// Somebody else published the role, and it was changed here too.
    #[error(
        "not published: somebody else published role {role}, and {} is changed here too ({}); take theirs over with \
         `patchmesh fleet publish --take {role}` (yours stays beside it as NAME~) and make your change again, or replace \
         theirs with `--overwrite {role}`",
        files.join(", "),
        based_on(*published, *basis)
    )]
    Diverged {
        /// The role.
        role: RoleName,
        /// Its version at the seed.
        published: u64,
        /// The version that this directory builds upon, where it remembers one.
        basis: Option<u64>,
        /// Target paths that differ.
        files: Vec<String>,
    },
    /// The repository has an older version of a role than this directory has seen.
    #[error(
        "not published: the repository has version {published} of role {role}, and this directory has seen version {basis}, so \
         the repository was set back and devices refuse it; restore its newest backup, or publish a newer version from here \
         with `patchmesh fleet publish --overwrite {role}`"
    )]
    SetBack {
        /// The role.
        role: RoleName,
        /// Its version at the seed.
        published: u64,
        /// The version that this directory has seen.
        basis: u64,
    },
    /// Holds that are in force stand in the list no more.
    #[error(
        "not published: hold/holds.toml lacks what is published ({}); only `patchmesh patch release` ends a hold, so take the \
         list over as it is published with `patchmesh fleet publish --take hold` (yours stays beside it as NAME~), or publish \
         yours with `--overwrite hold`, which lifts what it lacks",
        .0.iter().map(|hold| format!("{} on {}", hold.id, hold.patch)).collect::<Vec<_>>().join(", ")
    )]
    HoldsLost(Vec<Hold>),
    /// A staged file that no role may sign.
    #[error(
        "no role may sign {0}; catalogues go to catalogue/VENDOR/ of a vendor in fleet/vendors.toml, \
         rules to policy/NAME.toml; move or remove it"
    )]
    NoRole(String),
}

fn based_on(published: u64, basis: Option<u64>) -> String {
    match basis {
        Some(basis) => {
            format!("the seed has version {published}, this directory builds upon version {basis}")
        }
        None => format!(
            "the seed has version {published}, and this directory does not remember which version it builds upon"
        ),
    }
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
    /// Roles that somebody else published and that were taken over into the fleet directory, with their versions.
    pub taken: BTreeMap<RoleName, u64>,
    /// Version of the snapshot now.
    pub snapshot: u64,
    /// Version of the timestamp now.
    pub timestamp: u64,
}

impl FleetDirectory {
    /// Signs what changed and publishes it into the repository directory, which is made if it does not exist. Roles that
    /// somebody else published meanwhile, and nobody changed here, are taken over.
    ///
    /// # Errors
    /// [`PublishError`]; then nothing changed in the repository.
    pub fn publish(&self, repository: &Path, now: WallTime) -> Result<Summary, PublishError> {
        self.publish_with(&mut self.keys()?, repository, &Choices::default(), now)
    }

    /// As [`FleetDirectory::publish`], with keys from elsewhere than the fleet directory, and with choices for roles that
    /// were changed on both sides.
    ///
    /// # Errors
    /// [`PublishError`]; then nothing changed in the repository.
    pub fn publish_with(
        &self,
        keys: &mut dyn KeySource,
        repository: &Path,
        choices: &Choices,
        now: WallTime,
    ) -> Result<Summary, PublishError> {
        self.refuse_other_repository(repository, choices)?;
        let repository = Repository::prepare(repository)?;
        let changes = self.sign_changes(keys, &repository, choices, now)?;
        self.remember_signed(&changes.bases)?;
        let Versions { snapshot, timestamp } =
            repository.accept(changes.base, changes.files, changes.above, keys, now)?;
        self.remember_published(changes.bases)?;
        // What is published is published; the next publication keeps what this one could not.
        let _ = self.keep_roots(&repository);
        let Changes { roles, targets, taken, .. } = changes;
        Ok(Summary { fleet: self.fleet(), roles, targets, taken, snapshot, timestamp })
    }

    /// Refuses a repository that another fleet was published into, and a place without one when this directory was published
    /// before, unless that is what `choices` ask for: it may be the wrong place.
    ///
    /// # Errors
    /// [`PublishError::OtherFleet`], [`PublishError::NoRepository`], and [`PublishError::Repository`] when that cannot be told.
    pub fn refuse_other_repository(&self, repository: &Path, choices: &Choices) -> Result<(), PublishError> {
        match Repository::open(repository).and_then(|repository| repository.fleet()) {
            Ok(found) if found != self.fleet() => {
                Err(PublishError::OtherFleet { expected: self.fleet(), found })
            }
            Err(RepositoryError::NoRepository(_)) if !choices.anew && !self.was_published()?.is_empty() => {
                Err(PublishError::NoRepository(repository.to_owned()))
            }
            Ok(_) | Err(RepositoryError::NoRepository(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses a clock that is before this fleet began, where versions come from it.
    fn refuse_early(&self, now: WallTime, choices: &Choices) -> Result<(), PublishError> {
        let trusted = self
            .trusted()
            .map_err(|source| RepositoryError::Damaged { path: self.directory().to_owned(), source })?;
        let life = u64::from(ROOT_DAYS) * 86_400;
        let signed = WallTime::from_unix_seconds(trusted.root().expires.unix_seconds().saturating_sub(life));
        match signed > now.plus_days(1) && !choices.clock_is_right {
            true => Err(PublishError::Clock { now, signed }),
            false => Ok(()),
        }
    }

    /// Signs what differs from the repository, without snapshot and timestamp: those the seed adds, which holds their keys
    /// ([`Repository::accept`]).
    ///
    /// # Errors
    /// [`PublishError`] when a staged file cannot be published, a key is missing, or somebody else's work would be lost.
    pub fn sign_changes(
        &self,
        keys: &mut dyn KeySource,
        repository: &Repository,
        choices: &Choices,
        now: WallTime,
    ) -> Result<Changes, PublishError> {
        let published = self.was_published()?;
        // One that was being begun when something failed is as good as none.
        let begun = |current: &Current| current.timestamp.is_some() || published.is_empty();
        let mut current = repository.current()?.filter(begun);
        if let Some(found) =
            current.as_ref().map(|current| current.fleet).filter(|found| *found != self.fleet())
        {
            return Err(PublishError::OtherFleet { expected: self.fleet(), found });
        }
        if let Some(signed) = current.as_ref().and_then(Current::signed)
            && signed > now.plus_days(1)
            && !choices.clock_is_right
        {
            return Err(PublishError::Clock { now, signed });
        }
        let settled = self.settle(repository, current.as_ref(), choices)?;
        if let Some(current) = &current {
            refuse_lost_holds(repository, current, &settled.staged, choices)?;
        }
        let mut bases = current.as_ref().map(memory::published).unwrap_or_default();
        if let Some(current) = &mut current {
            memory::raise(current, &settled.above);
        }
        let staged = settled.staged;
        let vendors = memory::vendors(&staged)?;
        // Devices have seen versions that this repository has not. Seconds are above whatever was counted by ones.
        let lost = current.is_none() && !published.is_empty();
        let mut above = 0;
        if lost || choices.anew && !published.is_empty() || !settled.above.is_empty() {
            self.refuse_early(now, choices)?;
            above = published.values().copied().fold(now.unix_seconds(), u64::max);
        }
        if lost {
            current = Some(self.lost(&published, &vendors, above)?);
        }
        let base = current.as_ref().map_or(0, Current::timestamp_version);
        let mut work = Work {
            keys,
            current,
            now,
            files: BTreeMap::new(),
            roles: BTreeMap::new(),
            bases: BTreeMap::new(),
            have_keys: if lost { published.into_keys().collect() } else { BTreeSet::new() },
        };
        if base == 0 {
            work.files.extend(self.roots()?);
        }
        work.sign_root()?;
        let targets = work.sign_targets(&staged, &vendors)?;
        bases.extend(work.bases);
        Ok(Changes {
            base,
            above,
            files: work.files,
            roles: work.roles,
            targets,
            taken: settled.taken,
            bases,
        })
    }
}

/// Compares the staged list of holds with the published one: an editor's slip, or a file that a crash left empty, must not lift any.
fn refuse_lost_holds(
    repository: &Repository,
    current: &Current,
    staged: &BTreeMap<String, Vec<u8>>,
    choices: &Choices,
) -> Result<(), PublishError> {
    let role = role_of(HOLDS_PATH, &[]).filter(|role| !choices.overwrite.contains(role));
    let listed = role.and_then(|role| current.roles.get(&role)?.targets.get(HOLDS_PATH));
    let Some(sha256) = listed.and_then(ListedFile::sha256) else { return Ok(()) };
    let published = repository.read(&target_file_path(HOLDS_PATH, sha256))?.unwrap_or_default();
    let published: Holds =
        parse_toml("the published hold/holds.toml", &published).map_err(StagingError::from)?;
    let here = staged.get(HOLDS_PATH).map(Vec::as_slice).unwrap_or_default();
    let here: Holds = parse_toml(HOLDS_PATH, here).map_err(StagingError::from)?;
    let is_here =
        |hold: &Hold| here.holds.iter().any(|other| other.id == hold.id && other.patch == hold.patch);
    let lost: Vec<Hold> = published.holds.into_iter().filter(|hold| !is_here(hold)).collect();
    if lost.is_empty() { Ok(()) } else { Err(PublishError::HoldsLost(lost)) }
}

/// What an administrator signed, on its way to the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Version of the timestamp that it builds upon; 0 for a new repository.
    pub base: u64,
    /// Where devices have seen versions that the repository lost: above which ones snapshot and timestamp have to go; else 0.
    pub above: u64,
    /// New files by their paths in the repository; empty when nothing changed.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Roles that were signed anew, with their new versions.
    pub roles: BTreeMap<RoleName, u64>,
    /// Target paths whose content is new, changed, or gone.
    pub targets: Vec<String>,
    /// Roles that somebody else published and that were taken over into the fleet directory, with their versions.
    pub taken: BTreeMap<RoleName, u64>,
    /// What the directory's roles are based on as soon as this is published.
    pub bases: BTreeMap<RoleName, Basis>,
}

/// One publication under way.
struct Work<'a> {
    keys: &'a mut dyn KeySource,
    current: Option<Current>,
    now: WallTime,
    /// Files to write, by their paths in the repository.
    files: BTreeMap<String, Vec<u8>>,
    /// Roles that were signed anew, with their new versions.
    roles: BTreeMap<RoleName, u64>,
    /// What copies of those roles are based on from now on.
    bases: BTreeMap<RoleName, Basis>,
    /// Roles that have keys, though the repository says no more which: none is made for them.
    have_keys: BTreeSet<RoleName>,
}

impl Work<'_> {
    fn targets(&self, role: &RoleName) -> Option<&Targets> {
        self.current.as_ref().and_then(|current| current.roles.get(role))
    }

    /// Signs the root for another year when it nears its expiry and a root key is here. Without one it is not this
    /// publication that fails but, in the end, every refresh, and that message says what to do.
    fn sign_root(&mut self) -> Result<(), KeyError> {
        let root = RoleName::root();
        let next = self.current.as_ref().and_then(|current| next_root(&current.root, self.now));
        if let Some(unsigned) = next.filter(|_| !self.keys.public(&root).is_empty()) {
            let version = unsigned.version();
            self.files.insert(metadata_path(&root, version), self.keys.finish(unsigned)?);
            self.roles.insert(root, version);
        }
        Ok(())
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
            let digests =
                files.iter().filter_map(|(path, file)| Some((path.clone(), file.sha256()?))).collect();
            let Some(unsigned) = next_targets(&role, self.targets(&role), files, delegations, self.now)
            else {
                continue;
            };
            let version = unsigned.version();
            let bytes = self.keys.finish(unsigned)?;
            let basis = Basis { version, sha256: Some(Sha256::of(&bytes)), files: digests };
            self.bases.insert(role.clone(), basis);
            self.roles.insert(role.clone(), version);
            self.files.insert(metadata_path(&role, version), bytes);
        }
        for path in &differing {
            if let Some(bytes) = staged.get(path) {
                self.files.insert(target_file_path(path, Sha256::of(bytes)), bytes.clone());
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
            if keys.is_empty() && self.have_keys.contains(&role) {
                return Err(KeyError::NoKey(role));
            }
            if keys.is_empty() {
                keys = vec![self.keys.create(&role)?];
            }
            known.insert(role, keys);
        }
        Ok(known)
    }
}
