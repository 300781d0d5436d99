//! Policies as administrators write them, and what they come to for a device.

use super::*;
use crate::identifier::{FleetId, HostName};
use crate::system::{Family, System};

pub(crate) fn member(site: &str) -> Member {
    Member {
        fleet: FleetId::from_bytes([1; 32]),
        device: DeviceId::from_bytes([2; 32]),
        site: SiteName::new(site).expect("site"),
        class: Class::Server,
        system: System {
            family: Family::Linux,
            distribution: "debian".to_owned(),
            release: "12".to_owned(),
            architecture: "amd64".to_owned(),
        },
        host: HostName::new("host").expect("host"),
        issued: WallTime::from_unix_seconds(1_800_000_000),
        expires: WallTime::from_unix_seconds(1_900_000_000),
    }
}

const FULL: &str = r#"
    [[policy]]
    name = "branches"
    enabled = true
    deploy = true
    configurations = ["approved"]
    assign = { sites = ["utrecht"] }

    [[configuration]]
    name = "approved"
    deploy = true
"#;

pub(crate) fn effective(text: &str, site: &str) -> Effective {
    let layer = Layer::parse(FLEET_LAYER_PATH, text.as_bytes()).expect("layer");
    Effective::of(&layer, &Holds::default(), &member(site))
}

// proves N4
#[test]
fn the_default_only_scans() {
    assert_eq!(effective("", "utrecht").deployment, Err(NoDeployment::NotAssigned));
}

// proves N5
#[test]
fn deployment_needs_all_four() {
    assert!(effective(FULL, "utrecht").deployment.is_ok());
    assert_eq!(effective(FULL, "delft").deployment, Err(NoDeployment::NotAssigned));
    let without = |from: &str, to: &str| effective(&FULL.replacen(from, to, 1), "utrecht").deployment;
    assert_eq!(without("enabled = true", "enabled = false"), Err(NoDeployment::PolicyDisabled));
    assert_eq!(without("deploy = true", "deploy = false"), Err(NoDeployment::NoCapability));
    assert_eq!(without("[\"approved\"]", "[]"), Err(NoDeployment::NoConfiguration));
    let inert =
        FULL.replace("name = \"approved\"\n    deploy = true", "name = \"approved\"\n    deploy = false");
    assert_eq!(effective(&inert, "utrecht").deployment, Err(NoDeployment::ConfigurationInert));
}

// proves N7
#[test]
fn peer_download_off_anywhere_wins() {
    let off = format!(
        "{FULL}\n[[policy]]\nname = \"quiet\"\nenabled = true\npeer-download = false\nassign = {{ everyone = true }}\n"
    );
    assert!(effective(FULL, "utrecht").peer_download);
    assert!(!effective(&off, "utrecht").peer_download);
}

// proves P8: only policy releases a hold, and each by its own identifier
#[test]
fn a_hold_ends_when_policy_releases_it() {
    let hold = |id: &str, patch: &str| Hold {
        id: RuleName::new(id).expect("id"),
        patch: PatchId::new(patch).expect("patch"),
        reason: "It breaks things.".to_owned(),
    };
    let holds = Holds {
        holds: vec![hold("one", "debian/a=1"), hold("two", "debian/a=1"), hold("three", "debian/b=1")],
    };
    let held = |text: &str| {
        let layer = Layer::parse(FLEET_LAYER_PATH, text.as_bytes()).expect("layer");
        let effective = Effective::of(&layer, &holds, &member("utrecht"));
        effective.holds().map(|hold| hold.id.to_string()).collect::<Vec<_>>()
    };
    let release = |id: &str| format!("[[release]]\nhold = \"{id}\"\nreleased = \"2026-01-01T00:00:00Z\"\n");
    assert_eq!(held(""), ["two", "three"]);
    assert_eq!(held(&release("two")), ["one", "three"], "the other hold on the same patch stays");
    assert_eq!(held(&format!("{}{}", release("one"), release("two"))), ["three"]);
}

#[test]
fn caps_of_several_policies_hold_together() {
    let two = r#"
        [[policy]]
        name = "all"
        enabled = true
        assign = { everyone = true }
        caps = { site-download = "20 Mbit/s", on-battery = "all" }

        [[policy]]
        name = "servers"
        enabled = true
        assign = { classes = ["server"] }
        caps = { download = "5 Mbit/s", on-battery = "critical" }
    "#;
    let both = effective(two, "utrecht");
    assert_eq!((both.caps.len(), both.on_battery, both.on_metered), (2, Passing::Critical, Passing::Nothing));
    let layer = Layer::parse(FLEET_LAYER_PATH, two.as_bytes()).expect("layer");
    assert_eq!(layer.caps_of_site(&SiteName::new("delft").expect("site")).count(), 1);
    // What a program writes is read again.
    let text = crate::fleet::to_toml(&layer);
    assert_eq!(Layer::parse(FLEET_LAYER_PATH, &text), Ok(layer));
    let wrong = two.replace("download = \"5 Mbit/s\"", "site-download = \"5 Mbit/s\"");
    let refused = Layer::parse(FLEET_LAYER_PATH, wrong.as_bytes());
    assert!(matches!(refused, Err(Inconsistent::NotOfASite { .. })), "{refused:?}");
}

// proves X6: a device that hears nothing new does not go on for ever
#[test]
fn days_without_news_have_a_range() {
    let layer = |days: u32| {
        let text = format!("offline-days = {days}\n");
        Layer::parse(FLEET_LAYER_PATH, text.as_bytes()).expect("nodes take it")
    };
    for (days, effective, good) in [(0, 1, false), (1, 1, true), (365, 365, true), (u32::MAX, 365, false)] {
        let layer = layer(days);
        assert_eq!(layer.check_written().is_ok(), good, "{days}");
        let of = Effective::of(&layer, &Holds::default(), &member("utrecht"));
        assert_eq!(of.offline_days, effective, "{days}");
    }
}

/// Branches and servers, with so many days where it is some, and a patch that was approved at the start of 2027.
fn with_deadlines(branches: Option<u32>, servers: Option<u32>) -> Effective {
    let manifest = ManifestDigest::from_bytes([1; 32]);
    let days = |days: Option<u32>| days.map(|days| format!("deadline-days = {days}\n")).unwrap_or_default();
    let mut text = String::new();
    for (name, set, assign) in
        [("branches", branches, "everyone = true"), ("servers", servers, "classes = [\"server\"]")]
    {
        let rest = format!("{}assign = {{ {assign} }}\n", days(set));
        text += &format!("[[policy]]\nname = \"{name}\"\nenabled = true\n{rest}");
    }
    for time in ["2027-01-03T00:00:00Z", "2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z"] {
        text += &format!(
            "[[approval]]\npatch = \"debian/a=1\"\nmanifest = \"{manifest}\"\napproved = \"{time}\"\n"
        );
    }
    effective(&text, "utrecht")
}

// proves M4: normally 14 days, and the smallest of those that policies say
#[test]
fn a_deadline_counts_from_the_first_approval_and_the_smallest_wins() {
    let patch = PatchId::new("debian/a=1").expect("patch");
    let digest = ManifestDigest::from_bytes([1; 32]);
    let at = |effective: &Effective, severity| {
        effective.deadline(&patch, digest, severity).map(|deadline| deadline.at().to_string())
    };
    let day = |day: u32| Some(format!("2027-01-{day:02}T00:00:00Z"));
    for (branches, servers, important, critical) in [
        (None, None, None, day(15)),
        (Some(10), None, day(11), day(11)),
        (Some(10), Some(3), day(4), day(4)),
        (Some(0), Some(14), day(1), day(1)),
    ] {
        let effective = with_deadlines(branches, servers);
        assert_eq!(at(&effective, Severity::Important), important, "{branches:?} {servers:?}");
        assert_eq!(at(&effective, Severity::Critical), critical, "{branches:?} {servers:?}");
    }
    let effective = with_deadlines(Some(3), None);
    let other = ManifestDigest::from_bytes([2; 32]);
    assert_eq!(effective.deadline(&patch, other, Severity::Critical), None, "nobody approved that one");
}

#[test]
fn policies_that_are_not_in_force_set_no_deadline() {
    let text = "[[policy]]\nname = \"a\"\nenabled = false\ndeadline-days = 2\nassign = { everyone = true }\n";
    assert_eq!(effective(text, "utrecht").deadline_days, None);
    let text =
        "[[policy]]\nname = \"a\"\nenabled = true\ndeadline-days = 2\nassign = { sites = [\"delft\"] }\n";
    assert_eq!(effective(text, "utrecht").deadline_days, None);
    assert_eq!(effective(text, "delft").deadline_days, Some(2));
}

#[test]
fn a_patch_is_due_a_day_before_its_deadline() {
    let approved = WallTime::parse("2027-01-01T00:00:00Z").expect("time");
    let said = |days, at: &str| Deadline { approved, days }.sentence(WallTime::parse(at).expect("time"));
    insta::assert_snapshot!(
        [
            said(14, "2027-01-13T23:59:59Z"),
            said(14, "2027-01-14T00:00:00Z"),
            said(14, "2027-01-15T00:00:00Z"),
            said(1, "2027-01-02T00:00:01Z"),
            said(0, "2027-01-01T00:00:00Z"),
        ]
        .join("\n")
    );
    // A time that no clock shows does no harm.
    let never = Deadline { approved: WallTime::from_unix_seconds(u64::MAX), days: 14 };
    assert!(never.due_from() > approved);
    let long_ago = Deadline { approved: WallTime::from_unix_seconds(0), days: 0 };
    assert_eq!(long_ago.due_from(), WallTime::from_unix_seconds(0));
}

// proves M4: 0 to 14 days
#[test]
fn values_out_of_their_range_are_refused() {
    let with = |setting: &str| FULL.replacen("deploy = true", &format!("deploy = true\n    {setting}"), 1);
    let parse = |setting: &str| Layer::parse(FLEET_LAYER_PATH, with(setting).as_bytes());
    for good in ["deadline-days = 0", "deadline-days = 14", "wan-fetchers = 16", "scan-minutes = 5"] {
        let layer = parse(good).expect(good);
        let text = crate::fleet::to_toml(&layer);
        assert_eq!(Layer::parse(FLEET_LAYER_PATH, &text), Ok(layer), "what a program writes is read again");
    }
    for bad in ["deadline-days = 15", "wan-fetchers = 0", "wan-fetchers = 17", "scan-minutes = 4"] {
        let name = bad.split(' ').next();
        let refused = parse(bad).expect_err(bad);
        assert!(matches!(refused, Inconsistent::Range { setting, .. } if Some(setting) == name), "{refused}");
    }
    assert!(matches!(parse("deadline-days = -1"), Err(Inconsistent::Malformed(_))));
}

#[test]
fn contradictions_are_named() {
    let parse = |text: &str| Layer::parse(FLEET_LAYER_PATH, text.as_bytes());
    let missing = FULL.replace("[\"approved\"]", "[\"weekly\"]");
    assert!(matches!(parse(&missing), Err(Inconsistent::NoSuchConfiguration { .. })));
    assert!(matches!(parse(&format!("{FULL}{FULL}")), Err(Inconsistent::Twice { .. })));
    assert!(matches!(parse("polcy = 1"), Err(Inconsistent::Malformed(_))));
}
