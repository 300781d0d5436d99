//! A node that does not start: configuration, keys, ports, sockets, its own files.

use super::{Case, Place, case, check, multiaddress};
use patchmesh_tests::typed;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::Command;

#[test]
fn a_bad_configuration_is_named_before_anything_is_touched() {
    let place = Place::new();
    fs::write(place.path().join("typo.toml"), "[node]\nlistn = [\"/ip4/127.0.0.1/tcp/1\"]\n").expect("write");
    fs::write(place.path().join("broken.toml"), "[node\n").expect("write");
    let run = |more: &[&str]| place.run(more);
    let with = |file: &str| place.command(&["node", "run", "--config", file]);
    let mut environment = place.run(&[]);
    environment.env("PATCHMESH_NODE_MDNS", "maybe");
    let mut no_text = place.run(&[]);
    no_text.env("PATCHMESH_NODE_DIRECTORY", OsStr::from_bytes(b"/tmp/\xff"));
    let cases = [
        case("typo", with("typo.toml"), 78, ["typo.toml, line 2", "did you mean listen?"]),
        case("not TOML", with("broken.toml"), 78, ["broken.toml, line 1", "expected `]`"]),
        case("no file", with("none.toml"), 78, ["none.toml: cannot read", "check the name"]),
        case("a directory", with("fleet"), 78, ["fleet: cannot read", "name a file"]),
        case("environment", environment, 78, ["PATCHMESH_NODE_MDNS", "expected true or false"]),
        case("no text", no_text, 78, ["PATCHMESH_NODE_DIRECTORY", "is not text in UTF-8"]),
        case("flag", run(&["--log", "loud"]), 78, ["flag --log", "expected off, error"]),
        case(
            "set",
            run(&["--set", "node.listen=1.2.3.4:5"]),
            78,
            ["--set node.listen", "expected a multiaddress"],
        ),
        case("no root", run(&["--root", "/none"]), 78, ["node.root", "expected the root directory"]),
        case(
            "no repository",
            run(&["--set", "seed.repository=/none"]),
            78,
            ["seed.repository", "is not a directory"],
        ),
        case(
            "no key",
            run(&["--set", "registrar.key=none.key"]),
            78,
            ["registrar.key", "patchmesh fleet init"],
        ),
        case(
            "not joined",
            run(&["--directory", "none"]),
            1,
            ["has not joined a fleet", "patchmesh join KEY"],
        ),
    ];
    cases.into_iter().for_each(|case| check(case, place.path()));
}

#[test]
fn a_key_that_is_missing_open_or_damaged_stops_the_start() {
    let place = Place::new();
    drop(place.start());
    let keys = place.path().join("headquarters/keys");
    let away = place.path().join("away");
    for role in ["snapshot", "timestamp"] {
        let key = keys.join(format!("online/{role}.json"));
        fs::rename(&key, &away).expect("move");
        check(
            case("missing key", place.run(&[]), 78, ["no key of role", "copy it from keys/online"]),
            place.path(),
        );
        fs::rename(&away, &key).expect("move");
    }
    let key = keys.join("watermark.key");
    let mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("chmod");
    mode(0o640);
    check(
        case("open key", place.run(&[]), 1, ["watermark.key can be read by other users", "chmod 600"]),
        place.path(),
    );
    mode(0o600);
    fs::write(&key, "junk").expect("write");
    check(
        case("damaged key", place.run(&[]), 1, ["watermark.key is not a key file", "from a backup"]),
        place.path(),
    );
}

#[test]
fn what_is_taken_is_named_with_its_setting() {
    let place = Place::new();
    let node = place.start();
    let again = place.run(&[]);
    check(case("runs already", again, 1, ["in use by another process", "node.directory"]), place.path());
    drop(node);
    let taken = TcpListener::bind("127.0.0.1:0").expect("port");
    let port = taken.local_addr().expect("address").port();
    let address = multiaddress(port);
    let socket = place.path().join("taken.socket");
    let _answering = UnixListener::bind(&socket).expect("socket");
    fs::write(place.path().join("precious"), "text").expect("write");
    let set = |setting: &str, value: &str| place.run(&["--set", &format!("{setting}={value}")]);
    let cases: [Case; 6] = [
        case("member port", set("node.listen", &address), 1, ["is in use by another process", "ss -ltnp"]),
        case(
            "enrolment port",
            set("registrar.listen", &address),
            1,
            ["is in use by another process", "ss -ltnp"],
        ),
        case(
            "dashboard",
            set("aggregator.http", &format!("127.0.0.1:{port}")),
            1,
            ["taken by another", "aggregator.http"],
        ),
        case(
            "socket",
            set("node.control-socket", "../taken.socket"),
            1,
            ["already answers", "node.control-socket"],
        ),
        case(
            "no socket",
            set("node.control-socket", "../precious"),
            1,
            ["is not a socket", "node.control-socket"],
        ),
        case(
            "no directory",
            set("node.control-socket", "/proc/none/socket"),
            1,
            ["/proc/none/socket", "node.control-socket"],
        ),
    ];
    // A node that was killed leaves its socket behind; the next one takes its place.
    let _ = fs::remove_file(place.path().join("headquarters/control.socket"));
    cases.into_iter().for_each(|case| check(case, place.path()));
    drop(place.start());
}

/// The command in a process of which `setting` changed something before.
fn after(setting: &str, command: &Command) -> Command {
    let mut shell = typed::other("sh", command.get_current_dir().expect("a directory"));
    shell.args(["-c", &format!("{setting}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

// Keys, metadata and content are for one user, whatever the administrator's umask lets others do with new files.
#[test]
fn a_new_fleet_is_private_under_any_umask() {
    let place = Place::new();
    let said = typed::run(after("umask 0", &place.init("open", "open-headquarters")));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let mode = |path: &str| fs::metadata(place.path().join(path)).expect(path).permissions().mode() & 0o777;
    assert_eq!((mode("open"), mode("open-headquarters")), (0o700, 0o700));
    let mut run = after("umask 0", &place.run(&[]));
    run.current_dir(place.path().join("open-headquarters"));
    let _node = place.background(run, "open-headquarters");
    assert_eq!(mode("open-headquarters/state/installer"), 0o700);
}

// A shortage is not damage: whoever moved the database aside would lose it for nothing.
#[test]
fn a_shortage_of_descriptors_is_no_damage() {
    let place = Place::new();
    drop(place.start());
    let _ = fs::remove_file(place.path().join("headquarters/control.socket"));
    let few = after("ulimit -n 18", &place.run(&[]));
    check(case("few descriptors", few, 1, ["state/store, which is as it was", "ulimit -n"]), place.path());
    drop(place.start());
}

#[test]
fn damaged_files_are_named_and_nothing_is_lost_by_looking() {
    let place = Place::new();
    drop(place.start());
    let _ = fs::remove_file(place.path().join("headquarters/control.socket"));
    let state = place.path().join("headquarters/state");
    let membership = fs::read(state.join("membership")).expect("membership");
    fs::write(state.join("membership"), &membership[..20]).expect("write");
    check(
        case("membership", place.run(&[]), 1, ["membership is damaged", "patchmesh join KEY"]),
        place.path(),
    );
    fs::write(state.join("membership"), &membership).expect("write");
    for file in fs::read_dir(state.join("store")).expect("store") {
        let file = file.expect("entry").path();
        if file.is_file() {
            fs::write(file, [0xa5; 700]).expect("write");
        }
    }
    check(case("store", place.run(&[]), 1, ["state/store is damaged", "move it aside"]), place.path());
    fs::rename(state.join("store"), place.path().join("aside")).expect("move");
    let _node = place.start();
    let said = typed::run(place.command(&["status", "--socket", "headquarters/control.socket"]));
    assert_eq!(said.code, Some(0), "the remedy works: {}", said.err);
}
