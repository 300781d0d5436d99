//! Plan: the immutable list of what a device will do, with the reason for every patch left out.

use crate::identifier::{ManifestDigest, PatchId};
use crate::manifest::{Catalogue, Content, Evidence, Manifest};
use crate::policy::{Approved, Effective, NoDeployment};
use crate::reason::Reason;
use crate::scan::{Finding, Findings};
use crate::time::WallTime;
use order::After;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

mod order;

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
    /// The other patches that the reason is about: requirements that are missing or that lead back to it, the patch that
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
    let mut draft = Draft { candidates: BTreeMap::new(), left_out: BTreeMap::new() };
    let related = Related::of(facts);
    let mut changed = BTreeSet::new();
    for manifest in facts.catalogues.iter().flat_map(|catalogue| &catalogue.manifests) {
        let patch = &manifest.patch;
        let Some((assessed, Finding::Missing)) = facts.findings.by_patch.get(patch) else { continue };
        let digest = manifest.digest();
        if *assessed != digest {
            changed.insert(patch);
            continue;
        }
        match (admit(facts, manifest, digest), related.installed_replacement(patch)) {
            (Err(reason), _) => draft.leave_out(patch, reason, Vec::new()),
            (Ok(_), Some(newer)) => draft.leave_out(patch, Reason::Superseded, vec![newer.clone()]),
            (Ok(purpose), None) => {
                draft.candidates.insert(patch, Candidate { manifest, digest, purpose });
            }
        }
    }
    // A manifest for another system, or one that changed after the scan; then nothing else was admitted or left out.
    for patch in changed {
        if !draft.candidates.contains_key(patch) && !draft.left_out.contains_key(patch) {
            draft.leave_out(patch, Reason::NotAssessed, Vec::new());
        }
    }
    let mut after = draft.require(&related);
    draft.supersede(&mut after);
    let severity = draft.candidates.iter().map(|(patch, candidate)| (*patch, candidate.manifest.severity));
    let steps = order::sort(&after, &severity.collect());
    let steps = steps.into_iter().map(|patch| draft.candidates[patch].step(&after[patch])).collect();
    Plan { generation: facts.generation, made: facts.now, steps, left_out: draft.left_out }
}

/// The rules about one patch alone, in the order of the share gate, then those of this device.
fn admit(facts: &Facts<'_>, manifest: &Manifest, digest: ManifestDigest) -> Result<Purpose, Reason> {
    let unsigned = manifest.artifacts.iter().any(|artifact| artifact.evidence == Evidence::None {});
    if unsigned && !crate::mutant::mutated(crate::mutant::Mutant::PlanTakesUnsigned) {
        return Err(Reason::Unsigned);
    }
    facts.evidence.get(&digest).copied().unwrap_or(Ok(()))?;
    if facts.effective.hold(&manifest.patch).is_some()
        && !crate::mutant::mutated(crate::mutant::Mutant::PlanTakesHeld)
    {
        return Err(Reason::Held);
    }
    match facts.effective.approval(&manifest.patch, digest) {
        Approved::Yes => {}
        Approved::OtherManifest => return Err(Reason::ApprovedOtherManifest),
        Approved::No if crate::mutant::mutated(crate::mutant::Mutant::PlanTakesUnapproved) => {}
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

/// What the catalogues and the findings say about how patches replace each other.
struct Related<'a> {
    findings: &'a Findings,
    replaced_by: BTreeMap<&'a PatchId, BTreeSet<&'a PatchId>>,
}

impl<'a> Related<'a> {
    fn of(facts: &Facts<'a>) -> Related<'a> {
        let mut replaced_by: BTreeMap<&PatchId, BTreeSet<&PatchId>> = BTreeMap::new();
        for manifest in facts.catalogues.iter().flat_map(|catalogue| &catalogue.manifests) {
            for older in manifest.supersedes.iter().filter(|older| **older != manifest.patch) {
                replaced_by.entry(older).or_default().insert(&manifest.patch);
            }
        }
        Related { findings: facts.findings, replaced_by }
    }

    fn is_installed(&self, patch: &PatchId) -> bool {
        matches!(self.findings.by_patch.get(patch), Some((_, Finding::Installed)))
    }

    fn replacements(&self, patch: &PatchId) -> impl Iterator<Item = &'a PatchId> {
        self.replaced_by.get(patch).into_iter().flatten().copied()
    }

    fn installed_replacement(&self, patch: &PatchId) -> Option<&'a PatchId> {
        self.replacements(patch).find(|newer| self.is_installed(newer))
    }
}

/// A patch that the rules about itself admit; those about others may still leave it out.
struct Candidate<'a> {
    manifest: &'a Manifest,
    digest: ManifestDigest,
    purpose: Purpose,
}

struct Draft<'a> {
    candidates: BTreeMap<&'a PatchId, Candidate<'a>>,
    left_out: BTreeMap<PatchId, LeftOut>,
}

impl<'a> Draft<'a> {
    fn leave_out(&mut self, patch: &PatchId, reason: Reason, others: Vec<PatchId>) {
        self.candidates.remove(patch);
        self.left_out.insert(patch.clone(), LeftOut { reason, others });
    }

    /// Leaves out what cannot have its requirements, until the rest can, and returns what comes before what.
    fn require(&mut self, related: &Related<'_>) -> After<'a> {
        let mut after = After::new();
        let mut behind: After<'a> = After::new();
        let mut open: BTreeSet<&'a PatchId> = self.candidates.keys().copied().collect();
        loop {
            while let Some(patch) = open.pop_first() {
                match self.requirements(patch, related) {
                    Ok(before) => {
                        for requirement in &before {
                            behind.entry(requirement).or_default().insert(patch);
                        }
                        after.insert(patch, before);
                    }
                    Err(missing) => {
                        after.remove(patch);
                        self.leave_out(patch, Reason::RequirementMissing, missing);
                        open.extend(self.still_steps(behind.remove(patch)));
                    }
                }
            }
            let cycles = order::cycles(&after);
            if cycles.is_empty() {
                return after;
            }
            for (patch, others) in &cycles {
                after.remove(patch);
                self.leave_out(patch, Reason::RequirementCycle, others.clone());
            }
            for patch in cycles.keys() {
                open.extend(self.still_steps(behind.remove(patch)));
            }
        }
    }

    fn still_steps(&self, patches: Option<BTreeSet<&'a PatchId>>) -> impl Iterator<Item = &'a PatchId> {
        patches.unwrap_or_default().into_iter().filter(|patch| self.candidates.contains_key(patch))
    }

    /// The steps that must come before `patch`, or its requirements that nothing meets.
    fn requirements(
        &self,
        patch: &PatchId,
        related: &Related<'_>,
    ) -> Result<BTreeSet<&'a PatchId>, Vec<PatchId>> {
        let mut before = BTreeSet::new();
        let mut missing = Vec::new();
        for requirement in self.candidates.get(patch).map_or(&[][..], |own| &own.manifest.requires) {
            match self.met_by(patch, requirement, related) {
                Met::Already => {}
                Met::By(step) => {
                    before.insert(step);
                }
                Met::Not => missing.push(requirement.clone()),
            }
        }
        if missing.is_empty() { Ok(before) } else { Err(missing) }
    }

    /// What meets a requirement: that it is installed, a step, or the same of a patch that replaces it.
    fn met_by(&self, patch: &PatchId, requirement: &PatchId, related: &Related<'_>) -> Met<'a> {
        if related.is_installed(requirement) || related.installed_replacement(requirement).is_some() {
            return Met::Already;
        }
        let mut replacements = related.replacements(requirement).filter(|newer| *newer != patch);
        let step = self
            .candidates
            .get_key_value(requirement)
            .or_else(|| replacements.find_map(|newer| self.candidates.get_key_value(newer)));
        step.map_or(Met::Not, |(step, _)| Met::By(step))
    }

    /// Leaves out each patch that another step replaces, unless that step itself needs it first.
    fn supersede(&mut self, after: &mut After<'a>) {
        let mut behind: After<'a> = After::new();
        for (patch, requirements) in &*after {
            for requirement in requirements {
                behind.entry(requirement).or_default().insert(patch);
            }
        }
        let replacing: Vec<(&'a PatchId, &'a Manifest)> =
            self.candidates.iter().map(|(patch, candidate)| (*patch, candidate.manifest)).collect();
        for (newer, manifest) in replacing {
            for older in manifest.supersedes.iter().filter(|older| *older != newer) {
                let both_are_steps = after.contains_key(newer) && after.contains_key(older);
                if !both_are_steps || order::needs(after, newer, older) {
                    continue;
                }
                after.remove(older);
                self.leave_out(older, Reason::Superseded, vec![newer.clone()]);
                // Whoever came after the older one comes after the newer one now; that makes no circle, since the
                // newer one does not need the older one.
                for dependent in behind.remove(older).unwrap_or_default() {
                    if let Some(before) = after.get_mut(dependent) {
                        before.remove(older);
                        before.insert(newer);
                        behind.entry(newer).or_default().insert(dependent);
                    }
                }
            }
        }
    }
}

enum Met<'a> {
    Already,
    By(&'a PatchId),
    Not,
}

impl Candidate<'_> {
    fn step(&self, after: &BTreeSet<&PatchId>) -> Step {
        let artifacts: Vec<Content> =
            self.manifest.artifacts.iter().map(|artifact| artifact.content).collect();
        let mut evidence = self.manifest.contents();
        evidence.retain(|content| !artifacts.contains(content));
        Step {
            patch: self.manifest.patch.clone(),
            manifest: self.digest,
            purpose: self.purpose,
            evidence,
            artifacts,
            after: after.iter().map(|patch| (*patch).clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
