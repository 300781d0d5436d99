//! The delay of an empty queue, as far as it is known: the smallest of the last minutes, corrected by the site's round trip.

use crate::time::Moment;
use std::time::Duration;

/// Minutes that a smallest delay is remembered: routes change, and clocks drift apart (RFC 6817, `BASE_HISTORY`).
const MINUTES: usize = 10;

/// What one minute showed.
#[derive(Clone, Copy, Debug)]
struct Minute {
    /// The smallest one-way delay, in microseconds of two clocks with unknown difference.
    delay: i64,
    /// The smallest time from asking to the first byte, in microseconds.
    round_trip: i64,
    /// The largest of: delay without what the block's round trip had beyond the site's smallest. A block that met no
    /// queue on its way up shows the delay of an empty queue, whatever queue it met on its way down.
    corrected: i64,
}

const UNSEEN: Minute = Minute { delay: i64::MAX, round_trip: i64::MAX, corrected: i64::MIN };

/// The base delay of one connection.
#[derive(Clone, Debug)]
pub(super) struct Base {
    minutes: [Minute; MINUTES],
    minute: u64,
    /// The smallest round trip of the site in microseconds.
    site: Option<i64>,
}

impl Default for Base {
    fn default() -> Base {
        Base { minutes: [UNSEEN; MINUTES], minute: 0, site: None }
    }
}

impl Base {
    /// Takes one block in.
    pub(super) fn note(&mut self, now: Moment, delay: i64, round_trip: Duration) {
        let minute = now.as_micros() / 60_000_000;
        let passed = minute.saturating_sub(self.minute).min(MINUTES as u64);
        for back in 0..passed {
            self.minutes[slot(minute - back)] = UNSEEN;
        }
        self.minute = self.minute.max(minute);
        let round_trip = micros(round_trip);
        let entry = &mut self.minutes[slot(self.minute)];
        entry.delay = entry.delay.min(delay);
        entry.round_trip = entry.round_trip.min(round_trip);
        if let Some(site) = self.site {
            entry.corrected = entry.corrected.max(delay - (round_trip - site).max(0));
        }
    }

    pub(super) fn learn_round_trip(&mut self, smallest: Duration) {
        self.site = Some(self.site.map_or(micros(smallest), |site| site.min(micros(smallest))));
    }

    /// The one-way delay of an empty queue, corrected by four fifths of so many microseconds at most: a longer way to the seed than
    /// others have must not look like a queue that never goes away. 0 before the first block.
    pub(super) fn delay(&self, target: f64) -> i64 {
        let smallest = self.minutes.iter().map(|minute| minute.delay).min().unwrap_or(i64::MAX);
        if smallest == i64::MAX {
            return 0;
        }
        let corrected =
            self.minutes.iter().map(|minute| minute.corrected).max().filter(|delay| *delay != i64::MIN);
        let most = (target * 0.8) as i64;
        corrected.map_or(smallest, |corrected| corrected.clamp(smallest - most, smallest))
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        let smallest =
            self.minutes.iter().map(|minute| minute.round_trip).min().filter(|found| *found != i64::MAX)?;
        Some(Duration::from_micros(u64::try_from(smallest).unwrap_or(0)))
    }
}

fn slot(minute: u64) -> usize {
    (minute % MINUTES as u64) as usize
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
