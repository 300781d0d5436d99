//! Names of roles, and where the files of a repository lie (consistent snapshots, TUF 3.2 and 6).

use crate::digest::Sha256;
use crate::limits;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A role: `root`, `timestamp`, `snapshot`, `targets`, or one to which targets were delegated.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleName(String);

/// Text that is not the name of a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a role name: use lower-case letters, digits, '-', '_' and '.'")]
pub struct NotARole(String);

impl RoleName {
    /// Checks `text` and makes the name. It becomes part of a file name, hence the few characters allowed.
    ///
    /// # Errors
    /// [`NotARole`].
    pub fn new(text: impl Into<String>) -> Result<RoleName, NotARole> {
        let text = text.into();
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        };
        let valid = !text.is_empty()
            && text.len() <= limits::NAME_BYTES
            && text.bytes().all(allowed)
            && !text.starts_with(['.', '-'])
            && !text.contains("..");
        if valid { Ok(RoleName(text)) } else { Err(NotARole(text.chars().take(80).collect())) }
    }

    /// The role that signs roles and keys.
    pub fn root() -> RoleName {
        RoleName("root".to_owned())
    }

    /// The role that signs freshness.
    pub fn timestamp() -> RoleName {
        RoleName("timestamp".to_owned())
    }

    /// The role that signs which versions belong together.
    pub fn snapshot() -> RoleName {
        RoleName("snapshot".to_owned())
    }

    /// The top role for target files.
    pub fn targets() -> RoleName {
        RoleName("targets".to_owned())
    }

    /// Whether it is one of the four roles that only `root` defines.
    pub fn is_top_level(&self) -> bool {
        matches!(self.0.as_str(), "root" | "timestamp" | "snapshot" | "targets")
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key under which `snapshot` and `timestamp` list the role: `policy.json`.
    pub fn file_name(&self) -> String {
        format!("{}.json", self.0)
    }

    /// The role of a file name such as `policy.json`.
    pub fn of_file_name(name: &str) -> Option<RoleName> {
        name.strip_suffix(".json").and_then(|role| RoleName::new(role).ok())
    }
}

impl TryFrom<String> for RoleName {
    type Error = NotARole;
    fn try_from(text: String) -> Result<RoleName, NotARole> {
        RoleName::new(text)
    }
}

impl From<RoleName> for String {
    fn from(name: RoleName) -> String {
        name.0
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoleName({})", self.0)
    }
}

/// Where the metadata file of `role` lies in a repository; `timestamp` has no version in its name.
pub fn metadata_path(role: &RoleName, version: u64) -> String {
    match role.as_str() {
        "timestamp" => "metadata/timestamp.json".to_owned(),
        name => format!("metadata/{version}.{name}.json"),
    }
}

/// The role and version of a metadata file whose name carries a version; the inverse of [`metadata_path`].
pub fn role_of_metadata_path(path: &str) -> Option<(RoleName, u64)> {
    let name = path.strip_prefix("metadata/")?;
    let (version, rest) = name.split_once('.')?;
    let version: u64 = version.parse().ok()?;
    let role = RoleName::of_file_name(rest)?;
    (metadata_path(&role, version) == path).then_some((role, version))
}

/// Where a target file lies in a repository: `targets/DIRECTORY/SHA256.NAME`.
pub fn target_file_path(target: &str, sha256: Sha256) -> String {
    match target.rsplit_once('/') {
        Some((directory, name)) => format!("targets/{directory}/{sha256}.{name}"),
        None => format!("targets/{sha256}.{target}"),
    }
}

/// Whether `path` can be the path of a target: relative, in plain characters, and pointing nowhere else.
pub fn is_target_path(path: &str) -> bool {
    path.len() <= limits::TARGET_PATH_BYTES && is_plain(path)
}

/// Whether `path` can be the path of a file in a repository, where names carry versions and digests.
pub(super) fn is_repository_path(path: &str) -> bool {
    let file = path.strip_prefix("metadata/").or_else(|| path.strip_prefix("targets/"));
    file.is_some_and(|file| file.len() <= limits::TARGET_PATH_BYTES + 65 && is_plain(file))
}

fn is_plain(path: &str) -> bool {
    let segment = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'"')
    };
    path.split('/').all(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        for bad in ["", "../x", "a/b", "A", ".x", "-x", "a..b", "é"] {
            assert!(RoleName::new(bad).is_err(), "{bad}");
        }
        let policy = RoleName::new("policy").expect("role");
        assert_eq!(metadata_path(&policy, 3), "metadata/3.policy.json");
        assert_eq!(metadata_path(&RoleName::timestamp(), 3), "metadata/timestamp.json");
        assert_eq!(role_of_metadata_path("metadata/3.policy.json"), Some((policy.clone(), 3)));
        for none in
            ["metadata/timestamp.json", "metadata/03.policy.json", "metadata/x.json", "targets/3.a.json"]
        {
            assert_eq!(role_of_metadata_path(none), None, "{none}");
        }
        assert_eq!(RoleName::of_file_name("policy.json"), Some(policy));
        let path = target_file_path("fleet/sites.toml", Sha256::of(b""));
        assert!(path.starts_with("targets/fleet/e3b0c442") && path.ends_with(".sites.toml"));
        for bad in ["", "/etc/passwd", "a//b", "../x", "a/../b", "a\\b", "a b", ".hidden"] {
            assert!(!is_target_path(bad), "{bad}");
        }
    }
}
