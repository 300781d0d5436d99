//! Publishing and remembering survive `kill -9`: versions that were seen are never lost, and nothing is half there.

use node::fleet_directory::{FleetDirectory, Initial};
use node::repository::Repository;
use node::store::{Batch, SledStore, Store as _};
use protocol::identifier::FleetId;
use protocol::time::WallTime;
use protocol::trust::{Trusted, refresh_from_bundle};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);
const WANTED: [&str; 2] = ["fleet/vendors.toml", "policy/fleet.toml"];
/// Tells the child where to work.
const PLACE: &str = "PATCHMESH_TEST_TRUST_KILL";

fn refresh(place: &Path, trusted: &Trusted) -> Trusted {
    let repository = Repository::open(&place.join("repository")).expect("repository");
    let bundle = repository.bundle(&trusted.request(&WANTED)).expect("bundle");
    refresh_from_bundle(trusted, &bundle, NOW, &WANTED).expect("refresh")
}

/// The node's own store, with the records of what it trusts.
struct Disk(SledStore);

impl Disk {
    const PREFIX: &[u8] = b"core/trust/";

    fn open(place: &Path) -> Disk {
        Disk(SledStore::open(place.join("store")).expect("the store opens after every death"))
    }

    fn records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.0.scan(Disk::PREFIX).expect("scan")
    }

    fn load(&self, fleet: FleetId) -> Trusted {
        let name = |key: &[u8]| String::from_utf8_lossy(&key[Disk::PREFIX.len()..]).into_owned();
        let records = self.records().into_iter().map(|(key, value)| (name(&key), value));
        Trusted::restore(records, fleet).expect("the trusted set is whole")
    }

    fn save(&self, trusted: &Trusted) {
        let mut batch = Batch::default();
        for (key, _) in self.records() {
            batch.delete(key);
        }
        for (name, bytes) in trusted.records() {
            batch.put([Disk::PREFIX, name.as_bytes()].concat(), bytes);
        }
        self.0.apply(batch).expect("save");
    }
}

/// Publishes, refreshes and saves until it is killed; says after each save which version is on disk.
/// Does nothing when it is not called by the test below.
#[test]
fn child() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let fleet = FleetDirectory::open(&place.join("fleet")).expect("fleet");
    let disk = Disk::open(&place);
    let mut trusted = disk.load(fleet.fleet());
    loop {
        let policy = format!("# version {}\n", trusted.timestamp_version() + 1);
        fleet.stage("policy/fleet.toml", policy.as_bytes()).expect("stage");
        fleet.publish(&place.join("repository"), NOW).expect("publish");
        trusted = refresh(&place, &trusted);
        disk.save(&trusted);
        let line = format!("saved {}\n", trusted.timestamp_version());
        std::io::stdout().write_all(line.as_bytes()).expect("parent listens");
    }
}

// proves X2
#[test]
fn a_killed_publisher_and_node_lose_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let place = directory.path();
    let fleet = FleetDirectory::init(&place.join("fleet"), &Initial::default(), NOW).expect("init");
    fleet.publish(&place.join("repository"), NOW).expect("publish");
    Disk::open(place).save(&refresh(place, &fleet.trusted().expect("root")));
    let mut highest = 1;
    for round in 0..16 {
        let seen = run_and_kill(place, Duration::from_micros(1_900 * round));
        assert!(seen > highest, "round {round}: the child made no progress");
        highest = seen;
        let trusted = Disk::open(place).load(fleet.fleet());
        assert!(trusted.timestamp_version() >= highest, "round {round}: {highest} was forgotten");
        let fresh = refresh(place, &fleet.trusted().expect("root"));
        assert!(fresh.timestamp_version() >= trusted.timestamp_version());
        assert_eq!(refresh(place, &trusted).timestamp_version(), fresh.timestamp_version());
    }
}

/// Starts the child and kills it `delay` after its second save; returns the last version that it reported.
fn run_and_kill(place: &Path, delay: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "trust_kill::child", "--nocapture"])
        .env(PLACE, place)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("child starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let (sender, saved) = mpsc::sync_channel(64);
    let reader = std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let version = line.split_once("saved ").and_then(|(_, version)| version.parse::<u64>().ok());
            if version.is_some_and(|version| sender.send(version).is_err()) {
                break;
            }
        }
    });
    let bound = Duration::from_secs(60);
    saved.recv_timeout(bound).expect("a first save");
    let mut last = saved.recv_timeout(bound).expect("a second save");
    // The moment of death differs from round to round; what is reported until then counts.
    let death = Instant::now() + delay;
    while let Ok(version) = saved.recv_timeout(death.saturating_duration_since(Instant::now())) {
        last = version;
    }
    child.kill().expect("kill");
    child.wait().expect("dead");
    last = saved.iter().last().unwrap_or(last);
    reader.join().expect("reader");
    last
}
