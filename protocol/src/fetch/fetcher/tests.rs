//! One fetcher among neighbours and a seed: what it asks for, and what it leaves alone.

mod alone;
mod mirror;
mod named;
mod rarest;

use super::*;
use crate::bitmap::PieceSet;
use crate::digest::Sha256;
use crate::effect::EffectIds;
use crate::piece::TreeBuilder;
use crate::wire::{GrantAnswer, LeaseAnswer, LeaseRequest, LeasedLine, SiteMember};

const SEED: DeviceId = DeviceId::from_bytes([9; 32]);
const ANNA: DeviceId = DeviceId::from_bytes([1; 32]);
const BEN: DeviceId = DeviceId::from_bytes([2; 32]);

struct Node {
    fetcher: Fetcher,
    ids: EffectIds,
    tree: Arc<PieceTree>,
    content: Content,
}

fn at(milliseconds: u64) -> Moment {
    Moment::from_micros(milliseconds * 1_000)
}

fn manifest() -> ManifestDigest {
    ManifestDigest::from_bytes([7; 32])
}

fn pieces(pieces: &[u32]) -> PieceSet {
    pieces.iter().map(|piece| PieceIndex(*piece)).collect()
}

impl Node {
    /// A node that wants a content of four pieces, knows a seed and has heard of its site.
    fn new() -> Node {
        let mut builder = TreeBuilder::default();
        let bytes = vec![5; 4 << 20];
        builder.update(&bytes);
        let tree = Arc::new(builder.finish());
        let content = Content { root: tree.root(), sha256: Sha256::of(&bytes), size: tree.size() };
        let site = crate::policy::tests::member("utrecht").site;
        let mut fetcher = Fetcher::new(DeviceId::from_bytes([3; 32]), site);
        fetcher.add_seed(SEED);
        fetcher.heard_of_site(at(0), 1);
        fetcher.want(content, manifest(), Urgency::Normal.into(), PieceSet::new());
        Node { fetcher, ids: EffectIds::default(), tree, content }
    }

    fn advance(&mut self, now: Moment) -> Vec<Action> {
        let actions = self.fetcher.advance(now, &mut self.ids);
        self.fetcher.check().expect("consistent");
        actions
    }

    fn lease(&mut self, now: Moment, leased: &[u32], holders: &[DeviceId]) {
        let member = |device: &DeviceId| SiteMember {
            device: *device,
            system: crate::policy::tests::member("utrecht").system,
            addresses: Vec::new(),
        };
        let line = LeasedLine {
            leased: leased.iter().map(|piece| (PieceIndex(*piece), Reason::Lease)).collect(),
            holders: (0..holders.len()).map(|place| place as u8).collect(),
            tree: Some(self.tree.values().to_vec()),
            ..LeasedLine::nothing(self.content.root)
        };
        let answer = LeaseAnswer {
            lines: vec![line],
            members: holders.iter().map(member).collect(),
            retry_milliseconds: 1_000,
            ..LeaseAnswer::default()
        };
        let effect = self.asking(SEED);
        self.fetcher.on_lease(now, SEED, effect, Some(Ok(answer)));
    }

    /// The question for leases that is under way.
    fn asking(&self, seed: DeviceId) -> EffectId {
        self.fetcher.seeds[&seed].asking.as_ref().expect("it was asked").0
    }

    fn holds(&mut self, device: DeviceId, held: &[u32]) {
        self.says(at(0), device, held);
    }

    fn says(&mut self, now: Moment, device: DeviceId, held: &[u32]) {
        let holding = Holding { root: self.content.root, pieces: pieces(held) };
        self.fetcher.on_holdings(now, device, &[holding]);
    }

    fn grant(&mut self, now: Moment, device: DeviceId, held: &[u32]) {
        let answer =
            GrantAnswer { pieces: pieces(held), tree: Some(self.tree.values().to_vec()), seconds: 600 };
        self.fetcher.on_grant(now, device, self.content.root, Some(Ok(answer)));
    }
}

fn lease_request(actions: &[Action]) -> Option<&LeaseRequest> {
    actions.iter().find_map(|action| match action {
        Action::AskLease(_, _, request) => Some(request),
        _ => None,
    })
}

fn fetched(actions: &[Action]) -> Vec<(EffectId, DeviceId, u32)> {
    let piece = |action: &Action| match action {
        Action::FetchPiece(fetch) => Some((fetch.effect, fetch.from, fetch.piece.0)),
        _ => None,
    };
    actions.iter().filter_map(piece).collect()
}

// proves X1
#[test]
fn nothing_is_asked_of_the_seed_before_somebody_told_who_is_there() {
    let mut node = Node::new();
    node.fetcher.heard = false;
    assert_eq!(node.advance(at(0)), []);
    node.fetcher.heard_of_site(at(0), 1);
    assert_eq!(lease_request(&node.advance(at(0))).map(|request| request.lines[0].wanted.len()), Some(4));
}

#[test]
fn new_leases_are_asked_for_before_the_last_is_used_up() {
    let mut node = Node::new();
    node.advance(at(0));
    node.lease(at(40), &[0, 1], &[]);
    let started = fetched(&node.advance(at(40)));
    assert_eq!(started.len(), 2);
    node.fetcher.on_piece(at(300), started[0].0, Ok(()));
    let request = node.advance(at(300));
    assert_eq!(lease_request(&request).map(|request| request.lines[0].wanted.clone()), Some(pieces(&[2, 3])));
}

// proves X3
#[test]
fn the_more_a_connection_carries_the_more_is_leased_ahead() {
    let asked = |window_bytes| {
        let mut node = Node::new();
        node.fetcher.on_pace(SEED, Pace { window_bytes, round_trip: None, bytes_per_second: 0 });
        lease_request(&node.advance(at(0))).map(|request| request.room_bytes)
    };
    let least = limits::PIECE_BYTES * 3 / 2;
    // A window on its way, and two that come while the answer does.
    assert_eq!((asked(0), asked(750_000)), (Some(least), Some(least + 2_250_000)));
}

#[test]
fn a_neighbour_that_forgot_its_grant_is_asked_again_soon() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    node.holds(ANNA, &[0]);
    node.advance(at(0));
    node.grant(at(1), ANNA, &[0]);
    let started = fetched(&node.advance(at(1)));
    let refused = Err(PieceFailure::Refused(Reason::NoGrant));
    node.fetcher.on_piece(at(2), started[0].0, refused);
    assert!(fetched(&node.advance(at(2))).is_empty());
    let again = node.advance(at(300));
    assert!(again.iter().any(|action| matches!(action, Action::AskGrant(_, ANNA, _))), "{again:?}");
}

// proves X1
#[test]
fn a_grant_that_comes_when_nothing_is_wanted_any_more_does_not_count_as_asked_for_ever() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    node.holds(ANNA, &[0, 1, 2, 3]);
    assert!(matches!(node.advance(at(0))[..], [Action::AskGrant(_, ANNA, _)]));
    node.fetcher.forget(node.content.root);
    node.grant(at(10), ANNA, &[0, 1, 2, 3]);
    node.fetcher.want(node.content, manifest(), Urgency::Normal.into(), PieceSet::new());
    assert!(matches!(node.advance(at(20))[..], [Action::AskGrant(_, ANNA, _)]));
}

#[test]
fn what_comes_over_the_wan_takes_no_room_from_neighbours() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    node.holds(ANNA, &[2, 3]);
    node.advance(at(0));
    node.lease(at(40), &[0, 1], &[]);
    node.grant(at(40), ANNA, &[2, 3]);
    let started = fetched(&node.advance(at(40)));
    assert_eq!(started.len(), 4);
    assert_eq!(node.fetcher.bytes_in_flight, 2 << 20);
    for (effect, _, _) in started {
        node.fetcher.on_piece(at(100), effect, Ok(()));
    }
    assert_eq!(node.fetcher.bytes_in_flight, 0);
}

#[test]
fn an_answer_about_leases_from_an_earlier_connection_says_nothing() {
    let mut node = Node::new();
    node.advance(at(0));
    let before = node.asking(SEED);
    node.fetcher.remove(SEED);
    node.fetcher.add_seed(SEED);
    assert!(lease_request(&node.advance(at(10))).is_some());
    node.fetcher.on_lease(at(20), SEED, before, None);
    node.fetcher.on_lease(at(20), SEED, before, Some(Err(Reason::NoPieces)));
    node.lease(at(40), &[0], &[]);
    assert_eq!(fetched(&node.advance(at(40))).len(), 1);
}

#[test]
fn a_word_that_was_overtaken_takes_nothing_back() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    node.holds(ANNA, &[0, 1, 2]);
    node.holds(ANNA, &[0]);
    let all = Holding { root: node.content.root, pieces: pieces(&[0, 1, 2]) };
    assert!(node.fetcher.knows_all(ANNA, &all));
    assert!(!node.fetcher.knows_all(BEN, &all));
}

// A forgotten content must not keep the slots of its source, and what still comes is not asked for again.
#[test]
fn pieces_that_come_after_their_content_was_forgotten_count() {
    let mut node = Node::new();
    node.advance(at(0));
    node.lease(at(40), &[0, 1], &[]);
    let started = fetched(&node.advance(at(40)));
    node.fetcher.forget(node.content.root);
    assert!(node.fetcher.target(started[0].0).is_some());
    node.fetcher.on_piece(at(300), started[0].0, Ok(()));
    node.fetcher.check().expect("consistent");
    node.fetcher.want(node.content, manifest(), Urgency::Normal.into(), pieces(&[started[0].2]));
    assert!(lease_request(&node.advance(at(320))).is_some());
    node.lease(at(340), &[0, 1, 2, 3], &[]);
    let again = fetched(&node.advance(at(340)));
    assert!(again.iter().all(|(_, _, piece)| *piece != started[1].2 && *piece != started[0].2), "{again:?}");
    let came: u64 = node.fetcher.transfers().map(|transfer| transfer.from(Origin::Wan)).sum();
    assert_eq!(came, 1 << 20);
}

#[test]
fn a_grant_without_the_piece_list_holds_nobody_up() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    node.holds(ANNA, &[0, 1, 2, 3]);
    node.advance(at(0));
    let answer = GrantAnswer { pieces: pieces(&[0, 1, 2, 3]), tree: None, seconds: 3_600 };
    node.fetcher.on_grant(at(0), ANNA, node.content.root, Some(Ok(answer)));
    assert!(lease_request(&node.advance(at(0))).is_some());
}

// proves X1
#[test]
fn whatever_is_most_urgent_all_of_a_site_ask_the_same_of_several_seeds() {
    let asked = |urgent: u8| {
        let mut node = Node::new();
        for seed in 10..18 {
            node.fetcher.add_seed(DeviceId::from_bytes([seed; 32]));
        }
        let urgent = [urgent];
        let content = Content { root: Blake3Root::of(&urgent), sha256: Sha256::of(&urgent), size: 1_000 };
        node.fetcher.want(content, manifest(), Urgency::Critical.into(), PieceSet::new());
        let actions = node.advance(at(0));
        actions.iter().find_map(|action| match action {
            Action::AskLease(_, seed, _) => Some(*seed),
            _ => None,
        })
    };
    let first = asked(0);
    assert!(first.is_some() && (1..20).all(|urgent| asked(urgent) == first));
}

// proves X1
#[test]
fn all_ask_the_same_of_two_seeds_and_the_other_when_it_declines() {
    const OTHER: DeviceId = DeviceId::from_bytes([8; 32]);
    let mut node = Node::new();
    node.fetcher.add_seed(OTHER);
    let asked = |actions: &[Action]| {
        let asked = actions.iter().filter_map(|action| match action {
            Action::AskLease(_, seed, _) => Some(*seed),
            _ => None,
        });
        asked.collect::<Vec<_>>()
    };
    let first = asked(&node.advance(at(0)));
    assert_eq!(first.len(), 1);
    assert!(asked(&node.advance(at(1))).is_empty());
    let effect = node.asking(first[0]);
    node.fetcher.on_lease(at(2), first[0], effect, Some(Err(Reason::NoPieces)));
    let second = asked(&node.advance(at(2)));
    assert!(second.len() == 1 && second != first);
}

#[test]
fn what_is_wanted_for_another_manifest_is_asked_for_under_that_one() {
    let mut node = Node::new();
    let newer = ManifestDigest::from_bytes([8; 32]);
    node.fetcher.want(node.content, newer, Urgency::Normal.into(), PieceSet::new());
    assert_eq!(lease_request(&node.advance(at(0))).map(|request| request.lines[0].manifest), Some(newer));
}

#[test]
fn one_neighbour_cannot_fill_the_memory() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    for number in 0..4_096u32 {
        let root = Blake3Root::of(&number.to_le_bytes());
        node.fetcher.on_holdings(at(0), ANNA, &[Holding { root, pieces: pieces(&[65_535]) }]);
    }
    let anna = node.fetcher.neighbours.get(&ANNA).expect("a neighbour");
    let words: usize = anna.offers.iter().map(|(_, held)| held.words()).sum();
    assert!(words <= limits::HOLDINGS_WORDS);
}

#[test]
fn a_source_that_comes_back_still_owes_what_it_owed() {
    let mut node = Node::new();
    node.advance(at(0));
    node.lease(at(0), &[0, 1], &[]);
    let flights = fetched(&node.advance(at(0)));
    assert_eq!(flights.len(), 2);
    node.fetcher.remove(SEED);
    node.fetcher.add_seed(SEED);
    for (effect, _, _) in flights {
        node.advance(at(1));
        node.fetcher.on_piece(at(1), effect, Err(PieceFailure::Lost));
    }
    node.advance(at(2));
}

// proves X1: a neighbour that fell silent holds nobody up, and its pieces come from another one.
#[test]
fn a_piece_that_is_overdue_is_asked_of_somebody_else() {
    let mut node = Node::new();
    for neighbour in [ANNA, BEN] {
        node.fetcher.add_neighbour(neighbour);
    }
    node.holds(ANNA, &[0]);
    node.advance(at(0));
    node.grant(at(1), ANNA, &[0]);
    let first = fetched(&node.advance(at(1)));
    assert_eq!(first.len(), 1);
    node.holds(BEN, &[0]);
    node.advance(at(2));
    node.grant(at(3), BEN, &[0]);
    assert!(fetched(&node.advance(at(100))).is_empty());
    assert_eq!(node.fetcher.next_wake(at(100)), Some(at(3_001)));
    let second = fetched(&node.advance(at(3_001)));
    assert_eq!(second.iter().map(|(_, from, piece)| (*from, *piece)).collect::<Vec<_>>(), [(BEN, 0)]);
    assert_eq!(node.fetcher.unreachable(at(3_001), &[node.content.root]), [], "it may only be slow");
    node.fetcher.on_piece(at(3_100), second[0].0, Ok(()));
    node.fetcher.on_piece(at(3_200), first[0].0, Err(PieceFailure::Lost));
    node.advance(at(3_200));
    let have: Vec<u32> =
        node.fetcher.wants().flat_map(|want| want.have().iter()).map(|piece| piece.0).collect();
    assert_eq!(have, [0]);
}

// Small critical ones never wait behind a large one.
#[test]
fn urgent_and_small_contents_come_first() {
    let mut node = Node::new();
    let content = |name: &[u8], size| Content { root: Blake3Root::of(name), sha256: Sha256::of(name), size };
    let (critical, small) = (content(b"critical", 9 << 20), content(b"small", 1_000));
    node.fetcher.want(small, manifest(), Urgency::Normal.into(), PieceSet::new());
    node.fetcher.want(critical, manifest(), Urgency::Critical.into(), PieceSet::new());
    let actions = node.advance(at(0));
    let asked = lease_request(&actions).expect("asked").lines.iter().map(|line| line.root);
    assert_eq!(asked.collect::<Vec<_>>(), [critical.root, small.root, node.content.root]);
}

// proves M4: what is due goes before what is not, but for small critical ones, which never wait behind a large one
#[test]
fn what_is_due_comes_before_what_is_not() {
    let mut node = Node::new();
    let content = |name: &[u8], size| Content { root: Blake3Root::of(name), sha256: Sha256::of(name), size };
    let (large, critical) = (content(b"large", 4 << 30), content(b"critical", 1_000));
    let (evidence, critical_too) = (content(b"evidence", 50 << 20), content(b"critical too", 3 << 30));
    let due = |urgency| Priority { due: Due::Now, urgency };
    node.fetcher.want(evidence, manifest(), Urgency::Evidence.into(), PieceSet::new());
    node.fetcher.want(critical, manifest(), Urgency::Critical.into(), PieceSet::new());
    node.fetcher.want(critical_too, manifest(), Urgency::Critical.into(), PieceSet::new());
    node.fetcher.want(large, manifest(), Urgency::Normal.into(), PieceSet::new());
    let roots = |actions: &[Action]| {
        let request = lease_request(actions).expect("asked");
        request.lines.iter().map(|line| line.root).collect::<Vec<_>>()
    };
    let before = roots(&node.advance(at(0)));
    let own = node.content.root;
    assert_eq!(before, [evidence.root, critical.root, critical_too.root, own, large.root]);
    let effect = node.asking(SEED);
    node.fetcher.on_lease(at(1), SEED, effect, Some(Ok(LeaseAnswer::default())));
    node.advance(at(1));
    // Nothing else happens than that it becomes due.
    node.fetcher.want(large, manifest(), due(Urgency::Normal), PieceSet::new());
    assert!(node.fetcher.changed);
    let after = roots(&node.advance(at(60)));
    assert_eq!(after, [evidence.root, critical.root, large.root, critical_too.root, own]);
    node.fetcher.want(critical_too, manifest(), due(Urgency::Critical), PieceSet::new());
    node.fetcher.want(node.content, manifest(), due(Urgency::Normal), PieceSet::new());
    let order: Vec<Blake3Root> = node.fetcher.order.iter().map(|(_, _, root)| *root).collect();
    assert_eq!(order, [evidence.root, critical.root, own, critical_too.root, large.root]);
}

// proves X3: who is on a cable is asked before who is in the air, which all share
#[test]
fn a_cable_is_preferred_to_the_air_until_it_is_busy() {
    let mut node = Node::new();
    for neighbour in [ANNA, BEN] {
        node.fetcher.add_neighbour(neighbour);
        node.holds(neighbour, &[0, 1, 2, 3]);
    }
    node.fetcher.on_medium(ANNA, Medium::Air);
    node.advance(at(0));
    for neighbour in [ANNA, BEN] {
        node.grant(at(1), neighbour, &[0, 1, 2, 3]);
    }
    let asked = fetched(&node.advance(at(1)));
    let mut from: Vec<DeviceId> = asked.iter().map(|(_, from, _)| *from).collect();
    from.sort_unstable();
    assert_eq!(from, [ANNA, BEN, BEN, BEN]);
}

// proves X3: in hours that close the WAN neighbours still give what they have, and no seed is asked
#[test]
fn what_is_held_over_the_wan_comes_from_neighbours_alone() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    node.holds(ANNA, &[1]);
    node.fetcher.hold_over_wan([node.content.root].into());
    assert_eq!(lease_request(&node.advance(at(0))), None);
    node.grant(at(1), ANNA, &[1]);
    assert_eq!(fetched(&node.advance(at(1))).len(), 1);
    node.fetcher.hold_over_wan(BTreeSet::new());
    let asked = node.advance(at(2));
    assert_eq!(
        lease_request(&asked).map(|request| request.lines[0].wanted.clone()),
        Some(pieces(&[0, 2, 3]))
    );
    // Leases that were given before are not used while it is held.
    node.fetcher.hold_over_wan([node.content.root].into());
    node.lease(at(3), &[0], &[]);
    assert!(fetched(&node.advance(at(3))).is_empty());
}

#[test]
fn news_of_what_is_on_its_way_change_nothing_about_what_to_ask_for() {
    let mut node = Node::new();
    node.fetcher.add_neighbour(ANNA);
    node.fetcher.add_neighbour(BEN);
    node.holds(ANNA, &[0]);
    node.advance(at(0));
    node.grant(at(1), ANNA, &[0]);
    assert_eq!(fetched(&node.advance(at(1))).len(), 1);
    node.says(at(2), BEN, &[0]);
    assert!(!node.fetcher.changed, "no open piece is offered, whoever might be asked for a grant");
    node.fetcher.changed = true;
    assert_eq!(node.advance(at(2)), []);
    node.says(at(3), BEN, &[0, 1]);
    let asked = node.advance(at(3));
    assert!(matches!(asked[..], [Action::AskGrant(_, BEN, _)]), "{asked:?}");
}
