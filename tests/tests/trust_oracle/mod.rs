//! python-tuf reads what we publish, and refuses what we refuse.

mod lab;
mod tamperings;

use lab::{Answer, Lab};
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
