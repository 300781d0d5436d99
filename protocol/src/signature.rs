//! Ed25519 keys and signatures, verified strictly, each signature bound to what it is for.

use crate::codec::hex_newtype;
use crate::identifier::DeviceId;
use ed25519_dalek::{Signer as _, VerifyingKey};

hex_newtype! {
    /// An ed25519 public key (32 bytes, RFC 8032).
    PublicKey
}

hex_newtype! {
    /// An ed25519 signature (64 bytes, RFC 8032).
    Signature, 64
}

/// What a signature is for. The prefix goes into the signed bytes, so that no signature serves two purposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A membership certificate, signed by an enrolment key.
    Membership,
    /// A report, signed by the device.
    Report,
    /// A watermark, signed by the aggregator.
    Watermark,
    /// An artifact's SHA-256, signed by a vendor (`catalogue import file`).
    Artifact,
    /// Metadata of The Update Framework: signed as it is, as that specification demands.
    Metadata,
}

impl Purpose {
    const fn prefix(self) -> &'static [u8] {
        match self {
            Purpose::Membership => b"patchmesh membership 1\n",
            Purpose::Report => b"patchmesh report 1\n",
            Purpose::Watermark => b"patchmesh watermark 1\n",
            Purpose::Artifact => b"patchmesh artifact 1\n",
            Purpose::Metadata => b"",
        }
    }

    /// The bytes that are signed for `message`.
    pub fn signed_bytes(self, message: &[u8]) -> Vec<u8> {
        [self.prefix(), message].concat()
    }
}

/// A signature that does not hold: wrong key, changed bytes, or a weak key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify")]
pub struct BadSignature;

impl PublicKey {
    /// Verifies `signature` over `message` strictly (no weak keys, no malleable signatures).
    ///
    /// # Errors
    /// [`BadSignature`], whatever the cause: the caller refuses either way.
    pub fn verify(
        &self,
        purpose: Purpose,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        let key = VerifyingKey::from_bytes(self.as_bytes()).map_err(|_| BadSignature)?;
        let signature = ed25519_dalek::Signature::from_bytes(signature.as_bytes());
        key.verify_strict(&purpose.signed_bytes(message), &signature).map_err(|_| BadSignature)
    }
}

impl From<DeviceId> for PublicKey {
    fn from(device: DeviceId) -> PublicKey {
        PublicKey::from_bytes(*device.as_bytes())
    }
}

impl From<PublicKey> for DeviceId {
    fn from(key: PublicKey) -> DeviceId {
        DeviceId::from_bytes(*key.as_bytes())
    }
}

/// An ed25519 private key; its `Debug` shows the public half only.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key of a 32-byte seed, which comes from the operating system's randomness or from a key file.
    pub fn from_seed(seed: &[u8; 32]) -> SigningKey {
        SigningKey(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The 32-byte seed, for a key file.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// The device whose identity this key is.
    pub fn device(&self) -> DeviceId {
        self.public().into()
    }

    /// Signs `message` for `purpose`; the same input gives the same signature (RFC 8032).
    pub fn sign(&self, purpose: Purpose, message: &[u8]) -> Signature {
        Signature::from_bytes(self.0.sign(&purpose.signed_bytes(message)).to_bytes())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey(public {})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_to_purpose_key_and_bytes() {
        let key = SigningKey::from_seed(&[7; 32]);
        let signature = key.sign(Purpose::Report, b"report");
        assert_eq!(key.public().verify(Purpose::Report, b"report", &signature), Ok(()));
        assert!(key.public().verify(Purpose::Watermark, b"report", &signature).is_err());
        assert!(key.public().verify(Purpose::Report, b"reporu", &signature).is_err());
        let other = SigningKey::from_seed(&[8; 32]).public();
        assert!(other.verify(Purpose::Report, b"report", &signature).is_err());
    }

    #[test]
    fn weak_keys_are_refused() {
        let identity_point = PublicKey::from_bytes(std::array::from_fn(|at| u8::from(at == 0)));
        let mut zeroes = [0; 64];
        zeroes[0] = 1;
        assert!(identity_point.verify(Purpose::Metadata, b"", &Signature::from_bytes(zeroes)).is_err());
    }
}
