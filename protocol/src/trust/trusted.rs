//! What a node trusts now: verified metadata, the whole chain of roots, and the bytes of the targets it wanted.

use super::envelope::Read;
use super::keys::Authority;
use super::{
    Bundle, BundleError, Metadata, Refused, Request, RoleName, Root, Snapshot, Targets, Timestamp,
    make_bundle, metadata_path, target_file_path,
};
use crate::digest::Sha256;
use crate::fleet::{self, Vendors};
use crate::identifier::{FleetId, VendorName};
use crate::policy;
use crate::system::System;
use crate::time::WallTime;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A metadata file that was verified: its bytes and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File<T> {
    pub bytes: Arc<[u8]>,
    pub content: T,
}

impl<T> From<Read<T>> for File<T> {
    fn from(read: Read<T>) -> File<T> {
        File { bytes: read.bytes, content: read.content }
    }
}

/// The set of trusted metadata and targets. It changes only as a whole, by a refresh that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    pub(super) fleet: FleetId,
    /// Every root file from the first to the current one: neighbours need the chain.
    pub(super) roots: BTreeMap<u64, Arc<[u8]>>,
    pub(super) root: Root,
    pub(super) timestamp: Option<File<Timestamp>>,
    pub(super) snapshot: Option<File<Snapshot>>,
    /// `targets`, and the delegated roles that the last refresh visited.
    pub(super) roles: BTreeMap<RoleName, File<Targets>>,
    /// Wanted targets, by target path.
    pub(super) files: BTreeMap<String, Arc<[u8]>>,
    /// What the last refresh wanted, found or not.
    pub(super) wanted: Vec<String>,
}

impl Trusted {
    /// The beginning of trust: the fleet's first root metadata, pinned by the fleet's identifier.
    ///
    /// # Errors
    /// [`Refused`] when the file is not that one, or does not carry its own signatures.
    pub fn from_root(bytes: &[u8], fleet: FleetId) -> Result<Trusted, Refused> {
        let found = FleetId::from_bytes(*Sha256::of(bytes).as_bytes());
        if found != fleet {
            return Err(Refused::OtherFleet { expected: fleet, found });
        }
        let role = RoleName::root();
        let read = Read::<Root>::new(&metadata_path(&role, 1), bytes.into())?;
        if read.content.version != 1 {
            return Err(Refused::RootVersion { expected: 1, found: read.content.version });
        }
        read.verify(authority(&read.content, &role)?)?;
        Ok(Trusted {
            fleet,
            roots: BTreeMap::from([(1, read.bytes)]),
            root: read.content,
            timestamp: None,
            snapshot: None,
            roles: BTreeMap::new(),
            files: BTreeMap::new(),
            wanted: Vec::new(),
        })
    }

    /// The next root of the chain: signed by the one before and by itself, its version one higher (TUF 5.3.4, 5.3.5).
    pub(super) fn add_root(&mut self, bytes: Arc<[u8]>) -> Result<(), Refused> {
        let role = RoleName::root();
        let expected = self.root.version.saturating_add(1);
        let read = Read::<Root>::new(&metadata_path(&role, expected), bytes)?;
        read.verify(authority(&self.root, &role)?)?;
        read.verify(authority(&read.content, &role)?)?;
        if read.content.version != expected {
            return Err(Refused::RootVersion { expected, found: read.content.version });
        }
        self.roots.insert(expected, read.bytes);
        self.root = read.content;
        Ok(())
    }

    /// The fleet whose word this is.
    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// The first root file, the one that a new device is given.
    pub fn first_root(&self) -> &[u8] {
        self.roots.values().next().expect("made with the first root, and roots are never removed")
    }

    /// Version of the root metadata.
    pub fn root_version(&self) -> u64 {
        self.root.version
    }

    /// Version of the timestamp metadata; 0 before the first refresh.
    pub fn timestamp_version(&self) -> u64 {
        self.timestamp.as_ref().map_or(0, |file| file.content.version)
    }

    /// Version of the snapshot metadata; 0 before the first refresh. This is the version of the repository.
    pub fn snapshot_version(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |file| file.content.version)
    }

    /// Versions of `targets` and of the delegated roles that are held.
    pub fn role_versions(&self) -> BTreeMap<RoleName, u64> {
        self.roles.iter().map(|(role, file)| (role.clone(), file.content.version)).collect()
    }

    /// The content of a target; `None` when it was not wanted, or nobody vouches for it.
    pub fn target(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(AsRef::as_ref)
    }

    /// Paths of the targets that are held.
    pub fn target_paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The role that expires first, and when; `None` before the first refresh.
    pub fn expires(&self) -> Option<(RoleName, WallTime)> {
        let timestamp = self.timestamp.as_ref()?.content.expires;
        let snapshot = self.snapshot.as_ref()?.content.expires;
        let roles = self.roles.iter().map(|(role, file)| (role.clone(), file.content.expires));
        let top = [
            (RoleName::root(), self.root.expires),
            (RoleName::timestamp(), timestamp),
            (RoleName::snapshot(), snapshot),
        ];
        top.into_iter().chain(roles).min_by_key(|(_, expires)| *expires)
    }

    /// The first role that has expired at `now`, and when. What was accepted before stays in force for `offline_days`.
    pub fn expired(&self, now: WallTime) -> Option<(RoleName, WallTime)> {
        self.expires().filter(|(_, expires)| *expires <= now)
    }

    /// When the role's metadata expires, where it is held.
    pub fn expiry(&self, role: &RoleName) -> Option<WallTime> {
        match role.as_str() {
            "root" => Some(self.root.expires),
            "timestamp" => self.timestamp.as_ref().map(|file| file.content.expires),
            "snapshot" => self.snapshot.as_ref().map(|file| file.content.expires),
            _ => self.roles.get(role).map(|file| file.content.expires),
        }
    }

    /// What to ask a neighbour or the seed for: everything newer than this that concerns the wanted targets.
    pub fn request(&self, wanted: &[impl AsRef<str>]) -> Request {
        let held = |path: &str| self.files.get(path).map(|bytes| Sha256::of(bytes));
        Request {
            root: self.root_version(),
            snapshot: self.snapshot.as_ref().map(|file| Sha256::of(&file.bytes)),
            roles: self.roles.iter().map(|(role, file)| (role.clone(), Sha256::of(&file.bytes))).collect(),
            wanted: wanted.iter().map(|path| (path.as_ref().to_owned(), held(path.as_ref()))).collect(),
        }
    }

    /// The targets that a node of this system wants. Before `fleet/vendors.toml` is trusted the catalogues are not
    /// among them: refresh again when the answer has grown.
    pub fn wanted_by(&self, system: &System) -> Vec<String> {
        let bytes = self.target(fleet::VENDORS_PATH).unwrap_or_default();
        let vendors: Vendors = fleet::parse_toml(fleet::VENDORS_PATH, bytes).unwrap_or_default();
        let names: Vec<_> = vendors.vendors.into_iter().map(|vendor| vendor.name).collect();
        wanted(&names, system)
    }

    /// Answers a neighbour's request from what is held. Targets that are not held are left out, and then the
    /// neighbour asks elsewhere.
    ///
    /// # Errors
    /// [`BundleError`] when the answer is larger than a bundle may be.
    pub fn bundle(&self, request: &Request) -> Result<Bundle, BundleError> {
        let all = self.repository_files();
        make_bundle(request, |path| all.get(path).map(|bytes| bytes.to_vec()))
    }

    /// The same for a member with `system`, which may not know yet of every vendor whose catalogue it will want: what it did
    /// not ask for comes along, so that a new device has all that it needs after one question.
    ///
    /// # Errors
    /// [`BundleError`] when the answer is larger than a bundle may be.
    pub fn bundle_for(&self, request: &Request, system: &System) -> Result<Bundle, BundleError> {
        let mut request = request.clone();
        for target in self.wanted_by(system) {
            request.wanted.entry(target).or_insert(None);
        }
        self.bundle(&request)
    }

    /// All files under the paths at which they lie in a repository.
    pub(super) fn repository_files(&self) -> BTreeMap<String, Arc<[u8]>> {
        let mut all = BTreeMap::new();
        let mut add = |role: RoleName, version: u64, bytes: &Arc<[u8]>| {
            all.insert(metadata_path(&role, version), Arc::clone(bytes));
        };
        self.roots.iter().for_each(|(version, bytes)| add(RoleName::root(), *version, bytes));
        self.timestamp.iter().for_each(|file| add(RoleName::timestamp(), file.content.version, &file.bytes));
        self.snapshot.iter().for_each(|file| add(RoleName::snapshot(), file.content.version, &file.bytes));
        self.roles.iter().for_each(|(role, file)| add(role.clone(), file.content.version, &file.bytes));
        for (path, bytes) in &self.files {
            all.insert(target_file_path(path, Sha256::of(bytes)), Arc::clone(bytes));
        }
        all
    }

    /// Root metadata as it stands.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Targets metadata of a role that is held.
    pub fn role(&self, role: &RoleName) -> Option<&Targets> {
        self.roles.get(role).map(|file| &file.content)
    }

    /// Snapshot metadata, after the first refresh.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().map(|file| &file.content)
    }
}

pub(super) fn authority<'a>(root: &'a Root, role: &'a RoleName) -> Result<Authority<'a>, Refused> {
    let path = || metadata_path(&RoleName::root(), root.version());
    let missing = || Refused::Malformed { path: path(), cause: format!("role {role} is not defined") };
    root.authority(role).ok_or_else(missing)
}

/// Target path of the catalogue of `vendor` for `system`, such as `catalogue/debian/debian-12-amd64.json`.
pub fn catalogue_path(vendor: &VendorName, system: &System) -> String {
    format!("catalogue/{vendor}/{}-{}-{}.json", system.distribution, system.release, system.architecture)
}

/// The targets that every node wants.
pub const WANTED_BY_ALL: [&str; 6] = [
    fleet::VENDORS_PATH,
    fleet::SERVICES_PATH,
    fleet::SITES_PATH,
    fleet::REVOKED_PATH,
    policy::FLEET_LAYER_PATH,
    policy::HOLDS_PATH,
];

/// The targets that a node of this system wants when the fleet has these vendors.
fn wanted(vendors: &[VendorName], system: &System) -> Vec<String> {
    let catalogues = vendors.iter().map(|vendor| catalogue_path(vendor, system));
    WANTED_BY_ALL.into_iter().map(str::to_owned).chain(catalogues).collect()
}
