//! The reports of this device that wait for a watermark.

use crate::core::Core;
use crate::report::{self, Body, Source};
use crate::scan::Finding;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};

/// One report of this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Incarnation of the report log.
    pub incarnation: u64,
    /// Sequence number.
    pub sequence: u64,
    /// When.
    pub time: WallTime,
    /// `scan`, `deployment`, `transfer`, `incident` or `inventory`.
    pub kind: String,
    /// What it says, in one line.
    pub summary: String,
    /// Whether a watermark covers it.
    pub durable: bool,
}

impl Core {
    /// Reports that wait for a watermark, after sequence `after`, the newest `limit` of them.
    pub fn waiting_reports(&self, after: u64, limit: usize) -> Vec<Report> {
        let acknowledged = self.reporting.log.acknowledged();
        let line = |report: report::Report| {
            let (kind, summary) = summary(&report.body);
            Report {
                incarnation: report.incarnation,
                sequence: report.sequence,
                time: report.time,
                kind: kind.to_owned(),
                summary,
                durable: report.sequence <= acknowledged,
            }
        };
        let all = self.reporting.log.pending(after, usize::MAX);
        let read = all.iter().filter_map(|signed| signed.claims().ok());
        let mut reports: Vec<Report> = read.map(line).collect();
        reports.drain(..reports.len().saturating_sub(limit));
        reports
    }
}

/// Kind and one line of a report.
fn summary(body: &Body) -> (&'static str, String) {
    match body {
        Body::Scan(scan) => {
            let missing =
                scan.findings.iter().filter(|entry| entry.found.finding == Finding::Missing).count();
            ("scan", format!("{} findings changed, {missing} of them missing", scan.findings.len()))
        }
        Body::Deployments(list) => {
            let lines = list.iter().map(|one| format!("{} {:?}", one.patch, one.state).to_lowercase());
            ("deployment", lines.collect::<Vec<_>>().join(", "))
        }
        Body::Transfers(transfers) => {
            let sum = |source| transfers.contents.iter().map(|content| content.from(source)).sum::<u64>();
            let (wan, lan) = (sum(Source::Wan), sum(Source::Lan));
            ("transfer", format!("{wan} bytes over the WAN, {lan} bytes from neighbours"))
        }
        Body::Incidents(list) => {
            let lines = list.iter().map(|incident| incident.kind.sentence());
            ("incident", lines.collect::<Vec<_>>().join(", "))
        }
        Body::Inventory(inventory) => ("inventory", format!("{} runs {}", inventory.host, inventory.system)),
        Body::Checkpoint(checkpoint) => {
            ("checkpoint", format!("{} reports were dropped; the whole state follows", checkpoint.dropped))
        }
    }
}
