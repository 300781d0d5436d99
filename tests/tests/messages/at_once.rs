//! Several commands at the same moment, and answers that nobody can read: nothing that was reported as done is lost.

use super::{Place, case, check};
use patchmesh_tests::package::Vendor;
use patchmesh_tests::typed::{self, Said};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};

const COMMANDS: usize = 4;

/// Runs all of them at the same moment.
fn at_once(commands: Vec<Command>) {
    let running: Vec<_> =
        commands.into_iter().map(|command| std::thread::spawn(|| typed::run(command))).collect();
    for one in running {
        let Said { code, out, err } = one.join().expect("a thread");
        assert_eq!(code, Some(0), "{out}{err}");
    }
}

// proves P8: a hold that was reported as done holds
#[test]
fn changes_at_the_same_moment_are_all_kept() {
    let place = Place::new();
    let vendor = Vendor::new(place.path());
    let upgrades: Vec<_> = (0..COMMANDS)
        .map(|number| vendor.upgrade(&format!("tool{number}"), 100).expect("dpkg-deb of the package dpkg"))
        .collect();
    let each = |arguments: &dyn Fn(usize) -> Vec<String>| {
        let command = |number| {
            let arguments = arguments(number);
            place.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
        };
        at_once((0..COMMANDS).map(command).collect());
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    each(&|number| {
        let file = upgrades[number].newer.display();
        words(&format!("catalogue import file {file} --vendor acme --unsigned"))
    });
    let listed = typed::run(place.command(&["patch", "list"])).out;
    assert!(upgrades.iter().all(|upgrade| listed.contains(upgrade.patch.as_str())), "{listed}");

    each(&|number| words(&format!("patch approve {}", upgrades[number].patch)));
    each(&|number| words(&format!("patch hold {} --reason broken", upgrades[number].patch)));
    let read = |file: &str| fs::read_to_string(place.path().join("fleet/targets").join(file)).expect("read");
    let (layer, holds) = (read("policy/fleet.toml"), read("hold/holds.toml"));
    for upgrade in &upgrades {
        let patch = upgrade.patch.as_str();
        assert!(layer.contains(patch) && holds.contains(patch), "{patch}: {layer}{holds}");
    }
    let names: BTreeSet<&str> = holds.lines().filter(|line| line.starts_with("id")).collect();
    assert_eq!(names.len(), COMMANDS, "{holds}");
}

#[test]
fn a_command_that_waits_for_another_too_long_says_so() {
    let place = Place::new();
    let root = OpenOptions::new().read(true).write(true).open(place.path().join("fleet/root.json"));
    let root = root.expect("a fleet directory");
    root.lock().expect("lock");
    fs::write(place.path().join("policy.toml"), "offline-days = 3\n").expect("write");
    let apply = place.command(&["policy", "apply", "policy.toml"]);
    check(case("busy", apply, 1, ["another command", "run this again"]), place.path());
}

#[test]
fn an_answer_that_cannot_be_written_is_no_success() {
    let place = Place::new();
    let _headquarters = place.start();
    let to = |arguments: &[&str], out: Stdio| {
        let output = place.command(arguments).stdout(out).output().expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").expect("/dev/full"));
    let create = ["token", "create", "--site", "utrecht", "--socket", "headquarters/control.socket"];
    let (code, err) = to(&create, full());
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("cannot be shown again") && err.contains("ends by itself"), "{err}");
    let (code, err) = to(&["patch", "list"], full());
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("could not be written to standard output"), "{err}");

    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_eq!(to(&["patch", "list"], writer.into()).0, Some(0), "a reader that has seen enough");
}
