//! `patchmesh doctor` on real devices: before joining, beside a running node, and after headquarters went away.

use super::Place;
use patchmesh_tests::typed;

/// The diagnosis of a device, by `about`: the worst verdict with its sentence; and the exit code.
fn doctor(place: &Place, name: &str) -> (Option<i32>, Vec<(String, String, String)>) {
    let configuration = format!("{name}/patchmesh.toml");
    let said = typed::run(place.command(&["doctor", "--config", &configuration, "--output", "json"]));
    let object: serde_json::Value =
        serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{}", said.err));
    let text = |check: &serde_json::Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    let checks = object["doctor"]["checks"].as_array().expect("checks").iter();
    let checks: Vec<_> =
        checks.map(|check| (text(check, "about"), text(check, "verdict"), text(check, "says"))).collect();
    let problems = checks.iter().filter(|(_, verdict, _)| verdict == "problem").count();
    assert_eq!(object["doctor"]["healthy"], problems == 0);
    assert_eq!(said.code, Some(i32::from(problems > 0)), "{checks:?}");
    (said.code, checks)
}

fn says<'a>(checks: &'a [(String, String, String)], about: &str, verdict: &str) -> Option<&'a str> {
    let found = checks.iter().find(|(topic, found, _)| topic == about && found == verdict);
    found.map(|(_, _, sentence)| sentence.as_str())
}

#[test]
fn what_is_wrong_is_named_before_and_after_joining() {
    let place = Place::new();
    place.device("desk");
    let (_, checks) = doctor(&place, "desk");
    assert!(says(&checks, "membership", "problem").is_some_and(|says| says.contains("has not joined")));
    assert!(says(&checks, "node", "problem").is_some_and(|says| says.contains("no node is running")));

    // Headquarters runs, and is well.
    let (_, stopped) = doctor(&place, "headquarters");
    assert!(says(&stopped, "ports", "ok").is_some(), "{stopped:?}");
    let headquarters = place.start();
    let well = typed::wait_for(|| {
        let (code, checks) = doctor(&place, "headquarters");
        let served = says(&checks, "metadata", "ok").is_some() && says(&checks, "seed", "ok").is_some();
        (served && says(&checks, "membership", "ok").is_some() && code == Some(0)).then_some(())
    });
    assert!(well.is_some(), "{:?}", doctor(&place, "headquarters"));

    let said = typed::run(place.join("desk", &place.token("1")));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let mut run = typed::command(&place.path().join("desk"));
    run.args(["node", "run", "--config", "patchmesh.toml"]);
    let _node = place.background(run, "desk");
    let well = typed::wait_for(|| {
        let (_, checks) = doctor(&place, "desk");
        let alone = says(&checks, "neighbours", "warning");
        let why = alone.is_some_and(|says| says.contains("switched off by node.mdns"));
        let connected = says(&checks, "seed", "ok").is_some() && says(&checks, "aggregator", "ok").is_some();
        (why && connected && says(&checks, "metadata", "ok").is_some()).then_some(())
    });
    assert!(well.is_some(), "{:?}", doctor(&place, "desk"));

    drop(headquarters);
    let away = typed::wait_for(|| {
        let (_, checks) = doctor(&place, "desk");
        says(&checks, "seed", "problem").filter(|says| says.contains("nobody answers there")).map(drop)
    });
    assert!(away.is_some(), "{:?}", doctor(&place, "desk"));

    // While another node has the port, and the directory is open to everybody.
    let taken = std::net::TcpListener::bind(("127.0.0.1", place.members)).expect("headquarters is gone");
    let (_, checks) = doctor(&place, "headquarters");
    assert!(
        says(&checks, "ports", "problem").is_some_and(|says| says.contains("cannot be had")),
        "{checks:?}"
    );
    drop(taken);
}

#[test]
fn a_seed_whose_repository_is_damaged_says_so() {
    let place = Place::new();
    let policy = place.path().join("headquarters/repository/metadata/1.policy.json");
    let timestamp = place.path().join("headquarters/repository/metadata/timestamp.json");
    let other = place.path().join("headquarters/repository/metadata/1.hold.json");
    let whole = std::fs::read(&policy).expect("the role is published");
    let damages: [(&std::path::Path, Vec<u8>); 2] =
        [(&policy, std::fs::read(other).expect("the role is published")), (&timestamp, Vec::new())];
    for (file, bytes) in damages {
        std::fs::write(file, bytes).expect("write");
        let headquarters = place.start();
        let told = typed::wait_for(|| {
            let (code, checks) = doctor(&place, "headquarters");
            let damaged = says(&checks, "attention", "problem").filter(|says| says.contains("is damaged"));
            damaged.filter(|_| code == Some(1)).map(drop)
        });
        assert!(told.is_some(), "{}: {:?}", file.display(), doctor(&place, "headquarters"));
        let socket = "headquarters/control.socket";
        let status = typed::run(place.command(&["status", "--socket", socket])).out;
        assert!(status.contains("Needs attention: Devices get no new metadata"), "{status}");
        assert!(status.contains("from a backup"), "{status}");
        drop(headquarters);
        std::fs::write(&policy, &whole).expect("write");
    }
}
