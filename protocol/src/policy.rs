//! Policy: signed rules of what is approved, for whom, and who deploys; the built-in default only scans (N4).

pub mod caps;
pub mod deadline;
mod inconsistent;
pub mod mirror;

use crate::fleet::parse_toml;
use crate::identifier::{DeviceId, ManifestDigest, PatchId, RuleName, SiteName};
use crate::limits;
use crate::manifest::Severity;
use crate::membership::{Class, Member};
use crate::time::WallTime;
use caps::{Caps, Passing};
use deadline::Deadline;
pub use inconsistent::Inconsistent;
use mirror::Mirror;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Target path of the fleet layer, signed by `policy`.
pub const FLEET_LAYER_PATH: &str = "policy/fleet.toml";
/// Target path of [`Holds`], signed by `hold`.
pub const HOLDS_PATH: &str = "hold/holds.toml";

/// One layer of policy: the target `policy/<layer>.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Layer {
    /// Days that accepted metadata stays in force when nothing newer can be had; unset: 30.
    pub offline_days: Option<u32>,
    /// Policies.
    #[serde(default, rename = "policy")]
    pub policies: Vec<Policy>,
    /// Configurations.
    #[serde(default, rename = "configuration")]
    pub configurations: Vec<Configuration>,
    /// Approved patches.
    #[serde(default, rename = "approval")]
    pub approvals: Vec<Approval>,
    /// Holds that count no more. The hold's own role cannot release it.
    #[serde(default, rename = "release")]
    pub releases: Vec<Release>,
}

/// Rules for the devices that they are assigned to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Policy {
    /// Name.
    pub name: RuleName,
    /// Whether it is in force at all.
    pub enabled: bool,
    /// The deploy capability: without it the devices only scan and share.
    #[serde(default)]
    pub deploy: bool,
    /// Names of the configurations associated with it.
    #[serde(default)]
    pub configurations: Vec<RuleName>,
    /// Peer download; off means: no content and no metadata from or to peers (N7). Unset: on.
    pub peer_download: Option<bool>,
    /// Most WAN fetchers of a site at the same time; unset: 4.
    pub wan_fetchers: Option<u8>,
    /// Minutes between scans; unset: 240.
    pub scan_minutes: Option<u32>,
    /// Days from the approval of a patch to its deadline, 0 to 14; unset: 14 for critical patches, none for others.
    pub deadline_days: Option<u32>,
    /// Where devices read what no neighbour has while they reach no seed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// How fast pieces may pass, and when.
    #[serde(default, skip_serializing_if = "Caps::is_unset")]
    pub caps: Caps,
    /// The devices it applies to.
    pub assign: Assignment,
}

/// Which devices a policy is assigned to: all that match one of the lists, or everyone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Assignment {
    /// Every device of the fleet.
    #[serde(default)]
    pub everyone: bool,
    /// Devices whose home site is one of these.
    #[serde(default)]
    pub sites: Vec<SiteName>,
    /// Devices of one of these classes.
    #[serde(default)]
    pub classes: Vec<Class>,
    /// These devices.
    #[serde(default)]
    pub devices: Vec<DeviceId>,
}

impl Assignment {
    /// Whether the policy is assigned to `member`.
    pub fn includes(&self, member: &Member) -> bool {
        self.everyone
            || self.sites.contains(&member.site)
            || self.classes.contains(&member.class)
            || self.devices.contains(&member.device)
    }

    /// Whether the policy is about the whole of a site.
    pub fn includes_site(&self, site: &SiteName) -> bool {
        self.everyone || self.sites.contains(site)
    }
}

/// What, when and how to deploy; inert until a policy is associated with it (N6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Configuration {
    /// Name.
    pub name: RuleName,
    /// Whether it installs what it finds missing and approved.
    pub deploy: bool,
}

/// An approval by name: it binds the manifest's digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Approval {
    /// The patch.
    pub patch: PatchId,
    /// The manifest that was looked at when it was approved.
    pub manifest: ManifestDigest,
    /// When.
    pub approved: WallTime,
}

/// The end of a hold, by its identifier; a later hold on the same patch has another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Release {
    /// Identifier of the hold.
    pub hold: RuleName,
    /// When.
    pub released: WallTime,
}

/// `hold/holds.toml`: patches that must not be installed or shared. Entries accumulate; `policy` releases them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holds {
    /// The holds.
    #[serde(default, rename = "hold")]
    pub holds: Vec<Hold>,
}

/// One hold. Always wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Identifier by which `policy` releases it.
    pub id: RuleName,
    /// The patch.
    pub patch: PatchId,
    /// Why, for people.
    pub reason: String,
}

/// Why a device does not deploy: which of the conditions of N5 is not met.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error,
)]
#[serde(rename_all = "kebab-case")]
pub enum NoDeployment {
    /// No policy is assigned to the device: the built-in default only scans.
    #[error("no policy is assigned to this device; the built-in default only scans")]
    NotAssigned,
    /// Assigned, and not enabled.
    #[error("the policy that is assigned to this device is not enabled")]
    PolicyDisabled,
    /// Enabled, without the deploy capability.
    #[error("the policy of this device has no deploy capability")]
    NoCapability,
    /// No configuration is associated with it.
    #[error("no configuration is associated with the policy of this device")]
    NoConfiguration,
    /// The associated configurations do not deploy.
    #[error("the configuration that is associated with the policy of this device does not deploy")]
    ConfigurationInert,
}

impl Layer {
    /// Reads a layer and checks it as `policy check` does.
    ///
    /// # Errors
    /// [`Inconsistent`] with the first rule that fails.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Layer, Inconsistent> {
        let layer: Layer = parse_toml(path, bytes)?;
        layer.check()?;
        Ok(layer)
    }

    /// What whoever writes a layer is told on top of that. Nodes do not refuse it: one that has such a layer already goes on with
    /// the nearest value.
    ///
    /// # Errors
    /// [`Inconsistent`].
    pub fn check_written(&self) -> Result<(), Inconsistent> {
        let days = self.offline_days;
        match days.is_none_or(|days| (1..=limits::OFFLINE_DAYS_MOST).contains(&days)) {
            true => Ok(()),
            false => Err(Inconsistent::OfflineDays),
        }
    }

    fn check(&self) -> Result<(), Inconsistent> {
        unique("policy", self.policies.iter().map(|policy| &policy.name))?;
        unique("configuration", self.configurations.iter().map(|configuration| &configuration.name))?;
        for policy in &self.policies {
            let name = || policy.name.clone();
            let missing = policy.configurations.iter().find(|name| self.configuration(name).is_none());
            if let Some(configuration) = missing {
                return Err(Inconsistent::NoSuchConfiguration {
                    policy: name(),
                    configuration: configuration.clone(),
                });
            }
            let ranges = [
                ("wan-fetchers", policy.wan_fetchers.map(u32::from), 1, 16),
                ("scan-minutes", policy.scan_minutes, 5, 10_080),
                ("deadline-days", policy.deadline_days, 0, deadline::DAYS_MOST),
            ];
            for (setting, value, least, most) in ranges {
                if value.is_some_and(|value| !(least..=most).contains(&value)) {
                    return Err(Inconsistent::Range { policy: name(), setting, least, most });
                }
            }
            if policy.mirrors.len() > limits::MIRRORS_READ {
                return Err(Inconsistent::Range {
                    policy: name(),
                    setting: "the number of mirrors",
                    least: 0,
                    most: limits::MIRRORS_READ as u32,
                });
            }
            if policy.mirrors.iter().any(Mirror::has_credentials) {
                return Err(Inconsistent::Credentials { policy: name() });
            }
            let whole = policy.assign.everyone || !policy.assign.sites.is_empty();
            if policy.caps.is_about_the_site() && !whole {
                return Err(Inconsistent::NotOfASite { policy: name() });
            }
        }
        Ok(())
    }

    /// The caps that apply to a site as a whole.
    pub fn caps_of_site<'a>(&'a self, site: &'a SiteName) -> impl Iterator<Item = &'a Caps> {
        let policies =
            self.policies.iter().filter(|policy| policy.enabled && policy.assign.includes_site(site));
        policies.map(|policy| &policy.caps)
    }

    /// The holds that no entry here releases.
    pub fn in_force<'a>(&'a self, holds: &'a Holds) -> impl Iterator<Item = &'a Hold> {
        holds.holds.iter().filter(|hold| self.releases.iter().all(|release| release.hold != hold.id))
    }

    fn configuration(&self, name: &RuleName) -> Option<&Configuration> {
        self.configurations.iter().find(|configuration| configuration.name == *name)
    }
}

fn unique<'a>(kind: &'static str, names: impl Iterator<Item = &'a RuleName>) -> Result<(), Inconsistent> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Inconsistent::Twice { kind, name: name.clone() });
        }
    }
    Ok(())
}

/// The policy of one device: all that is assigned to it, joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Names of the policies that are in force on the device.
    pub policies: Vec<RuleName>,
    /// The configurations that deploy, or why the device does not deploy at all (N5).
    pub deployment: Result<Vec<RuleName>, NoDeployment>,
    /// Whether content and metadata may pass between this device and its peers (N7). A deny: off anywhere wins.
    pub peer_download: bool,
    /// Most WAN fetchers of the site at the same time. A limit: the smallest wins.
    pub wan_fetchers: u8,
    /// Mirrors that the device may read, in the order in which they stand there. A grant: those of all policies.
    pub mirrors: Vec<Mirror>,
    /// Minutes between scans. A limit: the smallest wins.
    pub scan_minutes: u32,
    /// Days from the approval of a patch to its deadline, where a policy says so. A limit: the smallest wins.
    pub deadline_days: Option<u32>,
    /// Days that accepted metadata stays in force when nothing newer can be had.
    pub offline_days: u32,
    /// What passes while the device is on battery. A limit: the most restrictive wins.
    pub on_battery: Passing,
    /// What passes while its link is metered. A limit: the most restrictive wins.
    pub on_metered: Passing,
    /// The caps that apply, each of them. Limits: the most restrictive wins.
    pub caps: Vec<Caps>,
    /// When each manifest was approved; a patch has one for each operating system and architecture.
    approvals: BTreeMap<PatchId, BTreeMap<ManifestDigest, WallTime>>,
    holds: BTreeMap<PatchId, Hold>,
}

impl Default for Effective {
    fn default() -> Effective {
        Effective {
            policies: Vec::new(),
            deployment: Err(NoDeployment::NotAssigned),
            peer_download: true,
            wan_fetchers: 4,
            mirrors: Vec::new(),
            scan_minutes: 240,
            deadline_days: None,
            offline_days: limits::OFFLINE_DAYS,
            on_battery: Passing::Nothing,
            on_metered: Passing::Nothing,
            caps: Vec::new(),
            approvals: BTreeMap::new(),
            holds: BTreeMap::new(),
        }
    }
}

impl Effective {
    /// Joins what `layer` assigns to `member` with the fleet's holds.
    pub fn of(layer: &Layer, holds: &Holds, member: &Member) -> Effective {
        let assigned: Vec<&Policy> =
            layer.policies.iter().filter(|policy| policy.assign.includes(member)).collect();
        let enabled: Vec<&Policy> = assigned.iter().copied().filter(|policy| policy.enabled).collect();
        let default = Effective::default();
        let smallest = |values: Vec<u32>, otherwise: u32| values.into_iter().min().unwrap_or(otherwise);
        let fetchers = enabled.iter().filter_map(|policy| policy.wan_fetchers.map(u32::from)).collect();
        let scans = enabled.iter().filter_map(|policy| policy.scan_minutes).collect();
        let passing = |pick: fn(&Caps) -> Option<Passing>, otherwise| {
            enabled.iter().filter_map(|policy| pick(&policy.caps)).min().unwrap_or(otherwise)
        };
        Effective {
            on_battery: passing(|caps| caps.on_battery, default.on_battery),
            on_metered: passing(|caps| caps.on_metered, default.on_metered),
            caps: enabled.iter().map(|policy| policy.caps.clone()).filter(|caps| !caps.is_unset()).collect(),
            policies: enabled.iter().map(|policy| policy.name.clone()).collect(),
            deployment: deployment(layer, &assigned, &enabled),
            peer_download: enabled.iter().all(|policy| policy.peer_download != Some(false)),
            wan_fetchers: u8::try_from(smallest(fetchers, u32::from(default.wan_fetchers)))
                .unwrap_or(u8::MAX),
            mirrors: mirror::joined(enabled.iter().flat_map(|policy| &policy.mirrors)),
            scan_minutes: smallest(scans, default.scan_minutes),
            deadline_days: enabled.iter().filter_map(|policy| policy.deadline_days).min(),
            offline_days: layer
                .offline_days
                .unwrap_or(default.offline_days)
                .clamp(1, limits::OFFLINE_DAYS_MOST),
            approvals: approvals(layer),
            holds: layer.in_force(holds).map(|hold| (hold.patch.clone(), hold.clone())).collect(),
        }
    }

    /// Whether this very manifest of `patch` is approved for somebody in the fleet.
    pub fn approval(&self, patch: &PatchId, manifest: ManifestDigest) -> Approved {
        match self.approvals.get(patch) {
            Some(approved) if approved.contains_key(&manifest) => Approved::Yes,
            Some(_) => Approved::OtherManifest,
            None => Approved::No,
        }
    }

    /// The deadline of this very manifest of `patch`; none where it is not approved, or has as much time as it needs.
    pub fn deadline(
        &self,
        patch: &PatchId,
        manifest: ManifestDigest,
        severity: Severity,
    ) -> Option<Deadline> {
        let approved = *self.approvals.get(patch)?.get(&manifest)?;
        Some(Deadline { approved, days: deadline::days(self.deadline_days, severity)? })
    }

    /// The hold on `patch`, if there is one.
    pub fn hold(&self, patch: &PatchId) -> Option<&Hold> {
        self.holds.get(patch).filter(|_| !crate::mutant::mutated(crate::mutant::Mutant::ForgetHolds))
    }

    /// The holds, by patch.
    pub fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.holds.values()
    }

    /// Approved patches.
    pub fn approved(&self) -> impl Iterator<Item = &PatchId> {
        self.approvals.keys()
    }
}

/// Whether a manifest is approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approved {
    /// This very manifest.
    Yes,
    /// Another manifest of the same patch was approved: the catalogue changed after the approval, or has the patch for
    /// another system too.
    OtherManifest,
    /// Not approved.
    No,
}

fn approvals(layer: &Layer) -> BTreeMap<PatchId, BTreeMap<ManifestDigest, WallTime>> {
    let mut approvals: BTreeMap<PatchId, BTreeMap<ManifestDigest, WallTime>> = BTreeMap::new();
    for Approval { patch, manifest, approved } in &layer.approvals {
        let first = approvals.entry(patch.clone()).or_default().entry(*manifest).or_insert(*approved);
        *first = (*first).min(*approved);
    }
    approvals
}

fn deployment(
    layer: &Layer,
    assigned: &[&Policy],
    enabled: &[&Policy],
) -> Result<Vec<RuleName>, NoDeployment> {
    if assigned.is_empty() {
        return Err(NoDeployment::NotAssigned);
    }
    if enabled.is_empty() {
        return Err(NoDeployment::PolicyDisabled);
    }
    let capable: Vec<&&Policy> = enabled.iter().filter(|policy| policy.deploy).collect();
    if capable.is_empty() {
        return Err(NoDeployment::NoCapability);
    }
    let associated: Vec<&Configuration> = capable
        .iter()
        .flat_map(|policy| &policy.configurations)
        .filter_map(|name| layer.configuration(name))
        .collect();
    if associated.is_empty() {
        return Err(NoDeployment::NoConfiguration);
    }
    let deploying: Vec<RuleName> =
        associated.iter().filter(|entry| entry.deploy).map(|entry| entry.name.clone()).collect();
    if deploying.is_empty() { Err(NoDeployment::ConfigurationInert) } else { Ok(deploying) }
}

#[cfg(test)]
pub(crate) mod tests;
