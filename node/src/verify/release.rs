//! The release file of an APT suite, read from its signed text only (format: Debian repository format, "Release").

use protocol::digest::Sha256;
use protocol::time::WallTime;

/// What an APT suite says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// `Origin`, for example `Debian`.
    pub origin: Option<String>,
    /// `Suite`, for example `oldstable-security`.
    pub suite: String,
    /// `Codename`, for example `bookworm-security`.
    pub codename: String,
    /// `Date`: when it was made.
    pub date: WallTime,
    /// `Valid-Until`: when it is too old to be believed, if the suite says so.
    pub valid_until: Option<WallTime>,
    entries: Vec<Entry>,
}

/// One line of the `SHA256` list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: String,
    sha256: Sha256,
    size: u64,
}

/// Text that is not a release file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("release file: {0}")]
pub struct NotARelease(String);

impl Release {
    /// Reads the text of a release file, which must be one paragraph of fields.
    ///
    /// # Errors
    /// [`NotARelease`] when a field is missing, doubled, or not of its form.
    pub fn parse(text: &str) -> Result<Release, NotARelease> {
        let mut fields: Vec<(&str, &str, Vec<&str>)> = Vec::new();
        let mut ended = false;
        for line in text.lines() {
            if line.trim().is_empty() {
                ended = !fields.is_empty();
                continue;
            }
            if ended {
                return Err(NotARelease("has a second paragraph".to_owned()));
            }
            if line.starts_with([' ', '\t']) {
                let last =
                    fields.last_mut().ok_or_else(|| NotARelease("begins inside a field".to_owned()))?;
                last.2.push(line.trim());
                continue;
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| NotARelease(format!("no field in {}", shown(line))))?;
            if fields.iter().any(|(other, ..)| other.eq_ignore_ascii_case(name)) {
                return Err(NotARelease(format!("field {} stands twice", shown(name))));
            }
            fields.push((name, value.trim(), Vec::new()));
        }
        let find = |name: &str| fields.iter().find(|(other, ..)| other.eq_ignore_ascii_case(name));
        let text_of = |name: &str| find(name).map(|(_, value, _)| (*value).to_owned());
        let required =
            |name: &str| text_of(name).ok_or_else(|| NotARelease(format!("field {name} is missing")));
        let time = |text: String| {
            parse_date(&text).ok_or_else(|| NotARelease(format!("{} is not a date", shown(&text))))
        };
        let entries = find("SHA256").map(|(_, _, lines)| lines.as_slice()).unwrap_or_default();
        Ok(Release {
            origin: text_of("Origin"),
            suite: required("Suite")?,
            codename: required("Codename")?,
            date: time(required("Date")?)?,
            valid_until: text_of("Valid-Until").map(time).transpose()?,
            entries: entries.iter().map(|line| parse_entry(line)).collect::<Result<_, _>>()?,
        })
    }

    /// SHA-256 and size in bytes that the suite states for the file at `path`; `None` when it does not list the path,
    /// or lists it twice with different words.
    pub fn find(&self, path: &str) -> Option<(Sha256, u64)> {
        let mut found = self.entries.iter().filter(|entry| entry.path == path);
        let first = found.next()?;
        found.all(|other| other == first).then_some((first.sha256, first.size))
    }
}

fn parse_entry(line: &str) -> Result<Entry, NotARelease> {
    let wrong = || NotARelease(format!("{} is not a digest, a size and a path", shown(line)));
    let mut words = line.split_ascii_whitespace();
    let (Some(digest), Some(size), Some(path), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(wrong());
    };
    let sha256 = digest.parse().map_err(|_| wrong())?;
    Ok(Entry { path: path.to_owned(), sha256, size: size.parse().map_err(|_| wrong())? })
}

/// Reads `Sat, 21 Nov 2026 00:53:02 UTC` (RFC 5322 with a written zone, always UTC).
fn parse_date(text: &str) -> Option<WallTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_ascii_whitespace();
    let (_weekday, day, month, year) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let (clock, zone) = (words.next()?, words.next()?);
    if words.next().is_some() || !matches!(zone, "UTC" | "GMT" | "Z" | "+0000" | "-0000") {
        return None;
    }
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let pad = |part: &str| format!("{part:0>2}");
    let clock: Vec<String> = clock.split(':').map(pad).collect();
    WallTime::parse(&format!("{year}-{month:02}-{}T{}Z", pad(day), clock.join(":"))).ok()
}

fn shown(text: &str) -> String {
    format!("\"{}\"", text.chars().take(60).collect::<String>().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "Origin: Debian\nSuite: oldstable-security\nCodename: bookworm-security\n\
        Date: Sat, 21 Nov 2026 00:53:02 UTC\nValid-Until: Sat, 28 Nov 2026  0:53:02 UTC\nSHA256:\n \
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/Packages\n";

    #[test]
    fn reads_what_debian_writes() {
        let release = Release::parse(TEXT).expect("release");
        assert_eq!(release.suite, "oldstable-security");
        assert_eq!(release.date.to_string(), "2026-11-21T00:53:02Z");
        assert_eq!(release.valid_until.map(|time| time.to_string()).as_deref(), Some("2026-11-28T00:53:02Z"));
        assert_eq!(release.find("main/Packages"), Some((Sha256::of(b""), 0)));
        assert_eq!(release.find("Packages"), None);
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        for (from, to) in [
            ("Origin: Debian", "Suite: other"),
            ("Codename: bookworm-security\n", ""),
            ("Origin: Debian\n", "Origin: Debian\n\n"),
            ("Origin", " Origin"),
            ("2026 00:53:02 UTC", "2026 00:53:02 CET"),
            (" 0 main", " x main"),
        ] {
            let text = TEXT.replacen(from, to, 1);
            assert_ne!(text, TEXT);
            assert!(Release::parse(&text).is_err(), "{to}");
        }
        let twice = format!("{TEXT} {} 1 main/Packages\n", Sha256::of(b"x"));
        assert_eq!(Release::parse(&twice).expect("release").find("main/Packages"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[ \\nA-Za-z0-9:,]{0,200}") {
            let _ = Release::parse(&text);
            let _ = Release::parse(&format!("{TEXT}{text}"));
        }
    }
}
