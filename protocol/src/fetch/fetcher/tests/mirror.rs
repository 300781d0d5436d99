//! A device whose site reaches no seed: when it reads at a mirror, which pieces, and what it leaves to others.

use super::*;
use crate::policy::mirror::Mirror;

const MINUTE: u64 = 60_000;

fn mirrors() -> Vec<Mirror> {
    vec!["debian=http://mirror.example".parse().expect("a mirror")]
}

/// A device says that it reads the content.
fn says_it_reads(node: &mut Node, now: Moment, device: DeviceId) {
    let [a, b, c, d, ..] = *node.content.root.as_bytes();
    node.fetcher.on_reads(now, device, [u32::from_le_bytes([a, b, c, d])].into());
}

/// A device of a site of so many whose seed went away when it had the piece list, with a mirror that policy names.
fn without_seed(number: u8, others: usize) -> Node {
    let mut node = Node::new();
    node.fetcher.me = DeviceId::from_bytes([number; 32]);
    node.fetcher.heard_of_site(at(0), others);
    node.fetcher.add_neighbour(ANNA);
    node.advance(at(0));
    node.lease(at(40), &[], &[]);
    node.fetcher.set_mirrors([node.content.root].into(), &mirrors(), 2);
    node.fetcher.remove(SEED);
    node.advance(at(50));
    node
}

fn read(actions: &[Action]) -> Vec<(EffectId, u32)> {
    let piece = |action: &Action| match action {
        Action::ReadMirror(read) => Some((read.effect, read.piece.0)),
        _ => None,
    };
    actions.iter().filter_map(piece).collect()
}

/// When a device first reads.
fn begins(node: &mut Node) -> u64 {
    let mut moment = 0;
    loop {
        moment += 100;
        if !read(&node.advance(at(moment))).is_empty() {
            return moment;
        }
        assert!(moment < 20 * MINUTE, "it never reads");
    }
}

// proves X1: a seed that only starts again is waited for, and nothing is read that policy names no mirror for
#[test]
fn a_mirror_is_read_only_where_policy_names_one_and_no_seed_came_back() {
    let mut node = without_seed(3, 1);
    assert!((MINUTE..MINUTE + 5_200).contains(&begins(&mut node)));
    let mut back = without_seed(3, 1);
    back.fetcher.add_seed(SEED);
    let mut none = without_seed(3, 1);
    none.fetcher.set_mirrors(BTreeSet::new(), &[], 2);
    let mut held = without_seed(3, 1);
    held.fetcher.hold_over_wan([held.content.root].into());
    for node in [&mut back, &mut none, &mut held] {
        assert_eq!(read(&node.advance(at(20 * MINUTE))), []);
    }
}

// proves X1: without knowing each other the devices of a large site begin one after the other
#[test]
fn the_larger_the_site_the_further_apart_its_devices_begin() {
    let mut all: Vec<u64> = (10..40).map(|number| begins(&mut without_seed(number, 99))).collect();
    all.sort_unstable();
    assert!(all.iter().all(|moment| (MINUTE..MINUTE + 201_100).contains(moment)), "{all:?}");
    let apart = all.windows(2).filter(|pair| pair[1] - pair[0] >= 1_000).count();
    assert!(apart > 20, "{all:?}");
}

// proves X1: each piece has one reader, whatever the order in which the readers look
#[test]
fn readers_that_know_of_each_other_read_distinct_pieces() {
    let readers = [11, 12];
    let mut nodes: Vec<Node> = readers.iter().map(|number| without_seed(*number, 2)).collect();
    let mut pieces = Vec::new();
    for node in &mut nodes {
        for other in readers.iter().map(|number| DeviceId::from_bytes([*number; 32])) {
            if other != node.fetcher.me {
                says_it_reads(node, at(MINUTE), other);
            }
        }
        // The first of them took a second.
        node.says(at(MINUTE + 1_000), ANNA, &[0]);
        node.advance(at(MINUTE + 8_000));
        let mut moment = MINUTE + 9_100;
        loop {
            let started = read(&node.advance(at(moment)));
            if started.is_empty() {
                break;
            }
            for (effect, piece) in started {
                node.fetcher.on_piece(at(moment), effect, Ok(()));
                pieces.push(piece);
            }
            moment += 10;
        }
    }
    pieces.sort_unstable();
    assert_eq!(pieces, [1, 2, 3]);
}

// proves X1: k own distinct pieces, the next in rank waits
#[test]
fn whoever_hears_of_enough_readers_before_it_reads_nothing() {
    let mut node = without_seed(3, 1);
    let weight = |fetcher: &Fetcher, device| rendezvous::weight(fetcher.site.as_str().as_bytes(), device);
    let mine = weight(&node.fetcher, node.fetcher.me);
    let all = (20..=255).map(|number| DeviceId::from_bytes([number; 32]));
    let (before, after): (Vec<_>, Vec<_>) = all.partition(|device| weight(&node.fetcher, *device) > mine);
    for device in [before[0], after[0], after[1]] {
        says_it_reads(&mut node, at(MINUTE - 1_000), device);
    }
    assert_eq!(read(&node.advance(at(MINUTE + 6_000))), [], "nothing has come from the first yet");
    node.says(at(MINUTE), ANNA, &[0]);
    node.advance(at(MINUTE + 7_000));
    assert!(!read(&node.advance(at(MINUTE + 8_100))).is_empty(), "one before it and two behind");
    let mut waits = without_seed(3, 1);
    for device in &before[..2] {
        says_it_reads(&mut waits, at(MINUTE - 1_000), *device);
    }
    waits.says(at(MINUTE), ANNA, &[0]);
    for moment in [4_500, 6_000, 33_000] {
        assert_eq!(read(&waits.advance(at(MINUTE + moment))), []);
    }
    waits.advance(at(MINUTE + 40_000));
    assert!(!read(&waits.advance(at(MINUTE + 41_100))).is_empty(), "they fell silent");
}

/// Reads 40 pieces of a second each beside so many devices that say that they read and bring nothing; returns the seconds that it took.
fn reads_beside(liars: u8) -> u64 {
    let mut node = without_seed(3, 1);
    let mut builder = TreeBuilder::default();
    let bytes = vec![5; 40 << 20];
    builder.update(&bytes);
    node.tree = Arc::new(builder.finish());
    node.content = Content { root: node.tree.root(), sha256: Sha256::of(&bytes), size: node.tree.size() };
    node.fetcher.want(node.content, manifest(), Urgency::Normal.into(), PieceSet::new());
    node.fetcher.set_mirrors([node.content.root].into(), &mirrors(), 2);
    node.grant(at(100), ANNA, &[]);
    let mine = node.fetcher.reading_weight(node.fetcher.me);
    let all = (20..=255).map(|number| DeviceId::from_bytes([number; 32]));
    let before = all.filter(|device| node.fetcher.reading_weight(*device) > mine);
    let liars: Vec<DeviceId> = before.take(liars.into()).collect();
    let mut flying = Vec::new();
    for second in 0..3_600 {
        let now = at(MINUTE / 2 + second * 1_000);
        if second % 10 == 0 {
            liars.iter().for_each(|device| says_it_reads(&mut node, now, *device));
        }
        if let Some(effect) = flying.pop() {
            node.fetcher.on_piece(now, effect, Ok(()));
        }
        flying.splice(0..0, read(&node.advance(now)).into_iter().map(|(effect, _)| effect));
        let want = node.fetcher.wants().find(|want| want.content.root == node.content.root);
        if want.is_none_or(|want| want.have().len() == 40) {
            return second;
        }
    }
    panic!("not within an hour");
}

// proves X1: never a stall, whatever the others say, and no crawling either
#[test]
fn readers_that_bring_nothing_hold_the_others_up_for_minutes_and_not_for_every_piece() {
    assert!(reads_beside(0) < 90, "{}", reads_beside(0));
    assert!(reads_beside(1) < 200, "{}", reads_beside(1));
    assert!(reads_beside(2) < 260, "{}", reads_beside(2));
    assert!(reads_beside(60) < 600, "{}", reads_beside(60));
}

// proves X1: what a mirror does not give holds up nothing else
#[test]
fn a_content_that_does_not_come_leaves_the_mirror_to_the_others() {
    let mut node = without_seed(3, 1);
    let small = Content { root: Blake3Root::of(b"small"), sha256: Sha256::of(b"small"), size: 5 };
    let mut critical: Priority = Urgency::Critical.into();
    std::mem::swap(
        &mut node.fetcher.wants.get_mut(&node.content.root).expect("wanted").priority,
        &mut critical,
    );
    node.fetcher.order = node.fetcher.wants.values().map(Want::place_in_order).collect();
    node.fetcher.want(small, manifest(), Urgency::Normal.into(), PieceSet::new());
    node.fetcher.set_mirrors([node.content.root, small.root].into(), &mirrors(), 2);
    for tenth in 0..3_000 {
        let now = at(MINUTE + tenth * 100);
        for action in node.advance(now) {
            let Action::ReadMirror(read) = action else { continue };
            if read.tree.root() == small.root {
                return;
            }
            node.fetcher.on_piece(now, read.effect, Err(PieceFailure::Lost));
        }
    }
    panic!("the small one is never read");
}

// proves X4
#[test]
fn what_a_mirror_brings_has_a_reason_and_counts_as_wan() {
    let mut node = without_seed(3, 1);
    let moment = begins(&mut node);
    let flights: Vec<(EffectId, Reason)> =
        node.fetcher.flights.iter().map(|(effect, flight)| (*effect, flight.reason)).collect();
    assert!(matches!(flights[..], [(_, Reason::Mirror)]), "{flights:?}");
    node.fetcher.on_piece(at(moment), flights[0].0, Ok(()));
    let transfer = node.fetcher.transfers().next().expect("of the content");
    assert_eq!(transfer.bytes[&(Origin::Mirror, Reason::Mirror)], 1 << 20);
}

#[test]
fn a_mirror_with_other_bytes_is_left_alone_and_no_member_is_blamed() {
    let mut node = without_seed(3, 1);
    let moment = begins(&mut node);
    let effects: Vec<EffectId> = node.fetcher.flights.keys().copied().collect();
    node.fetcher.on_piece(at(moment), effects[0], Err(PieceFailure::Corrupt));
    let actions = node.advance(at(moment + 1_000));
    let corrupt = |action: &Action| matches!(action, Action::Corrupt(None, _, _));
    assert!(actions.iter().any(corrupt) && read(&actions).is_empty(), "{actions:?}");
    assert_eq!(read(&node.advance(at(moment + 5 * MINUTE))), []);
    assert_eq!(read(&node.advance(at(moment + 11 * MINUTE))), [], "it says so first, as at the beginning");
    assert!(!read(&node.advance(at(moment + 11 * MINUTE + 1_100))).is_empty(), "it may be mended by now");
}

// proves X1: on a thin line one reader is enough
#[test]
fn the_thinner_the_line_the_fewer_read() {
    let reads_after = |seconds: u64| {
        let mut node = without_seed(3, 1);
        let mine = node.fetcher.reading_weight(node.fetcher.me);
        let mut all = (20..=255).map(|number| DeviceId::from_bytes([number; 32]));
        let before = all.find(|device| node.fetcher.reading_weight(*device) > mine).expect("one of 236");
        says_it_reads(&mut node, at(MINUTE), before);
        node.says(at(MINUTE + seconds * 1_000), ANNA, &[0]);
        (0..30).any(|second| {
            let now = at(MINUTE + (seconds + second) * 1_000);
            says_it_reads(&mut node, now, before);
            !read(&node.advance(now)).is_empty()
        })
    };
    // A piece at 10 and at 1 Mbit/s.
    assert_eq!((reads_after(1), reads_after(8)), (true, false));
}

// proves X1: a seed that somebody of the site reaches serves all of it
#[test]
fn nobody_reads_where_another_reaches_a_seed_and_nobody_can_say_so_for_ever() {
    let mut node = without_seed(3, 1);
    node.advance(at(MINUTE + 4_500));
    assert!(node.fetcher.on_reached(at(MINUTE + 4_700)));
    assert_eq!(read(&node.advance(at(MINUTE + 6_000))), []);
    let (mut believed, mut came) = (0, 0);
    for second in 66..600 {
        let now = at(second * 1_000);
        for (effect, _) in read(&node.advance(now)) {
            node.fetcher.on_piece(now, effect, Ok(()));
            came += 1;
        }
        believed += u64::from(second % 5 == 0 && node.fetcher.on_reached(now));
        if came == 4 {
            assert!((420..460).contains(&second) && believed > 40, "{second} s, {believed} times");
            return;
        }
    }
    panic!("it never reads");
}

#[test]
fn a_reader_says_so_and_what_neighbours_hold_is_not_read() {
    let mut node = without_seed(3, 1);
    node.says(at(100), ANNA, &[0, 1, 2]);
    node.grant(at(100), ANNA, &[]);
    let mut said = Vec::new();
    for second in 0..30 {
        let actions = node.advance(at(MINUTE + 4_500 + second * 1_000));
        assert!(read(&actions).iter().all(|(_, piece)| *piece == 3), "{actions:?}");
        said.extend(actions.contains(&Action::SayReads).then_some(second));
    }
    assert_eq!(said, [0, 10, 20]);
}
