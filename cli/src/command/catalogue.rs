//! `patchmesh catalogue`: brings a vendor's patches into the fleet directory.

use super::{FleetOption, patch::without_fleet, token::now};
use crate::exit::{Exit, Failure, Outcome};
use crate::fleet_files::{FleetFiles, Merged};
use crate::printer::Printer;
use clap::{Args, Subcommand};
use node::import::Imported;
use node::import::apt::{ImportError, ImportRequest, Suites};
use node::import::file::{self, FileError, FileRequest, Signing};
use node::scan::system;
use protocol::fleet::{KeyMaterial, Vendor, VendorKey};
use protocol::identifier::{PatchId, VendorName};
use protocol::signature::PublicKey;
use protocol::system::System;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Patches of a vendor, as the fleet knows them
#[derive(Debug, Subcommand)]
pub enum Catalogue {
    /// Bring patches in; nothing is approved by that
    #[command(subcommand)]
    Import(Import),
}

/// Bring patches in; nothing is approved by that
#[derive(Debug, Subcommand)]
pub enum Import {
    /// Packages by name, from the APT suites that this machine is configured for
    Apt(Apt),
    /// One package file with a detached signature of its vendor, or knowingly without any
    File(File),
}

/// Packages by name, from the APT suites that this machine is configured for
#[derive(Args, Debug)]
#[command(after_help = "\
Everything is verified before it is believed: the signature on the suite, the digests of index and package, and that \
name, version and architecture agree all the way.

With --trust-key, the keys that signed the suites become keys of the vendor, for these suites alone. Without it, \
nodes refuse the patches until targets/fleet/vendors.toml of the fleet directory lists the keys.

Example:
  patchmesh catalogue import apt libssl3 liblzma5 --suite bookworm-security --trust-key")]
pub struct Apt {
    /// The packages
    #[arg(required = true)]
    packages: Vec<String>,
    /// Suite or codename to take them from; without it, the newest of all suites
    #[arg(long)]
    suite: Option<String>,
    /// Name of the vendor in this fleet; without it, the machine's own distribution
    #[arg(long)]
    vendor: Option<VendorName>,
    /// Make the keys that signed the suites trusted keys of the vendor
    #[arg(long)]
    trust_key: bool,
    #[command(flatten)]
    fleet: FleetOption,
}

/// One package file with a detached signature of its vendor, or knowingly without any
#[derive(Args, Debug)]
#[command(after_help = "\
The signature is ed25519 over \"patchmesh artifact 1\\n\" and the 32 bytes of the file's SHA-256: 64 bytes, or 128 \
hexadecimal digits.

Example:
  patchmesh catalogue import file tool_2.0_amd64.deb --vendor acme --signature tool.sig
  patchmesh catalogue import file tool_2.0_amd64.deb --vendor acme --unsigned")]
pub struct File {
    /// The file
    file: PathBuf,
    /// Name of the vendor in this fleet
    #[arg(long)]
    vendor: VendorName,
    /// File with the vendor's signature
    #[arg(long, value_name = "FILE", required_unless_present = "unsigned", conflicts_with = "unsigned")]
    signature: Option<PathBuf>,
    /// The vendor did not sign it; nodes refuse it
    #[arg(long)]
    unsigned: bool,
    /// Make this ed25519 key (64 hexadecimal digits) a trusted key of the vendor first
    #[arg(long, value_name = "KEY")]
    trust_key: Option<PublicKey>,
    #[command(flatten)]
    fleet: FleetOption,
}

/// Whether the keys that an import met become keys of the vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// They do.
    Trust,
    /// They are left alone.
    Leave,
}

/// What an import did to the fleet directory.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The patches.
    pub patches: Vec<PatchId>,
    #[serde(flatten)]
    merged: Merged,
    /// Whether the vendor or a key of it is new.
    pub trusted: bool,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl Catalogue {
    pub fn run(self, printer: Printer) -> Outcome {
        let Catalogue::Import(import) = self;
        let report = match import {
            Import::Apt(apt) => {
                let files = FleetFiles::open(&apt.fleet.directory).map_err(without_fleet)?;
                let work = tempfile::tempdir().map_err(|error| Failure::of(Exit::Failed, &error))?;
                let imported = printer.wait("Reading the suites", || apt.fetch(work.path()))?;
                let keys = if apt.trust_key { Keys::Trust } else { Keys::Leave };
                add(&files, imported, &this_system()?, keys)?
            }
            Import::File(file) => file.import()?,
        };
        printer.data("import", &report, render)?;
        for warning in &report.warnings {
            printer.message(&format!("warning: {warning}"));
        }
        printer.message(
            "Nothing is approved yet: see `patchmesh patch approve`, then `patchmesh fleet publish`.",
        );
        Ok(Exit::Done)
    }
}

impl Apt {
    fn fetch(&self, work: &Path) -> Result<Imported, Failure> {
        let system = this_system()?;
        let vendor = match &self.vendor {
            Some(vendor) => vendor.clone(),
            None => VendorName::new(system.distribution.clone()).map_err(|error| {
                Failure::of(Exit::Usage, &error).with_hint("name the vendor with --vendor")
            })?,
        };
        let suites = Suites::fetch(work, now()?).map_err(of_apt)?;
        let request =
            ImportRequest { vendor, packages: self.packages.clone(), suite: self.suite.clone(), system };
        suites.import(&request).map_err(of_apt)
    }
}

impl File {
    fn import(self) -> Result<Report, Failure> {
        let files = FleetFiles::open(&self.fleet.directory).map_err(without_fleet)?;
        let signing = match self.signature {
            Some(signature) => Signing::Detached(signature),
            None => Signing::Unsigned,
        };
        import_file(&files, self.file, self.vendor, signing, self.trust_key, &this_system()?)
    }
}

/// Imports one file; `key` becomes a trusted key of the vendor first, when there is one.
pub fn import_file(
    files: &FleetFiles,
    path: PathBuf,
    vendor: VendorName,
    signing: Signing,
    key: Option<PublicKey>,
    system: &System,
) -> Result<Report, Failure> {
    let mut vendors = files.vendors()?;
    let known = vendors.find(&vendor).is_some();
    let keys = key.map(|public| VendorKey {
        valid_from: None,
        valid_until: None,
        revoked: false,
        material: KeyMaterial::Ed25519 { public },
    });
    let named = Vendor { name: vendor.clone(), keys: keys.into_iter().collect() };
    vendors.vendors.retain(|old| old.name != vendor || key.is_none());
    if key.is_some() {
        vendors.vendors.push(named.clone());
    }
    let request = FileRequest { path, vendor, signing, system: system.clone() };
    let imported = file::import(&request, &vendors, now()?).map_err(of_file)?;
    // Nodes ask for the catalogues of the vendors that they know: one without any key is listed, too.
    let trusted = if key.is_some() || !known { files.trust(&named)? } else { false };
    let report = add(files, imported, system, Keys::Leave)?;
    Ok(Report { trusted, ..report })
}

/// Puts what was imported into the fleet directory: content first, keys, then the manifests that name them.
pub fn add(files: &FleetFiles, imported: Imported, system: &System, keys: Keys) -> Result<Report, Failure> {
    for (content, path) in &imported.files {
        files.add_content(*content, path)?;
    }
    let trusted = match (&imported.vendor, keys) {
        (Some(vendor), Keys::Trust) => files.trust(vendor)?,
        _ => false,
    };
    let patches = imported.manifests.iter().map(|manifest| manifest.patch.clone()).collect();
    let merged = files.merge(imported.manifests, system)?;
    Ok(Report { patches, merged, trusted, warnings: imported.warnings })
}

/// The operating system of this machine.
pub fn this_system() -> Result<System, Failure> {
    system::read(Path::new("/")).map_err(|error| Failure::of(Exit::Failed, &error))
}

/// An error of an APT import with its exit code.
pub fn of_apt(error: ImportError) -> Failure {
    let exit = match error {
        ImportError::Client(_) => Exit::Unreachable,
        ImportError::Keyring(_)
        | ImportError::Refused { .. }
        | ImportError::Expired { .. }
        | ImportError::FromFuture { .. } => Exit::Refused,
        ImportError::NoSuite { .. } | ImportError::NoPackage { .. } => Exit::Usage,
        ImportError::Unusable { .. } => Exit::Failed,
    };
    Failure::of(exit, &error)
}

fn of_file(error: FileError) -> Failure {
    match error {
        FileError::Refused { .. } => Failure::of(Exit::Refused, &error)
            .with_hint("if the signature is right, name the key that made it with --trust-key"),
        _ => Failure::of(Exit::Failed, &error),
    }
}

fn render(report: &Report) -> String {
    let mut text = report.patches.iter().fold(String::new(), |mut text, patch| {
        let _ = writeln!(text, "imported {patch}");
        text
    });
    let Merged { added, changed, unchanged } = report.merged;
    let _ = writeln!(text, "{added} new, {changed} changed, {unchanged} as before");
    if report.trusted {
        text.push_str("The vendor's keys are now trusted by this fleet.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::{fleet, status};
    use node::deploy::root::{Blueprint, build_deb};
    use protocol::digest::Sha256;
    use protocol::signature::{Purpose, SigningKey};

    fn deb(directory: &Path) -> PathBuf {
        let blueprint = Blueprint {
            package: "tool".to_owned(),
            version: "2.0".to_owned(),
            architecture: "all".to_owned(),
            ..Blueprint::default()
        };
        build_deb(&blueprint, directory).expect("this test needs dpkg-deb")
    }

    // proves N8
    #[test]
    fn a_signed_file_comes_in_with_its_content_and_a_forged_one_does_not() {
        let directory = tempfile::tempdir().expect("directory");
        let files = fleet(directory.path());
        let path = deb(directory.path());
        let acme = VendorName::new("acme").expect("vendor");
        let key = SigningKey::from_seed(&[5; 32]);
        let digest = Sha256::of(&std::fs::read(&path).expect("package"));
        let signature = directory.path().join("tool.sig");
        let import = |key: &SigningKey| {
            let signed = SigningKey::from_seed(&[5; 32]).sign(Purpose::Artifact, digest.as_bytes());
            std::fs::write(&signature, signed.as_bytes()).expect("write");
            let signing = Signing::Detached(signature.clone());
            import_file(&files, path.clone(), acme.clone(), signing, Some(key.public()), &status().system)
        };
        let forged = import(&SigningKey::from_seed(&[6; 32])).expect_err("another key");
        assert_eq!(forged.exit, Exit::Refused);
        assert!(files.vendors().expect("vendors").vendors.is_empty(), "a refused import changes nothing");
        let report = import(&key).expect("import");
        assert!(report.trusted);
        assert_eq!(report.patches[0].as_str(), "acme/tool=2.0");
        let contents = files.manifests().expect("manifests")[&report.patches[0]][0].contents();
        assert!(files.content_directory().join(contents[0].root.to_string()).exists());
        insta::assert_snapshot!(render(&report));
    }

    #[test]
    fn an_unsigned_file_comes_in_with_a_warning() {
        let directory = tempfile::tempdir().expect("directory");
        let files = fleet(directory.path());
        let acme = VendorName::new("acme").expect("vendor");
        let report =
            import_file(&files, deb(directory.path()), acme, Signing::Unsigned, None, &status().system)
                .expect("import");
        assert_eq!(report.warnings.len(), 1);
    }
}
