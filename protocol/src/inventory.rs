//! What is installed on a device: the packages that a scan read, as facts without judgement.

use crate::limits;
use crate::system::System;
use crate::time::WallTime;
use crate::version::DebianVersion;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// Whether a package that the package manager knows can be relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageState {
    /// Installed and configured; triggers may still be awaited or pending (`installed`, `triggers-awaited`,
    /// `triggers-pending`), whatever the administrator wants to become of it (`install`, `hold`, `deinstall`).
    Installed,
    /// An installation or removal stopped half-way (`half-installed`, `unpacked`, `half-configured`), or the package
    /// must be installed again (`reinstreq`).
    Broken,
    /// Not there, or removed except for its configuration files (`not-installed`, `config-files`).
    Absent,
}

/// One package as the package manager recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Architecture of the package, `all` included.
    pub architecture: String,
    /// Version in the record: of what is installed, was last tried, or was removed.
    pub version: DebianVersion,
    /// Whether it can be relied upon.
    pub state: PackageState,
}

/// What one scan read, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// The operating system.
    pub system: System,
    /// Packages by name and architecture; encoded as a list, since the key repeats what the package says.
    #[serde(serialize_with = "write_packages", deserialize_with = "read_packages")]
    pub packages: BTreeMap<(String, String), Package>,
    /// When it was read.
    pub taken: WallTime,
}

impl Inventory {
    /// The package of this name and architecture, if the package manager has a record of it.
    pub fn package(&self, name: &str, architecture: &str) -> Option<&Package> {
        self.packages.get(&(name.to_owned(), architecture.to_owned()))
    }
}

fn write_packages<S: Serializer>(
    packages: &BTreeMap<(String, String), Package>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(packages.values())
}

fn read_packages<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<(String, String), Package>, D::Error> {
    use serde::de::Error as _;
    let list = Vec::<Package>::deserialize(deserializer)?;
    if list.len() > limits::PACKAGES_PER_INVENTORY {
        return Err(D::Error::custom("more packages than the limit"));
    }
    let mut packages = BTreeMap::new();
    for package in list {
        let key = (package.name.clone(), package.architecture.clone());
        if packages.insert(key, package).is_some() {
            return Err(D::Error::custom("a package is listed twice"));
        }
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::system::Family;

    fn inventory() -> Inventory {
        let package = Package {
            name: "libssl3".to_owned(),
            architecture: "amd64".to_owned(),
            version: DebianVersion::new("3.0.17-1~deb12u2").expect("version"),
            state: PackageState::Installed,
        };
        Inventory {
            system: System {
                family: Family::Linux,
                distribution: "debian".to_owned(),
                release: "12".to_owned(),
                architecture: "amd64".to_owned(),
            },
            packages: BTreeMap::from([(("libssl3".to_owned(), "amd64".to_owned()), package)]),
            taken: WallTime::from_unix_seconds(1_800_000_000),
        }
    }

    #[test]
    fn round_trips_in_text_and_binary() {
        let inventory = inventory();
        let json = serde_json::to_string(&inventory).expect("inventory");
        assert_eq!(serde_json::from_str::<Inventory>(&json).ok(), Some(inventory.clone()));
        assert_eq!(decode::<Inventory, 4096>(&encode(&inventory)), Ok(inventory.clone()));
        assert!(inventory.package("libssl3", "amd64").is_some());
        assert!(inventory.package("libssl3", "arm64").is_none());
    }

    #[test]
    fn a_package_listed_twice_is_refused() {
        let json = serde_json::to_value(inventory()).expect("inventory");
        let mut twice = json;
        let first = twice["packages"][0].clone();
        twice["packages"].as_array_mut().expect("list").push(first);
        assert!(serde_json::from_value::<Inventory>(twice).is_err());
    }
}
