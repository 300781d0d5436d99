//! One key, two names: a device's ed25519 key as [`DeviceId`] and as libp2p peer identity.

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use protocol::identifier::DeviceId;
use protocol::signature::SigningKey;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// Installs the process's one rustls crypto provider (AWS-LC, which libp2p's TLS brings anyway). Call it first thing in `main`;
/// calling it again does nothing.
pub fn install_crypto_provider() {
    if CryptoProvider::get_default().is_none() {
        // Fails only when another thread was faster, and then there is a provider.
        let _ = aws_lc_rs::default_provider().install_default();
    }
}

/// The process's crypto provider.
pub(super) fn crypto_provider() -> CryptoProvider {
    install_crypto_provider();
    CryptoProvider::get_default().map_or_else(aws_lc_rs::default_provider, |provider| (**provider).clone())
}

/// Bytes that no connection can ever prove to be its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {0} is not a point on the ed25519 curve; check where the identifier comes from")]
pub struct NotAnIdentity(pub DeviceId);

/// The libp2p identity of `device`.
///
/// # Errors
/// [`NotAnIdentity`] when the bytes are no public key.
pub fn peer_id(device: DeviceId) -> Result<PeerId, NotAnIdentity> {
    let key = ed25519::PublicKey::try_from_bytes(device.as_bytes()).map_err(|_| NotAnIdentity(device))?;
    Ok(PublicKey::from(key).to_peer_id())
}

/// The device behind a libp2p identity, or `None` for a key that is not ed25519: no device of ours has one.
pub fn device(peer: &PeerId) -> Option<DeviceId> {
    // An ed25519 peer identity is the public key itself (libp2p specs, peer-ids), in an identity multihash (code 0).
    let hash: &libp2p::multihash::Multihash<64> = peer.as_ref();
    if hash.code() != 0 {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?.try_into_ed25519().ok()?;
    Some(DeviceId::from_bytes(key.to_bytes()))
}

/// The device's key in the form that libp2p signs with.
pub(super) fn keypair(key: &SigningKey) -> Keypair {
    let secret = ed25519::SecretKey::try_from_bytes(key.seed()).expect("any 32 bytes are an ed25519 seed");
    Keypair::from(ed25519::Keypair::from(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn there_and_back(seed: [u8; 32]) {
            let key = SigningKey::from_seed(&seed);
            let peer = keypair(&key).public().to_peer_id();
            prop_assert_eq!(device(&peer), Some(key.device()));
            prop_assert_eq!(peer_id(key.device()), Ok(peer));
        }
    }

    #[test]
    fn other_identities_are_no_devices() {
        assert_eq!(device(&PeerId::random()), None);
        let off_curve =
            (0..=255u8).map(|byte| DeviceId::from_bytes([byte; 32])).find(|id| peer_id(*id).is_err());
        assert!(off_curve.is_some());
    }
}
