//! The organisation of a simulation: its keys, its signed metadata, its members.

use crate::vendor::{self, Published, Standing};
use protocol::digest::Sha256;
use protocol::fleet::REVOKED_PATH;
use protocol::fleet::{
    Aggregator, EnrolmentKey, KeyMaterial, Revoked, RevokedDevice, SERVICES_PATH, SITES_PATH, Service,
    Services, Site, Sites, VENDORS_PATH, Vendor, VendorKey, Vendors, to_toml,
};
use protocol::identifier::{DeviceId, FleetId, HostName, RuleName, SiteName, VendorName};
use protocol::manifest::{Catalogue, SCHEMA};
use protocol::membership::{Class, Member};
use protocol::policy::{
    Approval, Assignment, Configuration, FLEET_LAYER_PATH, HOLDS_PATH, Hold, Holds, Layer, Policy,
};
use protocol::signature::{PublicKey, Purpose, SigningKey};
use protocol::time::WallTime;
use protocol::trust::{
    Key, ListedFile, ListedMetadata, RoleName, Snapshot, Targets, Unsigned, catalogue_path, metadata_path,
    publish, target_file_path,
};
use std::collections::BTreeMap;

/// The wall clock when a simulation starts.
pub const START: WallTime = WallTime::from_unix_seconds(1_800_000_000);
/// The headquarters' place in the list of devices; the branch follows.
pub const HEADQUARTERS: usize = 0;

/// The names of the branches.
const BRANCHES: [&str; 3] = ["utrecht", "gent", "trier"];

/// An organisation with one vendor, one headquarters and some branches.
#[derive(Debug)]
pub struct Fleet {
    /// Its identity.
    pub id: FleetId,
    /// The first root metadata file.
    pub root: Vec<u8>,
    /// All files of the repository by path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The targets that the repository vouches for.
    pub targets: Vec<String>,
    /// Who serves the fleet.
    pub services: Services,
    /// The key of the aggregator's watermarks.
    pub watermark_key: SigningKey,
    /// Keys of the devices: headquarters first.
    pub keys: Vec<SigningKey>,
    /// Members, in the same order.
    pub members: Vec<Member>,
    /// What the vendor published.
    pub vendor: Published,
    /// Whether policy names the vendor's mirror.
    mirrored: bool,
}

fn key(number: u8, kind: u8) -> SigningKey {
    let mut seed = [kind; 32];
    seed[0] = number;
    SigningKey::from_seed(&seed)
}

fn site(name: &str) -> SiteName {
    SiteName::new(name).expect("the names below are plain")
}

impl Fleet {
    /// Founds the organisation and publishes its metadata, with all signatures.
    ///
    /// # Panics
    /// Never: all names are well formed.
    pub fn found(branches: &[usize], vendor: Published, mirrored: bool) -> Fleet {
        let devices: usize = branches.iter().sum();
        let homes: Vec<&str> = BRANCHES
            .iter()
            .zip(branches)
            .flat_map(|(name, devices)| std::iter::repeat_n(*name, *devices))
            .collect();
        let keys: Vec<SigningKey> =
            (0..=devices).map(|number| key(u8::try_from(number).unwrap_or(u8::MAX), 7)).collect();
        let headquarters = keys[HEADQUARTERS].device();
        let watermark_key = key(1, 8);
        let addresses = vec!["/sim/0".to_owned()];
        let services = Services {
            seeds: vec![Service { device: headquarters, addresses: addresses.clone() }],
            aggregators: vec![Aggregator {
                device: headquarters,
                addresses,
                watermark_key: watermark_key.public(),
            }],
            enrolment_keys: vec![EnrolmentKey { public: key(2, 8).public(), valid_until: None }],
        };
        let targets = targets(&services, &vendor, mirrored, None);
        let (root, files) = sign(&targets, 1);
        let id = FleetId::from_bytes(*Sha256::of(&root).as_bytes());
        let member = |(number, key): (usize, &SigningKey)| Member {
            fleet: id,
            device: key.device(),
            site: site(if number == HEADQUARTERS { "headquarters" } else { homes[number - 1] }),
            class: Class::Server,
            system: vendor::system(),
            host: HostName::new(format!("host{number}")).expect("letters and digits"),
            issued: START,
            expires: START.plus_days(365),
        };
        let members = keys.iter().enumerate().map(member).collect();
        let targets = targets.into_keys().collect();
        Fleet { id, root, files, targets, services, watermark_key, keys, members, vendor, mirrored }
    }

    /// The second version: what was to be approved later is, what was to be held later is, what was to be
    /// withdrawn later is approved no more, and a device is expelled.
    pub fn publish_again(&mut self, expels: Option<usize>) {
        for patch in &mut self.vendor.patches {
            match patch.standing {
                Standing::ApprovedLater => patch.standing = Standing::Approved,
                Standing::HeldLater => patch.standing = Standing::Held,
                Standing::WithdrawnLater => patch.standing = Standing::Withdrawn,
                Standing::Approved | Standing::Unapproved | Standing::Held | Standing::Withdrawn => {}
            }
        }
        let expelled = expels.map(|at| self.keys[at].device());
        let (_, files) = sign(&targets(&self.services, &self.vendor, self.mirrored, expelled), 2);
        self.files.extend(files);
    }
}

fn targets(
    services: &Services,
    published: &Published,
    mirrored: bool,
    expelled: Option<DeviceId>,
) -> BTreeMap<String, Vec<u8>> {
    let name = VendorName::new(vendor::VENDOR).expect("a plain name");
    let public = KeyMaterial::Ed25519 { public: published.key.public() };
    let vendor_key = VendorKey { valid_from: None, valid_until: None, revoked: false, material: public };
    let vendors = Vendors { vendors: vec![Vendor { name: name.clone(), keys: vec![vendor_key] }] };
    let named = |name: &str| Site { name: site(name), addresses: Vec::new() };
    let sites = Sites { sites: ["headquarters"].iter().chain(&BRANCHES).map(|name| named(name)).collect() };
    let manifests = published.patches.iter().map(|patch| patch.manifest.clone()).collect();
    let catalogue = Catalogue { schema: SCHEMA, vendor: name.clone(), manifests };
    let revoked = serde_json::to_vec(&revoked(expelled)).expect("serialises into memory");
    BTreeMap::from([
        (VENDORS_PATH.to_owned(), to_toml(&vendors)),
        (SERVICES_PATH.to_owned(), to_toml(services)),
        (SITES_PATH.to_owned(), to_toml(&sites)),
        (REVOKED_PATH.to_owned(), revoked),
        (FLEET_LAYER_PATH.to_owned(), to_toml(&layer(published, mirrored))),
        (HOLDS_PATH.to_owned(), to_toml(&holds(published))),
        (catalogue_path(&name, &vendor::system()), catalogue.to_bytes()),
    ])
}

fn revoked(expelled: Option<DeviceId>) -> Revoked {
    let entry = |device| RevokedDevice { device, since: START, reason: "lost".to_owned() };
    Revoked { devices: expelled.map(entry).into_iter().collect() }
}

fn holds(published: &Published) -> Holds {
    let held = published.patches.iter().filter(|patch| patch.standing == Standing::Held);
    let hold = |patch: &vendor::Patch| Hold {
        id: RuleName::new(format!("hold-{}", patch.package)).expect("a plain name"),
        patch: patch.manifest.patch.clone(),
        reason: "breaks printing".to_owned(),
    };
    Holds { holds: held.map(hold).collect() }
}

/// The branches deploy what is approved; headquarters only serves.
fn layer(published: &Published, mirrored: bool) -> Layer {
    let rule = |name: &str| RuleName::new(name).expect("a plain name");
    let approves =
        |standing| !matches!(standing, Standing::Unapproved | Standing::ApprovedLater | Standing::Withdrawn);
    let approved = published.patches.iter().filter(|patch| approves(patch.standing));
    let approval = |patch: &vendor::Patch| Approval {
        patch: patch.manifest.patch.clone(),
        manifest: patch.digest,
        approved: START,
    };
    Layer {
        offline_days: None,
        policies: vec![Policy {
            name: rule("branches"),
            enabled: true,
            deploy: true,
            configurations: vec![rule("approved")],
            peer_download: None,
            wan_fetchers: None,
            mirrors: mirrored.then(vendor::mirror).into_iter().collect(),
            scan_minutes: None,
            deadline_days: None,
            caps: protocol::policy::caps::Caps::default(),
            assign: Assignment {
                sites: BRANCHES.iter().map(|name| site(name)).collect(),
                ..Assignment::default()
            },
        }],
        configurations: vec![Configuration { name: rule("approved"), deploy: true }],
        approvals: approved.map(approval).collect(),
        releases: Vec::new(),
    }
}

/// Signs root, targets and delegated roles, snapshot and timestamp, all but the root in this version; returns the root
/// and all files.
fn sign(targets: &BTreeMap<String, Vec<u8>>, version: u64) -> (Vec<u8>, BTreeMap<String, Vec<u8>>) {
    let vendors = [VendorName::new(vendor::VENDOR).expect("a plain name")];
    let top = [RoleName::root(), RoleName::targets(), RoleName::snapshot(), RoleName::timestamp()];
    let names = top.into_iter().chain(publish::delegated_roles(&vendors));
    let keys: BTreeMap<RoleName, SigningKey> =
        names.zip(1u8..).map(|(name, number)| (name, key(number, 9))).collect();
    let public =
        |name: &RoleName| -> Vec<PublicKey> { keys.get(name).map(SigningKey::public).into_iter().collect() };
    let mut files = BTreeMap::new();
    let mut put = |unsigned: Unsigned| {
        let (role, version) = (unsigned.role().clone(), unsigned.version());
        let key = &keys[&role];
        let signature = (Key::ed25519(key.public()).id(), key.sign(Purpose::Metadata, &unsigned.message()));
        let bytes = unsigned.finish(&[signature]);
        let listed = ListedMetadata::of(version, &bytes);
        files.insert(metadata_path(&role, version), bytes);
        (role, listed)
    };
    let top = publish::TopKeys {
        root: public(&RoleName::root()),
        targets: public(&RoleName::targets()),
        snapshot: public(&RoleName::snapshot()),
        timestamp: public(&RoleName::timestamp()),
    };
    put(publish::first_root(&top, START));
    let mut changed = BTreeMap::new();
    for name in keys.keys().filter(|name| !is_top(name)) {
        let mine = targets.iter().filter(|(path, _)| publish::role_of(path, &vendors).as_ref() == Some(name));
        let listed = mine.map(|(path, bytes)| (path.clone(), ListedFile::of(bytes))).collect();
        let before = (version > 1).then(|| Targets {
            version: version - 1,
            expires: START,
            targets: BTreeMap::new(),
            delegations: None,
        });
        let delegations = (*name == RoleName::targets()).then(|| publish::delegations(&vendors, &public));
        changed
            .extend(publish::next_targets(name, before.as_ref(), listed, delegations, START).map(&mut put));
    }
    let older =
        (version > 1).then(|| Snapshot { version: version - 1, expires: START, meta: BTreeMap::new() });
    let (_, snapshot) = put(publish::next_snapshot(older.as_ref(), &changed, START));
    put(publish::next_timestamp(version - 1, snapshot, START));
    files.extend(
        targets.iter().map(|(path, bytes)| (target_file_path(path, Sha256::of(bytes)), bytes.clone())),
    );
    (files[&metadata_path(&RoleName::root(), 1)].clone(), files)
}

fn is_top(name: &RoleName) -> bool {
    matches!(name.as_str(), "root" | "snapshot" | "timestamp")
}
