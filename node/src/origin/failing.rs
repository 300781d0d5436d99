//! What a seed cannot read where it lies: for its status, and for what devices are told.

use super::keeper::News;
use super::{OriginError, Origins};
use protocol::digest::Blake3Root;
use protocol::reason::Reason;
use std::collections::BTreeMap;

/// Why one content cannot be read: what devices are told, and what its administrator is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// For devices.
    pub reason: Reason,
    /// For people at the seed: what failed, and what helps.
    pub says: String,
}

impl Origins {
    /// What is wanted and cannot be read now.
    pub fn failing(&self) -> BTreeMap<Blake3Root, Failing> {
        self.state().failing.clone()
    }

    /// A content could not be read. That the same is so again says nothing new: the first time knows best what happened.
    pub(super) async fn fails(&self, root: Blake3Root, error: &OriginError) {
        if matches!(error, OriginError::Stopping) {
            return;
        }
        let reason = error.reason();
        {
            let mut state = self.state();
            let known = state.failing.get(&root).is_some_and(|failing| failing.reason == reason);
            if known || !state.wanted.contains_key(&root) {
                return;
            }
            state.failing.insert(root, Failing { reason, says: error.to_string() });
        }
        // Nobody listens only when the driver has stopped.
        let _ = self.news.send(News::Unreadable { root, reason: Some(reason) }).await;
    }

    /// It can be read, all or a part.
    pub(super) async fn works(&self, root: Blake3Root) {
        if self.state().failing.remove(&root).is_some() {
            // Nobody listens only when the driver has stopped.
            let _ = self.news.send(News::Unreadable { root, reason: None }).await;
        }
    }
}
