//! Operating systems: what a device runs, what a patch is for, and the one rule that matches them (N9, N27).

use crate::{limits, text};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Family of operating systems; it decides which installers exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Any Linux distribution.
    Linux,
    /// Microsoft Windows.
    Windows,
    /// Apple macOS.
    MacOs,
}

/// The operating system of one device, as its membership certificate states it. The words are the device's own: one that is
/// too long, or would steer the terminal of whoever looks, is not decoded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// Family.
    pub family: Family,
    /// Distribution or product, in lower case: `debian`, `windows-server`, `macos` (`ID` of `os-release` on Linux).
    #[serde(deserialize_with = "read_word")]
    pub distribution: String,
    /// Release: `12`, `2019`, `15` (`VERSION_ID` of `os-release` on Linux).
    #[serde(deserialize_with = "read_word")]
    pub release: String,
    /// Architecture in the distribution's own words: `amd64`, `arm64`.
    #[serde(deserialize_with = "read_word")]
    pub architecture: String,
}

fn read_word<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let word = String::deserialize(deserializer)?;
    match word.len() <= limits::NAME_BYTES && text::is_plain(&word) {
        true => Ok(word),
        false => {
            Err(serde::de::Error::custom("the name of an operating system is too long or not plain text"))
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.distribution, self.release, self.architecture)
    }
}

impl System {
    /// Whether a patch may apply to both: then devices with these systems can share content, that of all architectures at
    /// least.
    pub fn may_share(&self, other: &System) -> bool {
        self.family == other.family
            && self.distribution == other.distribution
            && self.release == other.release
    }
}

/// What a patch is for: one distribution and release, some or all architectures.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Family.
    pub family: Family,
    /// Distribution or product, exactly as in [`System::distribution`].
    pub distribution: String,
    /// Release, exactly as in [`System::release`].
    pub release: String,
    /// Architecture, or `None` for a patch that is the same on all (`Architecture: all`).
    pub architecture: Option<String>,
}

impl Target {
    /// Whether a patch with this target applies to `system`: equal in all that the target names, nothing inferred.
    pub fn matches(&self, system: &System) -> bool {
        self.family == system.family
            && self.distribution == system.distribution
            && self.release == system.release
            && self.architecture.as_ref().is_none_or(|architecture| *architecture == system.architecture)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let architecture = self.architecture.as_deref().unwrap_or("all");
        write!(f, "{} {} {architecture}", self.distribution, self.release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn words_that_would_steer_a_terminal_are_not_decoded() {
        let good = windows("2019");
        let decoded = |system: &System| codec::decode::<System, 4096>(&codec::encode(system));
        assert_eq!(decoded(&good).ok(), Some(good));
        let long = "1".repeat(limits::NAME_BYTES + 1);
        for bad in ["12\u{1b}]0;all is well\u{7}", "12\r13", "\u{202e}21", long.as_str()] {
            assert!(decoded(&windows(bad)).is_err(), "{bad:?}");
            assert!(decoded(&System { distribution: bad.to_owned(), ..windows("2019") }).is_err(), "{bad:?}");
        }
    }

    fn windows(release: &str) -> System {
        System {
            family: Family::Windows,
            distribution: "windows-server".to_owned(),
            release: release.to_owned(),
            architecture: "amd64".to_owned(),
        }
    }

    // proves N9
    #[test]
    fn a_target_matches_its_own_system_only() {
        let target = Target {
            family: Family::Windows,
            distribution: "windows-server".to_owned(),
            release: "2019".to_owned(),
            architecture: None,
        };
        assert!(target.matches(&windows("2019")));
        assert!(!target.matches(&windows("2022")));
        assert!(!target.matches(&System { family: Family::Linux, ..windows("2019") }));
        let arm = Target { architecture: Some("arm64".to_owned()), ..target };
        assert!(!arm.matches(&windows("2019")));
    }
}
