//! Windows that share one modelled bottleneck: how full the link is, and how long its queue.

use super::*;
use crate::fetch::shares::Shares;
use crate::identifier::SiteName;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One link with a first-in-first-out queue, and fetchers on it.
struct Bottleneck {
    bytes_per_second: f64,
    one_way: Duration,
    free: f64,
    foreground: Option<(f64, f64)>,
    /// Each fetcher is a site of its own behind the seed's uplink.
    apart: bool,
    /// The seed looks at their shares.
    shares: Option<Shares>,
}

/// A block: when it was asked for and sent, its bytes, and how many were ahead of it.
type Arrival = (u64, u64, u32, u64);

struct Outcome {
    /// Share of the link used in the seconds looked at.
    fill: f64,
    /// 95th percentile of the queue in those seconds, in milliseconds.
    queue: f64,
    /// What each fetcher got in those seconds.
    bytes: Vec<u64>,
}

impl Bottleneck {
    fn new(megabits: f64, round_trip_milliseconds: u64) -> Bottleneck {
        let one_way = Duration::from_micros(round_trip_milliseconds * 500);
        Bottleneck {
            bytes_per_second: megabits * 125_000.0,
            one_way,
            free: 0.0,
            foreground: None,
            apart: false,
            shares: None,
        }
    }

    /// Runs fetchers that begin at these seconds; looks at what happens between two moments, in seconds.
    fn run(mut self, begins: &[f64], from: f64, until: f64) -> Outcome {
        let mut windows: Vec<Window> = begins.iter().map(|at| Window::new(moment(*at))).collect();
        let mut events: BinaryHeap<Reverse<(u64, usize, Option<Arrival>)>> = BinaryHeap::new();
        for (at, begin) in begins.iter().enumerate() {
            events.push(Reverse((micros(*begin), at, None)));
        }
        let (mut queues, mut bytes) = (Vec::new(), vec![0; begins.len()]);
        let names: Vec<SiteName> =
            (0..begins.len()).map(|at| format!("site-{at}").parse().expect("a name")).collect();
        let (mut site, one_way) = (None::<Duration>, self.one_way.as_micros() as u64);
        while let Some(Reverse((now, at, arrived))) = events.pop() {
            let seconds = now as f64 / 1e6;
            if seconds > until {
                break;
            }
            let moment = Moment::from_micros(now);
            if let Some((asked, sent, length, ahead)) = arrived {
                // Every clock has an epoch of its own.
                let sample =
                    Sample { asked: Moment::from_micros(asked), sent_micros: sent + 7_777, length, ahead };
                windows[at].on_block(moment, sample);
                if seconds >= from {
                    bytes[at] += u64::from(length);
                }
                let own = windows[at].pace().round_trip;
                site = site.into_iter().chain(own).min();
                let advice = match &self.shares {
                    Some(shares) => Advice {
                        round_trip: own,
                        target: shares.target(&names[at], moment),
                        drain: shares.drain(moment),
                    },
                    None if self.apart => Advice { round_trip: own, ..Advice::default() },
                    None => Advice { round_trip: site, ..Advice::default() },
                };
                windows[at].heed(moment, advice);
            }
            while let Some(length) = windows[at].next_block(moment, 1 << 20) {
                let ahead = windows[at].on_asked(length);
                let sent = now + one_way;
                let begin = self.free.max(sent as f64);
                let foreground = self.foreground.is_some_and(|(begin, end)| {
                    (begin..end).contains(&(begin.max(seconds))) && seconds >= begin && seconds < end
                });
                // A loss-based flow beside it keeps its own queue full.
                let begin = if foreground { begin.max(sent as f64 + 180_000.0) } else { begin };
                if let Some(shares) = &mut self.shares {
                    shares.note(&names[at], length.into(), moment);
                }
                self.free = begin + f64::from(length) / self.bytes_per_second * 1e6;
                if seconds >= from {
                    queues.push((begin - sent as f64) / 1e3);
                }
                events.push(Reverse((begin as u64 + one_way, at, Some((now, sent, length, ahead)))));
            }
        }
        queues.sort_by(f64::total_cmp);
        let queue = queues.get(queues.len() * 95 / 100).copied().unwrap_or(0.0);
        let all: u64 = bytes.iter().sum();
        Outcome { fill: all as f64 / self.bytes_per_second / (until - from), queue, bytes }
    }
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

fn moment(seconds: f64) -> Moment {
    Moment::from_micros(micros(seconds))
}

// proves X3
#[test]
fn an_idle_link_is_filled_with_a_short_queue() {
    for (megabits, fetchers) in [(1.0, 1), (2.0, 1), (5.0, 2), (20.0, 1), (20.0, 4), (100.0, 4), (1_000.0, 4)]
    {
        for round_trip in [1u32, 5, 40, 150, 300] {
            let begins: Vec<f64> = (0..fetchers).map(|at| f64::from(at) / 10.0).collect();
            let outcome = Bottleneck::new(megabits, round_trip.into()).run(&begins, 5.0, 25.0);
            let most = match (megabits <= 2.0, round_trip > 40) {
                (true, _) => 65.0,
                (false, true) => 80.0,
                (false, false) => 40.0,
            };
            let reachable = limits::WINDOW_BYTES as f64 * f64::from(fetchers)
                / (megabits * 125.0 * f64::from(round_trip));
            assert!(
                outcome.fill > 0.93_f64.min(reachable),
                "{megabits} Mbit/s, {round_trip} ms, {fetchers}: {}",
                outcome.fill
            );
            assert!(
                outcome.queue < most,
                "{megabits} Mbit/s, {round_trip} ms, {fetchers}: {} ms",
                outcome.queue
            );
        }
    }
}

// proves X3
#[test]
fn one_that_comes_later_adds_no_queue_of_its_own() {
    let outcome = Bottleneck::new(20.0, 40).run(&[0.0, 0.0, 0.0, 8.0], 12.0, 40.0);
    assert!(outcome.fill > 0.95, "{}", outcome.fill);
    assert!(outcome.queue < 40.0, "{} ms", outcome.queue);
}

// proves X3
#[test]
fn sites_behind_one_full_uplink_get_the_same_also_when_one_knows_its_empty_queue_wrong() {
    let spread = |shares: Option<Shares>| {
        let mut link = Bottleneck::new(40.0, 40);
        (link.apart, link.shares) = (true, shares);
        // The two that come later measure their base over the queue of the first.
        let outcome = link.run(&[0.0, 4.0, 9.0], 15.0, 45.0);
        assert!(outcome.fill > 0.95, "{}", outcome.fill);
        let (least, most) = (outcome.bytes.iter().min(), outcome.bytes.iter().max());
        *most.expect("three") as f64 / *least.expect("three") as f64
    };
    let (even, uneven) = (spread(Some(Shares::default())), spread(None));
    assert!(even < 1.1, "{even}");
    assert!(uneven > 1.3, "the model shows no difference: {uneven}");
}

// proves X3
#[test]
fn a_foreground_flow_gets_the_link_and_gives_it_back() {
    let busy = |from, until| {
        let mut link = Bottleneck::new(20.0, 40);
        link.foreground = Some((12.0, 32.0));
        link.run(&[0.0; 4], from, until)
    };
    let (during, afterwards) = (busy(14.0, 32.0), busy(37.0, 50.0));
    assert!(during.fill < 0.08, "{}", during.fill);
    assert!(afterwards.fill > 0.95, "{}", afterwards.fill);
}

// Whoever waits for leases asks for a whole window at once, and for nothing until all of it came: each burst begins on an empty
// link, and its end shows whether that holds so much.
#[test]
fn bursts_do_not_grow_beyond_what_the_way_holds() {
    let (bytes_per_second, one_way) = (10e6, 50_000);
    let mut window = Window::new(moment(0.0));
    let mut now = 0;
    for _ in 0..300 {
        let (mut free, mut blocks) = ((now + one_way) as f64, Vec::new());
        while let Some(length) = window.next_block(Moment::from_micros(now), 32 << 20) {
            let ahead = window.on_asked(length);
            let sample =
                Sample { asked: Moment::from_micros(now), sent_micros: now + one_way, length, ahead };
            blocks.push((free as u64 + one_way, sample));
            free += f64::from(length) / bytes_per_second * 1e6;
        }
        for (at, sample) in blocks {
            now = at;
            window.on_block(Moment::from_micros(at), sample);
        }
    }
    let held = bytes_per_second * 0.1;
    let window = window.pace().window_bytes as f64;
    assert!((0.8..2.0).contains(&(window / held)), "{window} bytes, the way holds {held}");
}

#[test]
fn blocks_grow_with_the_window_and_leave_no_crumbs() {
    let mut window = Window::new(Moment::START);
    assert_eq!(window.next_block(Moment::START, 1 << 20), Some(4 << 10));
    assert_eq!(window.next_block(Moment::START, 5_000), Some(2_500));
    assert_eq!(window.next_block(Moment::START, 2_500), Some(2_500));
    assert_eq!(window.next_block(Moment::START, 0), None);
    window.bytes = 1e6;
    assert_eq!(window.next_block(Moment::START, 1 << 20), Some(64 << 10));
    // The last two are halves, and no block is larger than others.
    assert_eq!(window.next_block(Moment::START, 90 << 10), Some(45 << 10));
    assert_eq!(window.next_block(Moment::START, 96 << 10), Some(64 << 10));
    window.on_asked(980_000);
    assert_eq!(window.next_block(Moment::START, 1 << 20), None);
    assert_eq!(window.next_block(Moment::START, 20_001), None);
    assert_eq!(window.next_block(Moment::START, 20_000), Some(20_000));
    window.on_asked(19_999);
    assert_eq!(window.next_block(Moment::START, 1 << 20), None);
    window.on_refused(999_999);
    assert_eq!(window.next_block(Moment::START, 10), Some(10));
}
