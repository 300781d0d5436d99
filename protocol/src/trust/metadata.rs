//! What the four kinds of metadata say (TUF 4.3 to 4.6).

use super::keys::{Authority, check_keys};
use super::{Key, KeyId, RoleKeys, RoleName, is_target_path};
use crate::codec::parse_hex;
use crate::digest::Sha256;
use crate::limits;
use crate::time::WallTime;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the specification that our own metadata names.
pub(super) const SPECIFICATION: &str = "1.0.31";

/// What all metadata has in common.
pub trait Metadata: DeserializeOwned {
    /// Its `_type`.
    const KIND: &'static str;
    /// Most bytes of a file.
    const LIMIT: usize;
    /// Its version; the first is 1.
    fn version(&self) -> u64;
    /// From when on it is no longer accepted.
    fn expires(&self) -> WallTime;
    /// Checks what the form alone does not say.
    ///
    /// # Errors
    /// The rule that is broken, for people.
    fn check(&self) -> Result<(), String>;
}

macro_rules! metadata {
    ($name:ident, $kind:literal, $limit:expr) => {
        impl Metadata for $name {
            const KIND: &'static str = $kind;
            const LIMIT: usize = $limit;
            fn version(&self) -> u64 {
                self.version
            }
            fn expires(&self) -> WallTime {
                self.expires
            }
            fn check(&self) -> Result<(), String> {
                if self.version == 0 { Err("version 0".to_owned()) } else { self.check_content() }
            }
        }
    };
}

/// Root metadata: which keys speak for which of the four top-level roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Version.
    pub version: u64,
    /// Expiry.
    pub expires: WallTime,
    /// Whether file names carry versions and digests; always true here.
    pub consistent_snapshot: bool,
    /// All keys that the roles name.
    pub keys: BTreeMap<KeyId, Key>,
    /// The four roles.
    pub roles: BTreeMap<RoleName, RoleKeys>,
}
metadata!(Root, "root", limits::METADATA_BYTES);

impl Root {
    fn check_content(&self) -> Result<(), String> {
        if !self.consistent_snapshot {
            return Err("a repository without consistent snapshots is not supported".to_owned());
        }
        let needed = [RoleName::root(), RoleName::timestamp(), RoleName::snapshot(), RoleName::targets()];
        if let Some(missing) = needed.iter().find(|role| !self.roles.contains_key(role)) {
            return Err(format!("role {missing} is not defined"));
        }
        check_keys(&self.keys)?;
        self.roles.values().try_for_each(RoleKeys::check)
    }

    /// Who may sign the metadata of one of the four top-level roles.
    pub(super) fn authority<'a>(&'a self, name: &'a RoleName) -> Option<Authority<'a>> {
        self.roles.get(name).map(|role| Authority { keys: &self.keys, role, name })
    }
}

/// A metadata file as `timestamp` or `snapshot` list it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedMetadata {
    /// Version.
    pub version: u64,
    /// Bytes, where listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Digests by algorithm, where listed; only `sha256` is looked at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hashes: BTreeMap<String, String>,
}

impl ListedMetadata {
    /// Lists a file of this version with these bytes.
    pub fn of(version: u64, bytes: &[u8]) -> ListedMetadata {
        let hashes = BTreeMap::from([("sha256".to_owned(), Sha256::of(bytes).to_string())]);
        ListedMetadata { version, length: Some(bytes.len() as u64), hashes }
    }

    /// The SHA-256, where listed.
    pub fn sha256(&self) -> Option<Sha256> {
        self.hashes.get("sha256").and_then(|text| text.parse().ok())
    }

    fn check(&self) -> Result<(), String> {
        check_hashes(&self.hashes)?;
        if self.version == 0 { Err("a file is listed with version 0".to_owned()) } else { Ok(()) }
    }
}

fn check_hashes(hashes: &BTreeMap<String, String>) -> Result<(), String> {
    match hashes.get("sha256").map(|text| parse_hex::<32>(text)) {
        Some(Err(error)) => Err(error.to_string()),
        None if !hashes.is_empty() => Err("digests without a sha256".to_owned()),
        _ => Ok(()),
    }
}

/// Timestamp metadata: which snapshot is the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Version.
    pub version: u64,
    /// Expiry.
    pub expires: WallTime,
    /// Lists `snapshot.json` and nothing else.
    pub meta: BTreeMap<String, ListedMetadata>,
}
metadata!(Timestamp, "timestamp", limits::TIMESTAMP_BYTES);

impl Timestamp {
    fn check_content(&self) -> Result<(), String> {
        match self.meta.get("snapshot.json") {
            Some(listed) if self.meta.len() == 1 => listed.check(),
            _ => Err("it must list snapshot.json and nothing else".to_owned()),
        }
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> &ListedMetadata {
        self.meta.get("snapshot.json").expect("checked when the metadata was read, and when it was made")
    }
}

/// Snapshot metadata: which versions of all targets roles belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version.
    pub version: u64,
    /// Expiry.
    pub expires: WallTime,
    /// The metadata files of `targets` and of all delegated roles, by file name.
    pub meta: BTreeMap<String, ListedMetadata>,
}
metadata!(Snapshot, "snapshot", limits::METADATA_BYTES);

impl Snapshot {
    fn check_content(&self) -> Result<(), String> {
        if !self.meta.contains_key("targets.json") {
            return Err("it does not list targets.json".to_owned());
        }
        let odd = self.meta.keys().find(|name| RoleName::of_file_name(name).is_none());
        if let Some(name) = odd {
            return Err(format!("\"{name}\" is not the file of a role"));
        }
        self.meta.values().try_for_each(ListedMetadata::check)
    }

    /// The listed file of a role.
    pub fn role(&self, role: &RoleName) -> Option<&ListedMetadata> {
        self.meta.get(&role.file_name())
    }
}

/// Targets metadata: files, and roles to which others are delegated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// Version.
    pub version: u64,
    /// Expiry.
    pub expires: WallTime,
    /// The files that this role vouches for.
    pub targets: BTreeMap<String, ListedFile>,
    /// Roles that vouch for others, in the order in which they are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
}
metadata!(Targets, "targets", limits::METADATA_BYTES);

impl Targets {
    fn check_content(&self) -> Result<(), String> {
        if let Some(path) = self.targets.keys().find(|path| !is_target_path(path)) {
            return Err(format!("\"{path}\" is not a target path"));
        }
        if let Some((path, _)) = self.targets.iter().find(|(_, file)| file.sha256().is_none()) {
            return Err(format!("target {path} has no sha256"));
        }
        self.delegations.as_ref().map_or(Ok(()), Delegations::check)
    }
}

/// A target file as a role lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    /// Bytes.
    pub length: u64,
    /// Digests by algorithm; `sha256` must be among them.
    pub hashes: BTreeMap<String, String>,
}

impl ListedFile {
    /// Lists these bytes.
    pub fn of(bytes: &[u8]) -> ListedFile {
        let hashes = BTreeMap::from([("sha256".to_owned(), Sha256::of(bytes).to_string())]);
        ListedFile { length: bytes.len() as u64, hashes }
    }

    /// The SHA-256; present in everything that was read.
    pub fn sha256(&self) -> Option<Sha256> {
        self.hashes.get("sha256").and_then(|text| text.parse().ok())
    }
}

/// The delegations of a targets role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegations {
    /// All keys that the delegations name.
    pub keys: BTreeMap<KeyId, Key>,
    /// The roles, in the order in which they are asked.
    pub roles: Vec<Delegation>,
}

impl Delegations {
    fn check(&self) -> Result<(), String> {
        check_keys(&self.keys)?;
        let names: BTreeSet<_> = self.roles.iter().map(|role| &role.name).collect();
        if names.len() != self.roles.len() {
            return Err("one role is delegated to twice".to_owned());
        }
        self.roles.iter().try_for_each(Delegation::check)
    }

    /// Who may sign for the delegated role `name`.
    pub(super) fn authority<'a>(&'a self, name: &'a RoleName) -> Option<Authority<'a>> {
        let delegation = self.roles.iter().find(|role| role.name == *name)?;
        Some(Authority { keys: &self.keys, role: &delegation.keys, name })
    }
}

/// A role to which targets are delegated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// Its name.
    pub name: RoleName,
    /// Its keys.
    #[serde(flatten)]
    pub keys: RoleKeys,
    /// Whether the search ends here for paths that match, found or not.
    pub terminating: bool,
    /// Patterns of the paths that it may vouch for: `*` and `?` match within one segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// Or: hexadecimal prefixes of the SHA-256 of those paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hash_prefixes: Option<Vec<String>>,
}

impl Delegation {
    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if name.is_top_level() {
            return Err(format!("role {name} cannot be delegated to"));
        }
        let rules = match (&self.paths, &self.path_hash_prefixes) {
            (Some(paths), None) => paths,
            (None, Some(prefixes)) => prefixes,
            _ => return Err(format!("delegation {name} needs either paths or path_hash_prefixes")),
        };
        if rules.len() > limits::LIST_ENTRIES {
            return Err(format!("delegation {name} has too many paths"));
        }
        // Character classes are read differently by different implementations: better no reading than two.
        if self
            .paths
            .iter()
            .flatten()
            .any(|path| path.contains(['[', ']']) || path.len() > limits::TEXT_BYTES)
        {
            return Err(format!("delegation {name} has a path pattern that is not supported"));
        }
        self.keys.check()
    }
}
