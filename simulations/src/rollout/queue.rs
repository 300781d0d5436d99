//! A link as a queue: what enters leaves in the same order, each byte at the link's rate.

/// Nanoseconds since the first midnight of a rollout.
pub type Nanos = u64;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// The rate of a link, which may change, in bytes per second.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    now: f64,
    /// When it changes, and to what, in the order of time.
    changes: Vec<(Nanos, f64)>,
}

impl Rates {
    /// Always the same.
    pub fn new(bytes_per_second: f64) -> Rates {
        Rates { now: bytes_per_second, changes: Vec::new() }
    }

    /// From `at` on, which is later than all changes before, it is another.
    pub fn change(&mut self, at: Nanos, bytes_per_second: f64) {
        let before = self.changes.last().map_or(self.now, |(_, rate)| *rate);
        if before.total_cmp(&bytes_per_second).is_ne() {
            self.changes.push((at, bytes_per_second));
        }
    }

    /// The rate at a moment, and when it changes next.
    pub fn at(&self, at: Nanos) -> (f64, Option<Nanos>) {
        let past = self.changes.partition_point(|(when, _)| *when <= at);
        let rate = past.checked_sub(1).map_or(self.now, |past| self.changes[past].1);
        (rate, self.changes.get(past).map(|(when, _)| *when))
    }

    /// The lowest of all.
    pub fn least(&self) -> f64 {
        self.changes.iter().map(|(_, rate)| *rate).fold(self.now, f64::min)
    }

    /// When `bytes` that begin to leave at `begin` have left.
    fn end(&self, begin: Nanos, bytes: u64) -> Nanos {
        let (mut now, mut left) = (begin, bytes as f64);
        loop {
            let (rate, change) = self.at(now);
            let end = now + lasting_float(left, rate);
            match change.filter(|change| *change < end) {
                None => return end,
                Some(change) => {
                    left -= (change - now) as f64 / SECOND as f64 * rate;
                    now = change;
                }
            }
        }
    }
}

/// One direction of a link, or a medium that all directions share.
#[derive(Clone, Debug)]
pub struct Queue {
    rates: Rates,
    /// When all that entered has left.
    free: Nanos,
    /// Bytes that entered.
    pub carried: u64,
}

/// When something that passes a link begins and ends to leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Its first byte.
    pub begin: Nanos,
    /// Its last byte.
    pub end: Nanos,
}

impl Queue {
    /// An empty one.
    pub fn new(bytes_per_second: f64) -> Queue {
        Queue::changing(Rates::new(bytes_per_second))
    }

    /// An empty one whose rate changes.
    pub fn changing(rates: Rates) -> Queue {
        Queue { rates, free: 0, carried: 0 }
    }

    /// Bytes that it carries in a second, at first.
    pub fn bytes_per_second(&self) -> f64 {
        self.rates.now
    }

    /// Something of `bytes` enters at `at`.
    pub fn pass(&mut self, at: Nanos, bytes: u64) -> Passage {
        let begin = self.free.max(at);
        self.free = self.rates.end(begin, bytes);
        self.carried += bytes;
        Passage { begin, end: self.free }
    }
}

/// How long a link of this rate takes for `bytes`.
pub fn lasting(bytes: u64, bytes_per_second: f64) -> Nanos {
    lasting_float(bytes as f64, bytes_per_second)
}

fn lasting_float(bytes: f64, bytes_per_second: f64) -> Nanos {
    (bytes / bytes_per_second * SECOND as f64) as Nanos
}

/// The rate in bytes per second of so many megabits.
pub fn bytes_per_second(megabits: f64) -> f64 {
    megabits * 125_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_enters_waits_for_what_entered_before() {
        let mut queue = Queue::new(bytes_per_second(8.0));
        assert_eq!(queue.pass(5, 1_000), Passage { begin: 5, end: 1_000_005 });
        assert_eq!(queue.pass(10, 1_000), Passage { begin: 1_000_005, end: 2_000_005 });
        assert_eq!(queue.pass(3 * SECOND, 0), Passage { begin: 3 * SECOND, end: 3 * SECOND });
        assert_eq!(queue.carried, 2_000);
    }

    #[test]
    fn a_rate_that_changes_while_something_leaves() {
        let mut rates = Rates::new(1_000.0);
        rates.change(SECOND, 500.0);
        rates.change(2 * SECOND, 500.0);
        rates.change(3 * SECOND, 2_000.0);
        assert_eq!((rates.at(0), rates.at(SECOND)), ((1_000.0, Some(SECOND)), (500.0, Some(3 * SECOND))));
        let mut queue = Queue::changing(rates);
        assert_eq!(queue.pass(SECOND / 2, 1_000), Passage { begin: SECOND / 2, end: 2 * SECOND });
        assert_eq!(queue.pass(0, 1_500), Passage { begin: 2 * SECOND, end: 3 * SECOND + SECOND / 2 });
    }
}
