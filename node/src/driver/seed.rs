//! The seed's side of the repository: reads what was published, and keeps the timestamp fresh.

use crate::key_source::{KeyError, KeyFiles, KeySource as _};
use crate::repository::{Repository, RepositoryError};
use protocol::time::WallTime;
use protocol::trust::{Bundle, Request, RoleName};
use std::path::{Path, PathBuf};

/// Why a seed did not start.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The keys for snapshot and timestamp cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// One of them is not there.
    #[error(
        "{directory} holds no key of role {role}, without which the fleet's metadata expires; copy it from keys/online of \
         the fleet directory"
    )]
    NoKey {
        /// The role.
        role: RoleName,
        /// Where keys were looked for.
        directory: PathBuf,
    },
}

/// The repository that a seed serves, with the keys that keep it fresh.
pub(super) struct Seed {
    repository: Repository,
    keys: KeyFiles,
}

impl Seed {
    /// The repository's directory, from the root of the file system on where that can be told.
    pub(super) fn directory(&self) -> PathBuf {
        let directory = self.repository.directory();
        std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned())
    }

    /// Opens repository and keys. Blocks on the disk.
    pub(super) fn open(repository: &Path, keys: &Path) -> Result<Seed, SeedError> {
        let found = KeyFiles::open(keys)?;
        for role in [RoleName::snapshot(), RoleName::timestamp()] {
            if found.public(&role).is_empty() {
                return Err(SeedError::NoKey { role, directory: keys.to_owned() });
            }
        }
        Ok(Seed { repository: Repository::prepare(repository)?, keys: found })
    }

    /// What is new in the repository, all of which is checked, for a core that says what it has with `request`; `None` before the first
    /// publication. Blocks on the disk.
    pub(super) fn read(
        &self,
        request: impl Fn(&[String]) -> Request,
    ) -> Result<Option<(Bundle, Vec<String>)>, RepositoryError> {
        let Some(current) = self.repository.current()? else { return Ok(None) };
        self.repository.check(&current)?;
        let targets = current.target_paths();
        let bundle = self.repository.bundle(&request(&targets))?;
        Ok(Some((bundle, targets)))
    }

    /// Signs timestamp and snapshot again when they come near their expiry. Blocks on the disk.
    ///
    /// # Errors
    /// It cannot: unless somebody mends it, the fleet's metadata expires.
    pub(super) fn refresh(&self, now: WallTime) -> Result<(), RepositoryError> {
        match self.repository.sign_again(&self.keys, now) {
            Ok(versions) => tracing::debug!(?versions, "the repository is fresh"),
            // Nothing was published yet, or somebody published just now.
            Err(RepositoryError::NoRepository(_) | RepositoryError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
