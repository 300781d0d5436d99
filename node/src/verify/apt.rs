//! The APT chain: a trusted signature on the release file, its digest of the index, the index's digest of the package.

use super::certificate::Certificate;
use super::index::{Compression, IndexFault, for_each_package};
use super::openpgp::{self, SignedText, Unproven};
use super::release::Release;
use protocol::digest::Sha256;
use protocol::fleet::{KeyMaterial, VendorKey, Vendors};
use protocol::identifier::VendorName;
use protocol::limits::{INDEX_BYTES, RELEASE_BYTES};
use protocol::manifest::{AptChain, Artifact, Content, Detection, Evidence, Manifest};
use protocol::time::WallTime;
use protocol::verify::{Evidenced, Refusal, Signer, check_listed, untrusted_entry};

/// Checks the whole chain for one artifact at `now`. Takes the bytes of the release file and of the index as the
/// manifest names them; freshness is not judged here (it is the organisation's metadata that keeps a node fresh).
/// Blocking and heavy: it hashes and decompresses the index.
///
/// # Errors
/// The first [`Refusal`] on the way from the signature to the package.
pub fn verify_apt(
    manifest: &Manifest,
    artifact: &Artifact,
    release: &[u8],
    packages: &[u8],
    vendors: &Vendors,
    now: WallTime,
) -> Result<Evidenced, Refusal> {
    check_listed(manifest, artifact)?;
    let chain = match &artifact.evidence {
        Evidence::Apt(chain) => chain,
        Evidence::None {} => return Err(Refusal::Unsigned(artifact.name.clone())),
        Evidence::Ed25519 { .. } => {
            return Err(Refusal::EvidenceMismatch("it is an ed25519 signature".to_owned()));
        }
    };
    check_bytes("release file", release, &chain.release, RELEASE_BYTES)?;
    check_bytes("package index", packages, &chain.packages, INDEX_BYTES)?;
    let (signed, trusted_until) = verify_release(chain, release, &manifest.patch.vendor(), vendors, now)?;
    check_suite(chain, &signed, packages)?;
    check_package(manifest, artifact, chain, packages)?;
    let holds_until = [signed.holds_until(), trusted_until].into_iter().flatten().min();
    let signer = Signer::OpenPgp { fingerprint: signed.fingerprint().to_owned() };
    Ok(Evidenced::attest(manifest, artifact, signer, holds_until))
}

fn check_bytes(what: &str, bytes: &[u8], expected: &Content, limit: usize) -> Result<(), Refusal> {
    if bytes.len() > limit {
        return Err(Refusal::TooLarge(format!("{what} of {} bytes", bytes.len())));
    }
    if Content::of(bytes) == *expected {
        Ok(())
    } else {
        Err(Refusal::EvidenceMismatch(format!("the {what} is not the one that the manifest names")))
    }
}

/// The release file under the signature of a key that is trusted now for the vendor and the suite, and until when the
/// organisation trusts that key.
fn verify_release(
    chain: &AptChain,
    release: &[u8],
    name: &VendorName,
    vendors: &Vendors,
    now: WallTime,
) -> Result<(SignedText, Option<WallTime>), Refusal> {
    let vendor = vendors.find(name).ok_or_else(|| Refusal::UnknownVendor(name.clone()))?;
    let untrusted = |detail: String| Refusal::UntrustedKey { vendor: name.clone(), detail };
    let mut unreadable = None;
    let mut listed: Vec<(&VendorKey, Certificate)> = Vec::new();
    for key in &vendor.keys {
        let KeyMaterial::OpenPgp { certificate, suites } = &key.material else { continue };
        if suites.contains(&chain.suite) || suites.contains(&chain.codename) {
            // A key of a kind that this build cannot read leaves the vendor's other keys in force.
            match Certificate::parse(certificate) {
                Ok(certificate) => listed.push((key, certificate)),
                Err(error) => unreadable = Some(error),
            }
        }
    }
    if let Some(error) = unreadable.filter(|_| listed.is_empty()) {
        return Err(Refusal::Malformed(format!("a key in the fleet's list of vendors: {error}")));
    }
    if listed.is_empty() {
        return Err(untrusted(format!("the vendor has no OpenPGP key for suite {}", chain.suite)));
    }
    let (trusted, others): (Vec<_>, Vec<_>) = listed.into_iter().partition(|(key, _)| key.is_trusted(now));
    let certificates: Vec<Certificate> = trusted.iter().map(|(_, certificate)| certificate.clone()).collect();
    let refused = match openpgp::verify(release, &certificates, now) {
        Ok(signed) => {
            let until = trusted
                .iter()
                .filter(|(_, certificate)| certificate.fingerprint() == signed.fingerprint())
                .filter_map(|(key, _)| key.valid_until)
                .max();
            return Ok((signed, until));
        }
        Err(refused) => refused,
    };
    // A signature by a key that the organisation no longer trusts gets the better answer.
    if matches!(refused, Unproven::NoTrustedSigner) {
        for (key, certificate) in &others {
            if openpgp::verify(release, std::slice::from_ref(certificate), now).is_ok() {
                let name = format!("OpenPGP key {}", certificate.fingerprint());
                return Err(untrusted_entry(key, now, &name));
            }
        }
    }
    Err(refusal_of(name, refused))
}

/// The refusal that reports carry for what OpenPGP found.
pub fn refusal_of(vendor: &VendorName, unproven: Unproven) -> Refusal {
    let detail = unproven.to_string();
    match unproven.code() {
        "no-trusted-signer" | "key-not-for-signing" | "no-back-signature" | "key-unbound" => {
            Refusal::UntrustedKey { vendor: vendor.clone(), detail }
        }
        "key-revoked" => Refusal::KeyRevoked(detail),
        "key-expired" | "key-not-yet-valid" | "signature-expired" | "signature-in-future" => {
            Refusal::KeyExpired(detail)
        }
        "weak-key" | "weak-binding" | "weak-digest" => Refusal::WeakAlgorithm(detail),
        "too-large" => Refusal::TooLarge(detail),
        "malformed" => match std::error::Error::source(&unproven) {
            Some(cause) => Refusal::Malformed(format!("{detail}: {cause}")),
            None => Refusal::Malformed(detail),
        },
        _ => Refusal::BadSignature(detail),
    }
}

fn check_suite(chain: &AptChain, signed: &SignedText, packages: &[u8]) -> Result<(), Refusal> {
    let release = Release::parse(signed.text()).map_err(|error| Refusal::Malformed(error.to_string()))?;
    if (&release.suite, &release.codename) != (&chain.suite, &chain.codename) {
        return Err(Refusal::SuiteMismatch(format!(
            "signed for suite {} ({}), the manifest says {} ({})",
            release.suite, release.codename, chain.suite, chain.codename
        )));
    }
    let Some((sha256, size)) = release.find(&chain.packages_path) else {
        return Err(Refusal::EvidenceMismatch(format!(
            "the release file does not list {}",
            chain.packages_path
        )));
    };
    if size != packages.len() as u64 || sha256 != Sha256::of(packages) {
        let path = &chain.packages_path;
        return Err(Refusal::EvidenceMismatch(format!("the release file lists another {path}")));
    }
    Ok(())
}

fn check_package(
    manifest: &Manifest,
    artifact: &Artifact,
    chain: &AptChain,
    packages: &[u8],
) -> Result<(), Refusal> {
    let Detection::DebianPackage { package, architecture, version } = &manifest.detection;
    let compression = Compression::of_path(&chain.packages_path)
        .ok_or_else(|| Refusal::Malformed(format!("{} is of no known format", chain.packages_path)))?;
    let wanted = (artifact.content.sha256, artifact.content.size);
    let (mut named, mut agrees) = (false, false);
    let walked = for_each_package(
        packages,
        compression,
        |name| name == package,
        |stanza| {
            if stanza.field("Version") == Some(version.as_str())
                && stanza.field("Architecture") == Some(architecture.as_str())
            {
                named = true;
                agrees |= stanza.file() == Some(wanted);
            }
        },
    );
    walked.map_err(|fault| match fault {
        IndexFault::TooLarge(_) => Refusal::TooLarge(fault.to_string()),
        IndexFault::Damaged(_) | IndexFault::Malformed(_) => Refusal::Malformed(fault.to_string()),
    })?;
    match (named, agrees) {
        (_, true) => Ok(()),
        (true, false) => {
            let text = format!("the index lists another file for {package} {version} ({architecture})");
            Err(Refusal::EvidenceMismatch(text))
        }
        (false, false) => {
            Err(Refusal::EvidenceMismatch(format!("the index lists no {package} {version} ({architecture})")))
        }
    }
}
