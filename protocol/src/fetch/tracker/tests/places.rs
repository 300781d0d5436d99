//! Who gets a place on the link of a site where all are taken, and devices that are on their own.

use super::*;

/// Twice a second, so that no lease ends.
fn tick(number: u64) -> Moment {
    at(number * 500)
}

/// Whether the asker gets any leases.
fn gets(tracker: &mut Tracker, number: u8, wants: &Wants, now: Moment) -> bool {
    !leased(&lease(tracker, number, wants, &terms(4, true), now)).is_empty()
}

/// Devices 1 to 4 each get a piece of a large content and ask for another; how many leases each has then.
fn goes_on(tracker: &mut Tracker, large: &Wants, now: Moment) -> Vec<usize> {
    let two = Terms { room_bytes: 2 * limits::PIECE_BYTES, ..terms(4, true) };
    let go_on = |number: u8| {
        let member = device(number);
        let piece = tracker.leased_to(&member.site, member.device, large.root).iter().next();
        if let Some(piece) = piece {
            tracker.active(&member.site, member.device, 1 << 16, now);
            tracker.served(&member.site, member.device, large.root, piece, now);
        }
        lease(tracker, number, large, &two, now).leased.len()
    };
    (1..=4).map(go_on).collect()
}

// proves X3: a small content that others do not want waits behind no large one
#[test]
fn who_wants_what_nobody_fetches_gets_a_place_of_four_that_fetch_the_same() {
    let mut tracker = site_of(&[1, 2, 3, 4, 5]);
    let (large, small) = (wants_of(b"large", 4_000, &[]), wants_of(b"small", 1, &[]));
    let got: Vec<bool> = (0..6)
        .map(|number| {
            goes_on(&mut tracker, &large, tick(number));
            number >= 3 && gets(&mut tracker, 5, &small, tick(number))
        })
        .collect();
    assert_eq!(got, [false, false, false, false, false, true], "what others fetch too may be on its way");
    // One of the four ends with what it has, and goes on when the small content is there.
    let member = device(5);
    let ends = |number| {
        tracker.active(&member.site, member.device, 1 << 16, tick(number));
        goes_on(&mut tracker, &large, tick(number))
    };
    let leases: Vec<Vec<usize>> = (6..9).map(ends).collect();
    let mut last = leases[2].clone();
    last.sort_unstable();
    assert_eq!(last, [0, 2, 2, 2], "{leases:?}");
    tracker.served(&member.site, member.device, small.root, PieceIndex(0), tick(9));
    assert_eq!(goes_on(&mut tracker, &large, tick(9)), [2; 4]);
}

#[test]
fn the_same_content_is_no_reason_to_give_up_a_place() {
    let mut tracker = site_of(&[1, 2, 3, 4, 5]);
    let large = wants_of(b"large", 4_000, &[]);
    for number in 0..60 {
        goes_on(&mut tracker, &large, tick(number));
        assert!(!gets(&mut tracker, 5, &large, tick(number)));
    }
}

#[test]
fn of_contents_that_nobody_shares_what_is_due_or_more_urgent_and_then_the_smaller_goes_first() {
    let thin = Terms { bytes_per_second: 100_000, ..terms(1, true) };
    let first_beside = |fetched: Priority, priority: Priority, pieces: u32| {
        let mut tracker = site_of(&[1, 2]);
        let large = Wants { priority: fetched, ..wants_of(b"large", 4_000, &[]) };
        let other = Wants { priority, ..wants_of(b"other", pieces, &[]) };
        (0..20).find(|number| {
            lease(&mut tracker, 1, &large, &thin, tick(*number));
            tracker.active(&device(1).site, device(1).device, 1 << 16, tick(*number));
            !leased(&lease(&mut tracker, 2, &other, &thin, tick(*number))).is_empty()
        })
    };
    let first_after = |urgency: Urgency, pieces| first_beside(Urgency::Normal.into(), urgency.into(), pieces);
    assert_eq!(first_after(Urgency::Critical, 8_000), Some(2));
    assert_eq!(first_after(Urgency::Normal, 1), Some(2));
    assert_eq!(first_after(Urgency::Normal, 8_000), None, "its turn comes when the other is through");
    let due = |urgency| Priority { due: Due::Now, urgency };
    let critical = Priority::from(Urgency::Critical);
    assert_eq!(first_beside(critical, due(Urgency::Normal), 8_000), Some(2), "a large one that is due");
    assert_eq!(
        first_beside(due(Urgency::Normal), critical, 100),
        None,
        "a critical one that is not, behind it"
    );
    assert_eq!(first_beside(due(Urgency::Normal), critical, 1), Some(2), "a small critical one never waits");
    assert_eq!(first_beside(due(Urgency::Normal), due(Urgency::Critical), 1), Some(2), "both are due");
}

// proves X1: whoever is on its own neither counts on others nor is counted on
#[test]
fn a_device_on_its_own_gets_everything_and_takes_nothing_from_the_others() {
    let mut tracker = site_of(&[1, 2, 3]);
    let alone = lease(&mut tracker, 3, &wants(3, &[]), &terms(4, false), at(0));
    assert_eq!(leased(&alone), [0, 1, 2]);
    let first = lease(&mut tracker, 1, &wants(3, &[]), &terms(4, true), at(1));
    assert_eq!((leased(&first), first.holders), (vec![0, 1, 2], vec![]));
}

fn alone() -> Terms<'static> {
    Terms { exchange: Exchange::Cut, bytes_per_second: 125_000, ..terms(4, true) }
}

// proves X1: a laptop at home that asked first, on its own thin line, keeps no office waiting
#[test]
fn a_slow_device_on_its_own_takes_no_place_of_its_site() {
    let mut tracker = site_of(&[1, 2, 3]);
    let large = wants_of(b"large", 4_000, &[]);
    assert!(
        !leased(&lease(&mut tracker, 3, &large, &terms(4, true), tick(0))).is_empty(),
        "it counts as of the office still"
    );
    for number in 1..8 {
        lease(&mut tracker, 3, &large, &alone(), tick(number));
        tracker.active(&device(3).site, device(3).device, 1 << 16, tick(number));
        let office = lease(&mut tracker, 1, &large, &terms(4, true), tick(number));
        assert_eq!((leased(&office), office.holders), (vec![0, 1, 2, 3], vec![]), "{number}");
        tracker.active(&device(1).site, device(1).device, 1 << 16, tick(number));
    }
}

// proves X1
#[test]
fn what_a_device_got_on_its_own_is_its_sites_when_it_is_back() {
    let mut tracker = site_of(&[1, 3]);
    let member = device(3);
    lease(&mut tracker, 3, &wants(4, &[]), &alone(), at(0));
    tracker.served(&member.site, member.device, wants(4, &[]).root, PieceIndex(0), at(100));
    tracker.announce(&member, Vec::new(), Exchange::Open, 0, at(200));
    let other = lease(&mut tracker, 1, &wants(4, &[]), &terms(4, true), at(300));
    assert_eq!(
        (leased(&other), other.holders),
        (vec![], vec![member.device]),
        "a piece is there, three are coming"
    );
    // Alone again, it leaves them to the others.
    tracker.announce(&member, Vec::new(), Exchange::Cut, 0, at(400));
    let other = lease(&mut tracker, 1, &wants(4, &[]), &terms(4, true), at(500));
    assert_eq!(leased(&other), [0, 1, 2, 3]);
}

// proves X1: never a stall; a list of unreachable members has an end, a site has not
#[test]
fn who_reaches_none_of_as_many_as_it_may_name_is_not_pointed_to_the_next() {
    let members: Vec<u8> = (1..=100).collect();
    let mut tracker = site_of(&members);
    lease(&mut tracker, 1, &wants(1, &[]), &terms(4, true), at(0));
    for &number in &members[..80] {
        let member = device(number);
        tracker.served(&member.site, member.device, wants(1, &[]).root, PieceIndex(0), at(0));
    }
    let most = limits::MEMBERS_PER_ANSWER;
    let fewer = lease(&mut tracker, 90, &wants(1, &members[..most - 1]), &terms(4, true), at(7_000));
    assert_eq!((fewer.leased, fewer.holders.len()), (vec![], 81 - most));
    let all = lease(&mut tracker, 90, &wants(1, &members[..most]), &terms(4, true), at(7_000));
    assert_eq!(all.leased, [(PieceIndex(0), Reason::Takeover)]);
}
