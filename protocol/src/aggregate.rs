//! The state of the fleet as its reports add up: delivery in any order and more than once, application exactly once.

mod counts;
mod device;
mod page;
mod receive;
mod rows;
mod store;

pub use counts::{Bytes, ContentTotals, Counts, Standing, Tally};
pub use device::{Compliance, Device};
pub use page::state_code;
pub use receive::{Outcome, Refusal};
pub use rows::{
    ContentRow, DeploymentCursor, DeploymentQuery, DeploymentRow, DeviceCursor, DeviceQuery, DeviceRow,
    FindingCursor, FindingQuery, FindingRow, IncidentRow, NotACursor, Page, PatchRow, Summary,
};
pub use store::{RestoreError, StoreKey};

use counts::{Sums, counts_as_missing};

use crate::deploy;
use crate::digest::Blake3Root;
use crate::identifier::{DeviceId, HostName, ManifestDigest, PatchId, SiteName};
use crate::manifest::{Evidence, Kind, Manifest, Severity};
use crate::membership::Member;
use crate::report::{Deployment, FIRST, Incident, Record, Watermark};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Seconds without a sign of life after which a device is stale: three check-ins of four hours.
pub const STALE_SECONDS: u64 = 3 * crate::limits::CHECK_IN_SECONDS;

/// What the signed metadata says about a patch, for views.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The manifest.
    pub manifest: ManifestDigest,
    /// One line for people.
    pub title: String,
    /// Kind.
    pub kind: Kind,
    /// The vendor's severity.
    pub severity: Severity,
    /// Bytes of its artifacts.
    pub size: u64,
    /// Whether policy approves it for somebody.
    pub approved: bool,
    /// Whether it is held.
    pub held: bool,
    /// Names of its files, and of the files that prove them.
    pub files: Vec<(Blake3Root, String)>,
}

impl Listing {
    /// What `manifest` says, with what policy says about it.
    pub fn of(manifest: &Manifest, approved: bool, held: bool) -> Listing {
        let mut files = Vec::new();
        for artifact in &manifest.artifacts {
            files.push((artifact.content.root, artifact.name.clone()));
            if let Evidence::Apt(chain) = &artifact.evidence {
                files.push((chain.release.root, format!("InRelease of {}", chain.suite)));
                files.push((chain.packages.root, format!("{} of {}", chain.packages_path, chain.suite)));
            }
        }
        Listing {
            manifest: manifest.digest(),
            title: manifest.title.clone(),
            kind: manifest.kind,
            severity: manifest.severity,
            size: manifest.size(),
            approved,
            held,
            files,
        }
    }

    /// Whether devices that miss the patch are behind: it is approved and not held.
    pub fn is_due(&self) -> bool {
        self.approved && !self.held
    }
}

/// The fleet. Every page of it costs what the page shows, whatever the number of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    epoch: u64,
    devices: BTreeMap<DeviceId, Device>,
    listings: BTreeMap<PatchId, Listing>,
    /// Names of the files of all listings, and how many listings are due: follow from `listings`.
    names: BTreeMap<Blake3Root, String>,
    approved: usize,
    counts: Counts,
    index: Index,
    dirty: Vec<Record>,
}

/// The same facts in the orders in which pages show them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Index {
    hosts: BTreeSet<(HostName, DeviceId)>,
    seen: BTreeSet<(WallTime, DeviceId)>,
    missing: BTreeSet<(PatchId, DeviceId)>,
    /// Patches that somebody misses: due ones first, then by the number of devices.
    ranking: BTreeSet<(Reverse<(bool, u64)>, PatchId)>,
    deployments: BTreeSet<(WallTime, DeviceId, PatchId)>,
    failures: BTreeSet<(WallTime, DeviceId, PatchId)>,
    incidents: BTreeSet<(WallTime, DeviceId, Incident)>,
}

/// Whether a deployment in this state needs somebody.
pub(crate) fn is_failure(deployment: &Deployment) -> bool {
    matches!(deployment.state, deploy::State::Failed | deploy::State::GivenUp)
}

impl State {
    /// An empty state. `epoch` is random: devices that see a new one send their full state again.
    pub fn new(epoch: u64) -> State {
        State {
            epoch,
            devices: BTreeMap::new(),
            listings: BTreeMap::new(),
            names: BTreeMap::new(),
            approved: 0,
            counts: Counts::default(),
            index: Index::default(),
            dirty: vec![Record::put(&StoreKey::Epoch, &epoch)],
        }
    }

    /// Random number of the store.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Starts a new epoch, after the store came back from a backup: every device sends its full state again.
    pub fn renew_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.dirty.push(Record::put(&StoreKey::Epoch, &epoch));
    }

    /// The records that became due since the last call. They belong into one atomic batch, durable before a watermark
    /// is signed.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.dirty)
    }

    /// One device.
    pub fn device(&self, device: DeviceId) -> Option<&Device> {
        self.devices.get(&device)
    }

    /// The devices, in order of their identifiers.
    pub fn devices(&self) -> &BTreeMap<DeviceId, Device> {
        &self.devices
    }

    /// What the signed metadata says about each patch.
    pub fn listings(&self) -> &BTreeMap<PatchId, Listing> {
        &self.listings
    }

    /// Sums over the fleet, kept with every report.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The same sums, counted anew from every device: equal to [`State::counts`], or the state is broken.
    pub fn recount(&self) -> Counts {
        let mut counts = Counts::default();
        for device in self.devices.values() {
            counts.include(device, &self.listings);
        }
        counts
    }

    /// Makes a member known: a device appears in every view as soon as it joined, before its first report.
    /// A certificate with another site or host name moves it.
    pub fn join(&mut self, member: &Member, now: WallTime) {
        match self.devices.get(&member.device) {
            Some(known) if known.member == *member => {}
            known => {
                let device = match known {
                    Some(known) => Device { member: member.clone(), ..known.clone() },
                    None => Device::new(member.clone(), now),
                };
                self.take_out(member.device);
                self.put_in(device);
                self.mark_head(member.device);
            }
        }
        self.see(member.device, now);
    }

    /// Whether the device joined, as far as is known here.
    pub fn knows(&self, device: DeviceId) -> bool {
        self.devices.contains_key(&device)
    }

    /// Notes a sign of life of a known device.
    pub fn see(&mut self, device: DeviceId, now: WallTime) {
        let Some(entry) = self.devices.get_mut(&device) else { return };
        if now > entry.seen {
            self.index.seen.remove(&(entry.seen, device));
            entry.seen = now;
            self.index.seen.insert((now, device));
        }
    }

    /// Takes over what the signed metadata says now.
    pub fn set_listings(&mut self, listings: BTreeMap<PatchId, Listing>) {
        let due = |from: &BTreeMap<PatchId, Listing>, patch| from.get(patch).is_some_and(Listing::is_due);
        let all: BTreeSet<&PatchId> = self.listings.keys().chain(listings.keys()).collect();
        let turned: Vec<(PatchId, bool)> = all
            .into_iter()
            .filter(|patch| due(&self.listings, patch) != due(&listings, patch))
            .map(|patch| (patch.clone(), due(&listings, patch)))
            .collect();
        self.listings = listings;
        self.approved = self.listings.values().filter(|listing| listing.is_due()).count();
        self.names = self.listings.values().flat_map(|listing| listing.files.iter().cloned()).collect();
        for (patch, is_due) in turned {
            self.turn(&patch, is_due);
        }
    }

    /// A patch became due, or no longer is: the standing of every device that misses it changes.
    fn turn(&mut self, patch: &PatchId, is_due: bool) {
        let missing = self.index.missing.range((patch.clone(), DeviceId::from_bytes([0; 32]))..);
        let devices: Vec<DeviceId> =
            missing.take_while(|(of, _)| of == patch).map(|(_, device)| *device).collect();
        for device in devices {
            let Some(entry) = self.devices.get_mut(&device) else { continue };
            let before = Standing::of(&entry.facts, &entry.sums);
            entry.sums.missing = if is_due { entry.sums.missing + 1 } else { entry.sums.missing - 1 };
            let after = Standing::of(&entry.facts, &entry.sums);
            self.counts.replace_standing(&entry.member.site, &before, &after);
        }
        let missing = self.counts.tally(patch).missing;
        self.index.ranking.remove(&(Reverse((!is_due, missing)), patch.clone()));
        self.rank(patch, missing);
    }

    fn rank(&mut self, patch: &PatchId, missing: u64) {
        if missing > 0 {
            let due = self.is_due(patch);
            self.index.ranking.insert((Reverse((due, missing)), patch.clone()));
        }
    }

    fn is_due(&self, patch: &PatchId) -> bool {
        self.listings.get(patch).is_some_and(Listing::is_due)
    }

    /// Takes a device out of all sums and orders.
    fn take_out(&mut self, id: DeviceId) -> Option<Device> {
        let device = self.devices.remove(&id)?;
        self.counts.exclude(&device);
        self.order_findings(&device, false);
        self.index.hosts.remove(&(device.host().clone(), id));
        self.index.seen.remove(&(device.seen, id));
        for (patch, deployment) in device.facts.deployments() {
            self.index.deployments.remove(&(deployment.time, id, patch.clone()));
            self.index.failures.remove(&(deployment.time, id, patch.clone()));
        }
        for incident in device.facts.incidents() {
            self.index.incidents.remove(&(incident.time, id, incident.clone()));
        }
        Some(device)
    }

    /// Puts a whole device into all sums and orders.
    fn put_in(&mut self, mut device: Device) {
        let id = device.member.device;
        device.sums = Sums::of(&device.facts, &self.listings);
        self.counts.include(&device, &self.listings);
        self.order_findings(&device, true);
        self.index.hosts.insert((device.host().clone(), id));
        self.index.seen.insert((device.seen, id));
        for (patch, deployment) in device.facts.deployments() {
            self.index.deployments.insert((deployment.time, id, patch.clone()));
            if is_failure(deployment) {
                self.index.failures.insert((deployment.time, id, patch.clone()));
            }
        }
        for incident in device.facts.incidents() {
            self.index.add_incident(id, incident);
        }
        self.devices.insert(id, device);
    }

    /// Moves the findings of a device into or out of the orders, after the counts were changed.
    fn order_findings(&mut self, device: &Device, inside: bool) {
        for (patch, found) in device.facts.findings() {
            if counts_as_missing(found) {
                self.order_finding(patch, device.member.device, inside);
            }
        }
    }

    /// One more, or one less, device misses `patch`; its count says so already.
    fn order_finding(&mut self, patch: &PatchId, device: DeviceId, inside: bool) {
        let after = self.counts.tally(patch).missing;
        let before = if inside {
            self.index.missing.insert((patch.clone(), device));
            after - 1
        } else {
            self.index.missing.remove(&(patch.clone(), device));
            after + 1
        };
        self.index.ranking.remove(&(Reverse((self.is_due(patch), before)), patch.clone()));
        self.rank(patch, after);
    }

    fn mark_head(&mut self, id: DeviceId) {
        if let Some(device) = self.devices.get(&id) {
            self.dirty.push(Record::put(&StoreKey::Head(id), &device.head()));
        }
    }

    /// What to sign for a device once the records are durable; `None` for a device that never joined. Before the first
    /// report it covers nothing, of incarnation 0, so that there is an answer to carry what is expected.
    pub fn watermark(&self, device: DeviceId, aggregator: DeviceId, now: WallTime) -> Option<Watermark> {
        let chain = self.devices.get(&device)?.chain.as_ref();
        let (incarnation, sequence, hash) =
            chain.map_or((0, 0, FIRST), |chain| (chain.incarnation, chain.sequence, chain.hash));
        Some(Watermark { aggregator, device, incarnation, sequence, hash, epoch: self.epoch, time: now })
    }

    /// The sites that have devices, with their standing.
    pub fn sites(&self) -> &BTreeMap<SiteName, Standing> {
        &self.counts.sites
    }
}

impl Index {
    fn add_incident(&mut self, device: DeviceId, incident: &Incident) {
        self.incidents.insert((incident.time, device, incident.clone()));
        if self.incidents.len() > crate::limits::INCIDENTS_LISTED {
            self.incidents.pop_first();
        }
    }
}

#[cfg(test)]
mod tests;
