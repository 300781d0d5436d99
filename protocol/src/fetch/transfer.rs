//! How many bytes of a content came from where, and why: every WAN byte has a reason (X4).

use crate::manifest::Content;
use crate::reason::Reason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which way bytes came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From a seed, over the site's WAN link.
    Wan,
    /// From a neighbour in the site.
    Lan,
    /// From a vendor's mirror, over the site's WAN link.
    Mirror,
}

/// The bytes of one content that this node received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The content.
    pub content: Content,
    /// Payload bytes by way and reason, pieces that turned out wrong included.
    pub bytes: BTreeMap<(Origin, Reason), u64>,
}

impl Transfer {
    /// Nothing received yet.
    pub fn new(content: Content) -> Transfer {
        Transfer { content, bytes: BTreeMap::new() }
    }

    /// Adds `bytes` that came by `origin` for `reason`.
    pub fn add(&mut self, origin: Origin, reason: Reason, bytes: u64) {
        *self.bytes.entry((origin, reason)).or_default() += bytes;
    }

    /// Bytes that came by `origin`, whatever the reason.
    pub fn from(&self, origin: Origin) -> u64 {
        self.bytes.iter().filter(|((way, _), _)| *way == origin).map(|(_, bytes)| bytes).sum()
    }
}
