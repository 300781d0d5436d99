//! The store's queue: batches in the order of the core, one at a time, those that wait joined into one.

use super::effects;
use super::run::Done;
use crate::store::{Batch, Store};
use protocol::core::{Input, Record};
use protocol::effect::EffectId;
use protocol::limits;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Key prefix of the core's records.
pub(super) const PREFIX: &[u8] = b"core/";

/// Changes in one batch to the store, so that one fsync serves many effects and no batch grows too large.
const JOINED: usize = 64;

/// Batches on their way to the store. The core waits for each, so there are never many.
pub(super) struct Storing {
    store: Arc<dyn Store>,
    inputs: mpsc::Sender<Done>,
    waiting: VecDeque<(EffectId, Vec<Record>)>,
    busy: bool,
}

impl Storing {
    pub(super) fn new(store: Arc<dyn Store>, inputs: mpsc::Sender<Done>) -> Storing {
        Storing { store, inputs, waiting: VecDeque::new(), busy: false }
    }

    pub(super) fn push(&mut self, effect: EffectId, records: Vec<Record>, tasks: &TaskTracker) {
        self.waiting.push_back((effect, records));
        self.advance(tasks);
    }

    /// A batch ended.
    pub(super) fn done(&mut self, tasks: &TaskTracker) {
        self.busy = false;
        self.advance(tasks);
    }

    /// Whether nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy && self.waiting.is_empty()
    }

    fn advance(&mut self, tasks: &TaskTracker) {
        if self.busy || self.waiting.is_empty() {
            return;
        }
        self.busy = true;
        let joined: Vec<(EffectId, Vec<Record>)> = self.waiting.drain(..fitting(&self.waiting)).collect();
        let (store, inputs) = (Arc::clone(&self.store), self.inputs.clone());
        tasks.spawn(async move {
            let (batch, ids) = join(joined);
            let applied = tokio::task::spawn_blocking(move || store.apply(batch)).await;
            let result = match applied {
                Ok(result) => effects::stored(result),
                Err(error) => Err(protocol::core::StoreFailure(error.to_string())),
            };
            let completions =
                ids.into_iter().map(|effect| Input::Stored { effect, result: result.clone() }).collect();
            // Nobody takes it only when the driver has stopped.
            let _ = inputs.send(Done::Stored(completions)).await;
        });
    }
}

/// How many of the effects that wait fit into one batch of the store; at least one.
fn fitting(waiting: &VecDeque<(EffectId, Vec<Record>)>) -> usize {
    let mut changes = 0;
    let fits = waiting.iter().take(JOINED).take_while(|(_, records)| {
        changes += records.len();
        changes <= limits::STORE_BATCH_CHANGES
    });
    fits.count().max(1)
}

fn join(joined: Vec<(EffectId, Vec<Record>)>) -> (Batch, Vec<EffectId>) {
    let mut batch = Batch::default();
    let mut ids = Vec::new();
    for (effect, records) in joined {
        ids.push(effect);
        for Record { key, value } in records {
            let key = [PREFIX, &key].concat();
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            };
        }
    }
    (batch, ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::effect::EffectIds;

    #[test]
    fn no_batch_grows_beyond_what_the_store_takes() {
        let mut ids = EffectIds::default();
        let record = Record { key: vec![1], value: None };
        let mut waiting: VecDeque<_> =
            (0..20).map(|_| (ids.fresh(), vec![record.clone(); limits::FINDINGS_PER_REPORT])).collect();
        assert_eq!(fitting(&waiting), limits::STORE_BATCH_CHANGES / limits::FINDINGS_PER_REPORT);
        waiting.push_front((ids.fresh(), vec![record; limits::STORE_BATCH_CHANGES + 1]));
        assert_eq!(fitting(&waiting), 1);
    }
}
