//! The administrator's own mistakes, in the fleet directory and on the command line.

use super::{Place, case, check};
use patchmesh_tests::typed;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

const POLICY: &str = "[[policy]]\nname = \"everyone\"\nenabled = true\nassign = { everyone = true }\n";

#[test]
fn wrong_names_and_wrong_files_are_told_apart() {
    let place = Place::new();
    let write = |name: &str, text: &str| fs::write(place.path().join(name), text).expect("write");
    write("typo.toml", &POLICY.replace("enabled", "enabeld"));
    write("loose.toml", &format!("{POLICY}configurations = [\"none\"]\n"));
    write("junk.deb", "junk");
    write("never.toml", "offline-days = 100000\n");
    let new =
        ["--headquarters", "new", "--address", "10.0.0.1:7700", "--enrolment-address", "/ip4/10.0.0.1/tcp/1"];
    let bad_address = [["fleet", "init", "other"].as_slice(), &new].concat();
    let address = |flag: &str, text: &str| {
        let good = ["--headquarters", "new", "--address", "/ip4/10.0.0.1/tcp/1", "--enrolment-address"];
        let first = ["fleet", "init", "other", flag, text];
        let flags = [first.as_slice(), &good, &["/ip4/10.0.0.1/tcp/2"]].concat();
        place.command(&flags)
    };
    let days = "offline-days must be between 1 and 365";
    let cases = [
        case("days", place.command(&["policy", "check", "never.toml"]), 78, [days]),
        case("days", place.command(&["policy", "apply", "never.toml"]), 78, [days]),
        case("a name to listen on", address("--listen", "/dns4/hq/tcp/1"), 2, ["of this machine such as"]),
        case("a quote", address("--enrolment-listen", "/dns4/a\"b/tcp/1"), 2, ["of this machine such as"]),
        case(
            "no fleet",
            place.command(&["patch", "list", "--fleet", "none"]),
            1,
            ["none is not a fleet directory", "--fleet"],
        ),
        case(
            "unknown patch",
            place.command(&["patch", "show", "acme/x=1"]),
            2,
            ["no patch acme/x=1", "catalogue import"],
        ),
        case(
            "unknown patch",
            place.command(&["patch", "approve", "acme/x=1"]),
            2,
            ["no patch acme/x=1", "catalogue import"],
        ),
        case("not a patch", place.command(&["patch", "show", "x"]), 2, ["vendor/name, for example"]),
        case("no file", place.command(&["policy", "check", "none.toml"]), 1, ["none.toml", "check the name"]),
        case(
            "typo",
            place.command(&["policy", "check", "typo.toml"]),
            78,
            ["typo.toml", "line 3", "expected one of"],
        ),
        case(
            "typo",
            place.command(&["policy", "apply", "typo.toml"]),
            78,
            ["typo.toml", "line 3", "expected one of"],
        ),
        case(
            "undefined",
            place.command(&["policy", "apply", "loose.toml"]),
            78,
            ["which is not defined in this file"],
        ),
        case("fleet exists", place.init("fleet", "new"), 1, ["never overwritten", "another directory"]),
        case(
            "headquarters exists",
            place.init("new", "headquarters"),
            1,
            ["never overwritten", "another directory"],
        ),
        case("bad address", place.command(&bad_address), 2, ["expected a multiaddress such as"]),
        case("no package", import(&place, "none.deb", &[]), 1, ["none.deb", "check the name"]),
        case("not a package", import(&place, "junk.deb", &[]), 1, ["junk.deb", "not a Debian package"]),
        case("not a key", place.command(&["join", "patchmesh1-abc"]), 2, ["copy the whole line"]),
    ];
    cases.into_iter().for_each(|case| check(case, place.path()));
}

fn import(place: &Place, file: &str, more: &[&str]) -> std::process::Command {
    let mut command = place.command(&["catalogue", "import", "file", file, "--vendor", "acme", "--unsigned"]);
    command.args(more);
    command
}

#[test]
fn without_a_node_every_verb_says_how_to_start_one() {
    let place = Place::new();
    let verbs: [&[&str]; 10] = [
        &["scan"],
        &["plan"],
        &["deploy"],
        &["report", "list"],
        &["explain", "acme/x=1"],
        &["status"],
        &["peers"],
        &["policy", "show"],
        &["patch", "list", "--here"],
        &["token", "create", "--site", "utrecht"],
    ];
    for verb in verbs {
        let mut command = place.command(verb);
        command.args(["--socket", "none/control.socket"]);
        check(
            case("no node", command, 4, ["none/control.socket", "patchmesh node run", "--socket"]),
            place.path(),
        );
    }
    let said = typed::run(place.command(&["status", "--socket", "none", "--output", "json"]));
    let error: serde_json::Value = serde_json::from_str(&said.err).expect("one object on standard error");
    assert_eq!((said.code, &error["error"]["exit"]), (Some(4), &serde_json::json!(4)), "{error}");
}

#[test]
fn a_publication_that_cannot_be_signed_changes_nothing() {
    let place = Place::new();
    let path = |name: &str| place.path().join(name);
    fs::write(path("policy.toml"), POLICY).expect("write");
    assert_eq!(typed::run(place.command(&["policy", "apply", "policy.toml"])).code, Some(0));
    let publish = || place.command(&["fleet", "publish"]);
    let (key, away) = (path("fleet/keys/policy.json"), path("policy.json"));
    fs::rename(&key, &away).expect("move");
    check(
        case("missing key", publish(), 1, ["no key of role policy", "copy its key file into keys/"]),
        place.path(),
    );
    fs::rename(&away, &key).expect("move");
    let mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("chmod");
    mode(0o644);
    check(
        case("open key", publish(), 1, ["policy.json can be read by other users", "chmod 600"]),
        place.path(),
    );
    mode(0o600);
    let text = fs::read(&key).expect("key");
    fs::write(&key, "{}").expect("write");
    check(case("damaged key", publish(), 1, ["policy.json is not a key file"]), place.path());
    fs::write(&key, text).expect("write");

    assert_eq!(typed::run(place.init("second", "second-headquarters")).code, Some(0));
    let mut other =
        place.command(&["fleet", "publish", "--fleet", "second", "--repository", "headquarters/repository"]);
    other.args(["--socket", "headquarters/control.socket"]);
    check(case("wrong fleet", other, 3, ["the repository is of fleet", "--repository"]), place.path());

    let mistyped = place.command(&["fleet", "publish", "--repository", "headquarters/repositry"]);
    check(case("no repository", mistyped, 3, ["has published before", "--anew"]), place.path());
    assert!(!path("headquarters/repositry").exists());

    let said = typed::run(publish());
    assert_eq!(said.code, Some(5), "signed, and no seed serves it: {}", said.err);
    assert!(said.err.contains("The seed does not run"), "{}", said.err);
    fs::write(path("fleet/root.json"), "x").expect("write");
    check(
        case("damaged fleet", publish(), 1, ["fleet/root.json is damaged", "restore it from a backup"]),
        place.path(),
    );
}

#[test]
fn what_is_published_where_no_seed_reads_is_called_so() {
    let place = Place::new();
    let _headquarters = place.start();
    let copied = std::process::Command::new("cp")
        .args(["-a", "headquarters/repository", "copy"])
        .current_dir(place.path())
        .status();
    assert!(copied.expect("cp runs").success());
    fs::write(place.path().join("fleet/targets/policy/other.toml"), "").expect("write");
    let said = typed::run(place.command(&["fleet", "publish", "--repository", "copy"]));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("nobody gets what was published: copy is at version"), "{}", said.err);
    assert!(said.err.contains("headquarters/repository") && said.err.contains("--socket"), "{}", said.err);
    // The directory has seen a version that the seed's repository has not.
    check(case("set back", place.command(&["fleet", "publish"]), 3, ["--overwrite policy"]), place.path());
    let overwritten = typed::run(place.command(&["fleet", "publish", "--overwrite", "policy"]));
    assert_eq!(overwritten.code, Some(0), "{}", overwritten.err);
}

#[test]
fn two_copies_of_a_fleet_directory_do_not_undo_each_others_work() {
    let place = Place::new();
    let copied =
        std::process::Command::new("cp").args(["-a", "fleet", "second"]).current_dir(place.path()).status();
    assert!(copied.expect("cp runs").success());
    let stage = |fleet: &str, file: &str, text: &str| {
        fs::write(place.path().join(fleet).join("targets").join(file), text).expect("write");
    };
    let publish = |fleet: &str, more: &[&str]| {
        place.command(&[&["fleet", "publish", "--output", "json", "--fleet", fleet], more].concat())
    };
    let published = |fleet: &str, more: &[&str]| -> serde_json::Value {
        let said = typed::run(publish(fleet, more));
        assert_eq!(said.code, Some(5), "signed, and no seed runs: {}", said.err);
        serde_json::from_str(&said.out).expect("one object")
    };
    stage("fleet", "policy/fleet.toml", "offline-days = 3\n");
    assert_eq!(published("fleet", &[])["published"]["roles"], serde_json::json!({ "policy": 2 }));
    // The second copy changed nothing of it: it takes the newer policy over.
    stage("second", "fleet/sites.toml", "[[site]]\nname = \"lyon\"\n");
    let second = published("second", &[]);
    assert_eq!(second["published"]["taken"], serde_json::json!({ "policy": 2 }));
    assert_eq!(second["published"]["roles"], serde_json::json!({ "fleet": 2 }));
    // Both change the sites: whoever comes second is told, and chooses.
    stage("fleet", "fleet/sites.toml", "[[site]]\nname = \"bern\"\n");
    let refused = place.command(&["fleet", "publish"]);
    let says = ["somebody else published role fleet", "--take fleet", "--overwrite fleet"];
    check(case("diverged", refused, 3, says), place.path());
    let taken = published("fleet", &["--take", "fleet"]);
    assert_eq!(taken["published"]["taken"], serde_json::json!({ "fleet": 2 }));
    let read =
        |file: &str| fs::read_to_string(place.path().join("fleet/targets/fleet").join(file)).expect("read");
    assert!(read("sites.toml").contains("lyon") && read("sites.toml~").contains("bern"));
}

#[test]
fn an_activation_key_is_for_a_site_that_exists() {
    let place = Place::new();
    let _headquarters = place.start();
    let socket = "headquarters/control.socket";
    let misspelt = place.command(&["token", "create", "--site", "utrect", "--socket", socket]);
    let says = ["the fleet has no site utrect", "its sites are: utrecht", "fleet/sites.toml"];
    check(case("no such site", misspelt, 2, says), &place.path().join("fleet"));
    assert!(place.token("1").starts_with("patchmesh1"));
}

// A key that got lost is ended by the name that its making told.
#[test]
fn a_lost_activation_key_is_revoked() {
    let place = Place::new();
    let _headquarters = place.start();
    let socket = ["--socket", "headquarters/control.socket"];
    let run = |arguments: &[&str]| typed::run(place.command(&[arguments, &socket].concat()));
    let made = run(&["token", "create", "--site", "utrecht"]);
    let named = made.err.split("`patchmesh token revoke ").nth(1).and_then(|rest| rest.split('`').next());
    let id = named.unwrap_or_else(|| panic!("{}", made.err)).to_owned();
    let other = place.token("1");
    let revoked = run(&["token", "revoke", &id]);
    assert_eq!(revoked.code, Some(0), "{}", revoked.err);
    assert!(revoked.out.contains(&id) && revoked.out.contains("1 device more in utrecht"), "{}", revoked.out);
    assert!(!run(&["token", "list"]).out.contains(&id));
    let again = place.command(&[["token", "revoke", &id].as_slice(), &socket].concat());
    check(
        case("revoked", again, 2, ["no activation key", "patchmesh token list"]),
        &place.path().join("fleet"),
    );
    place.device("desk");
    let refused = typed::run(place.join("desk", made.out.trim()));
    assert_eq!(refused.code, Some(3), "{}", refused.err);
    assert_eq!(typed::run(place.join("desk", &other)).code, Some(0), "another key counts as before");
}
