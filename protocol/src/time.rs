//! The two clocks of a node: a monotonic one for waiting and a wall clock for validity; both are inputs.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock: microseconds since the node (or the simulation) started. Never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(u64);

impl Moment {
    /// The start of the node.
    pub const START: Moment = Moment(0);

    /// The moment this many microseconds after the start.
    pub const fn from_micros(micros: u64) -> Moment {
        Moment(micros)
    }

    /// Microseconds since the start.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, rest: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(rest.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;
    fn sub(self, rest: Duration) -> Moment {
        Moment(self.0.saturating_sub(u64::try_from(rest.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// A point on the wall clock: whole seconds since 1970-01-01T00:00:00Z. It can be wrong and it can step.
/// In text formats it is written `2026-01-31T23:59:59Z`, in binary ones as the number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(u64);

impl WallTime {
    /// The wall time this many seconds after 1970-01-01T00:00:00Z.
    pub const fn from_unix_seconds(seconds: u64) -> WallTime {
        WallTime(seconds)
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub const fn unix_seconds(self) -> u64 {
        self.0
    }

    /// The time `days` days later.
    pub const fn plus_days(self, days: u32) -> WallTime {
        WallTime(self.0.saturating_add(days as u64 * 86_400))
    }

    /// The time `seconds` seconds later.
    pub const fn plus_seconds(self, seconds: u64) -> WallTime {
        WallTime(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to `self`; zero when `earlier` is later.
    pub const fn seconds_since(self, earlier: WallTime) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads the form that signed metadata uses, `YYYY-MM-DDTHH:MM:SSZ` (RFC 3339 in UTC, without fractions).
    ///
    /// # Errors
    /// [`NotATime`] for any other form, a day that does not exist, or a year before 1970.
    pub fn parse(text: &str) -> Result<WallTime, NotATime> {
        parse_rfc3339(text).ok_or_else(|| NotATime(text.chars().take(40).collect()))
    }
}

impl Serialize for WallTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for WallTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WallTime, D::Error> {
        if deserializer.is_human_readable() {
            let text = <std::borrow::Cow<'de, str> as Deserialize>::deserialize(deserializer)?;
            WallTime::parse(&text).map_err(serde::de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(WallTime)
        }
    }
}

/// Text that is not a time of the form `YYYY-MM-DDTHH:MM:SSZ`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a time of the form 2026-01-31T23:59:59Z")]
pub struct NotATime(String);

fn parse_rfc3339(text: &str) -> Option<WallTime> {
    let bytes = text.as_bytes();
    let punctuation = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'Z')];
    if bytes.len() != 20 || punctuation.iter().any(|&(at, want)| bytes[at] != want) {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<u64> {
        let part = text.get(from..to)?;
        if part.bytes().all(|byte| byte.is_ascii_digit()) { part.parse().ok() } else { None }
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if year < 1970 || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    let (back_year, back_month, back_day) = civil_from_days(days);
    if (back_year, back_month, back_day) != (year, month, day) {
        return None;
    }
    Some(WallTime(days * 86_400 + hour * 3_600 + minute * 60 + second))
}

/// Days since 1970-01-01 of a date in the proleptic Gregorian calendar, for years from 1970 (H. Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let year_of_era = year - era * 400;
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day.max(1) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0 / 86_400);
        let rest = self.0 % 86_400;
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        assert_eq!(WallTime::parse("1970-01-01T00:00:00Z"), Ok(WallTime(0)));
        assert_eq!(WallTime::parse("2026-11-23T14:50:10Z"), Ok(WallTime(1_795_445_410)));
        assert_eq!(WallTime(951_782_400).to_string(), "2000-02-29T00:00:00Z");
    }

    #[test]
    fn refused() {
        let bad = ["", "2026-11-23", "2026-02-30T00:00:00Z", "1969-12-31T23:59:59Z", "2026-11-23T24:00:00Z"];
        for text in
            bad.iter().chain(&["2026-11-23T14:50:10+", "2026-00-23T14:50:10Z", "2026-1123T14:50:10ZZ"])
        {
            assert!(WallTime::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_back(seconds in 0u64..253_402_300_799) {
            prop_assert_eq!(WallTime::parse(&WallTime(seconds).to_string()), Ok(WallTime(seconds)));
        }
    }
}
