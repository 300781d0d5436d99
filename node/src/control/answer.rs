//! What a node answers on its control socket: plain data, made for people and for programs that read JSON.

use protocol::digest::Blake3Root;
use protocol::identifier::{Cve, DeviceId, FleetId, HostName, ManifestDigest, PatchId, SiteName};
use protocol::manifest::{Content, Kind, Severity};
use protocol::membership::Class;
use protocol::system::System;
use protocol::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A code for programs and a sentence for people: why something is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable code in kebab case, for example `not-approved`.
    pub code: String,
    /// One sentence.
    pub sentence: String,
}

/// What a node is and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the software.
    pub software: String,
    /// The device.
    pub device: DeviceId,
    /// Host name.
    pub host: HostName,
    /// The fleet that it belongs to.
    pub fleet: FleetId,
    /// Home site.
    pub site: SiteName,
    /// Class.
    pub class: Class,
    /// Operating system.
    pub system: System,
    /// `seed`, `registrar`, `aggregator`; empty on an endpoint.
    pub roles: Vec<String>,
    /// When the node started.
    pub started: WallTime,
    /// Multiaddresses that it listens on.
    pub listening: Vec<String>,
    /// The signed metadata that it obeys.
    pub metadata: Metadata,
    /// Connections to members.
    pub connections: Connections,
    /// The last scan.
    pub findings: FindingCounts,
    /// Deployments of this device, finished ones too.
    pub deployments: Vec<Deployment>,
    /// Bytes since the node started.
    pub traffic: Traffic,
    /// Reports on their way to an aggregator.
    pub outbox: Outbox,
    /// What the node refused, by code and subject, most frequent first.
    pub refusals: Vec<Refusal>,
    /// What needs somebody's attention.
    pub problems: Vec<Problem>,
}

/// The signed metadata that a node obeys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Version of every role's file: `root`, `timestamp`, `snapshot`, `targets` and the delegated ones.
    pub versions: BTreeMap<String, u64>,
    /// When the first of them expires.
    pub expires: Option<WallTime>,
    /// Last successful check-in.
    pub checked: Option<WallTime>,
}

/// Connections to members of the fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Members connected.
    pub members: u32,
    /// Of these, in the same site.
    pub neighbours: u32,
    /// Whether a seed is connected, or this node is one.
    pub seed: bool,
}

/// How many patches of the catalogue are in which state on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingCounts {
    /// When the scan ended; `None` before the first.
    pub scanned: Option<WallTime>,
    /// Not assessed yet.
    pub not_assessed: u32,
    /// Not applicable.
    pub not_applicable: u32,
    /// Missing.
    pub missing: u32,
    /// Installed.
    pub installed: u32,
}

/// One deployment on this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The patch.
    pub patch: PatchId,
    /// State, in the words of the deployment table: `planned`, `fetching`, `installed`, `given-up` and so on.
    pub state: String,
    /// Whether the state is a last one.
    pub finished: bool,
    /// Times that the installer started.
    pub attempts: u32,
    /// Why it is in that state, where there is more to say.
    pub reason: Option<Reason>,
    /// When it entered the state.
    pub since: WallTime,
}

/// Bytes of one direction and its opposite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// Bytes on the connections of a node since it started, everything included above TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// All bytes to and from members of other sites, headquarters among them.
    pub wan: Bytes,
    /// All bytes to and from members of this site.
    pub lan: Bytes,
    /// Of the WAN bytes: signed metadata.
    pub wan_metadata: Bytes,
    /// Of the WAN bytes: reports and watermarks.
    pub wan_reports: Bytes,
    /// Bytes of pieces received over the WAN, by reason code.
    pub wan_reasons: BTreeMap<String, u64>,
}

/// Reports of this device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    /// Waiting for a watermark.
    pub waiting: u64,
    /// Sequence number of the latest one; 0 before the first.
    pub last: u64,
    /// Up to here an aggregator has them durably.
    pub watermark: u64,
}

/// What a node refused, to itself or to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What: a patch, an artifact's root, a protocol.
    pub subject: String,
    /// Whom, when it was a peer.
    pub peer: Option<DeviceId>,
    /// How often.
    pub count: u64,
    /// The last time.
    pub last: WallTime,
}

/// Something that needs somebody's attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong.
    pub reason: Reason,
    /// How to mend it.
    pub remedy: Option<String>,
}

/// One member that this node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The device.
    pub device: DeviceId,
    /// Its host name.
    pub host: HostName,
    /// Its site.
    pub site: SiteName,
    /// Its operating system.
    pub system: System,
    /// `seed`, `registrar`, `aggregator`; empty for an endpoint.
    pub roles: Vec<String>,
    /// Multiaddress of the connection, or the one to try.
    pub address: Option<String>,
    /// Rung of the discovery ladder: `mdns`, `remembered`, `tracker`, `sites`, `incoming`.
    pub discovered: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// Bytes of pieces to and from it.
    pub pieces: Bytes,
    /// All bytes to and from it.
    pub raw: Bytes,
}

/// One finding of a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The patch.
    pub patch: PatchId,
    /// One line for people.
    pub title: String,
    /// The vendor's severity.
    pub severity: Severity,
    /// `not-assessed`, `not-applicable`, `missing` or `installed`.
    pub state: String,
    /// What is installed now, for example a package version.
    pub found: Option<String>,
    /// The patch that replaces it, where one does.
    pub superseded_by: Option<PatchId>,
}

/// Result of a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Counts.
    pub counts: FindingCounts,
    /// The findings, by patch.
    pub findings: Vec<Finding>,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The patch.
    pub patch: PatchId,
    /// One line for people.
    pub title: String,
    /// The manifest that is meant.
    pub manifest: ManifestDigest,
    /// Bytes to fetch at most.
    pub size: u64,
}

/// A patch that is not in the plan, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The patch.
    pub patch: PatchId,
    /// Why.
    pub reason: Reason,
}

/// What this device will do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Higher for every newer plan.
    pub generation: u64,
    /// When it was made.
    pub made: WallTime,
    /// Why the device does not deploy by itself, when it does not.
    pub inert: Option<Reason>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What was left out.
    pub left_out: Vec<LeftOut>,
}

/// What an order to deploy set going. The states are then in [`Status::deployments`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploying {
    /// Generation of the plan.
    pub generation: u64,
    /// Patches that are being deployed now.
    pub started: Vec<PatchId>,
    /// Patches that were asked for and are refused or left out.
    pub left_out: Vec<LeftOut>,
}

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

/// Why a patch is in its state on this device, from the first cause to the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The patch.
    pub patch: PatchId,
    /// What became of it here, in one word: a finding or a deployment state.
    pub state: String,
    /// The chain of causes.
    pub chain: Vec<Reason>,
}

/// The policy in force on this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// Names of the policies in force; empty means the built-in default, which only scans.
    pub policies: Vec<String>,
    /// Names of the configurations that deploy here.
    pub configurations: Vec<String>,
    /// Why the device does not deploy, when it does not.
    pub inert: Option<Reason>,
    /// Whether peers may exchange content and metadata.
    pub peer_download: bool,
    /// Most WAN fetchers of the site at the same time.
    pub wan_fetchers: u8,
    /// Minutes between scans.
    pub scan_minutes: u32,
    /// Days that accepted metadata stays in force without news.
    pub offline_days: u32,
    /// Approved patches.
    pub approved: Vec<PatchId>,
    /// Patches on hold and why.
    pub held: BTreeMap<PatchId, String>,
}

/// One patch of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// The patch.
    pub patch: PatchId,
    /// One line for people.
    pub title: String,
    /// Kind.
    pub kind: Kind,
    /// The vendor's severity.
    pub severity: Severity,
    /// CVEs that it mends.
    pub cves: Vec<Cve>,
    /// Operating systems that it is for, as text.
    pub targets: Vec<String>,
    /// Digest of the manifest.
    pub manifest: ManifestDigest,
    /// Bytes of its artifacts.
    pub size: u64,
    /// `apt`, `ed25519` or `none`: how the vendor signed it.
    pub evidence: String,
    /// `yes`, `no`, or `other-manifest` when it changed after it was approved.
    pub approved: String,
    /// Whether it is on hold.
    pub held: bool,
    /// State on this device: `not-assessed`, `not-applicable`, `missing` or `installed`.
    pub finding: Option<String>,
}

/// A new activation key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// The key: shown once, the registrar keeps the hash of its secret only.
    pub activation_key: String,
    /// What the registrar keeps.
    pub token: Token,
}

/// An activation key as the registrar knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// First eight hexadecimal digits of the secret's hash.
    pub id: String,
    /// Site of the devices that it enrols.
    pub site: SiteName,
    /// Class of the devices that it enrols.
    pub class: Class,
    /// Uses left.
    pub uses_left: u32,
    /// Not accepted from then on.
    pub expires: WallTime,
}

/// What a seed took over from its repository directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryLoaded {
    /// Version of the timestamp file that the seed serves now.
    pub timestamp: u64,
    /// Patches in its catalogues.
    pub patches: u32,
}

/// Content that a seed holds now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentAdded {
    /// The file that was read.
    pub path: String,
    /// What it is.
    pub content: Content,
}

/// How far one content has come on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The content.
    pub root: Blake3Root,
    /// `artifact` for what is installed, `evidence` for what proves it.
    pub kind: String,
    /// The patch, when it is an artifact.
    pub patch: Option<PatchId>,
    /// File name, for people.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Pieces held.
    pub pieces_held: u32,
    /// Pieces in all.
    pub pieces_total: u32,
    /// Whether it passed the full check.
    pub verified: bool,
    /// Bytes of its pieces received over the WAN, duplicates and refused pieces included.
    pub wan_bytes: u64,
    /// Bytes of its pieces received from members of the site, duplicates and refused pieces included.
    pub lan_bytes: u64,
    /// Bytes of its pieces sent to others.
    pub served_bytes: u64,
}
