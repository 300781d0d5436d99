//! An OpenPGP certificate, and which of its keys may sign data now, by rules of our own (RFC 9580, sections 5.2 and 10).

use pgp::armor::Dearmor;
use pgp::composed::{ArmorOptions, Deserializable as _, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Packet, PacketParser, Signature, SignatureType, SubpacketData};
use pgp::ser::Serialize as _;
use pgp::types::{
    EcdsaPublicParams, EddsaLegacyPublicParams, KeyDetails, KeyVersion, PublicParams, RsaPublicParams,
    SignedUser, Tag,
};
use protocol::codec::hex;
use protocol::limits::{KEYRING_BYTES, OPENPGP_PACKETS};
use protocol::time::WallTime;
use std::io::Read as _;

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

/// Bytes that are not a usable OpenPGP certificate.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    /// Beyond a limit.
    #[error("OpenPGP keyring is larger than the limit")]
    TooLarge,
    /// No certificate in it.
    #[error("no OpenPGP certificate found")]
    Empty,
    /// More than one where one is expected.
    #[error("{0} OpenPGP certificates where one is expected")]
    Several(usize),
    /// The library cannot read it.
    #[error("OpenPGP certificate is damaged")]
    Damaged(#[source] Box<pgp::errors::Error>),
}

/// An OpenPGP certificate, read and not judged.
#[derive(Clone, Debug)]
pub struct Certificate {
    key: SignedPublicKey,
    /// Revocations wherever they stand, because the library drops those in unusual places.
    revocations: Vec<Signature>,
}

/// One key of a certificate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Component<'a> {
    Primary(&'a Certificate),
    Subkey(&'a Certificate, &'a SignedPublicSubKey),
}

impl Certificate {
    /// Reads exactly one ASCII-armoured certificate.
    ///
    /// # Errors
    /// [`BadCertificate`].
    pub fn parse(armoured: &str) -> Result<Certificate, BadCertificate> {
        let mut found = Certificate::parse_keyring(armoured.as_bytes())?;
        match (found.pop(), found.len()) {
            (Some(certificate), 0) => Ok(certificate),
            (_, others) => Err(BadCertificate::Several(others + 1)),
        }
    }

    /// Reads a keyring, binary or ASCII-armoured. Certificates that the library cannot read are left out as long as one
    /// is good: a keyring of a distribution may hold one of a newer kind.
    ///
    /// # Errors
    /// [`BadCertificate`] when none is left.
    pub fn parse_keyring(bytes: &[u8]) -> Result<Vec<Certificate>, BadCertificate> {
        if bytes.len() > KEYRING_BYTES {
            return Err(BadCertificate::TooLarge);
        }
        let damaged = |error: pgp::errors::Error| BadCertificate::Damaged(Box::new(error));
        let mut plain = Vec::new();
        if bytes.first().is_some_and(|first| first & 0x80 != 0) {
            plain.extend_from_slice(bytes);
        } else {
            let armour = Dearmor::new(bytes).take(KEYRING_BYTES as u64 + 1).read_to_end(&mut plain);
            armour.map_err(|error| damaged(error.into()))?;
        }
        let mut groups: Vec<Result<Vec<Packet>, pgp::errors::Error>> = Vec::new();
        for packet in PacketParser::new(plain.as_slice()) {
            match packet {
                Ok(Packet::Trust(_) | Packet::Marker(_) | Packet::Padding(_)) => {}
                Ok(packet @ Packet::PublicKey(_)) => groups.push(Ok(vec![packet])),
                Ok(packet) => match groups.last_mut() {
                    Some(Ok(group)) if group.len() >= OPENPGP_PACKETS => {
                        return Err(BadCertificate::TooLarge);
                    }
                    Some(Ok(group)) => group.push(packet),
                    _ => {}
                },
                // Packets of kinds that nobody knows yet carry nothing that this policy would read.
                Err(pgp::errors::Error::Unsupported { .. }) => {}
                Err(error) => match groups.last_mut() {
                    Some(group) => *group = Err(error),
                    None => return Err(damaged(error)),
                },
            }
        }
        let mut good = Vec::new();
        let mut last_fault = BadCertificate::Empty;
        for group in groups {
            match group.and_then(Certificate::from_packets) {
                Ok(certificate) => good.push(certificate),
                Err(error) => last_fault = damaged(error),
            }
        }
        if good.is_empty() { Err(last_fault) } else { Ok(good) }
    }

    fn from_packets(packets: Vec<Packet>) -> Result<Certificate, pgp::errors::Error> {
        let revocations = packets.iter().filter_map(|packet| match packet {
            Packet::Signature(signature) if is_revocation(signature) => Some(signature.clone()),
            _ => None,
        });
        let revocations = revocations.collect();
        let mut parsed = SignedPublicKey::from_packets(packets.into_iter().map(Ok).peekable());
        match parsed.next() {
            Some(key) => Ok(Certificate { key: key?, revocations }),
            None => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// Fingerprint of the primary key, hexadecimal digits in lower case.
    pub fn fingerprint(&self) -> String {
        hex(self.key.primary_key.fingerprint().as_bytes())
    }

    /// The certificate in ASCII armour, as the fleet's list of vendors holds it.
    ///
    /// # Errors
    /// [`BadCertificate::Damaged`] when the library cannot write what it has read.
    pub fn to_armoured(&self) -> Result<String, BadCertificate> {
        self.key
            .to_armored_string(ArmorOptions::default())
            .map_err(|error| BadCertificate::Damaged(Box::new(error)))
    }

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

fn is_revocation(signature: &Signature) -> bool {
    matches!(signature.typ(), Some(SignatureType::KeyRevocation | SignatureType::SubkeyRevocation))
}

fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    signature.issuer_fingerprint().contains(&&key.fingerprint())
        || signature.issuer_key_id().contains(&&key.legacy_key_id())
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
