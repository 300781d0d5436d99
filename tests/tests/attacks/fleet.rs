//! A small fleet in one process: headquarters with a real repository, branch nodes with real package databases.

use super::until;
use node::configuration::{Aggregator, Bucket, Configuration, LogFormat, Node as NodeTable, Seed};
use node::control::{Client, answer};
use node::deploy::root::{self, Blueprint, OsRelease};
use node::deploy::{Helper, Isolation, Outcome, Target};
use node::driver::{self, Options, Running, StartError};
use node::fleet_directory::{Choices, FleetDirectory, Initial};
use node::import::file::{FileRequest, Signing, import};
use node::key_file;
use node::membership::Files;
use node::net::{Multiaddr, system_clock};
use node::store::OpenError;
use patchmesh_tests::fleet::DEPLOYS;
use patchmesh_tests::typed::free_port;
use protocol::fleet::{
    self, EnrolmentKey, KeyMaterial, Revoked, RevokedDevice, Service, Services, Vendor, VendorKey, Vendors,
};
use protocol::identifier::{DeviceId, HostName, PatchId, SiteName, VendorName};
use protocol::manifest::{Catalogue, Manifest, SCHEMA};
use protocol::membership::{Certificate, Class, EnrolGrant, Member};
use protocol::policy::FLEET_LAYER_PATH;
use protocol::signature::{Purpose, SigningKey};
use protocol::system::{Family, System};
use protocol::time::WallTime;
use protocol::trust::catalogue_path;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub const SITE: &str = "utrecht";

pub fn now() -> WallTime {
    system_clock()()
}

pub fn system(distribution: &str) -> System {
    let release = if distribution == "debian" { "12" } else { "24.04" };
    System {
        family: Family::Linux,
        distribution: distribution.to_owned(),
        release: release.to_owned(),
        architecture: node::scan::system::machine_architecture().expect("this test needs dpkg"),
    }
}

/// One package in two versions; the newer one is a patch.
#[derive(Clone, Debug)]
pub struct Patch {
    pub older: PathBuf,
    pub newer: PathBuf,
    pub manifest: Manifest,
}

impl Patch {
    pub fn id(&self) -> PatchId {
        self.manifest.patch.clone()
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.newer).expect("package")
    }
}

/// The administrator's side, and headquarters.
pub struct Fleet {
    pub place: tempfile::TempDir,
    pub directory: FleetDirectory,
    pub services: Services,
    pub vendor: SigningKey,
    enrolment: SigningKey,
    hq_key: SigningKey,
    address: Multiaddr,
    /// Where the content of headquarters lies too.
    pub bucket: Option<Bucket>,
    patches: Vec<Manifest>,
    approved: Vec<(PatchId, protocol::identifier::ManifestDigest)>,
    policy: String,
    revoked: Vec<DeviceId>,
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

fn vendor_name() -> VendorName {
    VendorName::new("acme").expect("name")
}

impl Fleet {
    pub fn new() -> Fleet {
        node::net::install_crypto_provider();
        let place = tempfile::tempdir().expect("directory");
        let port = free_port().expect("port");
        let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("address");
        let keys = place.path().join("keys");
        let (enrolment, hq_key, vendor) = (key(201), key(202), key(203));
        let watermark = key_file::create(&keys.join("watermark.key")).expect("key");
        let reached = vec![address.to_string()];
        let services = Services {
            seeds: vec![Service { device: hq_key.device(), addresses: reached.clone() }],
            aggregators: vec![fleet::Aggregator {
                device: hq_key.device(),
                addresses: reached,
                watermark_key: watermark.public(),
            }],
            enrolment_keys: vec![EnrolmentKey { public: enrolment.public(), valid_until: None }],
        };
        let material = KeyMaterial::Ed25519 { public: vendor.public() };
        let vendor_key = VendorKey { valid_from: None, valid_until: None, revoked: false, material };
        let vendors = Vendors { vendors: vec![Vendor { name: vendor_name(), keys: vec![vendor_key] }] };
        let initial = Initial { services: services.clone(), vendors, ..Initial::default() };
        let directory = FleetDirectory::init(&place.path().join("fleet"), &initial, now()).expect("fleet");
        Fleet {
            place,
            directory,
            services,
            vendor,
            enrolment,
            hq_key,
            address,
            bucket: None,
            patches: Vec::new(),
            approved: Vec::new(),
            policy: DEPLOYS.to_owned(),
            revoked: Vec::new(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    /// Builds two versions of a package of about `size` bytes and signs the newer one, or does not.
    pub fn build(&self, name: &str, size: usize, signed: bool, system: &System) -> Patch {
        let build = |version: &str, seed: u64| {
            let blueprint = Blueprint {
                package: name.to_owned(),
                version: version.to_owned(),
                architecture: "all".to_owned(),
                files: BTreeMap::from([(format!("usr/share/{name}/data"), noise(size, seed))]),
                ..Blueprint::default()
            };
            root::build_deb(&blueprint, self.place.path()).expect("this test needs dpkg-deb")
        };
        let (older, newer) = (build("1.0", 1), build("2.0", 2));
        let signing = if signed {
            let bytes = std::fs::read(&newer).expect("package");
            let digest = protocol::digest::Sha256::of(&bytes);
            let signature = self.vendor.sign(Purpose::Artifact, digest.as_bytes());
            let path = newer.with_extension("sig");
            std::fs::write(&path, signature.as_bytes()).expect("signature");
            Signing::Detached(path)
        } else {
            Signing::Unsigned
        };
        let vendors = self.directory.staged(fleet::VENDORS_PATH).expect("staged").expect("vendors");
        let vendors: Vendors = fleet::parse_toml(fleet::VENDORS_PATH, &vendors).expect("vendors");
        let request =
            FileRequest { path: newer.clone(), vendor: vendor_name(), signing, system: system.clone() };
        let mut imported = import(&request, &vendors, now()).expect("import");
        Patch { older, newer, manifest: imported.manifests.remove(0) }
    }

    /// Puts a manifest into the catalogue, in the place of another one of the same patch.
    pub fn list(&mut self, manifest: &Manifest) {
        self.patches.retain(|listed| listed.patch != manifest.patch);
        self.patches.push(manifest.clone());
    }

    pub fn approve(&mut self, manifest: &Manifest) {
        self.approved.push((manifest.patch.clone(), manifest.digest()));
    }

    pub fn set_policy(&mut self, policy: &str) {
        policy.clone_into(&mut self.policy);
    }

    pub fn revoke(&mut self, device: DeviceId) {
        self.revoked.push(device);
    }

    /// Signs everything anew and puts it into the repository.
    pub fn publish(&self) {
        self.publish_at(&self.repository(), now());
    }

    pub fn publish_at(&self, repository: &Path, now: WallTime) {
        let mut policy = self.policy.clone();
        for (patch, digest) in &self.approved {
            policy.push_str(&format!(
                "\n[[approval]]\npatch = \"{patch}\"\nmanifest = \"{digest}\"\napproved = \"2026-01-01T00:00:00Z\"\n"
            ));
        }
        let mut systems: BTreeMap<String, Vec<Manifest>> = BTreeMap::new();
        for manifest in &self.patches {
            for target in &manifest.targets {
                let path = catalogue_path(&vendor_name(), &system(&target.distribution));
                systems.entry(path).or_default().push(manifest.clone());
            }
        }
        for (path, manifests) in systems {
            let catalogue = Catalogue { schema: SCHEMA, vendor: vendor_name(), manifests };
            self.directory.stage(&path, &catalogue.to_bytes()).expect("catalogue");
        }
        let entry =
            |device: &DeviceId| RevokedDevice { device: *device, since: now, reason: "lost".to_owned() };
        let revoked = Revoked { devices: self.revoked.iter().map(entry).collect() };
        let revoked = serde_json::to_vec(&revoked).expect("json");
        self.directory.stage(fleet::REVOKED_PATH, &revoked).expect("revoked");
        self.directory.stage(FLEET_LAYER_PATH, policy.as_bytes()).expect("policy");
        let mut keys = self.directory.keys().expect("keys");
        let choices = Choices { clock_is_right: true, ..Choices::default() };
        self.directory.publish_with(&mut keys, repository, &choices, now).expect("published");
    }

    pub fn member(&self, device: DeviceId, host: &str, site: &str, system: &System) -> Member {
        Member {
            fleet: self.directory.fleet(),
            device,
            site: SiteName::new(site).expect("site"),
            class: Class::Server,
            system: system.clone(),
            host: HostName::new(host).expect("host"),
            issued: now(),
            expires: now().plus_days(30),
        }
    }

    pub fn certificate(&self, member: &Member) -> Certificate {
        Certificate::issue(member, &self.enrolment)
    }

    /// Makes the directory of a node that has joined, and what it starts with.
    fn join(&self, host: &str, key: &SigningKey, site: &str, system: &System) -> Configuration {
        let directory = self.path(host);
        std::fs::create_dir_all(&directory).expect("directory");
        let files = Files::new(&directory.join("state"));
        std::fs::create_dir_all(directory.join("state")).expect("directory");
        let path = directory.join("state/identity.key");
        if !path.exists() {
            std::fs::write(&path, format!("{}\n", protocol::codec::hex(&key.seed()))).expect("key");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, private).expect("mode");
            let certificate = self.certificate(&self.member(key.device(), host, site, system));
            let root = self.directory.first_root().to_vec();
            let grant = EnrolGrant { certificate, root, services: self.services.clone() };
            files.keep(&grant, key, self.directory.fleet(), now()).expect("joined");
            let text = format!("ID={}\nVERSION_ID=\"{}\"\n", system.distribution, system.release);
            root::prepare(&directory.join("root"), &OsRelease::Text(text)).expect("root directory");
        }
        Configuration {
            node: NodeTable {
                directory: directory.join("state"),
                listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("address")],
                external: Vec::new(),
                control_socket: directory.join("socket"),
                root: directory.join("root"),
                allow_deploy_on_host: false,
                mdns: false,
                link: None,
                download_limit: None,
                upload_limit: None,
                keep_bytes: protocol::limits::KEEP_BYTES,
                log: "info".to_owned(),
                log_format: LogFormat::Text,
            },
            seed: None,
            bucket: None,
            registrar: None,
            aggregator: None,
        }
    }

    /// Headquarters: seed and aggregator.
    pub async fn headquarters(&self) -> Node {
        self.try_headquarters().await.expect("headquarters starts")
    }

    pub async fn try_headquarters(&self) -> Result<Node, StartError> {
        let mut configuration = self.join("hq", &self.hq_key, "headquarters", &system("debian"));
        configuration.node.listen = vec![self.address.clone()];
        configuration.seed = Some(Seed {
            repository: self.repository(),
            keys: self.directory.online_keys_directory(),
            mirrors: Vec::new(),
            keep_bytes: protocol::limits::CACHE_BYTES,
            upload_limit: None,
        });
        configuration.bucket.clone_from(&self.bucket);
        configuration.aggregator = Some(Aggregator {
            http: ([127, 0, 0, 1], 0).into(),
            names: Vec::new(),
            watermark_key: self.path("keys/watermark.key"),
        });
        Node::start(configuration, self.hq_key.device()).await
    }

    /// A node of a branch office with these packages installed.
    pub async fn branch(&self, number: u8, site: &str, installed: &[&Patch]) -> Node {
        self.try_branch(number, site, "debian", installed).await.expect("node starts")
    }

    pub async fn try_branch(
        &self,
        number: u8,
        site: &str,
        distribution: &str,
        installed: &[&Patch],
    ) -> Result<Node, StartError> {
        let (host, key) = (format!("branch{number}"), key(number));
        let fresh = !self.path(&host).exists();
        let configuration = self.join(&host, &key, site, &system(distribution));
        if fresh && !installed.is_empty() {
            let work = self.path("work");
            std::fs::create_dir_all(&work).expect("directory");
            let isolation = Isolation::None { reason: "packages of this test".to_owned() };
            let target =
                Target::directory(&configuration.node.root, &work, isolation, Duration::from_secs(60));
            let debs: Vec<PathBuf> = installed.iter().map(|patch| patch.older.clone()).collect();
            let outcome = root::install(&target.expect("target"), &debs);
            assert!(matches!(outcome, Outcome::Exited { code: 0, .. }), "{outcome:?}");
        }
        Node::start(configuration, key.device()).await
    }

    /// Hands the files of patches to the seed and makes it read its repository.
    pub async fn serve(&self, hq: &Node, patches: &[&Patch]) {
        let paths: Vec<PathBuf> = patches.iter().map(|patch| patch.newer.clone()).collect();
        hq.ask(move |client| client.add_content(paths)).await;
        self.publish();
        hq.ask(|client| client.repository_changed()).await;
    }
}

/// A node that runs in this process.
pub struct Node {
    pub device: DeviceId,
    pub configuration: Configuration,
    pub listening: Vec<Multiaddr>,
    running: Running,
    stop: CancellationToken,
}

impl Node {
    /// A store that was just closed in this process is free a moment later: that is waited for.
    async fn start(configuration: Configuration, device: DeviceId) -> Result<Node, StartError> {
        let started = std::cell::RefCell::new(None);
        until("the store is free", async || {
            let result = Node::start_once(configuration.clone(), device).await;
            let locked = matches!(&result, Err(StartError::Open(OpenError::Locked { .. })));
            *started.borrow_mut() = Some(result);
            !locked
        })
        .await;
        started.into_inner().expect("just started")
    }

    async fn start_once(configuration: Configuration, device: DeviceId) -> Result<Node, StartError> {
        let stop = CancellationToken::new();
        // No such program: installers run without a sandbox, which is all that these tests need.
        let helper = Helper { program: "/nonexistent".into(), arguments: Vec::new() };
        let options =
            Options { configuration: configuration.clone(), helper, agent: "patchmesh/test".to_owned() };
        let running = Box::pin(driver::start(options, stop.clone())).await?;
        Ok(Node { device, configuration, listening: running.listening.clone(), running, stop })
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.running.stopped().await;
    }

    /// Asks on the control socket, as the command line does.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Client) -> Result<T, node::control::ClientError> + Send + 'static,
    ) -> T {
        self.try_ask(question).await.expect("the node answers")
    }

    /// As [`Node::ask`], for questions that the node may refuse.
    pub async fn try_ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Client) -> Result<T, node::control::ClientError> + Send + 'static,
    ) -> Result<T, node::control::ClientError> {
        let socket = self.configuration.node.control_socket.clone();
        let asking = tokio::task::spawn_blocking(move || question(&mut Client::connect(&socket)?));
        asking.await.expect("no panic")
    }

    pub async fn status(&self) -> answer::Status {
        self.ask(|client| client.status()).await
    }

    /// Whether the node lists a refusal with this code, of this peer.
    pub async fn refused(&self, code: &str, peer: DeviceId) -> bool {
        let status = self.status().await;
        status.refusals.iter().any(|refusal| refusal.reason.code == code && refusal.peer == Some(peer))
    }

    pub async fn sees_refusal(&self, code: &'static str, peer: DeviceId) {
        until(&format!("the node lists {code}"), async || self.refused(code, peer).await).await;
    }

    /// Codes of everything that needs attention.
    pub async fn sees_problem(&self, code: &'static str) {
        until(&format!("the node names {code}"), async || {
            self.status().await.problems.iter().any(|problem| problem.reason.code == code)
        })
        .await;
    }

    /// Waits until the deployment of `patch` is in `state`.
    pub async fn deployment(&self, patch: &PatchId, state: &'static str) {
        until(&format!("{patch} is {state}"), async || self.state_of(patch).await.as_deref() == Some(state))
            .await;
    }

    pub async fn state_of(&self, patch: &PatchId) -> Option<String> {
        let status = self.status().await;
        status.deployments.into_iter().find(|one| one.patch == *patch).map(|one| one.state)
    }

    /// Waits until the metadata of version `timestamp` or later is in force and a scan ran by it.
    pub async fn metadata(&self, timestamp: u64) {
        until(&format!("timestamp {timestamp} is in force"), async || self.timestamp().await >= timestamp)
            .await;
    }

    pub async fn timestamp(&self) -> u64 {
        self.status().await.metadata.versions.get("timestamp").copied().unwrap_or(0)
    }

    /// Reason codes of the plan's left-out patches.
    pub async fn left_out(&self, patch: &PatchId) -> Option<String> {
        let plan = self.ask(|client| client.plan()).await;
        plan.left_out.into_iter().find(|one| one.patch == *patch).map(|one| one.reason.code)
    }

    /// The version of a package in the root directory.
    pub fn installed(&self, package: &str) -> Option<String> {
        let inventory = node::scan::take(&self.configuration.node.root, now()).expect("inventory");
        inventory.package(package, "all").map(|found| found.version.to_string())
    }
}

/// Bytes that do not compress, the same for the same seed (xorshift64*, Vigna 2016).
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = std::iter::repeat_with(|| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()
    });
    words.flatten().take(bytes).collect()
}
