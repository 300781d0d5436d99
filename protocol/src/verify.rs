//! Whether the vendor made this: refusals with stable codes, and the verdict that proves a vendor's signature (X2, N8).

use crate::fleet::{KeyMaterial, VendorKey, Vendors};
use crate::identifier::{ManifestDigest, VendorName};
use crate::manifest::{Artifact, Content, Evidence, Manifest};
use crate::reason::Reason;
use crate::signature::{PublicKey, Purpose};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an artifact is not taken for the vendor's. One variant for each answer that a person or a report can need.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The manifest carries no vendor signature.
    #[error("{0} carries no vendor signature")]
    Unsigned(String),
    /// The organisation does not list the vendor.
    #[error("vendor {0} is not in the fleet's list of vendors")]
    UnknownVendor(VendorName),
    /// Signed by nobody whom the organisation trusts for this vendor and suite.
    #[error("no key that is trusted for {vendor} signed it: {detail}")]
    UntrustedKey {
        /// The vendor.
        vendor: VendorName,
        /// What was found instead.
        detail: String,
    },
    /// The key was good once.
    #[error("the signing key has expired: {0}")]
    KeyExpired(String),
    /// The key was withdrawn, by the vendor or by the organisation.
    #[error("the signing key is revoked: {0}")]
    KeyRevoked(String),
    /// A digest or a key that is too weak to prove anything.
    #[error("the signature is too weak: {0}")]
    WeakAlgorithm(String),
    /// The signature does not verify.
    #[error("the signature does not verify: {0}")]
    BadSignature(String),
    /// Signature and manifest speak of different things.
    #[error("the evidence does not fit the manifest: {0}")]
    EvidenceMismatch(String),
    /// Signed for another suite than the manifest says.
    #[error("the evidence is of another suite: {0}")]
    SuiteMismatch(String),
    /// Not the format that it should be.
    #[error("the evidence is malformed: {0}")]
    Malformed(String),
    /// Beyond a limit.
    #[error("the evidence is too large: {0}")]
    TooLarge(String),
    /// Something that is needed is not there or cannot be read.
    #[error("the evidence is missing: {0}")]
    Missing(String),
}

impl Refusal {
    /// The code of the [`Reason`], which reports, counters and `--output json` carry. It never changes.
    pub fn code(&self) -> &'static str {
        Reason::from(self).code()
    }
}

impl From<&Refusal> for Reason {
    fn from(refusal: &Refusal) -> Reason {
        match refusal {
            Refusal::Unsigned(_) => Reason::Unsigned,
            Refusal::UnknownVendor(_) => Reason::UnknownVendor,
            Refusal::UntrustedKey { .. } => Reason::UntrustedKey,
            Refusal::KeyExpired(_) => Reason::KeyExpired,
            Refusal::KeyRevoked(_) => Reason::KeyRevoked,
            Refusal::WeakAlgorithm(_) => Reason::WeakAlgorithm,
            Refusal::BadSignature(_) => Reason::BadVendorSignature,
            Refusal::EvidenceMismatch(_) => Reason::EvidenceMismatch,
            Refusal::SuiteMismatch(_) => Reason::SuiteMismatch,
            Refusal::Malformed(_) => Reason::MalformedEvidence,
            Refusal::TooLarge(_) => Reason::TooLarge,
            Refusal::Missing(_) => Reason::MissingEvidence,
        }
    }
}

/// The vendor's key that made a signature.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Signer {
    /// A raw ed25519 key.
    Ed25519 {
        /// The key.
        public: PublicKey,
    },
    /// An OpenPGP certificate.
    OpenPgp {
        /// Fingerprint of its primary key, hexadecimal digits in lower case.
        fingerprint: String,
    },
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Signer::Ed25519 { public } => write!(f, "ed25519 key {public}"),
            Signer::OpenPgp { fingerprint } => write!(f, "OpenPGP key {fingerprint}"),
        }
    }
}

/// A vendor's signature over an artifact's digest, checked. Only the checkers make it: [`verify_ed25519`] here, and the
/// check of the APT chain in `node::verify`, which needs OpenPGP and a decompressor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidenced {
    manifest: ManifestDigest,
    content: Content,
    vendor: VendorName,
    signer: Signer,
    holds_until: Option<WallTime>,
}

impl Evidenced {
    /// Attests that `signer`, a key of the manifest's vendor that is trusted now, signed the digest of `artifact`, and
    /// that this holds until the key ends. For checkers alone; a test of `node` looks for other callers.
    pub fn attest(
        manifest: &Manifest,
        artifact: &Artifact,
        signer: Signer,
        holds_until: Option<WallTime>,
    ) -> Evidenced {
        Evidenced {
            manifest: manifest.digest(),
            content: artifact.content,
            vendor: manifest.patch.vendor(),
            signer,
            holds_until,
        }
    }
}

/// The word that goes to the core: for this manifest, the vendor signed this content, and it holds until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict(Evidenced);

impl Verdict {
    /// The only way to a verdict: a checked proof.
    pub fn of(proof: Evidenced) -> Verdict {
        Verdict(proof)
    }

    /// The manifest for which the evidence was checked.
    pub fn manifest(&self) -> ManifestDigest {
        self.0.manifest
    }

    /// The content that the vendor signed.
    pub fn content(&self) -> Content {
        self.0.content
    }

    /// The vendor.
    pub fn vendor(&self) -> &VendorName {
        &self.0.vendor
    }

    /// The vendor's key.
    pub fn signer(&self) -> &Signer {
        &self.0.signer
    }

    /// When the key ends and the evidence has to be checked again; `None` when it has no end.
    pub fn holds_until(&self) -> Option<WallTime> {
        self.0.holds_until
    }

    /// Whether the verdict still holds at `now`, as far as time is concerned. A newer list of vendors asks for a new
    /// check.
    pub fn holds(&self, now: WallTime) -> bool {
        self.0.holds_until.is_none_or(|until| now < until)
    }
}

/// Checks a detached ed25519 signature over the artifact's SHA-256 by a key of the manifest's vendor, trusted at `now`.
///
/// # Errors
/// The [`Refusal`]; [`Refusal::EvidenceMismatch`] when the evidence is of another kind or the manifest does not list
/// the artifact.
pub fn verify_ed25519(
    manifest: &Manifest,
    artifact: &Artifact,
    vendors: &Vendors,
    now: WallTime,
) -> Result<Evidenced, Refusal> {
    check_listed(manifest, artifact)?;
    let (key, signature) = match &artifact.evidence {
        Evidence::Ed25519 { key, signature } => (*key, signature),
        Evidence::None {} => return Err(Refusal::Unsigned(artifact.name.clone())),
        Evidence::Apt(_) => return Err(Refusal::EvidenceMismatch("it is an APT chain".to_owned())),
    };
    let name = manifest.patch.vendor();
    let vendor = vendors.find(&name).ok_or_else(|| Refusal::UnknownVendor(name.clone()))?;
    let listed = vendor
        .keys
        .iter()
        .filter(|entry| matches!(&entry.material, KeyMaterial::Ed25519 { public } if *public == key));
    let mut refusal = Refusal::UntrustedKey {
        vendor: name,
        detail: format!("ed25519 key {key} is not one of the vendor's keys"),
    };
    for entry in listed {
        if entry.is_trusted(now) {
            let holds = key.verify(Purpose::Artifact, artifact.content.sha256.as_bytes(), signature);
            holds.map_err(|_| Refusal::BadSignature(format!("ed25519 key {key}")))?;
            let signer = Signer::Ed25519 { public: key };
            return Ok(Evidenced::attest(manifest, artifact, signer, entry.valid_until));
        }
        refusal = untrusted_entry(entry, now, &format!("ed25519 key {key}"));
    }
    Err(refusal)
}

/// Checks the detached ed25519 signatures of all artifacts of a manifest.
///
/// # Errors
/// The first [`Refusal`]; one bad artifact refuses the patch.
pub fn verify_all_ed25519(
    manifest: &Manifest,
    vendors: &Vendors,
    now: WallTime,
) -> Result<Vec<Verdict>, Refusal> {
    let artifacts = manifest.artifacts.iter();
    artifacts.map(|artifact| verify_ed25519(manifest, artifact, vendors, now).map(Verdict::of)).collect()
}

/// Why the organisation does not trust a key that it lists as `entry`; `key` names it for people.
pub fn untrusted_entry(entry: &VendorKey, now: WallTime, key: &str) -> Refusal {
    match entry.valid_until {
        _ if entry.revoked => Refusal::KeyRevoked(format!("the fleet withdrew {key}")),
        Some(until) if until <= now => Refusal::KeyExpired(format!("the fleet trusts {key} until {until}")),
        _ => {
            Refusal::KeyExpired(format!("the fleet does not trust {key} yet; check the clock of this device"))
        }
    }
}

/// Checks that `artifact` is one of the manifest's own.
///
/// # Errors
/// [`Refusal::EvidenceMismatch`] when it is not.
pub fn check_listed(manifest: &Manifest, artifact: &Artifact) -> Result<(), Refusal> {
    if manifest.artifacts.contains(artifact) {
        Ok(())
    } else {
        Err(Refusal::EvidenceMismatch(format!("{} does not list {}", manifest.patch, artifact.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Vendor;
    use crate::identifier::PatchId;
    use crate::manifest::{Detection, Installer, Kind, Reboot, SCHEMA, Severity};
    use crate::signature::SigningKey;
    use crate::system::{Family, Target};
    use crate::version::DebianVersion;

    const NOW: WallTime = WallTime::from_unix_seconds(1_000_000);

    fn signed(key: &SigningKey) -> Manifest {
        let content = Content::of(b"bytes of a package");
        let signature = key.sign(Purpose::Artifact, content.sha256.as_bytes());
        Manifest {
            schema: SCHEMA,
            patch: PatchId::new("acme/tool=1.0").expect("patch"),
            title: "tool".to_owned(),
            kind: Kind::Update,
            severity: Severity::Unknown,
            cves: Vec::new(),
            published: None,
            targets: vec![Target {
                family: Family::Linux,
                distribution: "debian".to_owned(),
                release: "12".to_owned(),
                architecture: None,
            }],
            detection: Detection::DebianPackage {
                package: "tool".to_owned(),
                architecture: "all".to_owned(),
                version: DebianVersion::new("1.0").expect("version"),
            },
            requires: Vec::new(),
            supersedes: Vec::new(),
            artifacts: vec![Artifact {
                name: "tool.deb".to_owned(),
                content,
                evidence: Evidence::Ed25519 { key: key.public(), signature },
            }],
            installer: Installer::Dpkg,
            reboot: Reboot::Never,
        }
    }

    fn vendors(name: &str, key: &SigningKey) -> Vendors {
        let entry = VendorKey {
            material: KeyMaterial::Ed25519 { public: key.public() },
            valid_from: None,
            valid_until: Some(NOW.plus_days(1)),
            revoked: false,
        };
        Vendors { vendors: vec![Vendor { name: VendorName::new(name).expect("name"), keys: vec![entry] }] }
    }

    fn answer(manifest: &Manifest, vendors: &Vendors, now: WallTime) -> &'static str {
        verify_ed25519(manifest, &manifest.artifacts[0], vendors, now)
            .map_or_else(|refusal| refusal.code(), |_| "good")
    }

    // proves N8, X2
    #[test]
    fn signed_by_the_vendor() {
        let key = SigningKey::from_seed(&[7; 32]);
        let manifest = signed(&key);
        let artifact = &manifest.artifacts[0];
        let proof = verify_ed25519(&manifest, artifact, &vendors("acme", &key), NOW).expect("good");
        let verdict = Verdict::of(proof);
        assert_eq!((verdict.manifest(), verdict.content()), (manifest.digest(), artifact.content));
        assert_eq!(verdict.vendor().as_str(), "acme");
        assert!(verdict.holds(NOW) && !verdict.holds(NOW.plus_days(1)));
    }

    // proves N8
    #[test]
    fn each_refusal_has_its_own_code() {
        let key = SigningKey::from_seed(&[7; 32]);
        let manifest = signed(&key);
        let good = vendors("acme", &key);
        assert_eq!(answer(&manifest, &vendors("other", &key), NOW), "unknown-vendor");
        assert_eq!(
            answer(&manifest, &vendors("acme", &SigningKey::from_seed(&[8; 32])), NOW),
            "untrusted-key"
        );
        assert_eq!(answer(&manifest, &good, NOW.plus_days(1)), "key-expired");
        let mut revoked = good.clone();
        revoked.vendors[0].keys[0].revoked = true;
        assert_eq!(answer(&manifest, &revoked, NOW), "key-revoked");

        let mut unsigned = manifest.clone();
        unsigned.artifacts[0].evidence = Evidence::None {};
        assert_eq!(answer(&unsigned, &good, NOW), "unsigned");
        let mut flipped = manifest.clone();
        flipped.artifacts[0].content.sha256 = crate::digest::Sha256::of(b"other bytes");
        assert_eq!(answer(&flipped, &good, NOW), "bad-vendor-signature");
        let foreign = verify_ed25519(&manifest, &flipped.artifacts[0], &good, NOW);
        assert_eq!(foreign.map_err(|refusal| refusal.code()), Err("evidence-mismatch"));
    }
}
