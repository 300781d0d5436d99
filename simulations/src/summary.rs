//! What a simulation came to, in figures.

use serde::Serialize;
use std::collections::BTreeMap;

/// The figures of one simulation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// BLAKE3 over all inputs and outputs of all cores, in order.
    pub digest: String,
    /// What was played, in words.
    pub scenario: String,
    /// Virtual seconds until each device had everything installed; absent for one that never came back.
    pub finished_seconds: BTreeMap<String, f64>,
    /// Virtual seconds until everything was reported as well.
    pub settled_seconds: f64,
    /// Bytes over the WAN towards the branch, by what they were for.
    pub wan_down_bytes: BTreeMap<String, u64>,
    /// Bytes over the WAN towards headquarters, by what they were for.
    pub wan_up_bytes: BTreeMap<String, u64>,
    /// Bytes of pieces over the WAN by reason code, as the devices count them.
    pub wan_piece_bytes_by_reason: BTreeMap<String, u64>,
    /// Bytes inside the branch.
    pub lan_bytes: u64,
    /// WAN amplification by content.
    pub amplification: BTreeMap<String, f64>,
    /// WAN amplification of all artifacts together.
    pub amplification_overall: f64,
    /// Control messages in all.
    pub messages: u64,
    /// Control messages to headquarters.
    pub messages_to_headquarters: u64,
    /// Bytes of control messages to headquarters.
    pub message_bytes_to_headquarters: u64,
    /// How often each option of the world took effect.
    pub fired: BTreeMap<String, u64>,
    /// Bytes of pieces that crossed a WAN although somebody of the site had them, by cause.
    pub duplicate_bytes_by_cause: BTreeMap<String, u64>,
    /// Inputs that the cores handled.
    pub inputs: u64,
}
