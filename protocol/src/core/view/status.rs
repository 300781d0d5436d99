//! The node at a glance.

use super::caps::Caps;
use super::patch::FindingCounts;
use crate::core::Core;
use crate::core::deployment::state_name;
use crate::deploy;
use crate::identifier::{DeviceId, FleetId, HostName, PatchId, SiteName};
use crate::membership::Class;
use crate::reason::Reason;
use crate::system::System;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A code for programs and a sentence for people: why something is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
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
    /// How fast pieces may pass now, and which.
    #[serde(default)]
    pub caps: Caps,
    /// Bytes since the node started.
    pub traffic: Traffic,
    /// Content on the disk of this device.
    #[serde(default)]
    pub kept: Kept,
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
    /// Last successful check-in: newer metadata came, or a seed said that there is none.
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
    pub reason: Option<Cause>,
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

/// Content on the disk of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Contents.
    pub contents: u64,
    /// Their bytes, arrived or not.
    pub bytes: u64,
    /// Beyond so many bytes, what is not needed here any more is let go; 0 at a seed, which has what was published.
    pub quota: u64,
}

/// Reports of this device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    /// Waiting for a watermark; those of the last moment for this device's own disk first.
    pub waiting: u64,
    /// Sequence number of the latest one that is on this device's disk; 0 before the first.
    pub last: u64,
    /// Up to here an aggregator has them durably.
    pub watermark: u64,
}

/// What a node refused, to itself or to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub reason: Cause,
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
    pub reason: Cause,
    /// How to mend it.
    pub remedy: Option<String>,
}

impl From<Reason> for Cause {
    fn from(reason: Reason) -> Cause {
        Cause { code: reason.code().to_owned(), sentence: reason.explain().to_owned() }
    }
}

impl Core {
    /// The node at a glance, without what only the process around the core knows: its version, its roles, since when it runs,
    /// where it listens, its traffic, refusals and problems.
    pub fn status(&self) -> Status {
        let member = self.setup.member.clone();
        let versions = self.trusted_versions();
        let versions =
            [("root", versions.root), ("timestamp", versions.timestamp), ("snapshot", versions.snapshot)];
        let log = &self.reporting.log;
        Status {
            software: String::new(),
            device: member.device,
            host: member.host,
            fleet: member.fleet,
            site: member.site,
            class: member.class,
            system: member.system,
            roles: Vec::new(),
            started: WallTime::default(),
            listening: Vec::new(),
            metadata: Metadata {
                versions: versions.into_iter().map(|(role, version)| (role.to_owned(), version)).collect(),
                expires: self.metadata_expiry().map(|(_, at)| at),
                checked: self.refreshing.checked,
            },
            connections: self.connections(),
            findings: self.finding_counts(),
            deployments: self.deployments(),
            caps: self.caps_in_force(),
            traffic: Traffic::default(),
            kept: Kept {
                contents: self.contents.held().count() as u64,
                bytes: self.kept_bytes(),
                quota: if self.setup.roles.seed { 0 } else { self.setup.keep_bytes },
            },
            outbox: Outbox {
                waiting: log.waiting() as u64,
                last: self.reporting.durable.max(log.acknowledged()),
                watermark: log.acknowledged(),
            },
            refusals: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn connections(&self) -> Connections {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let seeds = self.peers.keys().filter(|device| self.rules.services.is_seed(**device)).count();
        let neighbours = self.peers.values().filter(|peer| {
            !self.rules.services.is_seed(peer.member.device) && self.is_neighbour(&peer.member)
        });
        Connections {
            members: count(self.peers.len()),
            neighbours: count(neighbours.count()),
            seed: self.setup.roles.seed || seeds > 0,
        }
    }

    /// Why a deployment stands where it stands, where there is more to say than the state.
    fn why(&self, deployment: &deploy::Deployment) -> Option<Cause> {
        let obstacle = match deployment.state {
            deploy::State::Fetching => {
                self.rules.manifest(deployment.manifest).and_then(|manifest| self.obstacle(manifest))
            }
            _ => None,
        };
        let says = |reason| Cause {
            sentence: deploy::explain(deployment.state, reason).to_owned(),
            ..Cause::from(reason)
        };
        obstacle.or_else(|| deployment.last_result.map(says))
    }

    /// The deployments of this device.
    pub fn deployments(&self) -> Vec<Deployment> {
        let reported = self.reporting.log.facts().deployments();
        let view = |deployment: &deploy::Deployment| Deployment {
            patch: deployment.patch.clone(),
            state: state_name(deployment.state),
            finished: deployment.state.is_terminal(),
            attempts: deployment.attempts,
            reason: self.why(deployment),
            since: reported.get(&deployment.patch).map_or(self.wall, |entry| entry.time),
        };
        self.deploying.deployments.values().map(view).collect()
    }
}
