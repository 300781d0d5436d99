//! Pages of the state: each costs what it shows, whatever the number of devices; the count of silent devices costs as many as
//! there are.

use super::counts::ContentKey;
use super::device::Device;
use super::rows::{
    ContentRow, DeploymentCursor, DeploymentQuery, DeploymentRow, DeviceCursor, DeviceQuery, DeviceRow,
    FindingCursor, FindingQuery, FindingRow, IncidentRow, Page, PatchRow, Summary,
};
use super::{STALE_SECONDS, State};
use crate::deploy;
use crate::identifier::{DeviceId, HostName, PatchId};
use crate::limits;
use crate::manifest::Severity;
use crate::report::{Deployment, Found, Incident};
use crate::scan::Finding;
use crate::time::WallTime;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Bound;

/// Entries that a filtered page looks at for each row it may show: past that it ends early and says where to go on.
const EXAMINED_PER_ROW: usize = 20;

/// The stable code of a state of deployment.
pub const fn state_code(state: deploy::State) -> &'static str {
    use deploy::{State, WaitFor};
    match state {
        State::Planned => "planned",
        State::Fetching => "fetching",
        State::Verified => "verified",
        State::Waiting(WaitFor::Window) => "waiting-for-window",
        State::Waiting(WaitFor::User) => "waiting-for-user",
        State::Waiting(WaitFor::Reboot) => "waiting-for-reboot",
        State::Waiting(WaitFor::Requirement) => "waiting-for-requirement",
        State::Waiting(WaitFor::Lock) => "waiting-for-lock",
        State::Waiting(WaitFor::Disk) => "waiting-for-disk",
        State::Waiting(WaitFor::Application) => "waiting-for-application",
        State::Installing => "installing",
        State::PendingReboot => "pending-reboot",
        State::Rescanning => "rescanning",
        State::Installed => "installed",
        State::Failed => "failed",
        State::GivenUp => "given-up",
        State::Held => "held",
        State::Excluded => "excluded",
        State::Superseded => "superseded",
    }
}

/// Takes rows until the page is full or enough was looked at; `place` names the place of an entry.
fn fill<Entry, Row>(
    entries: impl Iterator<Item = Entry>,
    limit: usize,
    place: impl Fn(&Entry) -> String,
    mut row: impl FnMut(&Entry) -> Option<Row>,
) -> Page<Row> {
    let limit = limit.clamp(1, limits::PAGE_ROWS);
    let mut entries = entries.peekable();
    let mut rows = Vec::new();
    let mut examined = 0;
    while let Some(entry) = entries.next() {
        examined += 1;
        rows.extend(row(&entry));
        if (rows.len() == limit || examined == limit * EXAMINED_PER_ROW) && entries.peek().is_some() {
            return Page { rows, next: Some(place(&entry)) };
        }
        if rows.len() == limit {
            break;
        }
    }
    Page { rows, next: None }
}

fn after<T>(cursor: Option<T>) -> (Bound<T>, Bound<T>) {
    (cursor.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

fn before<T>(cursor: Option<T>) -> (Bound<T>, Bound<T>) {
    (Bound::Unbounded, cursor.map_or(Bound::Unbounded, Bound::Excluded))
}

fn is_stale(device: &Device, now: WallTime) -> bool {
    now.seconds_since(device.seen) > STALE_SECONDS
}

impl State {
    /// The fleet at a glance.
    pub fn summary(&self, now: WallTime) -> Summary {
        Summary {
            fleet: self.counts.fleet,
            stale: self.stale_ids(now).count(),
            patches: self.listings.len(),
            approved: self.approved,
            epoch: self.epoch,
        }
    }

    fn stale_ids(&self, now: WallTime) -> impl Iterator<Item = DeviceId> + '_ {
        let stale = self.index.seen.iter();
        stale.take_while(move |(seen, _)| now.seconds_since(*seen) > STALE_SECONDS).map(|(_, device)| *device)
    }

    /// Devices without a sign of life for [`STALE_SECONDS`], those of whom nothing was heard for longest first.
    pub fn stale_devices(&self, limit: usize, now: WallTime) -> Vec<DeviceRow> {
        let rows = self.stale_ids(now).take(limit.min(limits::PAGE_ROWS));
        rows.filter_map(|device| self.device_row(device, now)).collect()
    }

    /// Devices in order of their host names.
    pub fn devices_page(&self, query: &DeviceQuery, now: WallTime) -> Page<DeviceRow> {
        let from = query.after.clone().map(|DeviceCursor(host, device)| (host, device));
        let place = |(host, device): &&(HostName, DeviceId)| DeviceCursor(host.clone(), *device).to_string();
        fill(self.index.hosts.range(after(from)), query.limit, place, |(_, device)| {
            let row = self.device_row(*device, now)?;
            let fits = query.site.as_ref().is_none_or(|site| row.site == *site)
                && query.compliance.is_none_or(|compliance| row.compliance == compliance);
            fits.then_some(row)
        })
    }

    /// One device as a row.
    pub fn device_row(&self, id: DeviceId, now: WallTime) -> Option<DeviceRow> {
        let device = self.devices.get(&id)?;
        Some(DeviceRow {
            device: id,
            host: device.host().clone(),
            site: device.member.site.clone(),
            class: device.member.class,
            system: device.system().to_string(),
            version: device.facts.inventory().map(|inventory| inventory.version.to_string()),
            compliance: device.compliance(),
            missing: device.sums.missing,
            failed: device.sums.failed,
            scanned: device.facts.scanned(),
            reported: device.reported,
            seen: device.seen,
            stale: is_stale(device, now),
            clock_ahead_seconds: device.ahead_seconds,
            reports_dropped: device.dropped,
            sequence: device.position().map_or(0, |(_, sequence)| sequence),
        })
    }

    /// Patches in order of their names: what the catalogues list and what devices assessed.
    pub fn patches_page(&self, from: Option<&PatchId>, limit: usize) -> Page<PatchRow> {
        let limit = limit.clamp(1, limits::PAGE_ROWS);
        let range = after(from.cloned());
        let listed = self.listings.range(range.clone()).map(|(patch, _)| patch).take(limit + 1);
        let counted = self.counts.patches.range(range).map(|(patch, _)| patch).take(limit + 1);
        let both: BTreeSet<&PatchId> = listed.chain(counted).collect();
        fill(both.into_iter(), limit, |patch| patch.to_string(), |patch| Some(self.patch_row(patch)))
    }

    /// Patches that devices miss: approved ones first, then by the number of devices.
    pub fn most_missing(&self, limit: usize) -> Vec<PatchRow> {
        let ranking = self.index.ranking.iter().take(limit.min(limits::PAGE_ROWS));
        ranking.map(|(_, patch)| self.patch_row(patch)).collect()
    }

    fn patch_row(&self, patch: &PatchId) -> PatchRow {
        let listing = self.listings.get(patch);
        let tally = self.counts.tally(patch);
        PatchRow {
            patch: patch.clone(),
            title: listing.map(|listing| listing.title.clone()).unwrap_or_default(),
            severity: listing.map_or(Severity::Unknown, |listing| listing.severity),
            listed: listing.is_some(),
            approved: listing.is_some_and(|listing| listing.approved),
            held: listing.is_some_and(|listing| listing.held),
            size: listing.map_or(0, |listing| listing.size),
            tally,
            not_assessed: tally.not_assessed(self.counts.fleet.devices),
        }
    }

    /// Findings in order of devices and patches. Patches that a device did not assess are not listed.
    pub fn findings_page(&self, query: &FindingQuery) -> Page<FindingRow> {
        let place =
            |(device, patch): &(DeviceId, &PatchId)| FindingCursor(*device, (*patch).clone()).to_string();
        let row = |(device, patch): &(DeviceId, &PatchId)| self.finding_row(*device, patch, query);
        let start = query.after.as_ref();
        match (&query.patch, query.device) {
            (Some(patch), None) if query.finding == Some(Finding::Missing) => {
                let low = (patch.clone(), DeviceId::from_bytes([0; 32]));
                let low =
                    start.map_or(Bound::Included(low), |cursor| Bound::Excluded((patch.clone(), cursor.0)));
                let high = Bound::Included((patch.clone(), DeviceId::from_bytes([255; 32])));
                let entries = self.index.missing.range((low, high));
                fill(entries.map(|(patch, device)| (*device, patch)), query.limit, place, row)
            }
            (Some(patch), None) => {
                let devices = self.devices.range(after(start.map(|cursor| cursor.0)));
                fill(devices.map(|(device, _)| (*device, patch)), query.limit, place, row)
            }
            (_, Some(id)) => {
                let facts = self.devices.get(&id).map(Device::facts);
                let range = after(start.map(|cursor| cursor.1.clone()));
                let entries = facts.into_iter().flat_map(|facts| facts.findings().range(range.clone()));
                fill(entries.map(|(patch, _)| (id, patch)), query.limit, place, row)
            }
            (None, None) => {
                let low = start.map_or(Bound::Unbounded, |cursor| Bound::Included(cursor.0));
                let devices = self.devices.range((low, Bound::Unbounded));
                let entries = devices.flat_map(|(id, device)| {
                    let here = start.filter(|cursor| cursor.0 == *id).map(|cursor| cursor.1.clone());
                    device.facts.findings().range(after(here)).map(|(patch, _)| (*id, patch))
                });
                fill(entries, query.limit, place, row)
            }
        }
    }

    fn finding_row(&self, id: DeviceId, patch: &PatchId, query: &FindingQuery) -> Option<FindingRow> {
        let device = self.devices.get(&id)?;
        let Found { finding, since, .. } = *device.facts.findings().get(patch)?;
        let fits = query.finding.is_none_or(|wanted| wanted == finding)
            && query.patch.as_ref().is_none_or(|wanted| wanted == patch);
        fits.then(|| FindingRow {
            device: id,
            host: device.host().clone(),
            site: device.member.site.clone(),
            patch: patch.clone(),
            finding,
            since,
            approved: self.is_due(patch),
        })
    }

    /// Deployments, the latest first: of the fleet as they stand, of one device with its history.
    pub fn deployments_page(&self, query: &DeploymentQuery) -> Page<DeploymentRow> {
        let place = |entry: &(DeviceId, &Deployment)| {
            DeploymentCursor(entry.1.time, entry.0, entry.1.patch.clone()).to_string()
        };
        let row = |entry: &(DeviceId, &Deployment)| self.deployment_row(entry.0, entry.1, query.failed);
        if let Some(id) = query.device {
            // A history is short and always shown whole.
            let entries = self.devices.get(&id).map(Device::history).into_iter().flatten().rev();
            return fill(entries.map(|entry| (id, entry)), limits::HISTORY_PER_DEVICE * 2, place, row);
        }
        let index = if query.failed { &self.index.failures } else { &self.index.deployments };
        let range = before(query.after.clone().map(|DeploymentCursor(time, id, patch)| (time, id, patch)));
        let entries = index.range(range).rev().filter_map(|(_, id, patch)| {
            let deployment = self.devices.get(id)?.facts.deployments().get(patch)?;
            Some((*id, deployment))
        });
        fill(entries, query.limit, place, row)
    }

    fn deployment_row(&self, id: DeviceId, entry: &Deployment, failed: bool) -> Option<DeploymentRow> {
        let device = self.devices.get(&id)?;
        let is_failure = super::is_failure(entry);
        (is_failure || !failed).then(|| DeploymentRow {
            time: entry.time,
            device: id,
            host: device.host().clone(),
            site: device.member.site.clone(),
            patch: entry.patch.clone(),
            state: state_code(entry.state),
            failed: is_failure,
            reason: entry.reason,
            needs: entry.reason.map(|reason| deploy::explain(entry.state, reason)),
            attempts: entry.attempts,
            exit_code: entry.exit_code,
            detail: entry.detail.to_string(),
        })
    }

    /// Incidents, the latest first.
    pub fn latest_incidents(&self, limit: usize) -> Vec<IncidentRow> {
        let latest = self.index.incidents.iter().rev().take(limit.min(limits::PAGE_ROWS));
        let row = |(_, id, incident): &(WallTime, DeviceId, Incident)| {
            let device = self.devices.get(id)?;
            Some(IncidentRow {
                device: *id,
                host: device.host().clone(),
                site: device.member.site.clone(),
                incident: incident.clone(),
            })
        };
        latest.filter_map(row).collect()
    }

    /// How contents reached the sites, those first of which most bytes came.
    pub fn contents(&self, limit: usize) -> Vec<ContentRow> {
        let entries = self.counts.largest.iter().take(limit.min(limits::PAGE_ROWS));
        let row = |(_, content): &(Reverse<u64>, ContentKey)| {
            let totals = self.counts.contents.get(content)?;
            let (root, size, kind, site) = content;
            let short = || format!("{}…", &root.to_string()[..12]);
            Some(ContentRow {
                name: self.names.get(root).cloned().unwrap_or_else(short),
                kind: *kind,
                site: site.clone(),
                size: *size,
                devices: totals.devices,
                wan: totals.wan,
                lan: totals.lan,
                amplification_per_mille: totals.wan.saturating_mul(1_000).checked_div(*size),
            })
        };
        entries.filter_map(row).collect()
    }
}
