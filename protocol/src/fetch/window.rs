//! How many bytes may be outstanding on one WAN connection: the window grows and shrinks by the delay that it adds.
//!
//! A receiver's delay-based controller in the spirit of LEDBAT++ and rLEDBAT (RFC 9840, RFC 6817): it never asks for more
//! than the window, so the queue before the thin link stays near [`TARGET`] and foreground traffic gets the link.

mod base;

use crate::limits;
use crate::time::Moment;
use crate::wire::LeaseAnswer;
use base::Base;
use std::time::Duration;

/// The queue that a window aims at, as time: with the burst of a block on top, what a site's fetchers add to the WAN stays
/// near 25 ms.
pub const TARGET: Duration = Duration::from_millis(20);
/// No seed can make it shorter: the link would stand empty between blocks.
const LEAST_TARGET: Duration = Duration::from_millis(5);
/// A seed announces a slowing down no longer before.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// It lasts two round trips, and not less than this, so that those of all sites overlap.
const DRAINS: Duration = Duration::from_millis(150);
/// What a connection begins with: about what TCP itself sends before the first acknowledgement (RFC 6928).
const FIRST_BYTES: u64 = 16 << 10;
/// Blocks become no smaller, or their headers would be what fills the link.
const SMALLEST_BLOCK: u64 = 4 << 10;
/// A window is worth so many blocks at least, and a block takes the link no longer than the target: larger ones would come
/// in bursts.
const BLOCKS_PER_WINDOW: u64 = 4;
/// Samples of delay that one decision rests on: the smallest of them, so that a late process or a lost packet that was
/// sent again is not taken for a queue.
const SAMPLES: usize = 4;
/// A queue that never fell below a quarter of the target for so long may stand in the base itself.
const STALE: Duration = Duration::from_secs(120);
/// Most that the window grows in a round trip, in parts of it.
const GROWTH: f64 = 0.25;
/// The same once the link has been idle for [`IDLE_ROUNDS`]: somebody who used it is gone.
const GROWTH_IDLE: f64 = 0.5;
const IDLE_ROUNDS: u32 = 3;
/// What comes in a round rises while it is so many times what came in the one before: so BBR tells a link that is full.
const RISING: f64 = 1.25;
/// Most that the window shrinks in a round trip, in parts of it.
const SHRINKING: f64 = 0.5;

/// What a seed tells a fetcher of the way between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// The smallest round trip that anybody in the site has seen.
    pub round_trip: Option<Duration>,
    /// The queue to aim at instead of [`TARGET`], where the site is ahead of others.
    pub target: Option<Duration>,
    /// In which time all sites slow down together, to see their ways without a queue.
    pub drain: Option<Duration>,
}

impl Advice {
    /// What an answer to a lease request says.
    pub fn of(answer: &LeaseAnswer) -> Advice {
        let some = |micros: u32| (micros > 0).then(|| Duration::from_micros(micros.into()));
        Advice {
            round_trip: some(answer.round_trip_micros),
            target: some(answer.target_micros),
            drain: some(answer.drain_micros),
        }
    }

    /// Writes it into an answer to a lease request.
    pub fn tell(self, answer: &mut LeaseAnswer) {
        let micros = |time: Option<Duration>| {
            time.map_or(0, |time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX))
        };
        answer.round_trip_micros = micros(self.round_trip);
        answer.target_micros = micros(self.target);
        answer.drain_micros = micros(self.drain);
    }
}

/// When one block was asked for and sent, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was asked for, by the asker's clock.
    pub asked: Moment,
    /// When the seed began to send it, in microseconds of the seed's own clock.
    pub sent_micros: u64,
    /// Its bytes.
    pub length: u32,
    /// Bytes that were outstanding when it was asked for: what arrived between then and its own arrival.
    pub ahead: u64,
}

/// How a connection to a seed goes: what its window came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes that may be outstanding.
    pub window_bytes: u64,
    /// The smallest round trip so far.
    pub round_trip: Option<Duration>,
    /// What came in the last round trips.
    pub bytes_per_second: u32,
}

/// The time in which what was asked for at its beginning arrives.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Moment,
    /// The smallest queue that it saw: within a round blocks queue behind each other on a link that is not full.
    queue: f64,
    /// The largest one.
    longest: f64,
    /// Blocks that arrived in it.
    blocks: usize,
    /// Their bytes, and when the last of them began to arrive.
    bytes: u64,
    last: Moment,
}

impl Round {
    fn begin(now: Moment) -> Round {
        Round { began: now, queue: f64::MAX, longest: 0.0, blocks: 0, bytes: 0, last: now }
    }
}

/// The window of one connection to a seed.
#[derive(Clone, Debug)]
pub struct Window {
    bytes: f64,
    outstanding: u64,
    /// Whether it doubles in each round trip, until the first queue is seen.
    starting: bool,
    /// When the doubling ended: what was asked for before shows a queue that is answered already.
    stopped: Option<Moment>,
    recent: [i64; SAMPLES],
    seen: usize,
    base: Base,
    /// The queue that it aims at.
    target: Duration,
    /// Smoothed time from asking to the first byte, in microseconds.
    round_trip: f64,
    round: Round,
    /// The smallest queue of the round before.
    before: f64,
    /// What came in it, in bytes per microsecond.
    rate: f64,
    /// Rounds without a queue, one after the other: the link has more room than a step of growth uses up.
    idle_rounds: u32,
    /// When the queue was last seen nearly empty.
    empty: Moment,
    /// Slowed down until then, so that the base shows itself.
    slowed_until: Option<Moment>,
    /// When to slow down because the seed said so.
    drain: Option<Moment>,
}

impl Window {
    /// The window of a connection that just began.
    pub fn new(now: Moment) -> Window {
        Window {
            bytes: FIRST_BYTES as f64,
            outstanding: 0,
            starting: true,
            stopped: None,
            recent: [i64::MAX; SAMPLES],
            seen: 0,
            base: Base::default(),
            target: TARGET,
            round_trip: 0.0,
            round: Round::begin(now),
            before: 0.0,
            rate: 0.0,
            idle_rounds: 0,
            empty: now,
            slowed_until: None,
            drain: None,
        }
    }

    /// How many bytes of a piece, of which `left` are not asked for yet, to ask for now; `None` while the window is full.
    pub fn next_block(&self, now: Moment, left: u32) -> Option<u32> {
        let drains = self.drain.is_some_and(|at| now >= at && now.since(at) < self.drained_in());
        let slowed = drains || self.slowed_until.is_some_and(|until| now < until);
        let window = if slowed { SMALLEST_BLOCK } else { self.bytes as u64 };
        let in_time = window as f64 * TARGET.as_micros() as f64 / self.round_trip.max(1.0);
        let block = (in_time as u64).min(window / BLOCKS_PER_WINDOW) / SMALLEST_BLOCK * SMALLEST_BLOCK;
        let block = block.clamp(SMALLEST_BLOCK, limits::BLOCK_BYTES as u64);
        let left = u64::from(left);
        // What is left after a block must not be a crumb: the last two are halves.
        let length =
            if left <= block || left >= block + block / 2 { left.min(block) } else { left.div_ceil(2) };
        let fits = self.outstanding == 0 || self.outstanding + length <= window;
        u32::try_from(length).ok().filter(|length| fits && *length > 0)
    }

    /// A block of `length` bytes is asked for; returns what goes into its [`Sample::ahead`].
    pub fn on_asked(&mut self, length: u32) -> u64 {
        let ahead = self.outstanding;
        self.outstanding += u64::from(length);
        ahead
    }

    /// A block that was asked for will not come.
    pub fn on_refused(&mut self, length: u32) {
        self.outstanding = self.outstanding.saturating_sub(u64::from(length));
    }

    /// The first byte of a block arrived at `now`.
    pub fn on_block(&mut self, now: Moment, sample: Sample) {
        let used = self.outstanding as f64 >= self.bytes / 2.0;
        self.on_refused(sample.length);
        let round_trip = now.since(sample.asked).as_micros() as f64;
        self.round_trip =
            if self.round_trip == 0.0 { round_trip } else { self.round_trip * 0.875 + round_trip * 0.125 };
        let delay = signed(now.as_micros()).saturating_sub(signed(sample.sent_micros));
        self.base.note(now, delay, now.since(sample.asked));
        self.recent[self.seen % SAMPLES] = delay;
        self.seen += 1;
        let queue = self.queue_micros();
        if queue < TARGET.as_micros() as f64 / 4.0 {
            self.empty = now;
        }
        self.slow_down_when_stale(now, sample.sent_micros);
        self.round.queue = self.round.queue.min(queue);
        self.round.longest = self.round.longest.max(queue);
        self.round.blocks += 1;
        // The first blocks of a round meet what the round before left in the queue.
        if self.starting && self.round.blocks == SAMPLES && self.round.queue > self.first_queue() {
            self.stop_doubling(now, sample.ahead as f64 / round_trip.max(1.0), round_trip);
        }
        if sample.asked >= self.round.began {
            self.end_round(now, sample.ahead as f64, round_trip);
        }
        self.round.bytes += u64::from(sample.length);
        self.round.last = now;
        let answered = self.stopped.is_some_and(|stopped| sample.asked < stopped);
        self.adjust(f64::from(sample.length), queue, used, answered);
    }

    /// How the connection goes.
    pub fn pace(&self) -> Pace {
        let rate = self.bytes / (self.round_trip.max(1.0) / 1e6);
        Pace {
            window_bytes: self.bytes as u64,
            round_trip: self.base.round_trip(),
            bytes_per_second: if self.seen == 0 { 0 } else { rate as u32 },
        }
    }

    /// Takes in what the seed says. The smallest round trip of the site corrects a base that this connection measured over a
    /// queue of the others.
    pub fn heed(&mut self, now: Moment, advice: Advice) {
        if let Some(smallest) = advice.round_trip {
            self.base.learn_round_trip(smallest);
        }
        self.target = advice.target.unwrap_or(TARGET).clamp(LEAST_TARGET, TARGET);
        // What is asked for now is sent half a round trip later.
        let half = Duration::from_micros(self.round_trip as u64 / 2);
        if let Some(drain) = advice.drain.filter(|drain| *drain < DRAIN_WITHIN) {
            self.drain = Some(now + drain.saturating_sub(half));
        }
    }

    fn drained_in(&self) -> Duration {
        Duration::from_micros(2 * self.round_trip as u64).max(DRAINS)
    }

    /// On a thin link one block alone takes longer than the target.
    fn thin_target(&self) -> f64 {
        SMALLEST_BLOCK as f64 / self.bytes * self.round_trip
    }

    /// Whatever the seed says, the queue may be so long.
    fn longest_target(&self) -> f64 {
        (TARGET.as_micros() as f64).max(self.thin_target())
    }

    fn queue_micros(&self) -> f64 {
        let smallest = self.recent.iter().copied().min().unwrap_or(0);
        smallest.saturating_sub(self.base.delay(self.longest_target())).max(0) as f64
    }

    fn end_round(&mut self, now: Moment, arrived: f64, round_trip: f64) {
        let round = std::mem::replace(&mut self.round, Round::begin(now));
        let target = TARGET.as_micros() as f64;
        self.before = round.queue;
        // What is asked for in one burst queues behind itself. Where that is longer than the way is, the window holds more than the
        // way does, although the first blocks of each burst meet no queue.
        let trip = self.base.round_trip().unwrap_or_default().as_micros() as f64;
        // A sender that is still starting itself holds blocks back as long, and carries more in each round.
        let rate = round.bytes as f64 / (round.last.since(round.began).as_micros() as f64).max(1.0);
        let flat = rate < RISING * std::mem::replace(&mut self.rate, rate);
        let overfull = flat && round.longest > trip + target.max(self.thin_target());
        let idle = round.queue < target / 4.0 && !overfull;
        self.idle_rounds = if idle { self.idle_rounds.saturating_add(1) } else { 0 };
        if self.starting && overfull {
            self.stop_doubling(now, rate, trip);
        } else if self.starting && round.queue > self.first_queue() {
            self.stop_doubling(now, arrived / round_trip.max(1.0), round_trip);
        }
    }

    /// The queue that ends the doubling: an eighth of the round trip, between 4 and 16 ms, as in HyStart++ (RFC 9406). On a long
    /// way blocks come in longer bursts.
    fn first_queue(&self) -> f64 {
        let trip = self.base.round_trip().unwrap_or_default().as_micros() as f64;
        (trip / 8.0).clamp(4_000.0, 16_000.0)
    }

    /// There is a queue, so the link is full, and carries what came, in bytes per microsecond. The round trip is that of whoever has
    /// seen no smaller one.
    fn stop_doubling(&mut self, now: Moment, rate: f64, round_trip: f64) {
        self.starting = false;
        self.stopped = Some(now);
        let empty = self.base.round_trip().map_or(round_trip, |smallest| smallest.as_micros() as f64);
        self.bytes = self.bytes.min(rate * (empty + TARGET.as_micros() as f64 / 2.0));
    }

    fn adjust(&mut self, length: f64, queue: f64, used: bool, answered: bool) {
        let target = (self.target.as_micros() as f64).max(self.thin_target());
        // Blocks that were asked for together queue behind each other also where the link has room.
        let queue = if self.idle_rounds > 0 { self.before.min(queue) } else { queue };
        if self.starting {
            self.bytes += if used { length } else { 0.0 };
        } else {
            // In one round trip the window moves by half of what the queue lacks or has too much, not more: what it did
            // shows a round trip later.
            let half = (target - queue) / (2.0 * self.round_trip.max(1.0));
            let hurry = f64::from(1u32 << self.idle_rounds.saturating_sub(1).min(4));
            let most = if self.idle_rounds < IDLE_ROUNDS { GROWTH } else { GROWTH_IDLE };
            let step = if half > 0.0 { (half * hurry).min(most) } else { half.max(-SHRINKING) };
            if (step < 0.0 && !answered) || (step > 0.0 && used) {
                self.bytes += length * step;
            }
        }
        self.bytes = self.bytes.clamp(SMALLEST_BLOCK as f64, limits::WINDOW_BYTES as f64);
    }

    /// All fetchers of a site slow down at the same times of the seed's clock, so that the queue drains for all of them.
    fn slow_down_when_stale(&mut self, now: Moment, sent_micros: u64) {
        let period = u64::try_from(STALE.as_micros()).unwrap_or(u64::MAX);
        let beginning = sent_micros % period < 1_000_000;
        let rest =
            self.slowed_until.is_some_and(|until| now.since(until) < Duration::from_secs(2) || now < until);
        if beginning && !rest && now.since(self.empty) >= STALE {
            self.slowed_until = Some(now + Duration::from_micros(2 * self.round_trip as u64));
        }
    }
}

/// What a window that begins on a full link brings in its first round trips, in bytes per second.
pub(in crate::fetch) fn first_bytes_per_second(round_trip: Duration) -> u64 {
    let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX).max(1);
    2 * FIRST_BYTES * 1_000_000 / micros
}

fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
