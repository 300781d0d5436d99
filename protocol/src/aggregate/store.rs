//! How the state of the fleet stands in a store, and how it comes back.

use super::State;
use super::device::{Device, Head};
use crate::codec;
use crate::identifier::DeviceId;
use crate::limits;
use crate::report::{Deployment, FactKey, Facts};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Names one record of the aggregator's store (encoded with [`codec::encode`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StoreKey {
    /// The epoch of the store.
    Epoch,
    /// What every report of a device changes.
    Head(DeviceId),
    /// One fact of a device.
    Fact(DeviceId, FactKey),
    /// One deployment in the history of a device; the key is all of it.
    History(DeviceId, Deployment),
}

/// A store that does not give the state back. Start with an empty one and a new epoch: every device then sends its
/// full state again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A record that cannot be decoded.
    #[error(
        "a record of the aggregator's store cannot be read; move the store away and start again: every device \
         then sends its full state"
    )]
    Unreadable(#[source] codec::DecodeError),
    /// Facts of a device whose head is missing.
    #[error(
        "the aggregator's store has facts of device {} and not its head; move the store away and start again: \
         every device then sends its full state", .0.short()
    )]
    Headless(DeviceId),
}

const KEY_BYTES: usize = 16 << 10;

impl State {
    /// Puts the state together from its stored records; `fresh_epoch` is random and used when the store is empty.
    ///
    /// # Errors
    /// [`RestoreError`] names what is damaged and the remedy.
    pub fn restore(
        records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        fresh_epoch: u64,
    ) -> Result<State, RestoreError> {
        let mut state = State::new(fresh_epoch);
        let mut heads: BTreeMap<DeviceId, Device> = BTreeMap::new();
        let mut facts: BTreeMap<DeviceId, Facts> = BTreeMap::new();
        let mut histories: BTreeMap<DeviceId, BTreeSet<Deployment>> = BTreeMap::new();
        for (key, value) in records {
            match codec::decode::<StoreKey, KEY_BYTES>(&key).map_err(RestoreError::Unreadable)? {
                StoreKey::Epoch => {
                    state.epoch = codec::decode::<_, 64>(&value).map_err(RestoreError::Unreadable)?;
                    state.dirty.clear();
                }
                StoreKey::Head(id) => {
                    let head: Head = codec::decode::<_, { limits::REPORT_BYTES }>(&value)
                        .map_err(RestoreError::Unreadable)?;
                    heads.insert(id, Device::from_head(head));
                }
                StoreKey::Fact(id, fact) => {
                    let of_device = facts.entry(id).or_default();
                    of_device.restore(fact, &value).map_err(RestoreError::Unreadable)?;
                }
                StoreKey::History(id, deployment) => {
                    histories.entry(id).or_default().insert(deployment);
                }
            }
        }
        for id in facts.keys().chain(histories.keys()) {
            if !heads.contains_key(id) {
                return Err(RestoreError::Headless(*id));
            }
        }
        for (id, mut device) in heads {
            device.facts = facts.remove(&id).unwrap_or_default();
            device.history = histories.remove(&id).unwrap_or_default();
            state.put_in(device);
        }
        Ok(state)
    }
}
