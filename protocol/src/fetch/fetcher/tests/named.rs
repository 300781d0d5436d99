//! Holders that a seed names: how long they are waited for, and when they are asked.

use super::*;

// proves X1: while others may still serve us, a holder that refuses is no reason to take the piece over the WAN.
#[test]
fn a_holder_that_refuses_is_passed_over_after_a_while_only() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    node.holds(ANNA, &[0, 1, 2, 3]);
    node.advance(at(0));
    node.grant(at(1), ANNA, &[0, 1, 2, 3]);
    let started = fetched(&node.advance(at(1)));
    node.fetcher.on_piece(at(2), started[0].0, Err(PieceFailure::Corrupt));
    let soon = node.advance(at(1_100));
    assert_eq!(lease_request(&soon).map(|request| request.unreachable.clone()), Some(Vec::new()));
    node.lease(at(1_140), &[], &[ANNA]);
    let late = node.advance(at(7_200));
    assert_eq!(lease_request(&late).map(|request| request.unreachable.clone()), Some(vec![ANNA]));
}

// proves X1
#[test]
fn a_neighbour_that_is_named_and_says_nothing_is_asked_what_it_holds() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    node.advance(at(0));
    node.lease(at(40), &[], &[ANNA]);
    let questions = |actions: &[Action]| {
        actions.iter().filter(|action| matches!(action, Action::AskGrant(_, ANNA, _))).count()
    };
    assert_eq!(questions(&node.advance(at(29_000))), 0);
    node.lease(at(29_040), &[], &[ANNA]);
    assert_eq!(questions(&node.advance(at(30_100))), 1);
    node.lease(at(30_110), &[], &[ANNA]);
    // She took us for one that has everything; her grant says what she holds.
    node.grant(at(30_140), ANNA, &[0, 1, 2]);
    assert_eq!(fetched(&node.advance(at(30_140))).len(), 3);
    // What she lacks too she is not asked for at once.
    assert_eq!(questions(&node.advance(at(31_200))), 0);
}

// proves X1: seed 5931 of the sweep, a holder that needs 40 s for each piece.
#[test]
fn a_neighbour_that_is_named_and_had_nothing_yet_is_asked_again() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    let mut asked = Vec::new();
    for second in 0..70 {
        let actions = node.advance(at(second * 1_000));
        if let Some(request) = lease_request(&actions) {
            assert!(
                request.unreachable.is_empty() || second >= 60,
                "{second} s: she may be fetching it still"
            );
            node.lease(at(second * 1_000 + 40), &[], &[ANNA]);
        }
        if actions.iter().any(|action| matches!(action, Action::AskGrant(_, ANNA, _))) {
            asked.push(second);
            let refused = Some(Err(Reason::NoPieces));
            node.fetcher.on_grant(at(second * 1_000 + 50), ANNA, node.content.root, refused);
        }
    }
    assert!(
        matches!(asked[..], [first, second] if (30..33).contains(&first) && (60..66).contains(&second)),
        "{asked:?}"
    );
}

#[test]
fn empty_words_earn_no_patience() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    node.holds(ANNA, &[0]);
    node.advance(at(0));
    node.lease(at(0), &[], &[ANNA]);
    for second in 0..61 {
        node.holds(ANNA, &[0]);
        node.advance(at(second * 1_000));
    }
    assert_eq!(node.fetcher.unreachable(at(61_000), &[node.content.root]), [ANNA]);
}

// proves X1: in a large site most fetchers are nobody's neighbour
#[test]
fn a_fetcher_that_is_no_neighbour_is_waited_for_while_its_content_spreads() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(BEN);
    let root = node.content.root;
    node.advance(at(0));
    node.lease(at(40), &[], &[ANNA]);
    node.says(at(5_000), BEN, &[0]);
    assert_eq!(node.fetcher.unreachable(at(10_900), &[root]), []);
    // The same word again says nothing.
    node.says(at(10_900), BEN, &[0]);
    assert_eq!(node.fetcher.unreachable(at(11_000), &[root]), [ANNA]);
}
