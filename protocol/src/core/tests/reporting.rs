//! Reports leave a device only when they are on its disk.

use super::{Fleet, Node, key};
use crate::core::{Input, StoreFailure};
use crate::fleet::Aggregator;
use crate::wire::{Request, Unanswered};
use std::time::Duration;

/// A fleet whose seed is its aggregator too.
fn fleet() -> Fleet {
    let mut fleet = Fleet::new();
    let aggregator = Aggregator {
        device: key(0).device(),
        addresses: vec!["/sim/0".to_owned()],
        watermark_key: key(90).public(),
    };
    fleet.services.aggregators = vec![aggregator];
    fleet.publish();
    fleet
}

fn report(node: &mut Node, fleet: &Fleet, detail: &str) {
    node.handle(Input::OriginWrong { root: fleet.root(), detail: detail.to_owned() });
}

/// How many reports left since the last call; none of them gets an answer.
fn sent(node: &mut Node) -> usize {
    let reports = |request: &Request| match request {
        Request::Reports(reports) => Some(reports.len()),
        _ => None,
    };
    let asked: Vec<_> =
        node.requests().filter_map(|(effect, request)| Some((effect, reports(request)?))).collect();
    node.take();
    for (effect, _) in &asked {
        node.handle(Input::Answered { effect: *effect, result: Err(Unanswered::TimedOut) });
    }
    asked.iter().map(|(_, count)| count).sum()
}

// proves X8: what an aggregator knows of a device, the device's own disk has.
#[test]
fn reports_that_the_disk_did_not_take_wait_for_their_second_writing() {
    let fleet = fleet();
    let mut node = fleet.node(1);
    node.connect(fleet.member(0));
    node.slow_disk = true;
    let before = sent(&mut node);
    report(&mut node, &fleet, "one");
    let full = Err(StoreFailure("no space left on the device".to_owned()));
    for effect in std::mem::take(&mut node.stores) {
        node.handle(Input::Stored { effect, result: full.clone() });
    }
    // The second report is on its way to the disk when the first one is written again.
    report(&mut node, &fleet, "two");
    let second = std::mem::take(&mut node.stores);
    node.pass(Duration::from_secs(5));
    let again = std::mem::take(&mut node.stores);
    assert!(!second.is_empty() && !again.is_empty());
    assert!(sent(&mut node) <= before, "what was durable before may come again");
    for effect in second {
        node.handle(Input::Stored { effect, result: Ok(()) });
    }
    assert_eq!(sent(&mut node), 0, "the first report is not durable yet");
    for effect in again {
        node.handle(Input::Stored { effect, result: Ok(()) });
    }
    assert_eq!(sent(&mut node), before + 2);
}
