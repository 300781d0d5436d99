//! Debian package versions, checked for syntax before they are compared (Debian Policy 5.6.12).

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;

/// A Debian version, `[epoch:]upstream[-revision]`. Ordered as dpkg orders it, so `1.0` equals `0:1.0` in order while
/// the two differ as text.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DebianVersion(String);

/// Text that is not a Debian version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a Debian version ([epoch:]upstream[-revision])")]
pub struct NotAVersion(String);

impl DebianVersion {
    /// Checks the syntax: a numeric epoch, an upstream version of `A-Za-z0-9.+-~:`, a revision of `A-Za-z0-9+.~`.
    ///
    /// # Errors
    /// [`NotAVersion`] for anything else.
    pub fn new(text: impl Into<String>) -> Result<DebianVersion, NotAVersion> {
        let text = text.into();
        if is_valid(&text) {
            Ok(DebianVersion(text))
        } else {
            Err(NotAVersion(text.chars().take(80).collect()))
        }
    }

    /// The version as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_valid(text: &str) -> bool {
    if text.len() > 200 {
        return false;
    }
    let (epoch, rest) = match text.split_once(':') {
        Some((epoch, rest)) => (Some(epoch), rest),
        None => (None, text),
    };
    let (upstream, revision) = match rest.rsplit_once('-') {
        Some((upstream, revision)) => (upstream, Some(revision)),
        None => (rest, None),
    };
    let epoch_holds = epoch
        .is_none_or(|epoch| epoch.bytes().all(|byte| byte.is_ascii_digit()) && epoch.parse::<i32>().is_ok());
    let upstream_holds = upstream.bytes().all(|byte| {
        byte.is_ascii_alphanumeric() || b".+-~".contains(&byte) || (epoch.is_some() && byte == b':')
    }) && upstream.starts_with(|first: char| first.is_ascii_digit());
    let revision_holds = revision.is_none_or(|revision| {
        !revision.is_empty()
            && revision.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+~".contains(&byte))
    });
    epoch_holds && upstream_holds && revision_holds
}

impl Ord for DebianVersion {
    fn cmp(&self, other: &DebianVersion) -> Ordering {
        deb_version::compare_versions(&self.0, &other.0)
    }
}

impl PartialOrd for DebianVersion {
    fn partial_cmp(&self, other: &DebianVersion) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for DebianVersion {
    fn eq(&self, other: &DebianVersion) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for DebianVersion {}

impl TryFrom<String> for DebianVersion {
    type Error = NotAVersion;
    fn try_from(text: String) -> Result<DebianVersion, NotAVersion> {
        DebianVersion::new(text)
    }
}

impl From<DebianVersion> for String {
    fn from(version: DebianVersion) -> String {
        version.0
    }
}

impl fmt::Display for DebianVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for DebianVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DebianVersion({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> DebianVersion {
        DebianVersion::new(text).expect(text)
    }

    #[test]
    fn order_is_dpkgs() {
        let rising = ["1.0~rc1", "1.0", "1.0-1", "1.0-1+deb12u1", "1.0-1+deb12u2", "1.0-10", "1.1", "1:0.1"];
        for pair in rising.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert_eq!(version("0:1.0"), version("1.0"));
    }

    #[test]
    fn syntax_is_checked() {
        for bad in ["", "a:1", ":1", "1-", "a1", "1 2", "1:", "1_2", "-1", "1.0-ä", "99999999999:1"] {
            assert!(DebianVersion::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn order_is_total(a in "[0-9][0-9a-z.~+]{0,8}(-[0-9a-z~+]{1,4})?", b in "[0-9][0-9a-z.~+]{0,8}", c in "[0-9][0-9.~]{0,6}") {
            let (a, b, c) = (version(&a), version(&b), version(&c));
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            if a <= b && b <= c { prop_assert!(a <= c); }
        }
    }
}
