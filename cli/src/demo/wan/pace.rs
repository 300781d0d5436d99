//! The pace of one direction of the WAN: one token bucket that all connections share, first come, first served.

use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How far the line may run ahead of the clock after a pause: as a token bucket this deep. It makes up for timers that
/// wake late, and is short against anything that is measured.
const DEPTH: Duration = Duration::from_millis(10);

/// A line of a given speed.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: f64,
    /// When the last byte that was let through has left the line. The lock is fair: whoever waits longest is next, so
    /// connections take turns.
    free: Mutex<Option<Instant>>,
}

impl Pace {
    /// A line of so many megabits (10^6 bits) of TCP payload per second.
    pub fn megabits(megabits: f64) -> Pace {
        Pace { bytes_per_second: megabits * 1e6 / 8.0, free: Mutex::new(None) }
    }

    /// Waits until `bytes` have passed the line.
    pub async fn pass(&self, bytes: usize) {
        let mut free = self.free.lock().await;
        let now = Instant::now();
        let left = self.left(*free, now, bytes);
        *free = Some(left);
        if left > now {
            tokio::time::sleep_until(left).await;
        }
    }

    /// When the last of `bytes` has left a line that was free from `free` on.
    fn left(&self, free: Option<Instant>, now: Instant, bytes: usize) -> Instant {
        let earliest = now.checked_sub(DEPTH).unwrap_or(now);
        let took = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        free.map_or(earliest, |free| free.max(earliest)) + took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long 5 MB take on 40 Mbit/s in parts of 16 KiB, when whoever sends wakes up so much too late each time.
    fn seconds(late: Duration) -> f64 {
        let (pace, began) = (Pace::megabits(40.0), Instant::now());
        let (mut free, mut now, mut rest) = (None, began, 5_000_000_usize);
        while rest > 0 {
            let part = rest.min(16 << 10);
            let left = pace.left(free, now, part);
            now = if left > now { left + late } else { now };
            (free, rest) = (Some(left), rest - part);
        }
        now.duration_since(began).as_secs_f64()
    }

    #[test]
    fn a_line_is_as_fast_as_it_says_also_when_timers_wake_late() {
        for late in [0, 1, 9].map(Duration::from_millis) {
            let took = seconds(late);
            assert!((0.985..1.01).contains(&took), "{took} s instead of 1 s, {late:?} late each time");
        }
        let slow = seconds(Duration::from_millis(30));
        assert!(slow > 1.01, "no more than {DEPTH:?} is made up for: {slow} s");
    }
}
