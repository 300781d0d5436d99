//! A seed with streams that ask for their next bytes only when those before have left, under virtual time.

use super::*;
use proptest::prelude::*;

fn name(site: usize) -> SiteName {
    SiteName::new(format!("site-{site:03}")).expect("a plain name")
}

fn device(site: usize, fetcher: usize) -> DeviceId {
    DeviceId::from_bytes(std::array::from_fn(|at| match at {
        0 => u8::try_from(site % 256).expect("a byte"),
        1 => u8::try_from(site / 256).expect("a byte"),
        2 => u8::try_from(fetcher).expect("a byte"),
        _ => 9,
    }))
}

/// What happened: bytes by site, and the longest that a stream waited for one turn.
#[derive(Debug, Default)]
struct Outcome {
    sites: Vec<u64>,
    devices: BTreeMap<DeviceId, u64>,
    longest: Duration,
}

/// Serves `fetchers` (their number by site), each with one stream that asks again `think` after its bytes left.
fn serve(ceilings: Ceilings, fetchers: &[usize], think: Duration, lasting: Duration) -> Outcome {
    let mut turns = Turns::default();
    turns.set_ceilings(ceilings);
    let begin = Moment::START + Duration::from_secs(1);
    let mut now = begin;
    let mut outcome = Outcome { sites: vec![0; fetchers.len()], ..Outcome::default() };
    let mut asks: BTreeMap<(Moment, usize, usize), ()> = BTreeMap::new();
    for (site, count) in fetchers.iter().enumerate() {
        asks.extend((0..*count).map(|fetcher| ((now, site, fetcher), ())));
    }
    let mut waiting: BTreeMap<Ticket, (usize, usize, Moment)> = BTreeMap::new();
    while now < begin + lasting {
        while let Some((due, site, fetcher)) = asks.keys().next().copied().filter(|(due, ..)| *due <= now) {
            asks.remove(&(due, site, fetcher));
            let ticket = turns.ask(now, &name(site), device(site, fetcher), 65_536);
            waiting.insert(ticket, (site, fetcher, now));
        }
        while let Some((ticket, bytes)) = turns.poll(now) {
            let (site, fetcher, since) = waiting.remove(&ticket).expect("it waits");
            outcome.sites[site] += bytes;
            *outcome.devices.entry(device(site, fetcher)).or_default() += bytes;
            outcome.longest = outcome.longest.max(now.since(since));
            asks.insert((now + think, site, fetcher), ());
        }
        assert_eq!(turns.waiting(), waiting.len());
        let next = asks.keys().next().map(|(due, ..)| *due);
        now = turns.next_wake().into_iter().chain(next).min().expect("somebody asks again").max(now);
    }
    outcome
}

fn total(rate: Rate) -> Ceilings {
    Ceilings { total: Some(rate), sites: BTreeMap::new() }
}

const QUICK: Duration = Duration::from_micros(200);
const LONG: Duration = Duration::from_secs(20);

fn within(bytes: u64, rate: Rate, percent: u64) -> bool {
    let full = rate.bytes_in(LONG);
    bytes.abs_diff(full) * 100 <= full * percent
}

// proves X3: a site with more fetchers gets no more of the seed's upload
#[test]
fn sites_have_equal_shares_whatever_the_number_of_their_fetchers() {
    for fetchers in [&[1, 4][..], &[1, 1, 16], &[16, 1, 4, 2], &[7], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]] {
        for megabits in [1, 20, 200] {
            let rate = Rate::megabits(megabits);
            let outcome = serve(total(rate), fetchers, QUICK, LONG);
            let share = rate.bytes_in(LONG) / fetchers.len() as u64;
            for bytes in &outcome.sites {
                assert!(bytes.abs_diff(share) * 50 <= share, "{fetchers:?} at {rate}: {outcome:?}");
            }
            assert!(within(outcome.sites.iter().sum(), rate, 2), "{fetchers:?} at {rate}: {outcome:?}");
        }
    }
}

// proves X3: one budget for the whole site, divided among its fetchers
#[test]
fn the_cap_of_a_site_is_divided_among_its_fetchers() {
    let cap = Rate::megabits(4);
    let ceilings = Ceilings { total: None, sites: BTreeMap::from([(name(0), cap)]) };
    let outcome = serve(ceilings, &[4], QUICK, LONG);
    assert!(within(outcome.sites[0], cap, 2), "{outcome:?}");
    for bytes in outcome.devices.values() {
        assert!((bytes * 4).abs_diff(outcome.sites[0]) * 50 <= outcome.sites[0], "{outcome:?}");
    }
}

#[test]
fn what_a_capped_site_leaves_goes_to_the_others() {
    let sites = BTreeMap::from([(name(0), Rate::megabits(2))]);
    let ceilings = Ceilings { total: Some(Rate::megabits(20)), sites };
    let outcome = serve(ceilings, &[4, 1, 1], QUICK, LONG);
    for (site, megabits) in [(0, 2), (1, 9), (2, 9)] {
        assert!(within(outcome.sites[site], Rate::megabits(megabits), 3), "{site}: {outcome:?}");
    }
}

#[test]
fn what_a_slow_site_leaves_goes_to_the_others() {
    // The first site takes 64 KiB once in half a second at most, as its own line does: about 1 Mbit/s.
    let mut turns = Turns::default();
    turns.set_ceilings(total(Rate::megabits(20)));
    let (mut now, mut bytes, mut slow_due) = (Moment::START + QUICK, [0u64; 2], Moment::START);
    let (mut slow, mut fast) = (None, None);
    while now < Moment::START + LONG {
        if slow.is_none() && slow_due <= now {
            slow = Some(turns.ask(now, &name(0), device(0, 0), 65_536));
        }
        fast = fast.or_else(|| Some(turns.ask(now, &name(1), device(1, 0), 65_536)));
        while let Some((ticket, sent)) = turns.poll(now) {
            if Some(ticket) == slow {
                (slow, slow_due) = (None, now + Rate::megabits(1).time_for(sent));
                bytes[0] += sent;
            } else {
                fast = None;
                bytes[1] += sent;
                break;
            }
        }
        now = turns.next_wake().map_or(now + QUICK, |wake| wake.max(now + Duration::from_micros(1)));
    }
    assert!(within(bytes[0], Rate::megabits(1), 10) && within(bytes[1], Rate::megabits(19), 3), "{bytes:?}");
}

// proves X3: no site starves
#[test]
fn in_a_long_queue_everybody_has_a_turn_in_time() {
    let fetchers = vec![4; 400];
    let outcome = serve(total(Rate::megabits(20)), &fetchers, QUICK, LONG);
    // The round that is under way, and the next.
    assert!(outcome.longest <= 2 * ROUND, "{:?}", outcome.longest);
    assert!(outcome.sites.iter().all(|bytes| *bytes > 0));
}

#[test]
fn a_site_that_comes_later_has_neither_credit_nor_debt() {
    let mut turns = Turns::default();
    turns.set_ceilings(total(Rate::megabits(8)));
    let mut now = Moment::START + QUICK;
    let mut bytes = [0u64; 2];
    let mut tickets = BTreeMap::new();
    let begin = now;
    for site in [0usize, 1] {
        // The second one joins after ten seconds; both go on for ten more.
        let until = begin + Duration::from_secs(10 * (site as u64 + 1));
        tickets.insert(turns.ask(now, &name(site), device(site, 0), 65_536), site);
        while now < until {
            while let Some((ticket, sent)) = turns.poll(now) {
                let served = tickets.remove(&ticket).expect("it waits");
                bytes[served] += sent;
                tickets.insert(turns.ask(now, &name(served), device(served, 0), 65_536), served);
            }
            now = turns.next_wake().expect("they wait").max(now);
        }
    }
    assert!(bytes[0].abs_diff(3 * bytes[1]) < 200_000, "{bytes:?}");
}

#[test]
fn without_a_cap_nobody_needs_a_turn() {
    let mut turns = Turns::default();
    assert!(!turns.are_needed(&name(0)));
    turns.set_ceilings(Ceilings { total: None, sites: BTreeMap::from([(name(1), Rate::megabits(1))]) });
    assert!(!turns.are_needed(&name(0)) && turns.are_needed(&name(1)));
    // A cap that is lifted lets everybody go who waits for it.
    turns.set_ceilings(Ceilings { total: Some(Rate::NOTHING), sites: BTreeMap::new() });
    let now = Moment::START + LONG;
    let ticket = turns.ask(now, &name(0), device(0, 0), 5);
    assert_eq!((turns.poll(now), turns.next_wake()), (None, None));
    turns.set_ceilings(Ceilings::default());
    assert_eq!(turns.poll(now), Some((ticket, 5)));
}

#[test]
fn who_is_gone_is_forgotten() {
    let mut turns = Turns::default();
    turns.set_ceilings(total(Rate::megabits(100)));
    let mut now = Moment::START + LONG;
    for site in 0..1_000 {
        turns.ask(now, &name(site), device(site, 0), 1_000);
        while turns.poll(now).is_none() {
            now = turns.next_wake().expect("one waits");
        }
        assert!(turns.sites.len() <= 3, "{}", turns.sites.len());
    }
}

proptest! {
    #[test]
    fn everybody_who_asks_has_a_turn_and_no_cap_is_broken(
        fetchers in prop::collection::vec(1usize..6, 1..8),
        kilobits in 64u64..100_000,
        caps in prop::collection::vec(64u64..100_000, 0..8),
        think in 1u64..5_000,
    ) {
        let sites = caps.iter().enumerate().map(|(site, cap)| (name(site), Rate::kilobits(*cap))).collect();
        let ceilings = Ceilings { total: Some(Rate::kilobits(kilobits)), sites };
        let outcome = serve(ceilings, &fetchers, Duration::from_micros(think), LONG);
        prop_assert!(outcome.sites.iter().all(|bytes| *bytes > 0), "{:?}", outcome);
        let allowed = |rate: Rate| rate.bytes_in(LONG + Duration::from_millis(40)) + 200_000;
        prop_assert!(outcome.sites.iter().sum::<u64>() <= allowed(Rate::kilobits(kilobits)));
        for (bytes, cap) in outcome.sites.iter().zip(&caps) {
            prop_assert!(*bytes <= allowed(Rate::kilobits(*cap)), "{bytes} under {cap}");
        }
    }
}
