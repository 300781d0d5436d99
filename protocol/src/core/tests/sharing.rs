//! Pieces between neighbours: what is asked for, counted and given.

use super::*;
use crate::bitmap::PieceSet;
use crate::identifier::DeviceId;
use crate::wire::{GrantAnswer, Hello, Holding, News, Versions};

/// A neighbour that holds the whole patch says hello and gives its grant; returns what is fetched from it then.
fn meet(node: &mut Node, fleet: &Fleet, number: u8) -> Vec<(EffectId, DeviceId)> {
    node.take();
    node.connect(fleet.member(number));
    let hello = node.requests().find(|(_, request)| matches!(request, Request::Hello(_)));
    let (effect, _) = hello.expect("a hello");
    let pieces = PieceSet::full(fleet.tree.pieces());
    let holdings = vec![Holding { root: fleet.root(), pieces: pieces.clone() }];
    let news = News { versions: Versions::default(), holdings };
    node.answer(effect, Response::Hello(Hello { agent: "test".to_owned(), news }));
    let grant = node.requests().find(|(_, request)| matches!(request, Request::Grant(_)));
    let (effect, _) = grant.expect("a grant is asked for");
    node.answer(
        effect,
        Response::Grant(GrantAnswer { pieces, tree: Some(fleet.tree.values().to_vec()), seconds: 600 }),
    );
    fetches(node)
}

fn fetches(node: &mut Node) -> Vec<(EffectId, DeviceId)> {
    let fetch = |output: &Output| match output {
        Output::FetchPiece { effect, from, .. } => Some((*effect, *from)),
        _ => None,
    };
    node.take().iter().filter_map(fetch).collect()
}

// proves X1
#[test]
fn pieces_that_were_on_their_way_when_the_plan_changed_land_and_are_kept() {
    let mut fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    let flights = meet(&mut node, &fleet, 2);
    assert_eq!(flights.len(), 3);
    let approvals = std::mem::take(&mut fleet.layer.approvals);
    fleet.publish();
    node.refresh(&fleet);
    for (effect, _) in flights {
        node.handle(Input::Piece { effect, result: Ok(()) });
    }
    fleet.layer.approvals = approvals;
    fleet.publish();
    node.refresh(&fleet);
    assert!(fetches(&mut node).is_empty(), "everything is here already");
    node.pass(Duration::from_secs(60));
    assert!(fetches(&mut node).is_empty(), "everything is here already");
}
