//! What makes a database that lost acknowledged records notice it: a sum over all records, and a witness beside them.
//!
//! sled 0.34 opens a damaged log by dropping what it cannot read, so that older records, or none, come back without an error.
//! Every batch therefore carries its number and the sum over all records in the same atomic step, and the number of the last
//! acknowledged batch stands in a file of its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Number of the last batch, and the sum of the hashes of all records after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seal {
    pub sequence: u64,
    sum: [u64; 4],
}

impl Seal {
    /// Counts a record in.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        let hash = hash(key, value);
        (0..4).for_each(|lane| self.sum[lane] = self.sum[lane].wrapping_add(hash[lane]));
    }

    /// Counts a record out.
    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) {
        let hash = hash(key, value);
        (0..4).for_each(|lane| self.sum[lane] = self.sum[lane].wrapping_sub(hash[lane]));
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        [self.sequence].iter().chain(&self.sum).flat_map(|number| number.to_le_bytes()).collect()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Seal> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let [sequence, a, b, c, d] = numbers else { return None };
        let sum = [a, b, c, d].map(|lane| u64::from_le_bytes(*lane));
        Some(Seal { sequence: u64::from_le_bytes(*sequence), sum })
    }
}

fn hash(key: &[u8], value: &[u8]) -> [u64; 4] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(value);
    let bytes: [u8; 32] = hasher.finalize().into();
    let mut lanes = [0; 4];
    for (lane, chunk) in lanes.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *lane = u64::from_le_bytes(*chunk);
    }
    lanes
}

/// The file with the number of the last acknowledged batch, in two slots that are written in turn, so that a torn write
/// leaves the other one.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    slot: u64,
    /// The last batch that was acknowledged; `None` in a new file.
    pub acknowledged: Option<u64>,
}

/// Slots lie in different blocks of the disk.
const SLOT_BYTES: u64 = 4096;

impl Witness {
    pub(super) fn open(path: &Path) -> io::Result<Witness> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let slots = [read_slot(&file, 0), read_slot(&file, 1)];
        let slot = u64::from(slots[0] >= slots[1]);
        let acknowledged = slots.into_iter().max().flatten();
        Ok(Witness { file, slot, acknowledged })
    }

    /// Writes down that batch `sequence` is durable and returns when this is durable, too.
    pub(super) fn acknowledge(&mut self, sequence: u64) -> io::Result<()> {
        self.file.write_all_at(&slot(sequence), self.slot * SLOT_BYTES)?;
        self.file.sync_data()?;
        self.slot = 1 - self.slot;
        self.acknowledged = Some(sequence);
        Ok(())
    }
}

fn slot(sequence: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    bytes[8..].copy_from_slice(&blake3::hash(&sequence.to_le_bytes()).as_bytes()[..8]);
    bytes
}

fn read_slot(file: &File, number: u64) -> Option<u64> {
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, number * SLOT_BYTES).ok()?;
    let (numbers, _) = bytes.as_chunks::<8>();
    let sequence = u64::from_le_bytes(numbers[0]);
    (slot(sequence) == bytes).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sum_does_not_depend_on_order(mut records: Vec<(Vec<u8>, Vec<u8>)>, extra: (Vec<u8>, Vec<u8>)) {
            let mut forward = Seal::default();
            records.iter().for_each(|(key, value)| forward.add(key, value));
            prop_assert_eq!(Seal::decode(&forward.encode()), Some(forward));
            records.reverse();
            let mut backward = Seal::default();
            backward.add(&extra.0, &extra.1);
            records.iter().for_each(|(key, value)| backward.add(key, value));
            prop_assert_ne!(backward, forward);
            backward.remove(&extra.0, &extra.1);
            prop_assert_eq!(backward, forward);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Seal::decode(&bytes);
        }
    }

    #[test]
    fn a_torn_slot_leaves_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("acknowledged");
        let mut witness = Witness::open(&path).unwrap();
        assert_eq!(witness.acknowledged, None);
        for sequence in 0..5 {
            witness.acknowledge(sequence).unwrap();
            assert_eq!(Witness::open(&path).unwrap().acknowledged, Some(sequence));
        }
        let torn = 1 - witness.slot;
        witness.file.write_all_at(b"torn", torn * SLOT_BYTES).unwrap();
        let mut witness = Witness::open(&path).unwrap();
        assert_eq!((witness.acknowledged, witness.slot), (Some(3), torn));
        witness.acknowledge(9).unwrap();
        assert_eq!(Witness::open(&path).unwrap().acknowledged, Some(9));
    }
}
