//! The figures of the demo: what each device did, what crossed WAN and LAN, what was refused and why.

use super::branch::Told;
use super::headquarters::Decided;
use super::wan::Counters;
use crate::exit::{Exit, Failure};
use anyhow::Context as _;
use node::control::answer::{Bytes, Transfer};
use protocol::digest::Blake3Root;
use protocol::identifier::PatchId;
use protocol::reason::Reason;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The most that an artifact's bytes over the WAN may be, as a multiple of its size.
const AMPLIFICATION: f64 = 1.1;
/// The most that the WAN's count and the nodes' own may differ.
const DIFFERENCE_PERCENT: f64 = 5.0;

/// All figures.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Bytes of artifacts' pieces over the WAN, divided by the sizes of the artifacts.
    pub wan_amplification: f64,
    /// The artifacts, and what proves them.
    pub artifacts: Vec<Carried>,
    /// Evidence that travelled: signed release files and indexes.
    pub evidence: Vec<Carried>,
    /// The patches that every device should install.
    pub approved: Vec<PatchId>,
    /// The devices.
    pub devices: Vec<DeviceFigures>,
    /// What was refused or left out, and by how many devices.
    pub refusals: Vec<Refused>,
    /// What the WAN counted and what the nodes reported.
    pub wan: Wan,
    /// Devices of the branch that the aggregator knows.
    pub aggregator_devices: usize,
    /// How long it all took.
    pub seconds: f64,
    /// Address of the dashboard.
    pub dashboard: SocketAddr,
}

/// One content and how it came to the branch.
#[derive(Debug, Serialize)]
pub struct Carried {
    /// The patch, for an artifact.
    pub patch: Option<PatchId>,
    /// File name.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Bytes of its pieces over the WAN, all devices together.
    pub wan_bytes: u64,
    /// Bytes of its pieces over the LAN, all devices together.
    pub lan_bytes: u64,
    /// `wan_bytes` divided by `size`.
    pub wan_amplification: f64,
    /// Devices that hold it whole and verified.
    pub verified_devices: usize,
}

/// What one device did.
#[derive(Debug, Serialize)]
pub struct DeviceFigures {
    /// Its host name.
    pub host: String,
    /// What became of each patch.
    pub patches: BTreeMap<PatchId, String>,
    /// Bytes of pieces over the WAN.
    pub wan_bytes: u64,
    /// Bytes of pieces over the LAN.
    pub lan_bytes: u64,
}

/// Something that was refused or left out.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// The patch, or what else was refused.
    pub subject: String,
    /// Reason code.
    pub code: String,
    /// The reason in words.
    pub sentence: String,
    /// Devices that did.
    pub devices: usize,
}

/// The WAN, counted twice. Enrolment is apart: it is over before the nodes count.
#[derive(Debug, Serialize)]
pub struct Wan {
    /// Counted on the line, to the branch.
    pub down_bytes: u64,
    /// Counted on the line, from the branch.
    pub up_bytes: u64,
    /// Of both, while devices joined.
    pub joining_bytes: u64,
    /// What the nodes say that they received.
    pub nodes_received_bytes: u64,
    /// What the nodes say that they sent.
    pub nodes_sent_bytes: u64,
    /// Of these, signed metadata in both directions.
    pub metadata_bytes: u64,
    /// Of these, reports in both directions.
    pub reports_bytes: u64,
    /// By how much the two counts differ.
    pub difference_percent: f64,
}

impl Figures {
    /// Adds everything up.
    pub fn new(
        told: &[(String, Told)],
        decided: &Decided,
        line: &Counters,
        before: &Counters,
        aggregator_devices: usize,
        took: Duration,
        dashboard: SocketAddr,
    ) -> Figures {
        let (artifacts, evidence): (Vec<_>, Vec<_>) =
            carried(told).into_iter().partition(|carried| carried.patch.is_some());
        let (wan, size) =
            artifacts.iter().fold((0, 0), |(wan, size), one| (wan + one.wan_bytes, size + one.size));
        Figures {
            wan_amplification: ratio(wan, size),
            artifacts,
            evidence,
            approved: decided.approved.clone(),
            devices: told.iter().map(|(host, told)| device(host, told, decided)).collect(),
            refusals: refusals(told),
            wan: both_counts(told, line, before),
            aggregator_devices,
            seconds: (took.as_secs_f64() * 10.0).round() / 10.0,
            dashboard,
        }
    }

    /// Done when everything approved is installed everywhere and the figures hold; otherwise partly, or failed.
    pub fn exit(&self) -> Exit {
        let installed = |device: &&DeviceFigures| {
            let state = |patch| device.patches.get(patch).map(String::as_str);
            self.approved.iter().all(|patch| state(patch) == Some("installed"))
        };
        let good = self.devices.iter().filter(installed).count();
        let thrifty = self.artifacts.iter().all(|artifact| artifact.wan_amplification <= AMPLIFICATION);
        let agree = self.wan.difference_percent <= DIFFERENCE_PERCENT;
        match good {
            0 => Exit::Failed,
            good if good == self.devices.len() && thrifty && agree => Exit::Done,
            _ => Exit::Partly,
        }
    }

    /// The figures as one JSON object.
    pub fn to_object(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(object)) => object,
            _ => serde_json::Map::new(),
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 1000.0).round() / 1000.0 }
}

fn carried(told: &[(String, Told)]) -> Vec<Carried> {
    let mut roots: BTreeMap<Blake3Root, Vec<&Transfer>> = BTreeMap::new();
    for transfer in told.iter().flat_map(|(_, told)| &told.transfers) {
        roots.entry(transfer.root).or_default().push(transfer);
    }
    let all = roots.into_values().filter_map(|transfers| {
        let first = *transfers.first()?;
        let wan_bytes = transfers.iter().map(|transfer| transfer.wan_bytes).sum();
        Some(Carried {
            patch: first.patch.clone().filter(|_| first.kind == "artifact"),
            name: first.name.clone(),
            size: first.size,
            wan_bytes,
            lan_bytes: transfers.iter().map(|transfer| transfer.lan_bytes).sum(),
            wan_amplification: ratio(wan_bytes, first.size),
            verified_devices: transfers.iter().filter(|transfer| transfer.verified).count(),
        })
    });
    let mut all: Vec<Carried> = all.collect();
    all.sort_by(|left, right| (&left.patch, &left.name).cmp(&(&right.patch, &right.name)));
    all
}

fn device(host: &str, told: &Told, decided: &Decided) -> DeviceFigures {
    let patches = decided.approved.iter().chain([&decided.unapproved, &decided.unsigned]);
    let state = |patch: &PatchId| {
        let deployment = told.status.deployments.iter().find(|deployment| deployment.patch == *patch);
        let left_out = || told.plan.left_out.iter().find(|left| left.patch == *patch);
        deployment
            .map(|deployment| deployment.state.clone())
            .or_else(|| left_out().map(|left| left.reason.code.clone()))
            .unwrap_or_else(|| "unknown".to_owned())
    };
    DeviceFigures {
        host: host.to_owned(),
        patches: patches.map(|patch| (patch.clone(), state(patch))).collect(),
        wan_bytes: told.transfers.iter().map(|transfer| transfer.wan_bytes).sum(),
        lan_bytes: told.transfers.iter().map(|transfer| transfer.lan_bytes).sum(),
    }
}

fn refusals(told: &[(String, Told)]) -> Vec<Refused> {
    // What is installed already, or not for this device, is no refusal.
    let left_alone = [Reason::AlreadyInstalled, Reason::NotApplicable, Reason::Superseded].map(Reason::code);
    let mut found: BTreeMap<(String, String), (String, usize)> = BTreeMap::new();
    for (_, told) in told {
        let left_out = told.plan.left_out.iter().map(|left| (left.patch.to_string(), &left.reason));
        let refused = told.status.refusals.iter().map(|refusal| (refusal.subject.clone(), &refusal.reason));
        let mut own: BTreeMap<(String, String), String> = BTreeMap::new();
        for (subject, reason) in left_out.chain(refused) {
            if !left_alone.contains(&reason.code.as_str()) {
                own.insert((subject, reason.code.clone()), reason.sentence.clone());
            }
        }
        for (key, sentence) in own {
            found.entry(key).or_insert((sentence, 0)).1 += 1;
        }
    }
    let refused = |((subject, code), (sentence, devices))| Refused { subject, code, sentence, devices };
    found.into_iter().map(refused).collect()
}

fn both_counts(told: &[(String, Told)], line: &Counters, before: &Counters) -> Wan {
    let sum = |of: fn(&Told) -> Bytes| {
        told.iter().map(|(_, told)| of(told)).fold(Bytes::default(), |all, one| Bytes {
            received: all.received + one.received,
            sent: all.sent + one.sent,
        })
    };
    let both = |bytes: Bytes| bytes.received + bytes.sent;
    let nodes = sum(|told| told.status.traffic.wan);
    let joining = before.down_bytes + before.up_bytes;
    let counted = (line.down_bytes + line.up_bytes).saturating_sub(joining);
    let percent = (ratio(both(nodes), counted) - 1.0).abs() * 100.0;
    Wan {
        down_bytes: line.down_bytes,
        up_bytes: line.up_bytes,
        joining_bytes: joining,
        nodes_received_bytes: nodes.received,
        nodes_sent_bytes: nodes.sent,
        metadata_bytes: both(sum(|told| told.status.traffic.wan_metadata)),
        reports_bytes: both(sum(|told| told.status.traffic.wan_reports)),
        difference_percent: (percent * 100.0).round() / 100.0,
    }
}

/// The rows of a listing of the aggregator's API.
pub fn http_rows(address: SocketAddr, path: &str) -> Result<Vec<serde_json::Value>, Failure> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.take(16 << 20).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer =
        ask().with_context(|| format!("the aggregator does not answer at http://{address}{path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.lines().next().is_some_and(|line| line.contains(" 200 ")) {
        let line = head.lines().next().unwrap_or("nothing");
        return Err(Failure::new(Exit::Failed, format!("the aggregator answered \"{line}\" to {path}")));
    }
    let mut document: serde_json::Value =
        serde_json::from_str(body).context("the aggregator's answer is not JSON")?;
    match document["rows"].take() {
        serde_json::Value::Array(rows) => Ok(rows),
        _ => Err(Failure::new(Exit::Failed, format!("the aggregator's answer to {path} has no rows"))),
    }
}

#[cfg(test)]
pub mod tests;
