//! What the database knows about one content.

use protocol::bitmap::PieceSet;
use protocol::digest::{Blake3Root, Sha256};
use protocol::{codec, piece};
use serde::{Deserialize, Serialize};

/// Keys of all records begin with it; the 32 bytes of the root follow.
pub(super) const PREFIX: &[u8] = b"content/";

/// Largest record: one bit for each piece of the largest artifact (8 KiB), and room.
const RECORD_BYTES: usize = 16 << 10;

/// Durable facts about one content; what is not in here is hashed again after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Size in bytes.
    pub size: u64,
    /// The SHA-256 of the whole, since it passed its full check.
    pub checked: Option<Sha256>,
    /// The pieces whose bytes are on the disk.
    pub durable: PieceSet,
}

impl Record {
    pub(super) fn new(size: u64, checked: Option<Sha256>, durable: &PieceSet) -> Record {
        Record { size, checked, durable: durable.clone() }
    }

    pub(super) fn key(root: Blake3Root) -> Vec<u8> {
        [PREFIX, root.as_bytes()].concat()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads key and value; `None` when they are not what [`Record::key`] and [`Record::encode`] make.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<(Blake3Root, Record)> {
        let root = key.strip_prefix(PREFIX)?.try_into().ok().map(Blake3Root::from_bytes)?;
        let mut record: Record = codec::decode::<Record, RECORD_BYTES>(value).ok()?;
        record.durable.clip(piece::count(record.size));
        Some((root, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::limits::ARTIFACT_BYTES;

    #[test]
    fn the_largest_record_fits() {
        let largest =
            Record::new(ARTIFACT_BYTES, Some(Sha256::of(b"")), &PieceSet::full(piece::count(ARTIFACT_BYTES)));
        let root = Blake3Root::of(b"");
        let read = Record::decode(&Record::key(root), &largest.encode());
        assert_eq!(read, Some((root, largest)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(key: Vec<u8>, value: Vec<u8>) {
            let _ = Record::decode(&key, &value);
            let _ = Record::decode(&Record::key(Blake3Root::of(b"")), &value);
        }
    }
}
