//! The rate at which bytes go somewhere as the seed sees it, whatever others say of themselves.

use crate::time::Moment;
use std::time::Duration;

/// A rate is what went in once to twice this time.
const RATE_SEEN: Duration = Duration::from_secs(8);

/// Bytes that went somewhere lately.
#[derive(Clone, Copy, Debug)]
pub(in crate::fetch) struct Brought {
    bytes: u64,
    since: Moment,
    last: Moment,
}

impl Brought {
    /// Counts bytes that went since `began` at the earliest.
    pub(in crate::fetch) fn note(before: Option<Brought>, bytes: u64, began: Moment, now: Moment) -> Brought {
        let lately = before.filter(|before| before.is_recent(now));
        let mut brought = lately.unwrap_or(Brought { bytes: 0, since: began, last: now });
        brought.bytes += bytes;
        brought.last = now;
        let age = now.since(brought.since);
        if age >= 2 * RATE_SEEN {
            // The older half of the time goes, at the rate of the whole.
            brought.bytes /= 2;
            brought.since = brought.since + age / 2;
        }
        brought
    }

    /// Whether anything went lately.
    pub(in crate::fetch) fn is_recent(self, now: Moment) -> bool {
        now.since(self.last) < RATE_SEEN
    }

    /// Bytes per second.
    pub(in crate::fetch) fn rate(self) -> u64 {
        let micros = self.last.since(self.since).as_micros().max(1_000);
        u64::try_from(u128::from(self.bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
    }
}
