//! Verifies a clear-signed text under a policy of our own: good key, good signature, strong digest, at this time.

use super::certificate::Certificate;
use super::clearsign::{self, NotClearSigned, Unchecked};
use super::standing::{Component, KeyFault, has_unknown_critical, is_strong, validity};
use pgp::packet::{Signature, SignatureType};
use protocol::time::WallTime;

/// A text that a trusted key signed. Made by [`verify`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedText {
    text: String,
    fingerprint: String,
    created: WallTime,
    holds_until: Option<WallTime>,
}

impl SignedText {
    /// The signed text and nothing but the signed text; lines end in LF.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Fingerprint of the signing certificate's primary key, hexadecimal digits in lower case.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// When the signature was made.
    pub fn created(&self) -> WallTime {
        self.created
    }

    /// When key or signature ends; `None` when neither has an end.
    pub fn holds_until(&self) -> Option<WallTime> {
        self.holds_until
    }
}

/// Why a clear-signed message proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// Not one clear-signed message.
    #[error("not exactly one clear-signed message")]
    Malformed(#[source] NotClearSigned),
    /// None of the signatures is by a trusted certificate.
    #[error("no trusted key signed it")]
    NoTrustedSigner,
    /// The key of a trusted certificate may not sign.
    #[error("the key of {fingerprint} does not count: {fault}")]
    Key {
        /// The certificate.
        fingerprint: String,
        /// What is wrong with its key.
        fault: KeyFault,
    },
    /// The digest under the signature proves nothing.
    #[error("the signature of {0} uses a digest that is too weak, or one that the message does not announce")]
    WeakDigest(String),
    /// The signature has expired.
    #[error("the signature of {fingerprint} expired at {end}")]
    SignatureExpired {
        /// The certificate.
        fingerprint: String,
        /// When the signature ended.
        end: WallTime,
    },
    /// The signature is younger than the clock.
    #[error(
        "the signature of {fingerprint} was made at {created}, after now; check the clock of this device"
    )]
    SignatureInFuture {
        /// The certificate.
        fingerprint: String,
        /// When it says that it was made.
        created: WallTime,
    },
    /// The signature is of a kind that does not sign text, or carries a critical part that we do not know.
    #[error("the signature of {0} is not of a kind that this build understands")]
    Unsupported(String),
    /// Text or signature was changed.
    #[error("the signature of {0} does not verify")]
    BadSignature(String),
}

impl Unproven {
    /// Stable code of the refusal.
    pub const fn code(&self) -> &'static str {
        match self {
            Unproven::Malformed(NotClearSigned::TooLarge(_)) => "too-large",
            Unproven::Malformed(_) => "malformed",
            Unproven::NoTrustedSigner => "no-trusted-signer",
            Unproven::Key { fault, .. } => match fault {
                KeyFault::Revoked => "key-revoked",
                KeyFault::Expired(_) => "key-expired",
                KeyFault::NotYetValid(_) => "key-not-yet-valid",
                KeyFault::NotForSigning => "key-not-for-signing",
                KeyFault::NoBackSignature => "no-back-signature",
                KeyFault::Unbound => "key-unbound",
                KeyFault::WeakKey(_) => "weak-key",
                KeyFault::WeakBinding => "weak-binding",
            },
            Unproven::WeakDigest(_) => "weak-digest",
            Unproven::SignatureExpired { .. } => "signature-expired",
            Unproven::SignatureInFuture { .. } => "signature-in-future",
            Unproven::Unsupported(_) => "unsupported-signature",
            Unproven::BadSignature(_) => "bad-signature",
        }
    }

    /// How much a refusal says to a person, when several signatures are refused for different reasons.
    const fn weight(&self) -> u8 {
        match self {
            Unproven::BadSignature(_) => 4,
            Unproven::Key { fault: KeyFault::Revoked, .. } => 3,
            Unproven::NoTrustedSigner => 0,
            _ => 2,
        }
    }
}

/// Verifies `message` against `certificates` at `now`. One good signature is enough and unknown signers are ignored,
/// but a signature that names a trusted key and does not verify refuses the message: somebody changed it.
///
/// # Errors
/// [`Unproven`] names the weightiest reason.
pub fn verify(message: &[u8], certificates: &[Certificate], now: WallTime) -> Result<SignedText, Unproven> {
    let unchecked = clearsign::parse(message).map_err(Unproven::Malformed)?;
    // The line end before the signature block is not signed, and line ends are signed as CR LF (section 7.1).
    let signed = unchecked.text.strip_suffix('\n').unwrap_or_default().replace('\n', "\r\n");
    let mut best: Option<SignedText> = None;
    let mut refusal = Unproven::NoTrustedSigner;
    for signature in &unchecked.signatures {
        for certificate in certificates {
            for component in certificate.named_by(signature) {
                match check(&unchecked, signed.as_bytes(), signature, certificate, component, now) {
                    Ok(good) => best = Some(longer(best, good)),
                    Err(bad @ Unproven::BadSignature(_)) => return Err(bad),
                    Err(other) if other.weight() > refusal.weight() => refusal = other,
                    Err(_) => {}
                }
            }
        }
    }
    best.ok_or(refusal)
}

fn longer(best: Option<SignedText>, other: SignedText) -> SignedText {
    match best {
        Some(best)
            if best.holds_until.is_none_or(|until| other.holds_until.is_some_and(|it| it <= until)) =>
        {
            best
        }
        _ => other,
    }
}

fn check(
    message: &Unchecked,
    signed: &[u8],
    signature: &Signature,
    certificate: &Certificate,
    component: Component<'_>,
    now: WallTime,
) -> Result<SignedText, Unproven> {
    let fingerprint = certificate.fingerprint();
    if signature.typ() != Some(SignatureType::Text) || has_unknown_critical(signature) {
        return Err(Unproven::Unsupported(fingerprint));
    }
    let announced = signature
        .hash_alg()
        .is_some_and(|digest| message.digests.iter().any(|name| *name == digest.to_string()));
    if !is_strong(signature.hash_alg()) || !announced {
        return Err(Unproven::WeakDigest(fingerprint));
    }
    let Some((created, end)) = validity(signature) else { return Err(Unproven::Unsupported(fingerprint)) };
    if !component.made(signature, signed) {
        return Err(Unproven::BadSignature(fingerprint));
    }
    let until = match component.judge(now) {
        Ok(until) => until,
        Err(fault) => return Err(Unproven::Key { fingerprint, fault }),
    };
    if created > now {
        return Err(Unproven::SignatureInFuture { fingerprint, created });
    }
    if created < component.created() {
        return Err(Unproven::BadSignature(fingerprint));
    }
    match end {
        Some(end) if end <= now => return Err(Unproven::SignatureExpired { fingerprint, end }),
        _ => {}
    }
    let holds_until = [until, end].into_iter().flatten().min();
    Ok(SignedText { text: message.text.clone(), fingerprint, created, holds_until })
}
