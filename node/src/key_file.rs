//! Files with one private key each: made whole or not at all, for this user alone, and refused when others can read them.
//!
//! The keys that a configuration names (the device's, the registrar's, the aggregator's) are nothing but the seed of
//! RFC 8032 in 64 hexadecimal digits. The keys of the metadata roles, of which many lie in one directory, also say their
//! role ([`crate::key_source`]).

use crate::disk::{self, Readers};
use protocol::codec::{hex, parse_hex};
use protocol::limits;
use protocol::signature::SigningKey;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Why a private key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error("key file {0} does not exist; restore it from a backup, or name the right file")]
    Missing(PathBuf),
    /// A file or directory that cannot be read or written.
    #[error("cannot {action} key file {path}; check space and permissions")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file with something else in it.
    #[error("{path} is not a key file: {cause}; restore it from a backup")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// A file that others can read.
    #[error("{0} can be read by other users; run: chmod 600 {0}")]
    TooOpen(PathBuf),
    /// The operating system gave no randomness.
    #[error("the operating system gave no random numbers for a new key: {0}")]
    NoRandomness(String),
}

/// Reads the key that a configuration names.
///
/// # Errors
/// [`KeyFileError`].
pub fn read(path: &Path) -> Result<SigningKey, KeyFileError> {
    let bytes = read_guarded(path)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let seed = parse_hex(text.trim()).map_err(|_| KeyFileError::Malformed {
        path: path.to_owned(),
        cause: "expected 64 hexadecimal digits".to_owned(),
    })?;
    Ok(SigningKey::from_seed(&seed))
}

/// Makes a key and its file, and the directory (0700) where there is none.
///
/// # Errors
/// [`KeyFileError`]; an existing file is never overwritten.
pub fn create(path: &Path) -> Result<SigningKey, KeyFileError> {
    let key = new_key()?;
    let made = path.parent().map_or(Ok(()), disk::make_private_directory);
    made.map_err(|source| KeyFileError::File { action: "make", path: path.to_owned(), source })?;
    write(path, format!("{}\n", hex(&key.seed())).as_bytes())?;
    Ok(key)
}

/// The bytes of a file that is small and that only its owner can read.
pub(crate) fn read_guarded(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    let failed = |source| KeyFileError::File { action: "read", path: path.to_owned(), source };
    let file = disk::open_regular(path, u64::MAX).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing(path.to_owned()),
        _ => failed(source),
    })?;
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(KeyFileError::TooOpen(path.to_owned()));
    }
    disk::read_file_bounded(&file, limits::KEY_FILE_BYTES).map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => {
            KeyFileError::Malformed { path: path.to_owned(), cause: source.to_string() }
        }
        _ => failed(source),
    })
}

/// Writes a new key file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    disk::create(path, bytes, Readers::Owner).map_err(|source| KeyFileError::File {
        action: "make",
        path: path.to_owned(),
        source,
    })
}

/// A key of 32 random bytes from the operating system.
pub(crate) fn new_key() -> Result<SigningKey, KeyFileError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| KeyFileError::NoRandomness(error.to_string()))?;
    Ok(SigningKey::from_seed(&seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn keys_are_made_once_and_guarded() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("keys").join("enrolment.key");
        assert!(matches!(read(&path), Err(KeyFileError::Missing(_))));
        let key = create(&path).expect("made");
        assert!(matches!(create(&path), Err(KeyFileError::File { .. })), "never overwritten");
        assert_eq!(read(&path).expect("read").public(), key.public());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(read(&path), Err(KeyFileError::TooOpen(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::write(&path, "12").expect("write");
        assert!(matches!(read(&path), Err(KeyFileError::Malformed { .. })));
    }
}
