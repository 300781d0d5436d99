//! What the node tells the person in front of it: facts read from the core, never a way to change it.

use super::Core;
use super::deployment::state_name;
use super::rules::artifact_of;
use crate::deploy::Deployment;
use crate::digest::Blake3Root;
use crate::fleet::{SITES_PATH, Services, Sites, parse_toml};
use crate::identifier::{DeviceId, ManifestDigest, PatchId};
use crate::manifest::{Content, Detection, Evidence, Manifest};
use crate::membership::Member;
use crate::plan::{Plan, Purpose};
use crate::policy::{Approved, Effective};
use crate::reason::Reason;
use crate::report::{ContentKind, NetworkTotals, Report, Transfer};
use crate::scan::{Finding, Findings};
use crate::time::WallTime;
use crate::trust::Trusted;
use crate::wire::Versions;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The node at a glance.
#[derive(Clone, Debug)]
pub struct View {
    /// What its membership certificate says.
    pub member: Member,
    /// Versions of the trusted metadata.
    pub versions: Versions,
    /// The first role of the metadata to expire, and when.
    pub expires: Option<(String, WallTime)>,
    /// Why the metadata is no longer in force, if it is not.
    pub in_force: Result<(), Reason>,
    /// Whether a scan has succeeded since the start.
    pub scanned: bool,
    /// Reports that wait for a watermark.
    pub reports_waiting: usize,
    /// The last report that is durable at an aggregator.
    pub reports_acknowledged: u64,
    /// The last report that was written.
    pub reports_written: u64,
}

/// One connected member.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// What its certificate says.
    pub member: Member,
    /// Whether it is a seed, an aggregator, or a neighbour.
    pub is_seed: bool,
    /// Whether it is an aggregator.
    pub is_aggregator: bool,
    /// Whether it is a neighbour in the site.
    pub is_neighbour: bool,
    /// Bytes of pieces that it got from us.
    pub served: u64,
    /// Bytes of pieces that we got from it.
    pub fetched: u64,
    /// Versions of its metadata, as it says.
    pub versions: Versions,
}

/// One patch, as this device sees it.
#[derive(Clone, Debug)]
pub struct PatchView {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// Its digest.
    pub digest: ManifestDigest,
    /// What the scan found.
    pub finding: Finding,
    /// Whether it is approved.
    pub approved: Approved,
    /// Whether it is on hold.
    pub held: bool,
    /// State of its deployment, in words.
    pub deployment: Option<String>,
    /// Who signed it, when that is checked.
    pub signers: Vec<String>,
}

/// One deployment of this device.
#[derive(Clone, Debug)]
pub struct DeploymentView {
    /// The patch.
    pub patch: PatchId,
    /// Its state, in words.
    pub state: String,
    /// Whether the state is a last one.
    pub finished: bool,
    /// Installers started.
    pub attempts: u32,
    /// Why it is in that state, where there is more to say.
    pub reason: Option<Reason>,
    /// Since when, as far as it was reported.
    pub since: WallTime,
}

/// One content that this node holds or wants.
#[derive(Clone, Debug)]
pub struct ContentView {
    /// The content.
    pub content: Content,
    /// What it is for.
    pub kind: ContentKind,
    /// The patch, for an artifact.
    pub patch: Option<PatchId>,
    /// File name, for people.
    pub name: String,
    /// Pieces held.
    pub held: u32,
    /// Pieces in all.
    pub pieces: u32,
    /// Whether it passed the full check.
    pub verified: bool,
}

/// One link of the chain of causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What was asked at this point.
    pub question: &'static str,
    /// The answer, as a sentence.
    pub answer: String,
    /// The reason code, where there is one.
    pub reason: Option<Reason>,
}

impl Core {
    /// The node at a glance.
    pub fn view(&self) -> View {
        View {
            member: self.setup.member.clone(),
            versions: Versions::of(&self.trusted),
            expires: self.metadata_expiry().map(|(role, at)| (role.as_str().to_owned(), at)),
            in_force: self.metadata_in_force(),
            scanned: self.deploying.scanned(),
            reports_waiting: self.reporting.log.waiting(),
            reports_acknowledged: self.reporting.log.acknowledged(),
            reports_written: self.reporting.log.sequence(),
        }
    }

    /// The connected members.
    pub fn peers(&self) -> Vec<PeerView> {
        let view = |peer: &super::neighbours::Peer| {
            let device = peer.member.device;
            let is_seed = self.rules.services.is_seed(device);
            PeerView {
                is_seed,
                is_aggregator: self.rules.services.aggregator(device).is_some(),
                is_neighbour: !is_seed && self.is_neighbour(&peer.member),
                member: peer.member.clone(),
                served: peer.served,
                fetched: self.fetcher.fetched_from(device),
                versions: peer.versions,
            }
        };
        self.peers.values().map(view).collect()
    }

    /// Whether bytes to and from `device` cross the WAN: it is a service of another site.
    pub fn is_across_the_wan(&self, device: DeviceId) -> bool {
        let other_site =
            self.peers.get(&device).is_none_or(|peer| peer.member.site != self.setup.member.site);
        other_site && (self.is_seed(device) || self.rules.services.aggregator(device).is_some())
    }

    /// The plan in force.
    pub fn plan(&self) -> &Plan {
        &self.deploying.plan
    }

    /// The findings of the last scan.
    pub fn findings(&self) -> &Findings {
        &self.deploying.findings
    }

    /// The policy of this device.
    pub fn policy(&self) -> &Effective {
        &self.rules.effective
    }

    /// What this device reported so far, as an aggregator knows it when it has every report.
    pub fn reported(&self) -> &crate::report::Facts {
        self.reporting.log.facts()
    }

    /// Bytes by content, since the beginning of the store.
    pub fn transfer_totals(&self) -> Vec<Transfer> {
        self.transfers()
    }

    /// Pieces held and pieces in all of a content.
    pub fn pieces_of(&self, root: Blake3Root) -> Option<(u32, u32)> {
        let held = self.contents.get(root)?;
        Some((held.pieces.len(), held.tree.pieces()))
    }

    /// The services as the node knows them.
    pub fn services(&self) -> &Services {
        &self.rules.services
    }

    /// Whether `device` was revoked.
    pub fn is_revoked(&self, device: DeviceId) -> bool {
        self.rules.is_revoked(device)
    }

    /// The sites of the fleet; `None` before the first metadata.
    pub fn sites(&self) -> Option<Sites> {
        parse_toml(SITES_PATH, self.trusted.target(SITES_PATH)?).ok()
    }

    /// The trusted metadata.
    pub fn trusted(&self) -> &Trusted {
        &self.trusted
    }

    /// Bytes on the network since the beginning of the store.
    pub fn network_totals(&self) -> NetworkTotals {
        self.reporting.network
    }

    /// The version that is installed of what a manifest detects; `None` when nothing is.
    pub fn found_version(&self, manifest: &Manifest) -> Option<String> {
        let Detection::DebianPackage { package, architecture, .. } = &manifest.detection;
        let inventory = self.deploying.inventory()?;
        inventory.package(package, architecture).map(|package| package.version.to_string())
    }

    /// Reports that wait for a watermark, after sequence `after`, the newest `limit` of them.
    pub fn waiting_reports(&self, after: u64, limit: usize) -> Vec<Report> {
        let all = self.reporting.log.pending(after, usize::MAX);
        let read = all.iter().filter_map(|signed| signed.claims().ok());
        let mut reports: Vec<Report> = read.collect();
        reports.drain(..reports.len().saturating_sub(limit));
        reports
    }

    /// The deployments of this device.
    pub fn deployment_views(&self) -> Vec<DeploymentView> {
        let reported = self.reporting.log.facts().deployments();
        let view = |deployment: &Deployment| DeploymentView {
            patch: deployment.patch.clone(),
            state: state_name(deployment.state),
            finished: deployment.state.is_terminal(),
            attempts: deployment.attempts,
            reason: deployment.last_result,
            since: reported.get(&deployment.patch).map_or(self.wall, |entry| entry.time),
        };
        self.deploying.deployments.values().map(view).collect()
    }

    /// Every content that the catalogues name and this node holds or wants.
    pub fn content_views(&self) -> Vec<ContentView> {
        let mut views: BTreeMap<Blake3Root, ContentView> = BTreeMap::new();
        for (_, manifest) in self.rules.manifests() {
            for content in manifest.contents() {
                let held = self.contents.get(content.root);
                if held.is_none() && !self.fetcher.is_wanted(content.root) {
                    continue;
                }
                let artifact = artifact_of(manifest, content.root);
                let name = artifact
                    .map_or_else(|| evidence_name(manifest, &content), |artifact| artifact.name.clone());
                views.entry(content.root).or_insert(ContentView {
                    content,
                    kind: if artifact.is_some() { ContentKind::Artifact } else { ContentKind::Evidence },
                    patch: artifact.map(|_| manifest.patch.clone()),
                    name,
                    held: held.map_or(0, |held| held.pieces.len()),
                    pieces: crate::piece::count(content.size),
                    verified: self.contents.is_checked(&content),
                });
            }
        }
        views.into_values().collect()
    }

    /// Every patch of the catalogues, by name.
    pub fn patches(&self) -> Vec<PatchView> {
        let mut patches: Vec<PatchView> =
            self.rules.manifests().map(|(digest, manifest)| self.patch_view(digest, manifest)).collect();
        patches.sort_by(|one, other| one.manifest.patch.cmp(&other.manifest.patch));
        patches
    }

    fn patch_view(&self, digest: ManifestDigest, manifest: &Arc<Manifest>) -> PatchView {
        let patch = &manifest.patch;
        PatchView {
            manifest: Arc::clone(manifest),
            digest,
            finding: self.deploying.findings.of(patch, digest),
            approved: self.rules.effective.approval(patch, digest),
            held: self.rules.effective.hold(patch).is_some(),
            deployment: self.deploying.deployments.get(patch).map(|deployment| state_name(deployment.state)),
            signers: self.signers(digest),
        }
    }

    /// The chain of causes for one patch on this device (X4); `None` when no catalogue lists it.
    pub fn explain(&self, patch: &PatchId) -> Option<Vec<Explained>> {
        let view = self.patches().into_iter().find(|view| view.manifest.patch == *patch)?;
        let link = |question, answer: String, reason| Explained { question, answer, reason };
        let mut chain = vec![link("finding", finding_sentence(view.finding).to_owned(), None)];
        let approval = match view.approved {
            Approved::Yes => ("Policy approves this very manifest.".to_owned(), None),
            Approved::OtherManifest => from_reason(Reason::ApprovedOtherManifest),
            Approved::No => from_reason(Reason::Unapproved),
        };
        chain.push(link("approval", approval.0, approval.1));
        let signature = match self.contents.verdict(view.digest, self.wall) {
            Some(Ok(())) => (format!("The vendor's signature verifies: {}.", view.signers.join(", ")), None),
            Some(Err(reason)) => from_reason(reason),
            None => from_reason(Reason::NotVerifiedYet),
        };
        chain.push(link("signature", signature.0, signature.1));
        if let Some(hold) = self.rules.effective.hold(patch) {
            let answer = format!("On hold ({}): {}", hold.id, hold.reason);
            chain.push(link("hold", answer, Some(Reason::Held)));
        }
        let plan = self.plan_sentence(patch, view.finding);
        chain.push(link("plan", plan.0, plan.1));
        if let Some(deployment) = self.deploying.deployments.get(patch) {
            let answer = format!(
                "The deployment is {}; the installer started {}.",
                state_name(deployment.state),
                match deployment.attempts {
                    1 => "once".to_owned(),
                    times => format!("{times} times"),
                }
            );
            chain.push(link("deployment", answer, deployment.last_result));
        }
        for transfer in self.transfers() {
            if !view.manifest.contents().iter().any(|content| content.root == transfer.root) {
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
        Some(chain)
    }

    fn plan_sentence(&self, patch: &PatchId, finding: Finding) -> (String, Option<Reason>) {
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
            None if finding == Finding::Installed => ("Nothing to do: it is installed.".to_owned(), None),
            None => ("It is not part of the plan.".to_owned(), None),
        }
    }
}

/// A name for a file of evidence, for people.
fn evidence_name(manifest: &Manifest, content: &Content) -> String {
    let chains = manifest.artifacts.iter().filter_map(|artifact| match &artifact.evidence {
        Evidence::Apt(chain) => Some(chain),
        Evidence::None {} | Evidence::Ed25519 { .. } => None,
    });
    let named = chains.filter_map(|chain| match content {
        content if *content == chain.release => Some(format!("{} InRelease", chain.suite)),
        content if *content == chain.packages => Some(format!("{} {}", chain.suite, chain.packages_path)),
        _ => None,
    });
    named.into_iter().next().unwrap_or_default()
}

fn from_reason(reason: Reason) -> (String, Option<Reason>) {
    (reason.explain().to_owned(), Some(reason))
}

const fn finding_sentence(finding: Finding) -> &'static str {
    match finding {
        Finding::NotAssessed => "No scan has looked at it yet.",
        Finding::NotApplicable => "It is not for this device.",
        Finding::Missing => "The scan found it missing.",
        Finding::Installed => "The scan found it installed.",
    }
}
