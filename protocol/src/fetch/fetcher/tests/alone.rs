//! A device that exchanges nothing with its site, and the reasons for what it fetches over the WAN.

use super::*;

fn alone(actions: &[Action]) -> Option<bool> {
    lease_request(actions).map(|request| request.alone)
}

/// The reason of each piece that is on its way.
fn reasons(node: &Node) -> Vec<Reason> {
    node.fetcher.flights.values().map(|flight| flight.reason).collect()
}

// proves X4: never a stall, and the reason is the true one
#[test]
fn a_device_that_hears_of_nobody_it_was_told_of_fetches_for_itself() {
    let mut node = Node::new();
    node.advance(at(0));
    node.lease(at(40), &[], &[ANNA, BEN]);
    assert_eq!(alone(&node.advance(at(5_000))), Some(false));
    node.lease(at(5_040), &[], &[ANNA, BEN]);
    assert_eq!(alone(&node.advance(at(6_500))), Some(true), "6 s, and a tenth for each at most");
    node.lease(at(6_540), &[0, 1], &[]);
    node.advance(at(6_540));
    assert_eq!(reasons(&node), [Reason::Isolated; 2]);
    // One of them comes after all.
    node.fetcher.add_neighbour(ANNA);
    node.advance(at(7_000));
    assert_eq!(node.fetcher.alone(at(7_000)), None);
}

#[test]
fn all_of_a_site_that_keeps_its_devices_apart_do_not_turn_to_the_seed_at_once() {
    let patience = |number: u8| {
        let mut node = Node::new();
        node.fetcher.me = DeviceId::from_bytes([number; 32]);
        node.fetcher.heard_of_site(at(0), 64);
        (0..200).find(|tenth| node.fetcher.alone(at(tenth * 100)).is_some()).expect("in the end")
    };
    let all: Vec<u64> = (0..40).map(patience).collect();
    assert!(all.iter().all(|tenths| (60..=124).contains(tenths)), "{all:?}");
    assert!(all.iter().min() < Some(&75) && all.iter().max() > Some(&110), "{all:?}");
}

// proves X4
#[test]
fn a_device_that_is_away_says_so_at_once() {
    let mut node = Node::new();
    node.fetcher.set_away(true);
    assert!(
        node.fetcher.has_to_tell(at(0)) && node.fetcher.tell_alone(at(0)) && !node.fetcher.has_to_tell(at(0))
    );
    assert_eq!(alone(&node.advance(at(0))), Some(true));
    node.lease(at(40), &[0], &[]);
    node.advance(at(40));
    assert_eq!(reasons(&node), [Reason::Away]);
}

// proves X4
#[test]
fn lone_is_who_was_told_of_nobody_and_double_is_what_a_neighbour_has() {
    let reason = |others: usize, neighbour: bool| {
        let mut node = Node::new();
        node.fetcher.heard_of_site(at(0), others);
        node.advance(at(0));
        node.lease(at(40), &[0], &[]);
        if neighbour {
            node.fetcher.add_neighbour(ANNA);
            node.holds(ANNA, &[0]);
        }
        node.advance(at(40));
        reasons(&node)
    };
    assert_eq!(reason(0, false), [Reason::LoneDevice]);
    assert_eq!(reason(1, false), [Reason::Lease], "its neighbours are still to come");
    assert_eq!(reason(1, true), [Reason::Duplicate]);
}
