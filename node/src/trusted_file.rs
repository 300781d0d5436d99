//! What this node trusts, on disk: one file, replaced as a whole, so that no crash tears it or takes it back.

use crate::disk::{self, Readers};
use protocol::codec::{self, DecodeError};
use protocol::identifier::FleetId;
use protocol::limits;
use protocol::trust::{RestoreError, Trusted};
use std::io;
use std::path::{Path, PathBuf};

/// Why the trusted set cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum TrustedFileError {
    /// There is none: the device never joined, or somebody removed it. An older one must not take its place.
    #[error("{0} is missing; if this device was a member before, join again")]
    Missing(PathBuf),
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
    /// Not the records of a trusted set.
    #[error("{path} is torn; restore the state directory from a backup or join again")]
    Torn {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DecodeError,
    },
    /// Records that do not make a trusted set.
    #[error("{path} cannot be trusted")]
    Restore {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: RestoreError,
    },
}

impl TrustedFileError {
    /// The stable reason code.
    pub fn code(&self) -> &'static str {
        match self {
            TrustedFileError::Missing(_) => "trusted-missing",
            TrustedFileError::File { .. } => "trusted-unreadable",
            TrustedFileError::Torn { .. } => "trusted-torn",
            TrustedFileError::Restore { source, .. } => source.code(),
        }
    }
}

/// The file of the trusted set. It has one writer, the node. All calls block on the disk.
#[derive(Clone, Debug)]
pub struct TrustedFile {
    path: PathBuf,
}

impl TrustedFile {
    /// The trusted set in the file at `path`, which need not exist yet.
    pub fn new(path: &Path) -> TrustedFile {
        TrustedFile { path: path.to_owned() }
    }

    /// Reads and verifies the set.
    ///
    /// # Errors
    /// [`TrustedFileError`]; a node that was a member stops then, it does not begin again from the first root.
    pub fn load(&self, fleet: FleetId) -> Result<Trusted, TrustedFileError> {
        let path = || self.path.clone();
        let bytes = disk::read_bounded(&self.path, limits::TRUSTED_BYTES as u64)
            .map_err(|source| TrustedFileError::File { action: "read", path: path(), source })?
            .ok_or_else(|| TrustedFileError::Missing(path()))?;
        let records: Vec<(String, Vec<u8>)> = codec::decode::<_, { limits::TRUSTED_BYTES }>(&bytes)
            .map_err(|source| TrustedFileError::Torn { path: path(), source })?;
        Trusted::restore(records, fleet).map_err(|source| TrustedFileError::Restore { path: path(), source })
    }

    /// Replaces the set. When this returns it is on disk; obey a new set only after that.
    ///
    /// # Errors
    /// [`TrustedFileError::File`]; the old set is still there.
    pub fn save(&self, trusted: &Trusted) -> Result<(), TrustedFileError> {
        disk::replace(&self.path, &codec::encode(&trusted.records()), Readers::Owner)
            .map_err(|source| TrustedFileError::File { action: "write", path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet_directory::{FleetDirectory, Initial};
    use protocol::time::WallTime;
    use std::fs;

    // proves X2
    #[test]
    fn a_torn_file_is_refused_and_not_replaced() {
        let directory = tempfile::tempdir().expect("directory");
        let now = WallTime::from_unix_seconds(1_800_000_000);
        let fleet =
            FleetDirectory::init(&directory.path().join("fleet"), &Initial::default(), now).expect("init");
        let trusted = fleet.trusted().expect("root");
        let path = directory.path().join("trusted");
        let file = TrustedFile::new(&path);
        let code = || file.load(fleet.fleet()).map_err(|error| error.code());
        assert_eq!(code(), Err("trusted-missing"));
        file.save(&trusted).expect("save");
        assert_eq!(code(), Ok(trusted));
        let whole = fs::read(&path).expect("read");
        for at in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..at]).expect("write");
            assert_eq!(code(), Err("trusted-torn"), "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).expect("write");
            assert!(code().is_err(), "changed at {at}");
        }
    }
}
