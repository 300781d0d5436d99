//! Plan: the immutable list of what a device will do, with the reason for every patch left out.

use crate::identifier::{ManifestDigest, PatchId};
use crate::manifest::{Catalogue, Content, Evidence, Manifest, Severity};
use crate::policy::{Approved, Effective, NoDeployment};
use crate::reason::Reason;
use crate::scan::{Finding, Findings};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// All that a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Number of the new plan: higher than that of any plan before.
    pub generation: u64,
    /// What the device knows of its patches.
    pub findings: &'a Findings,
    /// The signed catalogues.
    pub catalogues: &'a [Catalogue],
    /// The device's policy.
    pub effective: &'a Effective,
    /// What checking a manifest's evidence came to; absent: not checked yet, which fetching will do.
    pub evidence: &'a BTreeMap<ManifestDigest, Result<(), Reason>>,
    /// Manifests whose deployment was given up on this device, and why.
    pub given_up: &'a BTreeMap<ManifestDigest, Reason>,
    /// Whether the accepted metadata is in force; [`Reason::OfflineTooLong`] when it is too old to deploy by.
    pub metadata: Result<(), Reason>,
    /// The wall clock.
    pub now: WallTime,
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Fetch it and install it.
    Deploy,
    /// Fetch and share it ahead of time and do not install it (M8), for this reason.
    FetchAhead(Reason),
}

/// One patch of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The patch.
    pub patch: PatchId,
    /// Its manifest.
    pub manifest: ManifestDigest,
    /// What to do with it.
    pub purpose: Purpose,
    /// Files to fetch first, since they prove the others.
    pub evidence: Vec<Content>,
    /// Files to install, in order.
    pub artifacts: Vec<Content>,
    /// Patches of this plan that must be installed before; they stand before it in the list.
    pub after: Vec<PatchId>,
}

/// Why a patch is not in the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The reason.
    pub reason: Reason,
    /// The other patches that the reason is about: requirements that are missing, members of a cycle, the patch that
    /// replaces it.
    pub others: Vec<PatchId>,
}

/// What a device will do. Immutable: newer facts make a new plan with a higher generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Number of the plan.
    pub generation: u64,
    /// When it was made.
    pub made: WallTime,
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// Every other patch that was found missing, with the reason.
    pub left_out: BTreeMap<PatchId, LeftOut>,
}

impl Plan {
    /// Whether this plan replaces `other`; whoever executes `other` refuses it otherwise.
    pub fn supersedes(&self, other: &Plan) -> bool {
        self.generation > other.generation
    }

    /// The step of `patch`.
    pub fn step(&self, patch: &PatchId) -> Option<&Step> {
        self.steps.iter().find(|step| step.patch == *patch)
    }

    /// Whether the two plans say the same but for their number and time, so that the newer one changes nothing.
    pub fn same_as(&self, other: &Plan) -> bool {
        self.steps == other.steps && self.left_out == other.left_out
    }
}

/// Makes the plan: every patch that the findings say is missing becomes a step or is left out with a reason.
///
/// Steps are ordered by severity (of a patch and of whatever requires it), then requirements first, then by name.
pub fn make(facts: &Facts<'_>) -> Plan {
    let mut plan = Plan { generation: facts.generation, made: facts.now, ..Plan::default() };
    let mut candidates: BTreeMap<&PatchId, Candidate<'_>> = BTreeMap::new();
    for manifest in facts.catalogues.iter().flat_map(|catalogue| &catalogue.manifests) {
        let Some((assessed, Finding::Missing)) = facts.findings.by_patch.get(&manifest.patch) else {
            continue;
        };
        let digest = manifest.digest();
        let admitted =
            if *assessed == digest { admit(facts, manifest, digest) } else { Err(Reason::NotAssessed) };
        match admitted {
            Ok(purpose) => {
                let candidate = Candidate { manifest, digest, purpose, after: BTreeSet::new() };
                candidates.insert(&manifest.patch, candidate);
            }
            Err(reason) => leave_out(&mut plan, &manifest.patch, reason, Vec::new()),
        }
    }
    require(facts, &mut candidates, &mut plan);
    supersede(&mut candidates, &mut plan);
    plan.steps = order(&candidates).into_iter().map(|patch| candidates[patch].step()).collect();
    plan
}

/// A patch that the rules about itself admit; those about others may still leave it out.
struct Candidate<'a> {
    manifest: &'a Manifest,
    digest: ManifestDigest,
    purpose: Purpose,
    after: BTreeSet<&'a PatchId>,
}
type Candidates<'a> = BTreeMap<&'a PatchId, Candidate<'a>>;

impl Candidate<'_> {
    fn step(&self) -> Step {
        let artifacts = &self.manifest.artifacts;
        let mut evidence: Vec<Content> = Vec::new();
        for artifact in artifacts {
            if let Evidence::Apt(chain) = &artifact.evidence {
                let new: Vec<Content> = [chain.release, chain.packages]
                    .into_iter()
                    .filter(|file| !evidence.contains(file))
                    .collect();
                evidence.extend(new);
            }
        }
        Step {
            patch: self.manifest.patch.clone(),
            manifest: self.digest,
            purpose: self.purpose,
            evidence,
            artifacts: artifacts.iter().map(|artifact| artifact.content).collect(),
            after: self.after.iter().map(|patch| (*patch).clone()).collect(),
        }
    }
}

fn leave_out(plan: &mut Plan, patch: &PatchId, reason: Reason, others: Vec<PatchId>) {
    plan.left_out.insert(patch.clone(), LeftOut { reason, others });
}

/// The rules about one patch alone, in the order of the share gate, then those of this device.
fn admit(facts: &Facts<'_>, manifest: &Manifest, digest: ManifestDigest) -> Result<Purpose, Reason> {
    if manifest.artifacts.iter().any(|artifact| artifact.evidence == Evidence::None {}) {
        return Err(Reason::Unsigned);
    }
    facts.evidence.get(&digest).copied().unwrap_or(Ok(()))?;
    if facts.effective.hold(&manifest.patch).is_some() {
        return Err(Reason::Held);
    }
    match facts.effective.approval(&manifest.patch, digest) {
        Approved::Yes => {}
        Approved::OtherManifest => return Err(Reason::ApprovedOtherManifest),
        Approved::No => return Err(Reason::Unapproved),
    }
    facts.metadata?;
    if let Some(reason) = facts.given_up.get(&digest) {
        return Err(*reason);
    }
    match &facts.effective.deployment {
        Ok(_) => Ok(Purpose::Deploy),
        // A device whose policy is in force downloads ahead (M8); one without a policy only scans (N4).
        Err(why @ (NoDeployment::NotAssigned | NoDeployment::PolicyDisabled)) => Err((*why).into()),
        Err(why) => Ok(Purpose::FetchAhead((*why).into())),
    }
}

fn require<'a>(_facts: &Facts<'a>, _candidates: &mut Candidates<'a>, _plan: &mut Plan) {}

fn supersede<'a>(_candidates: &mut Candidates<'a>, _plan: &mut Plan) {}

fn order<'a>(candidates: &Candidates<'a>) -> Vec<&'a PatchId> {
    let mut all: Vec<&PatchId> = candidates.keys().copied().collect();
    all.sort_by_key(|patch| (Reverse(candidates[patch].manifest.severity.max(Severity::Unknown)), *patch));
    all
}
