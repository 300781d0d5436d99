//! Pieces between neighbours: what is asked for, counted and given.

use super::*;
use crate::bitmap::PieceSet;
use crate::conditions::{Conditions, Medium, Power};
use crate::core::{Event, Mending};
use crate::identifier::DeviceId;
use crate::limits;
use crate::piece::PieceIndex;
use crate::wire::{GrantAnswer, Hello, Holding, LeaseLine, LeaseRequest, News, Versions};

/// A neighbour that holds the whole patch says hello and gives its grant; returns what is fetched from it then.
fn meet(node: &mut Node, fleet: &Fleet, number: u8) -> Vec<(EffectId, DeviceId)> {
    node.take();
    node.connect(fleet.member(number));
    let hello = node.requests().find(|(_, request)| matches!(request, Request::Hello(_)));
    let (effect, _) = hello.expect("a hello");
    let pieces = PieceSet::full(fleet.tree.pieces());
    let holdings = vec![Holding { root: fleet.root(), pieces: pieces.clone() }];
    let news = News { versions: Versions::default(), holdings };
    node.answer(effect, Response::Hello(Hello { agent: "test".to_owned(), medium: Medium::Cable, news }));
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
        Output::FetchPiece(fetch) => Some((fetch.effect, fetch.from)),
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

#[test]
fn content_that_the_disk_did_not_keep_is_fetched_again_and_nobody_is_blamed() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    meet(&mut node, &fleet, 2);
    for round in 0..5 {
        node.take();
        let pieces = PieceSet::full(fleet.tree.pieces());
        node.handle(Input::Held { tree: Arc::clone(&fleet.tree), pieces });
        let check = |output: &Output| match output {
            Output::FullCheck { effect, .. } => Some(*effect),
            _ => None,
        };
        let Some(effect) = node.take().iter().find_map(check) else {
            assert!(round > 3, "given up in round {round}");
            return;
        };
        node.handle(Input::FullChecked { effect, result: Err(crate::reason::Reason::PieceCorrupt) });
        let verdict = node.core.contents.verdict(fleet.manifest.digest(), NOW);
        assert_eq!(
            verdict,
            if round < 3 { Some(Ok(())) } else { Some(Err(crate::reason::Reason::DiskDamaged)) }
        );
    }
    assert!(node.core.deploying.plan.steps.is_empty(), "a disk that keeps nothing ends it");
}

// proves X2
#[test]
fn content_that_cannot_be_checked_here_is_kept_and_not_used() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    meet(&mut node, &fleet, 2);
    node.take();
    let pieces = PieceSet::full(fleet.tree.pieces());
    node.handle(Input::Held { tree: Arc::clone(&fleet.tree), pieces });
    let effect = node.take().iter().find_map(|output| match output {
        Output::FullCheck { effect, .. } => Some(*effect),
        _ => None,
    });
    let missing = crate::reason::Reason::MissingEvidence;
    node.handle(Input::FullChecked { effect: effect.expect("a full check"), result: Err(missing) });
    let outputs = node.take();
    assert!(!outputs.iter().any(|output| matches!(output, Output::Discard(_) | Output::FullCheck { .. })));
    assert!(outputs.iter().any(|output| matches!(output, Output::Revoke { peer: None, .. })));
    assert_eq!(node.core.contents.verdict(fleet.manifest.digest(), NOW), Some(Err(missing)));
    assert_eq!(node.installs(), 0);
}

#[test]
fn a_report_that_the_aggregator_cannot_read_stops_no_other() {
    let mut fleet = Fleet::new();
    fleet.services.aggregators.push(crate::fleet::Aggregator {
        device: fleet.member(0).device,
        addresses: Vec::new(),
        watermark_key: key(9).public(),
    });
    fleet.publish();
    let mut node = fleet.member_node(1);
    node.take();
    node.connect(fleet.member(0));
    let sent = |node: &mut Node| {
        let sent = node.requests().find_map(|(effect, request)| match request {
            Request::Reports(reports) => Some((effect, reports.clone())),
            _ => None,
        });
        node.take();
        sent
    };
    let (effect, before) = sent(&mut node).expect("reports");
    let reason = crate::reason::Reason::UnreadableReport;
    node.answer(effect, Response::Refused { reason, versions: Versions::default() });
    let after = std::iter::from_fn(|| {
        node.pass(Duration::from_secs(10));
        Some(sent(&mut node))
    });
    let (_, reports) = after.take(3).flatten().next().expect("it sends again");
    assert!(!reports.contains(&before[0]), "the head of the outbox is another one");
}

// proves X2: a seed has nobody to fetch from: it keeps the rest, says what is missing, and leases nothing that it lacks
#[test]
fn a_seed_whose_disk_changed_pieces_keeps_the_others_and_says_so() {
    let fleet = Fleet::new();
    let mut seed = fleet.node(0);
    seed.refresh(&fleet);
    seed.connect(fleet.member(1));
    let check = |output: &Output| match output {
        Output::FullCheck { effect, .. } => Some(*effect),
        _ => None,
    };
    let damaged = |outputs: &[Output]| {
        outputs.iter().find_map(|output| match output {
            Output::Event(Event::DiskDamaged { root, mending }) => Some((*root, *mending)),
            _ => None,
        })
    };
    let leased = |seed: &mut Node, number: u64, wanted: PieceSet| {
        let (manifest, root) = (fleet.manifest.digest(), fleet.root());
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
            Output::Respond { response: Response::Lease(answer), .. } => {
                let line = answer.lines.into_iter().next()?;
                let leased = line.leased.iter().map(|(piece, _)| piece.0).collect::<Vec<_>>();
                Some(line.refused.map_or(Ok(leased), Err))
            }
            Output::Respond { response: Response::Refused { reason, .. }, .. } => Some(Err(reason)),
            _ => None,
        };
        seed.take().into_iter().find_map(answer).expect("an answer")
    };
    let full = || PieceSet::full(fleet.tree.pieces());
    // However often it happens.
    for round in 0..6 {
        seed.take();
        seed.handle(Input::Held { tree: Arc::clone(&fleet.tree), pieces: full() });
        let effect = seed.take().iter().find_map(check).expect("a full check");
        let one = PieceIndex(1);
        seed.handle(Input::Damaged { effect, pieces: [one].into_iter().collect() });
        let outputs = seed.take();
        assert_eq!(damaged(&outputs), Some((fleet.root(), Mending::HandedIn)), "round {round}");
        assert!(!outputs.iter().any(|output| matches!(output, Output::Discard(_))), "round {round}");
        assert_eq!(seed.core.pieces_of(fleet.root()), Some((2, 3)));
        assert_eq!(leased(&mut seed, 2 * round, full()), Ok(vec![0, 2]));
        let missing = [one].into_iter().collect();
        assert_eq!(leased(&mut seed, 2 * round + 1, missing), Err(crate::reason::Reason::NoPieces));
    }
    seed.hold(&fleet);
    assert_eq!(leased(&mut seed, 99, full()), Ok(vec![0, 1, 2]));
}

// proves X2: what the disk changed is found, fetched again and checked again; a disk that keeps nothing ends it
#[test]
fn pieces_that_the_disk_changed_are_fetched_again_and_the_others_are_not() {
    let mut fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    let flights = meet(&mut node, &fleet, 2);
    for (effect, _) in flights {
        node.handle(Input::Piece { effect, result: Ok(()) });
    }
    let pieces = fleet.tree.pieces();
    let full = || PieceSet::full(pieces);
    let check = |output: &Output| match output {
        Output::FullCheck { effect, .. } => Some(*effect),
        _ => None,
    };
    for round in 0..3 {
        let effect = node.take().iter().find_map(check).expect("a full check");
        node.handle(Input::Damaged { effect, pieces: [PieceIndex(1)].into_iter().collect() });
        node.pass(Duration::from_secs(1));
        let grant = node.requests().find(|(_, request)| matches!(request, Request::Grant(_)));
        if let Some(effect) = grant.map(|(effect, _)| effect) {
            let tree = Some(fleet.tree.values().to_vec());
            node.answer(effect, Response::Grant(GrantAnswer { pieces: full(), tree, seconds: 600 }));
        }
        let discarded = node.outputs.iter().any(|output| matches!(output, Output::Discard(_)));
        assert!(!discarded, "the rest is kept");
        let fetched = fetches(&mut node);
        assert_eq!(fetched.len(), 1, "round {round}: one piece and no other");
        node.handle(Input::Piece { effect: fetched[0].0, result: Ok(()) });
    }
    let effect = node.take().iter().find_map(check).expect("a full check");
    node.handle(Input::Damaged { effect, pieces: full() });
    let damaged = Some(Err(crate::reason::Reason::DiskDamaged));
    assert_eq!(node.core.contents.verdict(fleet.manifest.digest(), NOW), damaged);
    assert!(node.take().iter().any(|output| matches!(output, Output::Discard(_))));
    fleet.publish();
    node.refresh(&fleet);
    node.pass(Duration::from_secs(60));
    assert!(fetches(&mut node).is_empty(), "new metadata does not mend a disk");
}

// A node that holds thousands of large contents tells of the most useful first, and of the rest in later messages.
#[test]
fn what_a_node_holds_is_told_in_messages_that_are_not_too_long() {
    let fleet = Fleet::new();
    let mut node = fleet.holder(1);
    node.take();
    node.connect(fleet.member(2));
    let device = fleet.member(2).device;
    let hello = node.requests().find(|(_, request)| matches!(request, Request::Hello(_)));
    let (effect, _) = hello.expect("a hello");
    let large = PieceSet::full(64 << 10);
    let holding =
        |number: u32| Holding { root: Blake3Root::of(&number.to_le_bytes()), pieces: large.clone() };
    let mut holdings: Vec<Holding> = (0..4_000).map(holding).collect();
    holdings.push(Holding { root: fleet.root(), pieces: PieceSet::full(3) });
    let first = node.core.fill(device, holdings.clone());
    assert_eq!(first[0].root, fleet.root(), "what this node wants itself comes first");
    assert!(first.len() > 50, "{} holdings", first.len());
    let news = Request::News(News { versions: Versions::default(), holdings: first.clone() });
    assert!(crate::codec::encode(&news).len() < limits::MESSAGE_BYTES / 2);
    // The next messages take what the first did not.
    let (mut told, mut messages) = (first.len(), 1);
    while told < holdings.len() {
        let owed = &node.core.peers[&device].owed;
        let rest: Vec<Holding> =
            holdings.iter().filter(|holding| owed.contains(&holding.root)).cloned().collect();
        assert_eq!(told + rest.len(), holdings.len());
        told += node.core.fill(device, rest).len();
        messages += 1;
    }
    assert!(messages < 100, "{messages} messages");
    // What is owed goes out by itself once the peer said hello.
    node.core.peers.get_mut(&device).expect("connected").owed.insert(fleet.root());
    node.take();
    let news = News { versions: Versions::default(), holdings: Vec::new() };
    node.answer(effect, Response::Hello(Hello { agent: "test".to_owned(), medium: Medium::Cable, news }));
    node.pass(Duration::from_millis(200));
    let told = |request: &Request| matches!(request, Request::News(news) if news.holdings.iter().any(|one| one.root == fleet.root()));
    assert!(node.requests().any(|(_, request)| told(request)));
    assert!(node.core.peers[&device].owed.is_empty());
}

// A peer on another snapshot answers so, and is not punished for it.
#[test]
fn a_peer_that_judges_by_another_snapshot_is_told_so_and_catches_up() {
    let mut fleet = Fleet::new();
    let mut asker = fleet.member_node(2);
    let mut holder = fleet.holder(1);
    fleet.layer.approvals.clear();
    fleet.publish();
    holder.refresh(&fleet);
    let ask = |holder: &mut Node, number: u64, versions: Versions| {
        let (token, from) = (crate::core::RequestToken(number), fleet.member(2).device);
        let news = Request::News(News { versions, holdings: Vec::new() });
        holder.handle(Input::Request { token, from, request: news });
        holder.take();
        let manifest = fleet.manifest.digest();
        let grant = crate::wire::GrantRequest { root: fleet.root(), manifest, need_tree: false };
        holder.handle(Input::Request { token, from, request: Request::Grant(grant) });
        let refusal = |output: &Output| match output {
            Output::Respond { response: Response::Refused { reason, versions }, .. } => {
                Some((*reason, *versions))
            }
            _ => None,
        };
        holder.take().iter().find_map(refusal).expect("a refusal")
    };
    holder.connect(fleet.member(2));
    let incidents = |node: &Node| node.core.reporting.log.sequence();
    let before = incidents(&holder);
    let (old, new) = (asker.core.versions(), holder.core.versions());
    assert!(old.is_older_than(new));
    assert_eq!(ask(&mut holder, 1, old), (crate::reason::Reason::StaleSnapshot, new));
    assert_eq!(incidents(&holder), before, "that is no incident");
    assert_eq!(ask(&mut holder, 2, new).0, crate::reason::Reason::Unapproved);
    // The asker hears of it and asks for what is newer.
    for (effect, _) in meet(&mut asker, &fleet, 1) {
        asker.handle(Input::Piece { effect, result: Err(crate::fetch::PieceFailure::Lost) });
    }
    asker.pass(Duration::from_secs(601));
    let grant = asker.requests().find(|(_, request)| matches!(request, Request::Grant(_)));
    let effect = grant.map(|(effect, _)| effect).expect("the grant is asked for again");
    asker.answer(effect, Response::Refused { reason: crate::reason::Reason::StaleSnapshot, versions: new });
    assert!(asker.requests().any(|(_, request)| matches!(request, Request::Metadata(_))));
}

// proves X1, X4: what was not to be given for a while is offered when it may be again; else the WAN would carry it once more.
#[test]
fn what_may_be_given_again_is_offered_again() {
    let mut fleet = Fleet::new();
    let mut holder = fleet.holder(2);
    holder.connect(fleet.member(1));
    let news = News { versions: holder.core.versions(), holdings: Vec::new() };
    let hello = Hello { agent: String::new(), medium: Medium::Cable, news };
    let token = crate::core::RequestToken(1);
    holder.handle(Input::Request { token, from: fleet.member(1).device, request: Request::Hello(hello) });
    let root = fleet.root();
    let offered = |holder: &mut Node| {
        holder.pass(Duration::from_secs(1));
        let offers = holder.requests().any(|(_, request)| match request {
            Request::News(news) => news.holdings.iter().any(|holding| holding.root == root),
            _ => false,
        });
        holder.take();
        offers
    };
    offered(&mut holder);
    let battery = Conditions { power: Power::Battery, ..Conditions::default() };
    holder.handle(Input::Conditions(battery));
    assert!(!offered(&mut holder), "on battery");
    holder.handle(Input::Conditions(Conditions::default()));
    assert!(offered(&mut holder), "on mains");
    let now = holder.core.wall;
    holder.wall(now.plus_days(100));
    assert!(!offered(&mut holder), "its metadata is too old");
    holder.wall(now);
    assert!(offered(&mut holder), "its clock was wrong");
    let approvals = std::mem::take(&mut fleet.layer.approvals);
    fleet.publish();
    holder.refresh(&fleet);
    assert!(!offered(&mut holder), "it is approved no more");
    fleet.layer.approvals = approvals;
    fleet.publish();
    holder.refresh(&fleet);
    assert!(offered(&mut holder), "it is approved again");
}

/// A member tells a seed that it is there, and asks it for leases on the whole patch.
fn ask_leases(seed: &mut Node, fleet: &Fleet, asker: &Member) {
    let token = crate::core::RequestToken(1);
    seed.handle(Input::Request { token, from: asker.device, request: announcement(false) });
    let (root, manifest) = (fleet.root(), fleet.manifest.digest());
    let line = LeaseLine { root, manifest, wanted: PieceSet::full(fleet.tree.pieces()), need_tree: false };
    let lease = LeaseRequest {
        lines: vec![line],
        unreachable: Vec::new(),
        alone: false,
        room_bytes: limits::LEASED_BYTES,
        round_trip_micros: 0,
        bytes_per_second: 0,
    };
    seed.handle(Input::Request { token, from: asker.device, request: Request::Lease(lease) });
}

/// A seed that leased the whole patch to a member.
fn lessor(fleet: &Fleet) -> (Node, Member) {
    let mut seed = fleet.node(0);
    seed.refresh(fleet);
    seed.hold(fleet);
    let asker = fleet.member(1);
    seed.connect(asker.clone());
    ask_leases(&mut seed, fleet, &asker);
    (seed, asker)
}

// proves X1: a device that slept does not go on under leases that another one has by now.
#[test]
fn whoever_lost_its_leases_to_another_one_is_served_no_more() {
    let fleet = Fleet::new();
    let (mut seed, first) = lessor(&fleet);
    let second = fleet.member(2);
    seed.connect(second.clone());
    let grants = |seed: &mut Node| -> Vec<(DeviceId, bool)> {
        let change = |output: Output| match output {
            Output::Grant { peer, .. } => Some((peer, true)),
            Output::Revoke { peer, .. } => peer.map(|peer| (peer, false)),
            _ => None,
        };
        seed.take().into_iter().filter_map(change).collect()
    };
    assert_eq!(grants(&mut seed), [(first.device, true)]);
    seed.pass(Duration::from_millis(900));
    ask_leases(&mut seed, &fleet, &second);
    assert_eq!(grants(&mut seed), []);
    seed.pass(Duration::from_millis(200));
    ask_leases(&mut seed, &fleet, &second);
    assert_eq!(grants(&mut seed), [(first.device, false), (second.device, true)]);
}

// proves X1
#[test]
fn leases_end_with_the_approval_that_they_rest_on() {
    let mut fleet = Fleet::new();
    let (mut seed, asker) = lessor(&fleet);
    let root = fleet.root();
    let leased = |seed: &Node| seed.core.tracker.leased_to(&asker.site, asker.device, root);
    assert_eq!(leased(&seed).len(), 3);
    fleet.layer.approvals.clear();
    fleet.publish();
    seed.refresh(&fleet);
    assert!(leased(&seed).is_empty());
}

// proves X1, X3
#[test]
fn every_byte_counts_as_served_and_only_a_whole_piece_as_delivered() {
    let fleet = Fleet::new();
    let root = fleet.root();
    let (mut seed, asker) = lessor(&fleet);
    let leased = |seed: &Node| seed.core.tracker.leased_to(&asker.site, asker.device, root).len();
    assert_eq!(leased(&seed), 3);
    let piece = PieceIndex(0);
    // Its last block alone, as a member asks that wants to count as a holder.
    seed.handle(Input::Served { peer: asker.device, root, piece, bytes: 4_096, whole: false });
    assert_eq!(leased(&seed), 3);
    seed.handle(Input::Served { peer: asker.device, root, piece, bytes: 1 << 20, whole: true });
    assert_eq!(leased(&seed), 2);
    let served: Vec<u64> = seed.core.transfers().iter().map(|transfer| transfer.served).collect();
    assert_eq!(served, [(1 << 20) + 4_096]);
}

// A large site would fill a thin link with news of itself, were every device to tell of each piece.
#[test]
fn bytes_are_reported_when_they_rest_and_once_a_minute_while_they_move() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.hold(&fleet);
    node.connect(fleet.member(2));
    node.pass(Duration::from_secs(5));
    let serves = |node: &mut Node| {
        let (peer, root, piece) = (fleet.member(2).device, fleet.root(), PieceIndex(0));
        node.handle(Input::Served { peer, root, piece, bytes: 1_000, whole: false });
    };
    let reported = |node: &Node| node.core.reporting.log.sequence();
    let before = reported(&node);
    for _ in 0..59 {
        serves(&mut node);
        node.pass(Duration::from_secs(1));
    }
    assert_eq!(reported(&node), before, "they move");
    serves(&mut node);
    node.pass(Duration::from_secs(1));
    assert_eq!(reported(&node), before + 1, "a minute is over");
    serves(&mut node);
    node.pass(Duration::from_millis(1_400));
    assert_eq!(reported(&node), before + 1);
    node.pass(Duration::from_millis(100));
    assert_eq!(reported(&node), before + 2, "they rest");
}
