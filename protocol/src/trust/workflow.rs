//! Tests: what an honest repository brings to a node.

use super::fixture::{CATALOGUE, NOW, Repository, WANTED, role};
use super::*;
use crate::codec;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn code<T>(result: Result<T, Refused>) -> Result<(), &'static str> {
    result.map(|_| ()).map_err(|refused| refused.code())
}

#[test]
fn a_first_refresh_brings_what_is_wanted() {
    let repository = Repository::new();
    let trusted = repository.member();
    assert_eq!(trusted.target(CATALOGUE), Some(format!("# {CATALOGUE} 1\n").as_bytes()));
    assert_eq!((trusted.root_version(), trusted.timestamp_version(), trusted.snapshot_version()), (1, 1, 1));
    assert_eq!(trusted.target_paths().count(), WANTED.len());
    assert_eq!(trusted.expires(), Some((RoleName::timestamp(), NOW.plus_days(publish::TIMESTAMP_DAYS))));
    assert_eq!(trusted.expired(NOW), None);
}

#[test]
fn a_later_refresh_fetches_only_what_changed() {
    let mut repository = Repository::new();
    let trusted = repository.member();
    repository.change("policy/fleet.toml", "offline-days = 3\n");
    let request = trusted.request(&WANTED);
    let bundle = make_bundle(&request, |path| repository.files.get(path).cloned()).expect("bundle");
    let paths: Vec<_> = bundle.files().map(|(path, _)| path).collect();
    assert_eq!(
        &paths[..3],
        ["metadata/2.policy.json", "metadata/2.snapshot.json", "metadata/timestamp.json"],
        "{paths:?}"
    );
    assert_eq!(paths.len(), 4);
    let newer = refresh_from_bundle(&trusted, &bundle, NOW, &WANTED).expect("refresh");
    assert_eq!(newer.target("policy/fleet.toml"), Some(b"offline-days = 3\n".as_slice()));
    assert_eq!(newer.role_versions()[&role("policy")], 2);
    assert_eq!(newer.role_versions()[&role("fleet")], 1);
}

#[test]
fn neighbours_pass_it_on_with_the_chain_of_roots() {
    let mut repository = Repository::new();
    repository.rotate("timestamp", 50);
    repository.rotate("snapshot", 51);
    repository.publish(NOW);
    let neighbour = repository.member();
    let first = repository.first();
    let bundle = neighbour.bundle(&first.request(&WANTED)).expect("bundle");
    let sent = Bundle::from_bytes(&bundle.to_bytes()).expect("decodes");
    let newer = refresh_from_bundle(&first, &sent, NOW, &WANTED).expect("refresh");
    assert_eq!(newer, neighbour);
    assert_eq!(newer.root_version(), 3);
    assert_eq!(
        neighbour.bundle(&newer.request(&WANTED)).expect("bundle").files().count(),
        1,
        "timestamp only"
    );
}

/// A new timestamp key takes the memory of versions away, but what is held needs no second fetch.
#[test]
fn a_rotation_alone_brings_root_and_timestamp() {
    let mut repository = Repository::new();
    let trusted = repository.member();
    repository.rotate("timestamp", 50);
    let listed = ListedMetadata::of(1, &repository.files["metadata/1.snapshot.json"]);
    repository.put_timestamp(listed, NOW);
    let bundle = make_bundle(&trusted.request(&WANTED), |path| repository.files.get(path).cloned());
    let paths: Vec<_> = bundle.iter().flat_map(Bundle::files).map(|(path, _)| path.to_owned()).collect();
    assert_eq!(paths, ["metadata/2.root.json", "metadata/timestamp.json"]);
    let newer = repository.refresh(&trusted, NOW).expect("refresh");
    assert_eq!((newer.root_version(), newer.timestamp_version(), newer.snapshot_version()), (2, 2, 1));
}

#[test]
fn a_neighbour_that_lacks_a_target_is_not_enough() {
    let repository = Repository::new();
    let bundle = repository.everything();
    let neighbour = refresh_from_bundle(&repository.first(), &bundle, NOW, &WANTED[..2]).expect("refresh");
    let first = repository.first();
    let sent = neighbour.bundle(&first.request(&WANTED)).expect("bundle");
    assert_eq!(code(refresh_from_bundle(&first, &sent, NOW, &WANTED)), Err("missing-file"));
}

#[test]
fn absent_targets_are_absent() {
    let mut repository = Repository::new();
    let trusted = repository.member();
    repository.staged.remove("fleet/sites.toml");
    repository.publish(NOW);
    let newer = repository.refresh(&trusted, NOW).expect("refresh");
    assert_eq!(newer.target("fleet/sites.toml"), None);
    assert!(newer.target("fleet/vendors.toml").is_some());
    let restored = Trusted::restore(newer.records(), newer.fleet());
    assert_eq!(restored, Ok(newer));
}

#[test]
fn a_node_wants_the_catalogues_of_its_own_system() {
    let mut repository = Repository::new();
    repository.change("fleet/vendors.toml", "[[vendor]]\nname = \"debian\"\n");
    let system = crate::system::System {
        family: crate::system::Family::Linux,
        distribution: "debian".to_owned(),
        release: "12".to_owned(),
        architecture: "amd64".to_owned(),
    };
    assert_eq!(repository.first().wanted_by(&system).len(), 6);
    let wanted = repository.member().wanted_by(&system);
    assert_eq!(wanted.last().map(String::as_str), Some(CATALOGUE));
}

#[test]
fn delegations_are_fetched_lazily() {
    let repository = Repository::new();
    let mut refresh = Refresh::new(&repository.first(), NOW, &["fleet/vendors.toml"]);
    let mut asked = Vec::new();
    while let Step::Need { path, .. } = refresh.step().expect("step") {
        match repository.files.get(&path) {
            Some(bytes) => refresh.provide(bytes).expect("accepted"),
            None => refresh.provide_missing().expect("accepted"),
        }
        asked.push(path);
    }
    let metadata: Vec<_> = asked.iter().filter(|path| path.starts_with("metadata/")).collect();
    assert_eq!(
        metadata,
        [
            "metadata/2.root.json",
            "metadata/timestamp.json",
            "metadata/1.snapshot.json",
            "metadata/1.targets.json"
        ]
    );
}

#[test]
fn the_same_timestamp_again_changes_nothing() {
    let repository = Repository::new();
    let trusted = repository.member();
    assert_eq!(repository.refresh(&trusted, NOW), Ok(trusted));
}

#[test]
fn a_refused_refresh_stays_refused() {
    let repository = Repository::new();
    let mut refresh = Refresh::new(&repository.first(), NOW, &WANTED);
    assert_eq!(code(refresh.provide(b"x")), Err("not-asked-for"));
    assert_eq!(code(refresh.step()), Err("not-asked-for"));
}

#[test]
fn the_trusted_set_survives_storage() {
    let mut repository = Repository::new();
    let first = repository.first();
    assert_eq!(Trusted::restore(first.records(), first.fleet()), Ok(first.clone()));
    repository.rotate("snapshot", 60);
    repository.publish(NOW);
    let trusted = repository.member();
    let records = trusted.records();
    assert_eq!(Trusted::restore(records.clone(), trusted.fleet()), Ok(trusted.clone()));
    assert_eq!(records.last().map(|(name, _)| name.as_str()), Some("index.json"));
}

// proves X2
#[test]
fn a_torn_set_is_seen() {
    let trusted = Repository::new().member();
    let records = trusted.records();
    let restore = |records: Vec<(String, Vec<u8>)>| {
        Trusted::restore(records, trusted.fleet()).map(|_| ()).map_err(|error| error.code())
    };
    assert_eq!(restore(Vec::new()), Err("trusted-missing"));
    for at in 0..records.len() {
        let mut missing = records.clone();
        let (name, _) = missing.remove(at);
        let expected = if name == "index.json" { "trusted-missing" } else { "trusted-torn" };
        assert_eq!(restore(missing), Err(expected), "{name}");
        let mut changed = records.clone();
        let middle = changed[at].1.len() / 2;
        changed[at].1[middle] ^= 1;
        assert_eq!(restore(changed), Err("trusted-torn"), "{name}");
        let mut short = records.clone();
        short[at].1.truncate(middle);
        assert_eq!(restore(short), Err("trusted-torn"), "{name}");
    }
    let mut foreign = records.clone();
    foreign.push(("metadata/9.policy.json".to_owned(), Vec::new()));
    assert_eq!(restore(foreign), Err("trusted-torn"));
    let other = crate::identifier::FleetId::from_bytes([0; 32]);
    assert_eq!(Trusted::restore(records, other).map_err(|error| error.code()), Err("other-fleet"));
}

#[test]
fn bundles_are_bounded() {
    let mut bundle = Bundle::default();
    let long =
        target_file_path(&"t".repeat(crate::limits::TARGET_PATH_BYTES), crate::digest::Sha256::of(b""));
    assert_eq!(bundle.insert(long, Vec::new()), Ok(()));
    for path in ["x", "metadata/../x", "etc/passwd", "targets//x", "/targets/x"] {
        assert!(
            matches!(bundle.insert(path.to_owned(), Vec::new()), Err(BundleError::NotAPath(_))),
            "{path}"
        );
    }
    let foreign = codec::encode(&BTreeMap::from([("etc/passwd".to_owned(), vec![0u8])]));
    assert!(codec::decode::<Bundle, 1024>(&foreign).is_err());
    let large = vec![0; crate::limits::BUNDLE_BYTES / 2 + 1];
    assert_eq!(bundle.insert("targets/a".to_owned(), large.clone()), Ok(()));
    assert_eq!(bundle.insert("targets/b".to_owned(), large), Err(BundleError::TooLarge));
    let mut many = Bundle::default();
    let filled: Result<Vec<()>, _> = (0..=crate::limits::BUNDLE_FILES)
        .map(|at| many.insert(format!("targets/{at}"), Vec::new()))
        .collect();
    assert_eq!(filled, Err(BundleError::TooManyFiles));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bundles_round_trip(files in prop::collection::btree_map("targets/[a-z]{1,8}", any::<Vec<u8>>(), 0..8)) {
        let mut bundle = Bundle::default();
        for (path, bytes) in files {
            prop_assert_eq!(bundle.insert(path, bytes), Ok(()));
        }
        prop_assert_eq!(Bundle::from_bytes(&bundle.to_bytes()), Ok(bundle));
    }

    #[test]
    fn arbitrary_bundles_never_panic(bytes: Vec<u8>) {
        let _ = Bundle::from_bytes(&bytes);
    }

    /// Whatever stands in the place of one file, the refresh ends, and no target changes.
    #[test]
    fn arbitrary_files_never_change_a_target(at in 0usize..12, junk in any::<Vec<u8>>(), cut in any::<bool>()) {
        let mut repository = Repository::new();
        let genuine = repository.member();
        let path = repository.files.keys().nth(at % repository.files.len()).cloned().expect("file");
        let bytes = repository.files.get_mut(&path).expect("file");
        let keep = if cut { junk.len() % bytes.len() } else { 0 };
        bytes.truncate(keep);
        bytes.extend(junk);
        let first = genuine.first_root().to_vec();
        let first = Trusted::from_root(&first, genuine.fleet()).expect("root");
        if let Ok(trusted) = refresh_from_bundle(&first, &repository.everything(), NOW, &WANTED) {
            prop_assert_eq!(trusted, genuine);
        }
    }

    /// However publications, refreshes and restarts alternate, versions never go back.
    #[test]
    fn versions_only_grow(steps in prop::collection::vec(0u8..3, 1..12)) {
        let mut repository = Repository::new();
        let mut stale = vec![repository.clone()];
        let mut trusted = repository.first();
        for (at, step) in steps.into_iter().enumerate() {
            let before = (trusted.timestamp_version(), trusted.snapshot_version());
            match step {
                0 => {
                    repository.change("policy/fleet.toml", &format!("# {at}\n"));
                    stale.push(repository.clone());
                }
                1 => trusted = repository.refresh(&trusted, NOW).expect("honest"),
                _ => {
                    if let Ok(newer) = stale[at % stale.len()].refresh(&trusted, NOW) {
                        trusted = newer;
                    }
                    trusted = Trusted::restore(trusted.records(), trusted.fleet()).expect("restore");
                }
            }
            prop_assert!((trusted.timestamp_version(), trusted.snapshot_version()) >= before);
        }
    }
}
