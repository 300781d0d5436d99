//! What an attacker does to a repository, and what a client must answer.

use super::lab::{CATALOGUE, Lab, now, role};
use protocol::digest::Sha256;
use protocol::trust::publish::next_timestamp;
use protocol::trust::{Key, ListedFile, ListedMetadata, RoleKeys, RoleName, Unsigned, target_file_path};
use std::collections::BTreeMap;
use std::fs;

/// How all clients must answer.
pub enum Expected {
    /// With a refusal; ours with this reason code.
    Refused(&'static str),
    /// With the targets as the administrator wrote them: the attack had no effect.
    Genuine,
}

pub struct Tampering {
    pub name: &'static str,
    /// Whether the clients have refreshed before.
    pub after_a_refresh: bool,
    pub apply: fn(&Lab),
    pub expected: Expected,
}

const fn refused(name: &'static str, code: &'static str, apply: fn(&Lab)) -> Tampering {
    Tampering { name, after_a_refresh: false, apply, expected: Expected::Refused(code) }
}

const fn refused_later(name: &'static str, code: &'static str, apply: fn(&Lab)) -> Tampering {
    Tampering { name, after_a_refresh: true, apply, expected: Expected::Refused(code) }
}

pub const TAMPERINGS: &[Tampering] = &[
    refused("a flipped byte in the timestamp", "bad-signature", |lab| flip(lab, "metadata/timestamp.json")),
    refused("a flipped byte in the snapshot", "wrong-hash", |lab| flip(lab, "metadata/2.snapshot.json")),
    refused("a flipped byte in targets", "wrong-hash", |lab| flip(lab, "metadata/1.targets.json")),
    refused("a flipped byte in a delegated role", "wrong-hash", |lab| flip(lab, "metadata/2.policy.json")),
    refused("a flipped byte in a target", "wrong-hash", |lab| {
        let path = target_file_path(
            CATALOGUE,
            Sha256::of(&lab.fleet.staged(CATALOGUE).expect("read").expect("file")),
        );
        let mut bytes = lab.read(&path);
        bytes[5] ^= 1;
        lab.write(&path, &bytes);
    }),
    refused("an expired timestamp", "expired", |lab| {
        lab.remove_repository();
        let past = now().unix_seconds() - 8 * 86_400;
        lab.publish_at(protocol::time::WallTime::from_unix_seconds(past));
    }),
    refused("an oversized timestamp", "too-large", |lab| {
        let mut bytes = lab.read("metadata/timestamp.json");
        bytes.resize(17 << 10, b' ');
        lab.write("metadata/timestamp.json", &bytes);
    }),
    refused("an endless target", "too-large", |lab| {
        let path = target_file_path(
            CATALOGUE,
            Sha256::of(&lab.fleet.staged(CATALOGUE).expect("read").expect("file")),
        );
        lab.write(&path, &vec![b' '; 1 << 20]);
    }),
    refused("a snapshot of another publication", "wrong-hash", |lab| {
        let bytes = lab.read("metadata/1.snapshot.json");
        lab.write("metadata/2.snapshot.json", &bytes);
    }),
    refused("a policy of another publication", "wrong-hash", |lab| {
        let mut bytes = lab.read("metadata/1.policy.json");
        bytes.resize(lab.read("metadata/2.policy.json").len(), b'\n');
        lab.write("metadata/2.policy.json", &bytes);
    }),
    refused("a snapshot that is missing", "missing-file", |lab| {
        fs::remove_file(lab.repository().join("metadata/2.snapshot.json")).expect("remove");
    }),
    refused_later("the whole repository rolled back", "timestamp-rollback", |lab| {
        lab.copy("first", "repository")
    }),
    refused_later("a stolen timestamp key brings back a snapshot", "snapshot-rollback", |lab| {
        let listed = ListedMetadata::of(1, &lab.read("metadata/1.snapshot.json"));
        lab.sign(next_timestamp(9, listed, now()), "timestamp");
    }),
    refused_later("a stolen seed brings back a policy", "targets-rollback", |lab| {
        let policy = ListedMetadata::of(1, &lab.read("metadata/1.policy.json"));
        let snapshot = lab.current().snapshot.expect("snapshot");
        lab.sign_snapshot(&snapshot, BTreeMap::from([(role("policy"), policy)]));
    }),
    refused_later("a stolen seed hides a role", "role-vanished", |lab| {
        let mut snapshot = lab.current().snapshot.expect("snapshot");
        snapshot.meta.remove("hold.json");
        lab.sign_snapshot(&snapshot, BTreeMap::new());
    }),
    refused("a policy signed by the hold key", "too-few-signatures", |lab| sign_policy_with(lab, "hold")),
    refused("a policy signed by the seed", "too-few-signatures", |lab| sign_policy_with(lab, "timestamp")),
    refused("a snapshot of mixed versions", "mix-and-match", |lab| {
        let listed = ListedMetadata { length: None, hashes: BTreeMap::new(), version: 3 };
        let old = lab.read("metadata/2.policy.json");
        lab.write("metadata/3.policy.json", &old);
        let snapshot = lab.current().snapshot.expect("snapshot");
        lab.sign_snapshot(&snapshot, BTreeMap::from([(role("policy"), listed)]));
    }),
    refused("a root of a stranger", "bad-signature", |lab| {
        let stranger = protocol::signature::SigningKey::from_seed(&[9; 32]);
        let mut root = lab.current().root;
        root.version += 1;
        let unsigned = Unsigned::new(RoleName::root(), &root);
        let signature = stranger.sign(protocol::signature::Purpose::Metadata, &unsigned.message());
        let claimed = root.roles[&RoleName::root()].keyids[0];
        lab.write("metadata/2.root.json", &unsigned.finish(&[(claimed, signature)]));
    }),
    refused("a root that skips a version", "root-version", |lab| {
        lab.sign_root(|root| root.version += 1);
        let bytes = lab.read("metadata/3.root.json");
        lab.write("metadata/2.root.json", &bytes);
    }),
    refused("a threshold of two met by one signature", "too-few-signatures", raise_threshold),
    refused("a threshold of two met by one signature twice", "malformed", |lab| {
        raise_threshold(lab);
        let path = "metadata/timestamp.json";
        let mut file: serde_json::Value = serde_json::from_slice(&lab.read(path)).expect("JSON");
        let signature = file["signatures"][0].clone();
        file["signatures"].as_array_mut().expect("list").push(signature);
        lab.write(path, &serde_json::to_vec(&file).expect("JSON"));
    }),
    refused("a role in the place of another", "wrong-type", |lab| {
        let bytes = lab.read("metadata/2.snapshot.json");
        lab.write("metadata/timestamp.json", &bytes);
    }),
    Tampering {
        name: "a catalogue key that vouches for the policy",
        after_a_refresh: false,
        apply: |lab| {
            let evil = b"[[approval]]\n";
            let path = "policy/fleet.toml";
            let mut catalogue = lab.current().roles[&role("catalogue-debian")].clone();
            catalogue.version += 1;
            catalogue.targets.insert(path.to_owned(), ListedFile::of(evil));
            lab.write(&target_file_path(path, Sha256::of(evil)), evil);
            let name = role("catalogue-debian");
            let listed = lab.sign(Unsigned::new(name.clone(), &catalogue), "catalogue-debian");
            let snapshot = lab.current().snapshot.expect("snapshot");
            lab.sign_snapshot(&snapshot, BTreeMap::from([(name, listed)]));
        },
        expected: Expected::Genuine,
    },
];

/// Changes one byte that stands in a signature or a digest, so that the file stays well-formed JSON.
fn flip(lab: &Lab, path: &str) {
    let mut bytes = lab.read(path);
    let text = String::from_utf8(bytes.clone()).expect("text");
    let at = text.find("\"sig\": \"").expect("signature") + 20;
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    lab.write(path, &bytes);
}

fn sign_policy_with(lab: &Lab, thief: &str) {
    let mut policy = lab.current().roles[&role("policy")].clone();
    policy.version += 1;
    let listed = lab.sign(Unsigned::new(role("policy"), &policy), thief);
    let snapshot = lab.current().snapshot.expect("snapshot");
    lab.sign_snapshot(&snapshot, BTreeMap::from([(role("policy"), listed)]));
}

fn raise_threshold(lab: &Lab) {
    let second = protocol::signature::SigningKey::from_seed(&[11; 32]).public();
    lab.sign_root(|root| {
        let timestamp = root.roles[&RoleName::timestamp()].keyids[0];
        let mut role = RoleKeys::any_of(&[second]);
        role.keyids.push(timestamp);
        role.threshold = 2;
        root.roles.insert(RoleName::timestamp(), role);
        let key = Key::ed25519(second);
        root.keys.insert(key.id(), key);
    });
    let current = lab.current();
    let version = current.snapshot.as_ref().expect("snapshot").version;
    let unsigned = next_timestamp(
        current.timestamp_version(),
        ListedMetadata::of(version, &current.snapshot_bytes),
        now(),
    );
    lab.sign(unsigned, "timestamp");
}
