//! A link as a queue: what enters leaves in the same order, each byte at the link's rate.

/// Nanoseconds since the first midnight of a rollout.
pub type Nanos = u64;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// One direction of a link, or a medium that all directions share.
#[derive(Clone, Debug)]
pub struct Queue {
    bytes_per_second: f64,
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
        Queue { bytes_per_second, free: 0, carried: 0 }
    }

    /// Bytes that it carries in a second.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes_per_second
    }

    /// Something of `bytes` enters at `at`.
    pub fn pass(&mut self, at: Nanos, bytes: u64) -> Passage {
        let begin = self.free.max(at);
        self.free = begin + lasting(bytes, self.bytes_per_second);
        self.carried += bytes;
        Passage { begin, end: self.free }
    }
}

/// How long a link of this rate takes for `bytes`.
pub fn lasting(bytes: u64, bytes_per_second: f64) -> Nanos {
    (bytes as f64 / bytes_per_second * SECOND as f64) as Nanos
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
}
