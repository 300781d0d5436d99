//! Rarest first: of what neighbours offer, the piece that fewest of them hold is asked for first.

use super::*;
use std::collections::BTreeSet;

const CARL: DeviceId = DeviceId::from_bytes([4; 32]);
const DORA: DeviceId = DeviceId::from_bytes([5; 32]);
/// Twice as many pieces as one source is asked for at once.
const COUNT: u32 = 2 * limits::PIECES_IN_FLIGHT_PER_SOURCE as u32;

/// A node that wants a content of so many pieces and has four neighbours.
fn node() -> Node {
    let mut node = Node::new();
    node.fetcher.forget(node.content.root);
    let bytes = vec![6; (COUNT as usize) << 20];
    let mut builder = TreeBuilder::default();
    builder.update(&bytes);
    let tree = Arc::new(builder.finish());
    node.content = Content { root: tree.root(), sha256: Sha256::of(&bytes), size: tree.size() };
    node.tree = tree;
    node.fetcher.want(node.content, manifest(), Urgency::Normal.into(), PieceSet::new());
    [ANNA, BEN, CARL, DORA].into_iter().for_each(|device| node.fetcher.add_neighbour(device));
    node
}

/// Anna alone lets us have what she holds, which is everything: what is asked of her, in this order.
fn asked_of_anna(mut node: Node) -> Vec<u32> {
    let all: Vec<u32> = (0..COUNT).collect();
    node.holds(ANNA, &all);
    node.advance(at(0));
    node.grant(at(1), ANNA, &all);
    let started = fetched(&node.advance(at(1)));
    assert!(started.iter().all(|(_, from, _)| *from == ANNA), "{started:?}");
    assert_eq!(started.len(), limits::PIECES_IN_FLIGHT_PER_SOURCE);
    started.into_iter().map(|(_, _, piece)| piece).collect()
}

#[test]
fn the_fewer_neighbours_hold_a_piece_the_sooner_it_is_asked_for() {
    for rarest in 0..COUNT {
        let mut node = node();
        let second = (rarest + 1) % COUNT;
        let without =
            |lacking: &[u32]| (0..COUNT).filter(|piece| !lacking.contains(piece)).collect::<Vec<_>>();
        node.holds(BEN, &without(&[rarest, second]));
        node.holds(CARL, &without(&[rarest]));
        assert_eq!(asked_of_anna(node)[..2], [rarest, second]);
    }
}

#[test]
fn what_is_rare_changes_with_who_comes_and_goes() {
    let (first, rest): (Vec<u32>, Vec<u32>) = (0..COUNT).partition(|piece| *piece < COUNT / 2);
    let halves = || {
        let mut node = node();
        node.holds(BEN, &first);
        node.holds(CARL, &rest);
        node
    };
    let set = |pieces: &[u32]| pieces.iter().copied().collect::<BTreeSet<u32>>();
    let mut told = halves();
    told.holds(DORA, &first);
    assert_eq!(set(&asked_of_anna(told)), set(&rest));
    let mut left = halves();
    left.fetcher.remove(BEN);
    assert_eq!(set(&asked_of_anna(left)), set(&first));
}
