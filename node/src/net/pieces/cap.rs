//! The cap on all that this node fetches over the WAN, wherever it comes from.

use protocol::rate::{Bucket, Rate};
use protocol::time::Moment;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long those wait who may ask for nothing at all, before they look again.
const LOOK: Duration = Duration::from_millis(50);
/// Under a cap a block is worth so long, so that blocks do not come in bursts.
const CAPPED_BLOCK: Duration = Duration::from_millis(50);
/// But not less than this, or the requests would be what fills the other direction.
const CAPPED_BLOCK_LEAST: u32 = 4 << 10;

/// A cap that everybody who fetches over the WAN shares.
#[derive(Debug)]
pub(crate) struct Cap {
    began: Instant,
    bucket: Mutex<Option<Bucket>>,
}

impl Cap {
    /// No cap yet.
    pub(crate) fn new() -> Cap {
        Cap { began: Instant::now(), bucket: Mutex::default() }
    }

    /// From now on no more than this is asked for.
    pub(crate) fn set(&self, rate: Option<Rate>) {
        let mut bucket = self.bucket();
        match (bucket.as_mut(), rate) {
            (Some(bucket), Some(rate)) => bucket.set_rate(rate),
            (_, rate) => *bucket = rate.map(Bucket::new),
        }
    }

    /// How many bytes may be asked for at once; `None` while nothing may.
    pub(crate) fn most(&self) -> Option<u32> {
        let Some(bucket) = *self.bucket() else { return Some(u32::MAX) };
        let most =
            u32::try_from(bucket.rate().bytes_in(CAPPED_BLOCK)).unwrap_or(u32::MAX).max(CAPPED_BLOCK_LEAST);
        bucket.is_ready(self.now()).then_some(most)
    }

    /// How long nothing may be asked for; `None` when the cap keeps nobody waiting.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let now = self.now();
        let bucket = self.bucket().filter(|bucket| !bucket.is_ready(now))?;
        Some(bucket.ready_at().map_or(LOOK, |at| at.since(now)))
    }

    /// So many bytes were asked for.
    pub(crate) fn take(&self, bytes: u32) {
        let now = self.now();
        if let Some(bucket) = self.bucket().as_mut() {
            bucket.take(now, u64::from(bytes));
        }
    }

    fn now(&self) -> Moment {
        Moment::from_micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn bucket(&self) -> MutexGuard<'_, Option<Bucket>> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
