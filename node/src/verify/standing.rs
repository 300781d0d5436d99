//! Which keys of an OpenPGP certificate may sign data now, by rules of our own (RFC 9580, sections 5.2 and 10).

use super::certificate::{Certificate, names};
use pgp::composed::SignedPublicSubKey;
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::ser::Serialize as _;
use pgp::types::{
    EcdsaPublicParams, EddsaLegacyPublicParams, KeyDetails, KeyVersion, PublicParams, RsaPublicParams,
    SignedUser, Tag,
};
use protocol::time::WallTime;

/// Smallest RSA modulus that counts, in bits.
const RSA_BITS: u32 = 2_048;

/// Why a key may not sign now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Its owner revoked it, or the certificate that it belongs to.
    #[error("it is revoked")]
    Revoked,
    /// It, or the certificate that it belongs to, has expired.
    #[error("it expired at {0}")]
    Expired(WallTime),
    /// It is younger than the clock of this device.
    #[error("it is valid from {0} only; check the clock of this device")]
    NotYetValid(WallTime),
    /// Its flags do not allow signing data.
    #[error("it is not a key for signing data")]
    NotForSigning,
    /// A signing subkey that never agreed to belong to the certificate.
    #[error("its back-signature is missing or wrong")]
    NoBackSignature,
    /// No good signature of the certificate's owner stands over it.
    #[error("nothing binds it to its certificate")]
    Unbound,
    /// An algorithm or a size that proves nothing.
    #[error("{0} is too weak")]
    WeakKey(String),
    /// What binds it uses a digest that proves nothing.
    #[error("it is bound with a digest that is too weak")]
    WeakBinding,
}

/// One key of a certificate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Component<'a> {
    Primary(&'a Certificate),
    Subkey(&'a Certificate, &'a SignedPublicSubKey),
}

impl Certificate {
    /// The keys that `signature` names as its maker.
    pub(super) fn named_by<'a>(&'a self, signature: &Signature) -> Vec<Component<'a>> {
        let primary = names(signature, &self.key.primary_key).then_some(Component::Primary(self));
        let subkeys = self.key.public_subkeys.iter().filter(|subkey| names(signature, *subkey));
        primary.into_iter().chain(subkeys.map(|subkey| Component::Subkey(self, subkey))).collect()
    }

    fn is_primary_revoked(&self) -> bool {
        // Whatever its digest and its date: a revocation that its owner made is obeyed.
        self.revocations.iter().any(|revocation| {
            revocation.typ() == Some(SignatureType::KeyRevocation)
                && revocation.verify_key(&self.key.primary_key).is_ok()
        })
    }

    /// Judges the primary key: until when the certificate is valid, and whether its primary key may sign data.
    fn judge_primary(&self, now: WallTime) -> Result<(Option<WallTime>, bool), KeyFault> {
        let primary = &self.key.primary_key;
        let created = judge_key(primary, now)?;
        if self.is_primary_revoked() {
            return Err(KeyFault::Revoked);
        }
        let direct = self.key.details.direct_signatures.iter().filter(|signature| {
            signature.typ() == Some(SignatureType::Key) && signature.verify_key(primary).is_ok()
        });
        let mut newest = vec![newest_good(direct, now)];
        newest.extend(self.key.details.users.iter().map(|user| self.newest_of_user(user, now)));
        let weak = newest.contains(&Err(KeyFault::WeakBinding));
        let bindings: Vec<&Signature> = newest.into_iter().filter_map(Result::ok).collect();
        // The newest says what the key is for; the earliest end counts, since each was a promise of the owner.
        let Some(latest) = bindings.iter().max_by_key(|signature| created_at(signature)) else {
            return Err(if weak { KeyFault::WeakBinding } else { KeyFault::Unbound });
        };
        let may_sign = latest.key_flags().sign();
        let expires = bindings.iter().filter_map(|signature| key_expiry(created, signature)).min();
        match expires {
            Some(end) if end <= now => Err(KeyFault::Expired(end)),
            _ => Ok((expires, may_sign)),
        }
    }

    fn newest_of_user<'a>(&self, user: &'a SignedUser, now: WallTime) -> Result<&'a Signature, KeyFault> {
        let primary = &self.key.primary_key;
        let own = |signature: &&Signature| {
            names(signature, primary)
                && signature.verify_certification(primary, Tag::UserId, &user.id).is_ok()
        };
        let revoked_at = user
            .signatures
            .iter()
            .filter(|signature| signature.typ() == Some(SignatureType::CertRevocation))
            .filter(own)
            .map(created_at)
            .max();
        let certifications = user
            .signatures
            .iter()
            .filter(|signature| signature.typ() != Some(SignatureType::CertRevocation))
            .filter(|signature| revoked_at.is_none_or(|revoked| created_at(signature) > revoked))
            .filter(own);
        newest_good(certifications, now)
    }

    fn judge_subkey(&self, subkey: &SignedPublicSubKey, now: WallTime) -> Result<Option<WallTime>, KeyFault> {
        let primary = &self.key.primary_key;
        let created = judge_key(subkey, now)?;
        let revoked = self.revocations.iter().any(|revocation| {
            revocation.typ() == Some(SignatureType::SubkeyRevocation)
                && revocation.verify_subkey_binding(primary, &subkey.key).is_ok()
        });
        if revoked {
            return Err(KeyFault::Revoked);
        }
        let bindings = subkey.signatures.iter().filter(|signature| {
            signature.typ() == Some(SignatureType::SubkeyBinding)
                && signature.verify_subkey_binding(primary, &subkey.key).is_ok()
        });
        let binding = newest_good(bindings, now)?;
        if !binding.key_flags().sign() {
            return Err(KeyFault::NotForSigning);
        }
        let back = binding.embedded_signature().ok_or(KeyFault::NoBackSignature)?;
        back.verify_primary_key_binding(&subkey.key, primary).map_err(|_| KeyFault::NoBackSignature)?;
        match newest_good(std::iter::once(back), now) {
            Err(KeyFault::Unbound) => return Err(KeyFault::NoBackSignature),
            other => other?,
        };
        match key_expiry(created, binding) {
            Some(end) if end <= now => Err(KeyFault::Expired(end)),
            end => Ok(end),
        }
    }
}

impl Component<'_> {
    /// Whether the key may sign data at `now`, and until when.
    pub(super) fn judge(&self, now: WallTime) -> Result<Option<WallTime>, KeyFault> {
        match self {
            Component::Primary(certificate) => match certificate.judge_primary(now)? {
                (until, true) => Ok(until),
                (_, false) => Err(KeyFault::NotForSigning),
            },
            Component::Subkey(certificate, subkey) => {
                let (until, _) = certificate.judge_primary(now)?;
                let subkey_until = certificate.judge_subkey(subkey, now)?;
                Ok([until, subkey_until].into_iter().flatten().min())
            }
        }
    }

    /// Whether `signature` over `text` is cryptographically that of this key.
    pub(super) fn made(&self, signature: &Signature, text: &[u8]) -> bool {
        match self {
            Component::Primary(certificate) => signature.verify(&certificate.key.primary_key, text).is_ok(),
            Component::Subkey(_, subkey) => signature.verify(&subkey.key, text).is_ok(),
        }
    }

    /// When the key was made.
    pub(super) fn created(&self) -> WallTime {
        match self {
            Component::Primary(certificate) => wall_time(certificate.key.primary_key.created_at().as_secs()),
            Component::Subkey(_, subkey) => wall_time(subkey.key.created_at().as_secs()),
        }
    }
}

/// Whether a digest is one that we accept under a signature.
pub(super) fn is_strong(digest: Option<HashAlgorithm>) -> bool {
    matches!(digest, Some(HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512))
}

/// Whether a signature carries a critical part that we do not understand, and must therefore not count (section 5.2.3.7).
pub(super) fn has_unknown_critical(signature: &Signature) -> bool {
    let Some(config) = signature.config() else { return true };
    config.hashed_subpackets().any(|part| {
        part.is_critical
            && matches!(
                part.data,
                SubpacketData::Other(..) | SubpacketData::Experimental(..) | SubpacketData::Notation(_)
            )
    })
}

/// When a signature was made, and when it ends if it has an end.
pub(super) fn validity(signature: &Signature) -> Option<(WallTime, Option<WallTime>)> {
    let created = wall_time(signature.created()?.as_secs());
    let seconds = signature.signature_expiration_time().map_or(0, |duration| duration.as_secs());
    let end = (seconds != 0).then(|| created.plus_seconds(u64::from(seconds)));
    Some((created, end))
}

fn wall_time(seconds: u32) -> WallTime {
    WallTime::from_unix_seconds(u64::from(seconds))
}

fn created_at(signature: &Signature) -> WallTime {
    validity(signature).map_or(WallTime::default(), |(created, _)| created)
}

fn key_expiry(created: WallTime, binding: &Signature) -> Option<WallTime> {
    let seconds = binding.key_expiration_time().map_or(0, |duration| duration.as_secs());
    (seconds != 0).then(|| created.plus_seconds(u64::from(seconds)))
}

/// The newest of signatures that verify, if it still counts at `now`.
fn newest_good<'a>(
    verified: impl Iterator<Item = &'a Signature>,
    now: WallTime,
) -> Result<&'a Signature, KeyFault> {
    let counts = |signature: &&Signature| {
        validity(signature).is_some_and(|(created, end)| created <= now && end.is_none_or(|end| now < end))
            && !has_unknown_critical(signature)
    };
    let (strong, weak): (Vec<_>, Vec<_>) =
        verified.filter(counts).partition(|signature| is_strong(signature.hash_alg()));
    match strong.into_iter().max_by_key(|signature| created_at(signature)) {
        Some(newest) => Ok(newest),
        None if weak.is_empty() => Err(KeyFault::Unbound),
        None => Err(KeyFault::WeakBinding),
    }
}

/// Judges the key material alone, and says when it was made.
fn judge_key(key: &impl KeyDetails, now: WallTime) -> Result<WallTime, KeyFault> {
    if !matches!(key.version(), KeyVersion::V4 | KeyVersion::V6) {
        return Err(KeyFault::WeakKey(format!("key format {:?}", key.version())));
    }
    match key.public_params() {
        PublicParams::RSA(params) => match rsa_bits(params) {
            Some(bits) if bits >= RSA_BITS => {}
            bits => return Err(KeyFault::WeakKey(format!("RSA with {} bits", bits.unwrap_or(0)))),
        },
        PublicParams::Ed25519(_)
        | PublicParams::EdDSALegacy(EddsaLegacyPublicParams::Ed25519 { .. })
        | PublicParams::ECDSA(
            EcdsaPublicParams::P256 { .. } | EcdsaPublicParams::P384 { .. } | EcdsaPublicParams::P521 { .. },
        ) => {}
        _ => return Err(KeyFault::WeakKey(format!("{:?}", key.algorithm()))),
    }
    let created = wall_time(key.created_at().as_secs());
    if created > now { Err(KeyFault::NotYetValid(created)) } else { Ok(created) }
}

/// Bits of the modulus: the first number of the key's own encoding starts with its length (section 3.2).
fn rsa_bits(params: &RsaPublicParams) -> Option<u32> {
    let bytes = params.to_bytes().ok()?;
    let length = bytes.first_chunk::<2>()?;
    Some(u32::from(u16::from_be_bytes(*length)))
}
