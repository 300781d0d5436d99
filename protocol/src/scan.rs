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

/// Judges every manifest of `catalogues` by `inventory`; what lies outside `scope` stays [`Finding::NotAssessed`]. Of a patch
/// with manifests for several systems, that of this one counts.
pub fn assess(catalogues: &[Catalogue], inventory: &Inventory, scope: &Scope) -> Findings {
    let mut by_patch = BTreeMap::new();
    for manifest in catalogues.iter().flat_map(|catalogue| &catalogue.manifests) {
        let finding =
            if scope.includes(manifest) { judge(manifest, inventory) } else { Finding::NotAssessed };
        if manifest.is_for(&inventory.system) || !by_patch.contains_key(&manifest.patch) {
            by_patch.insert(manifest.patch.clone(), (manifest.digest(), finding));
        }
    }
    Findings { by_patch, taken: inventory.taken }
}

fn judge(manifest: &Manifest, inventory: &Inventory) -> Finding {
    if !manifest.is_for(&inventory.system) {
        return Finding::NotApplicable;
    }
    let Detection::DebianPackage { package, architecture, version } = &manifest.detection;
    let Some(found) = inventory.package(package, architecture) else { return Finding::NotApplicable };
    match found.state {
        PackageState::Absent => Finding::NotApplicable,
        PackageState::Installed
            if found.version >= *version
                || crate::mutant::mutated(crate::mutant::Mutant::ScanIgnoresVersion) =>
        {
            Finding::Installed
        }
        PackageState::Installed => Finding::Missing,
        // Half-way into a version newer than this one: only that one mends it, and this one would be a step back.
        PackageState::Broken if found.version > *version => Finding::NotApplicable,
        PackageState::Broken if crate::mutant::mutated(crate::mutant::Mutant::ScanTakesBroken) => {
            Finding::Installed
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::identifier::VendorName;
    use crate::inventory::Package;
    use crate::manifest::SCHEMA;
    use crate::manifest::tests::example;
    use crate::policy::tests::member;
    use crate::version::DebianVersion;
    use proptest::prelude::*;

    fn catalogue(manifests: Vec<Manifest>) -> Catalogue {
        Catalogue { schema: SCHEMA, vendor: VendorName::new("debian").expect("vendor"), manifests }
    }

    fn inventory(packages: &[(&str, &str, PackageState)]) -> Inventory {
        let package = |(name, version, state): &(&str, &str, PackageState)| {
            let key = ((*name).to_owned(), "amd64".to_owned());
            let version = DebianVersion::new(*version).expect("version");
            (key.clone(), Package { name: key.0, architecture: key.1, version, state: *state })
        };
        Inventory {
            system: member("utrecht").system,
            packages: packages.iter().map(package).collect(),
            taken: WallTime::from_unix_seconds(7),
        }
    }

    fn finding(manifest: &Manifest, inventory: &Inventory) -> Finding {
        let findings = assess(&[catalogue(vec![manifest.clone()])], inventory, &Scope::AllPatches);
        findings.of(&manifest.patch, manifest.digest())
    }

    // proves S1
    #[test]
    fn a_package_decides_by_version_and_state() {
        use Finding::{Installed, Missing, NotApplicable};
        use PackageState as Is;
        let manifest = example("libone");
        let table = [
            ("1.0-1", Is::Installed, Missing),
            ("1.0-2", Is::Installed, Installed),
            ("0:1.0-2", Is::Installed, Installed),
            ("1.0-10", Is::Installed, Installed),
            ("1.0-2~rc1", Is::Installed, Missing),
            ("1.0-1", Is::Broken, Missing),
            ("1.0-2", Is::Broken, Missing),
            ("1.0-3", Is::Broken, NotApplicable),
            ("1.0-1", Is::Absent, NotApplicable),
            ("1.0-2", Is::Absent, NotApplicable),
        ];
        for (version, state, expected) in table {
            let found = finding(&manifest, &inventory(&[("libone", version, state)]));
            assert_eq!(found, expected, "{version} {state:?}");
        }
        let other = inventory(&[("libtwo", "1.0-1", Is::Installed)]);
        assert_eq!(finding(&manifest, &other), NotApplicable);
    }

    // proves N9
    #[test]
    fn a_patch_for_another_release_does_not_apply() {
        let old = inventory(&[("libone", "1.0-1", PackageState::Installed)]);
        let mut manifest = example("libone");
        assert_eq!(finding(&manifest, &old), Finding::Missing);
        manifest.targets[0].release = "11".to_owned();
        assert_eq!(finding(&manifest, &old), Finding::NotApplicable);
    }

    // proves N9: headquarters reads the catalogues of every system
    #[test]
    fn of_a_patch_for_several_systems_the_own_manifest_counts_whatever_the_order() {
        let here = inventory(&[("libone", "1.0-1", PackageState::Installed)]);
        let own = example("libone");
        let mut other = own.clone();
        other.targets[0].architecture = Some("arm64".to_owned());
        for order in [[&own, &other], [&other, &own]] {
            let catalogues = order.map(|manifest| catalogue(vec![manifest.clone()]));
            let findings = assess(&catalogues, &here, &Scope::AllPatches);
            assert_eq!(findings.of(&own.patch, own.digest()), Finding::Missing);
        }
    }

    // proves N26
    #[test]
    fn a_narrow_scan_leaves_the_rest_as_it_was_and_a_standard_one_reconciles() {
        let (one, mut two) = (example("libone"), example("libtwo"));
        two.kind = Kind::Update;
        let catalogues = [catalogue(vec![one.clone(), two.clone()])];
        let installed = PackageState::Installed;
        let before = inventory(&[("libone", "1.0-1", installed), ("libtwo", "1.0-2", installed)]);
        let after = inventory(&[("libone", "1.0-2", installed), ("libtwo", "1.0-1", installed)]);
        let mut findings = assess(&catalogues, &before, &Scope::AllPatches);
        let of = |findings: &Findings, manifest: &Manifest| findings.of(&manifest.patch, manifest.digest());

        findings.merge(assess(&catalogues, &after, &Scope::Only(BTreeSet::from([one.patch.clone()]))));
        assert_eq!(of(&findings, &one), Finding::Installed);
        assert_eq!(of(&findings, &two), Finding::Installed, "not looked at, so as it was");
        findings.merge(assess(&catalogues, &after, &Scope::Security));
        assert_eq!(of(&findings, &two), Finding::Installed, "no security patch, so as it was");
        findings.merge(assess(&catalogues, &after, &Scope::AllPatches));
        assert_eq!(of(&findings, &two), Finding::Missing);
        findings.merge(assess(&[catalogue(vec![one])], &after, &Scope::AllPatches));
        assert_eq!(of(&findings, &two), Finding::NotAssessed, "withdrawn from the catalogue");
    }

    #[test]
    fn a_finding_speaks_of_one_manifest_only() {
        let manifest = example("libone");
        let old = inventory(&[("libone", "1.0-1", PackageState::Installed)]);
        let findings = assess(&[catalogue(vec![manifest.clone()])], &old, &Scope::AllPatches);
        let changed = Manifest { title: "changed".to_owned(), ..manifest };
        assert_eq!(findings.of(&changed.patch, changed.digest()), Finding::NotAssessed);
    }

    #[test]
    fn a_patch_is_superseded_where_its_replacement_applies() {
        let (old, mut new) = (example("libone"), example("libtwo"));
        new.supersedes = vec![old.patch.clone()];
        let catalogues = [catalogue(vec![old.clone(), new.clone()])];
        let superseded = |packages: &[(&str, &str, PackageState)]| {
            assess(&catalogues, &inventory(packages), &Scope::AllPatches).superseded(&catalogues)
        };
        let here = superseded(&[("libtwo", "1.0-1", PackageState::Installed)]);
        assert_eq!(here, BTreeMap::from([(old.patch, new.patch)]));
        assert!(superseded(&[("libone", "1.0-1", PackageState::Installed)]).is_empty());
    }

    fn findings() -> impl Strategy<Value = Findings> {
        let finding = prop::sample::select(vec![
            Finding::NotAssessed,
            Finding::NotApplicable,
            Finding::Missing,
            Finding::Installed,
        ]);
        let entry = (any::<bool>(), finding);
        (prop::collection::btree_map(0..6u8, entry, 0..6), 0..9u64).prop_map(|(entries, taken)| Findings {
            by_patch: entries
                .into_iter()
                .map(|(patch, (first, finding))| {
                    let patch = PatchId::new(format!("debian/p{patch}")).expect("patch");
                    (patch, (ManifestDigest::from_bytes([u8::from(first); 32]), finding))
                })
                .collect(),
            taken: WallTime::from_unix_seconds(taken),
        })
    }

    proptest! {
        // proves N26
        #[test]
        fn merge_keeps_what_was_assessed_and_is_idempotent(old in findings(), new in findings()) {
            let mut merged = old.clone();
            merged.merge(new.clone());
            for (patch, entry) in &new.by_patch {
                let expected = match old.by_patch.get(patch) {
                    Some(before) if entry.1 == Finding::NotAssessed => before,
                    _ => entry,
                };
                prop_assert_eq!(merged.by_patch.get(patch), Some(expected));
            }
            prop_assert_eq!(merged.by_patch.len(), new.by_patch.len());
            let once = merged.clone();
            merged.merge(new);
            prop_assert_eq!(merged, once);
        }

        #[test]
        fn changes_carry_exactly_the_difference(old in findings(), new in findings()) {
            let changes = new.changes(&old);
            let mut copy = old.clone();
            copy.apply(&changes);
            prop_assert_eq!(&copy, &new);
            prop_assert_eq!(changes.is_empty(), old.by_patch == new.by_patch);
            prop_assert_eq!(decode::<Changes, 65_536>(&encode(&changes)), Ok(changes));
        }
    }
}
