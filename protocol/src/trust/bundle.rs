//! Metadata as it travels: everything newer in one answer, so that a site asks the seed once and passes it on.

use super::envelope::Read;
use super::role::is_repository_path;
use super::search::{Loaded, Outcome, search};
use super::{Refresh, Refused, RoleName, Snapshot, Step, Targets, Timestamp, Trusted};
use super::{metadata_path, target_file_path};
use crate::codec::{self, DecodeError};
use crate::digest::Sha256;
use crate::limits;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Files of a repository by their paths in it. Nothing in a bundle is believed: a refresh verifies it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, Vec<u8>>")]
pub struct Bundle(BTreeMap<String, Vec<u8>>);

/// A bundle that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// More files than a bundle may hold.
    #[error("a metadata bundle holds at most {limit} files", limit = limits::BUNDLE_FILES)]
    TooManyFiles,
    /// More bytes than a bundle may hold.
    #[error("a metadata bundle holds at most {limit} bytes", limit = limits::BUNDLE_BYTES)]
    TooLarge,
    /// A path that no repository has.
    #[error("\"{0}\" is not a path in a repository")]
    NotAPath(String),
    /// Not the encoding of a bundle.
    #[error("not a metadata bundle")]
    Encoding(#[from] DecodeError),
}

impl Bundle {
    /// Adds a file.
    ///
    /// # Errors
    /// [`BundleError`] when the bundle is full, or the path is none of a repository.
    pub fn insert(&mut self, path: String, bytes: Vec<u8>) -> Result<(), BundleError> {
        if !is_repository_path(&path) {
            return Err(BundleError::NotAPath(path.chars().take(80).collect()));
        }
        let held = self.bytes() - self.0.get(&path).map_or(0, Vec::len);
        if held + bytes.len() > limits::BUNDLE_BYTES {
            return Err(BundleError::TooLarge);
        }
        self.0.insert(path, bytes);
        if self.0.len() > limits::BUNDLE_FILES { Err(BundleError::TooManyFiles) } else { Ok(()) }
    }

    /// The file at `path`.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.0.get(path).map(Vec::as_slice)
    }

    /// Paths and bytes of all files, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Encodes it for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes what a peer sent.
    ///
    /// # Errors
    /// [`BundleError`] for anything that is not a bundle within its limits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Bundle, BundleError> {
        let files: BTreeMap<String, Vec<u8>> = codec::decode::<_, { 2 * limits::BUNDLE_BYTES }>(bytes)?;
        files.try_into()
    }
}

/// The limits hold wherever a bundle is decoded, inside another message too.
impl TryFrom<BTreeMap<String, Vec<u8>>> for Bundle {
    type Error = BundleError;
    fn try_from(files: BTreeMap<String, Vec<u8>>) -> Result<Bundle, BundleError> {
        let mut bundle = Bundle::default();
        for (path, bytes) in files {
            bundle.insert(path, bytes)?;
        }
        Ok(bundle)
    }
}

/// What a node has, so that the answer holds only what is newer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Version of its root metadata; 0 asks for the first as well.
    pub root: u64,
    /// Digest of its snapshot.
    pub snapshot: Option<Sha256>,
    /// Digests of its metadata of targets roles. Digests and not versions: after a key was stolen there can be two
    /// files of one version.
    pub roles: BTreeMap<RoleName, Sha256>,
    /// The targets it wants, each with the digest of what it has.
    pub wanted: BTreeMap<String, Option<Sha256>>,
}

/// Collects what a node with `request` needs out of a repository, whose files `read` gives by path.
/// A role or target that is not there is left out: the asking node refuses or asks elsewhere.
///
/// # Errors
/// [`BundleError`] when the answer is larger than a bundle may be.
pub fn make_bundle(
    request: &Request,
    mut read: impl FnMut(&str) -> Option<Vec<u8>>,
) -> Result<Bundle, BundleError> {
    let mut bundle = Bundle::default();
    for version in request.root.saturating_add(1)..=request.root.saturating_add(limits::ROOT_ROTATIONS) {
        let path = metadata_path(&RoleName::root(), version);
        let Some(bytes) = read(&path) else { break };
        bundle.insert(path, bytes)?;
    }
    let path = metadata_path(&RoleName::timestamp(), 0);
    let Some(bytes) = read(&path) else { return Ok(bundle) };
    let timestamp = Read::<Timestamp>::new(&path, bytes.as_slice().into());
    bundle.insert(path, bytes)?;
    let Ok(timestamp) = timestamp else { return Ok(bundle) };

    let version = timestamp.content.snapshot().version;
    let path = metadata_path(&RoleName::snapshot(), version);
    let Some(bytes) = read(&path) else { return Ok(bundle) };
    let snapshot = Read::<Snapshot>::new(&path, bytes.as_slice().into());
    if Some(Sha256::of(&bytes)) != request.snapshot {
        bundle.insert(path, bytes)?;
    }
    let Ok(snapshot) = snapshot else { return Ok(bundle) };
    add_targets(request, &snapshot.content, &mut bundle, &mut read)?;
    Ok(bundle)
}

fn add_targets(
    request: &Request,
    snapshot: &Snapshot,
    bundle: &mut Bundle,
    read: &mut impl FnMut(&str) -> Option<Vec<u8>>,
) -> Result<(), BundleError> {
    let mut role = |role: &RoleName, bundle: &mut Bundle| -> Result<Option<Targets>, BundleError> {
        let Some(listed) = snapshot.role(role) else { return Ok(None) };
        let path = metadata_path(role, listed.version);
        let Some(bytes) = read(&path) else { return Ok(None) };
        let content = Read::<Targets>::new(&path, bytes.as_slice().into()).ok().map(|read| read.content);
        if request.roles.get(role) != Some(&Sha256::of(&bytes)) {
            bundle.insert(path, bytes)?;
        }
        Ok(content)
    };
    let Some(top) = role(&RoleName::targets(), bundle)? else { return Ok(()) };
    let mut loaded = Loaded::new();
    let mut files = Vec::new();
    for (target, held) in request.wanted.iter().take(limits::BUNDLE_FILES) {
        let found = loop {
            match search(target, &top, &loaded) {
                Outcome::Need { parent, role: name } => {
                    let Some(content) = role(&name, bundle)? else { break None };
                    loaded.insert((parent, name), content);
                }
                Outcome::Found(listed) => break listed.sha256(),
                Outcome::Absent | Outcome::TooMany => break None,
            }
        };
        if let Some(sha256) = found.filter(|sha256| Some(*sha256) != *held) {
            files.push(target_file_path(target, sha256));
        }
    }
    for path in files {
        if let Some(bytes) = read(&path) {
            bundle.insert(path, bytes)?;
        }
    }
    Ok(())
}

/// Runs the client workflow over what a peer sent.
///
/// # Errors
/// [`Refused`]; `trusted` stays what it was.
pub fn refresh_from_bundle(
    trusted: &Trusted,
    bundle: &Bundle,
    now: WallTime,
    wanted: &[impl AsRef<str>],
) -> Result<Trusted, Refused> {
    let mut refresh = Refresh::new(trusted, now, wanted);
    loop {
        match refresh.step()? {
            Step::Done(trusted) => return Ok(*trusted),
            Step::Need { path, .. } => match bundle.file(&path) {
                Some(bytes) => refresh.provide(bytes)?,
                None => refresh.provide_missing()?,
            },
        }
    }
}
