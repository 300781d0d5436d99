//! Patches: what the catalogues list, what the scan found, and why.

use super::status::Cause;
use crate::core::Core;
use crate::core::deployment::state_name;
use crate::identifier::{Cve, ManifestDigest, PatchId};
use crate::manifest::{Detection, Kind, Manifest, Severity};
use crate::plan::Purpose;
use crate::policy::Approved;
use crate::policy::deadline::Deadline;
use crate::reason::Reason;
use crate::scan;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};

/// How many patches of the catalogue are in which state on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingCounts {
    /// When the scan ended; `None` before the first.
    pub scanned: Option<WallTime>,
    /// Not assessed yet.
    pub not_assessed: u32,
    /// Not applicable.
    pub not_applicable: u32,
    /// Missing.
    pub missing: u32,
    /// Installed.
    pub installed: u32,
}

/// One finding of a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The patch.
    pub patch: PatchId,
    /// One line for people.
    pub title: String,
    /// The vendor's severity.
    pub severity: Severity,
    /// `not-assessed`, `not-applicable`, `missing` or `installed`.
    pub state: String,
    /// What is installed now, for example a package version.
    pub found: Option<String>,
    /// The patch that replaces it, where one does.
    pub superseded_by: Option<PatchId>,
}

/// Result of a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Counts.
    pub counts: FindingCounts,
    /// The findings, by patch.
    pub findings: Vec<Finding>,
}

/// One patch of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// The patch.
    pub patch: PatchId,
    /// One line for people.
    pub title: String,
    /// Kind.
    pub kind: Kind,
    /// The vendor's severity.
    pub severity: Severity,
    /// CVEs that it mends.
    pub cves: Vec<Cve>,
    /// Operating systems that it is for, as text.
    pub targets: Vec<String>,
    /// Digest of the manifest.
    pub manifest: ManifestDigest,
    /// Bytes of its artifacts.
    pub size: u64,
    /// `apt`, `ed25519` or `none`: how the vendor signed it.
    pub evidence: String,
    /// `yes`, `no`, or `other-manifest` when it changed after it was approved.
    pub approved: String,
    /// Whether it is on hold.
    pub held: bool,
    /// State on this device: `not-assessed`, `not-applicable`, `missing` or `installed`.
    pub finding: Option<String>,
}

/// Why a patch is in its state on this device, from the first cause to the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The patch.
    pub patch: PatchId,
    /// What became of it here, in one word: a finding or a deployment state.
    pub state: String,
    /// Until when it is to be here; `None` where it is here, or there is no deadline.
    #[serde(default)]
    pub deadline: Option<WallTime>,
    /// The chain of causes.
    pub chain: Vec<Cause>,
}

impl Core {
    /// How many patches are in which state.
    pub fn finding_counts(&self) -> FindingCounts {
        let findings = &self.deploying.findings;
        let count = |wanted: scan::Finding| {
            let matching = findings.by_patch.values().filter(|(_, finding)| *finding == wanted).count();
            u32::try_from(matching).unwrap_or(u32::MAX)
        };
        FindingCounts {
            scanned: self.deploying.scanned().then_some(findings.taken),
            not_assessed: count(scan::Finding::NotAssessed),
            not_applicable: count(scan::Finding::NotApplicable),
            missing: count(scan::Finding::Missing),
            installed: count(scan::Finding::Installed),
        }
    }

    /// What the last scan found.
    pub fn last_scan(&self) -> Scan {
        let finding = |(digest, manifest): (ManifestDigest, &Manifest)| Finding {
            patch: manifest.patch.clone(),
            title: manifest.title.clone(),
            severity: manifest.severity,
            state: finding_code(self.finding(digest, manifest)).to_owned(),
            found: self.found_version(manifest),
            superseded_by: None,
        };
        // Of a patch for several systems the manifest for this one, or there would be several findings.
        let mut own = self.by_name();
        own.sort_by_key(|(_, manifest)| (&manifest.patch, !manifest.is_for(&self.setup.member.system)));
        own.dedup_by(|(_, next), (_, kept)| next.patch == kept.patch);
        Scan { counts: self.finding_counts(), findings: own.into_iter().map(finding).collect() }
    }

    /// Every patch of the catalogues, by name.
    pub fn patches(&self) -> Vec<Patch> {
        let effective = &self.rules.effective;
        let view = |(digest, manifest): (ManifestDigest, &Manifest)| Patch {
            patch: manifest.patch.clone(),
            title: manifest.title.clone(),
            kind: manifest.kind,
            severity: manifest.severity,
            cves: manifest.cves.clone(),
            targets: manifest.targets.iter().map(ToString::to_string).collect(),
            manifest: digest,
            size: manifest.size(),
            evidence: manifest.weakest_evidence().to_owned(),
            approved: match effective.approval(&manifest.patch, digest) {
                Approved::Yes => "yes",
                Approved::No => "no",
                Approved::OtherManifest => "other-manifest",
            }
            .to_owned(),
            held: effective.hold(&manifest.patch).is_some(),
            finding: Some(finding_code(self.finding(digest, manifest)).to_owned()),
        };
        self.by_name().into_iter().map(view).collect()
    }

    /// What was found of a manifest; one for another system was not assessed where its patch has one for this system too.
    fn finding(&self, digest: ManifestDigest, manifest: &Manifest) -> scan::Finding {
        match self.deploying.findings.of(&manifest.patch, digest) {
            scan::Finding::NotAssessed
                if self.deploying.scanned() && !manifest.is_for(&self.setup.member.system) =>
            {
                scan::Finding::NotApplicable
            }
            finding => finding,
        }
    }

    /// The manifests of the catalogues, by patch.
    fn by_name(&self) -> Vec<(ManifestDigest, &Manifest)> {
        let all = self.rules.manifests().map(|(digest, manifest)| (digest, &**manifest));
        let mut all: Vec<(ManifestDigest, &Manifest)> = all.collect();
        all.sort_by(|(_, one), (_, other)| one.patch.cmp(&other.patch));
        all
    }

    /// The version that is installed of what a manifest detects; `None` when nothing is.
    fn found_version(&self, manifest: &Manifest) -> Option<String> {
        let Detection::DebianPackage { package, architecture, .. } = &manifest.detection;
        let inventory = self.deploying.inventory()?;
        inventory.package(package, architecture).map(|package| package.version.to_string())
    }

    /// The chain of causes for one patch on this device (X4); `None` when no catalogue lists it.
    pub fn explain(&self, patch: &PatchId) -> Option<Explanation> {
        let (digest, manifest) = self.manifest_of(patch)?;
        let finding = self.deploying.findings.of(patch, digest);
        let link = |question: &'static str, sentence: String, reason: Option<Reason>| Cause {
            code: reason.map_or(question, Reason::code).to_owned(),
            sentence,
        };
        let mut chain = vec![link("finding", finding_sentence(finding).to_owned(), None)];
        let approval = match self.rules.effective.approval(patch, digest) {
            Approved::Yes => ("Policy approves this very manifest.".to_owned(), None),
            Approved::OtherManifest => from_reason(Reason::ApprovedOtherManifest),
            Approved::No => from_reason(Reason::Unapproved),
        };
        chain.push(link("approval", approval.0, approval.1));
        let waited_for = matches!(finding, scan::Finding::Missing | scan::Finding::NotAssessed);
        let deadline = self.deadline_of(digest, manifest).filter(|_| waited_for);
        chain.extend(deadline.map(|deadline| link("deadline", deadline.sentence(self.wall), None)));
        let signature = match self.contents.verdict(digest, self.wall) {
            Some(Ok(())) => {
                (format!("The vendor's signature verifies: {}.", self.signers(digest).join(", ")), None)
            }
            Some(Err(reason)) => from_reason(reason),
            None => from_reason(Reason::NotVerifiedYet),
        };
        chain.push(link("signature", signature.0, signature.1));
        if let Some(hold) = self.rules.effective.hold(patch) {
            let answer = format!("On hold ({}): {}", hold.id, hold.reason);
            chain.push(link("hold", answer, Some(Reason::Held)));
        }
        let plan = self.plan_sentence(patch, finding);
        chain.push(link("plan", plan.0, plan.1));
        let waits =
            [self.caps.allowed.fetching, self.caps.allowed.download].into_iter().find_map(|passage| {
                let wanted =
                    manifest.contents().into_iter().find(|content| !self.contents.is_checked(content))?;
                passage.lets(self.kind_of(wanted.root)).err()
            });
        if let Some(reason) = waits.filter(|_| self.deploying.plan.step(patch).is_some()) {
            chain.push(link("fetch", reason.explain().to_owned(), Some(reason)));
        }
        if let Some(obstacle) = self.obstacle(manifest).filter(|_| self.deploying.plan.step(patch).is_some())
        {
            chain.push(obstacle);
        }
        let deployment = self.deploying.deployments.get(patch);
        if let Some(deployment) = deployment {
            let mut answer = format!(
                "The deployment is {}; the installer started {}.",
                state_name(deployment.state),
                match deployment.attempts {
                    1 => "once".to_owned(),
                    times => format!("{times} times"),
                }
            );
            if let Some(why) = deployment.explain() {
                answer = format!("{answer} {why}");
            }
            chain.push(link("deployment", answer, deployment.last_result));
        }
        for transfer in self.transfers() {
            if !manifest.contents().iter().any(|content| content.root == transfer.root) {
                continue;
            }
            for (source, reason, bytes) in &transfer.fetched {
                let way = match source {
                    crate::report::Source::Wan => "over the WAN",
                    crate::report::Source::Lan => "from neighbours",
                };
                let answer = format!(
                    "{bytes} bytes of {} came {way}. {}",
                    &transfer.root.to_string()[..12],
                    reason.explain()
                );
                chain.push(link("bytes", answer, Some(*reason)));
            }
        }
        let state = deployment.map_or_else(|| finding_code(finding).to_owned(), |one| state_name(one.state));
        Some(Explanation { patch: patch.clone(), state, deadline: deadline.map(Deadline::at), chain })
    }

    fn plan_sentence(&self, patch: &PatchId, finding: scan::Finding) -> (String, Option<Reason>) {
        if let Some(step) = self.deploying.plan.step(patch) {
            return match step.purpose {
                Purpose::Deploy => ("The plan deploys it.".to_owned(), None),
                Purpose::FetchAhead(reason) => (
                    format!("The plan fetches it ahead and does not install it. {}", reason.explain()),
                    Some(reason),
                ),
            };
        }
        match self.deploying.plan.left_out.get(patch) {
            Some(left_out) => from_reason(left_out.reason),
            None if finding == scan::Finding::Installed => {
                ("Nothing to do: it is installed.".to_owned(), None)
            }
            None => ("It is not part of the plan.".to_owned(), None),
        }
    }
}

fn from_reason(reason: Reason) -> (String, Option<Reason>) {
    (reason.explain().to_owned(), Some(reason))
}

const fn finding_sentence(finding: scan::Finding) -> &'static str {
    match finding {
        scan::Finding::NotAssessed => "No scan has looked at it yet.",
        scan::Finding::NotApplicable => "It is not for this device.",
        scan::Finding::Missing => "The scan found it missing.",
        scan::Finding::Installed => "The scan found it installed.",
    }
}

const fn finding_code(finding: scan::Finding) -> &'static str {
    match finding {
        scan::Finding::NotAssessed => "not-assessed",
        scan::Finding::NotApplicable => "not-applicable",
        scan::Finding::Missing => "missing",
        scan::Finding::Installed => "installed",
    }
}
