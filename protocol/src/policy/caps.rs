//! Caps: how fast pieces may pass, in business hours and outside them, and what a device does on battery or a metered link.

use crate::rate::Rate;
use crate::time::WallTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Minutes of a day.
const DAY: u32 = 24 * 60;

/// What may pass, from the least on: of two words the first in this order wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Passing {
    /// Nothing.
    Nothing,
    /// Patches that are critical, and what proves them.
    Critical,
    /// Everything.
    All,
}

/// The caps of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Caps {
    /// What the whole site gets over its WAN, from all seeds that it asks: its fetchers divide it.
    pub site_download: Option<Rate>,
    /// What one device gets over the WAN.
    pub download: Option<Rate>,
    /// What one device serves to its neighbours.
    pub upload: Option<Rate>,
    /// What a device on battery fetches and serves; unset: nothing.
    pub on_battery: Option<Passing>,
    /// What a device on a metered link fetches and serves; unset: nothing.
    pub on_metered: Option<Passing>,
    /// When other values hold.
    pub business_hours: Option<BusinessHours>,
}

/// Hours of the week, by the clock on the wall of the site, and the caps that hold in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BusinessHours {
    /// Days on which they begin; unset: Monday to Friday.
    #[serde(default = "weekdays")]
    pub days: Vec<Day>,
    /// When they begin.
    pub from: TimeOfDay,
    /// When they end; on the next day when that is not after the beginning.
    pub until: TimeOfDay,
    /// In place of [`Caps::site_download`]; at `nothing` critical patches still pass, under the other cap.
    pub site_download: Option<Rate>,
    /// In place of [`Caps::download`], likewise.
    pub download: Option<Rate>,
    /// In place of [`Caps::upload`], likewise.
    pub upload: Option<Rate>,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "they have their usual names")]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

const WEEK: [Day; 7] =
    [Day::Monday, Day::Tuesday, Day::Wednesday, Day::Thursday, Day::Friday, Day::Saturday, Day::Sunday];

fn weekdays() -> Vec<Day> {
    WEEK[..5].to_vec()
}

/// A time of the day on the wall, to the minute: `08:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u32);

impl TimeOfDay {
    fn parse(text: &str) -> Option<TimeOfDay> {
        let (hour, minute) =
            text.split_once(':').filter(|(hour, minute)| hour.len() == 2 && minute.len() == 2)?;
        let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
        (hour < 24 && minute < 60).then_some(TimeOfDay(hour * 60 + minute))
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TimeOfDay, D::Error> {
        let text = <std::borrow::Cow<'de, str> as Deserialize>::deserialize(deserializer)?;
        let expected = || format!("\"{text}\" is not a time of the day such as 08:00 or 17:30");
        TimeOfDay::parse(&text).ok_or_else(|| serde::de::Error::custom(expected()))
    }
}

/// The clock on the wall of a place: day of the week and minute of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// From Monday, 0.
    weekday: usize,
    minute: u32,
}

impl LocalTime {
    /// The clock on the wall where it is `offset_minutes` later than in UTC.
    pub fn of(time: WallTime, offset_minutes: i16) -> LocalTime {
        let minutes = (time.unix_seconds() / 60).saturating_add_signed(i64::from(offset_minutes));
        let (days, minute) = (minutes / u64::from(DAY), minutes % u64::from(DAY));
        // 1970-01-01 was a Thursday.
        let weekday = usize::try_from((days + 3) % 7).unwrap_or_default();
        LocalTime { weekday, minute: u32::try_from(minute).unwrap_or_default() }
    }
}

impl BusinessHours {
    /// Whether the clock on the wall stands within them.
    pub fn include(&self, at: LocalTime) -> bool {
        let (from, until) = (self.from.0, self.until.0);
        let on = |weekday: usize| self.days.contains(&WEEK[weekday % 7]);
        if from < until {
            on(at.weekday) && (from..until).contains(&at.minute)
        } else {
            (on(at.weekday) && at.minute >= from) || (on(at.weekday + 6) && at.minute < until)
        }
    }
}

/// What may pass in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// How fast at most; `None` is as fast as it goes.
    pub cap: Option<Rate>,
    /// What.
    pub passing: Passing,
}

impl Direction {
    /// Everything, as fast as it goes.
    pub const OPEN: Direction = Direction { cap: None, passing: Passing::All };

    /// By a cap, and in the hours that hold now by another one.
    fn of(usual: Option<Rate>, in_hours: Option<Rate>) -> Direction {
        let closed = |rate: Option<Rate>| rate.is_some_and(Rate::is_nothing);
        let passing = match (closed(usual), in_hours) {
            (true, None) => Passing::Nothing,
            (true, Some(rate)) if rate.is_nothing() => Passing::Nothing,
            // Closed for these hours alone: what is urgent goes on as outside them.
            (false, Some(rate)) if rate.is_nothing() => Passing::Critical,
            _ => Passing::All,
        };
        let cap = if passing == Passing::Critical { usual } else { in_hours.or(usual) };
        Direction { cap: cap.filter(|rate| !rate.is_nothing()), passing }
    }

    /// Both: the most restrictive wins.
    #[must_use]
    pub fn join(self, other: Direction) -> Direction {
        Direction { passing: self.passing.min(other.passing), ..self.capped(other.cap) }
    }

    /// The same under one more cap.
    #[must_use]
    pub fn capped(self, cap: Option<Rate>) -> Direction {
        Direction { cap: self.cap.into_iter().chain(cap).min(), ..self }
    }
}

/// What may pass at one time, by all caps that apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// To the whole site over its WAN.
    pub site_download: Direction,
    /// To one device over the WAN.
    pub download: Direction,
    /// From one device to its neighbours.
    pub upload: Direction,
}

impl Allowance {
    /// What `caps` come to when the clock on the wall says `at`: in each direction the most restrictive.
    pub fn of<'a>(caps: impl IntoIterator<Item = &'a Caps>, at: LocalTime) -> Allowance {
        let open = Direction::OPEN;
        let mut all = Allowance { site_download: open, download: open, upload: open };
        for one in caps {
            let hours = one.business_hours.as_ref().filter(|hours| hours.include(at));
            let in_hours = |pick: fn(&BusinessHours) -> Option<Rate>| hours.and_then(pick);
            all.site_download = all
                .site_download
                .join(Direction::of(one.site_download, in_hours(|hours| hours.site_download)));
            all.download = all.download.join(Direction::of(one.download, in_hours(|hours| hours.download)));
            all.upload = all.upload.join(Direction::of(one.upload, in_hours(|hours| hours.upload)));
        }
        all
    }
}

impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.business_hours.as_ref();
        let ways = [
            ("site", self.site_download, hours.and_then(|hours| hours.site_download)),
            ("download", self.download, hours.and_then(|hours| hours.download)),
            ("upload", self.upload, hours.and_then(|hours| hours.upload)),
        ];
        let mut parts = Vec::new();
        for (name, usual, in_hours) in ways {
            let window =
                hours.map(|hours| format!("from {} until {}", hours.from, hours.until)).unwrap_or_default();
            match (usual, in_hours) {
                (None, None) => {}
                (Some(usual), None) => parts.push(format!("{name} {usual}")),
                (None, Some(rate)) => parts.push(format!("{name} {rate} {window}")),
                (Some(usual), Some(rate)) => parts.push(format!("{name} {usual}, {rate} {window}")),
            }
        }
        for (place, passing) in [("on battery", self.on_battery), ("on metered links", self.on_metered)] {
            let word = match passing {
                None => continue,
                Some(Passing::Nothing) => "nothing",
                Some(Passing::Critical) => "what is critical",
                Some(Passing::All) => "everything",
            };
            parts.push(format!("{place} {word}"));
        }
        f.write_str(&parts.join("; "))
    }
}

impl Caps {
    /// Whether it says nothing.
    pub fn is_unset(&self) -> bool {
        *self == Caps::default()
    }

    /// Whether it says something of the site as a whole.
    pub fn is_about_the_site(&self) -> bool {
        self.site_download.is_some()
            || self.business_hours.as_ref().is_some_and(|hours| hours.site_download.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(text: &str) -> Caps {
        toml::from_str(text).expect("caps")
    }

    const OFFICE: &str = "site-download = \"20 Mbit/s\"\nupload = \"50 Mbit/s\"\n[business-hours]\nfrom = \"08:00\"\nuntil = \"18:00\"\nsite-download = \"2 Mbit/s\"\ndownload = \"nothing\"\n";

    /// Wednesday 2026-11-25 at that time in UTC.
    fn wednesday(hour: u64, minute: u64) -> WallTime {
        let midnight = WallTime::parse("2026-11-25T00:00:00Z").expect("a time");
        midnight.plus_seconds(hour * 3_600 + minute * 60)
    }

    // proves X3: other values hold in business hours, by the clock of the place
    #[test]
    fn business_hours_are_those_of_the_place() {
        let office = caps(OFFICE);
        let site = |hour, minute, offset| {
            let at = LocalTime::of(wednesday(hour, minute), offset);
            Allowance::of([&office], at).site_download.cap.map(|rate| rate.to_string()).unwrap_or_default()
        };
        let table = [
            (7, 59, 0, "20 Mbit/s"),
            (8, 0, 0, "2 Mbit/s"),
            (17, 59, 0, "2 Mbit/s"),
            (18, 0, 0, "20 Mbit/s"),
            // It is 08:30 in Utrecht, and 23:30 on Tuesday in Los Angeles.
            (7, 30, 60, "2 Mbit/s"),
            (7, 30, -480, "20 Mbit/s"),
            (18, 30, -480, "2 Mbit/s"),
        ];
        for (hour, minute, offset, expected) in table {
            assert_eq!(site(hour, minute, offset), expected, "{hour}:{minute:02} UTC, {offset}");
        }
        let saturday = LocalTime::of(wednesday(10 + 72, 0), 0);
        assert_eq!(Allowance::of([&office], saturday).site_download.cap, Some(Rate::megabits(20)));
    }

    #[test]
    fn hours_may_pass_midnight() {
        let night = caps("[business-hours]\ndays = [\"friday\"]\nfrom = \"22:00\"\nuntil = \"06:00\"\n");
        let hours = night.business_hours.expect("hours");
        let includes = |hours_later: u64| hours.include(LocalTime::of(wednesday(hours_later, 0), 0));
        // Thursday 23:00, Friday 05:00, Friday 22:00, Saturday 05:00, Saturday 06:00, Saturday 22:00.
        let seen = [47, 53, 70, 77, 78, 94].map(includes);
        assert_eq!(seen, [false, false, true, true, false, false]);
    }

    // proves X3: what is critical passes where business hours stop the rest
    #[test]
    fn nothing_in_business_hours_lets_critical_patches_pass() {
        let at = |hour| Allowance::of([&caps(OFFICE)], LocalTime::of(wednesday(hour, 0), 0)).download;
        assert_eq!(at(9), Direction { cap: None, passing: Passing::Critical });
        assert_eq!(at(19), Direction::OPEN);
        let never = caps("upload = \"nothing\"\n");
        let upload = Allowance::of([&never], LocalTime::of(wednesday(9, 0), 0)).upload;
        assert_eq!(upload, Direction { cap: None, passing: Passing::Nothing });
    }

    #[test]
    fn the_most_restrictive_wins_in_each_direction_whatever_the_order() {
        let (office, other) = (caps(OFFICE), caps("site-download = \"1 Mbit/s\"\nupload = \"80 Mbit/s\"\n"));
        let at = LocalTime::of(wednesday(20, 0), 0);
        let joined = Allowance::of([&office, &other], at);
        assert_eq!(joined, Allowance::of([&other, &office], at));
        assert_eq!(joined.site_download.cap, Some(Rate::megabits(1)));
        assert_eq!(joined.upload.cap, Some(Rate::megabits(50)));
    }

    #[test]
    fn caps_are_read_in_one_line() {
        let text = format!("on-battery = \"critical\"\n{OFFICE}");
        let expected = "site 20 Mbit/s, 2 Mbit/s from 08:00 until 18:00; download nothing from 08:00 until 18:00; upload 50 Mbit/s; on battery what is critical";
        assert_eq!(caps(&text).to_string(), expected);
    }

    #[test]
    fn what_does_not_hold_is_refused_with_what_was_expected() {
        let refused = |text: &str| toml::from_str::<Caps>(text).expect_err(text).to_string();
        assert!(refused("download = \"fast\"").contains("20 Mbit/s"));
        assert!(refused("[business-hours]\nfrom = \"8\"\nuntil = \"18:00\"").contains("08:00"));
        assert!(refused("[business-hours]\nfrom = \"24:00\"\nuntil = \"18:00\"").contains("08:00"));
        assert!(refused("on-battery = \"some\"").contains("critical"));
    }
}
