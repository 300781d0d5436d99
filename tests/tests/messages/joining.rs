//! Joining, and what a member asks that it cannot have.

use super::{Place, case, check};
use patchmesh_tests::{http, typed};
use protocol::digest::Sha256;
use protocol::identifier::DeviceId;
use protocol::membership::ActivationKey;
use protocol::signature::{Purpose, SigningKey};
use std::fs;

// proves N2
#[test]
fn a_device_that_may_not_join_is_told_why() {
    let place = Place::new();
    let node = place.start();
    let text = place.token("1");
    let key = ActivationKey::parse(&text).expect("key");
    for name in ["desk", "late", "fedora", "bare"] {
        place.device(name);
    }
    fs::write(place.path().join("fedora/root/etc/os-release"), "ID=fedora\nVERSION_ID=40\n").expect("write");
    fs::remove_file(place.path().join("bare/root/etc/os-release")).expect("remove");
    // The device's own key stays for the next try, so it is there before.
    let wrong = ActivationKey { secret: [9; 16], ..key.clone() }.to_string();
    typed::run(place.join("desk", &wrong));
    typed::run(place.join("late", &wrong));
    let stranger = ActivationKey { registrar: DeviceId::from_bytes([7; 32]), ..key.clone() }.to_string();
    let nowhere = format!("/ip4/127.0.0.1/tcp/{}", typed::free_port().expect("port"));
    let nobody = ActivationKey { addresses: vec![nowhere], ..key }.to_string();
    let cases = [
        case(
            "wrong key",
            place.join("desk", &wrong),
            3,
            ["the activation key is not valid", "patchmesh token create"],
        ),
        case(
            "other registrar",
            place.join("desk", &stranger),
            3,
            ["is not the registrar that the activation key names"],
        ),
        case("no registrar", place.join("desk", &nobody), 4, ["no registrar answers", "check the network"]),
        case(
            "other system",
            place.join("fedora", &text),
            1,
            ["fedora 40 is not supported; supported are debian"],
        ),
        case("no system", place.join("bare", &text), 1, ["cannot read etc/os-release", "check the name"]),
    ];
    cases.into_iter().for_each(|case| check(case, place.path()));

    assert_eq!(typed::run(place.join("desk", &text)).code, Some(0));
    check(
        case("joined twice", place.join("desk", &text), 3, ["has joined fleet", "desk/state first"]),
        place.path(),
    );
    check(case("used up", place.join("late", &text), 3, ["the activation key is not valid"]), place.path());
    // Its answer was lost on the way: the same device comes again, and its use counts once.
    fs::remove_file(place.path().join("desk/state/membership")).expect("remove");
    let again = typed::run(place.join("desk", &text));
    assert_eq!(again.code, Some(0), "{}", again.err);
    drop(node);
    check(case("registrar gone", place.join("late", &text), 4, ["no registrar answers"]), place.path());
}

#[test]
fn a_member_is_told_what_it_cannot_have() {
    let place = Place::new();
    let headquarters = place.start();
    place.device("desk");
    for version in ["1.0", "2.0", "3.0"] {
        package(&place, version);
    }
    let mut install = typed::other("dpkg", place.path());
    let root = place.path().join("desk/root");
    install
        .arg(format!("--root={}", root.display()))
        .arg(format!("--log={}/dpkg.log", place.path().display()));
    let installed = typed::run({
        fs::create_dir_all(root.join("var/lib/dpkg/info")).expect("make");
        install.args(["--force-not-root", "--install", "tool_1.0_all.deb"]);
        install
    });
    assert_eq!(installed.code, Some(0), "{}", installed.err);
    let acme = SigningKey::from_seed(&[4; 32]);
    let digest = Sha256::of(&fs::read(place.path().join("tool_2.0_all.deb")).expect("package"));
    let signature = acme.sign(Purpose::Artifact, digest.as_bytes());
    fs::write(place.path().join("tool.sig"), signature.as_bytes()).expect("write");
    let mut import = place.command(&["catalogue", "import", "file", "tool_2.0_all.deb", "--vendor", "acme"]);
    import.args(["--signature", "tool.sig"]);
    check(
        case("no trusted key", import, 3, ["vendor acme is not in the fleet", "--trust-key"]),
        place.path(),
    );
    let import = ["catalogue", "import", "file", "--vendor", "acme"];
    for arguments in [
        [
            &import[..],
            &["tool_2.0_all.deb", "--signature", "tool.sig", "--trust-key", &acme.public().to_string()],
        ]
        .concat()
        .as_slice(),
        &[&import[..], &["tool_3.0_all.deb", "--unsigned"]].concat(),
        &["fleet", "publish"],
        &["join", "--config", "desk/patchmesh.toml", "--host", "desk", &place.token("1")],
    ] {
        let said = typed::run(place.command(arguments));
        assert_eq!(said.code, Some(0), "{}", said.err);
    }
    let mut run = typed::command(&place.path().join("desk"));
    run.args(["node", "run", "--config", "patchmesh.toml"]);
    let node = place.background(run, "desk");
    let ask = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.args(["--socket", "desk/control.socket"]);
        command
    };
    let there = typed::wait_for(|| {
        typed::run(ask(&["patch", "list", "--here"])).out.contains("acme/tool=2.0").then_some(())
    });
    assert!(there.is_some(), "{}", node.said());
    let listed = ["no catalogue of this device lists acme/x=1", "patchmesh patch list"];
    let state = place.path().join("fleet");
    check(case("unknown patch", ask(&["deploy", "acme/x=1"]), 2, listed), &state);
    check(case("unknown patch", ask(&["explain", "acme/x=1"]), 2, listed), &state);
    check(case("no registrar", ask(&["token", "create", "--site", "utrecht"]), 2, ["registrar"]), &state);
    for (patch, code, remedy) in [
        ("acme/tool=2.0", "unapproved", "patchmesh patch approve"),
        ("acme/tool=3.0", "unsigned", "import a signed version"),
    ] {
        let said = typed::run(ask(&["deploy", patch]));
        assert_eq!(said.code, Some(3), "{}", said.out);
        assert!(said.out.contains(code) && said.out.contains(remedy), "{}", said.out);
    }

    drop(headquarters);
    let alone = typed::wait_for(|| {
        typed::run(ask(&["scan"]));
        let said = typed::run(ask(&["status"])).out;
        (said.contains("no seed") && !said.contains(" 0 waiting for an aggregator")).then_some(())
    });
    assert!(
        alone.is_some(),
        "reports wait while no aggregator answers: {}",
        typed::run(ask(&["status"])).out
    );

    // A package database that is not there is a problem, not an empty device.
    fs::remove_dir_all(place.path().join("desk/root/var/lib/dpkg")).expect("remove");
    check(
        case(
            "no dpkg",
            ask(&["scan"]),
            1,
            ["var/lib/dpkg", "check that the directory holds a dpkg database"],
        ),
        &state,
    );
}

/// A package of the tool.
fn package(place: &Place, version: &str) {
    fs::create_dir_all(place.path().join("package/DEBIAN")).expect("make");
    let control = format!(
        "Package: tool\nVersion: {version}\nArchitecture: all\nMaintainer: Acme <a@acme.example>\nDescription: a tool\n"
    );
    fs::write(place.path().join("package/DEBIAN/control"), control).expect("write");
    let mut build = typed::other("dpkg-deb", place.path());
    build.args(["--root-owner-group", "--build", "package", "."]);
    assert_eq!(typed::run(build).code, Some(0));
}

// A device that enrolled and was never heard of is on the dashboard, and the security officer sees that it is silent.
#[test]
fn a_device_that_enrolled_and_never_reported_is_seen() {
    let place = Place::new();
    let headquarters = place.start();
    place.device("desk");
    assert_eq!(typed::run(place.join("desk", &place.token("1"))).code, Some(0));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], place.http));
    let seen = || {
        typed::wait_for(|| {
            let devices = http::get(address, "/api/v1/devices").ok()?;
            let devices: serde_json::Value = serde_json::from_str(&devices).ok()?;
            let rows = devices["rows"].as_array()?;
            let desk = rows.iter().find(|row| row["host"] == "desk")?;
            let page = http::get(address, "/").ok()?;
            (desk["reported"].is_null() && page.contains("enrolled, never reported")).then_some(())
        })
    };
    assert!(seen().is_some(), "{:?}", http::get(address, "/api/v1/devices"));
    drop(headquarters);
    let _headquarters = place.start();
    assert!(seen().is_some(), "after a restart: {:?}", http::get(address, "/api/v1/devices"));
}
