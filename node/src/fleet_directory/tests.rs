//! Tests: from `fleet init` to what a node trusts.

use super::*;
use crate::repository::{Repository, RepositoryError};
use protocol::fleet::Vendor;
use protocol::identifier::VendorName;
use protocol::trust::{Refused, metadata_path, refresh_from_bundle};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

pub const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);
pub const CATALOGUE: &str = "catalogue/debian/debian-12-amd64.json";
const WANTED: [&str; 7] = [
    "fleet/vendors.toml",
    "fleet/services.toml",
    "fleet/sites.toml",
    "fleet/revoked.json",
    "policy/fleet.toml",
    "hold/holds.toml",
    CATALOGUE,
];

pub struct Place {
    _directory: tempfile::TempDir,
    pub fleet: FleetDirectory,
    pub repository: PathBuf,
}

pub fn vendor(name: &str) -> Vendor {
    Vendor { name: VendorName::new(name).expect("vendor"), keys: Vec::new() }
}

pub fn place() -> Place {
    let directory = tempfile::tempdir().expect("directory");
    let initial = Initial { vendors: Vendors { vendors: vec![vendor("debian")] }, ..Initial::default() };
    let fleet = FleetDirectory::init(&directory.path().join("fleet"), &initial, NOW).expect("init");
    let repository = directory.path().join("repository");
    Place { _directory: directory, fleet, repository }
}

pub fn catalogue(vendor: &str) -> Vec<u8> {
    format!(r#"{{"schema":1,"vendor":"{vendor}","manifests":[]}}"#).into_bytes()
}

pub fn refresh(repository: &Repository, trusted: &Trusted, now: WallTime) -> Result<Trusted, Refused> {
    let bundle = repository.bundle(&trusted.request(&WANTED)).expect("bundle");
    refresh_from_bundle(trusted, &bundle, now, &WANTED)
}

pub fn role(name: &str) -> RoleName {
    RoleName::new(name).expect("role")
}

#[test]
fn a_fleet_is_made_once_with_guarded_keys() {
    let place = place();
    let again = FleetDirectory::init(place.fleet.directory(), &Initial::default(), NOW);
    assert!(matches!(again, Err(FleetError::Exists(_))));
    let reopened = FleetDirectory::open(place.fleet.directory()).expect("open");
    assert_eq!(reopened.fleet(), place.fleet.fleet());
    for path in ["keys/root.json", "keys/root-recovery.json", "keys/online/timestamp.json"] {
        let mode = fs::metadata(place.fleet.directory().join(path)).expect("key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path}");
    }
    let root = place.fleet.trusted().expect("trusted");
    let keys = &root.root().roles[&RoleName::root()];
    assert_eq!((keys.keyids.len(), keys.threshold), (2, 1));
    let nothing = FleetDirectory::open(&place.repository);
    assert!(matches!(nothing, Err(FleetError::NotAFleet(_))));
}

#[test]
fn one_change_at_a_time() {
    let place = place();
    let leftovers = ["content/.new-abc123", "targets/policy/.new-abc123", ".new-abc123"];
    fs::create_dir(place.fleet.directory().join("content")).expect("make");
    for name in leftovers {
        fs::write(place.fleet.directory().join(name), b"of a command that was killed").expect("write");
    }
    let held = place.fleet.lock().expect("free");
    assert!(leftovers.iter().all(|name| !place.fleet.directory().join(name).exists()));
    let busy = FleetDirectory::open(place.fleet.directory()).expect("open").lock_within(Duration::ZERO);
    assert!(matches!(busy, Err(FleetError::Busy(_))));
    drop(held);
    place.fleet.lock_within(Duration::ZERO).expect("free again");
}

#[test]
fn a_node_trusts_what_was_published() {
    let place = place();
    place.fleet.stage(CATALOGUE, &catalogue("debian")).expect("stage");
    let summary = place.fleet.publish(&place.repository, NOW).expect("publish");
    assert_eq!((summary.snapshot, summary.timestamp, summary.targets.len()), (1, 1, 7));
    assert_eq!(summary.roles.len(), 7);
    let repository = Repository::open(&place.repository).expect("open");
    assert_eq!(repository.fleet().expect("fleet"), place.fleet.fleet());
    let trusted = refresh(&repository, &place.fleet.trusted().expect("root"), NOW).expect("refresh");
    assert_eq!(trusted.target(CATALOGUE), Some(catalogue("debian").as_slice()));
    // Nothing changed: nothing is signed.
    let summary = place.fleet.publish(&place.repository, NOW).expect("publish");
    assert!(summary.roles.is_empty() && summary.targets.is_empty());
    assert_eq!(refresh(&repository, &trusted, NOW), Ok(trusted.clone()));
    // One file changed: one role is signed.
    place.fleet.stage("policy/fleet.toml", b"offline-days = 3\n").expect("stage");
    let summary = place.fleet.publish(&place.repository, NOW).expect("publish");
    assert_eq!(summary.roles, [(role("policy"), 2)].into());
    assert_eq!(summary.targets, ["policy/fleet.toml"]);
    assert_eq!((summary.snapshot, summary.timestamp), (2, 2));
    let newer = refresh(&repository, &trusted, NOW).expect("refresh");
    assert_eq!(newer.target("policy/fleet.toml"), Some(b"offline-days = 3\n".as_slice()));
}

#[test]
fn a_new_vendor_gets_a_role() {
    let place = place();
    place.fleet.publish(&place.repository, NOW).expect("publish");
    place.fleet.stage("catalogue/other/x.json", &catalogue("other")).expect("stage");
    let refused = place.fleet.publish(&place.repository, NOW);
    assert!(matches!(refused, Err(PublishError::NoRole(path)) if path == "catalogue/other/x.json"));
    let vendors = Vendors { vendors: vec![vendor("debian"), vendor("other")] };
    place.fleet.stage("fleet/vendors.toml", &to_toml(&vendors)).expect("stage");
    let summary = place.fleet.publish(&place.repository, NOW).expect("publish");
    assert_eq!(summary.roles, [(role("catalogue-other"), 1), (role("targets"), 2)].into());
}

#[test]
fn staged_files_are_checked() {
    let place = place();
    for (path, bytes) in [
        ("fleet/sites.toml", b"[[site]]\nnam = 1\n".as_slice()),
        ("fleet/revoked.json", b"{"),
        ("policy/fleet.toml", b"[[policy]]\nname = \"x\"\n"),
        ("hold/holds.toml", b"hold = 1"),
        (CATALOGUE, b"{}"),
        (CATALOGUE, &catalogue("other")),
        ("../escape", b""),
    ] {
        let refused = place.fleet.stage(path, bytes).expect_err(path).to_string();
        assert!(refused.contains(path), "{refused}");
    }
    fs::write(place.fleet.staged_path("fleet/sites.toml"), b"x").expect("write");
    assert!(matches!(place.fleet.publish(&place.repository, NOW), Err(PublishError::Staging(_))));
    assert!(matches!(Repository::open(&place.repository), Err(RepositoryError::NoRepository(_))));
}

#[test]
fn only_one_of_two_publications_wins() {
    let place = place();
    place.fleet.publish(&place.repository, NOW).expect("publish");
    let repository = Repository::open(&place.repository).expect("open");
    let stale = repository.publish(0, &Default::default(), NOW);
    assert!(matches!(stale, Err(RepositoryError::Conflict { expected: 0, found: 1 })));
}

#[test]
fn what_nodes_would_refuse_is_not_published() {
    let place = place();
    place.fleet.publish(&place.repository, NOW).expect("publish");
    let repository = Repository::open(&place.repository).expect("open");
    let path = metadata_path(&RoleName::timestamp(), 0);
    let mut bytes = repository.read(&path).expect("read").expect("timestamp");
    let at = bytes.iter().position(|byte| *byte == b'1').expect("digit");
    bytes[at] = b'2';
    let refused = repository.publish(1, &[(path.clone(), bytes)].into(), NOW);
    assert!(matches!(refused, Err(RepositoryError::WouldBeRefused(_))), "{refused:?}");
    let other =
        FleetDirectory::init(&place.repository.join("../other"), &Initial::default(), NOW).expect("init");
    assert!(matches!(other.publish(&place.repository, NOW), Err(PublishError::OtherFleet { .. })));
}

#[test]
fn the_seed_signs_again_with_the_online_keys_alone() {
    let place = place();
    place.fleet.publish(&place.repository, NOW).expect("publish");
    let repository = Repository::open(&place.repository).expect("open");
    let trusted = refresh(&repository, &place.fleet.trusted().expect("root"), NOW).expect("refresh");
    let keys = KeyFiles::open(&place.fleet.online_keys_directory()).expect("keys");
    let sign =
        |now| repository.sign_again(&keys, now).map(|versions| (versions.snapshot, versions.timestamp));
    assert_eq!(sign(NOW).expect("nothing due"), (1, 1));
    let later = NOW.plus_days(6);
    assert_eq!(sign(later).expect("sign"), (1, 2));
    let later = NOW.plus_days(29);
    assert_eq!(sign(later).expect("sign"), (2, 3));
    let fresh = refresh(&repository, &trusted, later.plus_days(6)).expect("refresh");
    assert_eq!((fresh.timestamp_version(), fresh.snapshot_version()), (3, 2));
    // A year without anybody: root has expired, and the error says what to do.
    let refused = sign(NOW.plus_days(366));
    let Err(RepositoryError::WouldBeRefused(refused)) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.code(), "expired");
}

#[test]
fn a_fleet_outlives_its_first_root() {
    let place = place();
    place.fleet.publish(&place.repository, NOW).expect("publish");
    let repository = Repository::open(&place.repository).expect("open");
    let trusted = refresh(&repository, &place.fleet.trusted().expect("root"), NOW).expect("refresh");
    for days in [300, 600] {
        let summary = place.fleet.publish(&place.repository, NOW.plus_days(days)).expect("publish");
        assert_eq!(summary.roles.get(&RoleName::root()), Some(&u64::from(1 + days / 300)));
    }
    // A node that slept all the time follows the chain of roots, the expired ones too.
    let awake = refresh(&repository, &trusted, NOW.plus_days(601)).expect("refresh");
    assert_eq!(awake.root_version(), 3);
}

#[test]
fn the_seed_adds_its_signatures_to_what_administrators_signed() {
    let place = place();
    place.fleet.publish(&place.repository, NOW).expect("publish");
    let repository = Repository::open(&place.repository).expect("open");
    let online = KeyFiles::open(&place.fleet.online_keys_directory()).expect("keys");
    let mut offline = place.fleet.keys().expect("keys");
    place.fleet.stage("policy/fleet.toml", b"offline-days = 3\n").expect("stage");
    let changes =
        place.fleet.sign_changes(&mut offline, &repository, &Choices::default(), NOW).expect("sign");
    assert_eq!((changes.base, changes.files.len()), (1, 2));
    let versions = repository.accept(changes.base, changes.files.clone(), 0, &online, NOW).expect("accept");
    assert_eq!((versions.snapshot, versions.timestamp), (2, 2));
    let again = repository.accept(changes.base, changes.files.clone(), 0, &online, NOW);
    assert!(matches!(again, Err(RepositoryError::Conflict { expected: 1, found: 2 })));
    // Neither the first root nor what the seed signs itself, and nothing that is not signed by its role.
    for path in ["metadata/1.root.json", "metadata/9.snapshot.json", "metadata/timestamp.json"] {
        let brought = repository.accept(2, [(path.to_owned(), b"{}".to_vec())].into(), 0, &online, NOW);
        assert!(matches!(brought, Err(RepositoryError::NotToBePublished(_))), "{path}: {brought:?}");
    }
    let forged = changes.files["metadata/2.policy.json"].clone();
    let forged =
        repository.accept(2, [("metadata/3.policy.json".to_owned(), forged)].into(), 0, &online, NOW);
    assert!(matches!(forged, Err(RepositoryError::WouldBeRefused(_))), "{forged:?}");
}

#[test]
fn a_crash_before_the_timestamp_leaves_the_old_version() {
    let place = place();
    place.fleet.publish(&place.repository, NOW).expect("publish");
    let repository = Repository::open(&place.repository).expect("open");
    let timestamp = metadata_path(&RoleName::timestamp(), 0);
    let before = repository.read(&timestamp).expect("read").expect("timestamp");
    let first = place.fleet.trusted().expect("root");
    let trusted = refresh(&repository, &first, NOW).expect("refresh");
    let memory = place.fleet.directory().join("published.json");
    let remembered = fs::read(&memory).expect("read");
    place.fleet.stage("policy/fleet.toml", b"offline-days = 3\n").expect("stage");
    place.fleet.publish(&place.repository, NOW).expect("publish");
    fs::write(&memory, remembered).expect("write");
    // As if the process had died before the last rename, and in the middle of a write.
    fs::write(place.repository.join(&timestamp), before).expect("write");
    fs::write(place.repository.join("metadata/2.policy.json"), b"torn").expect("write");
    fs::write(place.repository.join("metadata/.new-abc"), b"torn").expect("write");
    assert_eq!(refresh(&repository, &first, NOW), Ok(trusted.clone()));
    let summary = place.fleet.publish(&place.repository, NOW).expect("publish again");
    assert!(!place.repository.join("metadata/.new-abc").exists(), "leftovers are removed");
    assert_eq!((summary.snapshot, summary.timestamp), (2, 2));
    let newer = refresh(&repository, &trusted, NOW).expect("refresh");
    assert_eq!(newer.target("policy/fleet.toml"), Some(b"offline-days = 3\n".as_slice()));
}
