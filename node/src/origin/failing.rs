//! What a seed cannot read where it lies: for its status, and for what devices are told.

use super::keeper::{News, State};
use super::{OriginError, Origins};
use protocol::digest::Blake3Root;
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use std::collections::{BTreeMap, BTreeSet};

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

    /// Whether an origin had other bytes in the place of a content when it was last read.
    pub(super) fn was_wrong(&self, origin: &str, root: Blake3Root) -> bool {
        self.state().wrong.contains_key(&(root, origin.to_owned()))
    }

    /// An origin has the right bytes where it was read just now; `mends` says whether that settles what was wrong: one piece,
    /// or the content as a whole.
    pub(super) async fn is_right(
        &self,
        origin: &str,
        root: Blake3Root,
        mends: impl FnOnce(Option<PieceIndex>) -> bool,
    ) {
        let mended = {
            let mut state = self.state();
            let key = (root, origin.to_owned());
            let over = state.wrong.get(&key).copied().is_some_and(mends);
            over && state.wrong.remove(&key).is_some() && !state.wrong.keys().any(|(other, _)| *other == root)
        };
        if mended {
            // Nobody listens only when the driver has stopped.
            let _ = self.news.send(News::Right(root)).await;
        }
    }

    /// What nobody wants any more is nobody's concern.
    pub(super) async fn forget_wrongs(&self) {
        let unwanted: BTreeSet<Blake3Root> = {
            let mut state = self.state();
            let State { wrong, wanted, .. } = &mut *state;
            let gone =
                wrong.keys().map(|(root, _)| *root).filter(|root| !wanted.contains_key(root)).collect();
            wrong.retain(|(root, _), _| wanted.contains_key(root));
            gone
        };
        for root in unwanted {
            // Nobody listens only when the driver has stopped.
            let _ = self.news.send(News::Right(root)).await;
        }
    }
}
