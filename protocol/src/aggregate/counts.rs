//! Sums over the fleet: by patch, by site, by content. Each report changes them; a recount must give the same.

use super::device::{Compliance, Device};
use super::{Listing, is_failure};
use crate::digest::Blake3Root;
use crate::identifier::{PatchId, SiteName};
use crate::report::{ContentKind, Facts, Found, NetworkTotals, Source, Transfer};
use crate::scan::Finding;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// How many devices have which finding for one patch. The others did not assess it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Devices that miss it.
    pub missing: u64,
    /// Devices that have it.
    pub installed: u64,
    /// Devices that it is not for.
    pub not_applicable: u64,
}

impl Tally {
    /// Devices, of `devices`, that did not assess the patch.
    pub fn not_assessed(&self, devices: u64) -> u64 {
        devices.saturating_sub(self.missing + self.installed + self.not_applicable)
    }

    fn field(&mut self, finding: Finding) -> Option<&mut u64> {
        match finding {
            Finding::NotAssessed => None,
            Finding::NotApplicable => Some(&mut self.not_applicable),
            Finding::Missing => Some(&mut self.missing),
            Finding::Installed => Some(&mut self.installed),
        }
    }
}

/// Bytes by origin. A device can claim any number, so sums wrap: what was added can always be taken out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Bytes {
    /// Artifacts, over the WAN.
    pub artifact_wan: u64,
    /// Artifacts, from peers.
    pub artifact_lan: u64,
    /// Evidence, over the WAN.
    pub evidence_wan: u64,
    /// Evidence, from peers.
    pub evidence_lan: u64,
    /// Contents served to peers.
    pub served: u64,
    /// Signed metadata, from headquarters.
    pub metadata_wan: u64,
    /// Signed metadata, from peers.
    pub metadata_lan: u64,
    /// Everything received over the WAN, overhead included.
    pub wan_in: u64,
    /// Everything sent over the WAN, overhead included.
    pub wan_out: u64,
}

impl Bytes {
    fn pairs(&mut self, other: &Bytes, join: fn(u64, u64) -> u64) {
        let pairs = [
            (&mut self.artifact_wan, other.artifact_wan),
            (&mut self.artifact_lan, other.artifact_lan),
            (&mut self.evidence_wan, other.evidence_wan),
            (&mut self.evidence_lan, other.evidence_lan),
            (&mut self.served, other.served),
            (&mut self.metadata_wan, other.metadata_wan),
            (&mut self.metadata_lan, other.metadata_lan),
            (&mut self.wan_in, other.wan_in),
            (&mut self.wan_out, other.wan_out),
        ];
        for (mine, theirs) in pairs {
            *mine = join(*mine, theirs);
        }
    }

    pub(super) fn add(&mut self, other: &Bytes) {
        self.pairs(other, u64::wrapping_add);
    }

    pub(super) fn subtract(&mut self, other: &Bytes) {
        self.pairs(other, u64::wrapping_sub);
    }

    pub(super) fn of_transfer(transfer: &Transfer) -> Bytes {
        let (wan, lan) = (transfer.from(Source::Wan), transfer.from(Source::Lan));
        let served = transfer.served;
        match transfer.kind {
            ContentKind::Artifact => {
                Bytes { artifact_wan: wan, artifact_lan: lan, served, ..Bytes::default() }
            }
            ContentKind::Evidence => {
                Bytes { evidence_wan: wan, evidence_lan: lan, served, ..Bytes::default() }
            }
        }
    }

    pub(super) fn of_network(network: &NetworkTotals) -> Bytes {
        Bytes {
            metadata_wan: network.metadata_wan,
            metadata_lan: network.metadata_lan,
            wan_in: network.wan_in,
            wan_out: network.wan_out,
            ..Bytes::default()
        }
    }
}

/// Where a number of devices stands: one device, a site, or the fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Devices.
    pub devices: u64,
    /// Devices that scanned at least once.
    pub assessed: u64,
    /// Devices that scanned and miss no approved patch.
    pub compliant: u64,
    /// Findings: approved patches that are missing.
    pub missing: u64,
    /// Deployments that failed.
    pub failed: u64,
    /// Bytes.
    pub bytes: Bytes,
}

impl Standing {
    /// The standing of one device.
    pub(super) fn of(facts: &Facts, sums: &Sums) -> Standing {
        let compliance = sums.compliance(facts);
        Standing {
            devices: 1,
            assessed: u64::from(compliance != Compliance::NotAssessed),
            compliant: u64::from(compliance == Compliance::Compliant),
            missing: sums.missing,
            failed: sums.failed,
            bytes: sums.bytes,
        }
    }

    fn fields(&mut self, other: &Standing, join: fn(u64, u64) -> u64) {
        let pairs = [
            (&mut self.devices, other.devices),
            (&mut self.assessed, other.assessed),
            (&mut self.compliant, other.compliant),
            (&mut self.missing, other.missing),
            (&mut self.failed, other.failed),
        ];
        for (mine, theirs) in pairs {
            *mine = join(*mine, theirs);
        }
    }

    fn add(&mut self, other: &Standing) {
        self.fields(other, u64::wrapping_add);
        self.bytes.add(&other.bytes);
    }

    fn subtract(&mut self, other: &Standing) {
        self.fields(other, u64::wrapping_sub);
        self.bytes.subtract(&other.bytes);
    }

    /// Share of compliant devices in thousandths; `None` without devices.
    pub fn compliant_per_mille(&self) -> Option<u64> {
        (self.devices > 0).then(|| self.compliant * 1_000 / self.devices)
    }
}

/// Bytes of one content at one site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentTotals {
    /// Devices that report about it.
    pub devices: u64,
    /// Bytes over the WAN.
    pub wan: u64,
    /// Bytes from peers.
    pub lan: u64,
}

impl ContentTotals {
    fn bytes(&self) -> u64 {
        self.wan.saturating_add(self.lan)
    }
}

/// A content at a site; the size in bytes is part of its name, since devices state it.
pub(super) type ContentKey = (Blake3Root, u64, ContentKind, SiteName);

/// What is summed up of one device, kept beside its facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Approved patches that are missing.
    pub missing: u64,
    /// Deployments that failed.
    pub failed: u64,
    /// Bytes.
    pub bytes: Bytes,
}

impl Sums {
    pub(super) fn of(facts: &Facts, listings: &BTreeMap<PatchId, Listing>) -> Sums {
        let due = |patch: &PatchId| listings.get(patch).is_some_and(Listing::is_due);
        let missing = facts.findings().iter().filter(|(patch, found)| counts_as_missing(found) && due(patch));
        let mut bytes = Bytes::of_network(&facts.network());
        for transfer in facts.transfers().values() {
            bytes.add(&Bytes::of_transfer(transfer));
        }
        let failed = facts.deployments().values().filter(|deployment| is_failure(deployment));
        Sums { missing: missing.count() as u64, failed: failed.count() as u64, bytes }
    }

    pub(super) fn compliance(&self, facts: &Facts) -> Compliance {
        match (facts.scanned(), self.missing) {
            (None, _) => Compliance::NotAssessed,
            (Some(_), 0) => Compliance::Compliant,
            (Some(_), _) => Compliance::Behind,
        }
    }
}

pub(super) fn counts_as_missing(found: &Found) -> bool {
    found.finding == Finding::Missing
}

/// All sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The whole fleet.
    pub fleet: Standing,
    /// Each site that has devices.
    pub sites: BTreeMap<SiteName, Standing>,
    /// Each patch that somebody assessed.
    pub patches: BTreeMap<PatchId, Tally>,
    /// Each content that somebody fetched, by site; the size in bytes is part of its name, since devices state it.
    pub contents: BTreeMap<(Blake3Root, u64, ContentKind, SiteName), ContentTotals>,
    /// The same in order of the bytes that came, most first.
    pub(super) largest: BTreeSet<(Reverse<u64>, ContentKey)>,
}

impl Counts {
    /// The tally of a patch; zeroes when nobody assessed it.
    pub fn tally(&self, patch: &PatchId) -> Tally {
        self.patches.get(patch).copied().unwrap_or_default()
    }

    /// Adds a device, summed up anew from its facts.
    pub(super) fn include(&mut self, device: &Device, listings: &BTreeMap<PatchId, Listing>) {
        let standing = Standing::of(&device.facts, &Sums::of(&device.facts, listings));
        self.replace_standing(&device.member.site, &Standing::default(), &standing);
        for (patch, found) in device.facts.findings() {
            self.change_finding(patch, None, Some(found));
        }
        for transfer in device.facts.transfers().values() {
            self.change_transfer(&device.member.site, None, Some(transfer));
        }
    }

    /// Takes out a device as it was added and changed since.
    pub(super) fn exclude(&mut self, device: &Device) {
        let standing = Standing::of(&device.facts, &device.sums);
        self.replace_standing(&device.member.site, &standing, &Standing::default());
        for (patch, found) in device.facts.findings() {
            self.change_finding(patch, Some(found), None);
        }
        for transfer in device.facts.transfers().values() {
            self.change_transfer(&device.member.site, Some(transfer), None);
        }
    }

    pub(super) fn replace_standing(&mut self, site: &SiteName, before: &Standing, after: &Standing) {
        let of_site = self.sites.entry(site.clone()).or_default();
        for standing in [&mut self.fleet, of_site] {
            standing.subtract(before);
            standing.add(after);
        }
        if self.sites.get(site).is_some_and(|standing| standing.devices == 0) {
            self.sites.remove(site);
        }
    }

    pub(super) fn change_finding(&mut self, patch: &PatchId, before: Option<&Found>, after: Option<&Found>) {
        let tally = self.patches.entry(patch.clone()).or_default();
        if let Some(field) = before.and_then(|found| tally.field(found.finding)) {
            *field -= 1;
        }
        if let Some(field) = after.and_then(|found| tally.field(found.finding)) {
            *field += 1;
        }
        if *tally == Tally::default() {
            self.patches.remove(patch);
        }
    }

    pub(super) fn change_transfer(
        &mut self,
        site: &SiteName,
        before: Option<&Transfer>,
        after: Option<&Transfer>,
    ) {
        let name = |transfer: &Transfer| (transfer.root, transfer.size, transfer.kind);
        // Most reports say more of the same content, which then changes its place once.
        match (before, after) {
            (Some(before), Some(after)) if name(before) != name(after) => {
                self.change_content(site, Some(before), None);
                self.change_content(site, None, Some(after));
            }
            (before, after) => self.change_content(site, before, after),
        }
    }

    /// Takes away what `before` says of a content at a site and adds what `after` says of the same one.
    fn change_content(&mut self, site: &SiteName, before: Option<&Transfer>, after: Option<&Transfer>) {
        let Some(transfer) = after.or(before) else { return };
        let key = (transfer.root, transfer.size, transfer.kind, site.clone());
        let mut totals = self.contents.remove(&key).unwrap_or_default();
        self.largest.remove(&(Reverse(totals.bytes()), key.clone()));
        if let Some(transfer) = after {
            totals.devices += 1;
            totals.wan = totals.wan.wrapping_add(transfer.from(Source::Wan));
            totals.lan = totals.lan.wrapping_add(transfer.from(Source::Lan));
        }
        if let Some(transfer) = before {
            totals.devices = totals.devices.saturating_sub(1);
            totals.wan = totals.wan.wrapping_sub(transfer.from(Source::Wan));
            totals.lan = totals.lan.wrapping_sub(transfer.from(Source::Lan));
        }
        if totals.devices > 0 {
            self.largest.insert((Reverse(totals.bytes()), key.clone()));
            self.contents.insert(key, totals);
        }
    }
}
