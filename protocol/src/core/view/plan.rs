//! What this device will do, and by which rules.

use super::status::Cause;
use crate::core::Core;
use crate::identifier::{ManifestDigest, PatchId, RuleName};
use crate::plan::{self, Purpose};
use crate::reason::Reason;
use crate::scan::Finding;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    pub reason: Cause,
}

/// What this device will do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Higher for every newer plan.
    pub generation: u64,
    /// When it was made.
    pub made: WallTime,
    /// Why the device does not deploy by itself, when it does not.
    pub inert: Option<Cause>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What was left out.
    pub left_out: Vec<LeftOut>,
}

/// What an order to deploy set going. The states are then in [`Status::deployments`](super::Status).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploying {
    /// Generation of the plan.
    pub generation: u64,
    /// Patches that are being deployed now.
    pub started: Vec<PatchId>,
    /// Patches that were asked for and are refused or left out.
    pub left_out: Vec<LeftOut>,
}

/// The policy in force on this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Names of the policies in force; empty means the built-in default, which only scans.
    pub policies: Vec<String>,
    /// Names of the configurations that deploy here.
    pub configurations: Vec<String>,
    /// Why the device does not deploy, when it does not.
    pub inert: Option<Cause>,
    /// Whether peers may exchange content and metadata.
    pub peer_download: bool,
    /// Most WAN fetchers of the site at the same time.
    pub wan_fetchers: u8,
    /// Mirrors that the device reads while it reaches no seed.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// Caps of the policies in force, each in one line; the most restrictive wins.
    #[serde(default)]
    pub caps: Vec<String>,
    /// Minutes between scans.
    pub scan_minutes: u32,
    /// Days from the approval of a patch to its deadline; `None`: 14 for critical patches, none for others.
    #[serde(default)]
    pub deadline_days: Option<u32>,
    /// Days that accepted metadata stays in force without news.
    pub offline_days: u32,
    /// Approved patches.
    pub approved: Vec<PatchId>,
    /// Patches on hold and why.
    pub held: BTreeMap<PatchId, String>,
}

impl LeftOut {
    fn new(patch: &PatchId, reason: Reason) -> LeftOut {
        LeftOut { patch: patch.clone(), reason: reason.into() }
    }
}

/// Why a step fetches a patch and does not deploy it.
fn ahead(step: &plan::Step) -> Option<Reason> {
    match step.purpose {
        Purpose::FetchAhead(reason) => Some(reason),
        Purpose::Deploy => None,
    }
}

impl Core {
    /// The plan in force.
    pub fn plan(&self) -> Plan {
        let plan = &self.deploying.plan;
        let steps = plan.steps.iter().map(|step| {
            let manifest = self.rules.manifest(step.manifest);
            let (title, size) =
                manifest.map(|manifest| (manifest.title.clone(), manifest.size())).unwrap_or_default();
            Step { patch: step.patch.clone(), title, manifest: step.manifest, size }
        });
        let nobody = || self.rules.effective.deployment.as_ref().err().map(|why| Reason::from(*why));
        Plan {
            generation: plan.generation,
            made: plan.made,
            inert: plan.steps.iter().find_map(ahead).or_else(nobody).map(Cause::from),
            steps: steps.collect(),
            left_out: plan.left_out.iter().map(|(patch, out)| LeftOut::new(patch, out.reason)).collect(),
        }
    }

    /// What an order to deploy `patch`, or all, sets going by the plan in force; `None` when no catalogue lists the patch.
    pub fn deploying(&self, patch: Option<&PatchId>) -> Option<Deploying> {
        let plan = &self.deploying.plan;
        let wanted = |named: &PatchId| patch.is_none_or(|patch| patch == named);
        let steps = || plan.steps.iter().filter(|step| wanted(&step.patch));
        let started: Vec<PatchId> =
            steps().filter(|step| ahead(step).is_none()).map(|step| step.patch.clone()).collect();
        let out = plan.left_out.iter().filter(|(named, _)| wanted(named));
        let mut left_out: Vec<LeftOut> = out.map(|(named, out)| LeftOut::new(named, out.reason)).collect();
        left_out.extend(steps().filter_map(|step| Some(LeftOut::new(&step.patch, ahead(step)?))));
        if let Some(patch) = patch.filter(|_| started.is_empty() && left_out.is_empty()) {
            let (digest, _) = self.manifest_of(patch)?;
            let reason = match self.deploying.findings.of(patch, digest) {
                Finding::Installed => Reason::AlreadyInstalled,
                Finding::NotAssessed => Reason::NotAssessed,
                Finding::NotApplicable | Finding::Missing => Reason::NotApplicable,
            };
            left_out.push(LeftOut::new(patch, reason));
        }
        Some(Deploying { generation: plan.generation, started, left_out })
    }

    /// The policy in force on this device, as it is shown.
    pub fn policy_in_force(&self) -> Policy {
        let effective = &self.rules.effective;
        let names = |rules: &[RuleName]| rules.iter().map(ToString::to_string).collect();
        Policy {
            policies: names(&effective.policies),
            configurations: effective.deployment.as_ref().map(|rules| names(rules)).unwrap_or_default(),
            inert: effective.deployment.as_ref().err().map(|why| Reason::from(*why).into()),
            peer_download: effective.peer_download,
            wan_fetchers: effective.wan_fetchers,
            mirrors: effective.mirrors.iter().map(ToString::to_string).collect(),
            caps: effective.caps.iter().map(ToString::to_string).collect(),
            scan_minutes: effective.scan_minutes,
            deadline_days: effective.deadline_days,
            offline_days: effective.offline_days,
            approved: effective.approved().cloned().collect(),
            held: effective.holds().map(|hold| (hold.patch.clone(), hold.reason.clone())).collect(),
        }
    }
}
