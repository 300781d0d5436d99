//! What keeps content from coming is told to whoever asks, at the device that waits and at the seed that cannot give it.

use super::*;
use crate::core::view::Cause;
use crate::fetch::PieceFailure;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use crate::wire::{LeaseAnswer, LeaseLine, LeaseRequest, LeasedLine, SiteView};
use crate::{bitmap::PieceSet, limits};

/// A device that has heard of its site from the seed, and wants the patch.
fn asker(fleet: &Fleet) -> Node {
    let mut node = fleet.member_node(1);
    node.connect(fleet.member(0));
    node.handle(Input::Listening(vec!["/sim/1".to_owned()]));
    let announce = node.requests().find(|(_, request)| matches!(request, Request::Announce(_)));
    let (effect, _) = announce.expect("an announcement");
    let versions = node.core.trusted_versions();
    let view = SiteView { members: Vec::new(), versions, fetch_metadata: false, metadata: None };
    node.answer(effect, Response::Site(view));
    node
}

/// The seed answers the next request for leases.
fn answer(node: &mut Node, line: LeasedLine) {
    let ask = |node: &Node| {
        node.requests()
            .filter(|(_, request)| matches!(request, Request::Lease(_)))
            .last()
            .map(|(effect, _)| effect)
    };
    let effect = (0..600).find_map(|_| {
        node.pass(Duration::from_millis(100));
        ask(node)
    });
    let effect = effect.expect("it asks for leases");
    node.take();
    node.answer(effect, Response::Lease(LeaseAnswer { lines: vec![line], ..LeaseAnswer::default() }));
}

fn leased(fleet: &Fleet) -> LeasedLine {
    LeasedLine {
        leased: vec![(PieceIndex(0), Reason::Lease)],
        tree: Some(fleet.tree.values().to_vec()),
        ..LeasedLine::nothing(fleet.root())
    }
}

/// What status says of the deployment, which `explain` has to say too.
fn why(node: &Node, fleet: &Fleet) -> Option<Cause> {
    let told = node.core.status().deployments[0].reason.clone();
    let chain = node.core.explain(&fleet.patch()).expect("a patch of the catalogue").chain;
    if let Some(told) = &told {
        assert!(chain.contains(told), "{chain:?}");
    }
    told
}

fn fetching(node: &mut Node) -> EffectId {
    let fetch = |output: Output| match output {
        Output::FetchPiece(fetch) => Some(fetch.effect),
        _ => None,
    };
    node.take().into_iter().find_map(fetch).expect("a piece is fetched")
}

// proves X4: headquarters cannot read the content: the device says so
#[test]
fn a_device_says_why_the_seed_does_not_give_it_a_content() {
    let fleet = Fleet::new();
    let mut node = asker(&fleet);
    let refused = |reason| LeasedLine { refused: Some(reason), ..LeasedLine::nothing(fleet.root()) };
    answer(&mut node, refused(Reason::OriginUnreachable));
    let told = why(&node, &fleet).expect("a reason");
    assert_eq!(told.code, Reason::OriginUnreachable.code());
    assert!(told.sentence.contains("The seed cannot read the content"), "{}", told.sentence);
    answer(&mut node, refused(Reason::NoPieces));
    let told = why(&node, &fleet).expect("a reason").sentence;
    assert!(told.contains("does not have it") && told.contains("`patchmesh fleet publish`"), "{told}");
    answer(&mut node, leased(&fleet));
    assert_eq!(why(&node, &fleet), None, "it gives it now");
    // What is refused after the lease counts as well.
    let effect = fetching(&mut node);
    let refused = PieceFailure::Refused(Reason::OriginCorrupt);
    node.handle(Input::Piece { effect, result: Err(refused) });
    assert_eq!(why(&node, &fleet).map(|told| told.code), Some(Reason::OriginCorrupt.code().to_owned()));
}

// proves X4: no room for the content: how much is needed and how much is free
#[test]
fn a_device_without_room_says_how_much_it_needs() {
    let fleet = Fleet::new();
    let mut node = asker(&fleet);
    answer(&mut node, leased(&fleet));
    let effect = fetching(&mut node);
    let says = "It waits for room on the disk: 2500000 bytes must be free in /data, and 7 are.";
    node.handle(Input::NoRoom { root: fleet.root(), says: says.to_owned() });
    node.handle(Input::Piece { effect, result: Err(PieceFailure::Disk) });
    let expected = Cause { code: Reason::DiskFull.code().to_owned(), sentence: says.to_owned() };
    assert_eq!(why(&node, &fleet), Some(expected.clone()));
    assert_eq!(node.core.without_room(), [(fleet.patch(), expected)]);
    // There is room again.
    node.pass(Duration::from_secs(60));
    answer(&mut node, leased(&fleet));
    let effect = fetching(&mut node);
    node.handle(Input::Piece { effect, result: Ok(()) });
    assert_eq!((why(&node, &fleet), node.core.without_room()), (None, Vec::new()));
}

// proves X4
#[test]
fn a_device_that_waits_for_its_turn_says_so() {
    let fleet = Fleet::new();
    let mut node = asker(&fleet);
    answer(&mut node, LeasedLine::nothing(fleet.root()));
    assert_eq!(why(&node, &fleet), Some(Reason::WaitsForTurn.into()));
    answer(&mut node, leased(&fleet));
    assert_eq!(why(&node, &fleet), None);
    // While a piece comes, the next ones do not wait.
    answer(&mut node, LeasedLine::nothing(fleet.root()));
    assert_eq!(why(&node, &fleet), None);
}

// proves X4: that a content is not here yet is no answer where it cannot be read
#[test]
fn a_seed_says_that_it_cannot_read_a_content() {
    let fleet = Fleet::new();
    let mut seed = fleet.node(0);
    seed.refresh(&fleet);
    seed.connect(fleet.member(1));
    let mut number = 0;
    let mut refused = |seed: &mut Node| {
        number += 1;
        let (root, manifest) = (fleet.root(), fleet.manifest.digest());
        let wanted = PieceSet::full(fleet.tree.pieces());
        let lease = LeaseRequest {
            lines: vec![LeaseLine { root, manifest, wanted, need_tree: false }],
            unreachable: Vec::new(),
            alone: false,
            room_bytes: limits::LEASED_BYTES,
            round_trip_micros: 0,
            bytes_per_second: 0,
        };
        let token = crate::core::RequestToken(number);
        seed.handle(Input::Request { token, from: fleet.member(1).device, request: Request::Lease(lease) });
        let answer = |output: Output| match output {
            Output::Respond { response: Response::Lease(answer), .. } => Some(answer.lines[0].refused),
            _ => None,
        };
        seed.take().into_iter().find_map(answer).expect("an answer")
    };
    let root = fleet.root();
    assert_eq!(refused(&mut seed), Some(Reason::NoPieces));
    seed.handle(Input::Unreadable { root, reason: Some(Reason::OriginUnreachable) });
    assert_eq!(refused(&mut seed), Some(Reason::OriginUnreachable));
    seed.handle(Input::Unreadable { root, reason: None });
    assert_eq!(refused(&mut seed), Some(Reason::NoPieces));
    seed.handle(Input::Unreadable { root, reason: Some(Reason::OriginUnreachable) });
    seed.hold(&fleet);
    assert_eq!(refused(&mut seed), None, "what is here is leased");
}
