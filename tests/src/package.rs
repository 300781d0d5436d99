//! A vendor that builds and signs packages on the spot: no network, and sizes that a test chooses.

use anyhow::{Context as _, Result};
use node::deploy::Order;
use node::deploy::root::{Blueprint, build_deb};
use node::scan;
use protocol::digest::Sha256;
use protocol::identifier::PatchId;
use protocol::manifest::{
    Artifact, Content, Detection, Evidence, Installer, Kind, Manifest, Reboot, SCHEMA, Severity,
};
use protocol::signature::{Purpose, SigningKey};
use protocol::system::Target;
use protocol::version::DebianVersion;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Name of the vendor.
pub const VENDOR: &str = "acme";

/// Waits at the gate of its root directory, if there is one; needs the shell that a device with a gate has.
const GATED: &str = "#!/bin/sh\n: > /tmp/started\n[ -p /tmp/gate ] && read line < /tmp/gate\nexit 0\n";

/// A vendor with its key.
#[derive(Debug)]
pub struct Vendor {
    key: SigningKey,
    directory: PathBuf,
}

/// Two versions of a package: one that devices have, and a newer one, signed.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// Name of the package.
    pub package: String,
    /// The patch that the newer one becomes.
    pub patch: PatchId,
    /// Package file that devices have, version 1.0.
    pub older: PathBuf,
    /// Package file to be distributed, version 2.0.
    pub newer: PathBuf,
    /// The vendor's signature over it.
    pub signature: PathBuf,
    /// Bytes of the newer one.
    pub size: u64,
}

impl Vendor {
    /// A vendor that works in `directory`.
    pub fn new(directory: &Path) -> Vendor {
        Vendor { key: SigningKey::from_seed(&[7; 32]), directory: directory.to_owned() }
    }

    /// Its public key, 64 hexadecimal digits.
    pub fn key(&self) -> String {
        self.key.public().to_string()
    }

    /// An upgrade of `package` whose newer version has `bytes` bytes and a few more.
    ///
    /// # Errors
    /// dpkg-deb is not there, or no space.
    pub fn upgrade(&self, package: &str, bytes: usize) -> Result<Upgrade> {
        self.build(package, bytes, &[])
    }

    /// An upgrade that waits in the middle of its installation until the device's gate is opened.
    ///
    /// # Errors
    /// dpkg-deb is not there, or no space.
    pub fn gated_upgrade(&self, package: &str, bytes: usize) -> Result<Upgrade> {
        self.build(package, bytes, &[("preinst", GATED)])
    }

    fn build(&self, package: &str, bytes: usize, scripts: &[(&str, &str)]) -> Result<Upgrade> {
        let version = |version: &str, bytes: usize, scripts: &[(&str, &str)]| {
            let blueprint = Blueprint {
                package: package.to_owned(),
                version: version.to_owned(),
                architecture: "all".to_owned(),
                files: BTreeMap::from([(format!("usr/share/{package}/data"), noise(bytes, package))]),
                scripts: scripts
                    .iter()
                    .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                    .collect(),
                ..Blueprint::default()
            };
            build_deb(&blueprint, &self.directory).context("a package cannot be built")
        };
        let (older, newer) = (version("1.0", 100, &[])?, version("2.0", bytes, scripts)?);
        let content = std::fs::read(&newer)?;
        let signature = newer.with_extension("sig");
        let signed = self.key.sign(Purpose::Artifact, Sha256::of(&content).as_bytes());
        std::fs::write(&signature, signed.as_bytes())?;
        let patch = PatchId::new(format!("{VENDOR}/{package}=2.0"))?;
        Ok(Upgrade {
            package: package.to_owned(),
            patch,
            older,
            newer,
            signature,
            size: content.len() as u64,
        })
    }
}

/// An order to install the package file `deb`, which `blueprint` became, for the system in `root`: what reaches the
/// installer when all signatures were checked.
///
/// # Errors
/// `deb` cannot be read, or the blueprint is not one of a package.
pub fn order(blueprint: &Blueprint, deb: &Path, root: &Path) -> Result<Order> {
    let here = scan::system::read(root)?;
    let manifest = Manifest {
        schema: SCHEMA,
        patch: PatchId::new(format!("{VENDOR}/{}={}", blueprint.package, blueprint.version))?,
        title: blueprint.package.clone(),
        kind: Kind::Update,
        severity: Severity::Unknown,
        cves: Vec::new(),
        published: None,
        targets: vec![Target {
            family: here.family,
            distribution: here.distribution,
            release: here.release,
            architecture: None,
        }],
        detection: Detection::DebianPackage {
            package: blueprint.package.clone(),
            architecture: blueprint.architecture.clone(),
            version: DebianVersion::new(&blueprint.version)?,
        },
        requires: Vec::new(),
        supersedes: Vec::new(),
        artifacts: vec![Artifact {
            name: "package.deb".to_owned(),
            content: Content::of(&std::fs::read(deb)?),
            evidence: Evidence::None {},
        }],
        installer: Installer::Dpkg,
        reboot: Reboot::Never,
    };
    Ok(Order { manifest, files: vec![File::open(deb)?] })
}

/// Bytes that do not compress, the same for the same name.
fn noise(bytes: usize, name: &str) -> Vec<u8> {
    let blocks = bytes.div_ceil(32);
    let block = |number: usize| *Sha256::of(&[name.as_bytes(), &number.to_be_bytes()].concat()).as_bytes();
    let mut noise: Vec<u8> = (0..blocks).flat_map(block).collect();
    noise.truncate(bytes);
    noise
}
