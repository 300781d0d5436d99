//! Mirrors: where a vendor's files lie for whoever reaches them over HTTP.

use crate::identifier::VendorName;
use crate::limits;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A mirror of one vendor's files. In text it is `VENDOR=ADDRESS`, such as `debian=http://mirror.example/debian`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mirror {
    /// The vendor.
    pub vendor: VendorName,
    /// Address below which its files lie.
    pub url: String,
}

impl Mirror {
    /// Whether the address carries a user or a password.
    pub fn has_credentials(&self) -> bool {
        let after_scheme = self.url.split_once("//").map_or("", |(_, rest)| rest);
        after_scheme.split('/').next().is_some_and(|authority| authority.contains('@'))
    }
}

/// Text that names no mirror.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected VENDOR=ADDRESS such as \"debian=http://mirror.example/debian\", the address being the one below which the vendor's files lie"
)]
pub struct NotAMirror;

impl FromStr for Mirror {
    type Err = NotAMirror;
    fn from_str(text: &str) -> Result<Mirror, NotAMirror> {
        let (vendor, url) = text.split_once('=').ok_or(NotAMirror)?;
        let vendor = VendorName::new(vendor.trim()).map_err(|_| NotAMirror)?;
        let url = url.trim();
        let rest = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let plain = url.len() <= limits::URL_BYTES && url.bytes().all(|byte| byte.is_ascii_graphic());
        match rest {
            Some(rest) if plain && !rest.is_empty() => Ok(Mirror { vendor, url: url.to_owned() }),
            _ => Err(NotAMirror),
        }
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.vendor, self.url)
    }
}

impl fmt::Debug for Mirror {
    // The address may carry a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("vendor", &self.vendor).finish_non_exhaustive()
    }
}

impl Serialize for Mirror {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mirror {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mirror, D::Error> {
        let text = <std::borrow::Cow<'de, str> as Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_a_vendor_and_an_address() {
        let mirror: Mirror = "debian = https://mirror.example/debian".parse().expect("a mirror");
        assert_eq!(mirror.to_string(), "debian=https://mirror.example/debian");
        assert!(!mirror.has_credentials());
        let bad =
            ["debian", "=http://a.example", "debian=ftp://a.example", "debian=http://", "debian=http://a b"];
        assert!(bad.iter().all(|text| text.parse::<Mirror>() == Err(NotAMirror)));
    }

    #[test]
    fn a_password_in_the_address_is_found_and_not_shown_by_accident() {
        let mirror: Mirror = "debian=https://user:secret@mirror.example/x".parse().expect("a mirror");
        assert!(mirror.has_credentials());
        assert!(!format!("{mirror:?}").contains("secret"));
        let at_in_path: Mirror = "debian=https://mirror.example/x@y".parse().expect("a mirror");
        assert!(!at_in_path.has_credentials());
    }
}
