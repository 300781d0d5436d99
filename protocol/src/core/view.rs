//! What the node tells the person in front of it: facts read from the core, never a way to change it. The structures are what the
//! control socket carries and what `--output json` prints.

mod caps;
mod patch;
mod peer;
mod plan;
mod report;
mod status;

pub use caps::{Caps, Way};
pub use patch::{Explanation, Finding, FindingCounts, Patch, Scan};
pub use peer::{Peer, Transfer};
pub use plan::{Deploying, LeftOut, Plan, Policy, Step};
pub use report::Report;
pub use status::{
    Bytes, Cause, Connections, Deployment, Kept, Metadata, Outbox, Problem, Refusal, Status, Traffic,
};

use super::Core;
use crate::aggregate::Listing;
use crate::digest::Blake3Root;
use crate::fleet::{SITES_PATH, Services, Sites, parse_toml};
use crate::identifier::{DeviceId, ManifestDigest, PatchId};
use crate::manifest::Manifest;
use crate::membership::Member;
use crate::policy::{Approved, Effective};
use crate::report::{Facts, NetworkTotals};
use crate::trust::{RoleName, Trusted};
use crate::wire::Versions;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Core {
    /// What its membership certificate says.
    pub fn member(&self) -> &Member {
        &self.setup.member
    }

    /// Versions of the trusted metadata, whether or not they are in force.
    pub fn trusted_versions(&self) -> Versions {
        Versions::of(&self.trusted)
    }

    /// Versions of the roles that administrators sign, whether or not they are in force.
    pub fn trusted_roles(&self) -> BTreeMap<RoleName, u64> {
        self.trusted.role_versions()
    }

    /// Reports that wait for a watermark.
    pub fn reports_waiting(&self) -> usize {
        self.reporting.log.waiting()
    }

    /// What an aggregator says of the patches that the catalogues list; one is approved when any of its manifests is.
    pub fn listings(&self) -> BTreeMap<PatchId, Listing> {
        let effective = &self.rules.effective;
        let mut listings = BTreeMap::new();
        for (digest, manifest) in self.rules.manifests() {
            let approved = effective.approval(&manifest.patch, digest) == Approved::Yes;
            if approved || !listings.contains_key(&manifest.patch) {
                let held = effective.hold(&manifest.patch).is_some();
                listings.insert(manifest.patch.clone(), Listing::of(manifest, approved, held));
            }
        }
        listings
    }

    /// The manifest of a patch: of several the one for this device's own system, then one that is approved.
    pub(super) fn manifest_of(&self, patch: &PatchId) -> Option<(ManifestDigest, &Arc<Manifest>)> {
        let named = self.rules.manifests().filter(|(_, manifest)| manifest.patch == *patch);
        named.max_by_key(|(digest, manifest)| {
            let approved = self.rules.effective.approval(patch, *digest) == Approved::Yes;
            (manifest.is_for(&self.setup.member.system), approved)
        })
    }

    /// The manifests that policy approves, whose contents a seed has to have.
    pub fn approved_manifests(&self) -> Vec<(ManifestDigest, Arc<Manifest>)> {
        let approved = |(digest, manifest): &(ManifestDigest, &Arc<Manifest>)| {
            self.rules.effective.approval(&manifest.patch, *digest) == Approved::Yes
        };
        let approved = self.rules.manifests().filter(approved);
        approved.map(|(digest, manifest)| (digest, Arc::clone(manifest))).collect()
    }

    /// Whether bytes to and from `device` cross the WAN: it is a service of another site.
    pub fn is_across_the_wan(&self, device: DeviceId) -> bool {
        let other_site =
            self.peers.get(&device).is_none_or(|peer| peer.member.site != self.setup.member.site);
        other_site && (self.is_seed(device) || self.rules.services.aggregator(device).is_some())
    }

    /// The policy of this device.
    pub fn policy(&self) -> &Effective {
        &self.rules.effective
    }

    /// What this device reported so far, as an aggregator knows it when it has every report.
    pub fn reported(&self) -> &Facts {
        self.reporting.log.facts()
    }

    /// Bytes by content, since the beginning of the store.
    pub fn transfer_totals(&self) -> Vec<crate::report::Transfer> {
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
}
