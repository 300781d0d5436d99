//! Reports: what happened goes into the outbox, from there to an aggregator, and leaves it when a watermark covers it.

use super::timers::Timer;
use super::{Core, Event, Output, Pending, Record, RequestToken, Setup, prefix};
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::identifier::{DeviceId, PatchId};
use crate::limits;
use crate::membership::Member;
use crate::reason::Reason;
use crate::report::{
    self, Acknowledgement, Body, CheckpointCause, Incident, IncidentKind, Log, NetworkTotals,
    SignedWatermark, Text, Transfer,
};
use crate::time::{Moment, WallTime};
use crate::wire::{Request, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Seconds that the clock may differ from the aggregator's before a person is told.
const CLOCK_TOLERANCE_SECONDS: u64 = 300;

/// How soon reports are sent again when no watermark came; it doubles up to the longest.
const AGAIN: Duration = Duration::from_secs(2);
/// How soon records are written again that the disk did not take.
const STORE_AGAIN: Duration = Duration::from_secs(5);
/// Longest such pause.
const AGAIN_MOST: Duration = Duration::from_secs(300);
/// The same incident is reported once in so many seconds.
const INCIDENT_SECONDS: u64 = 3_600;
/// A device begins its history anew no more often than this: two clones would otherwise outdo each other.
const RESTART: Duration = Duration::from_secs(3_600);
/// The outbox and what is about to go into it.
#[derive(Debug)]
pub(super) struct Reporting {
    pub(super) log: Log,
    /// What mends a damaged outbox, stored before anything else is written.
    repair: Vec<report::Record>,
    sending: Option<DeviceId>,
    /// The last report that is durable here. What an aggregator knows and a crash made us forget would be two histories
    /// under one number.
    pub(super) durable: u64,
    /// Records that the disk did not take, the latest of each key.
    unstored: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The effect that writes them again.
    storing_again: Option<EffectId>,
    failures: u32,
    /// Bytes fetched before this start: figures in reports count from the beginning of the store and never fall.
    pub(super) before: BTreeMap<Blake3Root, Transfer>,
    /// Bytes served, by content.
    pub(super) served: BTreeMap<Blake3Root, u64>,
    /// When the first byte moved that is not reported.
    pub(super) moving: Option<Moment>,
    pub(super) network: NetworkTotals,
    /// Refusals that were reported already: each pair once.
    refused: BTreeSet<(DeviceId, Blake3Root, Reason)>,
    /// Whether a person was told that the clock differs from the aggregator's.
    clock_differs: bool,
    /// When an incident of a kind was last reported, by what it is about.
    noted: BTreeMap<(IncidentKind, Option<DeviceId>, String), WallTime>,
    /// When the history was last begun anew because the aggregator knows another one.
    restarted: Option<Moment>,
    /// Whether reports wait since that was not long ago: somebody else writes under the same identity.
    outdone: bool,
    /// Members whose reports the aggregator in this node is at work on.
    aggregating: BTreeSet<DeviceId>,
}

impl Reporting {
    pub(super) fn restore(setup: &Setup, records: Vec<(Vec<u8>, Vec<u8>)>) -> Reporting {
        // Never 0, so that no device can be mistaken for one that never wrote.
        let (log, _, repair) = Log::restore(records, setup.seed | 1, setup.wall, &setup.key);
        let network = log.facts().network();
        let before = log.facts().transfers().clone();
        // What mends the store is not in it yet.
        let durable = if repair.is_empty() { log.sequence() } else { 0 };
        let served = before.iter().map(|(root, transfer)| (*root, transfer.served)).collect();
        Reporting {
            log,
            repair,
            sending: None,
            durable,
            failures: 0,
            before,
            served,
            moving: None,
            network,
            refused: BTreeSet::new(),
            clock_differs: false,
            noted: BTreeMap::new(),
            restarted: None,
            outdone: false,
            aggregating: BTreeSet::new(),
            unstored: BTreeMap::new(),
            storing_again: None,
        }
    }

    pub(super) fn lost(&mut self, device: DeviceId) {
        if self.sending == Some(device) {
            self.sending = None;
        }
    }
}

/// Records of the outbox on their way to the disk.
#[derive(Debug)]
pub(super) struct Batch {
    incarnation: u64,
    /// The last report at that time.
    sequence: u64,
    records: Vec<Record>,
}

impl Core {
    /// The first reports after a start: damage of the outbox, and what this device is.
    pub(super) fn report_start(&mut self) {
        let repair = std::mem::take(&mut self.reporting.repair);
        self.store_reports(repair);
        let member = &self.setup.member;
        let inventory = report::Inventory {
            host: member.host.clone(),
            system: member.system.clone(),
            version: Text::new(&self.setup.agent),
            site: member.site.clone(),
            class: member.class,
        };
        if self.reporting.log.facts().inventory() != Some(&inventory) {
            self.report(Body::Inventory(inventory));
        }
    }

    pub(super) fn report(&mut self, body: Body) {
        match self.reporting.log.append(body, self.wall, &self.setup.key) {
            Ok(records) => self.store_reports(records),
            Err(error) => self.event(Event::Problem(error.to_string())),
        }
    }

    fn store_reports(&mut self, records: Vec<report::Record>) {
        if records.is_empty() {
            return;
        }
        let records = records
            .into_iter()
            .map(|record| Record { key: [prefix::REPORT, &record.key].concat(), value: record.value })
            .collect();
        self.store_outbox(records);
    }

    fn store_outbox(&mut self, records: Vec<Record>) -> EffectId {
        let (incarnation, sequence) = (self.reporting.log.incarnation(), self.reporting.log.sequence());
        let batch = Batch { incarnation, sequence, records: records.clone() };
        self.store(records, Pending::StoreReports(batch))
    }

    /// Records of the outbox are durable. Batches complete in the order in which they were made.
    pub(super) fn on_outbox_stored(&mut self, effect: EffectId, batch: &Batch) {
        for record in &batch.records {
            self.reporting.unstored.remove(&record.key);
        }
        if self.reporting.storing_again == Some(effect) {
            self.reporting.storing_again = None;
        }
        if !self.reporting.unstored.is_empty() {
            self.store_again();
        } else if self.reporting.storing_again.is_none() {
            self.on_reports_stored(batch.incarnation, batch.sequence);
        }
    }

    /// The disk did not take records of the outbox: they are kept and written again a little later, and what depends on them
    /// waits.
    pub(super) fn on_outbox_not_stored(&mut self, now: Moment, effect: EffectId, batch: Batch) {
        if self.reporting.storing_again == Some(effect) {
            self.reporting.storing_again = None;
        }
        let records = batch.records.into_iter().map(|record| (record.key, record.value));
        self.reporting.unstored.extend(records);
        self.timers.bring_forward(Timer::Reports, now + STORE_AGAIN);
    }

    /// Writes again what the disk did not take, once nothing else of the outbox is on its way there: a newer record must not be
    /// overwritten by an older one, and whatever is durable then is so with all before it.
    fn store_again(&mut self) {
        let under_way = self.pending.values().any(|pending| matches!(pending, Pending::StoreReports(_)));
        if self.reporting.unstored.is_empty() || under_way {
            return;
        }
        let unstored = std::mem::take(&mut self.reporting.unstored);
        let records = unstored.into_iter().map(|(key, value)| Record { key, value }).collect();
        self.reporting.storing_again = Some(self.store_outbox(records));
    }

    fn on_reports_stored(&mut self, incarnation: u64, sequence: u64) {
        if incarnation == self.reporting.log.incarnation() {
            self.reporting.durable = self.reporting.durable.max(sequence);
        }
        self.send_reports();
    }

    pub(super) fn report_findings(&mut self) {
        let facts = self.reporting.log.facts();
        let reported = facts.scanned() == Some(self.deploying.findings.taken);
        for body in facts.scan_bodies(&self.deploying.findings) {
            let says_nothing = matches!(&body, Body::Scan(scan) if scan.findings.is_empty());
            if !(says_nothing && reported) {
                self.report(body);
            }
        }
    }

    pub(super) fn report_deployment(&mut self, patch: &PatchId) {
        let Some(deployment) = self.deploying.deployments.get(patch) else { return };
        let (exit_code, detail) = self.deploying.ends.get(patch).cloned().unwrap_or_default();
        let body = Body::Deployments(vec![report::Deployment {
            time: self.wall,
            patch: patch.clone(),
            state: deployment.state,
            reason: deployment.last_result,
            attempts: deployment.attempts,
            exit_code,
            detail: Text::new(&detail),
        }]);
        self.report(body);
    }

    pub(super) fn incident(
        &mut self,
        kind: IncidentKind,
        reason: Option<Reason>,
        peer: Option<DeviceId>,
        detail: &str,
    ) {
        // What a peer caused is about the peer, whatever words it can make us write.
        let about = if peer.is_some() { reason.map(Reason::code).unwrap_or_default() } else { detail };
        if !self.is_news((kind, peer, about.to_owned())) {
            return;
        }
        let incident =
            Incident { time: self.wall, kind, reason, patch: None, peer, detail: Text::new(detail) };
        self.report(Body::Incidents(vec![incident]));
    }

    pub(super) fn incident_for(&mut self, kind: IncidentKind, reason: Option<Reason>, patch: &PatchId) {
        let code = reason.map(Reason::code).unwrap_or_default();
        if !self.is_news((kind, None, format!("{patch} {code}"))) {
            return;
        }
        let patch = Some(patch.clone());
        let incident = Incident { time: self.wall, kind, reason, patch, peer: None, detail: Text::default() };
        self.report(Body::Incidents(vec![incident]));
    }

    /// Whether an incident was not reported within the last hour: a peer must not fill the outbox, which crosses the WAN.
    fn is_news(&mut self, about: (IncidentKind, Option<DeviceId>, String)) -> bool {
        let wall = self.wall;
        let noted = &mut self.reporting.noted;
        noted.retain(|_, at| at.seconds_since(wall).max(wall.seconds_since(*at)) < INCIDENT_SECONDS);
        noted.len() < limits::ARTIFACTS_TRACKED && noted.insert(about, wall).is_none()
    }

    /// A refusal that says something about the asker or the content is an incident, once; one that settles by itself
    /// is not.
    pub(super) fn note_refused_share(&mut self, peer: DeviceId, root: Blake3Root, reason: Reason) {
        let settles = reason.may_be_stale() || reason.settles();
        if self.reporting.refused.len() >= limits::ARTIFACTS_TRACKED {
            self.reporting.refused.clear();
        }
        if settles || !self.reporting.refused.insert((peer, root, reason)) {
            return;
        }
        self.incident(IncidentKind::RefusedShare, Some(reason), Some(peer), &root.to_string());
    }

    /// Sends the next reports to an aggregator, one batch at a time.
    pub(super) fn send_reports(&mut self) {
        self.store_again();
        if self.reporting.sending.is_some() || self.reporting.log.waiting() == 0 {
            return;
        }
        let mut batch =
            self.reporting.log.pending(self.reporting.log.acknowledged(), limits::REPORTS_PER_BATCH);
        let durable = self.reporting.durable;
        if !crate::mutant::mutated(crate::mutant::Mutant::SendBeforeDurable) {
            batch.retain(|signed| signed.claims().is_ok_and(|report| report.sequence <= durable));
        }
        if batch.is_empty() {
            return;
        }
        let reports: Vec<Vec<u8>> = batch.iter().map(report::SignedReport::to_bytes).collect();
        let me = self.setup.member.device;
        if self.setup.roles.aggregator && self.rules.services.aggregator(me).is_some() {
            self.reporting.sending = Some(me);
            let effect = self.expect(Pending::Aggregate(None));
            let member = self.setup.member.clone();
            self.outputs.push_back(Output::Aggregate { effect, member, reports });
            return;
        }
        let connected = self.rules.services.aggregators.iter().map(|entry| entry.device);
        let Some(to) = connected.into_iter().find(|device| self.peers.contains_key(device)) else { return };
        self.reporting.sending = Some(to);
        self.ask(to, Request::Reports(reports), Pending::Reports(to));
    }

    pub(super) fn on_watermark(&mut self, now: Moment, from: DeviceId, bytes: &[u8], expected: Option<u64>) {
        self.reporting.lost(from);
        let mark =
            SignedWatermark::from_bytes(bytes).ok().and_then(|mark| mark.open(&self.rules.services).ok());
        let Some(mark) = mark else { return self.send_later(now) };
        self.compare_clocks(mark.time);
        let (mut meaning, records) = self.reporting.log.acknowledge(&mark);
        self.store_reports(records);
        if let (Acknowledgement::Nothing, Some(expected)) = (meaning, expected) {
            meaning = self.reporting.log.on_expected(expected);
        }
        self.on_acknowledgement(now, meaning);
    }

    /// A clock that is far off makes certificates, metadata and signatures look expired: a person should know why.
    fn compare_clocks(&mut self, theirs: WallTime) {
        let ahead = i64::try_from(self.wall.seconds_since(theirs)).unwrap_or(i64::MAX);
        let behind = i64::try_from(theirs.seconds_since(self.wall)).unwrap_or(i64::MAX);
        let differs = ahead.saturating_sub(behind);
        let seconds = if differs.unsigned_abs() > CLOCK_TOLERANCE_SECONDS { differs } else { 0 };
        if self.reporting.clock_differs != (seconds != 0) {
            self.reporting.clock_differs = seconds != 0;
            self.event(Event::ClockDiffers { seconds });
        }
    }

    fn on_acknowledgement(&mut self, now: Moment, meaning: Acknowledgement) {
        match meaning {
            Acknowledgement::Durable(_) => {
                self.reporting.failures = 0;
                self.note_outdone(false);
                self.send_reports();
            }
            Acknowledgement::Nothing => self.send_later(now),
            Acknowledgement::Checkpoint(cause) => self.checkpoint(cause),
            Acknowledgement::Restart => self.begin_history(now),
        }
    }

    /// The aggregator knows a history that this store never wrote: a new one begins, with the whole state.
    fn begin_history(&mut self, now: Moment) {
        if self.reporting.restarted.is_some_and(|at| now.since(at) < RESTART) {
            self.note_outdone(true);
            return self.send_later(now);
        }
        self.reporting.restarted = Some(now);
        let incarnation = self.random() | 1;
        let detail = "the aggregator knows reports that this store never wrote";
        let records = self.reporting.log.restart(incarnation, detail, self.wall, &self.setup.key);
        self.reporting.durable = 0;
        self.store_reports(records);
    }

    fn note_outdone(&mut self, outdone: bool) {
        if self.reporting.outdone != outdone {
            self.reporting.outdone = outdone;
            self.event(Event::OtherHistory { stands: outdone });
        }
    }

    /// The aggregator refused the next report. One that it will never read must not stop all that follow.
    pub(super) fn on_reports_refused(&mut self, now: Moment, from: DeviceId, reason: Reason) {
        self.reporting.lost(from);
        match reason {
            Reason::UnreadableReport => {
                let detail = "the aggregator cannot read a report of this device";
                self.incident(IncidentKind::Store, Some(reason), None, detail);
                self.checkpoint(CheckpointCause::Unreadable);
                self.send_later(now);
            }
            Reason::OtherHistory => self.begin_history(now),
            _ => self.send_later(now),
        }
    }

    fn checkpoint(&mut self, cause: CheckpointCause) {
        let records = self.reporting.log.checkpoint(cause, self.wall, &self.setup.key);
        self.store_reports(records);
    }

    pub(super) fn on_no_watermark(&mut self, now: Moment, from: DeviceId) {
        self.reporting.lost(from);
        self.send_later(now);
    }

    fn send_later(&mut self, now: Moment) {
        if crate::mutant::mutated(crate::mutant::Mutant::SendOnce) {
            return;
        }
        let pause = AGAIN.saturating_mul(1 << self.reporting.failures.min(8)).min(AGAIN_MOST);
        self.reporting.failures = self.reporting.failures.saturating_add(1);
        self.timers.bring_forward(Timer::Reports, now + pause);
    }

    /// Reports of a member for the aggregator in this node.
    pub(super) fn aggregate(&mut self, token: RequestToken, member: Member, reports: Vec<Vec<u8>>) {
        if !self.setup.roles.aggregator {
            let response = self.refuse_peer(member.device, Reason::NotAnAggregator);
            self.outputs.push_back(Output::Respond { token, response });
            return;
        }
        // A batch may be large, and the member may lose patience and send the next one.
        if !self.reporting.aggregating.insert(member.device) {
            let response = self.refuse(Reason::Busy);
            self.outputs.push_back(Output::Respond { token, response });
            return;
        }
        let effect = self.expect(Pending::Aggregate(Some((token, member.device))));
        self.outputs.push_back(Output::Aggregate { effect, member, reports });
    }

    pub(super) fn on_aggregated(
        &mut self,
        now: Moment,
        effect: EffectId,
        result: Result<Aggregated, Reason>,
    ) {
        let Some(Pending::Aggregate(token)) = self.pending.remove(&effect) else { return };
        let me = self.setup.member.device;
        if let Some((_, from)) = &token {
            self.reporting.aggregating.remove(from);
        }
        match (token, result) {
            (Some((token, _)), Ok(Aggregated { mark, expected })) => {
                self.outputs
                    .push_back(Output::Respond { token, response: Response::Watermark { mark, expected } });
            }
            (Some((token, peer)), Err(reason)) => {
                let response = self.refuse_peer(peer, reason);
                self.outputs.push_back(Output::Respond { token, response });
            }
            (None, Ok(Aggregated { mark, expected })) => self.on_watermark(now, me, &mark, expected),
            (None, Err(reason)) => self.on_reports_refused(now, me, reason),
        }
    }
}

/// What the aggregator answers to a batch of reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregated {
    /// The signed watermark, encoded.
    pub mark: Vec<u8>,
    /// The sequence that is expected next, when the batch left a gap.
    pub expected: Option<u64>,
}
