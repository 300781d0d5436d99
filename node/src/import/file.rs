//! Imports one file with a detached ed25519 signature of its vendor, or, knowingly, without any.

use super::Imported;
use super::entry;
use crate::disk;
use crate::verify::contents::describe;
use crate::verify::package_file::{self, NotAPackage};
use data_encoding::HEXLOWER_PERMISSIVE;
use protocol::fleet::{KeyMaterial, Vendors};
use protocol::identifier::{NotAName, VendorName};
use protocol::limits;
use protocol::manifest::{Content, Evidence, Invalid, Kind, Manifest};
use protocol::signature::{PublicKey, Signature};
use protocol::system::System;
use protocol::time::WallTime;
use protocol::verify::{Refusal, verify_ed25519};
use std::io;
use std::path::{Path, PathBuf};

/// Longest signature file that is read: 128 hexadecimal digits and some white space.
const SIGNATURE_FILE_BYTES: u64 = 1 << 10;

/// Who says that the vendor made the file.
#[derive(Clone, Debug)]
pub enum Signing {
    /// A file with the vendor's signature for `Purpose::Artifact` over the 32 bytes of the file's SHA-256: 64 bytes, or
    /// as many as 128 hexadecimal digits.
    Detached(PathBuf),
    /// Nobody. Nodes refuse it, unless policy says otherwise.
    Unsigned,
}

/// What to import.
#[derive(Clone, Debug)]
pub struct FileRequest {
    /// The package file.
    pub path: PathBuf,
    /// The vendor.
    pub vendor: VendorName,
    /// Its signature.
    pub signing: Signing,
    /// The operating system that the patch is for.
    pub system: System,
}

/// Why a file was not imported. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// It is not a Debian package.
    #[error("{} does not say which package it is", path.display())]
    Package {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: NotAPackage,
    },
    /// The signature file is not one.
    #[error("{} is not a signature: 64 bytes or 128 hexadecimal digits are expected", .0.display())]
    Signature(PathBuf),
    /// The signature is refused.
    #[error("{} is refused", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// The package's name or version does not make a patch name.
    #[error("the package has a name that no patch can have")]
    Name(#[source] NotAName),
    /// The manifest would break a rule, mostly by the file's name.
    #[error("the manifest would break a rule of the format")]
    Manifest(#[source] Invalid),
}

/// Imports the file that `request` names; its package, version and architecture are read from itself. With a detached
/// signature, a key of the vendor in `vendors` that is trusted at `now` must have made it. Blocking.
///
/// # Errors
/// [`FileError`].
pub fn import(request: &FileRequest, vendors: &Vendors, now: WallTime) -> Result<Imported, FileError> {
    let path = &request.path;
    let failed = |cause| FileError::Io { path: path.clone(), cause };
    // Whatever never ends is not given to dpkg-deb, and what is no package is not read to its end.
    disk::open_regular(path, limits::ARTIFACT_BYTES).map_err(failed)?;
    let package =
        package_file::read(path).map_err(|cause| FileError::Package { path: path.clone(), cause })?;
    let content = describe(path).map_err(failed)?;
    let title = format!("{} {}", package.package, package.version);
    let manifest =
        entry::write(&request.vendor, &request.system, package, Kind::Update, &title, path, content);
    let mut manifest = manifest.map_err(FileError::Name)?;
    let mut warnings = Vec::new();
    match &request.signing {
        Signing::Detached(file) => sign_off(&mut manifest, request, read_signature(file)?, vendors, now)?,
        Signing::Unsigned => warnings.push(format!(
            "{} carries no vendor signature: nodes will not share it, and refuse to install it unless policy says so",
            manifest.patch
        )),
    }
    manifest.check().map_err(FileError::Manifest)?;
    let files: Vec<(Content, PathBuf)> = vec![(content, path.clone())];
    Ok(Imported { manifests: vec![manifest], files, vendor: None, warnings })
}

/// Puts the evidence of the first of the vendor's keys that made the signature into the manifest.
fn sign_off(
    manifest: &mut Manifest,
    request: &FileRequest,
    signature: Signature,
    vendors: &Vendors,
    now: WallTime,
) -> Result<(), FileError> {
    let vendor = request.vendor.clone();
    let mut refusal = match vendors.find(&vendor) {
        None => Refusal::UnknownVendor(vendor),
        Some(_) => Refusal::UntrustedKey { vendor, detail: "the vendor has no ed25519 key".to_owned() },
    };
    let keys = vendors.find(&request.vendor).map(|vendor| vendor.keys.as_slice()).unwrap_or_default();
    let publics: Vec<PublicKey> = keys
        .iter()
        .filter_map(|key| match &key.material {
            KeyMaterial::Ed25519 { public } => Some(*public),
            KeyMaterial::OpenPgp { .. } => None,
        })
        .collect();
    for key in publics {
        manifest.artifacts[0].evidence = Evidence::Ed25519 { key, signature };
        match verify_ed25519(manifest, &manifest.artifacts[0], vendors, now) {
            Ok(_) => return Ok(()),
            Err(other) => refusal = other,
        }
    }
    Err(FileError::Refused { path: request.path.clone(), refusal })
}

fn read_signature(path: &Path) -> Result<Signature, FileError> {
    let failed = |cause| FileError::Io { path: path.to_owned(), cause };
    let bytes = disk::read_regular(path, SIGNATURE_FILE_BYTES).map_err(failed)?;
    let raw = if bytes.len() == 64 {
        bytes
    } else {
        HEXLOWER_PERMISSIVE.decode(bytes.trim_ascii()).map_err(|_| FileError::Signature(path.to_owned()))?
    };
    let raw: [u8; 64] = raw.try_into().map_err(|_| FileError::Signature(path.to_owned()))?;
    Ok(Signature::from_bytes(raw))
}
