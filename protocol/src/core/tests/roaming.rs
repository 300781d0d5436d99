//! Away from home: on the LAN of another site, and at the other end of a tunnel.

use super::meeting::{dialled, foreigner, site_view};
use super::*;
use crate::reason::Reason;
use std::collections::BTreeSet;

/// What each announcement since the last look said of being away.
fn announced(node: &Node) -> Vec<bool> {
    let away = |(_, request): (EffectId, &Request)| match request {
        Request::Announce(announce) => Some(announce.alone),
        _ => None,
    };
    node.requests().filter_map(away).collect()
}

#[test]
fn on_the_lan_of_another_site_a_device_has_no_peers() {
    let fleet = Fleet::new();
    let mut node = fleet.node(1);
    node.connect(fleet.member(0));
    // One of its own site, which it reaches over whatever way.
    site_view(&mut node, &fleet, 2..4);
    node.pass(Duration::from_secs(1));
    assert!(dialled(&mut node).contains(&fleet.member(2).device));
    node.connect(fleet.member(2));
    assert_eq!(node.core.roaming_at(), None);
    // The LAN shows members of another one.
    let other = foreigner(&fleet, 20);
    node.handle(Input::Discovered { device: other.device, addresses: vec!["/sim/20".to_owned()] });
    node.take();
    node.connect(other.clone());
    let left: BTreeSet<DeviceId> = (node.take().iter())
        .filter_map(|output| match output {
            Output::Disconnect(device, Reason::OtherSite) => Some(*device),
            _ => None,
        })
        .collect();
    assert_eq!(left, BTreeSet::from([other.device, fleet.member(2).device]));
    for device in left {
        node.handle(Input::Disconnected(device));
    }
    assert_eq!(node.core.roaming_at(), Some(other.site));
    node.pass(Duration::from_secs(1));
    assert_eq!(announced(&node), [true], "nobody of its site counts on it");
    node.pass(Duration::from_secs(30));
    assert!(dialled(&mut node).is_empty());
    // Elsewhere, that does not count any more. Back home, it is heard of.
    node.handle(Input::Listening(vec!["/sim/elsewhere".to_owned()]));
    assert_eq!(node.core.roaming_at(), None);
    node.pass(Duration::from_secs(1));
    assert_eq!(announced(&node).last(), Some(&false));
    assert!(!dialled(&mut node).is_empty());
    let home = fleet.member(4);
    node.handle(Input::Discovered { device: home.device, addresses: vec!["/sim/4".to_owned()] });
    node.pass(Duration::from_secs(1));
    assert!(dialled(&mut node).contains(&home.device));
    node.connect(home);
    assert_eq!(node.core.roaming_at(), None);
}

#[test]
fn who_called_first_counts_as_heard_too_and_on_another_lan_nobody_does() {
    let fleet = Fleet::new();
    let mut node = fleet.node(1);
    assert_eq!(node.core.heard(), 0);
    for number in [2, 3] {
        let member = fleet.member(number);
        node.connect(member.clone());
        node.handle(Input::Discovered { device: member.device, addresses: vec![format!("/sim/{number}")] });
    }
    assert_eq!(node.core.heard(), 2);
    node.handle(Input::Listening(vec!["/sim/elsewhere".to_owned()]));
    assert_eq!(node.core.heard(), 0);
}

#[test]
fn a_lan_full_of_another_site_is_not_tried_through() {
    let fleet = Fleet::new();
    let mut node = fleet.node(1);
    let others: BTreeMap<DeviceId, Member> =
        (20..200).map(|number| foreigner(&fleet, number)).map(|member| (member.device, member)).collect();
    for device in others.keys() {
        node.handle(Input::Discovered { device: *device, addresses: vec!["/sim/x".to_owned()] });
    }
    let mut dials = 0;
    for _ in 0..300 {
        node.pass(Duration::from_secs(1));
        for device in dialled(&mut node) {
            dials += 1;
            node.connect(others[&device].clone());
            node.handle(Input::Disconnected(device));
        }
    }
    assert!((8..20).contains(&dials), "{dials}");
}

#[test]
fn a_member_behind_a_tunnel_is_no_neighbour() {
    let fleet = Fleet::new();
    let mut node = fleet.node(1);
    node.connect(fleet.member(2));
    node.take();
    node.handle(Input::Distant(fleet.member(2).device));
    let outputs = node.take();
    let left = |output: &Output| matches!(output, Output::Disconnect(_, Reason::AcrossTunnel));
    assert!(outputs.iter().any(left));
    // Headquarters may be there.
    node.connect(fleet.member(0));
    node.take();
    node.handle(Input::Distant(fleet.member(0).device));
    assert!(!node.take().iter().any(left));
}

#[test]
fn on_the_lan_of_another_site_nobody_of_the_own_one_is_let_in_or_looked_for() {
    let mut fleet = Fleet::new();
    fleet.site_addresses = vec!["/sim/written".to_owned()];
    fleet.publish();
    let mut node = fleet.member_node(1);
    let other = foreigner(&fleet, 20);
    node.handle(Input::Discovered { device: other.device, addresses: vec!["/sim/20".to_owned()] });
    node.connect(other.clone());
    node.handle(Input::Disconnected(other.device));
    assert_eq!(node.core.roaming_at(), Some(other.site));
    node.take();
    node.connect(fleet.member(3));
    let outputs = node.take();
    let left = |output: &Output| matches!(output, Output::Disconnect(_, Reason::OtherSite));
    assert!(outputs.iter().any(left), "{outputs:?}");
    node.handle(Input::Disconnected(fleet.member(3).device));
    for _ in 0..60 {
        node.pass(Duration::from_secs(1));
    }
    let written = |output: &Output| matches!(output, Output::DialWritten(_));
    assert!(!node.take().iter().any(written));
}

#[test]
fn a_neighbour_that_is_still_connected_after_a_move_proves_no_home() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    let home = fleet.member(4);
    node.handle(Input::Discovered { device: home.device, addresses: vec!["/sim/4".to_owned()] });
    node.connect(home);
    node.handle(Input::Listening(vec!["/sim/elsewhere".to_owned()]));
    let other = foreigner(&fleet, 20);
    node.handle(Input::Discovered { device: other.device, addresses: vec!["/sim/20".to_owned()] });
    node.connect(other.clone());
    assert_eq!(node.core.roaming_at(), Some(other.site));
}

#[test]
fn one_visitor_does_not_end_peering_for_good() {
    let fleet = Fleet::new();
    let mut node = fleet.node(1);
    node.connect(fleet.member(0));
    site_view(&mut node, &fleet, 2..4);
    let visitor = foreigner(&fleet, 20);
    node.handle(Input::Discovered { device: visitor.device, addresses: vec!["/sim/20".to_owned()] });
    node.connect(visitor.clone());
    node.handle(Input::Disconnected(visitor.device));
    let mut last = None;
    for second in 0..1_000 {
        node.pass(Duration::from_secs(1));
        for device in dialled(&mut node) {
            let away = node.core.roaming_at().is_some();
            assert!(!away || device == visitor.device, "away, it dials {device}");
            last = last.or((!away).then_some(second));
            node.handle(Input::DialFailed(device));
        }
    }
    assert!(last.is_some_and(|second| (850..950).contains(&second)), "{last:?}");
    assert_eq!(node.core.roaming_at(), None);
}

#[test]
fn members_of_another_site_that_were_met_there_are_not_dialled_again_and_again_from_elsewhere() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    let other = foreigner(&fleet, 20);
    node.handle(Input::Discovered { device: other.device, addresses: vec!["/sim/20".to_owned()] });
    node.handle(Input::Listening(vec!["/sim/home".to_owned()]));
    let mut dials = 0;
    for _ in 0..300 {
        node.pass(Duration::from_secs(1));
        if dialled(&mut node).contains(&other.device) {
            dials += 1;
            node.connect(other.clone());
            // It takes us for a visitor still.
            node.handle(Input::Disconnected(other.device));
        }
    }
    assert_eq!(dials, 1);
}

#[test]
fn a_device_on_its_own_gets_metadata_at_once_and_takes_nobodys_turn() {
    let fleet = Fleet::new();
    let mut seed = fleet.node(0);
    seed.refresh(&fleet);
    (1..4).for_each(|number| seed.connect(fleet.member(number)));
    let mut gets = |number: u8, alone: bool| {
        let token = crate::core::RequestToken(u64::from(number));
        let (from, request) = (fleet.member(number).device, announcement(alone));
        seed.handle(Input::Request { token, from, request });
        let view = |output: Output| match output {
            Output::Respond { response: Response::Site(view), .. } => Some(view.fetch_metadata),
            _ => None,
        };
        seed.take().into_iter().find_map(view).expect("an answer")
    };
    assert_eq!([gets(3, true), gets(1, false), gets(2, false), gets(3, true)], [true, true, false, true]);
}
