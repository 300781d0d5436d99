//! The repository of signed metadata on disk: what the seed serves, published by compare-and-swap.

mod versions;

pub use versions::Versions;

use crate::disk::{self, Readers};
use crate::key_source::KeyError;
use protocol::identifier::FleetId;
use protocol::limits;
use protocol::time::WallTime;
use protocol::trust::{
    Bundle, BundleError, Current, Refresh, Refused, Request, RoleName, Step, Trusted, WANTED_BY_ALL,
    make_bundle, metadata_path, role_of_metadata_path,
};
use rustix::fs::FlockOperation;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a repository cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// There is no repository in the directory.
    #[error("{0} holds no repository; run `patchmesh fleet publish` with this directory first")]
    NoRepository(PathBuf),
    /// A file could not be read or written.
    #[error("cannot {action} {path}; check space and permissions")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What lies there does not verify.
    #[error(
        "the repository in {path} is damaged; restore it from a backup, or, without one, move it aside, and run \
         `patchmesh fleet publish --anew`"
    )]
    Damaged {
        /// The repository.
        path: PathBuf,
        /// What is wrong.
        source: Refused,
    },
    /// What is to be published would be refused by every node.
    #[error("not published: nodes would refuse it")]
    WouldBeRefused(#[source] Refused),
    /// A file that a publication may not bring or replace.
    #[error("not published: a publication may not bring {0}")]
    NotToBePublished(String),
    /// Somebody else published in between.
    #[error("not published: the repository is at version {found} now and not at {expected}; publish again")]
    Conflict {
        /// Timestamp version that the publication builds upon.
        expected: u64,
        /// Timestamp version found.
        found: u64,
    },
    /// The answer to a node is larger than a bundle may be.
    #[error("the metadata for one node does not fit into a bundle")]
    Bundle(#[from] BundleError),
    /// An online key is missing.
    #[error("snapshot and timestamp cannot be signed")]
    Key(#[from] KeyError),
}

/// A repository directory: `metadata/` and `targets/` with consistent snapshots. All calls block on the disk.
#[derive(Clone, Debug)]
pub struct Repository {
    directory: PathBuf,
}

/// The lock of a repository; released when it is dropped or the process dies.
struct Lock(#[expect(dead_code, reason = "held for its lock")] fs::File);

impl Repository {
    /// Opens a repository that was published.
    ///
    /// # Errors
    /// [`RepositoryError::NoRepository`] when nothing was published in `directory` yet.
    pub fn open(directory: &Path) -> Result<Repository, RepositoryError> {
        let repository = Repository { directory: directory.to_owned() };
        match repository.read(&metadata_path(&RoleName::timestamp(), 0))? {
            Some(_) => Ok(repository),
            None => Err(RepositoryError::NoRepository(directory.to_owned())),
        }
    }

    /// The place of a repository that may not have been published yet.
    ///
    /// # Errors
    /// [`RepositoryError::File`] when the directory cannot be made.
    pub fn prepare(directory: &Path) -> Result<Repository, RepositoryError> {
        let failed = |source| RepositoryError::File { action: "make", path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        Ok(Repository { directory: directory.to_owned() })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file at `path` of the repository, if it exists.
    ///
    /// # Errors
    /// [`RepositoryError::File`].
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, RepositoryError> {
        let place = self.directory.join(path);
        disk::read_bounded(&place, limits::TARGET_BYTES as u64).map_err(|source| RepositoryError::File {
            action: "read",
            path: place,
            source,
        })
    }

    /// What a node with `request` needs, as it asks for it at its check-in.
    ///
    /// # Errors
    /// [`RepositoryError`] when files cannot be read, or the answer is too large.
    pub fn bundle(&self, request: &Request) -> Result<Bundle, RepositoryError> {
        self.reading(|read| make_bundle(request, read))?.map_err(RepositoryError::from)
    }

    /// The current metadata; `None` before the first publication.
    ///
    /// # Errors
    /// [`RepositoryError`] when it cannot be read.
    pub fn current(&self) -> Result<Option<Current>, RepositoryError> {
        if self.read(&metadata_path(&RoleName::root(), 1))?.is_none() {
            return Ok(None);
        }
        self.reading(|read| Current::read(read))?.map(Some).map_err(|source| self.damaged(source))
    }

    /// What a node that begins with `trusted` finds for the `wanted` targets, all signatures verified. Expiry says nothing
    /// about what was published before, and is not looked at.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] when a node would refuse it.
    pub fn verified(
        &self,
        trusted: &Trusted,
        wanted: &[impl AsRef<str>],
    ) -> Result<Trusted, RepositoryError> {
        let refresh = Refresh::new(trusted, WallTime::default(), wanted);
        run(refresh, |path| self.read(path))?.map_err(|source| self.damaged(source))
    }

    /// Reads all of it as a node would that begins with the first root: what is served to one that is up to date says little of
    /// the files that a new one needs.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] when such a node would refuse it.
    pub fn check(&self, current: &Current) -> Result<(), RepositoryError> {
        let path = metadata_path(&RoleName::root(), 1);
        let root = self.read(&path)?.ok_or_else(|| self.damaged(Refused::Missing(path)))?;
        let trusted = Trusted::from_root(&root, current.fleet).map_err(|source| self.damaged(source))?;
        // What every node wants counts although nothing in the repository may list it any more.
        let wanted = current.target_paths().into_iter().chain(WANTED_BY_ALL.map(str::to_owned));
        self.verified(&trusted, &wanted.collect::<Vec<_>>()).map(drop)
    }

    /// The fleet whose repository this is.
    ///
    /// # Errors
    /// [`RepositoryError`] when it cannot be read or was not published yet.
    pub fn fleet(&self) -> Result<FleetId, RepositoryError> {
        let current = self.current()?;
        current.map(|found| found.fleet).ok_or_else(|| RepositoryError::NoRepository(self.directory.clone()))
    }

    /// Publishes `new` files by their paths, if the timestamp is still of version `expected` (0: none yet). It runs
    /// the workflow of a node over the result first; a crash at any point leaves the old or the new version, whole.
    ///
    /// # Errors
    /// [`RepositoryError`]; nothing that nodes see has changed then.
    pub fn publish(
        &self,
        expected: u64,
        new: &BTreeMap<String, Vec<u8>>,
        now: WallTime,
    ) -> Result<(), RepositoryError> {
        let _lock = self.lock()?;
        let found = self.current()?.map_or(0, |current| current.timestamp_version());
        if found != expected {
            return Err(RepositoryError::Conflict { expected, found });
        }
        self.keep_roots(new)?;
        self.rehearse(new, now)?;
        let (last, first): (Vec<_>, Vec<_>) = new.iter().partition(|(path, _)| is_timestamp(path));
        self.write_all(&first)?;
        self.write_all(&last)
    }

    /// Roots that were published stay as they are: the first one is the fleet.
    fn keep_roots(&self, new: &BTreeMap<String, Vec<u8>>) -> Result<(), RepositoryError> {
        let is_root =
            |path: &str| role_of_metadata_path(path).is_some_and(|(role, _)| role == RoleName::root());
        for (path, bytes) in new.iter().filter(|(path, _)| is_root(path)) {
            if self.read(path)?.is_some_and(|old| old != *bytes) {
                return Err(RepositoryError::NotToBePublished(path.clone()));
            }
        }
        Ok(())
    }

    /// Does what a node would do that knows the current version and is offered the new one.
    fn rehearse(&self, new: &BTreeMap<String, Vec<u8>>, now: WallTime) -> Result<(), RepositoryError> {
        let overlay = |path: &str| match new.get(path) {
            Some(bytes) => Ok(Some(bytes.clone())),
            None => self.read(path),
        };
        let path = metadata_path(&RoleName::root(), 1);
        let root = overlay(&path)?.ok_or(RepositoryError::WouldBeRefused(Refused::Missing(path)))?;
        let fleet = FleetId::from_bytes(*protocol::digest::Sha256::of(&root).as_bytes());
        let mut trusted = Trusted::from_root(&root, fleet).map_err(RepositoryError::WouldBeRefused)?;
        if self.read(&metadata_path(&RoleName::timestamp(), 0))?.is_some() {
            let nothing: [&str; 0] = [];
            trusted = self.verified(&trusted, &nothing)?;
        }
        let mut failure = None;
        let next = Current::read(|path| overlay(path).map_err(|error| failure = Some(error)).ok().flatten());
        if let Some(error) = failure {
            return Err(error);
        }
        let next = next.map_err(RepositoryError::WouldBeRefused)?;
        let wanted: BTreeSet<&String> = next.roles.values().flat_map(|role| role.targets.keys()).collect();
        let wanted: Vec<&String> = wanted.into_iter().collect();
        let refresh = Refresh::new(&trusted, now, &wanted);
        run(refresh, overlay)?.map(|_| ()).map_err(RepositoryError::WouldBeRefused)
    }

    fn write_all(&self, new: &[(&String, &Vec<u8>)]) -> Result<(), RepositoryError> {
        let mut directories = BTreeSet::new();
        for parent in new.iter().filter_map(|(path, _)| Path::new(path.as_str()).parent()) {
            let place = self.directory.join(parent);
            let made = fs::create_dir_all(&place).and_then(|()| disk::remove_unfinished(&place));
            let failed =
                |source| RepositoryError::File { action: "make or tidy", path: place.clone(), source };
            made.map_err(failed)?;
            directories.insert(place);
        }
        for (path, bytes) in new {
            let place = self.directory.join(path.as_str());
            let written = disk::replace_before_sync(&place, bytes, Readers::Everyone);
            written.map_err(|source| RepositoryError::File { action: "write", path: place, source })?;
        }
        disk::sync_directories(&directories, &self.directory).map_err(|source| RepositoryError::File {
            action: "write",
            path: self.directory.clone(),
            source,
        })
    }

    fn lock(&self) -> Result<Lock, RepositoryError> {
        let path = self.directory.join("lock");
        let locked = disk::open_file(fs::OpenOptions::new().create(true).truncate(false).write(true), &path)
            .and_then(|file| Ok(rustix::fs::flock(&file, FlockOperation::LockExclusive).map(|()| file)?));
        locked.map(Lock).map_err(|source| RepositoryError::File { action: "lock", path, source })
    }

    /// Hands a reader of files to `work`, and an error of the disk to the caller instead of a missing file.
    fn reading<T>(
        &self,
        work: impl FnOnce(&mut dyn FnMut(&str) -> Option<Vec<u8>>) -> T,
    ) -> Result<T, RepositoryError> {
        let mut failure = None;
        let result = work(&mut |path| self.read(path).map_err(|error| failure = Some(error)).ok().flatten());
        failure.map_or(Ok(result), Err)
    }

    fn damaged(&self, source: Refused) -> RepositoryError {
        RepositoryError::Damaged { path: self.directory.clone(), source }
    }
}

fn is_timestamp(path: &str) -> bool {
    path == metadata_path(&RoleName::timestamp(), 0)
}

fn run(
    mut refresh: Refresh,
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>, RepositoryError>,
) -> Result<Result<Trusted, Refused>, RepositoryError> {
    loop {
        let provided = match refresh.step() {
            Err(refused) => return Ok(Err(refused)),
            Ok(Step::Done(trusted)) => return Ok(Ok(*trusted)),
            Ok(Step::Need { path, .. }) => match read(&path)? {
                Some(bytes) => refresh.provide(&bytes),
                None => refresh.provide_missing(),
            },
        };
        if let Err(refused) = provided {
            return Ok(Err(refused));
        }
    }
}
