//! Tests: every attack that the specification names is refused, each with its own reason code.

use super::fixture::{CATALOGUE, Listed, NOW, Repository, WANTED, role, sign};
use super::*;
use crate::limits;
use crate::signature::SigningKey;
use std::collections::BTreeMap;

fn code(result: Result<Trusted, Refused>) -> Result<(), &'static str> {
    result.map(|_| ()).map_err(|refused| refused.code())
}

fn refresh(repository: &Repository) -> Result<(), &'static str> {
    code(repository.refresh(&repository.first(), NOW))
}

// proves X2
#[test]
fn one_flipped_byte_in_any_file_is_refused() {
    let mut repository = Repository::new();
    repository.rotate("snapshot", 40);
    repository.publish(NOW);
    let first = repository.first();
    let used: Vec<String> = repository
        .refresh(&first, NOW)
        .expect("good")
        .repository_files()
        .into_keys()
        .filter(|path| path != "metadata/1.root.json")
        .collect();
    assert_eq!(used.len(), 8 + WANTED.len() - 1, "{used:?}");
    for path in used {
        let length = repository.files[&path].len();
        for at in (0..length).step_by(1 + length / 100) {
            let mut tampered = repository.clone();
            let bytes = tampered.files.get_mut(&path).expect("file");
            // White space outside the signed part means nothing, and carries no signature.
            if !bytes[at].is_ascii_graphic() {
                continue;
            }
            bytes[at] ^= 1;
            let bundle = tampered.everything();
            let result = refresh_from_bundle(&first, &bundle, NOW, &WANTED);
            assert!(result.is_err(), "{path} at {at}");
        }
    }
}

#[test]
fn the_first_root_is_pinned() {
    let repository = Repository::new();
    let mut bytes = repository.files["metadata/1.root.json"].clone();
    bytes.push(b'\n');
    assert_eq!(code(Trusted::from_root(&bytes, repository.fleet())), Err("other-fleet"));
}

#[test]
fn every_rollback_has_its_code() {
    let mut repository = Repository::new();
    let before = repository.clone();
    repository.change("policy/fleet.toml", "# 2\n");
    let trusted = repository.member();
    // The whole repository as it was.
    assert_eq!(code(before.refresh(&trusted, NOW)), Err("timestamp-rollback"));
    // A newer timestamp over the older snapshot: the timestamp key was stolen.
    let mut mixed = before.clone();
    mixed.timestamp = 5;
    let old = ListedMetadata::of(1, &before.files["metadata/1.snapshot.json"]);
    mixed.put_timestamp(old, NOW);
    assert_eq!(code(mixed.refresh(&trusted, NOW)), Err("snapshot-rollback"));
    // A newer snapshot over older policy: timestamp and snapshot keys were stolen.
    let mut older = repository.clone();
    let changed =
        BTreeMap::from([(role("policy"), ListedMetadata::of(1, &before.files["metadata/1.policy.json"]))]);
    let unsigned = publish::next_snapshot(older.snapshot.as_ref(), &changed, NOW);
    let listed = older.put(unsigned, &["snapshot"]);
    older.put_timestamp(listed, NOW);
    assert_eq!(code(older.refresh(&trusted, NOW)), Err("targets-rollback"));
    // A role that is no longer listed.
    let mut less = repository.clone();
    less.snapshot.as_mut().expect("snapshot").meta.remove("hold.json");
    less.publish(NOW);
    assert_eq!(code(less.refresh(&trusted, NOW)), Err("role-vanished"));
}

#[test]
fn rollback_is_refused_after_a_restart() {
    let mut repository = Repository::new();
    let before = repository.clone();
    repository.change("policy/fleet.toml", "# 2\n");
    let trusted = repository.member();
    let restored = Trusted::restore(trusted.records(), trusted.fleet()).expect("restore");
    assert_eq!(code(before.refresh(&restored, NOW)), Err("timestamp-rollback"));
}

#[test]
fn roots_come_one_by_one() {
    let mut repository = Repository::new();
    repository.rotate("timestamp", 50);
    repository.rotate("timestamp", 51);
    repository.publish(NOW);
    let mut skipped = repository.clone();
    let third = skipped.files["metadata/3.root.json"].clone();
    skipped.files.insert("metadata/2.root.json".to_owned(), third);
    assert_eq!(refresh(&skipped), Err("root-version"));
    // Signed by itself only: a root of somebody else.
    let mut foreign = repository.clone();
    let stranger = SigningKey::from_seed(&[70; 32]);
    let mut root = foreign.root.clone();
    root.version = 2;
    let key = Key::ed25519(stranger.public());
    root.roles.insert(RoleName::root(), RoleKeys::any_of(&[stranger.public()]));
    root.keys.insert(key.id(), key);
    let bytes = sign(Unsigned::new(RoleName::root(), &root), &[&stranger]);
    foreign.files.insert("metadata/2.root.json".to_owned(), bytes);
    assert_eq!(refresh(&foreign), Err("too-few-signatures"));
    // Signed by the old root only: the new one must sign too.
    let bytes = sign(Unsigned::new(RoleName::root(), &root), &[foreign.key("root")]);
    foreign.files.insert("metadata/2.root.json".to_owned(), bytes);
    assert_eq!(refresh(&foreign), Err("too-few-signatures"));
}

#[test]
fn root_rotations_are_bounded() {
    let mut repository = Repository::new();
    for _ in 0..=limits::ROOT_ROTATIONS {
        repository.rotate("timestamp", 50);
    }
    repository.publish(NOW);
    let result = refresh_from_bundle(&repository.first(), &repository.everything(), NOW, &WANTED);
    assert_eq!(code(result), Err("too-many-rotations"));
}

#[test]
fn expired_metadata_is_refused_per_role() {
    let repository = Repository::new();
    let first = repository.first();
    for (days, expected) in [(7, "timestamp"), (365, "root")] {
        let refused = repository.refresh(&first, NOW.plus_days(days)).expect_err("expired");
        assert_eq!(refused.code(), "expired");
        assert!(refused.to_string().starts_with(expected), "{refused}");
    }
    // Fresh timestamps over an old snapshot, and over old targets.
    let mut stale = repository.clone();
    let listed = ListedMetadata::of(1, &stale.files["metadata/1.snapshot.json"]);
    stale.put_timestamp(listed, NOW.plus_days(30));
    let refused = stale.refresh(&first, NOW.plus_days(31)).expect_err("expired");
    assert!(refused.to_string().starts_with("snapshot"), "{refused}");
    // What was accepted before stays, and what is held does not slip through as fresh.
    let trusted = repository.member();
    assert_eq!(code(stale.refresh(&trusted, NOW.plus_days(31))), Err("expired"));
    assert_eq!(trusted.expired(NOW.plus_days(31)).map(|(role, _)| role), Some(RoleName::timestamp()));
}

#[test]
fn mixed_snapshots_are_refused() {
    // The snapshot says version 3, the file at that place says 2.
    let mut repository = Repository::new();
    let mut policy = repository.roles[&role("policy")].clone();
    policy.version = 2;
    repository.replace("policy", &policy, "policy", Listed::VersionOnly(3));
    let bytes = repository.files["metadata/2.policy.json"].clone();
    repository.files.insert("metadata/3.policy.json".to_owned(), bytes);
    assert_eq!(refresh(&repository), Err("mix-and-match"));
    // Genuine metadata of another publication in the place of the listed one.
    let mut repository = Repository::new();
    let old = repository.files["metadata/1.policy.json"].clone();
    repository.change("policy/fleet.toml", "# policy/fleet.toml 2\n");
    repository.files.insert("metadata/2.policy.json".to_owned(), old);
    assert_eq!(refresh(&repository), Err("wrong-hash"));
}

#[test]
fn changed_targets_are_refused() {
    let repository = Repository::new();
    let sha256 = repository.member().target(CATALOGUE).map(crate::digest::Sha256::of).expect("held");
    let path = target_file_path(CATALOGUE, sha256);
    let mut changed = repository.clone();
    changed.files.get_mut(&path).expect("file")[0] ^= 1;
    assert_eq!(refresh(&changed), Err("wrong-hash"));
    let mut longer = repository.clone();
    longer.files.get_mut(&path).expect("file").push(0);
    assert_eq!(refresh(&longer), Err("too-large"));
    let mut shorter = repository.clone();
    shorter.files.get_mut(&path).expect("file").pop();
    assert_eq!(refresh(&shorter), Err("wrong-length"));
    let mut gone = repository;
    gone.files.remove(&path);
    assert_eq!(refresh(&gone), Err("missing-file"));
}

#[test]
fn files_over_their_limit_are_refused() {
    let mut repository = Repository::new();
    let path = "metadata/timestamp.json".to_owned();
    repository.files.get_mut(&path).expect("file").resize(limits::TIMESTAMP_BYTES + 1, b' ');
    let result = refresh_from_bundle(&repository.first(), &repository.everything(), NOW, &WANTED);
    assert_eq!(code(result), Err("too-large"));
    // Announced larger than a node reads.
    let mut repository = Repository::new();
    let mut policy = repository.roles[&role("policy")].clone();
    policy.version += 1;
    policy.targets.get_mut("policy/fleet.toml").expect("listed").length = limits::TARGET_BYTES as u64 + 1;
    repository.replace("policy", &policy, "policy", Listed::Full);
    assert_eq!(refresh(&repository), Err("too-large"));
}

#[test]
fn a_role_signs_only_with_its_own_key() {
    for (name, thief) in
        [("policy", "hold"), ("policy", "timestamp"), ("targets", "snapshot"), ("fleet", "policy")]
    {
        let mut repository = Repository::new();
        let mut content = repository.roles[&role(name)].clone();
        content.version += 1;
        repository.replace(name, &content, thief, Listed::Full);
        assert_eq!(refresh(&repository), Err("too-few-signatures"), "{name} signed by {thief}");
    }
}

/// Arbitrary software: a role vouches for a file that was not delegated to it.
#[test]
fn a_role_cannot_vouch_for_the_files_of_another() {
    let mut repository = Repository::new();
    let evil = b"[[approval]]\n".to_vec();
    let path = "policy/fleet.toml";
    let mut content = repository.roles[&role("catalogue-debian")].clone();
    content.version += 1;
    content.targets.insert(path.to_owned(), ListedFile::of(&evil));
    let sha256 = crate::digest::Sha256::of(&evil);
    repository.files.insert(target_file_path(path, sha256), evil);
    repository.replace("catalogue-debian", &content, "catalogue-debian", Listed::Full);
    let trusted = repository.member();
    assert_eq!(trusted.target(path), Some(b"# policy/fleet.toml 1\n".as_slice()));
    // Nor when the role that may vouch for it does not: the search ends there.
    repository.staged.remove(path);
    repository.publish(NOW);
    assert_eq!(repository.member().target(path), None);
}

#[test]
fn a_threshold_counts_keys_and_not_signatures() {
    let mut repository = Repository::new();
    let mut root = repository.root.clone();
    root.version = 2;
    root.roles.get_mut(&RoleName::timestamp()).expect("role").threshold = 2;
    repository.put(Unsigned::new(RoleName::root(), &root), &["root"]);
    repository.publish(NOW);
    assert_eq!(refresh(&repository), Err("too-few-signatures"));
    // The same signature twice.
    let path = "metadata/timestamp.json";
    let mut file: serde_json::Value = serde_json::from_slice(&repository.files[path]).expect("json");
    let signature = file["signatures"][0].clone();
    file["signatures"].as_array_mut().expect("list").push(signature);
    repository.files.insert(path.to_owned(), serde_json::to_vec(&file).expect("json"));
    assert_eq!(refresh(&repository), Err("malformed"));
    // The same key twice in the role.
    let mut root = repository.root.clone();
    root.version = 3;
    let keys = &mut root.roles.get_mut(&RoleName::timestamp()).expect("role").keyids;
    keys.push(keys[0]);
    repository.put(Unsigned::new(RoleName::root(), &root), &["root"]);
    assert_eq!(refresh(&repository), Err("malformed"));
}

#[test]
fn two_keys_meet_a_threshold_of_two() {
    let mut repository = Repository::new();
    let second = SigningKey::from_seed(&[80; 32]);
    let key = Key::ed25519(second.public());
    let mut root = repository.root.clone();
    root.version = 2;
    let both = [repository.key("timestamp").public(), second.public()];
    root.roles.insert(RoleName::timestamp(), RoleKeys { threshold: 2, ..RoleKeys::any_of(&both) });
    root.keys.insert(key.id(), key);
    repository.put(Unsigned::new(RoleName::root(), &root), &["root"]);
    let listed = ListedMetadata::of(1, &repository.files["metadata/1.snapshot.json"]);
    let unsigned = publish::next_timestamp(1, listed, NOW);
    let bytes = sign(unsigned, &[repository.key("timestamp"), &second]);
    repository.files.insert("metadata/timestamp.json".to_owned(), bytes);
    assert_eq!(refresh(&repository), Ok(()));
}

#[test]
fn a_changed_signature_is_named_as_such() {
    let mut repository = Repository::new();
    let path = "metadata/timestamp.json";
    let text = String::from_utf8(repository.files[path].clone()).expect("text");
    let changed = text.replacen("\"version\": 1", "\"version\": 9", 1);
    assert_ne!(text, changed);
    repository.files.insert(path.to_owned(), changed.into_bytes());
    assert_eq!(refresh(&repository), Err("bad-signature"));
}

#[test]
fn unknown_fields_are_signed_too() {
    let mut repository = Repository::new();
    let path = "metadata/timestamp.json";
    let mut file: serde_json::Value = serde_json::from_slice(&repository.files[path]).expect("json");
    file["signed"]["x-note"] = serde_json::json!("kept");
    let message = crate::codec::canonical_json(&file["signed"]).expect("canonical");
    let unsigned_note = serde_json::to_vec(&file).expect("json");
    let signature = repository.key("timestamp").sign(crate::signature::Purpose::Metadata, &message);
    file["signatures"][0]["sig"] = serde_json::json!(signature);
    repository.files.insert(path.to_owned(), serde_json::to_vec(&file).expect("json"));
    assert_eq!(refresh(&repository), Ok(()));
    repository.files.insert(path.to_owned(), unsigned_note);
    assert_eq!(refresh(&repository), Err("bad-signature"));
}

#[test]
fn a_fast_forward_is_recovered_by_rotating_the_key() {
    let mut repository = Repository::new();
    let good = repository.clone();
    // The stolen timestamp key pushes the version up.
    let listed = ListedMetadata::of(1, &repository.files["metadata/1.snapshot.json"]);
    repository.timestamp = 1_000_000;
    repository.put_timestamp(listed, NOW);
    let victim = repository.member();
    assert_eq!(code(good.refresh(&victim, NOW)), Err("timestamp-rollback"));
    let mut recovered = good;
    recovered.rotate("timestamp", 90);
    recovered.publish(NOW);
    let mended = recovered.refresh(&victim, NOW).expect("recovered");
    assert_eq!((mended.root_version(), mended.timestamp_version()), (2, 2));
}

#[test]
fn missing_metadata_is_refused() {
    for path in [
        "metadata/timestamp.json",
        "metadata/1.snapshot.json",
        "metadata/1.targets.json",
        "metadata/1.fleet.json",
    ] {
        let mut repository = Repository::new();
        repository.files.remove(path);
        assert_eq!(refresh(&repository), Err("missing-file"), "{path}");
    }
    let mut repository = Repository::new();
    repository.snapshot.as_mut().expect("snapshot").meta.remove("fleet.json");
    repository.publish(NOW);
    assert_eq!(refresh(&repository), Err("not-in-snapshot"));
}

#[test]
fn other_types_and_specifications_are_refused() {
    let mut repository = Repository::new();
    let snapshot = repository.files["metadata/1.snapshot.json"].clone();
    repository.files.insert("metadata/timestamp.json".to_owned(), snapshot);
    assert_eq!(refresh(&repository), Err("wrong-type"));
    let mut repository = Repository::new();
    let text = String::from_utf8(repository.files["metadata/timestamp.json"].clone()).expect("text");
    let newer = text.replacen("1.0.31", "2.0.0", 1);
    repository.files.insert("metadata/timestamp.json".to_owned(), newer.into_bytes());
    assert_eq!(refresh(&repository), Err("other-specification"));
}
