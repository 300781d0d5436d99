//! Remembered peers: who is kept, who is forgotten, and when they are dialled.

use super::*;
use crate::core::{Record, Rung};
use crate::identifier::DeviceId;
use crate::limits;
use crate::wire::{SiteMember, SiteView, Versions};

/// A node that deploys, and what it has stored under the key of its memory.
fn restart(fleet: &Fleet, number: u8, record: &Record, days: u32) -> Node {
    let mut node = fleet.restored(number, record.value.clone().map(|value| (record.key.clone(), value)));
    node.wall(NOW.plus_days(days));
    node
}

/// The record that is stored when the node stops.
fn stop(node: &mut Node) -> Option<Record> {
    node.core.handle(node.now, Input::Stopping);
    let mut stored = None;
    while let Some(output) = node.core.poll() {
        if let Output::Store { records, .. } = output {
            stored = records.into_iter().find(|record| record.key == b"remembered").or(stored);
        }
    }
    stored
}

fn address(number: u8) -> String {
    format!("/ip4/10.0.0.{number}/tcp/7700")
}

/// Connects a neighbour that was dialled.
fn reach(node: &mut Node, fleet: &Fleet, number: u8) {
    let member = fleet.member(number);
    let device = member.device;
    node.connect(member);
    node.handle(Input::Reached { device, address: address(number) });
}

fn dials(node: &mut Node) -> Vec<(DeviceId, Vec<String>)> {
    let dial = |output: &Output| match output {
        Output::Dial { device, addresses, rung: Rung::Remembered } => Some((*device, addresses.clone())),
        _ => None,
    };
    node.take().iter().filter_map(dial).collect()
}

// proves X6: a branch cut off from the world finds itself
#[test]
fn a_neighbour_of_before_is_dialled_at_the_next_start_without_headquarters() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    reach(&mut node, &fleet, 2);
    let record = stop(&mut node).expect("something is remembered");
    let mut again = restart(&fleet, 1, &record, 1);
    again.pass(Duration::from_secs(2));
    assert_eq!(dials(&mut again), [(fleet.member(2).device, vec![address(2)])]);
    // Nobody is there: it tries again, less and less often.
    let mut tries = 0;
    for _ in 0..3_600 {
        again.pass(Duration::from_secs(1));
        tries += dials(&mut again).len();
    }
    assert!((8..20).contains(&tries), "{tries} in an hour");
    reach(&mut again, &fleet, 2);
    again.pass(Duration::from_secs(3_600));
    assert!(dials(&mut again).is_empty());
    again.handle(Input::Disconnected(fleet.member(2).device));
    again.pass(Duration::from_secs(5));
    assert_eq!(dials(&mut again).len(), 1, "a neighbour that went away is looked for");
}

#[test]
fn what_members_announced_to_the_seed_is_remembered_of_those_who_came() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.handle(Input::Listening(vec![address(1)]));
    node.connect(fleet.member(0));
    let announce = node.requests().find(|(_, request)| matches!(request, Request::Announce(_)));
    let (effect, _) = announce.expect("an announcement");
    let member = |number: u8| SiteMember {
        device: fleet.member(number).device,
        system: fleet.member(number).system,
        addresses: vec![address(number), "x".repeat(limits::NAME_BYTES + 1)],
    };
    let members = vec![member(2), member(3)];
    let view = SiteView { members, versions: Versions::default(), fetch_metadata: false, metadata: None };
    node.answer(effect, Response::Site(view));
    // It dials us, from a port that nobody listens on.
    node.connect(fleet.member(2));
    let record = stop(&mut node).expect("one of them came");
    let mut again = restart(&fleet, 1, &record, 0);
    again.pass(Duration::from_secs(2));
    assert_eq!(dials(&mut again), [(fleet.member(2).device, vec![address(2)])]);
}

// proves N7
#[test]
fn with_peer_download_off_nothing_is_remembered_or_dialled() {
    let mut fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    reach(&mut node, &fleet, 2);
    let record = stop(&mut node).expect("something is remembered");
    fleet.layer.policies[0].peer_download = Some(false);
    fleet.publish();
    let mut again = restart(&fleet, 1, &record, 0);
    again.refresh(&fleet);
    again.pass(Duration::from_secs(3_600));
    assert!(dials(&mut again).is_empty());
    reach(&mut again, &fleet, 2);
    assert_eq!(stop(&mut again), None, "nothing is left to store");
    assert!(again.core.remembered_devices().is_empty());
}

#[test]
fn memory_is_bounded_and_fades() {
    let mut fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    for number in 2..=120 {
        reach(&mut node, &fleet, number);
        node.wall(NOW.plus_seconds(u64::from(number) * 60));
    }
    let known = node.core.remembered_devices();
    assert_eq!(known.len(), limits::PEERS_REMEMBERED);
    assert!(known.contains(&fleet.member(120).device) && !known.contains(&fleet.member(2).device));
    let record = stop(&mut node).expect("something is remembered");
    assert!(record.value.as_ref().is_some_and(|bytes| bytes.len() < 16 << 10));
    let mut late = restart(&fleet, 1, &record, limits::DAYS_REMEMBERED + 1);
    late.pass(Duration::from_secs(60));
    assert!(dials(&mut late).is_empty(), "too long ago");
    let mut soon = restart(&fleet, 1, &record, limits::DAYS_REMEMBERED - 1);
    soon.pass(Duration::from_secs(2));
    assert_eq!(dials(&mut soon).len(), 8, "a few at a time");
    fleet.revoked = known.clone();
    fleet.publish();
    let mut today = restart(&fleet, 1, &record, 0);
    today.refresh(&fleet);
    assert!(today.core.remembered_devices().is_empty(), "revoked");
}

#[test]
fn changes_gather_before_they_are_stored() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.slow_disk = true;
    for number in 2..=20 {
        reach(&mut node, &fleet, number);
    }
    assert!(node.stores.is_empty());
    node.pass(Duration::from_secs(11));
    assert_eq!(node.stores.len(), 1);
    node.flush();
    node.pass(Duration::from_secs(3_600));
    assert!(node.stores.is_empty());
}

// The last rung: addresses that the organisation wrote down for the site.
#[test]
fn written_addresses_are_tried_when_nobody_else_answers() {
    let mut fleet = Fleet::new();
    fleet.site_addresses = vec!["/ip4/10.0.0.9/tcp/7700/p2p/somebody".to_owned()];
    fleet.publish();
    let mut node = fleet.member_node(1);
    node.pass(Duration::from_secs(2));
    node.pass(Duration::from_secs(20));
    let written = |node: &mut Node| {
        node.take().iter().filter(|output| matches!(output, Output::DialWritten(_))).count()
    };
    assert_eq!(written(&mut node), 1);
    reach(&mut node, &fleet, 2);
    node.pass(Duration::from_secs(3_600));
    assert_eq!(written(&mut node), 0);
}
