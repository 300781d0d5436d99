//! Names of things: every identifier is a type of its own with one checking constructor.

use crate::codec::hex_newtype;
use crate::limits;
use serde::{Deserialize, Serialize};
use std::fmt;

hex_newtype! {
    /// A fleet: SHA-256 of its first root metadata file, so that the identifier itself pins the trust root.
    FleetId
}

hex_newtype! {
    /// A device: its ed25519 public key (32 bytes), which is also its libp2p identity.
    DeviceId
}

hex_newtype! {
    /// SHA-256 of a manifest's canonical JSON: what an approval by name binds.
    ManifestDigest
}

impl DeviceId {
    /// The first eight hexadecimal digits, for messages where a person compares with a list.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

/// Text that is not a valid name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a valid {kind}: {expected}")]
pub struct NotAName {
    kind: &'static str,
    expected: &'static str,
    text: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $valid:path, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and makes the name.
            ///
            /// # Errors
            /// [`NotAName`] says what a valid one looks like.
            pub fn new(text: impl Into<String>) -> Result<Self, NotAName> {
                let text = text.into();
                if !text.is_empty() && text.len() <= limits::NAME_BYTES && $valid(&text) {
                    Ok(Self(text))
                } else {
                    let text = text.chars().take(80).collect();
                    Err(NotAName { kind: $kind, expected: $expected, text })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotAName;
            fn try_from(text: String) -> Result<Self, NotAName> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NotAName;
            fn from_str(text: &str) -> Result<Self, NotAName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

fn is_simple(text: &str) -> bool {
    let inner =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes().all(inner) && !text.starts_with(['.', '-']) && !text.contains("..")
}

fn is_patch(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b".+~:=_-".contains(&byte);
    let Some((vendor, rest)) = text.split_once('/') else { return false };
    !vendor.is_empty()
        && is_simple(vendor)
        && !rest.is_empty()
        && rest.bytes().all(inner)
        && !rest.starts_with(['.', '-'])
}

fn is_host(text: &str) -> bool {
    text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        && !text.starts_with(['.', '-'])
}

fn is_cve(text: &str) -> bool {
    let mut parts = text.split('-');
    let digits = |part: Option<&str>, least: usize| {
        part.is_some_and(|part| {
            part.len() >= least && part.len() <= 19 && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    parts.next() == Some("CVE")
        && digits(parts.next(), 4)
        && digits(parts.next(), 4)
        && parts.next().is_none()
}

name! {
    /// A site: a branch office.
    SiteName, "site name", is_simple, "lower-case letters, digits, '-', '_' and '.'"
}
name! {
    /// A vendor whose patches the fleet admits.
    VendorName, "vendor name", is_simple, "lower-case letters, digits, '-', '_' and '.'"
}
name! {
    /// A policy, a configuration, or a patch group.
    RuleName, "rule name", is_simple, "lower-case letters, digits, '-', '_' and '.'"
}
name! {
    /// A patch, as `vendor/name`, for example `debian/libssl3=3.0.17-1~deb12u2`.
    PatchId, "patch", is_patch, "vendor/name, for example debian/libssl3=3.0.17-1~deb12u2"
}
name! {
    /// The host name that a device gives itself; for people, never for decisions.
    HostName, "host name", is_host, "at most 64 letters, digits, '-', '_' and '.'"
}
name! {
    /// A CVE number such as `CVE-2024-3094`.
    Cve, "CVE number", is_cve, "CVE-YEAR-NUMBER, for example CVE-2024-3094"
}

impl PatchId {
    /// The part before the slash.
    pub fn vendor(&self) -> VendorName {
        let vendor = self.0.split('/').next().unwrap_or_default();
        VendorName::new(vendor).expect("checked when the patch identifier was made")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(SiteName::new("utrecht").is_ok());
        for bad in ["", "Utrecht", "../x", "a/b", "-a", "a..b", "ü"] {
            assert!(SiteName::new(bad).is_err(), "{bad}");
        }
        let patch = PatchId::new("debian/libssl3=3.0.17-1~deb12u2").expect("patch");
        assert_eq!(patch.vendor().as_str(), "debian");
        for bad in ["libssl3", "/x", "debian/", "debian/../x", "debian/a b", "debian/a/b"] {
            assert!(PatchId::new(bad).is_err(), "{bad}");
        }
        assert!(Cve::new("CVE-2024-3094").is_ok());
        assert!(Cve::new("CVE-24-3094").is_err());
        assert!(serde_json::from_str::<SiteName>("\"A\"").is_err());
    }
}
