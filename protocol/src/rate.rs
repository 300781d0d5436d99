//! Rates, as people write them, and the bucket that holds a flow of bytes to one.

use crate::time::Moment;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What a bucket saves while nobody takes from it: so much may leave at once, and a late timer loses nothing. It stands in
/// a queue before the thin link for as long, at most.
const SAVED: Duration = Duration::from_millis(20);

/// A rate in bits per second. In text it is `nothing`, or a whole number with a unit: `512 kbit/s`, `20 Mbit/s`, `1 Gbit/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

impl Rate {
    /// No bytes at all.
    pub const NOTHING: Rate = Rate(0);
    /// The least that a flow can be held to: below it, answers would outlast the patience of who waits for them.
    pub const LEAST: Rate = Rate::kilobits(64);

    /// So many thousand bits per second.
    pub const fn kilobits(kilobits: u64) -> Rate {
        Rate(kilobits.saturating_mul(1_000))
    }

    /// So many million bits per second.
    pub const fn megabits(megabits: u64) -> Rate {
        Rate(megabits.saturating_mul(1_000_000))
    }

    /// Bits per second.
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }

    /// Whether no byte may pass.
    pub const fn is_nothing(self) -> bool {
        self.0 == 0
    }

    /// Half of it.
    #[must_use]
    pub const fn half(self) -> Rate {
        Rate(self.0 / 2)
    }

    /// An equal share of it for each of so many, none of them held to less than a flow can be.
    #[must_use]
    pub fn shared_by(self, number: usize) -> Rate {
        Rate(self.0 / u64::try_from(number.max(1)).unwrap_or(u64::MAX)).max(Rate::LEAST)
    }

    /// How long so many bytes take.
    pub fn time_for(self, bytes: u64) -> Duration {
        let micros = u128::from(bytes) * 8_000_000 / u128::from(self.0.max(1));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// How many bytes pass in that time.
    pub fn bytes_in(self, time: Duration) -> u64 {
        u64::try_from(u128::from(self.0) * time.as_micros() / 8_000_000).unwrap_or(u64::MAX)
    }
}

/// Text that is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a rate; expected \"nothing\", or at least 64 kbit/s in the form 512 kbit/s, 20 Mbit/s or 1 Gbit/s"
)]
pub struct NotARate(String);

impl FromStr for Rate {
    type Err = NotARate;
    fn from_str(text: &str) -> Result<Rate, NotARate> {
        let refused = || NotARate(text.chars().take(40).collect());
        let text = text.trim();
        if text == "nothing" {
            return Ok(Rate::NOTHING);
        }
        let (number, unit) = text.split_once(' ').ok_or_else(refused)?;
        let number: u64 = number.parse().map_err(|_| refused())?;
        let kilobits = match unit.trim() {
            "kbit/s" => Some(number),
            "Mbit/s" => number.checked_mul(1_000),
            "Gbit/s" => number.checked_mul(1_000_000),
            _ => None,
        };
        kilobits.map(Rate::kilobits).filter(|rate| *rate >= Rate::LEAST).ok_or_else(refused)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1_000 {
            0 => f.pad("nothing"),
            kilobits if kilobits % 1_000_000 == 0 => write!(f, "{} Gbit/s", kilobits / 1_000_000),
            kilobits if kilobits % 1_000 == 0 => write!(f, "{} Mbit/s", kilobits / 1_000),
            kilobits => write!(f, "{kilobits} kbit/s"),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        let text = <std::borrow::Cow<'de, str> as Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Holds a flow to a rate: whoever takes bytes makes the next one wait until they are paid for.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    /// When all that was taken is paid for.
    paid: Moment,
}

impl Bucket {
    /// A bucket with nothing owed.
    pub fn new(rate: Rate) -> Bucket {
        Bucket { rate, paid: Moment::START }
    }

    /// Its rate.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// From now on another rate; what is owed stays owed.
    pub fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }

    /// When something may pass again; `None` when nothing ever may at this rate.
    pub fn ready_at(&self) -> Option<Moment> {
        (!self.rate.is_nothing()).then_some(self.paid)
    }

    /// Whether something may pass now.
    pub fn is_ready(&self, now: Moment) -> bool {
        self.ready_at().is_some_and(|at| at <= now)
    }

    /// `bytes` pass.
    pub fn take(&mut self, now: Moment, bytes: u64) {
        self.paid = self.paid.max(now - SAVED) + self.rate.time_for(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_as_people_write_them() {
        for text in ["nothing", "64 kbit/s", "1500 kbit/s", "20 Mbit/s", "1 Gbit/s"] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(rate.to_string(), text);
            assert_eq!(serde_json::from_str::<Rate>(&format!("\"{text}\"")).expect(text), rate);
        }
        assert_eq!("2000 kbit/s".parse::<Rate>().map(|rate| rate.to_string()), Ok("2 Mbit/s".to_owned()));
        for text in
            ["", "20", "20Mbit/s", "20 MB/s", "63 kbit/s", "0 kbit/s", "-1 Mbit/s", "1.5 Mbit/s", "x Mbit/s"]
        {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bucket_saves_little_and_lets_nothing_pass_at_nothing() {
        let mut bucket = Bucket::new(Rate::megabits(8));
        let now = Moment::START + Duration::from_secs(60);
        let mut burst = 0;
        while bucket.is_ready(now) {
            bucket.take(now, 1_000);
            burst += 1_000;
        }
        // 20 ms at a million bytes a second, and the one after which it is over.
        assert_eq!(burst, 21_000);
        assert_eq!(bucket.ready_at(), Some(now + Duration::from_millis(1)));
        bucket.set_rate(Rate::NOTHING);
        assert_eq!(bucket.ready_at(), None);
    }

    proptest! {
        #[test]
        fn over_time_a_bucket_keeps_its_rate(kilobits in 64u64..1_000_000, size in 1u64..65_536) {
            let rate = Rate::kilobits(kilobits);
            let (mut bucket, mut now, mut bytes) = (Bucket::new(rate), Moment::START + Duration::from_secs(1), 0u64);
            let begun = now;
            for _ in 0..500 {
                now = now.max(bucket.ready_at().unwrap_or(now));
                bucket.take(now, size);
                bytes += size;
            }
            // Times are whole microseconds, cut off.
            let cut_off = Duration::from_micros(500);
            let allowed = rate.bytes_in(now.since(begun) + SAVED + cut_off) + 2 * size;
            prop_assert!(bytes <= allowed, "{bytes} of {allowed}");
        }
    }
}
