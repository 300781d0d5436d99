//! What a device found and did, as signed and numbered records that are kept until an aggregator has them.

mod body;
mod facts;
mod log;
#[cfg(test)]
pub(crate) mod tests;
mod watermark;

pub use body::{
    Body, Checkpoint, CheckpointCause, ContentKind, Deployment, Extent, Found, FoundPatch, Incident,
    IncidentKind, Inventory, NetworkTotals, NotBounded, Scan, Source, Text, Transfer, Transfers,
};
pub(crate) use facts::Change;
pub use facts::{FactKey, Facts};
pub use log::{Acknowledgement, AppendError, Damage, Log, LogKey};
pub use watermark::{SignedWatermark, Watermark, WatermarkRefusal};

use crate::codec::{self, DecodeError};
use crate::digest::Sha256;
use crate::identifier::DeviceId;
use crate::limits;
use crate::signature::{Purpose, Signature, SigningKey};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};

/// One record of a device. Its identity is (device, incarnation, sequence), its content is bound by [`SignedReport::hash`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The device that found or did it.
    pub device: DeviceId,
    /// Random number of the device's store: a device that lost its store starts a new one at sequence 1.
    pub incarnation: u64,
    /// Number of the report in its incarnation, from 1.
    pub sequence: u64,
    /// [`SignedReport::hash`] of the report before; [`FIRST`] for the first one.
    pub previous: Sha256,
    /// The device's wall clock; it can be wrong.
    pub time: WallTime,
    /// What it says.
    pub body: Body,
}

/// What the first report of an incarnation names as its predecessor.
pub const FIRST: Sha256 = Sha256::from_bytes([0; 32]);

/// A report as it travels and as it is stored: nothing in it is believed before [`SignedReport::open`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReport {
    bytes: Vec<u8>,
    signature: Signature,
}

/// Why a signed report cannot be read. Sending it again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not the encoding of a report, or too large.
    #[error("the report cannot be decoded")]
    Decode(#[from] DecodeError),
    /// It breaks a bound that its type cannot state.
    #[error("the report breaks a bound")]
    NotBounded(#[from] NotBounded),
    /// The device that it names did not sign it.
    #[error("the signature of the report does not verify; the device that it names did not write it")]
    Signature,
}

impl SignedReport {
    /// Signs a report with the key of the device that it names.
    pub fn sign(report: &Report, key: &SigningKey) -> SignedReport {
        let bytes = codec::encode(report);
        let signature = key.sign(Purpose::Report, &bytes);
        SignedReport { bytes, signature }
    }

    /// SHA-256 of the signed bytes: what the next report names as `previous`.
    pub fn hash(&self) -> Sha256 {
        Sha256::of(&self.bytes)
    }

    /// Bytes that it takes in a message, signature included.
    pub fn size(&self) -> usize {
        self.bytes.len() + 64
    }

    /// Verifies the signature of the device that the report names and reads it, within its bounds.
    ///
    /// # Errors
    /// [`Unreadable`]; the report is refused as a whole.
    pub fn open(&self) -> Result<Report, Unreadable> {
        let report = self.claims()?;
        let key = crate::signature::PublicKey::from(report.device);
        key.verify(Purpose::Report, &self.bytes, &self.signature).map_err(|_| Unreadable::Signature)?;
        Ok(report)
    }

    /// Reads the report without checking who wrote it: for a device that reads its own outbox.
    ///
    /// # Errors
    /// [`Unreadable::Decode`] or [`Unreadable::NotBounded`].
    pub fn claims(&self) -> Result<Report, Unreadable> {
        let report: Report = codec::decode::<_, { limits::REPORT_BYTES }>(&self.bytes)?;
        report.body.check()?;
        body::check_times([report.time].into_iter())?;
        Ok(report)
    }

    /// Encodes it for a store.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes it from a store; that it decodes proves nothing.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else than a signed report.
    pub fn from_bytes(bytes: &[u8]) -> Result<SignedReport, DecodeError> {
        codec::decode::<_, { limits::REPORT_BYTES + 128 }>(bytes)
    }
}

/// One change that a log or an aggregate state asks its store to make durable. All records of one call belong into
/// one atomic batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands in the store.
    pub key: Vec<u8>,
    /// What stands there from now on; `None` removes it.
    pub value: Option<Vec<u8>>,
}

impl Record {
    pub(crate) fn put<K: Serialize, V: Serialize>(key: &K, value: &V) -> Record {
        Record { key: codec::encode(key), value: Some(codec::encode(value)) }
    }

    pub(crate) fn remove<K: Serialize>(key: &K) -> Record {
        Record { key: codec::encode(key), value: None }
    }
}
