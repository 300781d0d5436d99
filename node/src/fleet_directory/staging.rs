//! Files that are to be published, as the administrator edits them: one below `targets/` for each target path.

use super::FleetDirectory;
use crate::disk::{self, Readers};
use protocol::fleet::{
    self, Malformed, REVOKED_PATH, Revoked, SERVICES_PATH, SITES_PATH, Services, Sites, VENDORS_PATH, Vendors,
};
use protocol::identifier::VendorName;
use protocol::limits;
use protocol::manifest::{Catalogue, Invalid};
use protocol::policy::{HOLDS_PATH, Holds, Inconsistent, Layer};
use protocol::trust::is_target_path;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a staged file cannot be read, written or published.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The disk.
    #[error("cannot {action} {path}; check space and permissions")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file name that no target can have.
    #[error("{0} cannot be published: use plain letters, digits, '-', '_' and '.' in its name, or remove it")]
    NotATarget(PathBuf),
    /// More files than nodes accept.
    #[error("more than {limit} files are staged; remove some", limit = limits::BUNDLE_FILES)]
    TooMany,
    /// A file larger than nodes accept.
    #[error("{path} has {found} bytes, nodes accept {limit}; split it", limit = limits::TARGET_BYTES)]
    TooLarge {
        /// The target.
        path: String,
        /// Its bytes.
        found: usize,
    },
    /// A file that nodes could not read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A policy that contradicts itself.
    #[error("{path} cannot be published")]
    Policy {
        /// The target.
        path: String,
        /// The contradiction.
        source: Inconsistent,
    },
    /// A catalogue that nodes would refuse.
    #[error("{path} cannot be published")]
    Catalogue {
        /// The target.
        path: String,
        /// What is wrong.
        source: Invalid,
    },
    /// A catalogue in the directory of another vendor.
    #[error("{path} is the catalogue of vendor {vendor}; move it to catalogue/{vendor}/")]
    OtherVendor {
        /// The target.
        path: String,
        /// The vendor inside.
        vendor: VendorName,
    },
}

/// What becomes of a staged file that another one replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Old {
    /// It stays beside the new one.
    Kept,
    /// It goes: it was published, so the repository has it still.
    Dropped,
}

impl FleetDirectory {
    /// Where the administrator edits the target `path`.
    pub fn staged_path(&self, path: &str) -> PathBuf {
        self.directory().join("targets").join(path)
    }

    /// Content of a staged file; `None` when it does not exist.
    ///
    /// # Errors
    /// [`StagingError::File`].
    pub fn staged(&self, path: &str) -> Result<Option<Vec<u8>>, StagingError> {
        let place = self.staged_path(path);
        disk::read_bounded(&place, limits::TARGET_BYTES as u64).map_err(|source| StagingError::File {
            action: "read",
            path: place,
            source,
        })
    }

    /// Stages a file after checking it as nodes will, whole or not at all.
    ///
    /// # Errors
    /// [`StagingError`] says what is wrong with the content or the disk.
    pub fn stage(&self, path: &str, bytes: &[u8]) -> Result<(), StagingError> {
        if !is_target_path(path) {
            return Err(StagingError::NotATarget(path.into()));
        }
        check(path, bytes)?;
        let place = self.staged_path(path);
        let written = self.write_staged(path, bytes);
        written.map_err(|source| StagingError::File { action: "write", path: place, source })
    }

    /// Puts `bytes` in the place of a staged file, or removes it; with [`Old::Kept`] the old file stays beside it under its
    /// name with a `~`, which is never published.
    pub(super) fn replace_staged(
        &self,
        path: &str,
        bytes: Option<&[u8]>,
        old: Old,
    ) -> Result<(), StagingError> {
        let place = self.staged_path(path);
        let replace = || -> io::Result<()> {
            let before = disk::read_bounded(&place, limits::TARGET_BYTES as u64)?;
            if before.as_deref() == bytes {
                return Ok(());
            }
            if let Some(before) = before.filter(|_| old == Old::Kept) {
                self.write_staged(&format!("{path}~"), &before)?;
            }
            match bytes {
                Some(bytes) => self.write_staged(path, bytes),
                None => {
                    fs::remove_file(&place)?;
                    disk::sync_directory_of(&place)
                }
            }
        };
        replace().map_err(|source| StagingError::File { action: "write", path: place.clone(), source })
    }

    /// Writes a staged file as it is: also after power loss it is there, and the directories that lead to it.
    pub(super) fn write_staged(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let place = self.staged_path(path);
        let directory = place.parent().unwrap_or(self.directory());
        fs::create_dir_all(directory)?;
        disk::replace_before_sync(&place, bytes, Readers::Everyone)?;
        disk::sync_directories(&BTreeSet::from([directory.to_owned()]), self.directory())
    }

    /// All staged files, checked as nodes will. Hidden files and editors' backups (`x~`) are left alone.
    ///
    /// # Errors
    /// [`StagingError`] for the first file that cannot be published.
    pub fn all_staged(&self) -> Result<BTreeMap<String, Vec<u8>>, StagingError> {
        let mut found = BTreeMap::new();
        collect(&self.directory().join("targets"), "", limits::STAGING_DEPTH, &mut found)?;
        for (path, bytes) in &found {
            check(path, bytes)?;
        }
        Ok(found)
    }
}

fn collect(
    directory: &Path,
    above: &str,
    depth: usize,
    found: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), StagingError> {
    let failed = |source| StagingError::File { action: "read", path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let place = entry.path();
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| StagingError::NotATarget(place.clone()))?;
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        let path = if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() && depth > 0 {
            collect(&place, &path, depth - 1, found)?;
        } else if kind.is_file() && is_target_path(&path) {
            let bytes = disk::read_bounded(&place, limits::TARGET_BYTES as u64)
                .map_err(|source| StagingError::File { action: "read", path: place, source })?;
            found.insert(path, bytes.unwrap_or_default());
        } else {
            return Err(StagingError::NotATarget(place));
        }
        if found.len() > limits::BUNDLE_FILES {
            return Err(StagingError::TooMany);
        }
    }
    Ok(())
}

/// Reads a file as nodes will. Files of a kind that this version does not know are published as they are.
fn check(path: &str, bytes: &[u8]) -> Result<(), StagingError> {
    if bytes.len() > limits::TARGET_BYTES {
        return Err(StagingError::TooLarge { path: path.to_owned(), found: bytes.len() });
    }
    match path {
        VENDORS_PATH => fleet::parse_toml::<Vendors>(path, bytes).map(|_| ())?,
        SERVICES_PATH => fleet::parse_toml::<Services>(path, bytes).map(|_| ())?,
        SITES_PATH => fleet::parse_toml::<Sites>(path, bytes).map(|_| ())?,
        HOLDS_PATH => fleet::parse_toml::<Holds>(path, bytes).map(|_| ())?,
        REVOKED_PATH => {
            serde_json::from_slice::<Revoked>(bytes).map_err(|error| Malformed::new(path, error))?;
        }
        _ if path.starts_with("policy/") && path != "policy/threats.toml" => {
            let policy = |source| StagingError::Policy { path: path.to_owned(), source };
            Layer::parse(path, bytes).and_then(|layer| layer.check_written()).map_err(policy)?;
        }
        _ if path.starts_with("catalogue/") => {
            let invalid = |source| StagingError::Catalogue { path: path.to_owned(), source };
            let vendor = Catalogue::parse(bytes).map_err(invalid)?.vendor;
            if path.split('/').nth(1) != Some(vendor.as_str()) {
                return Err(StagingError::OtherVendor { path: path.to_owned(), vendor });
            }
        }
        _ => {}
    }
    Ok(())
}
