//! A published fleet in a temporary directory, with a client of each implementation: ours, python-tuf, tough.

use super::tough_client;
use node::fleet_directory::{Choices, FleetDirectory, Initial};
use node::key_source::{KeyFiles, KeySource as _};
use protocol::digest::Sha256;
use protocol::fleet::{Vendor, Vendors};
use protocol::identifier::VendorName;
use protocol::signature::SigningKey;
use protocol::time::WallTime;
use protocol::trust::publish::{next_snapshot, next_timestamp};
use protocol::trust::{
    Current, Key, ListedMetadata, Refresh, Refused, RoleKeys, RoleName, Snapshot, Step, Trusted, Unsigned,
    metadata_path,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

pub const CATALOGUE: &str = "catalogue/debian/debian-12-amd64.json";
pub const WANTED: [&str; 4] = ["fleet/vendors.toml", "fleet/sites.toml", "policy/fleet.toml", CATALOGUE];

/// The reference implementation of the specification.
pub const PYTHON_TUF: &str = "python-tuf";

/// The implementation in Rust that ours stands in the place of.
pub const TOUGH: &str = "tough";

/// What a client says after a refresh: SHA-256 of each target, or the reason.
#[derive(Debug, PartialEq)]
pub enum Answer {
    Trusted(BTreeMap<String, String>),
    Refused(String),
}

pub struct Lab {
    directory: tempfile::TempDir,
    pub fleet: FleetDirectory,
    pub keys: KeyFiles,
    trusted: RefCell<Trusted>,
}

pub fn now() -> WallTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    WallTime::from_unix_seconds(since.as_secs())
}

pub fn role(name: &str) -> RoleName {
    RoleName::new(name).expect("role")
}

impl Lab {
    /// A fleet with one vendor and one empty catalogue, published once.
    pub fn new() -> Lab {
        let directory = tempfile::tempdir().expect("directory");
        let vendor = Vendor { name: VendorName::new("debian").expect("vendor"), keys: Vec::new() };
        let initial = Initial { vendors: Vendors { vendors: vec![vendor] }, ..Initial::default() };
        let fleet = FleetDirectory::init(&directory.path().join("fleet"), &initial, now()).expect("init");
        fleet.stage(CATALOGUE, br#"{"schema":1,"vendor":"debian","manifests":[]}"#).expect("stage");
        let keys = fleet.keys().expect("keys");
        let trusted = RefCell::new(fleet.trusted().expect("root"));
        let lab = Lab { directory, fleet, keys, trusted };
        lab.publish_at(now());
        for state in [PYTHON_TUF, TOUGH] {
            fs::create_dir(lab.directory.path().join(state)).expect("state");
        }
        lab.copy("repository", "first");
        lab
    }

    pub fn repository(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    /// Publishes another policy.
    pub fn publish(&self, policy: &str) {
        self.fleet.stage("policy/fleet.toml", policy.as_bytes()).expect("stage");
        self.publish_at(now());
    }

    /// Publishes as if it were another time, also where the repository was removed.
    pub fn publish_at(&self, time: WallTime) {
        let choices =
            Choices { clock_is_right: true, anew: !self.repository().exists(), ..Choices::default() };
        let mut keys = self.fleet.keys().expect("keys");
        self.fleet.publish_with(&mut keys, &self.repository(), &choices, time).expect("publish");
    }

    /// Copies a directory of the lab over another: `first` is the repository after its first publication.
    pub fn copy(&self, from: &str, to: &str) {
        let (from, to) = (self.directory.path().join(from), self.directory.path().join(to));
        let _ = fs::remove_dir_all(&to);
        let copied = Command::new("cp").arg("-a").args([&from, &to]).status().expect("cp");
        assert!(copied.success());
    }

    pub fn remove_repository(&self) {
        fs::remove_dir_all(self.repository()).expect("remove");
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.repository().join(path)).expect(path)
    }

    pub fn write(&self, path: &str, bytes: &[u8]) {
        let place = self.repository().join(path);
        fs::create_dir_all(place.parent().expect("directory")).expect("directory");
        fs::write(place, bytes).expect(path);
    }

    pub fn current(&self) -> Current {
        Current::read(|path| fs::read(self.repository().join(path)).ok()).expect("current")
    }

    /// Writes metadata signed with the keys of `signer`, as it should be listed.
    pub fn sign(&self, unsigned: Unsigned, signer: &str) -> ListedMetadata {
        let (name, version) = (unsigned.role().clone(), unsigned.version());
        let signatures = self.keys.sign(&role(signer), &unsigned.message()).expect("sign");
        let bytes = unsigned.finish(&signatures);
        self.write(&metadata_path(&name, version), &bytes);
        ListedMetadata::of(version, &bytes)
    }

    /// Signs a snapshot that lists `changed`, and a timestamp for it: what a stolen seed could do.
    pub fn sign_snapshot(&self, previous: &Snapshot, changed: BTreeMap<RoleName, ListedMetadata>) {
        let timestamp = self.current().timestamp_version();
        let listed = self.sign(next_snapshot(Some(previous), &changed, now()), "snapshot");
        self.sign(next_timestamp(timestamp, listed, now()), "timestamp");
    }

    /// The next root metadata, with `change` made to it, signed by the root keys.
    pub fn sign_root(&self, change: impl FnOnce(&mut protocol::trust::Root)) {
        let mut root = self.current().root;
        root.version += 1;
        change(&mut root);
        self.sign(Unsigned::new(RoleName::root(), &root), "root");
    }

    /// A root that names a new timestamp key, and a timestamp by it.
    pub fn rotate_timestamp_key(&self) {
        let key = SigningKey::from_seed(&[7; 32]);
        let public = Key::ed25519(key.public());
        self.sign_root(|root| {
            root.roles.insert(RoleName::timestamp(), RoleKeys::any_of(&[key.public()]));
            root.keys.insert(public.id(), public.clone());
        });
        let current = self.current();
        let snapshot = current.snapshot.as_ref().expect("published");
        let listed = ListedMetadata::of(snapshot.version, &current.snapshot_bytes);
        let unsigned = next_timestamp(current.timestamp_version(), listed, now());
        let signature = key.sign(protocol::signature::Purpose::Metadata, &unsigned.message());
        let bytes = unsigned.finish(&[(public.id(), signature)]);
        self.write("metadata/timestamp.json", &bytes);
    }

    /// Digests of the wanted targets as the administrator wrote them.
    pub fn genuine(&self) -> BTreeMap<String, String> {
        let digest =
            |path: &str| Sha256::of(&self.fleet.staged(path).expect("read").expect("staged")).to_string();
        WANTED.iter().map(|path| ((*path).to_owned(), digest(path))).collect()
    }

    /// Refreshes our own client; it remembers what it trusted.
    pub fn ours(&self) -> Answer {
        let (answer, trusted) = ours(&self.trusted.borrow(), &self.repository(), &WANTED);
        if let Some(trusted) = trusted {
            *self.trusted.borrow_mut() = trusted;
        }
        answer
    }

    /// Refreshes the oracles, each of which remembers in a directory of its own what it trusted.
    pub fn theirs(&self) -> [(&'static str, Answer); 2] {
        let root = self.fleet.directory().join("root.json");
        let state = |oracle: &str| self.directory.path().join(oracle);
        [
            (PYTHON_TUF, theirs(&root, &state(PYTHON_TUF), &self.repository(), &WANTED)),
            (TOUGH, tough_client::refresh(&root, &state(TOUGH), &self.repository(), &WANTED)),
        ]
    }

    /// Tears the files in which tough remembers what it trusted, as a power cut may tear what was not synced.
    pub fn tear_state_of_tough(&self) {
        for entry in fs::read_dir(self.directory.path().join(TOUGH)).expect("state").flatten() {
            let bytes = fs::read(entry.path()).expect("state");
            fs::write(entry.path(), &bytes[..bytes.len() / 2]).expect("state");
        }
    }
}

/// What our client says about a repository, and what it trusts then.
pub fn ours(before: &Trusted, repository: &Path, wanted: &[&str]) -> (Answer, Option<Trusted>) {
    let mut refresh = Refresh::new(before, now(), wanted);
    match run(&mut refresh, repository) {
        Err(refused) => (Answer::Refused(refused.code().to_owned()), None),
        Ok(trusted) => {
            let digest = |path: &str| Sha256::of(trusted.target(path).unwrap_or_default()).to_string();
            let targets = trusted.target_paths().map(|path| (path.to_owned(), digest(path))).collect();
            (Answer::Trusted(targets), Some(trusted))
        }
    }
}

/// What python-tuf says about a repository.
pub fn theirs(root: &Path, state: &Path, repository: &Path, wanted: &[&str]) -> Answer {
    let paths = ["--repository", "--state", "--root"].into_iter().zip([repository, state, root]);
    let options: Vec<&OsStr> = paths.flat_map(|(name, path)| [OsStr::new(name), path.as_os_str()]).collect();
    let wanted: Vec<&OsStr> = wanted.iter().map(OsStr::new).collect();
    let answer = python("tuf_client.py", &[options, wanted].concat());
    match answer.get("trusted") {
        Some(targets) => Answer::Trusted(serde_json::from_value(targets.clone()).expect("targets")),
        None => Answer::Refused(answer.to_string()),
    }
}

/// Runs a script of `oracles/` and gives the JSON that it prints.
pub fn python(script: &str, arguments: &[&OsStr]) -> serde_json::Value {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = tests.join(".venv/bin/python");
    assert!(python.exists(), "{} is missing: run `make test`", python.display());
    let script = tests.join("oracles").join(script);
    let output = Command::new(python).arg(script).args(arguments).output().expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn run(refresh: &mut Refresh, repository: &Path) -> Result<Trusted, Refused> {
    loop {
        match refresh.step()? {
            Step::Done(trusted) => return Ok(*trusted),
            Step::Need { path, .. } => match fs::read(repository.join(path)) {
                Ok(bytes) => refresh.provide(&bytes)?,
                Err(_) => refresh.provide_missing()?,
            },
        }
    }
}
