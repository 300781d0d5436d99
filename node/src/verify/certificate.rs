//! An OpenPGP certificate, read from a keyring or from the fleet's list of vendors, and not judged (RFC 9580, section 10.1).

use pgp::armor::{self, BlockType, Dearmor};
use pgp::composed::{Deserializable as _, SignedPublicKey};
use pgp::packet::{Packet, PacketParser, Signature, SignatureType};
use pgp::types::KeyDetails;
use protocol::codec::hex;
use protocol::limits::{KEYRING_BYTES, OPENPGP_PACKETS};
use std::io::Read as _;

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
    pub(super) key: SignedPublicKey,
    /// Revocations wherever they stand, because the library drops those in unusual places.
    pub(super) revocations: Vec<Signature>,
    /// What the owner put together, in its order: keys, users, and signatures by the primary key.
    own: Vec<Packet>,
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

    /// Makes a certificate of the packets that stand from one primary key to the next.
    pub(super) fn from_packets(packets: Vec<Packet>) -> Result<Certificate, pgp::errors::Error> {
        let revocations = packets.iter().filter_map(|packet| match packet {
            Packet::Signature(signature) if is_revocation(signature) => Some(signature.clone()),
            _ => None,
        });
        let revocations = revocations.collect();
        let own = packets.clone();
        let mut parsed = SignedPublicKey::from_packets(packets.into_iter().map(Ok).peekable());
        match parsed.next() {
            Some(key) => {
                let key = key?;
                let own = own.into_iter().filter(|packet| is_own(packet, &key)).collect();
                Ok(Certificate { key, revocations, own })
            }
            None => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// What the owner put together, in its order.
    #[cfg(test)]
    pub(super) fn packets(&self) -> &[Packet] {
        &self.own
    }

    /// Fingerprint of the primary key, hexadecimal digits in lower case.
    pub fn fingerprint(&self) -> String {
        hex(self.key.primary_key.fingerprint().as_bytes())
    }

    /// The certificate in ASCII armour, as the fleet's list of vendors holds it: without what strangers certified, which
    /// this policy never reads and which makes up most of a well-known certificate.
    ///
    /// # Errors
    /// [`BadCertificate::Damaged`] when the library cannot write what it has read.
    pub fn to_armoured(&self) -> Result<String, BadCertificate> {
        let damaged = |error| BadCertificate::Damaged(Box::new(error));
        let mut bytes = Vec::new();
        armor::write(&self.own, BlockType::PublicKey, &mut bytes, None, true).map_err(damaged)?;
        String::from_utf8(bytes).map_err(|error| damaged(std::io::Error::other(error).into()))
    }
}

fn is_revocation(signature: &Signature) -> bool {
    matches!(signature.typ(), Some(SignatureType::KeyRevocation | SignatureType::SubkeyRevocation))
}

fn is_own(packet: &Packet, key: &SignedPublicKey) -> bool {
    match packet {
        Packet::PublicKey(_) | Packet::PublicSubkey(_) | Packet::UserId(_) => true,
        Packet::Signature(signature) => names(signature, &key.primary_key),
        _ => false,
    }
}

pub(super) fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    signature.issuer_fingerprint().contains(&&key.fingerprint())
        || signature.issuer_key_id().contains(&&key.legacy_key_id())
}
