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
            let mut worker = Worker { store, state, device, key, ahead: false };
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
    /// Whether the state in memory is ahead of the disk, which could be neither written nor read again.
    ahead: bool,
}

impl Worker {
    /// The watermark is signed after the commit is durable: what it covers survives a power cut.
    fn receive(&mut self, member: &Member, reports: &[Vec<u8>], now: WallTime) -> Result<Aggregated, Reason> {
        if !self.agrees_with_the_disk() {
            return Err(Reason::DiskFull);
        }
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
    fn enrolled(&mut self, members: &[Member]) {
        if !self.agrees_with_the_disk() {
            // They are told again after the next start, and known as soon as they report.
            return;
        }
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

    /// Whether the state in memory is what the disk has; where it is not, what the disk has is read once more.
    fn agrees_with_the_disk(&mut self) -> bool {
        if self.ahead {
            self.start_again();
        }
        !self.ahead
    }

    /// The state in memory is ahead of the disk: what the disk has is the truth. Until that can be read nothing is taken in,
    /// or a watermark would cover reports that were lost.
    fn start_again(&mut self) {
        self.ahead = true;
        let listings = self.state.read(|state| state.listings().clone());
        match restore(&*self.store, self.state.read(State::epoch)) {
            Ok(mut state) => {
                state.set_listings(listings);
                self.state.write(|current| *current = state);
                self.ahead = false;
            }
            Err(error) => tracing::error!(
                error = chain(&error),
                "the aggregate state cannot be read again; no report is taken in before it can"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Error, MemoryStore, Record};
    use protocol::fleet::{self, Services};
    use protocol::identifier::{FleetId, HostName, SiteName};
    use protocol::membership::Class;
    use protocol::report::{Body, Inventory, Log, SignedWatermark, Text};
    use protocol::system::{Family, System};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);

    /// A store that fails so many times and then works again.
    #[derive(Default)]
    struct Failing {
        store: MemoryStore,
        times: AtomicUsize,
    }

    impl Failing {
        fn answer<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
            let left = self.times.load(Ordering::Relaxed);
            self.times.store(left.saturating_sub(1), Ordering::Relaxed);
            if left > 0 { Err(Error::DiskFull { directory: "store".into(), needed: 1 }) } else { work() }
        }
    }

    impl Store for Failing {
        fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
            self.answer(|| self.store.read(key))
        }

        fn page(&self, prefix: &[u8], after: Option<&[u8]>, records: usize) -> Result<Vec<Record>, Error> {
            self.answer(|| self.store.page(prefix, after, records))
        }

        fn apply(&self, batch: Batch) -> Result<(), Error> {
            self.answer(|| self.store.apply(batch))
        }
    }

    fn member(device: DeviceId) -> Member {
        let system = System {
            family: Family::Linux,
            distribution: "debian".to_owned(),
            release: "12".to_owned(),
            architecture: "amd64".to_owned(),
        };
        Member {
            fleet: FleetId::from_bytes([1; 32]),
            device,
            site: SiteName::new("utrecht").expect("a site"),
            class: Class::Server,
            system,
            host: HostName::new("host").expect("a host name"),
            issued: NOW,
            expires: NOW.plus_days(365),
        }
    }

    // proves X8
    #[test]
    fn no_watermark_covers_reports_that_a_failing_disk_lost() {
        let (key, own) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[9; 32]));
        let store = Arc::new(Failing::default());
        let state = Aggregator::open(&*store, 7).expect("an empty store");
        let named =
            fleet::Aggregator { device: own.device(), addresses: Vec::new(), watermark_key: own.public() };
        let services = Services { aggregators: vec![named], ..Services::default() };
        let mut worker = Worker { store: store.clone(), state, device: own.device(), key: own, ahead: false };
        let member = member(key.device());
        let body = Body::Inventory(Inventory {
            host: member.host.clone(),
            system: member.system.clone(),
            version: Text::new("patchmesh/1"),
            site: member.site.clone(),
            class: member.class,
        });
        let mut log = Log::new(key.device(), 1);
        log.append(body, NOW, &key).expect("it fits");
        let reports: Vec<Vec<u8>> = log.pending(0, 8).iter().map(SignedReport::to_bytes).collect();
        let covered = |taken: &Aggregated| {
            let mark = SignedWatermark::from_bytes(&taken.mark).expect("a watermark");
            mark.open(&services).expect("by the aggregator").sequence
        };
        // The batch, the restoring after it, and the one before the next piece of work.
        store.times.store(3, Ordering::Relaxed);
        assert!(worker.receive(&member, &reports, NOW).is_err());
        assert!(worker.receive(&member, &[], NOW).is_err(), "what is in memory is not on the disk");
        worker.enrolled(std::slice::from_ref(&member));
        let none = worker.receive(&member, &[], NOW).expect("the disk works again");
        assert_eq!(covered(&none), 0);
        let all = worker.receive(&member, &reports, NOW).expect("taken in");
        assert_eq!(covered(&all), reports.len() as u64);
        let after = restore(&*store, 7).expect("a restart");
        assert_eq!(after.watermark(key.device(), key.device(), NOW).map(|mark| mark.sequence), Some(1));
    }
}
