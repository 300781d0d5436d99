//! A repository in memory for tests, published with the builders, with keys of its own.

use super::publish::{self, TopKeys};
use super::{
    Bundle, Key, ListedFile, ListedMetadata, Metadata, Refused, RoleKeys, RoleName, Root, Snapshot, Targets,
    Trusted, Unsigned, make_bundle, metadata_path, refresh_from_bundle, target_file_path,
};
use crate::digest::Sha256;
use crate::identifier::{FleetId, VendorName};
use crate::signature::{PublicKey, Purpose, SigningKey};
use crate::time::WallTime;
use serde::Serialize;
use std::collections::BTreeMap;

pub(crate) const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);
pub(crate) const CATALOGUE: &str = "catalogue/debian/debian-12-amd64.json";
pub(crate) const WANTED: [&str; 4] =
    ["fleet/vendors.toml", "fleet/sites.toml", "policy/fleet.toml", CATALOGUE];

/// Keys by role, the publisher's view of the current metadata, and all files by their paths.
#[derive(Clone)]
pub(crate) struct Repository {
    pub keys: BTreeMap<RoleName, SigningKey>,
    pub staged: BTreeMap<String, Vec<u8>>,
    pub files: BTreeMap<String, Vec<u8>>,
    pub root: Root,
    pub snapshot: Option<Snapshot>,
    pub roles: BTreeMap<RoleName, Targets>,
    pub timestamp: u64,
}

pub(crate) fn role(name: &str) -> RoleName {
    RoleName::new(name).expect("role")
}

pub(crate) fn vendors() -> Vec<VendorName> {
    vec![VendorName::new("debian").expect("vendor")]
}

pub(crate) fn sign(unsigned: Unsigned, keys: &[&SigningKey]) -> Vec<u8> {
    let message = unsigned.message();
    let signatures: Vec<_> = keys
        .iter()
        .map(|key| (Key::ed25519(key.public()).id(), key.sign(Purpose::Metadata, &message)))
        .collect();
    unsigned.finish(&signatures)
}

impl Repository {
    /// A fleet with one vendor, published once at [`NOW`].
    pub fn new() -> Repository {
        let top = [RoleName::root(), RoleName::targets(), RoleName::snapshot(), RoleName::timestamp()];
        let names = top.into_iter().chain(publish::delegated_roles(&vendors()));
        let keys: BTreeMap<_, _> =
            names.zip(1u8..).map(|(name, seed)| (name, SigningKey::from_seed(&[seed; 32]))).collect();
        let one = |name: RoleName| vec![keys[&name].public()];
        let top = TopKeys {
            root: vec![keys[&RoleName::root()].public(), SigningKey::from_seed(&[99; 32]).public()],
            targets: one(RoleName::targets()),
            snapshot: one(RoleName::snapshot()),
            timestamp: one(RoleName::timestamp()),
        };
        let unsigned = publish::first_root(&top, NOW);
        let first = sign(unsigned, &[&keys[&RoleName::root()]]);
        let signed: serde_json::Value = serde_json::from_slice(&first).expect("json");
        let root = serde_json::from_value(signed["signed"].clone()).expect("root");
        let mut repository = Repository {
            keys,
            staged: WANTED
                .iter()
                .map(|path| ((*path).to_owned(), format!("# {path} 1\n").into_bytes()))
                .collect(),
            files: BTreeMap::from([(metadata_path(&RoleName::root(), 1), first)]),
            root,
            snapshot: None,
            roles: BTreeMap::new(),
            timestamp: 0,
        };
        repository.publish(NOW);
        repository
    }

    pub fn key(&self, name: &str) -> &SigningKey {
        &self.keys[&role(name)]
    }

    /// Stages new content and publishes it.
    pub fn change(&mut self, path: &str, content: &str) {
        self.staged.insert(path.to_owned(), content.as_bytes().to_vec());
        self.publish(NOW);
    }

    /// Signs what changed, then snapshot and timestamp.
    pub fn publish(&mut self, now: WallTime) {
        let names: Vec<_> = self.keys.keys().filter(|name| is_targets(name)).cloned().collect();
        let mut changed = BTreeMap::new();
        for name in names {
            let mine = self
                .staged
                .iter()
                .filter(|(path, _)| publish::role_of(path, &vendors()) == Some(name.clone()));
            let listed = mine.map(|(path, bytes)| (path.clone(), ListedFile::of(bytes))).collect();
            let public = |name: &RoleName| -> Vec<PublicKey> { vec![self.keys[name].public()] };
            let delegations =
                (name == RoleName::targets()).then(|| publish::delegations(&vendors(), &public));
            let next = publish::next_targets(&name, self.roles.get(&name), listed, delegations, now);
            if let Some(unsigned) = next {
                changed.insert(name.clone(), self.put(unsigned, &[name.as_str()]));
            }
        }
        for (path, bytes) in self.staged.clone() {
            self.files.insert(target_file_path(&path, Sha256::of(&bytes)), bytes);
        }
        let unsigned = publish::next_snapshot(self.snapshot.as_ref(), &changed, now);
        let listed = self.put(unsigned, &["snapshot"]);
        self.put_timestamp(listed, now);
    }

    /// Signs metadata with the keys of these roles and puts it where it belongs.
    pub fn put(&mut self, unsigned: Unsigned, signers: &[&str]) -> ListedMetadata {
        let (name, version) = (unsigned.role().clone(), unsigned.version());
        let keys: Vec<SigningKey> = signers.iter().map(|signer| self.key(signer).clone()).collect();
        let bytes = sign(unsigned, &keys.iter().collect::<Vec<_>>());
        let value: serde_json::Value = serde_json::from_slice(&bytes).expect("json");
        let signed = value["signed"].clone();
        match name.as_str() {
            "root" => self.root = serde_json::from_value(signed).expect("root"),
            "snapshot" => self.snapshot = Some(serde_json::from_value(signed).expect("snapshot")),
            "timestamp" => self.timestamp = version,
            _ => {
                self.roles.insert(name.clone(), serde_json::from_value(signed).expect("targets"));
            }
        }
        let listed = ListedMetadata::of(version, &bytes);
        self.files.insert(metadata_path(&name, version), bytes);
        listed
    }

    pub fn put_timestamp(&mut self, snapshot: ListedMetadata, now: WallTime) {
        let unsigned = publish::next_timestamp(self.timestamp, snapshot, now);
        self.put(unsigned, &["timestamp"]);
    }

    /// Signs content of a role anew, and the snapshot and timestamp over it; digests are listed or left out.
    pub fn replace<T: Metadata + Serialize>(
        &mut self,
        name: &str,
        content: &T,
        signer: &str,
        listed: Listed,
    ) {
        let mut entry = self.put(Unsigned::new(role(name), content), &[signer]);
        if matches!(listed, Listed::VersionOnly(_)) {
            entry = ListedMetadata { length: None, hashes: BTreeMap::new(), ..entry };
        }
        if let Listed::VersionOnly(version) = listed {
            entry.version = version;
        }
        let changed = BTreeMap::from([(role(name), entry)]);
        let unsigned = publish::next_snapshot(self.snapshot.as_ref(), &changed, NOW);
        let snapshot = self.put(unsigned, &["snapshot"]);
        self.put_timestamp(snapshot, NOW);
    }

    /// Rotates keys: root metadata of the next version, signed by the root key.
    pub fn rotate(&mut self, name: &str, seed: u8) {
        let key = SigningKey::from_seed(&[seed; 32]);
        let public = Key::ed25519(key.public());
        let mut next = self.root.clone();
        next.version += 1;
        next.roles.insert(role(name), RoleKeys::any_of(&[key.public()]));
        next.keys.insert(public.id(), public);
        self.keys.insert(role(name), key);
        self.put(Unsigned::new(RoleName::root(), &next), &["root"]);
    }

    pub fn fleet(&self) -> FleetId {
        FleetId::from_bytes(*Sha256::of(&self.files["metadata/1.root.json"]).as_bytes())
    }

    pub fn first(&self) -> Trusted {
        Trusted::from_root(&self.files["metadata/1.root.json"], self.fleet()).expect("first root")
    }

    pub fn everything(&self) -> Bundle {
        let mut bundle = Bundle::default();
        for (path, bytes) in &self.files {
            bundle.insert(path.clone(), bytes.clone()).expect("bundle");
        }
        bundle
    }

    /// What a node that trusts `trusted` gets when it asks for what is newer.
    pub fn refresh(&self, trusted: &Trusted, now: WallTime) -> Result<Trusted, Refused> {
        let bundle = make_bundle(&trusted.request(&WANTED), |path| self.files.get(path).cloned());
        refresh_from_bundle(trusted, &bundle.expect("bundle"), now, &WANTED)
    }

    /// A node that has refreshed once.
    pub fn member(&self) -> Trusted {
        self.refresh(&self.first(), NOW).expect("refresh")
    }
}

/// How the snapshot lists a file that was replaced.
#[derive(Clone, Copy)]
pub(crate) enum Listed {
    /// As it is.
    Full,
    /// With this version, without length and digest.
    VersionOnly(u64),
}

fn is_targets(name: &RoleName) -> bool {
    !matches!(name.as_str(), "root" | "snapshot" | "timestamp")
}
