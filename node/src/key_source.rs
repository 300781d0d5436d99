//! Keys of the metadata roles: a trait, so that a key service can stand in, and its first form, files.

use crate::key_file::{self, KeyFileError};
use protocol::signature::{PublicKey, Purpose, Signature, SigningKey};
use protocol::trust::{Key, KeyId, RoleName, Unsigned};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No key of that role here.
    #[error("there is no key of role {0} here; publish where that key lies, or copy its key file into keys/")]
    NoKey(RoleName),
    /// The directory of the key files could not be read.
    #[error("cannot read the key directory {path}; check that it is there and its permissions")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A key file that cannot be used or made.
    #[error(transparent)]
    File(#[from] KeyFileError),
}

/// Where signatures of the roles come from.
pub trait KeySource: Send + Sync {
    /// The public keys of `role`; empty when there are none here.
    fn public(&self, role: &RoleName) -> Vec<PublicKey>;

    /// Signs `message` with the keys of `role`.
    ///
    /// # Errors
    /// [`KeyError::NoKey`] when there are none here.
    fn sign(&self, role: &RoleName, message: &[u8]) -> Result<Vec<(KeyId, Signature)>, KeyError>;

    /// Makes a key for a role that has none yet, such as the catalogue role of a new vendor.
    ///
    /// # Errors
    /// [`KeyError`] when the key cannot be made or kept.
    fn create(&mut self, role: &RoleName) -> Result<PublicKey, KeyError>;

    /// Signs metadata with the keys of its role and gives the file.
    ///
    /// # Errors
    /// [`KeyError`] as [`KeySource::sign`].
    fn finish(&self, unsigned: Unsigned) -> Result<Vec<u8>, KeyError> {
        let signatures = self.sign(unsigned.role(), &unsigned.message())?;
        Ok(unsigned.finish(&signatures))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct KeyFile {
    role: RoleName,
    kind: String,
    public_key: PublicKey,
    /// The seed of RFC 8032, in hexadecimal digits.
    private_key: String,
}

/// Keys in files of mode 0600, one per key, all in one directory and those below it.
#[derive(Debug)]
pub struct KeyFiles {
    directory: PathBuf,
    keys: BTreeMap<RoleName, Vec<SigningKey>>,
}

impl KeyFiles {
    /// Reads all key files in `directory`, and in `directory/online` where that exists.
    ///
    /// # Errors
    /// [`KeyError`] for a file that cannot be read, is malformed, or is open to others.
    pub fn open(directory: &Path) -> Result<KeyFiles, KeyError> {
        let mut found = KeyFiles { directory: directory.to_owned(), keys: BTreeMap::new() };
        found.read_directory(directory)?;
        let online = directory.join("online");
        if online.is_dir() {
            found.read_directory(&online)?;
        }
        Ok(found)
    }

    fn read_directory(&mut self, directory: &Path) -> Result<(), KeyError> {
        let failed = |source| KeyError::Directory { path: directory.to_owned(), source };
        let mut paths: Vec<PathBuf> = fs::read_dir(directory)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(failed)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        for path in paths {
            let (role, key) = read_key(&path)?;
            self.keys.entry(role).or_default().push(key);
        }
        Ok(())
    }

    /// Makes a new key for `role` in the file `name` below the directory.
    ///
    /// # Errors
    /// [`KeyError`]; an existing file is never overwritten.
    pub fn create_named(&mut self, role: &RoleName, name: &str) -> Result<PublicKey, KeyError> {
        let key = key_file::new_key()?;
        write_key(&self.directory.join(name), role, &key)?;
        let public = key.public();
        self.keys.entry(role.clone()).or_default().push(key);
        Ok(public)
    }
}

impl KeySource for KeyFiles {
    fn public(&self, role: &RoleName) -> Vec<PublicKey> {
        self.keys.get(role).into_iter().flatten().map(SigningKey::public).collect()
    }

    fn sign(&self, role: &RoleName, message: &[u8]) -> Result<Vec<(KeyId, Signature)>, KeyError> {
        let keys = self.keys.get(role).ok_or_else(|| KeyError::NoKey(role.clone()))?;
        let sign = |key: &SigningKey| (Key::ed25519(key.public()).id(), key.sign(Purpose::Metadata, message));
        Ok(keys.iter().map(sign).collect())
    }

    fn create(&mut self, role: &RoleName) -> Result<PublicKey, KeyError> {
        self.create_named(role, &role.file_name())
    }
}

fn read_key(path: &Path) -> Result<(RoleName, SigningKey), KeyFileError> {
    let malformed = |cause: String| KeyFileError::Malformed { path: path.to_owned(), cause };
    let bytes = key_file::read_guarded(path)?;
    let file: KeyFile = serde_json::from_slice(&bytes).map_err(|error| {
        // Not the message: it can repeat the key, where that stands in the wrong place.
        malformed(format!("line {}, column {} is not as in a key file", error.line(), error.column()))
    })?;
    let seed = protocol::codec::parse_hex::<32>(&file.private_key)
        .map_err(|_| malformed("private-key is not 64 hexadecimal digits".to_owned()))?;
    let key = SigningKey::from_seed(&seed);
    if file.kind != "ed25519" || key.public() != file.public_key {
        return Err(malformed("kind is not ed25519, or the two halves do not belong together".to_owned()));
    }
    Ok((file.role, key))
}

fn write_key(path: &Path, role: &RoleName, key: &SigningKey) -> Result<(), KeyFileError> {
    let file = KeyFile {
        role: role.clone(),
        kind: "ed25519".to_owned(),
        public_key: key.public(),
        private_key: protocol::codec::hex(&key.seed()),
    };
    let mut json = serde_json::to_vec_pretty(&file).expect("our own types have a JSON form");
    json.push(b'\n');
    key_file::write(path, &json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_kept_and_guarded() {
        let directory = tempfile::tempdir().expect("directory");
        let role = RoleName::new("policy").expect("role");
        let mut keys = KeyFiles::open(directory.path()).expect("open");
        let public = keys.create(&role).expect("create");
        assert!(matches!(keys.create(&role), Err(KeyError::File(_))), "never overwritten");
        let again = KeyFiles::open(directory.path()).expect("open");
        assert_eq!(again.public(&role), [public]);
        let signatures = again.sign(&role, b"m").expect("sign");
        assert_eq!(public.verify(Purpose::Metadata, b"m", &signatures[0].1), Ok(()));
        assert!(matches!(again.sign(&RoleName::root(), b"m"), Err(KeyError::NoKey(_))));
        let path = directory.path().join("policy.json");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(KeyFiles::open(directory.path()), Err(KeyError::File(KeyFileError::TooOpen(_)))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::write(&path, b"{}").expect("write");
        assert!(matches!(
            KeyFiles::open(directory.path()),
            Err(KeyError::File(KeyFileError::Malformed { .. }))
        ));
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_repeated() {
        let directory = tempfile::tempdir().expect("directory");
        let role = RoleName::new("policy").expect("role");
        KeyFiles::open(directory.path()).expect("open").create(&role).expect("create");
        let path = directory.path().join("policy.json");
        let good = fs::read_to_string(&path).expect("read");
        let file: serde_json::Value = serde_json::from_str(&good).expect("JSON");
        let secret = file["private-key"].as_str().expect("a key");
        let public = file["public-key"].as_str().expect("a key");
        for wrong in [
            good.replace("\"private-key\"", &format!("\"{secret}\"")),
            good.replace(public, &format!("{secret}0")),
            good.replace("\"ed25519\"", &format!("\"{secret}\"")),
            good.replace(&format!("\"{secret}\""), &format!("[\"{secret}\"]")),
        ] {
            fs::write(&path, wrong).expect("write");
            let error = KeyFiles::open(directory.path()).expect_err("malformed");
            assert!(!format!("{error:?} {error}").contains(&secret[1..63]), "{error}");
        }
    }
}
