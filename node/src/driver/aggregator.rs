//! The aggregator's own task: applies reports to the aggregate state, durably, and signs watermarks.

use super::effects::chain;
use crate::aggregate::SharedState;
use crate::store::{Batch, Store};
use protocol::aggregate::{Listing, Refusal, State};
use protocol::core::Aggregated;
use protocol::identifier::{DeviceId, PatchId};
use protocol::limits;
use protocol::membership::Member;
use protocol::reason::Reason;
use protocol::report::SignedReport;
use protocol::signature::SigningKey;
use protocol::time::WallTime;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

const PREFIX: &[u8] = b"aggregate/";

/// Why the aggregator did not start.
#[derive(Debug, thiserror::Error)]
pub enum AggregatorError {
    /// The store cannot be read.
    #[error("the aggregate state cannot be read")]
    Store(#[from] crate::store::Error),
    /// The stored state is damaged.
    #[error("the aggregate state is damaged; restore the node's directory from a backup")]
    Damaged(#[source] protocol::aggregate::RestoreError),
}

#[expect(clippy::large_enum_variant, reason = "few are in the queue at any time")]
enum Work {
    Reports {
        member: Member,
        reports: Vec<Vec<u8>>,
        now: WallTime,
        done: oneshot::Sender<Result<Aggregated, Reason>>,
    },
    Listings(BTreeMap<PatchId, Listing>),
    Enrolled(Vec<Member>),
}

/// A handle on the aggregator.
#[derive(Clone)]
pub(super) struct Aggregator {
    work: mpsc::Sender<Work>,
}

impl Aggregator {
    /// Starts the aggregator on what `store` holds; `state` shows it to the web server. Blocks on the disk.
    pub(super) fn open(store: &dyn Store, epoch: u64) -> Result<SharedState, AggregatorError> {
        Ok(SharedState::new(restore(store, epoch)?))
    }

    /// Runs the aggregator until every handle is dropped.
    pub(super) fn start(
        store: Arc<dyn Store>,
        state: SharedState,
        device: DeviceId,
        key: SigningKey,
        tasks: &tokio_util::task::TaskTracker,
    ) -> Aggregator {
        let (work, mut queue) = mpsc::channel::<Work>(limits::DRIVER_QUEUE);
        tasks.spawn_blocking(move || {
            let worker = Worker { store, state, device, key };
            while let Some(next) = queue.blocking_recv() {
                match next {
                    Work::Reports { member, reports, now, done } => {
                        // The asker may be gone: its reports are in all the same.
                        let _ = done.send(worker.receive(&member, &reports, now));
                    }
                    Work::Enrolled(members) => worker.enrolled(&members),
                    Work::Listings(listings) => worker.state.write(|state| state.set_listings(listings)),
                }
            }
        });
        Aggregator { work }
    }

    /// Applies reports and returns the signed watermark.
    pub(super) async fn receive(
        &self,
        member: Member,
        reports: Vec<Vec<u8>>,
        now: WallTime,
    ) -> Result<Aggregated, Reason> {
        let (done, answer) = oneshot::channel();
        let work = Work::Reports { member, reports, now, done };
        self.work.send(work).await.map_err(|_| Reason::NotAnAggregator)?;
        answer.await.unwrap_or(Err(Reason::NotAnAggregator))
    }

    /// Devices that enrolled: they are known from then on. Blocks while the queue is full.
    pub(super) fn enrolled(&self, members: Vec<Member>) {
        // Gone only when the node stops; they are told again after the next start.
        let _ = self.work.blocking_send(Work::Enrolled(members));
    }

    /// What the signed metadata says about every patch.
    pub(super) async fn list(&self, listings: BTreeMap<PatchId, Listing>) {
        // Gone only when the node stops.
        let _ = self.work.send(Work::Listings(listings)).await;
    }
}

fn restore(store: &dyn Store, epoch: u64) -> Result<State, AggregatorError> {
    let mut records = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.page(PREFIX, after.as_deref(), 10_000)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        records.extend(page.into_iter().map(|(key, value)| (key[PREFIX.len()..].to_vec(), value)));
    }
    let mut state = State::restore(records, epoch).map_err(AggregatorError::Damaged)?;
    commit(store, &mut state)?;
    Ok(state)
}

/// Makes durable what changed in the state.
fn commit(store: &dyn Store, state: &mut State) -> Result<(), crate::store::Error> {
    let records = state.take_records();
    if records.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::default();
    for record in records {
        let key = [PREFIX, &record.key].concat();
        match record.value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        };
    }
    store.apply(batch)
}

/// Applies reports in order until one is refused; returns how many were taken in, and why it stopped.
fn apply(state: &mut State, member: &Member, reports: &[Vec<u8>], now: WallTime) -> (usize, Option<Refusal>) {
    for (taken, bytes) in reports.iter().enumerate() {
        let read = SignedReport::from_bytes(bytes).map_err(|_| Refusal::Unreadable);
        if let Err(refusal) = read.and_then(|signed| state.receive(&signed, member, now)) {
            tracing::warn!(device = member.device.short(), %refusal, "report refused");
            return (taken, Some(refusal));
        }
    }
    (reports.len(), None)
}

struct Worker {
    store: Arc<dyn Store>,
    state: SharedState,
    device: DeviceId,
    key: SigningKey,
}

impl Worker {
    /// The watermark is signed after the commit is durable: what it covers survives a power cut.
    fn receive(&self, member: &Member, reports: &[Vec<u8>], now: WallTime) -> Result<Aggregated, Reason> {
        let ((taken, stopped), committed) = self.state.write(|state| {
            let applied = apply(state, member, reports, now);
            state.see(member.device, now);
            (applied, commit(&*self.store, state))
        });
        if let Err(error) = committed {
            tracing::error!(
                error = chain(&error),
                "reports could not be stored; they stay with their device"
            );
            self.start_again();
            return Err(Reason::DiskFull);
        }
        // With some taken in, the watermark says how far; what stands at the head then is refused the next time.
        let expected = match stopped {
            Some(Refusal::Gap { expected }) => Some(expected),
            Some(Refusal::Unreadable) if taken == 0 => return Err(Reason::UnreadableReport),
            Some(Refusal::Conflict { .. }) if taken == 0 => return Err(Reason::OtherHistory),
            Some(Refusal::OtherDevice) if taken == 0 => return Err(Reason::ForeignReport),
            _ => None,
        };
        let mark = self.state.read(|state| state.watermark(member.device, self.device, now));
        let mark = mark.ok_or(Reason::NotAMember)?.sign(&self.key).to_bytes();
        Ok(Aggregated { mark, expected })
    }

    /// Makes devices known that are not yet; those that are have said more of themselves.
    fn enrolled(&self, members: &[Member]) {
        let committed = self.state.write(|state| {
            for member in members {
                if !state.knows(member.device) {
                    state.join(member, member.issued);
                }
            }
            commit(&*self.store, state)
        });
        if let Err(error) = committed {
            tracing::error!(error = chain(&error), "enrolled devices could not be stored");
            self.start_again();
        }
    }

    /// The state in memory is ahead of the disk: what the disk has is the truth.
    fn start_again(&self) {
        let listings = self.state.read(|state| state.listings().clone());
        match restore(&*self.store, self.state.read(State::epoch)) {
            Ok(mut state) => {
                state.set_listings(listings);
                self.state.write(|current| *current = state);
            }
            Err(error) => tracing::error!(error = chain(&error), "the aggregate state cannot be read again"),
        }
    }
}
