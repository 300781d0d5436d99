//! What the demo distributes: real security upgrades of this machine's distribution, or packages built on the spot.

use super::upgrade::{Built, build_upgrades};
use crate::command::catalogue::of_apt;
use crate::command::token::now;
use crate::exit::{Exit, Failure};
use node::deploy::root::OsRelease;
use node::import::Imported;
use node::import::apt::{Available, ImportError, ImportRequest, Suites};
use node::scan::system;
use protocol::identifier::VendorName;
use protocol::system::{Family, System};
use std::path::{Path, PathBuf};

/// Debian packages without maintainer scripts whose upgrades stand in the security suite.
const PACKAGES: [&str; 3] = ["libssl3", "linux-libc-dev", "liblzma5"];

/// What the demo distributes.
#[derive(Debug)]
pub struct Content {
    /// The operating system of the branch.
    pub system: System,
    /// Where the branch's `os-release` comes from.
    pub os_release: OsRelease,
    /// The older versions, which the branch has installed.
    pub older: Vec<PathBuf>,
    /// The newer versions, which only their dependencies are read of here.
    pub newer: Vec<PathBuf>,
    /// The upgrades.
    pub upgrades: Upgrades,
    /// An upgrade that its vendor did not sign.
    pub unsigned: PathBuf,
}

/// Where the upgrades come from.
#[derive(Debug)]
pub enum Upgrades {
    /// From the machine's own security suite, verified.
    Real {
        /// The import.
        imported: Imported,
        /// The suite.
        suite: String,
    },
    /// Built on the spot and signed by a vendor of the demo.
    Built {
        /// The packages and the vendor's key.
        built: Built,
        /// Why there are no real ones.
        reason: String,
    },
}

/// Finds real upgrades, and builds some where that is not possible.
pub fn find(directory: &Path) -> Result<Content, Failure> {
    if std::process::Command::new("dpkg").arg("--version").output().is_err() {
        return Err(Failure::new(Exit::Failed, "the demo needs dpkg, which this machine does not have")
            .with_hint("run it on Debian or a relative of it, or in a container of one"));
    }
    let unsigned = super::upgrade::build_unsigned(directory)?;
    match real(directory) {
        Ok(mut content) => {
            content.older.push(unsigned.older);
            content.newer.push(unsigned.newer.clone());
            Ok(Content { unsigned: unsigned.newer, ..content })
        }
        Err(reason) => {
            let built = build_upgrades(directory)?;
            let mut older = built.older.clone();
            older.push(unsigned.older);
            let mut newer = built.newer.clone();
            newer.push(unsigned.newer.clone());
            Ok(Content {
                system: debian()?,
                os_release: OsRelease::Text(
                    "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n".to_owned(),
                ),
                older,
                newer,
                upgrades: Upgrades::Built { built, reason },
                unsigned: unsigned.newer,
            })
        }
    }
}

/// The operating system that packages built on the spot are for.
fn debian() -> Result<System, Failure> {
    let architecture = system::machine_architecture().map_err(|error| Failure::of(Exit::Failed, &error))?;
    Ok(System {
        family: Family::Linux,
        distribution: "debian".to_owned(),
        release: "12".to_owned(),
        architecture,
    })
}

/// Real upgrades, or one sentence why there are none.
fn real(directory: &Path) -> Result<Content, String> {
    let system = system::read(Path::new("/")).map_err(|error| error.to_string())?;
    let work = directory.join("apt");
    std::fs::create_dir_all(&work).map_err(|error| error.to_string())?;
    let suites = Suites::fetch(&work, now().map_err(|failure| failure.message)?).map_err(in_a_sentence)?;
    let packages: Vec<String> = PACKAGES.iter().map(|&name| name.to_owned()).collect();
    let available = suites.available(&packages).map_err(in_a_sentence)?;
    let pairs: Vec<(&Available, &Available)> =
        packages.iter().map(|package| pair(package, &available)).collect::<Result<_, _>>()?;
    let suite = pairs[0].1.codename.clone();
    let vendor = VendorName::new(system.distribution.clone()).map_err(|error| error.to_string())?;
    let request = ImportRequest { vendor, packages, suite: Some(suite.clone()), system: system.clone() };
    let imported = suites.import(&request).map_err(in_a_sentence)?;
    let older = pairs.iter().map(|(older, _)| suites.fetch_deb(older).map(|(_, path)| path));
    let older: Vec<PathBuf> = older.collect::<Result<_, _>>().map_err(in_a_sentence)?;
    let artifacts: Vec<_> = imported.manifests.iter().flat_map(|manifest| &manifest.artifacts).collect();
    let newer =
        imported.files.iter().filter(|(content, _)| artifacts.iter().any(|one| one.content == *content));
    Ok(Content {
        newer: newer.map(|(_, path)| path.clone()).collect(),
        system,
        os_release: OsRelease::Machine,
        older,
        upgrades: Upgrades::Real { imported, suite },
        unsigned: PathBuf::new(),
    })
}

fn in_a_sentence(error: ImportError) -> String {
    let failure = of_apt(error);
    std::iter::once(failure.message).chain(failure.causes).collect::<Vec<_>>().join(": ")
}

/// The newest version of a package in the main suites, and the newer one in the security suite.
fn pair<'a>(package: &str, available: &'a [Available]) -> Result<(&'a Available, &'a Available), String> {
    let of_package = || available.iter().filter(|one| one.package == package);
    let newer = of_package().rfind(|one| one.security);
    let newer = newer.ok_or_else(|| format!("the security suite has no {package}"))?;
    let older = of_package().rfind(|one| !one.security && one.version < newer.version);
    let older = older.ok_or_else(|| format!("the main suite has no older {package}"))?;
    Ok((older, newer))
}
