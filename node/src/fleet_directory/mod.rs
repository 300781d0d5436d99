//! The administrator's fleet directory: offline keys, the first root, and the files that are to be published.

mod lock;
mod memory;
mod new;
mod publish;
mod staging;

pub use lock::Lock;
pub use memory::Choices;
pub use new::NewFleet;
pub use publish::{Changes, PublishError, Summary};
pub use staging::StagingError;

use crate::disk;
use crate::key_source::{KeyError, KeyFiles, KeySource as _};
use protocol::digest::Sha256;
use protocol::fleet::{self, Revoked, Services, Sites, Vendors, to_toml};
use protocol::identifier::FleetId;
use protocol::limits;
use protocol::policy::{FLEET_LAYER_PATH, HOLDS_PATH};
use protocol::time::WallTime;
use protocol::trust::publish::{TopKeys, delegated_roles, first_root};
use protocol::trust::{Refused, RoleName, Trusted};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// File of the working root key, and of the recovery key that belongs into a safe.
const ROOT_KEY: &str = "root.json";
const RECOVERY_KEY: &str = "root-recovery.json";
/// First root metadata in the fleet directory.
const ROOT_FILE: &str = "root.json";

const EMPTY_POLICY: &str = "\
# Policy of the fleet. Without any, devices only scan and report.
# `patchmesh patch approve` adds approvals here; `patchmesh policy check` reads the file as the devices will.
";
const EMPTY_HOLDS: &str = "\
# Patches that nobody may install or share. A hold always wins over an approval.
";

/// Why a fleet directory cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// There is something already.
    #[error("{0} exists and is not empty; a fleet is never overwritten, choose another directory")]
    Exists(PathBuf),
    /// Not a fleet directory.
    #[error("{0} is not a fleet directory; make one with: patchmesh fleet init {0}")]
    NotAFleet(PathBuf),
    /// Another command changes it.
    #[error("another command has been changing {0} for some time; run this again when that one is done")]
    Busy(PathBuf),
    /// The disk.
    #[error("cannot {action} {path}; check space and permissions")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A key could not be made or read.
    #[error("the keys of the fleet cannot be used")]
    Key(#[from] KeyError),
    /// The first root is damaged.
    #[error("{path} is damaged; restore it from a backup")]
    Root {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Refused,
    },
}

/// What a new fleet begins with.
#[derive(Clone, Debug, Default)]
pub struct Initial {
    /// Vendors whose patches the fleet admits.
    pub vendors: Vendors,
    /// Seeds, aggregators, enrolment keys.
    pub services: Services,
    /// Branch offices.
    pub sites: Sites,
}

/// A fleet directory. All calls block on the disk.
#[derive(Clone, Debug)]
pub struct FleetDirectory {
    directory: PathBuf,
    root: Vec<u8>,
}

impl FleetDirectory {
    /// Makes the keys, the first root metadata and the files to edit. All of it appears at once, or nothing.
    ///
    /// # Errors
    /// [`FleetError::Exists`] when `directory` holds anything.
    pub fn init(directory: &Path, initial: &Initial, now: WallTime) -> Result<FleetDirectory, FleetError> {
        NewFleet::begin(directory, initial, now)?.finish()
    }

    /// Opens a fleet directory.
    ///
    /// # Errors
    /// [`FleetError::NotAFleet`] when there is none.
    pub fn open(directory: &Path) -> Result<FleetDirectory, FleetError> {
        let path = directory.join(ROOT_FILE);
        let read = disk::read_bounded(&path, limits::METADATA_BYTES as u64);
        let root = read
            .map_err(|source| FleetError::File { action: "read", path: path.clone(), source })?
            .ok_or_else(|| FleetError::NotAFleet(directory.to_owned()))?;
        let opened = FleetDirectory { directory: directory.to_owned(), root };
        opened.trusted().map_err(|source| FleetError::Root { path, source })?;
        Ok(opened)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The fleet's identifier: SHA-256 of the first root metadata.
    pub fn fleet(&self) -> FleetId {
        FleetId::from_bytes(*Sha256::of(&self.root).as_bytes())
    }

    /// The first root metadata, which activation keys pin and registrars hand out.
    pub fn first_root(&self) -> &[u8] {
        &self.root
    }

    /// Trust that begins with this fleet's first root.
    ///
    /// # Errors
    /// [`Refused`] when the file was damaged since it was opened.
    pub fn trusted(&self) -> Result<Trusted, Refused> {
        Trusted::from_root(&self.root, self.fleet())
    }

    /// The directory of all keys.
    pub fn keys_directory(&self) -> PathBuf {
        self.directory.join("keys")
    }

    /// The directory of the snapshot and timestamp keys, which the seed needs.
    pub fn online_keys_directory(&self) -> PathBuf {
        self.directory.join("keys/online")
    }

    /// Reads the keys.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn keys(&self) -> Result<KeyFiles, KeyError> {
        KeyFiles::open(&self.keys_directory())
    }
}

fn is_free(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(error),
    }
}

fn make_keys(directory: &Path, initial: &Initial, now: WallTime) -> Result<Vec<u8>, KeyError> {
    let mut keys = KeyFiles::open(directory)?;
    let root = RoleName::root();
    let working = keys.create_named(&root, ROOT_KEY)?;
    let targets = keys.create(&RoleName::targets())?;
    let mut online = |role: RoleName| keys.create_named(&role, &format!("online/{role}.json"));
    let snapshot = online(RoleName::snapshot())?;
    let timestamp = online(RoleName::timestamp())?;
    let vendors: Vec<_> = initial.vendors.vendors.iter().map(|vendor| vendor.name.clone()).collect();
    for role in delegated_roles(&vendors) {
        keys.create(&role)?;
    }
    let recovery = keys.create_named(&root, RECOVERY_KEY)?;
    let top = TopKeys {
        root: vec![working, recovery],
        targets: vec![targets],
        snapshot: vec![snapshot],
        timestamp: vec![timestamp],
    };
    keys.finish(first_root(&top, now))
}

fn initial_files(initial: &Initial) -> Vec<(&'static str, Vec<u8>)> {
    let revoked = serde_json::to_vec_pretty(&Revoked::default()).expect("our own types have a JSON form");
    vec![
        (fleet::VENDORS_PATH, to_toml(&initial.vendors)),
        (fleet::SERVICES_PATH, to_toml(&initial.services)),
        (fleet::SITES_PATH, to_toml(&initial.sites)),
        (fleet::REVOKED_PATH, revoked),
        (FLEET_LAYER_PATH, EMPTY_POLICY.as_bytes().to_vec()),
        (HOLDS_PATH, EMPTY_HOLDS.as_bytes().to_vec()),
    ]
}

#[cfg(test)]
mod copies;
#[cfg(test)]
mod tests;
