//! One APT suite: what is fetched of it is believed only after its signature, its dates and its digests.

use super::client::{Client, ClientError, IndexTarget};
use super::sources::{self, KeyringError};
use crate::verify::apt::refusal_of;
use crate::verify::certificate::Certificate;
use crate::verify::contents::describe;
use crate::verify::openpgp::{self, Unproven};
use crate::verify::release::Release;
use protocol::identifier::VendorName;
use protocol::limits::RELEASE_BYTES;
use protocol::manifest::Content;
use protocol::time::WallTime;
use protocol::verify::Refusal;
use std::io::Read as _;
use std::path::Path;

/// Why an import failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// APT is not there or could not fetch.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The keys of a suite are not known.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// No such suite in the machine's sources.
    #[error("suite {suite} is not in the machine's APT sources, which have: {known}")]
    NoSuite {
        /// The suite asked for.
        suite: String,
        /// The suites there are.
        known: String,
    },
    /// No such package.
    #[error("package {package} is not in {suites}")]
    NoPackage {
        /// The package asked for.
        package: String,
        /// The suites searched.
        suites: String,
    },
    /// The release file is too old to be believed.
    #[error(
        "suite {suite} was valid until {valid_until} and it is {now} here; check the clock, or the mirror is out of date"
    )]
    Expired {
        /// The suite.
        suite: String,
        /// Its `Valid-Until`.
        valid_until: WallTime,
        /// The clock.
        now: WallTime,
    },
    /// The release file is younger than the clock.
    #[error("suite {suite} was made at {made} and it is {now} here; the clock of this machine is slow")]
    FromFuture {
        /// The suite.
        suite: String,
        /// When it was made.
        made: WallTime,
        /// The clock.
        now: WallTime,
    },
    /// What was fetched is not what the vendor signed.
    #[error("{what} is refused")]
    Refused {
        /// The file.
        what: String,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// A name or a file of the vendor cannot be used.
    #[error("{what} cannot be used: {why}")]
    Unusable {
        /// The thing.
        what: String,
        /// Why.
        why: String,
    },
}

/// A suite whose signature, dates and index digest were checked.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) target: IndexTarget,
    pub(super) release: Release,
    pub(super) release_content: Content,
    pub(super) index_content: Content,
    /// The certificates that made a good signature.
    pub(super) signers: Vec<Certificate>,
}

impl Suite {
    pub(super) fn is_security(&self) -> bool {
        [&self.target.release, &self.release.suite, &self.release.codename]
            .iter()
            .any(|name| name.ends_with("-security") || name.ends_with("/updates"))
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        [&self.target.release, &self.release.suite, &self.release.codename].iter().any(|own| *own == name)
    }
}

/// Verifies a fetched suite: a good signature by a pinned key, a name that is the one asked for, dates around now, and
/// the index that the release file lists.
pub(super) fn load(client: &Client, target: IndexTarget, now: WallTime) -> Result<Suite, ImportError> {
    let name = target.release.clone();
    let refused =
        |what: &str, refusal| ImportError::Refused { what: format!("{what} of suite {name}"), refusal };
    let certificates = sources::certificates(client, &target)?;
    let in_release = read_within(&target.in_release, RELEASE_BYTES)?;
    let vendor = VendorName::new("apt").expect("a simple name");
    let signed = openpgp::verify(&in_release, &certificates, now).map_err(|unproven| match unproven {
        Unproven::SignatureInFuture { created, .. } => {
            ImportError::FromFuture { suite: name.clone(), made: created, now }
        }
        other => refused("release file", refusal_of(&vendor, other)),
    })?;
    let release = Release::parse(signed.text())
        .map_err(|error| refused("release file", Refusal::Malformed(error.to_string())))?;
    if release.date > now {
        return Err(ImportError::FromFuture { suite: name, made: release.date, now });
    }
    if let Some(valid_until) = release.valid_until.filter(|until| *until <= now) {
        return Err(ImportError::Expired { suite: name, valid_until, now });
    }
    let index_content = describe(&target.index).map_err(|error| unusable(&target.index, &error))?;
    if release.find(&target.path) != Some((index_content.sha256, index_content.size)) {
        let text = format!("the release file lists no such {}", target.path);
        return Err(refused("package index", Refusal::EvidenceMismatch(text)));
    }
    let signs = |certificate: &Certificate| {
        openpgp::verify(&in_release, std::slice::from_ref(certificate), now).is_ok()
    };
    let signers = certificates.into_iter().filter(signs).collect();
    let suite = Suite { release_content: Content::of(&in_release), target, release, index_content, signers };
    // A mirror may serve another suite's genuine file under this one's address.
    if !suite.release.suite.eq(&suite.target.release) && !suite.release.codename.eq(&suite.target.release) {
        let stated = format!("it states {} ({})", suite.release.suite, suite.release.codename);
        let refusal = Refusal::SuiteMismatch(stated);
        return Err(ImportError::Refused { what: format!("release file of suite {name}"), refusal });
    }
    Ok(suite)
}

pub(super) fn read_within(path: &Path, limit: usize) -> Result<Vec<u8>, ImportError> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| unusable(path, &error))?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|error| unusable(path, &error))?;
    if bytes.len() > limit {
        let refusal = Refusal::TooLarge(format!("more than {limit} bytes"));
        return Err(ImportError::Refused { what: path.display().to_string(), refusal });
    }
    Ok(bytes)
}

pub(super) fn unusable(path: &Path, why: &impl std::fmt::Display) -> ImportError {
    ImportError::Unusable { what: path.display().to_string(), why: why.to_string() }
}
