//! Metadata that comes and goes while something is under way.

use super::*;
use crate::bitmap::PieceSet;
use crate::conditions::Medium;
use crate::core::Event;
use crate::manifest::AptChain;
use crate::reason::Reason;
use crate::wire::{Hello, Hint, News, Versions};

/// A piece list of its own for a small file.
fn small(bytes: &[u8]) -> Arc<PieceTree> {
    let mut builder = TreeBuilder::default();
    builder.update(bytes);
    Arc::new(builder.finish())
}

fn questions(node: &mut Node) -> Vec<EffectId> {
    let question = |output: &Output| match output {
        Output::CheckEvidence { effect, .. } => Some(*effect),
        _ => None,
    };
    node.take().iter().filter_map(question).collect()
}

/// A fleet whose patch is proven by an index, and a node that asked for the check of that index.
fn by_index() -> (Fleet, Node, EffectId) {
    let mut fleet = Fleet::new();
    fleet.manifest.artifacts[0].evidence = Evidence::Apt(AptChain {
        release: Content::of(b"release"),
        packages: Content::of(b"packages"),
        packages_path: "main/binary-amd64/Packages.xz".to_owned(),
        suite: "stable-security".to_owned(),
        codename: "bookworm-security".to_owned(),
    });
    fleet.layer.approvals[0].manifest = fleet.manifest.digest();
    fleet.publish();
    let mut node = fleet.member_node(1);
    for bytes in [&b"release"[..], b"packages"] {
        node.handle(Input::Held { tree: small(bytes), pieces: PieceSet::full(1) });
    }
    node.check_content();
    let asked = questions(&mut node);
    assert_eq!(asked.len(), 1);
    (fleet, node, asked[0])
}

// proves N8
#[test]
fn an_answer_that_rests_on_keys_of_before_is_not_taken() {
    let (mut fleet, mut node, old) = by_index();
    fleet.vendors.vendors[0].keys[0].revoked = true;
    fleet.publish();
    node.refresh(&fleet);
    let new = questions(&mut node);
    assert_eq!(new.len(), 1);
    // The old answer says something, the new one something else: the new one counts, whichever comes first.
    node.handle(Input::EvidenceChecked { effect: old, result: Err(Reason::BadVendorSignature) });
    assert_eq!(node.core.contents.verdict(fleet.manifest.digest(), NOW), None);
    node.handle(Input::EvidenceChecked { effect: new[0], result: Err(Reason::KeyRevoked) });
    let verdict = node.core.contents.verdict(fleet.manifest.digest(), NOW);
    assert_eq!(verdict, Some(Err(Reason::KeyRevoked)));
}

#[test]
fn a_verdict_outlives_metadata_that_says_nothing_about_vendors() {
    let mut fleet = Fleet::new();
    let mut node = fleet.holder(1);
    node.connect(fleet.member(2));
    fleet.layer.offline_days = Some(20);
    fleet.publish();
    node.take();
    node.refresh(&fleet);
    let torn = |output: &Output| matches!(output, Output::Revoke { .. });
    assert!(!node.outputs.iter().any(torn));
    assert_eq!(node.core.contents.verdict(fleet.manifest.digest(), NOW), Some(Ok(())));
    fleet.vendors.vendors[0].keys[0].revoked = true;
    fleet.publish();
    node.refresh(&fleet);
    let verdict = node.core.contents.verdict(fleet.manifest.digest(), NOW);
    assert_eq!(verdict, Some(Err(Reason::KeyRevoked)));
}

/// Records that a node wrote, as its store would give them back.
fn replay(node: &mut Node, disk: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    while let Some(output) = node.core.poll() {
        if let Output::Store { effect, records } = output {
            for record in records {
                match record.value {
                    Some(value) => drop(disk.insert(record.key, value)),
                    None => drop(disk.remove(&record.key)),
                }
            }
            node.core.handle(node.now, Input::Stored { effect, result: Ok(()) });
        }
    }
}

// proves X2
#[test]
fn metadata_that_came_after_a_restart_survives_the_next_one() {
    let mut fleet = Fleet::new();
    let mut disk = BTreeMap::new();
    for days in 10..14 {
        fleet.layer.offline_days = Some(days);
        fleet.publish();
        let fresh = fleet.node(1);
        let records = disk.clone().into_iter().collect();
        let core = Core::restore(fresh.core.setup.clone(), records).expect("what was stored is whole");
        let mut node = Node { core, ..fresh };
        let targets = fleet.repository.staged.keys().cloned().collect();
        let bundle = fleet.repository.everything();
        node.core.handle(node.now, Input::Repository { bundle, targets });
        replay(&mut node, &mut disk);
        assert_eq!(node.core.policy().offline_days, days);
    }
}

// proves X2
#[test]
fn older_metadata_does_not_overtake_newer_on_its_way_to_the_disk() {
    let mut fleet = Fleet::new();
    let mut node = fleet.node(0);
    let older = fleet.repository.everything();
    let targets: Vec<String> = fleet.repository.staged.keys().cloned().collect();
    fleet.layer.offline_days = Some(20);
    fleet.publish();
    node.slow_disk = true;
    node.refresh(&fleet);
    node.handle(Input::Repository { bundle: older, targets });
    node.flush();
    assert_eq!(node.core.policy().offline_days, 20);
}

#[test]
fn a_neighbour_that_lies_about_its_metadata_keeps_nobody_waiting() {
    let fleet = Fleet::new();
    let mut node = fleet.node(1);
    let boast = |versions| Hello {
        agent: String::new(),
        medium: Medium::Cable,
        news: News { versions, holdings: Vec::new() },
    };
    let high = Versions { root: 1, timestamp: 99, snapshot: 99 };
    for (number, versions) in [(2, high), (3, Versions { timestamp: 1, snapshot: 1, ..high })] {
        node.connect(fleet.member(number));
        let request = Request::Hello(boast(versions));
        let token = crate::core::RequestToken(u64::from(number));
        node.handle(Input::Request { token, from: fleet.member(number).device, request });
    }
    let asked = |node: &mut Node| -> Vec<EffectId> {
        let asks = node.requests().filter(|(_, request)| matches!(request, Request::Metadata(_)));
        let asked = asks.map(|(effect, _)| effect).collect();
        node.take();
        asked
    };
    let first = asked(&mut node);
    assert_eq!(first.len(), 1);
    node.answer(first[0], Response::Metadata(crate::trust::Bundle::default()));
    assert_eq!(asked(&mut node).len(), 1, "the other one is asked at once");
}

// Whoever answers later than somebody with newer metadata did what it was asked; whoever sends older than we had did not.
#[test]
fn an_answer_that_was_overtaken_is_no_rollback() {
    let mut fleet = Fleet::new();
    let older = fleet.repository.everything();
    fleet.layer.offline_days = Some(20);
    fleet.publish();
    for (current, promised) in [(false, 1), (true, 9)] {
        let mut node = fleet.node(1);
        if current {
            node.refresh(&fleet);
        }
        node.connect(fleet.member(2));
        let versions = Versions { root: 1, timestamp: promised, snapshot: promised };
        let news = News { versions, holdings: Vec::new() };
        let hello = Request::Hello(Hello { agent: String::new(), medium: Medium::Cable, news });
        let token = crate::core::RequestToken(1);
        node.handle(Input::Request { token, from: fleet.member(2).device, request: hello });
        let asked = node.requests().find(|(_, request)| matches!(request, Request::Metadata(_)));
        let (effect, _) = asked.expect("it asks for metadata");
        node.refresh(&fleet);
        node.take();
        node.answer(effect, Response::Metadata(older.clone()));
        let refused = |output: &Output| {
            matches!(output, Output::Event(Event::MetadataRefused { code: "timestamp-rollback", .. }))
        };
        assert_eq!(node.take().iter().any(refused), current);
    }
}

// proves N7
#[test]
fn with_peer_download_off_neighbours_are_left_and_none_is_dialled() {
    let mut fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.connect(fleet.member(2));
    node.connect(fleet.member(0));
    fleet.layer.policies[0].peer_download = Some(false);
    fleet.publish();
    node.take();
    node.refresh(&fleet);
    let left = |output: &Output| match output {
        Output::Disconnect(device, reason) => Some((*device, *reason)),
        _ => None,
    };
    let outputs = node.take();
    let left: Vec<_> = outputs.iter().filter_map(left).collect();
    assert_eq!(left, [(fleet.member(2).device, Reason::PeerDownloadOff)]);
    assert!(!outputs.iter().any(|output| matches!(output, Output::Publish(_))));
    node.handle(Input::Discovered { device: fleet.member(3).device, addresses: vec!["/sim/3".to_owned()] });
    assert!(!node.take().iter().any(|output| matches!(output, Output::Dial { .. })));
}

// proves X6
#[test]
fn time_ends_what_holds_until_then() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.connect(fleet.member(2));
    assert_eq!(node.core.deploying.plan.steps.len(), 1);
    node.take();
    node.wall(NOW.plus_days(400));
    let gone = |output: &Output| matches!(output, Output::Disconnect(_, Reason::MembershipExpired));
    assert!(node.outputs.iter().any(gone));
    assert!(node.core.deploying.plan.steps.is_empty());
    node.wall(NOW);
    assert_eq!(node.core.deploying.plan.steps.len(), 1);
}

#[test]
fn a_seed_that_is_away_is_dialled_ever_more_seldom() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    let mut dials = 0;
    for _ in 0..600 {
        node.pass(Duration::from_millis(500));
        for output in node.take() {
            if let Output::Dial { device, .. } = output {
                dials += 1;
                node.handle(Input::DialFailed(device));
            }
        }
    }
    assert!((5..=16).contains(&dials), "{dials} dials in five minutes");
}

// What `status` says of the last check-in outlives a restart, also where nothing newer came.
#[test]
fn the_last_good_check_in_is_in_the_store() {
    let fleet = Fleet::new();
    let mut node = fleet.node(1);
    node.slow_disk = true;
    node.core.handle(
        node.now,
        Input::Repository {
            bundle: fleet.repository.everything(),
            targets: fleet.repository.staged.keys().cloned().collect(),
        },
    );
    let stored = |node: &mut Node| {
        let mut kept = BTreeMap::new();
        let mut effects = Vec::new();
        while let Some(output) = node.core.poll() {
            if let Output::Store { effect, records } = output {
                kept.extend(records.into_iter().filter_map(|record| Some((record.key, record.value?))));
                effects.push(effect);
            }
        }
        for effect in effects {
            node.core.handle(node.now, Input::Stored { effect, result: Ok(()) });
        }
        kept
    };
    let mut kept = stored(&mut node);
    assert_eq!(node.core.status().metadata.checked, Some(NOW));
    let again = fleet.restored(1, kept.clone());
    assert_eq!(again.core.status().metadata.checked, Some(NOW));
    // A seed says that there is nothing newer, an hour later.
    let later = WallTime::from_unix_seconds(NOW.unix_seconds() + 3_600);
    node.core.handle(node.now, Input::WallClock(later));
    node.core.on_checked(node.core.trusted_versions());
    kept.extend(stored(&mut node));
    let again = fleet.restored(1, kept);
    assert_eq!(again.core.status().metadata.checked, Some(later));
    // A seed that has newer metadata, which this node does not have yet, checks nothing.
    let newer = Versions { timestamp: 99, ..node.core.trusted_versions() };
    node.core.handle(node.now, Input::WallClock(NOW.plus_days(1)));
    node.core.on_checked(newer);
    assert_eq!(node.core.status().metadata.checked, Some(later));
}

// Every member that takes new metadata over says so to all; a site must not learn of a hold the later, the more members there are.
#[test]
fn many_hints_do_not_put_off_the_question() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.connect(fleet.member(0));
    node.pass(Duration::from_secs(20));
    node.take();
    let Versions { root, timestamp, snapshot } = node.core.trusted_versions();
    for number in 1..100 {
        let versions = Versions { root, timestamp: timestamp + number, snapshot };
        node.handle(Input::Hint { from: DeviceId::from_bytes([7; 32]), hint: Hint::Metadata(versions) });
        node.pass(Duration::from_millis(100));
    }
    node.take();
    node.pass(Duration::from_secs(2));
    let asks = |request: &Request| matches!(request, Request::Announce(_));
    assert_eq!(
        node.requests().filter(|(_, request)| asks(request)).count(),
        1,
        "ten seconds after the first hint"
    );
}
