//! The outbox of a device: every report stays until a watermark covers it; nothing is dropped silently.

use super::body::{Body, Checkpoint, CheckpointCause, Incident, IncidentKind, LATEST, NotBounded, Text};
use super::facts::{FactKey, Facts};
use super::watermark::Watermark;
use super::{FIRST, Record, Report, SignedReport};
use crate::codec;
use crate::digest::Sha256;
use crate::identifier::DeviceId;
use crate::limits;
use crate::signature::SigningKey;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The outbox. Whoever changes it stores the records that it returns, in one atomic batch, before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    head: Head,
    pending: BTreeMap<u64, SignedReport>,
    bytes: usize,
    facts: Facts,
}

/// Where a record of the outbox stands in its store (encoded with [`codec::encode`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LogKey {
    /// The state of the numbering.
    Head,
    /// A report that waits, by sequence.
    Report(u64),
    /// A fact of the latest state.
    Fact(FactKey),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    device: DeviceId,
    incarnation: u64,
    /// Last report written.
    sequence: u64,
    hash: Sha256,
    /// Last report that a watermark covers.
    acknowledged: u64,
    epoch: Option<u64>,
    /// Time of the latest watermark, to tell a new epoch from an earlier one.
    marked: WallTime,
}

/// What a watermark, or an aggregator's wish, means for the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// Nothing new; what is wanted can be sent.
    Nothing,
    /// Reports up to this one are durable and left the outbox.
    Durable(u64),
    /// The aggregator lacks what the outbox no longer has: call [`Log::checkpoint`] with this cause.
    Checkpoint(CheckpointCause),
    /// The aggregator has reports that this store never wrote, or others under the same number: the store was set
    /// back or the device was cloned. Call [`Log::restart`] with a fresh random incarnation.
    Restart,
}

/// Why a report was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The body is too large for a report; the caller has to split it.
    #[error("the report was not written")]
    NotBounded(#[from] NotBounded),
    /// The key belongs to another device.
    #[error("the outbox belongs to another device than the key; restore the device's own key or join again")]
    OtherKey,
}

/// What was wrong with a stored outbox. The latest state that could be read is kept and sent again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Records without the head that numbers them.
    #[error("the outbox has lost its head record")]
    Headless,
    /// It belongs to another device: the data directory was copied, or the key was replaced.
    #[error("the outbox was written by device {}", .0.short())]
    OtherDevice(DeviceId),
    /// A record that cannot be decoded.
    #[error("a record of the outbox cannot be read")]
    Unreadable,
    /// A report is missing or does not follow from the one before: a torn write or an older copy.
    #[error("report {0} of the outbox is missing or does not follow from the one before")]
    Broken(u64),
}

impl Log {
    /// An empty outbox. `incarnation` is random.
    pub fn new(device: DeviceId, incarnation: u64) -> Log {
        Log {
            head: Head {
                device,
                incarnation,
                sequence: 0,
                hash: FIRST,
                acknowledged: 0,
                epoch: None,
                marked: WallTime::default(),
            },
            pending: BTreeMap::new(),
            bytes: 0,
            facts: Facts::default(),
        }
    }

    /// Random number of the store.
    pub fn incarnation(&self) -> u64 {
        self.head.incarnation
    }

    /// Sequence of the last report; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.head.sequence
    }

    /// Last report that is durable at an aggregator.
    pub fn acknowledged(&self) -> u64 {
        self.head.acknowledged
    }

    /// Reports that wait for a watermark.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// The latest state, as all reports add up.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Writes a report. When the outbox is full afterwards, it compacts to the latest state and says so in a
    /// checkpoint.
    ///
    /// # Errors
    /// [`AppendError`]; nothing has changed then.
    pub fn append(
        &mut self,
        body: Body,
        now: WallTime,
        key: &SigningKey,
    ) -> Result<Vec<Record>, AppendError> {
        body.check()?;
        if key.device() != self.head.device {
            return Err(AppendError::OtherKey);
        }
        let mut records = Vec::new();
        for change in self.facts.apply(&body) {
            let fact = change.key();
            let value = self.facts.value(&fact);
            records.push(Record { key: codec::encode(&LogKey::Fact(fact)), value });
        }
        self.push(body, now, key, &mut records);
        if self.pending.len() > limits::OUTBOX_REPORTS || self.bytes > limits::OUTBOX_BYTES {
            records.extend(self.checkpoint(CheckpointCause::OutboxFull, now, key));
        } else {
            records.push(self.head_record());
        }
        Ok(records)
    }

    fn push(&mut self, body: Body, now: WallTime, key: &SigningKey, records: &mut Vec<Record>) {
        let step = if crate::mutant::mutated(crate::mutant::Mutant::SkipANumber) { 2 } else { 1 };
        let sequence = self.head.sequence + step;
        let report = Report {
            device: self.head.device,
            incarnation: self.head.incarnation,
            sequence,
            previous: if crate::mutant::mutated(crate::mutant::Mutant::BreakTheChain) {
                FIRST
            } else {
                self.head.hash
            },
            // A broken clock must not make a report that nobody can read.
            time: now.min(LATEST),
            body,
        };
        let signed = SignedReport::sign(&report, key);
        self.head.sequence = sequence;
        self.head.hash = signed.hash();
        self.bytes += signed.size();
        records.push(Record::put(&LogKey::Report(sequence), &signed));
        if !(sequence.is_multiple_of(5) && crate::mutant::mutated(crate::mutant::Mutant::LoseAReport)) {
            self.pending.insert(sequence, signed);
        }
    }

    /// Drops what waits and writes the latest state instead, behind a checkpoint that says how much was dropped.
    pub fn checkpoint(&mut self, cause: CheckpointCause, now: WallTime, key: &SigningKey) -> Vec<Record> {
        let mut records: Vec<Record> =
            self.pending.keys().map(|sequence| Record::remove(&LogKey::Report(*sequence))).collect();
        let dropped = self.pending.len() as u64;
        self.pending.clear();
        self.bytes = 0;
        self.push(Body::Checkpoint(Checkpoint { dropped, cause }), now, key, &mut records);
        for body in self.facts.to_bodies() {
            self.push(body, now, key, &mut records);
        }
        records.push(self.head_record());
        records
    }

    /// Starts a new incarnation with the latest state, after the store was set back or damaged.
    pub fn restart(
        &mut self,
        incarnation: u64,
        detail: &str,
        now: WallTime,
        key: &SigningKey,
    ) -> Vec<Record> {
        let mut records: Vec<Record> =
            self.pending.keys().map(|sequence| Record::remove(&LogKey::Report(*sequence))).collect();
        let facts = std::mem::take(&mut self.facts);
        *self = Log { facts, ..Log::new(self.head.device, incarnation) };
        let incident = Incident {
            time: now,
            kind: IncidentKind::Store,
            reason: None,
            patch: None,
            peer: None,
            detail: Text::new(detail),
        };
        for change in self.facts.apply(&Body::Incidents(vec![incident])) {
            let fact = change.key();
            let value = self.facts.value(&fact);
            records.push(Record { key: codec::encode(&LogKey::Fact(fact)), value });
        }
        records.extend(self.checkpoint(CheckpointCause::Store, now, key));
        records
    }

    /// Takes in a verified watermark.
    pub fn acknowledge(&mut self, mark: &Watermark) -> (Acknowledgement, Vec<Record>) {
        let head = &mut self.head;
        let mine = mark.device == head.device && mark.incarnation == head.incarnation;
        let new_epoch = head.epoch.is_some_and(|epoch| epoch != mark.epoch);
        // A watermark of an earlier epoch may arrive late; within one epoch a late one does no harm.
        if !mine
            || crate::mutant::mutated(crate::mutant::Mutant::IgnoreWatermarks)
            || (new_epoch && mark.time < head.marked)
        {
            return (Acknowledgement::Nothing, Vec::new());
        }
        let other = |hash: Sha256| hash != mark.hash;
        let known = if mark.sequence == head.sequence {
            Some(head.hash)
        } else {
            self.pending.get(&mark.sequence).map(SignedReport::hash)
        };
        if mark.sequence > head.sequence || (mark.sequence > 0 && known.is_some_and(other)) {
            return (Acknowledgement::Restart, Vec::new());
        }
        head.marked = head.marked.max(mark.time);
        head.epoch = Some(mark.epoch);
        if mark.sequence < head.acknowledged {
            // Within one epoch a watermark never falls; a lower one only overtook on the way.
            let meaning = match new_epoch {
                true => Acknowledgement::Checkpoint(CheckpointCause::NewEpoch),
                false => Acknowledgement::Nothing,
            };
            return (meaning, vec![self.head_record()]);
        }
        let advanced = mark.sequence > head.acknowledged;
        head.acknowledged = mark.sequence;
        let beyond = if crate::mutant::mutated(crate::mutant::Mutant::WatermarkOffByOne) { 2 } else { 1 };
        let waiting = self.pending.split_off(&(mark.sequence + beyond));
        let durable = std::mem::replace(&mut self.pending, waiting);
        self.bytes -= durable.values().map(SignedReport::size).sum::<usize>();
        let mut records: Vec<Record> =
            durable.keys().map(|sequence| Record::remove(&LogKey::Report(*sequence))).collect();
        records.push(self.head_record());
        let meaning =
            if advanced { Acknowledgement::Durable(mark.sequence) } else { Acknowledgement::Nothing };
        (meaning, records)
    }

    /// What to do when an aggregator says which sequence it expects next.
    pub fn on_expected(&self, sequence: u64) -> Acknowledgement {
        let next = self.head.sequence + 1;
        if sequence > next {
            Acknowledgement::Restart
        } else if sequence == next || self.pending.contains_key(&sequence) || self.starts_with_checkpoint() {
            Acknowledgement::Nothing
        } else {
            Acknowledgement::Checkpoint(CheckpointCause::Forgotten)
        }
    }

    fn starts_with_checkpoint(&self) -> bool {
        let first = self.pending.values().next().and_then(|signed| signed.claims().ok());
        first.is_some_and(|report| matches!(report.body, Body::Checkpoint(_)))
    }

    /// The next reports after `after`, in order: at most `limit`, and no more than fit into one message.
    pub fn pending(&self, after: u64, limit: usize) -> Vec<SignedReport> {
        let mut room = limits::MESSAGE_BYTES / 2;
        let following = self.pending.range(after.saturating_add(1)..).map(|(_, signed)| signed);
        let fits = following.take(limit.min(limits::REPORTS_PER_BATCH)).take_while(|signed| {
            let fits = room >= signed.size();
            room = room.saturating_sub(signed.size());
            fits
        });
        fits.cloned().collect()
    }

    /// Puts an outbox together from its stored records. `fresh` is a random incarnation for the case that there are
    /// none yet or that they are damaged; the damage is named, and the records returned mend the store.
    pub fn restore(
        records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        fresh: u64,
        now: WallTime,
        key: &SigningKey,
    ) -> (Log, Option<Damage>, Vec<Record>) {
        let mut stored = Stored::default();
        let mut keys = Vec::new();
        for (name, value) in records {
            stored.take(&name, &value);
            keys.push(name);
        }
        if keys.is_empty() || crate::mutant::mutated(crate::mutant::Mutant::ForgetTheOutbox) {
            return (Log::new(key.device(), fresh), None, Vec::new());
        }
        let facts = std::mem::take(&mut stored.facts);
        match stored.assemble(key.device()) {
            Ok((head, pending)) => {
                let bytes = pending.values().map(SignedReport::size).sum();
                (Log { head, pending, bytes, facts }, None, Vec::new())
            }
            Err(damage) => {
                let theirs = matches!(damage, Damage::OtherDevice(_));
                let facts = if theirs { Facts::default() } else { facts };
                let mut log = Log { facts, ..Log::new(key.device(), fresh) };
                let mut mend: Vec<Record> = keys.into_iter().map(|key| Record { key, value: None }).collect();
                mend.extend(log.fact_records());
                mend.extend(log.restart(fresh, &damage.to_string(), now, key));
                (log, Some(damage), mend)
            }
        }
    }

    fn fact_records(&self) -> Vec<Record> {
        let mut replay = Facts::default();
        let bodies = self.facts.to_bodies();
        let keys = bodies.iter().flat_map(|body| replay.apply(body)).map(|change| change.key());
        let records = keys.map(|fact| {
            let value = self.facts.value(&fact);
            Record { key: codec::encode(&LogKey::Fact(fact)), value }
        });
        records.collect()
    }

    fn head_record(&self) -> Record {
        Record::put(&LogKey::Head, &self.head)
    }
}

/// What a store gave back, before it is known to hang together.
#[derive(Default)]
struct Stored {
    head: Option<Head>,
    pending: BTreeMap<u64, SignedReport>,
    facts: Facts,
    unreadable: bool,
}

impl Stored {
    fn take(&mut self, key: &[u8], value: &[u8]) {
        const KEY_BYTES: usize = 16 << 10;
        let read = match codec::decode::<LogKey, KEY_BYTES>(key) {
            Ok(LogKey::Head) => codec::decode::<_, 1024>(value).map(|head| self.head = Some(head)),
            Ok(LogKey::Report(sequence)) => {
                SignedReport::from_bytes(value).map(|signed| drop(self.pending.insert(sequence, signed)))
            }
            Ok(LogKey::Fact(fact)) => self.facts.restore(fact, value),
            Err(error) => Err(error),
        };
        self.unreadable |= read.is_err();
    }

    /// Checks that the reports are exactly those between the watermark and the head, each following from the other.
    fn assemble(self, device: DeviceId) -> Result<(Head, BTreeMap<u64, SignedReport>), Damage> {
        let head = self.head.ok_or(Damage::Headless)?;
        if head.device != device {
            return Err(Damage::OtherDevice(head.device));
        }
        if self.unreadable {
            return Err(Damage::Unreadable);
        }
        let mut expected: Option<(u64, Sha256)> = None;
        for (sequence, signed) in &self.pending {
            let report = signed.open().map_err(|_| Damage::Broken(*sequence))?;
            let follows = match expected {
                Some((next, previous)) => next == *sequence && previous == report.previous,
                None => *sequence == head.acknowledged + 1 || matches!(report.body, Body::Checkpoint(_)),
            };
            let mine = report.device == device
                && report.incarnation == head.incarnation
                && report.sequence == *sequence;
            if !follows || !mine {
                return Err(Damage::Broken(*sequence));
            }
            expected = Some((sequence + 1, signed.hash()));
        }
        let last = match expected {
            Some((next, hash)) => next == head.sequence + 1 && hash == head.hash,
            None => head.acknowledged == head.sequence,
        };
        if last { Ok((head, self.pending)) } else { Err(Damage::Broken(head.sequence)) }
    }
}
