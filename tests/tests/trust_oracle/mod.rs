//! python-tuf and tough read what we publish, and refuse what we refuse.

mod lab;
mod tamperings;
mod tough_client;

use lab::{Answer, Lab};
use protocol::digest::Sha256;
use protocol::identifier::FleetId;
use protocol::trust::Trusted;
use tamperings::{Expected, TAMPERINGS};

/// All clients come to trust the same targets, across publications and a rotation of keys.
#[test]
fn python_tuf_and_tough_verify_what_we_publish() {
    let lab = Lab::new();
    for round in 0..3 {
        match round {
            1 => lab.publish("offline-days = 3\n"),
            2 => lab.rotate_timestamp_key(),
            _ => {}
        }
        let ours = lab.ours();
        let Answer::Trusted(targets) = &ours else { panic!("round {round}: {ours:?}") };
        assert_eq!(targets.len(), lab::WANTED.len());
        for (oracle, theirs) in lab.theirs() {
            assert_eq!(ours, theirs, "round {round}, {oracle}");
        }
    }
}

/// Nested and terminating delegations, hash prefixes, thresholds, keys of other kinds: python-tuf and we find the same.
#[test]
fn we_verify_what_python_tuf_publishes() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name);
    let repository = path("repository");
    for state in ["state", "state-of-tough"] {
        std::fs::create_dir(path(state)).expect("state");
    }
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
    assert_eq!(ours, lab::theirs(&root, &path("state"), &repository, &wanted));
    // tough refuses the whole repository, because a role in it vouches for more than was delegated to it. The
    // specification has clients leave out such targets, and no more (5.6.7).
    let toughs = tough_client::refresh(&root, &path("state-of-tough"), &repository, &wanted);
    assert_eq!(toughs, Answer::Refused("Invalid file permissions".to_owned()));
}

// proves X2
#[test]
fn all_refuse_the_same_tampered_repositories() {
    let mut failures = Vec::new();
    for tampering in TAMPERINGS {
        let lab = Lab::new();
        lab.publish("offline-days = 3\n");
        if tampering.after_a_refresh {
            assert!(matches!(lab.ours(), Answer::Trusted(_)));
            assert!(lab.theirs().iter().all(|(_, theirs)| matches!(theirs, Answer::Trusted(_))));
        }
        let genuine = lab.genuine();
        (tampering.apply)(&lab);
        let ours = lab.ours();
        for (oracle, theirs) in lab.theirs() {
            println!("{}: ours {ours:?}, {oracle} {theirs:?}", tampering.name);
            let agreed = match tampering.expected {
                Expected::Refused(code) => {
                    ours == Answer::Refused(code.to_owned()) && matches!(theirs, Answer::Refused(_))
                }
                Expected::Genuine => ours == Answer::Trusted(genuine.clone()) && ours == theirs,
            };
            if !agreed {
                failures.push(format!("{}: ours {ours:?}, {oracle} {theirs:?}", tampering.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The difference that decision 0001 names: with a torn memory tough takes a repository that was rolled back. When this
/// fails, tough has mended it: read the decision again.
#[test]
fn tough_forgets_what_it_saw_when_its_state_is_torn() {
    let lab = Lab::new();
    lab.publish("offline-days = 3\n");
    let newest = lab.genuine();
    assert_eq!(lab.ours(), Answer::Trusted(newest.clone()));
    let [_, (_, toughs)] = lab.theirs();
    assert_eq!(toughs, Answer::Trusted(newest.clone()));
    lab.tear_state_of_tough();
    lab.copy("first", "repository");
    let [(_, pythons), (_, toughs)] = lab.theirs();
    assert_eq!(lab.ours(), Answer::Refused("timestamp-rollback".to_owned()));
    assert!(matches!(pythons, Answer::Refused(_)), "{pythons:?}");
    assert!(matches!(&toughs, Answer::Trusted(old) if *old != newest), "{toughs:?}");
}
