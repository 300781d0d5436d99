//! The latest state of one device, as its reports add up: what an outbox compacts to and an aggregator keeps.

use super::body::{
    Body, Deployment, Extent, Found, FoundPatch, Incident, Inventory, NetworkTotals, Scan, Transfer,
    Transfers,
};
use crate::codec::{self, DecodeError};
use crate::digest::Blake3Root;
use crate::identifier::{DeviceId, ManifestDigest, PatchId};
use crate::limits;
use crate::scan::{self, Finding};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The latest state of one device. A patch without finding was not assessed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub(crate) scanned: Option<WallTime>,
    pub(crate) findings: BTreeMap<PatchId, Found>,
    pub(crate) deployments: BTreeMap<PatchId, Deployment>,
    pub(crate) transfers: BTreeMap<Blake3Root, Transfer>,
    pub(crate) network: NetworkTotals,
    pub(crate) served: BTreeMap<DeviceId, u64>,
    pub(crate) incidents: BTreeSet<Incident>,
    pub(crate) inventory: Option<Inventory>,
}

/// Names one fact of a device in a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FactKey {
    /// When it scanned last.
    Scanned,
    /// The finding for a patch.
    Finding(PatchId),
    /// The deployment of a patch.
    Deployment(PatchId),
    /// The transfer of a content.
    Transfer(Blake3Root),
    /// Totals of the network.
    Network,
    /// Bytes served to a peer.
    Served(DeviceId),
    /// An incident; the key is all of it.
    Incident(Incident),
    /// The inventory.
    Inventory,
}

/// One fact that a body changed, with what it was before where sums depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Scanned(Option<WallTime>),
    Finding(PatchId, Option<Found>),
    Deployment(PatchId, Option<Deployment>),
    Transfer(Blake3Root, Option<Transfer>),
    Network(NetworkTotals),
    Served(DeviceId),
    IncidentAdded(Incident),
    IncidentForgotten(Incident),
    Inventory,
}

impl Change {
    pub(crate) fn key(&self) -> FactKey {
        match self {
            Change::Scanned(_) => FactKey::Scanned,
            Change::Finding(patch, _) => FactKey::Finding(patch.clone()),
            Change::Deployment(patch, _) => FactKey::Deployment(patch.clone()),
            Change::Transfer(root, _) => FactKey::Transfer(*root),
            Change::Network(_) => FactKey::Network,
            Change::Served(peer) => FactKey::Served(*peer),
            Change::IncidentAdded(incident) | Change::IncidentForgotten(incident) => {
                FactKey::Incident(incident.clone())
            }
            Change::Inventory => FactKey::Inventory,
        }
    }
}

impl Facts {
    /// When the device scanned last, by its clock.
    pub fn scanned(&self) -> Option<WallTime> {
        self.scanned
    }

    /// What was found for `patch`; not assessed when nothing was.
    pub fn finding(&self, patch: &PatchId) -> Finding {
        self.findings.get(patch).map_or(Finding::NotAssessed, |found| found.finding)
    }

    /// All findings, by patch.
    pub fn findings(&self) -> &BTreeMap<PatchId, Found> {
        &self.findings
    }

    /// The latest deployment of each patch.
    pub fn deployments(&self) -> &BTreeMap<PatchId, Deployment> {
        &self.deployments
    }

    /// The transfer of each content.
    pub fn transfers(&self) -> &BTreeMap<Blake3Root, Transfer> {
        &self.transfers
    }

    /// Totals of the network.
    pub fn network(&self) -> NetworkTotals {
        self.network
    }

    /// Bytes served to each peer.
    pub fn served(&self) -> &BTreeMap<DeviceId, u64> {
        &self.served
    }

    /// The latest incidents, oldest first.
    pub fn incidents(&self) -> &BTreeSet<Incident> {
        &self.incidents
    }

    /// What the device says it is.
    pub fn inventory(&self) -> Option<&Inventory> {
        self.inventory.as_ref()
    }

    /// The bodies that bring a reader of this state to what a scan found now: everything the first time, later what
    /// changed. Each finding keeps the time since when it is so.
    pub fn scan_bodies(&self, now: &scan::Findings) -> Vec<Body> {
        let entry = |(patch, (manifest, finding)): (&PatchId, &(ManifestDigest, Finding))| {
            let before = self
                .findings
                .get(patch)
                .filter(|before| before.finding == *finding && before.manifest == *manifest);
            let since = before.map_or(now.taken, |before| before.since);
            FoundPatch {
                patch: patch.clone(),
                found: Found { finding: *finding, manifest: *manifest, since },
            }
        };
        let assessed = now.by_patch.iter().filter(|(_, (_, finding))| *finding != Finding::NotAssessed);
        if self.scanned.is_none() {
            return Scan::full(now.taken, assessed.map(entry).collect())
                .into_iter()
                .map(Body::Scan)
                .collect();
        }
        let mut changed: Vec<FoundPatch> =
            assessed.map(entry).filter(|new| self.findings.get(&new.patch) != Some(&new.found)).collect();
        let is_assessed = |patch: &PatchId| {
            now.by_patch.get(patch).is_some_and(|(_, finding)| *finding != Finding::NotAssessed)
        };
        for (patch, before) in self.findings.iter().filter(|(patch, _)| !is_assessed(patch)) {
            let found = Found { finding: Finding::NotAssessed, since: now.taken, ..*before };
            changed.push(FoundPatch { patch: patch.clone(), found });
        }
        let parts = changed.chunks(limits::FINDINGS_PER_REPORT).map(<[FoundPatch]>::to_vec);
        let parts: Vec<Vec<FoundPatch>> = if changed.is_empty() { vec![Vec::new()] } else { parts.collect() };
        let scan = |findings| Body::Scan(Scan { extent: Extent::Changes, time: now.taken, findings });
        parts.into_iter().map(scan).collect()
    }

    /// Takes in one body; the bodies of a device come in the order of their sequence. New patches, contents and peers
    /// beyond the limits are left out: only a device that makes them up gets there.
    pub(crate) fn apply(&mut self, body: &Body) -> Vec<Change> {
        match body {
            Body::Scan(scan) => self.apply_scan(scan),
            Body::Deployments(list) => {
                let latest: BTreeMap<&PatchId, &Deployment> =
                    list.iter().map(|deployment| (&deployment.patch, deployment)).collect();
                latest.into_values().filter_map(|deployment| self.apply_deployment(deployment)).collect()
            }
            Body::Transfers(transfers) => self.apply_transfers(transfers),
            Body::Incidents(list) => list.iter().flat_map(|one| self.apply_incident(one)).collect(),
            Body::Inventory(inventory) if self.inventory.as_ref() == Some(inventory) => Vec::new(),
            Body::Inventory(inventory) => {
                self.inventory = Some(inventory.clone());
                vec![Change::Inventory]
            }
            Body::Checkpoint(_) => Vec::new(),
        }
    }

    fn apply_scan(&mut self, scan: &Scan) -> Vec<Change> {
        let mut changes = vec![Change::Scanned(self.scanned)];
        self.scanned = Some(scan.time);
        if scan.extent == Extent::Full {
            let listed: BTreeSet<&PatchId> = scan.findings.iter().map(|entry| &entry.patch).collect();
            let gone = self.findings.extract_if(.., |patch, _| !listed.contains(patch));
            changes.extend(gone.map(|(patch, found)| Change::Finding(patch, Some(found))));
        }
        // The last entry counts where one body lists a patch twice: each change tells before from after once.
        let latest: BTreeMap<&PatchId, &Found> =
            scan.findings.iter().map(|entry| (&entry.patch, &entry.found)).collect();
        for (patch, found) in latest {
            let before = if found.finding == Finding::NotAssessed {
                let Some(before) = self.findings.remove(patch) else { continue };
                Some(before)
            } else {
                if !has_room(&self.findings, patch, limits::MANIFESTS_PER_CATALOGUE) {
                    continue;
                }
                self.findings.insert(patch.clone(), *found)
            };
            if before != Some(*found) {
                changes.push(Change::Finding(patch.clone(), before));
            }
        }
        changes
    }

    fn apply_deployment(&mut self, deployment: &Deployment) -> Option<Change> {
        if !has_room(&self.deployments, &deployment.patch, limits::DEPLOYMENTS_PER_DEVICE) {
            return None;
        }
        let before = self.deployments.insert(deployment.patch.clone(), deployment.clone());
        (before.as_ref() != Some(deployment)).then(|| Change::Deployment(deployment.patch.clone(), before))
    }

    fn apply_transfers(&mut self, transfers: &Transfers) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.network != transfers.network {
            changes.push(Change::Network(self.network));
            self.network = transfers.network;
        }
        let latest: BTreeMap<Blake3Root, &Transfer> =
            transfers.contents.iter().map(|transfer| (transfer.root, transfer)).collect();
        for transfer in latest.into_values() {
            if has_room(&self.transfers, &transfer.root, limits::TRANSFERS_PER_DEVICE) {
                let before = self.transfers.insert(transfer.root, transfer.clone());
                if before.as_ref() != Some(transfer) {
                    changes.push(Change::Transfer(transfer.root, before));
                }
            }
        }
        for (peer, bytes) in &transfers.served {
            if has_room(&self.served, peer, limits::TRANSFERS_PER_DEVICE)
                && self.served.insert(*peer, *bytes) != Some(*bytes)
            {
                changes.push(Change::Served(*peer));
            }
        }
        changes
    }

    fn apply_incident(&mut self, incident: &Incident) -> Vec<Change> {
        if !self.incidents.insert(incident.clone()) {
            return Vec::new();
        }
        let mut changes = vec![Change::IncidentAdded(incident.clone())];
        while self.incidents.len() > limits::INCIDENTS_PER_DEVICE {
            changes.extend(self.incidents.pop_first().map(Change::IncidentForgotten));
        }
        changes
    }

    /// The whole state as bodies: applied in order to any earlier state of the same device, they give this one.
    pub(crate) fn to_bodies(&self) -> Vec<Body> {
        let mut bodies: Vec<Body> = self.inventory.iter().cloned().map(Body::Inventory).collect();
        if let Some(time) = self.scanned {
            let findings = self.findings.iter();
            let findings = findings.map(|(patch, found)| FoundPatch { patch: patch.clone(), found: *found });
            bodies.extend(Scan::full(time, findings.collect()).into_iter().map(Body::Scan));
        }
        let deployments: Vec<Deployment> = self.deployments.values().cloned().collect();
        bodies.extend(
            deployments.chunks(limits::DEPLOYMENTS_PER_REPORT).map(|part| Body::Deployments(part.to_vec())),
        );
        bodies.extend(self.transfer_bodies());
        if !self.incidents.is_empty() {
            bodies.push(Body::Incidents(self.incidents.iter().cloned().collect()));
        }
        bodies
    }

    fn transfer_bodies(&self) -> impl Iterator<Item = Body> + '_ {
        let contents: Vec<Transfer> = self.transfers.values().cloned().collect();
        let served: Vec<(DeviceId, u64)> = self.served.iter().map(|(peer, bytes)| (*peer, *bytes)).collect();
        let moved = self.network != NetworkTotals::default() || !contents.is_empty() || !served.is_empty();
        let parts = contents.len().max(served.len()).div_ceil(limits::TRANSFERS_PER_REPORT);
        (0..parts.max(usize::from(moved))).map(move |part| {
            let chunk = |length: usize| {
                let start = (part * limits::TRANSFERS_PER_REPORT).min(length);
                start..(start + limits::TRANSFERS_PER_REPORT).min(length)
            };
            Body::Transfers(Transfers {
                contents: contents[chunk(contents.len())].to_vec(),
                network: self.network,
                served: served[chunk(served.len())].to_vec(),
            })
        })
    }

    /// The stored form of one fact; `None` when there is no such fact (any more).
    pub(crate) fn value(&self, key: &FactKey) -> Option<Vec<u8>> {
        match key {
            FactKey::Scanned => self.scanned.as_ref().map(codec::encode),
            FactKey::Finding(patch) => self.findings.get(patch).map(codec::encode),
            FactKey::Deployment(patch) => self.deployments.get(patch).map(codec::encode),
            FactKey::Transfer(root) => self.transfers.get(root).map(codec::encode),
            FactKey::Network => Some(codec::encode(&self.network)),
            FactKey::Served(peer) => self.served.get(peer).map(codec::encode),
            FactKey::Incident(incident) => self.incidents.get(incident).map(|_| Vec::new()),
            FactKey::Inventory => self.inventory.as_ref().map(codec::encode),
        }
    }

    /// Puts back one fact from its stored form.
    pub(crate) fn restore(&mut self, key: FactKey, value: &[u8]) -> Result<(), DecodeError> {
        const LIMIT: usize = limits::REPORT_BYTES;
        match key {
            FactKey::Scanned => self.scanned = Some(codec::decode::<_, LIMIT>(value)?),
            FactKey::Finding(patch) => {
                self.findings.insert(patch, codec::decode::<_, LIMIT>(value)?);
            }
            FactKey::Deployment(patch) => {
                self.deployments.insert(patch, codec::decode::<_, LIMIT>(value)?);
            }
            FactKey::Transfer(root) => {
                self.transfers.insert(root, codec::decode::<_, LIMIT>(value)?);
            }
            FactKey::Network => self.network = codec::decode::<_, LIMIT>(value)?,
            FactKey::Served(peer) => {
                self.served.insert(peer, codec::decode::<_, LIMIT>(value)?);
            }
            FactKey::Incident(incident) => {
                self.incidents.insert(incident);
            }
            FactKey::Inventory => self.inventory = Some(codec::decode::<_, LIMIT>(value)?),
        }
        Ok(())
    }
}

fn has_room<K: Ord, V>(map: &BTreeMap<K, V>, key: &K, limit: usize) -> bool {
    map.len() < limit || map.contains_key(key)
}
