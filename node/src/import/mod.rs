//! Brings a vendor's patches in: from the machine's own APT suites, or from a file with a detached signature.
//!
//! Modules stand in layer order: each imports only from those above it.

pub mod client;

pub mod sources;

mod entry;

pub mod suite;

pub mod apt;

pub mod file;

use protocol::fleet::Vendor;
use protocol::manifest::{Content, Manifest};
use std::path::PathBuf;

/// What an import brought: everything verified, nothing published yet.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The manifests, one for each package.
    pub manifests: Vec<Manifest>,
    /// Every file that the manifests name (packages, release files, indexes), and where it lies for the caller to take.
    pub files: Vec<(Content, PathBuf)>,
    /// The vendor with the keys that signed, for the fleet's list of vendors; `None` when the import taught no key.
    pub vendor: Option<Vendor>,
    /// What a person should know; one sentence each.
    pub warnings: Vec<String>,
}
