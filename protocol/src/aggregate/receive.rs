//! Taking in reports: signature, numbering, chain; then each fact once.

use super::counts::{Bytes, Standing, counts_as_missing};
use super::device::{Chain, Device};
use super::store::StoreKey;
use super::{State, is_failure};
use crate::identifier::DeviceId;
use crate::limits;
use crate::membership::Member;
use crate::report::{
    Body, Change, Deployment, FIRST, Found, Incident, IncidentKind, Record, Report, SignedReport, Text,
};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};

/// Seconds that a device's clock may be ahead of the aggregator's before it is flagged.
pub(super) const AHEAD_TOLERANCE_SECONDS: u64 = 300;

/// What became of a report that is now part of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was new.
    Applied,
    /// It was there already; nothing changed.
    Duplicate,
}

/// Why a report was not taken in. The code goes back to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// It cannot be decoded, breaks a bound, or its signature does not verify. Sending it again does not help.
    #[error("the report cannot be read, or the device that it names did not sign it")]
    Unreadable,
    /// It is of another device than the member that is answered for.
    #[error("the report is of another device than the membership certificate beside it")]
    OtherDevice,
    /// Reports before it are missing: send from the expected one.
    #[error("reports are missing; the next one must be number {expected}")]
    Gap {
        /// The sequence that is taken next.
        expected: u64,
    },
    /// Another report is known under the same identity: a cloned or rolled-back device. The first one stays.
    #[error(
        "another history is known for this device at report {sequence}: the device was cloned or set back to an \
         older state; stop the node of the copy, remove its directory, and let it join with an activation key of its own"
    )]
    Conflict {
        /// The sequence at which the histories part.
        sequence: u64,
    },
}

impl Refusal {
    /// Stable code for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Refusal::Unreadable => "unreadable",
            Refusal::OtherDevice => "other-device",
            Refusal::Gap { .. } => "gap",
            Refusal::Conflict { .. } => "conflict",
        }
    }
}

enum Place {
    Next,
    Known,
    NewIncarnation,
}

impl State {
    /// Takes in one report of a member, at most once. The member was verified from its certificate.
    ///
    /// # Errors
    /// [`Refusal`]; nothing of the report entered the state, except that a conflict is noted as an incident.
    pub fn receive(
        &mut self,
        signed: &SignedReport,
        member: &Member,
        now: WallTime,
    ) -> Result<Outcome, Refusal> {
        let report = signed.open().map_err(|_| Refusal::Unreadable)?;
        if report.device != member.device {
            return Err(Refusal::OtherDevice);
        }
        self.join(member, now);
        let device = self.devices.get(&report.device).expect("it joined in the line above");
        match place(device, &report, signed) {
            Ok(Place::Known) => return Ok(Outcome::Duplicate),
            Ok(Place::Next) => {}
            Ok(Place::NewIncarnation) => {
                let device = self.devices.get_mut(&report.device).expect("it joined above");
                device.retire_chain();
                device.chain = Some(Chain::start(report.incarnation));
            }
            Err(refusal) => {
                if let Refusal::Conflict { sequence } = refusal {
                    self.note_conflict(&report, sequence);
                }
                return Err(refusal);
            }
        }
        if !crate::mutant::mutated(crate::mutant::Mutant::ApplyNothing) {
            self.apply(report.device, &report.body);
        }
        let device = self.devices.get_mut(&report.device).expect("it joined above");
        if let Some(chain) = &mut device.chain {
            chain.advance(report.sequence, signed.hash());
        }
        if let Body::Checkpoint(checkpoint) = report.body {
            device.dropped = device.dropped.saturating_add(checkpoint.dropped);
        }
        let ahead = report.time.seconds_since(now);
        device.ahead_seconds = if ahead > AHEAD_TOLERANCE_SECONDS { ahead } else { 0 };
        device.reported = Some(now);
        self.mark_head(report.device);
        Ok(Outcome::Applied)
    }

    fn note_conflict(&mut self, report: &Report, sequence: u64) {
        let incident = Incident {
            time: report.time,
            kind: IncidentKind::Clone,
            reason: None,
            patch: None,
            peer: None,
            detail: Text::new(&format!(
                "two different reports number {sequence} of incarnation {:016x}; the first one stays",
                report.incarnation
            )),
        };
        self.apply(report.device, &Body::Incidents(vec![incident]));
    }

    fn apply(&mut self, id: DeviceId, body: &Body) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let standing = Standing::of(&device.facts, &device.sums);
        let host = device.host().clone();
        let changes = device.facts.apply(body);
        for change in &changes {
            let key = change.key();
            let value = self.devices.get(&id).and_then(|device| device.facts.value(&key));
            self.dirty.push(Record { key: crate::codec::encode(&StoreKey::Fact(id, key)), value });
            self.apply_change(id, change);
        }
        let Some(device) = self.devices.get(&id) else { return };
        let after = Standing::of(&device.facts, &device.sums);
        self.counts.replace_standing(&device.member.site, &standing, &after);
        if *device.host() != host {
            self.index.hosts.remove(&(host, id));
            self.index.hosts.insert((device.host().clone(), id));
        }
    }

    fn apply_change(&mut self, id: DeviceId, change: &Change) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        match change {
            Change::Finding(patch, before) => {
                let after = device.facts.findings().get(patch).copied();
                let is = |found: &Option<Found>| found.as_ref().is_some_and(counts_as_missing);
                let (was_missing, is_missing) = (is(before), is(&after));
                self.counts.change_finding(patch, before.as_ref(), after.as_ref());
                if was_missing != is_missing {
                    let due = self.listings.get(patch).is_some_and(super::Listing::is_due);
                    let missing = &mut device.sums.missing;
                    *missing = if is_missing { *missing + u64::from(due) } else { *missing - u64::from(due) };
                    self.order_finding(patch, id, is_missing);
                }
            }
            Change::Deployment(patch, before) => {
                let after = device.facts.deployments().get(patch).cloned();
                if let Some(before) = before {
                    self.index.deployments.remove(&(before.time, id, patch.clone()));
                    self.index.failures.remove(&(before.time, id, patch.clone()));
                    device.sums.failed -= u64::from(is_failure(before));
                }
                if let Some(after) = after {
                    self.index.deployments.insert((after.time, id, patch.clone()));
                    if is_failure(&after) {
                        self.index.failures.insert((after.time, id, patch.clone()));
                        device.sums.failed += 1;
                    }
                    self.remember(id, after);
                }
            }
            Change::Transfer(root, before) => {
                let after = device.facts.transfers().get(root);
                if let Some(before) = before {
                    device.sums.bytes.subtract(&Bytes::of_transfer(before));
                }
                if let Some(after) = after {
                    device.sums.bytes.add(&Bytes::of_transfer(after));
                }
                self.counts.change_transfer(&device.member.site, before.as_ref(), after);
            }
            Change::Network(before) => {
                device.sums.bytes.subtract(&Bytes::of_network(before));
                device.sums.bytes.add(&Bytes::of_network(&device.facts.network()));
            }
            Change::IncidentAdded(incident) => self.index.add_incident(id, incident),
            Change::IncidentForgotten(incident) => {
                self.index.incidents.remove(&(incident.time, id, incident.clone()));
            }
            Change::Scanned(_) | Change::Served(_) | Change::Inventory => {}
        }
    }

    /// Adds a deployment to the device's history, which keeps the latest.
    fn remember(&mut self, id: DeviceId, deployment: Deployment) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        if device.history.insert(deployment.clone()) {
            self.dirty.push(Record::put(&StoreKey::History(id, deployment), &()));
        }
        while device.history.len() > limits::HISTORY_PER_DEVICE {
            if let Some(oldest) = device.history.pop_first() {
                self.dirty.push(Record::remove(&StoreKey::History(id, oldest)));
            }
        }
    }
}

/// Where a report belongs: the one rule of exactly-once application.
fn place(device: &Device, report: &Report, signed: &SignedReport) -> Result<Place, Refusal> {
    let sequence = report.sequence;
    let is_start = matches!(report.body, Body::Checkpoint(_));
    if sequence == 0 || (sequence == 1) != (report.previous == FIRST) {
        return Err(Refusal::Unreadable);
    }
    if let Some(chain) = device.chain.as_ref().filter(|chain| chain.incarnation == report.incarnation) {
        let expected = chain.sequence.saturating_add(1);
        return if sequence <= chain.sequence {
            match chain.contradicts(sequence, signed.hash()) {
                true => Err(Refusal::Conflict { sequence }),
                false if crate::mutant::mutated(crate::mutant::Mutant::CountTwice) => Ok(Place::Next),
                false => Ok(Place::Known),
            }
        } else if sequence > expected {
            if is_start || crate::mutant::mutated(crate::mutant::Mutant::TakeGaps) {
                Ok(Place::Next)
            } else {
                Err(Refusal::Gap { expected })
            }
        } else if report.previous == chain.hash {
            Ok(Place::Next)
        } else {
            Err(Refusal::Conflict { sequence })
        };
    }
    if let Some((_, last)) = device.retired.iter().find(|(retired, _)| *retired == report.incarnation) {
        return if sequence <= *last { Ok(Place::Known) } else { Err(Refusal::Conflict { sequence }) };
    }
    if sequence == 1 || is_start { Ok(Place::NewIncarnation) } else { Err(Refusal::Gap { expected: 1 }) }
}
