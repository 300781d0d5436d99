//! Caps: what a node says may pass, and whom it lets have what.

use super::*;
use crate::bitmap::PieceSet;
use crate::conditions::{Conditions, Link, Power};
use crate::core::RequestToken;
use crate::manifest::Severity;
use crate::policy::caps::{BusinessHours, Caps};
use crate::rate::Rate;
use crate::reason::Reason;
use crate::wire::{Announce, GrantRequest, LeaseLine, LeaseRequest, Versions};

/// Wednesday at noon, in UTC.
fn noon() -> WallTime {
    let noon = WallTime::parse("2027-01-20T12:00:00Z").expect("a time");
    assert!(NOW < noon && noon < NOW.plus_days(365), "while memberships last");
    noon
}

fn office(text: &str) -> Caps {
    let hours: BusinessHours =
        toml::from_str(&format!("from = \"08:00\"\nuntil = \"18:00\"\n{text}")).expect("hours");
    Caps { site_download: Some(Rate::megabits(20)), business_hours: Some(hours), ..Caps::default() }
}

/// A fleet with these caps, and a patch of this severity.
fn fleet(caps: Caps, severity: Severity) -> Fleet {
    let mut fleet = Fleet::new();
    fleet.layer.policies[0].caps = caps;
    fleet.manifest.severity = severity;
    fleet.layer.approvals[0].manifest = fleet.manifest.digest();
    fleet.publish();
    fleet
}

/// What a node says last of what it serves, by site, and of what it fetches.
fn told(node: &mut Node) -> Option<(Option<Rate>, Vec<Rate>, Option<Rate>)> {
    node.take().into_iter().rev().find_map(|output| match output {
        Output::Caps { serving, download } => {
            Some((serving.total, serving.sites.into_values().collect(), download))
        }
        _ => None,
    })
}

fn ask(node: &mut Node, from: &Member, request: Request) -> Response {
    node.take();
    node.handle(Input::Request { token: RequestToken(7), from: from.device, request });
    let answer = node.take().into_iter().find_map(|output| match output {
        Output::Respond { response, .. } => Some(response),
        _ => None,
    });
    answer.expect("an answer")
}

fn announce(utc_offset_minutes: i16) -> Request {
    let (addresses, versions) = (Vec::new(), Versions::default());
    Request::Announce(Announce {
        addresses,
        versions,
        utc_offset_minutes,
        members: 64,
        metadata: None,
        alone: false,
    })
}

fn lease(node: &mut Node, fleet: &Fleet, from: &Member) -> Option<Reason> {
    let line = LeaseLine {
        root: fleet.root(),
        manifest: fleet.manifest.digest(),
        wanted: PieceSet::full(fleet.tree.pieces()),
        need_tree: true,
    };
    let request = LeaseRequest {
        lines: vec![line],
        unreachable: Vec::new(),
        alone: false,
        room_bytes: 1 << 20,
        round_trip_micros: 0,
        bytes_per_second: 0,
    };
    match ask(node, from, Request::Lease(request)) {
        Response::Lease(answer) => answer.lines[0].refused,
        other => panic!("{other:?}"),
    }
}

// proves X3: the cap of a site by the clock on its wall, which is not the seed's
#[test]
fn a_seed_holds_a_site_to_its_cap_by_the_hours_of_the_site() {
    let fleet = fleet(office("site-download = \"2 Mbit/s\""), Severity::Important);
    let mut seed = fleet.holder(0);
    let member = fleet.member(1);
    seed.wall(noon());
    seed.take();
    seed.connect(member.clone());
    assert_eq!(told(&mut seed), Some((None, vec![Rate::megabits(2)], None)));
    // In Auckland it is one o'clock at night.
    ask(&mut seed, &member, announce(13 * 60));
    assert_eq!(seed.core.caps_in_force().sites[&site()].cap.as_deref(), Some("20 Mbit/s"));
    ask(&mut seed, &member, announce(60));
    assert_eq!(seed.core.caps_in_force().sites[&site()].cap.as_deref(), Some("2 Mbit/s"));
    seed.wall(noon().plus_seconds(5 * 3_600));
    assert_eq!(told(&mut seed), Some((None, vec![Rate::megabits(20)], None)), "it is six there");
    let upload = Some(Rate::megabits(100));
    seed.handle(Input::Conditions(Conditions { upload, power: Power::Battery, ..Conditions::default() }));
    assert_eq!(told(&mut seed), Some((upload, vec![Rate::megabits(20)], None)));
    assert_eq!(lease(&mut seed, &fleet, &member), None, "a seed serves, whatever it stands on");
}

// proves X3, X4: nothing but what is critical passes, and the reason is said
#[test]
fn a_seed_leases_only_what_is_critical_in_hours_that_are_closed() {
    for (severity, refused) in
        [(Severity::Important, Some(Reason::BusinessHours)), (Severity::Critical, None)]
    {
        let fleet = fleet(office("site-download = \"nothing\""), severity);
        let mut seed = fleet.holder(0);
        let member = fleet.member(1);
        seed.wall(noon());
        seed.connect(member.clone());
        assert_eq!(lease(&mut seed, &fleet, &member), refused, "{severity:?}");
        seed.wall(noon().plus_seconds(6 * 3_600));
        assert_eq!(lease(&mut seed, &fleet, &member), None, "{severity:?}, after hours");
        // When the hours begin again, what was leased is taken back.
        seed.take();
        seed.wall(noon().plus_seconds(21 * 3_600));
        let taken = seed.take().iter().any(|output| matches!(output, Output::Revoke { .. }));
        assert_eq!(taken, refused.is_some(), "{severity:?}, the next morning");
    }
}

// proves X3, X4
#[test]
fn a_device_on_battery_neither_fetches_nor_serves() {
    let fleet = fleet(Caps::default(), Severity::Important);
    let battery = Conditions { power: Power::Battery, ..Conditions::default() };
    let mut node = fleet.member_node(1);
    assert!(node.core.fetcher.is_wanted(fleet.root()));
    node.handle(Input::Conditions(battery));
    assert!(!node.core.fetcher.is_wanted(fleet.root()));
    let chain = node.core.explain(&fleet.patch()).expect("a patch of the catalogue").chain;
    assert!(chain.iter().any(|link| link.code == "on-battery"), "{chain:?}");
    node.handle(Input::Conditions(Conditions::default()));
    assert!(node.core.fetcher.is_wanted(fleet.root()));

    let mut holder = fleet.holder(2);
    let member = fleet.member(1);
    holder.connect(member.clone());
    let request = || {
        Request::Grant(GrantRequest {
            root: fleet.root(),
            manifest: fleet.manifest.digest(),
            need_tree: true,
        })
    };
    assert!(matches!(ask(&mut holder, &member, request()), Response::Grant(_)));
    holder.take();
    holder.handle(Input::Conditions(battery));
    assert!(holder.take().iter().any(|output| matches!(output, Output::Revoke { .. })));
    let refused = ask(&mut holder, &member, request());
    assert!(matches!(refused, Response::Refused { reason: Reason::OnBattery, .. }), "{refused:?}");
}

// proves X3
#[test]
fn a_device_serves_with_half_of_its_link_at_most() {
    let fleet = fleet(Caps { download: Some(Rate::megabits(5)), ..Caps::default() }, Severity::Important);
    let mut node = fleet.member_node(1);
    assert_eq!(told(&mut node), Some((None, Vec::new(), Some(Rate::megabits(5)))));
    let link = Link::Wired(Some(Rate::megabits(1_000)));
    node.handle(Input::Conditions(Conditions { link, ..Conditions::default() }));
    assert_eq!(told(&mut node), Some((Some(Rate::megabits(500)), Vec::new(), Some(Rate::megabits(5)))));
    node.handle(Input::Conditions(Conditions { link, ..Conditions::default() }));
    assert_eq!(told(&mut node), None, "nothing changed");
}
