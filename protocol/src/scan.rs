//! Scan: what each patch of the catalogues is to this device, judged from an inventory.

use crate::identifier::{ManifestDigest, PatchId};
use crate::inventory::{Inventory, PackageState};
use crate::manifest::{Catalogue, Detection, Kind, Manifest};
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One (device, patch) fact. That a patch is superseded is derived, by [`Findings::superseded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// The scan did not look at it.
    NotAssessed,
    /// It is not for this device.
    NotApplicable,
    /// It is for this device and not installed.
    Missing,
    /// It is installed.
    Installed,
}

/// Which patches a scan looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The template "all patches".
    #[default]
    AllPatches,
    /// The template "security": patches that mend a security hole.
    Security,
    /// These and no others.
    Only(BTreeSet<PatchId>),
}

impl Scope {
    fn includes(&self, manifest: &Manifest) -> bool {
        match self {
            Scope::AllPatches => true,
            Scope::Security => manifest.kind == Kind::Security,
            Scope::Only(patches) => patches.contains(&manifest.patch),
        }
    }
}

/// What a device knows about every patch of its catalogues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// By patch: the manifest that was assessed, and the finding.
    pub by_patch: BTreeMap<PatchId, (ManifestDigest, Finding)>,
    /// When the inventory of the latest scan was read.
    pub taken: WallTime,
}

/// What differs between two states of findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Findings that are new or different.
    pub set: BTreeMap<PatchId, (ManifestDigest, Finding)>,
    /// Patches that are in no catalogue any more.
    pub gone: BTreeSet<PatchId>,
    /// When the inventory of the newer scan was read.
    pub taken: WallTime,
}

/// Judges every manifest of `catalogues` by `inventory`; what lies outside `scope` stays [`Finding::NotAssessed`].
pub fn assess(catalogues: &[Catalogue], inventory: &Inventory, scope: &Scope) -> Findings {
    let manifests = catalogues.iter().flat_map(|catalogue| &catalogue.manifests);
    let by_patch = manifests.map(|manifest| {
        let finding =
            if scope.includes(manifest) { judge(manifest, inventory) } else { Finding::NotAssessed };
        (manifest.patch.clone(), (manifest.digest(), finding))
    });
    Findings { by_patch: by_patch.collect(), taken: inventory.taken }
}

fn judge(manifest: &Manifest, inventory: &Inventory) -> Finding {
    if !manifest.targets.iter().any(|target| target.matches(&inventory.system)) {
        return Finding::NotApplicable;
    }
    let Detection::DebianPackage { package, architecture, version } = &manifest.detection;
    let Some(found) = inventory.package(package, architecture) else { return Finding::NotApplicable };
    match found.state {
        PackageState::Absent => Finding::NotApplicable,
        PackageState::Installed if found.version >= *version => Finding::Installed,
        PackageState::Installed => Finding::Missing,
        // Half-way into a version newer than this one: only that one mends it, and this one would be a step back.
        PackageState::Broken if found.version > *version => Finding::NotApplicable,
        PackageState::Broken => Finding::Missing,
    }
}

impl Findings {
    /// The finding for this very manifest of `patch`; [`Finding::NotAssessed`] when another manifest was assessed.
    pub fn of(&self, patch: &PatchId, manifest: ManifestDigest) -> Finding {
        match self.by_patch.get(patch) {
            Some((assessed, finding)) if *assessed == manifest => *finding,
            _ => Finding::NotAssessed,
        }
    }

    /// Takes in a later scan of the same device: what it assessed replaces what was known, what it did not assess
    /// leaves what was known (N26), and patches that are in no catalogue any more disappear.
    pub fn merge(&mut self, later: Findings) {
        let mut known = std::mem::take(&mut self.by_patch);
        self.by_patch = later.by_patch;
        self.taken = later.taken;
        for (patch, entry) in &mut self.by_patch {
            if entry.1 == Finding::NotAssessed
                && let Some(before) = known.remove(patch)
            {
                *entry = before;
            }
        }
    }

    /// What a report must carry so that whoever holds `previous` holds `self` after [`Findings::apply`].
    pub fn changes(&self, previous: &Findings) -> Changes {
        let differs = |(patch, entry): &(&PatchId, &(ManifestDigest, Finding))| {
            previous.by_patch.get(*patch) != Some(entry)
        };
        let set = self.by_patch.iter().filter(differs).map(|(patch, entry)| (patch.clone(), *entry));
        let gone = previous.by_patch.keys().filter(|patch| !self.by_patch.contains_key(*patch));
        Changes { set: set.collect(), gone: gone.cloned().collect(), taken: self.taken }
    }

    /// Takes in what [`Findings::changes`] made.
    pub fn apply(&mut self, changes: &Changes) {
        self.by_patch.retain(|patch, _| !changes.gone.contains(patch));
        self.by_patch.extend(changes.set.iter().map(|(patch, entry)| (patch.clone(), *entry)));
        self.taken = changes.taken;
    }

    /// Patches of the catalogues that another one replaces on this device, each with the one that replaces it: that
    /// one is missing or installed here.
    pub fn superseded(&self, catalogues: &[Catalogue]) -> BTreeMap<PatchId, PatchId> {
        let mut superseded = BTreeMap::new();
        for manifest in catalogues.iter().flat_map(|catalogue| &catalogue.manifests) {
            if manifest.supersedes.is_empty() {
                continue;
            }
            if matches!(self.of(&manifest.patch, manifest.digest()), Finding::Missing | Finding::Installed) {
                let older = manifest.supersedes.iter().filter(|older| **older != manifest.patch);
                superseded.extend(older.map(|older| (older.clone(), manifest.patch.clone())));
            }
        }
        superseded
    }
}

impl Changes {
    /// Whether nothing differs but the time.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.gone.is_empty()
    }
}
