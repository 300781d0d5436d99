//! Values as people read them: shares, counts, times.

use maud::{Markup, Render, html};
use protocol::time::WallTime;

/// A share given in thousandths.
pub(super) fn percent(per_mille: u64) -> String {
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

/// A factor given in thousandths, rounded to hundredths.
pub(super) fn factor(per_mille: u64) -> String {
    let hundredths = per_mille / 10 + u64::from(per_mille % 10 >= 5);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// A number with its noun.
pub(super) fn count(number: u64, noun: &str) -> String {
    let ending = match (number, noun.ends_with("ch")) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{number} {noun}{ending}")
}

/// A time as it is seen from now.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    time: WallTime,
    now: WallTime,
}

impl Moment {
    pub(super) fn new(time: WallTime, now: WallTime) -> Moment {
        Moment { time, now }
    }

    /// Date and time in UTC.
    pub(super) fn absolute(self) -> Markup {
        let text = self.time.to_string();
        html! { time datetime=(text) { (text.replace('T', " ").replace('Z', " UTC")) } }
    }

    fn relative(self) -> String {
        let (seconds, future) = match self.time > self.now {
            true => (self.time.seconds_since(self.now), true),
            false => (self.now.seconds_since(self.time), false),
        };
        let text = match seconds {
            0..60 => return if future { "in a moment" } else { "just now" }.to_owned(),
            60..3_600 => count(seconds / 60, "minute"),
            3_600..172_800 => count(seconds / 3_600, "hour"),
            _ => count(seconds / 86_400, "day"),
        };
        if future { format!("in {text}") } else { format!("{text} ago") }
    }
}

impl Render for Moment {
    fn render(&self) -> Markup {
        html! { span.when { b { (self.relative()) } " " (self.absolute()) } }
    }
}

/// A value of a link's query: everything but unreserved characters (RFC 3986, section 2.3) is percent-encoded.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_times_read_well() {
        assert_eq!((factor(1_004), factor(1_095)), ("1.00".to_owned(), "1.10".to_owned()));
        assert_eq!((count(1, "patch"), count(2, "patch")), ("1 patch".to_owned(), "2 patches".to_owned()));
        let now = WallTime::from_unix_seconds(1_000_000);
        let at = |seconds| Moment::new(WallTime::from_unix_seconds(seconds), now).relative();
        assert_eq!(
            (at(999_990), at(999_000), at(900_000)),
            ("just now".to_owned(), "16 minutes ago".to_owned(), "27 hours ago".to_owned())
        );
        assert_eq!(at(1_100_000), "in 27 hours");
        assert_eq!(encode("a/b=1+2~ü"), "a%2Fb%3D1%2B2~%C3%BC");
    }
}
