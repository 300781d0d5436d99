//! Reports: what happened goes into the outbox, from there to an aggregator, and leaves it when a watermark covers it.

use super::timers::Timer;
use super::{Core, Output, Pending, Record, RequestToken, Setup, prefix};
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::fetch::Origin;
use crate::identifier::{DeviceId, PatchId};
use crate::limits;
use crate::membership::Member;
use crate::reason::Reason;
use crate::report::{
    self, Acknowledgement, Body, CheckpointCause, ContentKind, Incident, IncidentKind, Log, NetworkTotals,
    SignedWatermark, Source, Text, Transfer, Transfers,
};
use crate::share::Part;
use crate::time::Moment;
use crate::wire::{Request, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How soon reports are sent again when no watermark came; it doubles up to the longest.
const AGAIN: Duration = Duration::from_secs(2);
/// Longest such pause.
const AGAIN_MOST: Duration = Duration::from_secs(300);
/// Bytes that moved are reported this long after the first one moved, so that reports stay few.
const TRANSFERS: Duration = Duration::from_millis(1_500);

/// The outbox and what is about to go into it.
#[derive(Debug)]
pub(super) struct Reporting {
    pub(super) log: Log,
    /// What mends a damaged outbox, stored before anything else is written.
    repair: Vec<report::Record>,
    sending: Option<DeviceId>,
    failures: u32,
    /// Bytes fetched before this start: figures in reports count from the beginning of the store and never fall.
    before: BTreeMap<Blake3Root, Transfer>,
    /// Bytes served, by content.
    served: BTreeMap<Blake3Root, u64>,
    pub(super) network: NetworkTotals,
    /// Refusals that were reported already: each pair once.
    refused: BTreeSet<(DeviceId, Blake3Root, Reason)>,
}

impl Reporting {
    pub(super) fn restore(setup: &Setup, records: Vec<(Vec<u8>, Vec<u8>)>) -> Reporting {
        // Never 0, so that no device can be mistaken for one that never wrote.
        let (log, _, repair) = Log::restore(records, setup.seed | 1, setup.wall, &setup.key);
        let network = log.facts().network();
        let before = log.facts().transfers().clone();
        let served = before.iter().map(|(root, transfer)| (*root, transfer.served)).collect();
        Reporting {
            log,
            repair,
            sending: None,
            failures: 0,
            before,
            served,
            network,
            refused: BTreeSet::new(),
        }
    }

    pub(super) fn lost(&mut self, device: DeviceId) {
        if self.sending == Some(device) {
            self.sending = None;
        }
    }
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
            Err(error) => self.event(super::Event::Problem(error.to_string())),
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
        self.store(records, Pending::StoreReports);
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
        let incident =
            Incident { time: self.wall, kind, reason, patch: None, peer, detail: Text::new(detail) };
        self.report(Body::Incidents(vec![incident]));
    }

    pub(super) fn incident_for(&mut self, kind: IncidentKind, reason: Option<Reason>, patch: &PatchId) {
        let patch = Some(patch.clone());
        let incident = Incident { time: self.wall, kind, reason, patch, peer: None, detail: Text::default() };
        self.report(Body::Incidents(vec![incident]));
    }

    /// A refusal that says something about the asker or the content is an incident, once; one that settles by itself
    /// is not.
    pub(super) fn note_refused_share(&mut self, peer: DeviceId, root: Blake3Root, reason: Reason) {
        let settles = reason.may_be_stale() || reason.settles();
        let known = self.reporting.refused.len() >= limits::ARTIFACTS_TRACKED;
        if settles || known || !self.reporting.refused.insert((peer, root, reason)) {
            return;
        }
        self.incident(IncidentKind::RefusedShare, Some(reason), Some(peer), &root.to_string());
    }

    pub(super) fn note_transfer(&mut self, now: Moment) {
        self.timers.bring_forward(Timer::Transfers, now + TRANSFERS);
    }

    pub(super) fn note_served(&mut self, now: Moment, _peer: DeviceId, root: Blake3Root, bytes: u64) {
        let served = self.reporting.served.entry(root).or_default();
        *served = served.saturating_add(bytes);
        self.note_transfer(now);
    }

    pub(super) fn note_metadata_bytes(&mut self, from: DeviceId, bytes: u64) {
        let wan = self.is_seed(from);
        let network = &mut self.reporting.network;
        let total = if wan { &mut network.metadata_wan } else { &mut network.metadata_lan };
        *total = total.saturating_add(bytes);
    }

    /// Bytes on the wire of all connections that cross the WAN, as the driver counts them.
    pub fn set_wan_bytes(&mut self, received: u64, sent: u64) {
        self.reporting.network.wan_in = received;
        self.reporting.network.wan_out = sent;
    }

    /// Reports the bytes of every content that moved since the last report.
    pub(super) fn report_transfers(&mut self, _now: Moment) {
        let mut changed = self.transfers();
        changed
            .retain(|transfer| self.reporting.log.facts().transfers().get(&transfer.root) != Some(transfer));
        changed.truncate(limits::TRANSFERS_PER_REPORT);
        let network = self.reporting.network;
        if changed.is_empty() && network == self.reporting.log.facts().network() {
            return;
        }
        self.report(Body::Transfers(Transfers { contents: changed, network, served: Vec::new() }));
    }

    /// Bytes of every content that this node received or served, in the form of reports.
    pub(super) fn transfers(&self) -> Vec<Transfer> {
        let mut all = self.reporting.before.clone();
        for transfer in self.fetcher.transfers() {
            let root = transfer.content.root;
            let entry = all.entry(root).or_insert_with(|| self.empty_transfer(root, transfer.content.size));
            let mut fetched: BTreeMap<(Source, Reason), u64> =
                entry.fetched.iter().map(|(source, reason, bytes)| ((*source, *reason), *bytes)).collect();
            for ((origin, reason), bytes) in &transfer.bytes {
                let source = match origin {
                    Origin::Wan => Source::Wan,
                    Origin::Lan => Source::Lan,
                };
                *fetched.entry((source, *reason)).or_default() += bytes;
            }
            entry.fetched =
                fetched.into_iter().map(|((source, reason), bytes)| (source, reason, bytes)).collect();
        }
        for (root, served) in &self.reporting.served {
            let size = self.contents.size_of(*root).unwrap_or(0);
            all.entry(*root).or_insert_with(|| self.empty_transfer(*root, size)).served = *served;
        }
        all.into_values().filter(|transfer| transfer.served > 0 || !transfer.fetched.is_empty()).collect()
    }

    fn empty_transfer(&self, root: Blake3Root, size: u64) -> Transfer {
        Transfer { root, size, kind: self.kind(root), fetched: Vec::new(), served: 0 }
    }

    fn kind(&self, root: Blake3Root) -> ContentKind {
        match self.rules.named_by(root).next() {
            Some((_, _, Part::Evidence)) => ContentKind::Evidence,
            _ => ContentKind::Artifact,
        }
    }

    /// Sends the next reports to an aggregator, one batch at a time.
    pub(super) fn send_reports(&mut self) {
        if self.reporting.sending.is_some() || self.reporting.log.waiting() == 0 {
            return;
        }
        let batch = self.reporting.log.pending(self.reporting.log.acknowledged(), limits::REPORTS_PER_BATCH);
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
        let (mut meaning, records) = self.reporting.log.acknowledge(&mark);
        self.store_reports(records);
        if let (Acknowledgement::Nothing, Some(expected)) = (meaning, expected) {
            meaning = self.reporting.log.on_expected(expected);
        }
        self.on_acknowledgement(now, meaning);
    }

    fn on_acknowledgement(&mut self, now: Moment, meaning: Acknowledgement) {
        match meaning {
            Acknowledgement::Durable(_) => {
                self.reporting.failures = 0;
                self.send_reports();
            }
            Acknowledgement::Nothing => self.send_later(now),
            Acknowledgement::Checkpoint(cause) => self.checkpoint(cause),
            Acknowledgement::Restart => {
                let incarnation = self.random() | 1;
                let detail = "the aggregator knows reports that this store never wrote";
                let records = self.reporting.log.restart(incarnation, detail, self.wall, &self.setup.key);
                self.store_reports(records);
            }
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
            (None, Err(_)) => self.on_no_watermark(now, me),
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
