//! The history of reports of each device, as the aggregator gets it: one from beginning to end, each report once, and nothing
//! in it that its device had not made durable before.

use super::{Broken, World};
use protocol::aggregate::Outcome;
use protocol::identifier::DeviceId;
use protocol::report::{Body, Checkpoint, CheckpointCause, Report, SignedReport};
use std::collections::BTreeMap;

/// Where the history of each device stands: its incarnation and the last report that counted.
#[derive(Debug, Default)]
pub(super) struct Histories(BTreeMap<DeviceId, (u64, u64)>);

impl Histories {
    /// The aggregator took in a report, or says that it knows it.
    pub(super) fn note(&mut self, host: &str, report: &Report, outcome: &Outcome) -> Result<(), Broken> {
        if let Body::Checkpoint(Checkpoint { cause, .. }) = report.body
            && cause != CheckpointCause::OutboxFull
        {
            return Err(format!("{host} lost reports: its outbox starts anew, {cause:?}"));
        }
        let (incarnation, last) = self.0.entry(report.device).or_insert((report.incarnation, 0));
        if *incarnation != report.incarnation {
            return Err(format!("{host} begins a second history of reports"));
        }
        let counts = matches!(outcome, Outcome::Applied);
        let sequence = report.sequence;
        let is_start = matches!(report.body, Body::Checkpoint(_));
        if counts && sequence <= *last {
            return Err(format!("report {sequence} of {host} counts twice"));
        }
        if counts && sequence != *last + 1 && !is_start {
            return Err(format!("report {sequence} of {host} counts, and {} never came", *last + 1));
        }
        if !counts && sequence > *last {
            return Err(format!("report {sequence} of {host} counts as known and never came"));
        }
        *last = sequence.max(*last);
        Ok(())
    }
}

impl World<'_> {
    /// Reports leave a device: a crash must not make it forget what others know (record before action).
    pub(super) fn check_sent(&self, at: usize, reports: &[Vec<u8>]) -> Result<(), Broken> {
        for bytes in reports {
            if !self.devices[at].disk.records.values().any(|value| value == bytes) {
                let signed = SignedReport::from_bytes(bytes).map_err(|error| error.to_string())?;
                let number = signed.claims().map_or(0, |report| report.sequence);
                return Err(format!("device {at} sends report {number} before it is durable"));
            }
        }
        Ok(())
    }
}
