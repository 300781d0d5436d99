//! A small fleet for tests of the core: one vendor, one patch of three pieces, and nodes whose outputs are looked at.

mod caps;
mod deadlines;
mod deploying;
mod keeping;
mod meeting;
mod metadata;
mod obstacles;
mod outset;
mod remembering;
mod roaming;
mod sharing;
mod systems;

use super::{Core, Input, Output, Roles, Setup};
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::fleet::{
    KeyMaterial, Revoked, RevokedDevice, SERVICES_PATH, Service, Services, Site, Sites, VENDORS_PATH, Vendor,
    VendorKey, Vendors, to_toml,
};
use crate::fleet::{REVOKED_PATH, SITES_PATH};
use crate::identifier::{DeviceId, FleetId, PatchId, RuleName, SiteName, VendorName};
use crate::inventory::{Inventory, Package, PackageState};
use crate::manifest::{Artifact, Catalogue, Content, Evidence, Manifest, SCHEMA, tests::example};
use crate::membership::Member;
use crate::piece::{PieceTree, TreeBuilder};
use crate::policy::{
    Approval, Assignment, Configuration, FLEET_LAYER_PATH, HOLDS_PATH, Holds, Layer, Policy,
};
use crate::signature::{Purpose, SigningKey};
use crate::time::{Moment, WallTime};
use crate::trust::fixture::{CATALOGUE, NOW, Repository};
use crate::version::DebianVersion;
use crate::wire::{Announce, Request, Response, Versions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The organisation, its repository, and the one patch of its vendor.
pub(super) struct Fleet {
    pub repository: Repository,
    pub services: Services,
    pub vendors: Vendors,
    pub layer: Layer,
    pub manifest: Manifest,
    /// Further patches that the catalogue lists.
    pub others: Vec<Manifest>,
    pub tree: Arc<PieceTree>,
    pub revoked: Vec<DeviceId>,
    pub site_addresses: Vec<String>,
    /// Devices that run another system than the others.
    pub windows: std::ops::Range<u8>,
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&std::array::from_fn(|at| if at == 0 { number } else { 7 }))
}

fn rule(name: &str) -> RuleName {
    RuleName::new(name).expect("a plain name")
}

pub(super) fn site() -> SiteName {
    SiteName::new("utrecht").expect("a plain name")
}

/// What a device without addresses and metadata tells a seed.
pub(super) fn announcement(alone: bool) -> Request {
    Request::Announce(Announce {
        addresses: Vec::new(),
        versions: Versions::default(),
        utc_offset_minutes: 0,
        members: 0,
        metadata: None,
        alone,
    })
}

impl Fleet {
    /// Device 0 is the seed; the devices of Utrecht deploy what is approved.
    pub fn new() -> Fleet {
        let vendor_key = SigningKey::from_seed(&[200; 32]);
        let bytes = vec![7; 2_500_000];
        let mut builder = TreeBuilder::default();
        builder.update(&bytes);
        let tree = Arc::new(builder.finish());
        let content = Content::of(&bytes);
        let signature = vendor_key.sign(Purpose::Artifact, content.sha256.as_bytes());
        let evidence = Evidence::Ed25519 { key: vendor_key.public(), signature };
        let mut manifest = example("libone");
        manifest.requires.clear();
        manifest.supersedes.clear();
        manifest.artifacts = vec![Artifact { name: "libone.deb".to_owned(), content, evidence }];
        let material = KeyMaterial::Ed25519 { public: vendor_key.public() };
        let entry = VendorKey { valid_from: None, valid_until: None, revoked: false, material };
        let name = VendorName::new("debian").expect("a plain name");
        let layer = Layer {
            offline_days: None,
            policies: vec![Policy {
                name: rule("branches"),
                enabled: true,
                deploy: true,
                configurations: vec![rule("approved")],
                peer_download: None,
                wan_fetchers: None,
                mirrors: Vec::new(),
                scan_minutes: None,
                deadline_days: None,
                caps: crate::policy::caps::Caps::default(),
                assign: Assignment { sites: vec![site()], ..Assignment::default() },
            }],
            configurations: vec![Configuration { name: rule("approved"), deploy: true }],
            approvals: vec![Approval {
                patch: manifest.patch.clone(),
                manifest: manifest.digest(),
                approved: NOW,
            }],
            releases: Vec::new(),
        };
        let seed = Service { device: key(0).device(), addresses: vec!["/sim/0".to_owned()] };
        let mut fleet = Fleet {
            repository: Repository::new(),
            services: Services { seeds: vec![seed], aggregators: Vec::new(), enrolment_keys: Vec::new() },
            vendors: Vendors { vendors: vec![Vendor { name, keys: vec![entry] }] },
            layer,
            manifest,
            others: Vec::new(),
            tree,
            revoked: Vec::new(),
            site_addresses: Vec::new(),
            windows: 0..0,
        };
        fleet.publish();
        fleet
    }

    /// Publishes what vendors, services, layer and manifest say now.
    pub fn publish(&mut self) {
        let name = VendorName::new("debian").expect("a plain name");
        let manifests = [vec![self.manifest.clone()], self.others.clone()].concat();
        let catalogue = Catalogue { schema: SCHEMA, vendor: name, manifests };
        let sites = Sites { sites: vec![Site { name: site(), addresses: self.site_addresses.clone() }] };
        let revoked =
            |device: &DeviceId| RevokedDevice { device: *device, since: NOW, reason: String::new() };
        let revoked = Revoked { devices: self.revoked.iter().map(revoked).collect() };
        let staged = [
            (VENDORS_PATH, to_toml(&self.vendors)),
            (SERVICES_PATH, to_toml(&self.services)),
            (SITES_PATH, to_toml(&sites)),
            (REVOKED_PATH, serde_json::to_vec(&revoked).expect("json")),
            (FLEET_LAYER_PATH, to_toml(&self.layer)),
            (HOLDS_PATH, to_toml(&Holds::default())),
            (CATALOGUE, catalogue.to_bytes()),
        ];
        self.repository.staged = staged.into_iter().map(|(path, bytes)| (path.to_owned(), bytes)).collect();
        self.repository.publish(NOW);
    }

    pub fn id(&self) -> FleetId {
        self.repository.fleet()
    }

    pub fn member(&self, number: u8) -> Member {
        let fleet = self.id();
        let issued = NOW;
        let mut member = Member {
            fleet,
            device: key(number).device(),
            issued,
            expires: NOW.plus_days(365),
            ..crate::policy::tests::member("utrecht")
        };
        if self.windows.contains(&number) {
            member.system.family = crate::system::Family::Windows;
            member.system.distribution = "windows-server".to_owned();
        }
        member
    }

    pub fn patch(&self) -> PatchId {
        self.manifest.patch.clone()
    }

    pub fn root(&self) -> Blake3Root {
        self.tree.root()
    }

    /// A node that has just started, with nothing stored. Device 0 is a seed.
    pub fn node(&self, number: u8) -> Node {
        self.restored(number, [])
    }

    /// The same, with records that are stored.
    pub fn restored(&self, number: u8, records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Node {
        let setup = Setup {
            key: key(number),
            member: self.member(number),
            fleet: self.id(),
            root: self.repository.files["metadata/1.root.json"].clone(),
            services: self.services.clone(),
            roles: Roles { seed: number == 0, aggregator: false },
            agent: "test".to_owned(),
            seed: u64::from(number),
            wall: NOW,
            installs: number != 0,
            keep_bytes: crate::limits::KEEP_BYTES,
        };
        let core = Core::restore(setup, records.into_iter().collect()).expect("what is stored is whole");
        let mut node =
            Node { core, now: Moment::START, outputs: Vec::new(), stores: Vec::new(), slow_disk: false };
        node.settle();
        node
    }

    /// A node that has the metadata, and nothing installed.
    pub fn member_node(&self, number: u8) -> Node {
        let mut node = self.node(number);
        node.refresh(self);
        node.scanned(self, "1.0-1");
        node
    }

    /// A node that holds the whole patch, checked.
    pub fn holder(&self, number: u8) -> Node {
        let mut node = self.member_node(number);
        node.hold(self);
        node
    }
}

/// A core, what it asked for, and its disk, which is quick unless told otherwise.
pub(super) struct Node {
    pub core: Core,
    pub now: Moment,
    pub outputs: Vec<Output>,
    pub stores: Vec<EffectId>,
    pub slow_disk: bool,
}

impl Node {
    pub fn settle(&mut self) {
        while let Some(output) = self.core.poll() {
            match output {
                Output::Store { effect, .. } if self.slow_disk => self.stores.push(effect),
                Output::Store { effect, .. } => {
                    self.core.handle(self.now, Input::Stored { effect, result: Ok(()) });
                }
                other => self.outputs.push(other),
            }
        }
        self.core.check().expect("the rules hold");
    }

    pub fn handle(&mut self, input: Input) {
        self.core.handle(self.now, input);
        self.settle();
    }

    /// The disk does everything that waits.
    pub fn flush(&mut self) {
        self.slow_disk = false;
        for effect in std::mem::take(&mut self.stores) {
            self.handle(Input::Stored { effect, result: Ok(()) });
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.handle(Input::Wake);
    }

    /// Everything that was asked for since the last call.
    pub fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Takes over what the repository says, whoever brings it.
    pub fn refresh(&mut self, fleet: &Fleet) {
        let targets = fleet.repository.staged.keys().cloned().collect();
        self.handle(Input::Repository { bundle: fleet.repository.everything(), targets });
    }

    pub fn connect(&mut self, member: Member) {
        self.handle(Input::Connected(member));
    }

    pub fn answer(&mut self, effect: EffectId, response: Response) {
        self.handle(Input::Answered { effect, result: Ok(response) });
    }

    /// Requests among the outputs so far.
    pub fn requests(&self) -> impl Iterator<Item = (EffectId, &Request)> {
        self.outputs.iter().filter_map(|output| match output {
            Output::Request { effect, request, .. } => Some((*effect, request)),
            _ => None,
        })
    }

    /// Completes the last scan that was asked for.
    pub fn scanned(&mut self, fleet: &Fleet, version: &str) {
        let scan = |output: &Output| match output {
            Output::Scan { effect } => Some(*effect),
            _ => None,
        };
        let effect = self.outputs.iter().rev().find_map(scan).expect("a scan was asked for");
        self.outputs.retain(|output| !matches!(output, Output::Scan { .. }));
        let member = fleet.member(1);
        let package = Package {
            name: "libone".to_owned(),
            architecture: "amd64".to_owned(),
            version: DebianVersion::new(version).expect("a version"),
            state: PackageState::Installed,
        };
        let packages = BTreeMap::from([(("libone".to_owned(), "amd64".to_owned()), package)]);
        let inventory = Inventory { system: member.system, packages, taken: NOW };
        self.handle(Input::Scanned { effect, result: Ok(inventory) });
    }

    /// The whole patch lies on the disk and passes its check.
    pub fn hold(&mut self, fleet: &Fleet) {
        let pieces = crate::bitmap::PieceSet::full(fleet.tree.pieces());
        self.handle(Input::Held { tree: Arc::clone(&fleet.tree), pieces });
        self.check_content();
    }

    /// Completes every full check that was asked for.
    pub fn check_content(&mut self) {
        let mut effects = Vec::new();
        self.outputs.retain(|output| match output {
            Output::FullCheck { effect, .. } => {
                effects.push(*effect);
                false
            }
            _ => true,
        });
        for effect in effects {
            self.handle(Input::FullChecked { effect, result: Ok(()) });
        }
    }

    pub fn installs(&self) -> usize {
        self.outputs.iter().filter(|output| matches!(output, Output::Install { .. })).count()
    }

    pub fn wall(&mut self, wall: WallTime) {
        self.handle(Input::WallClock(wall));
    }
}
