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
        let took = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        let mut free = self.free.lock().await;
        let now = Instant::now();
        let earliest = now.checked_sub(DEPTH).unwrap_or(now);
        let left = free.map_or(earliest, |free| free.max(earliest)) + took;
        *free = Some(left);
        if left > now {
            tokio::time::sleep_until(left).await;
        }
    }
}
