//! What surrounds a node is wrong: the clock, the disk, the rights.

use super::{Place, case, check};
use patchmesh_tests::typed::{self, Said};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// The same command with a clock that is off by `offset`.
fn with_clock(offset: &str, command: &Command, directory: &Path) -> Command {
    let mut faked = typed::other("faketime", directory);
    // faketime stays and starts the command as its child, which must end with it.
    faked
        .args(["-f", offset, "setpriv", "--pdeathsig", "KILL"])
        .arg(command.get_program())
        .args(command.get_args());
    faked
}

#[test]
fn a_clock_that_is_a_day_off_is_borne_and_named() {
    let place = Place::new();
    let _headquarters = place.start();
    let key = place.token("3");
    for (name, offset, says) in [("slow", "-1d", "minutes behind"), ("fast", "+1d", "minutes ahead of")] {
        place.device(name);
        let joined = typed::run(with_clock(offset, &place.join(name, &key), place.path()));
        assert_eq!(joined.code, Some(0), "this test needs faketime: {}", joined.err);
        let configuration = format!("{name}/patchmesh.toml");
        let run = place.command(&["node", "run", "--config", &configuration]);
        let node = place.background(with_clock(offset, &run, place.path()), name);
        let told = typed::wait_for(|| {
            let status =
                typed::run(place.command(&["status", "--socket", &format!("{name}/control.socket")]));
            // Before it hears from anybody it goes by its own certificate.
            let named =
                status.out.contains("Needs attention: The clock of this device") && status.out.contains(says);
            let borne = status.out.contains("1 members") || status.out.contains("2 members");
            (named && borne).then_some(status.out)
        });
        let told = told.unwrap_or_else(|| panic!("{name}: {}", node.said()));
        assert!(told.contains("set the clock"), "{told}");
    }
    place.device("lost");
    typed::run(place.join("lost", "patchmesh1-x"));
    fs::create_dir_all(place.path().join("lost/state")).expect("make");
    let said = typed::run(with_clock("+400d", &place.join("lost", &key), place.path()));
    assert_eq!(said.code, Some(3), "{}", said.err);
    assert!(said.err.contains("clock"), "{}", said.err);
    assert!(said.err.contains("minutes ahead of the registrar's: set it"), "{}", said.err);
    assert!(!place.path().join("lost/state/membership").exists(), "nothing is kept of it");
    // A clock that is a month off is borne, and told at once.
    let said = typed::run(with_clock("+30d", &place.join("lost", &key), place.path()));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("minutes ahead of the registrar's"), "{}", said.err);
}

#[test]
fn a_clock_that_is_far_off_is_named_and_not_the_network() {
    let place = Place::new();
    let _headquarters = place.start();
    let key = place.token("1");
    place.device("desk");
    assert_eq!(typed::run(place.join("desk", &key)).code, Some(0));
    let run = place.command(&["node", "run", "--config", "desk/patchmesh.toml"]);
    let cases = [
        ("-400d", "is before its membership certificate was issued", "set the clock"),
        ("+30d", "minutes ahead of the aggregator", "set the clock"),
        ("+400d", "its membership certificate expired", "check the clock first"),
    ];
    for (offset, says, remedy) in cases {
        let node = place.background(with_clock(offset, &run, place.path()), "desk");
        let told = typed::wait_for(|| {
            let status = typed::run(place.command(&["status", "--socket", "desk/control.socket"])).out;
            (status.contains(says) && status.contains(remedy)).then_some(())
        });
        assert!(told.is_some(), "{offset}: {}", node.said());
    }
}

/// A command on a disk of `small/` that is full, in a private mount namespace.
fn on_a_full_disk(command: &Command, directory: &Path, prepare: &str) -> Said {
    let mut unshare = typed::other("unshare", directory);
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let script = format!(
        "mount -t tmpfs -o size=8m none small\n{prepare}\ncat /dev/zero >small/filler 2>/dev/null\nls -A small >before\n\
         \"$@\"; code=$?\nls -A small | diff before - >&2 || exit 99\nexit $code"
    );
    unshare.args(["--mount", "sh", "-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
    typed::run(unshare)
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left_on_it() {
    let place = Place::new();
    let _headquarters = place.start();
    let key = place.token("2");
    place.device("desk");
    assert_eq!(typed::run(place.join("desk", &key)).code, Some(0));
    fs::create_dir(place.path().join("small")).expect("make");
    let settings = ["--config", "desk/patchmesh.toml", "--directory"];
    let directory = place.path().join("small/state").display().to_string();
    let join = [["join"].as_slice(), &settings, &[&directory, &key]].concat();
    let run = [["node", "run"].as_slice(), &settings, &[&directory]].concat();
    let cases = [
        ("fleet init", place.init("small/fleet", "small/headquarters"), ""),
        ("fleet init", place.init("small/fleet", "aside"), ""),
        ("join", place.command(&join), "mkdir small/state"),
        ("node run", place.command(&run), "cp -a desk/state small/state"),
    ];
    for (what, command, prepare) in cases {
        let said = on_a_full_disk(&command, place.path(), prepare);
        assert_eq!(said.code, Some(1), "{what}: {}{}", said.out, said.err);
        let remedy = ["make room", "free", "check space"].iter().any(|remedy| said.err.contains(remedy));
        assert!(said.err.contains("error: ") && said.err.contains("small") && remedy, "{what}: {}", said.err);
        assert!(!place.path().join("aside").exists(), "{what} left a headquarters behind");
    }
}

#[test]
fn who_may_not_is_told_who_may() {
    if !rustix::process::geteuid().is_root() {
        panic!("this test runs commands as another user, which needs root");
    }
    let place = Place::new();
    let _headquarters = place.start();
    let key = place.token("1");
    place.device("desk");
    // The other user can read the place and the program, and change neither.
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let copy = place.path().join("patchmesh");
    fs::copy(typed::path(), &copy).expect("copy");
    let as_nobody = |arguments: &[&str]| {
        let mut command = typed::other("setpriv", place.path());
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy).args(arguments);
        command
    };
    fs::create_dir(place.path().join("owned")).expect("make");
    fs::write(place.path().join("owned/membership"), "x").expect("write");
    fs::set_permissions(place.path().join("owned"), fs::Permissions::from_mode(0o700)).expect("chmod");
    let socket = "desk/control.socket";
    let mut run = typed::command(place.path());
    assert_eq!(typed::run(place.join("desk", &key)).code, Some(0));
    run.args(["node", "run", "--config", "desk/patchmesh.toml"]);
    let _node = place.background(run, "desk");
    let address = "/ip4/127.0.0.1/tcp/1";
    let init = [
        "fleet",
        "init",
        "new",
        "--headquarters",
        "hq",
        "--address",
        address,
        "--enrolment-address",
        address,
        "--host",
        "hq",
    ];
    let closed = case(
        "closed",
        as_nobody(&["fleet", "publish"]),
        1,
        ["cannot read fleet/root.json", "run it as root"],
    );
    check(closed, place.path());
    // Opened by the administrator, and it stays so.
    for opened in ["fleet", "headquarters"] {
        fs::set_permissions(place.path().join(opened), fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let cases = [
        case(
            "status",
            as_nobody(&["status", "--socket", socket]),
            3,
            ["may not control the node", "run the command as root"],
        ),
        case(
            "publish",
            as_nobody(&["fleet", "publish"]),
            3,
            ["may not control the node", "run the command as root"],
        ),
        case(
            "node run",
            as_nobody(&["node", "run", "--directory", "owned"]),
            1,
            ["owned/membership", "run it as root"],
        ),
        case(
            "join",
            as_nobody(&["join", "--directory", "mine", &key]),
            1,
            ["mine/identity.key", "run it as root"],
        ),
        case("fleet init", as_nobody(&init), 1, ["cannot make", "run it as root"]),
    ];
    cases.into_iter().for_each(|case| check(case, place.path()));
}
