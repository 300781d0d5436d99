//! The aggregator's signed word that a device's reports are durable up to a sequence number.

use crate::codec::{self, DecodeError};
use crate::digest::Sha256;
use crate::fleet::Services;
use crate::identifier::DeviceId;
use crate::signature::{Purpose, Signature, SigningKey};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};

/// What an aggregator has of one device. It is signed only after the commit is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The aggregator.
    pub aggregator: DeviceId,
    /// The device whose reports are meant.
    pub device: DeviceId,
    /// Incarnation of the device's store.
    pub incarnation: u64,
    /// Every report up to this one is durable; 0 is none.
    pub sequence: u64,
    /// Hash of that report, so that a device whose store was set back notices.
    pub hash: Sha256,
    /// Random number of the aggregator's store: after a restore from backup it is another one.
    pub epoch: u64,
    /// The aggregator's clock.
    pub time: WallTime,
}

/// A watermark as it travels: nothing in it is believed before [`SignedWatermark::open`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedWatermark {
    bytes: Vec<u8>,
    signature: Signature,
}

/// Why a watermark does not count. The reports stay in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatermarkRefusal {
    /// Not the encoding of a watermark.
    #[error("the watermark cannot be decoded")]
    Malformed,
    /// The fleet's services name no such aggregator.
    #[error("the watermark is of a device that the fleet's services do not name as an aggregator")]
    NotAnAggregator,
    /// The aggregator's watermark key did not sign it.
    #[error("the signature of the watermark does not verify")]
    Signature,
}

/// Largest encoding of a watermark; it holds fixed-size values only.
const WATERMARK_BYTES: usize = 512;

impl Watermark {
    /// Signs it with the watermark key of the aggregator.
    pub fn sign(&self, key: &SigningKey) -> SignedWatermark {
        let bytes = codec::encode(self);
        let signature = key.sign(Purpose::Watermark, &bytes);
        SignedWatermark { bytes, signature }
    }
}

impl SignedWatermark {
    /// Encodes it for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes it; that it decodes proves nothing.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else than a signed watermark.
    pub fn from_bytes(bytes: &[u8]) -> Result<SignedWatermark, DecodeError> {
        codec::decode::<_, { 2 * WATERMARK_BYTES }>(bytes)
    }

    /// Verifies that an aggregator which `services` name signed it, and reads it.
    ///
    /// # Errors
    /// [`WatermarkRefusal`]; the caller keeps its reports and tries another aggregator.
    pub fn open(&self, services: &Services) -> Result<Watermark, WatermarkRefusal> {
        let mark: Watermark =
            codec::decode::<_, WATERMARK_BYTES>(&self.bytes).map_err(|_| WatermarkRefusal::Malformed)?;
        let aggregator = services.aggregator(mark.aggregator).ok_or(WatermarkRefusal::NotAnAggregator)?;
        aggregator
            .watermark_key
            .verify(Purpose::Watermark, &self.bytes, &self.signature)
            .map_err(|_| WatermarkRefusal::Signature)?;
        Ok(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Aggregator;

    #[test]
    fn counts_only_from_the_key_that_the_services_name() {
        let (key, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let aggregator = SigningKey::from_seed(&[3; 32]).device();
        let mark = Watermark {
            aggregator,
            device: other.device(),
            incarnation: 4,
            sequence: 9,
            hash: Sha256::of(b"x"),
            epoch: 6,
            time: WallTime::from_unix_seconds(7),
        };
        let entry = Aggregator { device: aggregator, addresses: Vec::new(), watermark_key: key.public() };
        let services = Services { aggregators: vec![entry], ..Services::default() };
        assert_eq!(mark.sign(&key).open(&services), Ok(mark.clone()));
        assert_eq!(mark.sign(&other).open(&services), Err(WatermarkRefusal::Signature));
        let nobody = Services::default();
        assert_eq!(mark.sign(&key).open(&nobody), Err(WatermarkRefusal::NotAnAggregator));
        let mut changed = mark.sign(&key);
        changed.bytes[70] ^= 1;
        assert!(changed.open(&services).is_err());
    }
}
