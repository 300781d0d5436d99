//! The files by which an organisation describes its fleet: vendors, services, sites, revoked devices.

use crate::identifier::{DeviceId, SiteName, VendorName};
use crate::signature::PublicKey;
use crate::text;
use crate::time::WallTime;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Target path of [`Vendors`], signed by `targets`.
pub const VENDORS_PATH: &str = "fleet/vendors.toml";
/// Target path of [`Services`], signed by `targets`.
pub const SERVICES_PATH: &str = "fleet/services.toml";
/// Target path of [`Sites`], signed by `fleet`.
pub const SITES_PATH: &str = "fleet/sites.toml";
/// Target path of [`Revoked`], signed by `fleet`.
pub const REVOKED_PATH: &str = "fleet/revoked.json";

/// A signed file that does not have the form it should have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} is not well formed: {cause}")]
pub struct Malformed {
    path: String,
    cause: String,
}

impl Malformed {
    /// Names the file and what is wrong with it.
    pub fn new(path: &str, cause: impl std::fmt::Display) -> Malformed {
        Malformed { path: path.to_owned(), cause: cause.to_string() }
    }
}

/// Reads a TOML target.
///
/// # Errors
/// [`Malformed`] with the line and what was expected.
pub fn parse_toml<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, Malformed> {
    let read = std::str::from_utf8(bytes).map_err(|error| Malformed::new(path, error))?;
    toml::from_str(read).map_err(|error| Malformed::new(path, toml_fault(read, &error)))
}

/// What is wrong with a text in TOML, in one short line: where, and what was expected. The text itself is not repeated: a line of it
/// can be of any length, steer the terminal, or hold what should not be there.
pub fn toml_fault(read: &str, error: &toml::de::Error) -> String {
    let message = text::shown(error.message());
    let Some(before) = error.span().and_then(|span| read.get(..span.start)) else { return message };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
    format!("line {line}, column {column}: {message}")
}

/// Writes a TOML target.
///
/// # Panics
/// Never for the types of this crate, which all have a TOML form.
pub fn to_toml<T: Serialize>(value: &T) -> Vec<u8> {
    toml::to_string_pretty(value).expect("our own types have a TOML form").into_bytes()
}

/// `fleet/vendors.toml`: whose signatures the fleet accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vendors {
    /// The vendors.
    #[serde(default, rename = "vendor")]
    pub vendors: Vec<Vendor>,
}

/// One vendor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vendor {
    /// Its name, the first part of its patches' names.
    pub name: VendorName,
    /// Its keys.
    #[serde(default, rename = "key")]
    pub keys: Vec<VendorKey>,
}

/// One key of a vendor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VendorKey {
    /// Not trusted before.
    pub valid_from: Option<WallTime>,
    /// Not trusted from then on.
    pub valid_until: Option<WallTime>,
    /// Withdrawn by the organisation, whatever the key says of itself.
    #[serde(default)]
    pub revoked: bool,
    /// The key itself.
    pub material: KeyMaterial,
}

impl VendorKey {
    /// Whether the organisation trusts the key at `now`.
    pub fn is_trusted(&self, now: WallTime) -> bool {
        !self.revoked
            && self.valid_from.is_none_or(|from| from <= now)
            && self.valid_until.is_none_or(|until| now < until)
    }
}

/// Formats of vendor keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum KeyMaterial {
    /// A raw ed25519 key.
    Ed25519 {
        /// The key.
        public: PublicKey,
    },
    /// An ASCII-armoured OpenPGP certificate (RFC 9580), for the APT suites named here and no others.
    OpenPgp {
        /// The certificate.
        certificate: String,
        /// Suites or codenames for which the certificate may sign.
        suites: Vec<String>,
    },
}

impl Vendors {
    /// The vendor of that name.
    pub fn find(&self, name: &VendorName) -> Option<&Vendor> {
        self.vendors.iter().find(|vendor| vendor.name == *name)
    }
}

/// `fleet/services.toml`: which devices serve the fleet, where, and with which keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    /// Seeds: origin of content and metadata, tracker of the sites.
    #[serde(default, rename = "seed")]
    pub seeds: Vec<Service>,
    /// Aggregators: where reports go.
    #[serde(default, rename = "aggregator")]
    pub aggregators: Vec<Aggregator>,
    /// Keys that may sign membership certificates; they grant no roles.
    #[serde(default, rename = "enrolment")]
    pub enrolment_keys: Vec<EnrolmentKey>,
}

/// A device with a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The device.
    pub device: DeviceId,
    /// Multiaddresses at which branch offices reach it.
    pub addresses: Vec<String>,
}

/// An aggregator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Aggregator {
    /// The device.
    pub device: DeviceId,
    /// Multiaddresses at which branch offices reach it.
    pub addresses: Vec<String>,
    /// The key that signs its watermarks.
    pub watermark_key: PublicKey,
}

/// A key of a registrar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EnrolmentKey {
    /// The key.
    pub public: PublicKey,
    /// Certificates it signed are not accepted from then on.
    pub valid_until: Option<WallTime>,
}

impl Services {
    /// Whether `device` is a seed.
    pub fn is_seed(&self, device: DeviceId) -> bool {
        self.seeds.iter().any(|seed| seed.device == device)
    }

    /// The aggregator entry of `device`.
    pub fn aggregator(&self, device: DeviceId) -> Option<&Aggregator> {
        self.aggregators.iter().find(|aggregator| aggregator.device == device)
    }
}

/// `fleet/sites.toml`: the branch offices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sites {
    /// The sites.
    #[serde(default, rename = "site")]
    pub sites: Vec<Site>,
}

/// One branch office.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name.
    pub name: SiteName,
    /// Multiaddresses of members that every device of the site may try: the last rung of the discovery ladder.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// `fleet/revoked.json`: devices that are no longer members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// The devices.
    pub devices: Vec<RevokedDevice>,
}

/// A device that is no longer a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedDevice {
    /// The device.
    pub device: DeviceId,
    /// Since when.
    pub since: WallTime,
    /// Why, for people.
    pub reason: String,
}

impl Revoked {
    /// Whether `device` was revoked.
    pub fn contains(&self, device: DeviceId) -> bool {
        self.devices.iter().any(|entry| entry.device == device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_round_trips() {
        let vendors = Vendors {
            vendors: vec![Vendor {
                name: VendorName::new("debian").expect("vendor"),
                keys: vec![
                    VendorKey {
                        material: KeyMaterial::OpenPgp {
                            certificate: "-----\nx\n".to_owned(),
                            suites: vec!["a".to_owned()],
                        },
                        valid_from: None,
                        valid_until: Some(WallTime::from_unix_seconds(5)),
                        revoked: false,
                    },
                    VendorKey {
                        material: KeyMaterial::Ed25519 { public: PublicKey::from_bytes([1; 32]) },
                        valid_from: None,
                        valid_until: None,
                        revoked: true,
                    },
                ],
            }],
        };
        let bytes = to_toml(&vendors);
        assert_eq!(parse_toml::<Vendors>(VENDORS_PATH, &bytes), Ok(vendors.clone()));
        assert!(vendors.vendors[0].keys[0].is_trusted(WallTime::from_unix_seconds(4)));
        assert!(!vendors.vendors[0].keys[0].is_trusted(WallTime::from_unix_seconds(5)));
        assert!(!vendors.vendors[0].keys[1].is_trusted(WallTime::from_unix_seconds(4)));
    }

    #[test]
    fn errors_name_file_and_line() {
        let error = parse_toml::<Sites>(SITES_PATH, b"[[site]]\nnam = \"x\"\n")
            .expect_err("unknown field")
            .to_string();
        assert!(
            error.contains(SITES_PATH) && error.contains("line 2, column 1: unknown field `nam`"),
            "{error}"
        );
        let long = format!(
            "[[site]]\nname = \"\\u001b[2Jx\" # {}\n\"{}\" = 1\n",
            "x".repeat(400_000),
            "y".repeat(400_000)
        );
        let error = parse_toml::<Sites>(SITES_PATH, long.as_bytes()).expect_err("wrong").to_string();
        assert!(error.len() < 1_000 && text::is_plain(&error), "{error}");
    }
}
