//! Rendezvous hashing: every node computes the same order of members for a key, without talking (Thaler, Ravishankar 1996).

use crate::identifier::DeviceId;

/// The weight of `device` for `key`; the highest weight comes first. Equal on every node.
pub fn weight(key: &[u8], device: DeviceId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key);
    hasher.update(device.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_one_out_moves_nobody_else() {
        let devices: Vec<DeviceId> = (0..20).map(|seed| DeviceId::from_bytes([seed; 32])).collect();
        let order = |devices: &[DeviceId]| {
            let mut sorted = devices.to_vec();
            sorted.sort_by_key(|&device| std::cmp::Reverse(weight(b"utrecht", device)));
            sorted
        };
        let full = order(&devices);
        let without: Vec<DeviceId> = devices.iter().copied().filter(|device| *device != full[3]).collect();
        let expected: Vec<DeviceId> = full.iter().copied().filter(|device| *device != full[3]).collect();
        assert_eq!(order(&without), expected);
    }
}
