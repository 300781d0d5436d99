//! What a device keeps for its neighbours, and what goes first.

use super::*;
use crate::bitmap::PieceSet;
use crate::core::Event;
use crate::wire::{GrantRequest, Holding, News, Versions};

/// A content that no manifest names.
fn stranger(bytes: usize, fill: u8) -> Arc<PieceTree> {
    let mut builder = TreeBuilder::default();
    builder.update(&vec![fill; bytes]);
    Arc::new(builder.finish())
}

fn hold(node: &mut Node, tree: &Arc<PieceTree>) {
    node.handle(Input::Held { tree: Arc::clone(tree), pieces: PieceSet::full(tree.pieces()) });
}

fn let_go(node: &mut Node) -> Vec<(Blake3Root, bool)> {
    let gone = |output: &Output| match output {
        Output::Event(Event::LetGo { root, last, .. }) => Some((*root, *last)),
        _ => None,
    };
    node.take().iter().filter_map(gone).collect()
}

/// A device that has the patch, checked, and needs it no more.
fn done(fleet: &Fleet, number: u8, keep_bytes: u64) -> Node {
    let mut node = fleet.node(number);
    node.refresh(fleet);
    node.scanned(fleet, "9.0-1");
    node.hold(fleet);
    node.core.setup.keep_bytes = keep_bytes;
    node.take();
    node
}

/// A neighbour says that it holds all of the patch.
fn tell(node: &mut Node, fleet: &Fleet, number: u8) {
    let from = fleet.member(number);
    if !node.core.peers.contains_key(&from.device) {
        node.connect(from.clone());
    }
    let holdings = vec![Holding { root: fleet.root(), pieces: PieceSet::full(fleet.tree.pieces()) }];
    let request = Request::News(News { versions: Versions::default(), holdings });
    node.handle(Input::Request { token: crate::core::RequestToken(7), from: from.device, request });
}

// proves N7: a branch keeps one copy of what its next device will want
#[test]
fn what_nobody_may_have_goes_before_the_last_copy_of_a_patch() {
    let fleet = Fleet::new();
    let size = fleet.tree.size();
    let mut node = done(&fleet, 1, size + 100_000);
    let other = stranger(50_000, 1);
    hold(&mut node, &other);
    assert_eq!(let_go(&mut node), [], "there is room for both");
    node.wall(NOW.plus_days(1));
    hold(&mut node, &stranger(90_000, 2));
    assert_eq!(
        let_go(&mut node),
        [(other.root(), false)],
        "what was used longest ago, and no more than has to"
    );
    assert!(node.core.contents.get(fleet.root()).is_some());
}

#[test]
fn of_two_that_have_the_same_one_keeps_it() {
    let fleet = Fleet::new();
    let mut gone = Vec::new();
    for (own, other) in [(1, 2), (2, 1)] {
        let mut node = done(&fleet, own, u64::MAX);
        tell(&mut node, &fleet, other);
        node.core.setup.keep_bytes = 0;
        node.core.trim_kept();
        node.settle();
        gone.extend(let_go(&mut node));
    }
    gone.sort_unstable_by_key(|(_, last)| *last);
    assert_eq!(gone, [(fleet.root(), false), (fleet.root(), true)]);
    // And in time only the other one's goes.
    let mut kept = 0;
    for (own, other) in [(1, 2), (2, 1)] {
        let mut node = done(&fleet, own, u64::MAX);
        tell(&mut node, &fleet, other);
        let long_ago = WallTime::from_unix_seconds(NOW.unix_seconds() - 40 * 86_400);
        node.core.kept.used.values_mut().for_each(|used| *used = long_ago);
        node.core.trim_kept();
        node.settle();
        kept += usize::from(let_go(&mut node).is_empty());
    }
    assert_eq!(kept, 1);
}

#[test]
fn what_is_needed_here_stays_whatever_the_quota_is() {
    let fleet = Fleet::new();
    let mut node = fleet.holder(1);
    node.core.setup.keep_bytes = 0;
    node.check_content();
    node.handle(Input::Wake);
    assert_eq!(let_go(&mut node), []);
    assert!(node.core.contents.get(fleet.root()).is_some());
}

#[test]
fn a_full_disk_is_cleared_of_what_is_not_needed_before_anybody_is_told() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    let says = || "no room".to_owned();
    assert!(node.core.fetcher.is_wanted(fleet.root()));
    node.handle(Input::NoRoom { root: fleet.root(), says: says() });
    assert!(node.core.obstacle(&fleet.manifest).is_some(), "there is nothing to let go");
    let mut node = fleet.member_node(2);
    let size = usize::try_from(fleet.tree.size()).expect("small");
    for fill in [3, 4] {
        hold(&mut node, &stranger(size, fill));
    }
    // Every piece that was on its way says so.
    for _ in 0..3 {
        node.handle(Input::NoRoom { root: fleet.root(), says: says() });
    }
    assert_eq!(let_go(&mut node).len(), 1, "no more than is needed");
    let code = node.core.obstacle(&fleet.manifest).map(|cause| cause.code);
    assert_eq!(code.as_deref(), Some("no-seed"), "there is room");
}

#[test]
fn a_grant_is_a_use_and_outlives_a_restart() {
    let fleet = Fleet::new();
    let mut node = done(&fleet, 1, u64::MAX);
    let asker = fleet.member(2);
    node.connect(asker.clone());
    node.wall(NOW.plus_days(2));
    node.take();
    let request = GrantRequest { root: fleet.root(), manifest: fleet.manifest.digest(), need_tree: false };
    let request = Request::Grant(request);
    node.handle(Input::Request { token: crate::core::RequestToken(8), from: asker.device, request });
    let answer = node.take().into_iter().find_map(|output| match output {
        Output::Respond { response, .. } => Some(response),
        _ => None,
    });
    assert!(matches!(answer, Some(Response::Grant(_))), "{answer:?}");
    let used = node.core.kept.used[&fleet.root()];
    assert_eq!(used, NOW.plus_days(2));
    let record = ([b"kept/".as_slice(), fleet.root().as_bytes()].concat(), crate::codec::encode(&used));
    let damaged = (b"kept/short".to_vec(), vec![1]);
    let again = fleet.restored(1, [record, damaged]);
    assert_eq!(again.core.kept.used.len(), 1);
    assert_eq!(again.core.kept.used[&fleet.root()], used);
}
