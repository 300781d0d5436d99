//! The tracker: what each piece of a site is leased to, and what ends a lease.

mod places;

use super::*;
use crate::fetch::{Due, Urgency};
use crate::policy::tests::member;

fn device(number: u8) -> Member {
    Member { device: DeviceId::from_bytes([number; 32]), ..member("utrecht") }
}

fn at(milliseconds: u64) -> Moment {
    Moment::from_micros(milliseconds * 1_000)
}

/// Asks for all `pieces` of a content named `name`.
struct Wants {
    root: Blake3Root,
    size: u64,
    wanted: PieceSet,
    unreachable: Vec<DeviceId>,
    priority: Priority,
}

fn wants(pieces: u32, unreachable: &[u8]) -> Wants {
    wants_of(b"x", pieces, unreachable)
}

fn wants_of(name: &[u8], pieces: u32, unreachable: &[u8]) -> Wants {
    Wants {
        root: Blake3Root::of(name),
        size: u64::from(pieces) * limits::PIECE_BYTES,
        wanted: PieceSet::full(pieces),
        unreachable: unreachable.iter().map(|&number| device(number).device).collect(),
        priority: Urgency::Normal.into(),
    }
}

fn terms(fetchers: u8, shares: bool) -> Terms<'static> {
    Terms {
        unreachable: &[],
        room_bytes: 4 * limits::PIECE_BYTES,
        round_trip: None,
        bytes_per_second: 12_500_000,
        fetchers,
        exchange: if shares { Exchange::Open } else { Exchange::Forbidden },
    }
}

fn lease(tracker: &mut Tracker, number: u8, wants: &Wants, terms: &Terms<'_>, now: Moment) -> Line {
    let asks = [Ask { root: wants.root, size: wants.size, wanted: &wants.wanted, priority: wants.priority }];
    let terms = Terms { unreachable: &wants.unreachable, ..terms.clone() };
    let mut decision = tracker.lease(&device(number), &asks, &terms, now);
    decision.lines.remove(0)
}

fn site_of(members: &[u8]) -> Tracker {
    let mut tracker = Tracker::default();
    for &number in members {
        tracker.announce(&device(number), Vec::new(), Exchange::Open, 64, at(0));
    }
    tracker
}

fn leased(line: &Line) -> Vec<u32> {
    line.leased.iter().map(|(piece, _)| piece.0).collect()
}

// proves X1
#[test]
fn each_piece_is_leased_once() {
    let mut tracker = site_of(&[1, 2, 3]);
    let first = lease(&mut tracker, 1, &wants(6, &[]), &terms(4, true), at(1));
    let second = lease(&mut tracker, 2, &wants(6, &[]), &terms(4, true), at(1));
    let third = lease(&mut tracker, 3, &wants(6, &[]), &terms(4, true), at(1));
    assert_eq!((leased(&first), leased(&second), leased(&third)), (vec![0, 1, 2, 3], vec![4, 5], vec![]));
    let told: Vec<DeviceId> = third.holders.clone();
    assert_eq!(told, [device(1).device, device(2).device]);
}

#[test]
fn a_silent_or_vanished_holder_is_taken_over() {
    let mut tracker = site_of(&[1, 2]);
    lease(&mut tracker, 1, &wants(2, &[]), &terms(4, true), at(0));
    assert_eq!(leased(&lease(&mut tracker, 2, &wants(2, &[]), &terms(4, true), at(900))), Vec::<u32>::new());
    tracker.active(&device(1).site, device(1).device, 65_536, at(950));
    assert_eq!(
        leased(&lease(&mut tracker, 2, &wants(2, &[]), &terms(4, true), at(1_900))),
        Vec::<u32>::new()
    );
    assert_eq!(leased(&lease(&mut tracker, 2, &wants(2, &[]), &terms(4, true), at(2_000))), [0, 1]);

    let mut tracker = site_of(&[1, 2]);
    lease(&mut tracker, 1, &wants(1, &[]), &terms(4, true), at(0));
    tracker.served(&device(1).site, device(1).device, Blake3Root::of(b"x"), PieceIndex(0), at(1));
    assert_eq!(leased(&lease(&mut tracker, 2, &wants(1, &[]), &terms(4, true), at(2))), Vec::<u32>::new());
    tracker.disconnected(&device(1).site, device(1).device);
    tracker.announce(&device(3), Vec::new(), Exchange::Open, 64, at(2));
    // Whoever came just now may still meet somebody who has it.
    assert!(leased(&lease(&mut tracker, 2, &wants(1, &[]), &terms(4, true), at(1_400))).is_empty());
    let taken = lease(&mut tracker, 2, &wants(1, &[]), &terms(4, true), at(1_500));
    assert_eq!(taken.leased, [(PieceIndex(0), Reason::Takeover)]);
}

// proves X1
#[test]
fn a_holder_that_neighbours_cannot_reach_is_passed_over_and_a_busy_fetcher_is_not() {
    let mut tracker = site_of(&[1, 2]);
    let site = device(1).site;
    lease(&mut tracker, 1, &wants(2, &[]), &terms(4, true), at(0));
    let ask =
        |tracker: &mut Tracker, now| leased(&lease(tracker, 2, &wants(2, &[1]), &terms(4, true), at(now)));
    for step in 1..20 {
        // The first one has no connection to the second and fetches all the time, slowly.
        tracker.active(&site, device(1).device, 65_536, at(step * 500));
        assert!(ask(&mut tracker, step * 500).is_empty());
    }
    tracker.served(&site, device(1).device, Blake3Root::of(b"x"), PieceIndex(0), at(10_000));
    tracker.active(&site, device(1).device, 65_536, at(10_800));
    assert!(ask(&mut tracker, 11_000).is_empty(), "what came just now has not reached everybody");
    tracker.served(&site, device(1).device, Blake3Root::of(b"x"), PieceIndex(1), at(11_000));
    assert_eq!(ask(&mut tracker, 16_100), [0]);
    assert_eq!(ask(&mut tracker, 17_100), [0, 1]);
}

#[test]
fn no_more_fetchers_than_policy_allows() {
    let mut tracker = site_of(&[1, 2, 3]);
    lease(&mut tracker, 1, &wants(12, &[]), &terms(2, true), at(0));
    lease(&mut tracker, 2, &wants(12, &[]), &terms(2, true), at(0));
    assert_eq!(leased(&lease(&mut tracker, 3, &wants(12, &[]), &terms(2, true), at(0))), Vec::<u32>::new());
    assert_eq!(leased(&lease(&mut tracker, 1, &wants(12, &[]), &terms(2, true), at(0))).len(), 4);
}

#[test]
fn leases_are_bounded_over_all_contents_together() {
    let mut tracker = site_of(&[1, 2]);
    let other = wants_of(b"y", 3, &[]);
    assert_eq!(leased(&lease(&mut tracker, 1, &wants(3, &[]), &terms(4, true), at(0))), [0, 1, 2]);
    assert_eq!(leased(&lease(&mut tracker, 1, &other, &terms(4, true), at(0))), [0]);
    assert_eq!(leased(&lease(&mut tracker, 2, &other, &terms(4, true), at(0))), [1, 2]);
    // Whoever lost its memory of a lease gets it again.
    assert_eq!(leased(&lease(&mut tracker, 1, &wants(3, &[]), &terms(4, true), at(1))), [0, 1, 2]);
}

#[test]
fn one_of_a_site_fetches_the_metadata() {
    let mut tracker = site_of(&[1, 2]);
    let newest = Versions { timestamp: 2, ..Versions::default() };
    assert!(tracker.metadata_turn(&device(1), newest, at(0)));
    assert!(!tracker.metadata_turn(&device(2), newest, at(1)));
    assert!(tracker.metadata_turn(&device(2), newest, at(6_000)));
    assert!(tracker.metadata_turn(&device(1), Versions { timestamp: 3, ..newest }, at(6_001)));
}

#[test]
fn a_device_that_hoards_leases_gets_out_of_the_way() {
    let mut tracker = site_of(&[1, 2]);
    let mut taken = 0;
    for second in 0..20 {
        // The first one asks all the time, announces itself, and fetches nothing.
        tracker.announce(&device(1), Vec::new(), Exchange::Open, 64, at(second * 1_000));
        lease(&mut tracker, 1, &wants(4, &[]), &terms(1, true), at(second * 1_000));
        let now = at(second * 1_000 + 500);
        for (piece, _) in lease(&mut tracker, 2, &wants(4, &[]), &terms(1, true), now).leased {
            tracker.served(&device(2).site, device(2).device, Blake3Root::of(b"x"), piece, now);
            taken += 1;
        }
        if taken >= 4 {
            break;
        }
    }
    assert_eq!(taken, 4);
}

// proves N7
#[test]
fn a_device_that_does_not_share_is_on_its_own() {
    let mut tracker = site_of(&[1, 2]);
    assert!(
        tracker.announce(&device(3), vec!["/sim/3".to_owned()], Exchange::Forbidden, 64, at(0)).is_empty()
    );
    let others = tracker.announce(&device(1), Vec::new(), Exchange::Open, 64, at(0));
    assert_eq!(others.iter().map(|member| member.device).collect::<Vec<_>>(), [device(2).device]);
    assert!(
        tracker.announce(&device(1), Vec::new(), Exchange::Open, 0, at(0)).is_empty(),
        "it wants to hear of nobody"
    );
    assert_eq!(leased(&lease(&mut tracker, 1, &wants(2, &[]), &terms(4, true), at(0))), [0, 1]);
    let alone = lease(&mut tracker, 3, &wants(2, &[]), &terms(4, false), at(1));
    assert_eq!((leased(&alone), alone.holders.len()), (vec![0, 1], 0));
    let site = device(1).site;
    for number in [1, 3] {
        assert_eq!(tracker.leased_to(&site, device(number).device, Blake3Root::of(b"x")).len(), 2);
    }
    tracker.served(&site, device(3).device, Blake3Root::of(b"x"), PieceIndex(0), at(2));
    tracker.disconnected(&site, device(1).device);
    let second = lease(&mut tracker, 2, &wants(2, &[]), &terms(4, true), at(3));
    assert_eq!(leased(&second), [0, 1], "what the third one has is of no use to others");
}

// proves X3
#[test]
fn a_thin_link_has_one_fetcher_and_a_wide_one_as_many_as_policy_allows() {
    let fetching = |bytes_per_second| {
        let mut tracker = site_of(&[1, 2, 3, 4]);
        let known = Terms { bytes_per_second, room_bytes: limits::PIECE_BYTES, ..terms(4, true) };
        let unknown = Terms { bytes_per_second: 0, ..known.clone() };
        let terms = |number| if number == 1 { &known } else { &unknown };
        let mut lease = |number| lease(&mut tracker, number, &wants(12, &[]), terms(number), at(0));
        (1..=4).filter(|number| !leased(&lease(*number)).is_empty()).count()
    };
    assert_eq!((fetching(125_000), fetching(2_500_000), fetching(12_500_000)), (1, 2, 4));
}

// proves X3
#[test]
fn fetchers_that_are_done_do_not_add_to_the_link() {
    let mut tracker = site_of(&[1, 2, 3, 4]);
    let thin = Terms { bytes_per_second: 1_000_000, room_bytes: limits::PIECE_BYTES, ..terms(4, true) };
    // One after the other fetches a piece over the same link, which is worth no second fetcher.
    for number in 1..=3_u8 {
        let line = lease(&mut tracker, number, &wants(12, &[]), &thin, at(u64::from(number)));
        assert_eq!(line.leased.len(), 1);
        let (device, piece) = (device(number), line.leased[0].0);
        tracker.served(&device.site, device.device, Blake3Root::of(b"x"), piece, at(u64::from(number)));
    }
    assert_eq!(leased(&lease(&mut tracker, 4, &wants(12, &[]), &thin, at(4))), [3]);
    assert!(leased(&lease(&mut tracker, 1, &wants(12, &[]), &thin, at(5))).is_empty());
}

// proves X1, N7
#[test]
fn a_delivery_after_peer_download_was_switched_on_belongs_to_its_lease() {
    let mut tracker = site_of(&[1, 2]);
    let alone = terms(4, false);
    let serve = |tracker: &mut Tracker, piece, now| {
        tracker.served(&device(1).site, device(1).device, Blake3Root::of(b"x"), PieceIndex(piece), at(now));
    };
    assert_eq!(leased(&lease(&mut tracker, 1, &wants(2, &[]), &alone, at(0))), [0, 1]);
    serve(&mut tracker, 0, 1);
    tracker.disconnected(&device(1).site, device(1).device);
    tracker.announce(&device(1), Vec::new(), Exchange::Open, 64, at(2));
    assert_eq!(leased(&lease(&mut tracker, 1, &wants(2, &[]), &terms(4, true), at(3))), [0, 1]);
    serve(&mut tracker, 1, 4);
    serve(&mut tracker, 0, 5);
    assert!(tracker.leased_to(&device(1).site, device(1).device, Blake3Root::of(b"x")).is_empty());
    let others = lease(&mut tracker, 2, &wants(2, &[]), &terms(4, true), at(2_000));
    assert_eq!(others.holders, [device(1).device]);
    assert!(others.leased.is_empty());
}

/// A site in which device 1 was sent 2 MiB in a second and device 2 a third of one, both say that they are fast beyond
/// measure, and device 3 is new.
fn fast_and_slow() -> (Tracker, Terms<'static>) {
    let boast = Terms { bytes_per_second: u32::MAX, ..terms(2, true) };
    let mut tracker = site_of(&[1, 2, 3]);
    let (before, one) = (wants_of(b"before", 4, &[]), wants_of(b"one", 1, &[]));
    assert_eq!(leased(&lease(&mut tracker, 1, &before, &boast, at(0))), [0, 1, 2, 3]);
    assert_eq!(leased(&lease(&mut tracker, 2, &one, &boast, at(0))), [0]);
    for half_second in 1..=6 {
        let now = at(half_second * 500);
        tracker.active(&device(2).site, device(2).device, limits::PIECE_BYTES / 6, now);
        if let Some(piece) = u32::try_from(half_second).ok().filter(|number| *number <= 4) {
            tracker.active(&device(1).site, device(1).device, limits::PIECE_BYTES, now);
            tracker.served(&device(1).site, device(1).device, before.root, PieceIndex(piece - 1), now);
        }
    }
    tracker.served(&device(2).site, device(2).device, one.root, PieceIndex(0), at(3_000));
    (tracker, boast)
}

// proves X3
#[test]
fn a_slow_fetcher_does_not_hold_up_the_end() {
    let (mut tracker, boast) = fast_and_slow();
    let new = Terms { bytes_per_second: 0, ..boast.clone() };
    // Of the last six, less than one would be the slow one's share.
    let six = wants(6, &[]);
    assert_eq!(leased(&lease(&mut tracker, 1, &six, &boast, at(3_000))), [0, 1, 2, 3]);
    assert!(leased(&lease(&mut tracker, 2, &six, &boast, at(3_000))).is_empty());
    assert_eq!(leased(&lease(&mut tracker, 3, &six, &new, at(3_000))), [4]);
    // When the fast one is gone, whoever is left fetches.
    assert_eq!(leased(&lease(&mut tracker, 2, &six, &boast, at(4_500))), [0, 1, 2, 3]);
}

// proves X3
#[test]
fn a_newcomer_on_a_long_way_gets_no_lease_near_the_end() {
    let next = |milliseconds| {
        let (mut tracker, boast) = fast_and_slow();
        let seen = Terms { round_trip: Some(Duration::from_millis(milliseconds)), ..boast.clone() };
        let new = Terms { bytes_per_second: 0, ..boast };
        let many = wants(30, &[]);
        assert_eq!(leased(&lease(&mut tracker, 1, &many, &seen, at(3_000))), [0, 1, 2, 3]);
        leased(&lease(&mut tracker, 3, &many, &new, at(3_000)))
    };
    // On a short way it is soon as fast as the others; on the long one its first piece would come last of all.
    assert_eq!((next(40), next(600)), (vec![4, 5, 6, 7], vec![]));
}

// proves X3
#[test]
fn while_there_is_much_to_come_a_slow_fetcher_fetches_too() {
    let (mut tracker, boast) = fast_and_slow();
    let many = wants(64, &[]);
    assert_eq!(leased(&lease(&mut tracker, 1, &many, &boast, at(3_000))), [0, 1, 2, 3]);
    assert_eq!(leased(&lease(&mut tracker, 2, &many, &boast, at(3_000))), [4, 5, 6, 7]);
}

// One that says it is fast, and fetches nothing, keeps nobody from fetching.
#[test]
fn what_a_fetcher_says_of_itself_takes_no_leases_from_others() {
    let mut tracker = site_of(&[1, 2]);
    let boast = Terms { bytes_per_second: u32::MAX, ..terms(2, true) };
    let honest = Terms { bytes_per_second: 1_000_000, ..terms(2, true) };
    assert_eq!(leased(&lease(&mut tracker, 1, &wants(6, &[]), &boast, at(0))), [0, 1, 2, 3]);
    assert_eq!(leased(&lease(&mut tracker, 2, &wants(6, &[]), &honest, at(0))), [4, 5]);
}

#[test]
fn while_no_fetcher_told_of_the_link_what_went_over_it_tells() {
    // Bytes in the first three seconds, and whether the link carries two.
    for (bytes, two) in [(300_000, false), (7_500_000, true)] {
        let mut tracker = site_of(&[1, 2, 3]);
        let unknown = Terms { bytes_per_second: 0, room_bytes: limits::PIECE_BYTES, ..terms(4, true) };
        assert_eq!(leased(&lease(&mut tracker, 1, &wants(9, &[]), &unknown, at(0))), [0]);
        assert!(leased(&lease(&mut tracker, 2, &wants(9, &[]), &unknown, at(100))).is_empty());
        tracker.active(&device(1).site, device(1).device, bytes, at(2_900));
        let next = leased(&lease(&mut tracker, 2, &wants(9, &[]), &unknown, at(3_100)));
        assert_eq!(next == [1], two, "{next:?}");
    }
}

// proves X3
#[test]
fn when_the_link_turns_out_to_be_thin_the_first_fetcher_goes_on_alone() {
    let mut tracker = site_of(&[1, 2]);
    let told = |rate| Terms { bytes_per_second: rate, ..terms(4, true) };
    let one = wants_of(b"one", 8, &[]);
    assert_eq!(leased(&lease(&mut tracker, 1, &one, &told(5_000_000), at(0))), [0, 1, 2, 3]);
    assert_eq!(leased(&lease(&mut tracker, 2, &one, &told(5_000_000), at(1))), [4, 5, 6, 7]);
    let (more, site) = (wants(8, &[]), device(1).site);
    for (asker, bytes) in [(1, 100_000), (2, 80_000)] {
        tracker.active(&site, device(asker).device, bytes, at(3_000));
    }
    tracker.served(&site, device(1).device, one.root, PieceIndex(0), at(3_500));
    assert_eq!(leased(&lease(&mut tracker, 1, &more, &told(60_000), at(3_500))), [0]);
    tracker.served(&site, device(2).device, one.root, PieceIndex(4), at(3_500));
    assert!(leased(&lease(&mut tracker, 2, &more, &told(60_000), at(3_500))).is_empty());
}

// A device that was switched off holds nothing that others can get, whatever went to it before.
#[test]
fn what_a_silent_fetcher_got_and_nobody_has_is_fetched_again() {
    let mut tracker = site_of(&[1, 2]);
    lease(&mut tracker, 1, &wants(2, &[]), &terms(4, true), at(0));
    tracker.served(&device(1).site, device(1).device, Blake3Root::of(b"x"), PieceIndex(0), at(500));
    tracker.active(&device(1).site, device(1).device, 65_536, at(550));
    assert!(leased(&lease(&mut tracker, 2, &wants(2, &[]), &terms(4, true), at(600))).is_empty());
    let taken = lease(&mut tracker, 2, &wants(2, &[]), &terms(4, true), at(1_600));
    assert_eq!(taken.leased, [(PieceIndex(0), Reason::Takeover), (PieceIndex(1), Reason::Lease)]);
    // When it wakes up, it is not to go on with what another one fetches now.
    assert_eq!(taken.ended, BTreeSet::from([device(1).device]));
}

// Hundreds that wait for their neighbours ask five times a second at most, all together.
#[test]
fn in_a_large_site_most_ask_seldom() {
    let most = |count: u8| {
        let members: Vec<u8> = (1..=count).collect();
        let mut tracker = site_of(&members);
        let wants = wants(4, &[]);
        let asks =
            [Ask { root: wants.root, size: wants.size, wanted: &wants.wanted, priority: wants.priority }];
        let retries = members.iter().map(|number| {
            let decision = tracker.lease(&device(*number), &asks, &terms(1, true), at(0));
            decision.retry
        });
        retries.max()
    };
    assert_eq!(most(100), Some(Duration::from_secs(30)));
    assert_eq!(most(250), Some(Duration::from_secs(50)));
}

// proves X1: what was leased and not asked for ended when its holder did nothing more, not when somebody came to look.
#[test]
fn a_lease_that_ended_long_ago_is_no_sign_that_its_holder_is_gone_now() {
    let mut tracker = site_of(&[1, 2]);
    lease(&mut tracker, 1, &wants(2, &[]), &terms(4, true), at(0));
    tracker.served(&device(1).site, device(1).device, Blake3Root::of(b"x"), PieceIndex(0), at(500));
    let later = lease(&mut tracker, 2, &wants(2, &[]), &terms(4, true), at(12_000));
    assert_eq!((leased(&later), later.holders), (vec![1], vec![device(1).device]));
}

// proves X1
#[test]
fn what_is_withdrawn_is_leased_to_nobody_and_its_holder_is_not_taken_for_silent() {
    let mut tracker = site_of(&[1, 2]);
    let (site, first) = (device(1).site, device(1).device);
    let (one, other) = (wants_of(b"one", 1, &[]), wants_of(b"other", 1, &[]));
    lease(&mut tracker, 1, &one, &terms(4, true), at(0));
    lease(&mut tracker, 1, &other, &terms(4, true), at(0));
    tracker.served(&site, first, one.root, PieceIndex(0), at(500));
    tracker.withdrawn(&site, first, other.root);
    assert!(tracker.leased_to(&site, first, other.root).is_empty());
    let second = lease(&mut tracker, 2, &one, &terms(4, true), at(2_000));
    assert_eq!((leased(&second), second.holders), (vec![], vec![first]));
}

// A fetcher whose lease ended and that still asks stands still, and is not gone: what it got before is there.
#[test]
fn whoever_asks_after_its_lease_ended_still_holds_what_it_got() {
    let mut tracker = site_of(&[1, 2]);
    lease(&mut tracker, 1, &wants(2, &[]), &terms(4, true), at(0));
    tracker.served(&device(1).site, device(1).device, Blake3Root::of(b"x"), PieceIndex(0), at(500));
    tracker.active(&device(1).site, device(1).device, 65_536, at(520));
    lease(&mut tracker, 1, &wants_of(b"another", 1, &[]), &terms(4, true), at(1_550));
    let second = lease(&mut tracker, 2, &wants(1, &[]), &terms(4, true), at(1_600));
    assert_eq!((leased(&second), second.holders), (vec![], vec![device(1).device]));
}

// proves X1: leases that nobody began to use, since the pieces came from a neighbour or were asked for in vain, say nothing about
// what went to their holder before.
#[test]
fn whoever_finished_what_it_began_is_not_gone_with_the_leases_that_it_left() {
    let mut tracker = site_of(&[1, 2]);
    lease(&mut tracker, 1, &wants(2, &[]), &terms(4, true), at(0));
    tracker.active(&device(1).site, device(1).device, 65_536, at(500));
    tracker.served(&device(1).site, device(1).device, Blake3Root::of(b"x"), PieceIndex(0), at(500));
    let second = lease(&mut tracker, 2, &wants(2, &[]), &terms(4, true), at(1_600));
    assert_eq!((leased(&second), second.holders), (vec![1], vec![device(1).device]));
}

#[test]
fn whoever_asks_for_a_piece_does_not_hold_it_whatever_went_to_it() {
    let mut tracker = site_of(&[1, 2, 3]);
    lease(&mut tracker, 1, &wants(1, &[]), &terms(1, true), at(0));
    tracker.served(&device(1).site, device(1).device, Blake3Root::of(b"x"), PieceIndex(0), at(500));
    lease(&mut tracker, 2, &wants_of(b"another", 1, &[]), &terms(1, true), at(1_600));
    // Its disk took nothing. It may not fetch now, and the next one that may gets the piece.
    assert!(leased(&lease(&mut tracker, 1, &wants(1, &[]), &terms(1, true), at(1_700))).is_empty());
    let second = lease(&mut tracker, 2, &wants(1, &[]), &terms(1, true), at(1_800));
    assert_eq!(second.leased, [(PieceIndex(0), Reason::Takeover)]);
}
