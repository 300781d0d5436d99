//! Mirrors: where a vendor's files lie for whoever reaches them over HTTP.

use crate::identifier::VendorName;
use crate::limits;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::Ipv6Addr;
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
        authority(&self.url).contains('@')
    }
}

/// The mirrors of several policies, each once, in their order.
pub(super) fn joined<'a>(mirrors: impl Iterator<Item = &'a Mirror>) -> Vec<Mirror> {
    let mut all: Vec<Mirror> = Vec::new();
    for mirror in mirrors {
        if !all.contains(mirror) {
            all.push(mirror.clone());
        }
    }
    all
}

/// User, password, host and port of an address.
fn authority(url: &str) -> &str {
    let after_scheme = url.split_once("//").map_or("", |(_, rest)| rest);
    after_scheme.split('/').next().unwrap_or_default()
}

/// Whether that names a host: one in brackets or of the letters of host names, and a port if there is a colon.
fn is_host(authority: &str) -> bool {
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (place, None),
    };
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = !host.is_empty() && host.bytes().all(name);
    (named || bracketed.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()))
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
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
        let letter = |byte: u8| byte.is_ascii_graphic() && !b"?#\\".contains(&byte);
        let plain = url.len() <= limits::URL_BYTES && url.bytes().all(letter);
        match rest {
            Some(_) if plain && is_host(authority(url)) => Ok(Mirror { vendor, url: url.to_owned() }),
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
        for good in ["http://[2001:db8::1]:8080/x", "http://10.0.0.1", "https://user:pw@mirror.example:443/x"]
        {
            assert!(format!("debian={good}").parse::<Mirror>().is_ok(), "{good}");
        }
        let bad = [
            "",
            "ftp://a.example",
            "http://",
            "http://a b",
            "http:///user:pw@host/",
            "http://[::1",
            "http://:80",
            "http://a:0",
            "http://a:x",
            "http://a.example/?token=x",
            "http://a.example/#x",
            "http://a\\b",
        ];
        assert!(bad.iter().all(|url| format!("debian={url}").parse::<Mirror>() == Err(NotAMirror)));
        assert!(["debian", "=http://a.example"].iter().all(|text| text.parse::<Mirror>() == Err(NotAMirror)));
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
