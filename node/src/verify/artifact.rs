//! The one question before an artifact is shared or installed: does its evidence hold, whatever kind it is of?

use super::apt::verify_apt;
use protocol::fleet::Vendors;
use protocol::manifest::{Artifact, Evidence, Manifest};
use protocol::time::WallTime;
use protocol::verify::{Refusal, Verdict, verify_ed25519};

/// The files that an APT chain needs, as they were fetched.
#[derive(Clone, Copy, Debug)]
pub struct ChainFiles<'a> {
    /// The clear-signed release file.
    pub release: &'a [u8],
    /// The package index.
    pub packages: &'a [u8],
}

/// Checks the vendor's evidence over the digest that the manifest claims for `artifact`, with the keys that `vendors`
/// trusts at `now`. It says nothing about bytes at hand: [`crate::content::ContentStore::full_check`] does. Blocking; for an APT
/// chain it takes as long as decompressing the index.
///
/// # Errors
/// The [`Refusal`]; [`Refusal::Missing`] when the evidence is a chain and `files` is `None`.
pub fn verify_artifact(
    manifest: &Manifest,
    artifact: &Artifact,
    files: Option<ChainFiles<'_>>,
    vendors: &Vendors,
    now: WallTime,
) -> Result<Verdict, Refusal> {
    let proof = match (&artifact.evidence, files) {
        (Evidence::None {}, _) => return Err(Refusal::Unsigned(artifact.name.clone())),
        (Evidence::Ed25519 { .. }, _) => verify_ed25519(manifest, artifact, vendors, now)?,
        (Evidence::Apt(_), Some(files)) => {
            verify_apt(manifest, artifact, files.release, files.packages, vendors, now)?
        }
        (Evidence::Apt(_), None) => {
            return Err(Refusal::Missing("release file and package index".to_owned()));
        }
    };
    Ok(Verdict::of(proof))
}
