//! python-tuf reads what we publish, and refuses what we refuse.

mod lab;
mod tamperings;

use lab::{Answer, Lab};
use protocol::digest::Sha256;
use protocol::identifier::FleetId;
use protocol::trust::Trusted;
use tamperings::{Expected, TAMPERINGS};

/// Both clients come to trust the same targets, across publications and a rotation of keys.
#[test]
fn python_tuf_verifies_what_we_publish() {
    let lab = Lab::new();
    for round in 0..3 {
        match round {
            1 => lab.publish("offline-days = 3\n"),
            2 => lab.rotate_timestamp_key(),
            _ => {}
        }
        let (ours, theirs) = (lab.ours(), lab.theirs());
        let Answer::Trusted(targets) = &ours else { panic!("round {round}: {ours:?}") };
        assert_eq!(targets.len(), lab::WANTED.len());
        assert_eq!(ours, theirs, "round {round}");
    }
}

/// Nested and terminating delegations, hash prefixes, thresholds, keys of other kinds: both clients find the same.
#[test]
fn we_verify_what_python_tuf_publishes() {
    let directory = tempfile::tempdir().expect("directory");
    let (repository, state) = (directory.path().join("repository"), directory.path().join("state"));
    std::fs::create_dir(&state).expect("state");
    let paths = lab::python("tuf_repository.py", &[repository.as_os_str()]);
    let paths: Vec<String> = serde_json::from_value(paths).expect("paths");
    let wanted: Vec<&str> = paths.iter().map(String::as_str).collect();
    let root = repository.join("metadata/1.root.json");
    let bytes = std::fs::read(&root).expect("root");
    let fleet = FleetId::from_bytes(*Sha256::of(&bytes).as_bytes());
    let trusted = Trusted::from_root(&bytes, fleet).expect("root");
    let (ours, _) = lab::ours(&trusted, &repository, &wanted);
    let Answer::Trusted(found) = &ours else { panic!("{ours:?}") };
    let expected = ["a/b/c.txt", "a/file", "a/late", "a/nested", "h/one", "top/file"];
    assert!(found.keys().eq(expected), "{found:?}");
    assert_eq!(ours, lab::theirs(&root, &state, &repository, &wanted));
}

// proves X2
#[test]
fn both_refuse_the_same_tampered_repositories() {
    let mut failures = Vec::new();
    for tampering in TAMPERINGS {
        let lab = Lab::new();
        lab.publish("offline-days = 3\n");
        if tampering.after_a_refresh {
            assert!(matches!((lab.ours(), lab.theirs()), (Answer::Trusted(_), Answer::Trusted(_))));
        }
        let genuine = lab.genuine();
        (tampering.apply)(&lab);
        let (ours, theirs) = (lab.ours(), lab.theirs());
        println!("{}: ours {ours:?}, python-tuf {theirs:?}", tampering.name);
        let agreed = match tampering.expected {
            Expected::Refused(code) => {
                ours == Answer::Refused(code.to_owned()) && matches!(theirs, Answer::Refused(_))
            }
            Expected::Genuine => ours == Answer::Trusted(genuine) && ours == theirs,
        };
        if !agreed {
            failures.push(format!("{}: ours {ours:?}, python-tuf {theirs:?}", tampering.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
