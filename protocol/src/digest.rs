//! Content digests: the BLAKE3 root that identifies an artifact, and the SHA-256 that vendors sign.

use crate::codec::hex_newtype;
use sha2::Digest as _;

hex_newtype! {
    /// The BLAKE3 hash of a whole file (32 bytes), the one that `b3sum` prints; the identity of an artifact.
    Blake3Root
}

hex_newtype! {
    /// A SHA-256 digest (32 bytes), the one that `sha256sum` prints.
    Sha256
}

impl Sha256 {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Sha256 {
        Sha256::from_bytes(sha2::Sha256::digest(bytes).into())
    }
}

impl Blake3Root {
    /// The BLAKE3 root of `bytes`.
    pub fn of(bytes: &[u8]) -> Blake3Root {
        Blake3Root::from_bytes(blake3::hash(bytes).into())
    }
}
