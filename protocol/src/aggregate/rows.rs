//! Rows of the pages, the places between them, and what can be asked for.

use super::counts::{Standing, Tally};
use super::device::Compliance;
use crate::identifier::{DeviceId, HostName, PatchId, SiteName};
use crate::manifest::Severity;
use crate::membership::Class;
use crate::reason::Reason;
use crate::report::{ContentKind, Incident};
use crate::scan::Finding;
use crate::time::WallTime;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// Some rows and where to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page<Row> {
    /// The rows; with a filter there can be fewer than asked for although more follow.
    pub rows: Vec<Row>,
    /// Give this as `after` to go on; `None` at the end.
    pub next: Option<String>,
}

/// Text that is not a place in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`after` is not a place in this listing; take it from `next` of the page before")]
pub struct NotACursor;

/// A place in the list of devices, which is in order of host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCursor(pub(super) HostName, pub(super) DeviceId);

/// A place in the list of findings, which is in order of devices and patches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingCursor(pub(super) DeviceId, pub(super) PatchId);

/// A place in the list of deployments, which begins with the latest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentCursor(pub(super) WallTime, pub(super) DeviceId, pub(super) PatchId);

macro_rules! cursor {
    ($name:ident, $format:literal, $($field:tt),+) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, $(self.$field),+)
            }
        }

        impl FromStr for $name {
            type Err = NotACursor;
            fn from_str(text: &str) -> Result<Self, NotACursor> {
                // Host names, identifiers and times hold no tilde; patches may, and stand last.
                let mut parts = text.splitn([$($field),+].len(), '~');
                let cursor = $name($({
                    let _ = $field;
                    parts.next().and_then(Part::read).ok_or(NotACursor)?
                }),+);
                Ok(cursor)
            }
        }
    };
}

trait Part: Sized {
    fn read(text: &str) -> Option<Self>;
}

impl Part for HostName {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Part for DeviceId {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Part for PatchId {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Part for WallTime {
    fn read(text: &str) -> Option<Self> {
        WallTime::parse(text).ok()
    }
}

cursor!(DeviceCursor, "{}~{}", 0, 1);
cursor!(FindingCursor, "{}~{}", 0, 1);
cursor!(DeploymentCursor, "{}~{}~{}", 0, 1, 2);

/// Which devices a page shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceQuery {
    /// Go on after this one.
    pub after: Option<DeviceCursor>,
    /// Most rows, up to [`crate::limits::PAGE_ROWS`].
    pub limit: usize,
    /// Only of this site.
    pub site: Option<SiteName>,
    /// Only of this standing.
    pub compliance: Option<Compliance>,
}

/// Which findings a page shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FindingQuery {
    /// Go on after this one.
    pub after: Option<FindingCursor>,
    /// Most rows, up to [`crate::limits::PAGE_ROWS`].
    pub limit: usize,
    /// Only of this device.
    pub device: Option<DeviceId>,
    /// Only of this patch.
    pub patch: Option<PatchId>,
    /// Only this finding.
    pub finding: Option<Finding>,
}

/// Which deployments a page shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentQuery {
    /// Go on after this one.
    pub after: Option<DeploymentCursor>,
    /// Most rows, up to [`crate::limits::PAGE_ROWS`].
    pub limit: usize,
    /// The history of this device, overtaken deployments included.
    pub device: Option<DeviceId>,
    /// Only those that failed.
    pub failed: bool,
}

/// The fleet at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The whole fleet.
    pub fleet: Standing,
    /// Devices without a sign of life.
    pub stale: usize,
    /// Patches in the signed catalogues.
    pub patches: usize,
    /// Those that policy approves and nobody holds.
    pub approved: usize,
    /// Random number of the store.
    pub epoch: u64,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceRow {
    /// Identity.
    pub device: DeviceId,
    /// Host name.
    pub host: HostName,
    /// Home site.
    pub site: SiteName,
    /// Class.
    pub class: Class,
    /// Operating system.
    pub system: String,
    /// Version of patchmesh, where the device said it.
    pub version: Option<String>,
    /// Whether it has every approved patch.
    pub compliance: Compliance,
    /// Approved patches that are missing.
    pub missing: u64,
    /// Deployments that failed.
    pub failed: u64,
    /// Last scan, by the device's clock.
    pub scanned: Option<WallTime>,
    /// Last report, by the aggregator's clock.
    pub reported: Option<WallTime>,
    /// Last sign of life, by the aggregator's clock.
    pub seen: WallTime,
    /// Whether that is too long ago.
    pub stale: bool,
    /// Seconds that its clock is ahead, where that is too much.
    pub clock_ahead_seconds: u64,
    /// Reports that were replaced by a summary because they could not be delivered for too long.
    pub reports_dropped: u64,
    /// Number of its last report.
    pub sequence: u64,
}

/// One patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PatchRow {
    /// Name.
    pub patch: PatchId,
    /// One line for people; empty when no signed catalogue lists it (any more).
    pub title: String,
    /// The vendor's severity.
    pub severity: Severity,
    /// Whether a signed catalogue lists it.
    pub listed: bool,
    /// Whether policy approves it.
    pub approved: bool,
    /// Whether it is held.
    pub held: bool,
    /// Bytes of its artifacts.
    pub size: u64,
    /// Devices by finding.
    pub tally: Tally,
    /// Devices that did not assess it.
    pub not_assessed: u64,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FindingRow {
    /// The device.
    pub device: DeviceId,
    /// Its host name.
    pub host: HostName,
    /// Its home site.
    pub site: SiteName,
    /// The patch.
    pub patch: PatchId,
    /// What was found.
    pub finding: Finding,
    /// Since when, by the device's clock.
    pub since: WallTime,
    /// Whether policy wants the patch.
    pub approved: bool,
}

/// One deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeploymentRow {
    /// When the state was entered, by the device's clock.
    pub time: WallTime,
    /// The device.
    pub device: DeviceId,
    /// Its host name.
    pub host: HostName,
    /// Its home site.
    pub site: SiteName,
    /// The patch.
    pub patch: PatchId,
    /// The state, as a stable code.
    pub state: &'static str,
    /// Whether it needs somebody.
    pub failed: bool,
    /// Why.
    pub reason: Option<Reason>,
    /// The reason as a sentence, with what the device needs.
    pub needs: Option<&'static str>,
    /// Installers started.
    pub attempts: u32,
    /// Exit code of the last one.
    pub exit_code: Option<i32>,
    /// What the installer said last.
    pub detail: String,
}

/// One incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IncidentRow {
    /// The device that noticed it.
    pub device: DeviceId,
    /// Its host name.
    pub host: HostName,
    /// Its home site.
    pub site: SiteName,
    /// What happened.
    pub incident: Incident,
}

/// How one content reached one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContentRow {
    /// File name, or the beginning of its root when no signed catalogue lists it.
    pub name: String,
    /// What it is for.
    pub kind: ContentKind,
    /// The site.
    pub site: SiteName,
    /// Size in bytes.
    pub size: u64,
    /// Devices that report about it.
    pub devices: u64,
    /// Bytes over the WAN.
    pub wan: u64,
    /// Bytes from peers.
    pub lan: u64,
    /// WAN amplification in thousandths; `None` for an empty content.
    pub amplification_per_mille: Option<u64>,
}
