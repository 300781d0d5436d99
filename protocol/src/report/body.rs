//! What reports say: scans, deployments, transfers, incidents, inventory, and checkpoints of the outbox.

use crate::deploy;
use crate::digest::Blake3Root;
use crate::identifier::{DeviceId, HostName, ManifestDigest, PatchId, SiteName};
use crate::limits;
use crate::membership::Class;
use crate::reason::Reason;
use crate::scan::Finding;
use crate::system::System;
use crate::text;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Free text from a device: at most [`limits::TEXT_BYTES`] bytes, none of which [steers](text::steers).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(String);

impl Text {
    /// Makes text of anything: what steers a terminal becomes a space, the rest is cut to length.
    pub fn new(text: &str) -> Text {
        let mut kept = String::new();
        for letter in text.chars().map(|letter| if text::steers(letter) { ' ' } else { letter }) {
            if kept.len() + letter.len_utf8() > limits::TEXT_BYTES {
                break;
            }
            kept.push(letter);
        }
        Text(kept)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Text {
    type Error = NotBounded;
    fn try_from(text: String) -> Result<Text, NotBounded> {
        if text.len() > limits::TEXT_BYTES || !text::is_plain(&text) {
            return Err(NotBounded("a text"));
        }
        Ok(Text(text))
    }
}

impl From<Text> for String {
    fn from(text: Text) -> String {
        text.0
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// A part of a report that is larger than allowed; names the part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is larger than allowed or holds control characters")]
pub struct NotBounded(pub(crate) &'static str);

/// What one report says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// What a scan found.
    Scan(Scan),
    /// Where deployments stand, at most [`limits::DEPLOYMENTS_PER_REPORT`].
    Deployments(Vec<Deployment>),
    /// Bytes that moved.
    Transfers(Transfers),
    /// What somebody should know of, at most [`limits::INCIDENTS_PER_DEVICE`].
    Incidents(Vec<Incident>),
    /// What the device is.
    Inventory(Inventory),
    /// The outbox starts anew: the reports that follow carry the whole state.
    Checkpoint(Checkpoint),
}

/// Whether a scan report lists everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// Everything: a patch that is not listed was not assessed.
    Full,
    /// What changed: a patch that is not listed is as it was.
    Changes,
}

/// What a scan found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Whether it lists everything.
    pub extent: Extent,
    /// When the device scanned, by its clock.
    pub time: WallTime,
    /// The findings, at most [`limits::FINDINGS_PER_REPORT`].
    pub findings: Vec<FoundPatch>,
}

/// The finding for one patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundPatch {
    /// The patch.
    pub patch: PatchId,
    /// What was found.
    pub found: Found,
}

/// What was found for a patch, by which manifest, and since when it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The finding.
    pub finding: Finding,
    /// The manifest whose detection was used.
    pub manifest: ManifestDigest,
    /// First scan that found it so.
    pub since: WallTime,
}

impl Scan {
    /// A full scan as reports: one that lists everything, and changes for what does not fit into it.
    pub fn full(time: WallTime, findings: Vec<FoundPatch>) -> Vec<Scan> {
        let mut scans = Vec::new();
        let mut rest = findings.into_iter().peekable();
        loop {
            let part: Vec<FoundPatch> = rest.by_ref().take(limits::FINDINGS_PER_REPORT).collect();
            let extent = if scans.is_empty() { Extent::Full } else { Extent::Changes };
            scans.push(Scan { extent, time, findings: part });
            if rest.peek().is_none() {
                return scans;
            }
        }
    }
}

/// Where the deployment of one patch stands: sent at every change of state that a person could ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Deployment {
    /// When the state was entered, by the device's clock.
    pub time: WallTime,
    /// The patch.
    pub patch: PatchId,
    /// The state.
    pub state: deploy::State,
    /// Why it is in this state; `None` when there is nothing to explain.
    pub reason: Option<Reason>,
    /// Installers started so far.
    pub attempts: u32,
    /// Exit code of the last installer, where one ended.
    pub exit_code: Option<i32>,
    /// What the installer said last, for people.
    pub detail: Text,
}

/// From where, or to where, bytes came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Over the WAN, from headquarters.
    Wan,
    /// Over the LAN, from a peer.
    Lan,
}

/// What a content is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentKind {
    /// A file that gets installed.
    Artifact,
    /// A file that proves who made another one.
    Evidence,
}

/// Bytes fetched of one content since the store began, verified pieces only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The content.
    pub root: Blake3Root,
    /// Its size in bytes.
    pub size: u64,
    /// What it is for.
    pub kind: ContentKind,
    /// Bytes by source and by the reason for fetching there.
    pub fetched: Vec<(Source, Reason, u64)>,
    /// Bytes of it served to peers.
    pub served: u64,
}

impl Transfer {
    /// Bytes fetched from `source`.
    pub fn from(&self, source: Source) -> u64 {
        let bytes = self.fetched.iter().filter(|(from, _, _)| *from == source).map(|(_, _, bytes)| *bytes);
        bytes.fold(0, u64::wrapping_add)
    }

    /// Bytes that came over the WAN, by the reason for it.
    pub fn wan_reasons(&self) -> BTreeMap<Reason, u64> {
        let wan = self.fetched.iter().filter(|(source, _, _)| *source == Source::Wan);
        wan.map(|(_, reason, bytes)| (*reason, *bytes)).collect()
    }
}

/// Bytes on the network since the store began, whatever they were for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTotals {
    /// Bytes received over connections that cross the WAN, overhead included.
    pub wan_in: u64,
    /// Bytes sent over connections that cross the WAN, overhead included.
    pub wan_out: u64,
    /// Bytes of signed metadata received from headquarters.
    pub metadata_wan: u64,
    /// Bytes of signed metadata received from peers.
    pub metadata_lan: u64,
}

/// Bytes that moved. All figures count from the beginning of the store, so that a later summary replaces an earlier
/// one; contents and peers that did not change are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfers {
    /// Contents, at most [`limits::TRANSFERS_PER_REPORT`].
    pub contents: Vec<Transfer>,
    /// The network as a whole.
    pub network: NetworkTotals,
    /// Bytes served to each peer, at most [`limits::TRANSFERS_PER_REPORT`].
    pub served: Vec<(DeviceId, u64)>,
}

/// Kinds of incidents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IncidentKind {
    /// The share gate refused to hand out or to take an artifact.
    RefusedShare,
    /// A peer sent a piece that does not match.
    CorruptPiece,
    /// Content failed the vendor's signature.
    RefusedContent,
    /// Signed metadata was refused: older, mixed, forged, expired.
    RefusedMetadata,
    /// A peer did not prove membership.
    RefusedPeer,
    /// The device's own store was damaged or rolled back, and it started a new one.
    Store,
    /// Two histories under one identity: a cloned or rolled-back device.
    Clone,
    /// The device's clock is far from the aggregator's.
    Clock,
}

impl IncidentKind {
    /// Stable code for machines.
    pub const fn code(self) -> &'static str {
        match self {
            IncidentKind::RefusedShare => "refused-share",
            IncidentKind::CorruptPiece => "corrupt-piece",
            IncidentKind::RefusedContent => "refused-content",
            IncidentKind::RefusedMetadata => "refused-metadata",
            IncidentKind::RefusedPeer => "refused-peer",
            IncidentKind::Store => "store",
            IncidentKind::Clone => "clone",
            IncidentKind::Clock => "clock",
        }
    }

    /// What happened, as a sentence for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            IncidentKind::RefusedShare => "a patch was not shared",
            IncidentKind::CorruptPiece => "a peer sent a piece that does not match its digest",
            IncidentKind::RefusedContent => "content failed the check of the vendor's signature",
            IncidentKind::RefusedMetadata => "signed metadata was refused",
            IncidentKind::RefusedPeer => "a peer did not prove that it is a member",
            IncidentKind::Store => "the device's store was damaged or set back, and it started a new one",
            IncidentKind::Clone => {
                "two histories under one identity: the device was cloned or set back to an older state; stop \
                 the node of the copy, remove its directory, and let it join with an activation key of its own"
            }
            IncidentKind::Clock => "the device's clock is wrong; check its time synchronisation",
        }
    }
}

/// Something that somebody should know of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incident {
    /// When, by the clock of who noticed it.
    pub time: WallTime,
    /// Kind.
    pub kind: IncidentKind,
    /// The rule that applied.
    pub reason: Option<Reason>,
    /// The patch that it is about.
    pub patch: Option<PatchId>,
    /// The other end.
    pub peer: Option<DeviceId>,
    /// For people.
    pub detail: Text,
}

/// What the device is, in its own words; what decides stands in its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Host name now.
    pub host: HostName,
    /// Operating system now.
    pub system: System,
    /// Version of patchmesh.
    pub version: Text,
    /// Site where it believes to be.
    pub site: SiteName,
    /// Class.
    pub class: Class,
}

/// The outbox starts anew at this report: what went before need not be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Reports that were never acknowledged and are gone; their latest state follows.
    pub dropped: u64,
    /// Why.
    pub cause: CheckpointCause,
}

/// Why an outbox starts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckpointCause {
    /// More reports waited than the outbox holds.
    OutboxFull,
    /// The aggregator's store is another one than before.
    NewEpoch,
    /// The aggregator misses reports that the device no longer has.
    Forgotten,
    /// The device's own store was damaged or set back.
    Store,
    /// The aggregator could not read a report.
    Unreadable,
}

impl Body {
    /// Checks the bounds that the types cannot state.
    ///
    /// # Errors
    /// [`NotBounded`] names the first part that is too large.
    pub fn check(&self) -> Result<(), NotBounded> {
        match self {
            Body::Scan(scan) => {
                within(scan.findings.len() <= limits::FINDINGS_PER_REPORT, "a scan")?;
                let times = scan.findings.iter().map(|entry| entry.found.since);
                check_times(times.chain([scan.time]))
            }
            Body::Transfers(transfers) => {
                let longest = transfers.contents.len().max(transfers.served.len());
                within(longest <= limits::TRANSFERS_PER_REPORT, "a transfer summary")?;
                let reasons = transfers.contents.iter().map(|content| content.fetched.len()).max();
                within(reasons.unwrap_or(0) <= limits::REASONS_PER_TRANSFER, "a list of reasons")
            }
            Body::Inventory(inventory) => {
                let system = &inventory.system;
                let words = [&system.distribution, &system.release, &system.architecture];
                let bounded = |word: &&String| word.len() <= limits::NAME_BYTES && text::is_plain(word);
                within(words.iter().all(bounded), "the name of an operating system")
            }
            Body::Deployments(list) => {
                within(list.len() <= limits::DEPLOYMENTS_PER_REPORT, "a list of deployments")?;
                check_times(list.iter().map(|deployment| deployment.time))
            }
            Body::Incidents(list) => {
                within(list.len() <= limits::INCIDENTS_PER_DEVICE, "a list of incidents")?;
                check_times(list.iter().map(|incident| incident.time))
            }
            Body::Checkpoint(_) => Ok(()),
        }
    }
}

fn within(holds: bool, part: &'static str) -> Result<(), NotBounded> {
    if holds { Ok(()) } else { Err(NotBounded(part)) }
}

/// The end of the year 9999: later times have no form in RFC 3339, so listings could not be paged over them.
pub(super) const LATEST: WallTime = WallTime::from_unix_seconds(253_402_300_799);

pub(super) fn check_times(mut times: impl Iterator<Item = WallTime>) -> Result<(), NotBounded> {
    within(times.all(|time| time <= LATEST), "a time")
}
