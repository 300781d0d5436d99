//! `patchmesh patch approve` and `unapprove`: what the fleet may share and install.

use super::{find, without_fleet};
use crate::command::FleetOption;
use crate::command::token::now;
use crate::exit::{Exit, Failure, Outcome};
use crate::fleet_files::FleetFiles;
use crate::printer::Printer;
use crate::rules_text::{approve, unapprove};
use clap::Args;
use protocol::identifier::{ManifestDigest, PatchId};
use protocol::manifest::Manifest;
use protocol::policy::Approval;
use serde::Serialize;
use std::collections::BTreeSet;

/// Approve patches: the fleet may share and install exactly these manifests
#[derive(Args, Debug)]
#[command(after_help = "\
An approval binds the digest of each manifest that the patch has, one for each operating system and architecture that it was \
imported for: when an import changes or adds one, approve it again.

Example:
  patchmesh patch approve debian/libssl3=3.0.17-1~deb12u2
  patchmesh fleet publish")]
pub struct Approve {
    /// The patches
    #[arg(required = true)]
    patches: Vec<PatchId>,
    #[command(flatten)]
    fleet: FleetOption,
}

/// Take approvals back: the fleet shares and installs these patches no more
#[derive(Args, Debug)]
#[command(after_help = "\
What is installed stays installed. `patchmesh patch hold` stops a patch whatever approves it.

Example:
  patchmesh patch unapprove debian/libssl3=3.0.17-1~deb12u2
  patchmesh fleet publish")]
pub struct Unapprove {
    /// The patches
    #[arg(required = true)]
    patches: Vec<PatchId>,
    #[command(flatten)]
    fleet: FleetOption,
}

/// What `patch approve` did.
#[derive(Debug, Serialize)]
pub struct Approved {
    /// Patches that were approved just now.
    pub approved: Vec<PatchId>,
    /// Patches whose very manifest was approved before.
    pub unchanged: Vec<PatchId>,
    /// Of both, those that the vendor did not sign; nodes refuse them.
    pub unsigned: Vec<PatchId>,
}

/// What `patch unapprove` did.
#[derive(Debug, Serialize)]
pub struct Unapproved {
    /// Patches that are approved no more.
    pub unapproved: Vec<PatchId>,
    /// Patches that were not approved.
    pub unchanged: Vec<PatchId>,
}

impl Approve {
    pub fn run(self, printer: Printer) -> Outcome {
        let files = FleetFiles::open(&self.fleet.directory).map_err(without_fleet)?;
        let approved = approve_patches(&files, &self.patches)?;
        printer.data("approved", &approved, render_approved)?;
        for patch in &approved.unsigned {
            printer.message(&format!("warning: the vendor did not sign {patch}; nodes refuse it"));
        }
        printer.message("The fleet learns of it with `patchmesh fleet publish`.");
        Ok(Exit::Done)
    }
}

impl Unapprove {
    pub fn run(self, printer: Printer) -> Outcome {
        let files = FleetFiles::open(&self.fleet.directory).map_err(without_fleet)?;
        let unapproved = unapprove_patches(&files, &self.patches)?;
        printer.data("unapproved", &unapproved, render_unapproved)?;
        printer.message("The fleet learns of it with `patchmesh fleet publish`.");
        Ok(Exit::Done)
    }
}

/// Approves patches by the manifests that the catalogues hold now, all of them.
pub fn approve_patches(files: &FleetFiles, patches: &[PatchId]) -> Result<Approved, Failure> {
    let _lock = files.lock()?;
    let (layer, text) = files.layer()?;
    let manifests = files.manifests()?;
    let time = now()?;
    let mut done = Approved { approved: Vec::new(), unchanged: Vec::new(), unsigned: Vec::new() };
    let mut new = Vec::new();
    for patch in patches {
        let of_patch = find(&manifests, patch)?;
        let is_approved = |digest: &ManifestDigest| layer.approvals.iter().any(|old| old.manifest == *digest);
        let digests = of_patch.iter().map(Manifest::digest).filter(|digest| !is_approved(digest));
        let lacking: Vec<Approval> =
            digests.map(|manifest| Approval { patch: patch.clone(), manifest, approved: time }).collect();
        let group = if lacking.is_empty() { &mut done.unchanged } else { &mut done.approved };
        group.push(patch.clone());
        new.extend(lacking);
        if of_patch.iter().any(|manifest| manifest.weakest_evidence() == "none") {
            done.unsigned.push(patch.clone());
        }
    }
    if !new.is_empty() {
        let listed: BTreeSet<ManifestDigest> = manifests.values().flatten().map(Manifest::digest).collect();
        files.write_layer(&text, &approve(&layer, &text, &new, |digest| listed.contains(digest)))?;
    }
    Ok(done)
}

/// Takes approvals back. A patch that no catalogue lists and nothing approves is a mistake.
fn unapprove_patches(files: &FleetFiles, patches: &[PatchId]) -> Result<Unapproved, Failure> {
    let _lock = files.lock()?;
    let (layer, text) = files.layer()?;
    let is_approved = |patch: &&PatchId| layer.approvals.iter().any(|approval| approval.patch == **patch);
    let (approved, others): (Vec<&PatchId>, Vec<&PatchId>) = patches.iter().partition(is_approved);
    let manifests = files.manifests()?;
    for patch in &others {
        find(&manifests, patch)?;
    }
    let unapproved: Vec<PatchId> = approved.into_iter().cloned().collect();
    if !unapproved.is_empty() {
        files.write_layer(&text, &unapprove(&layer, &text, &unapproved))?;
    }
    Ok(Unapproved { unapproved, unchanged: others.into_iter().cloned().collect() })
}

fn render_approved(approved: &Approved) -> String {
    let line = |word: &'static str| move |patch: &PatchId| format!("{word} {patch}\n");
    let new = approved.approved.iter().map(line("approved"));
    new.chain(approved.unchanged.iter().map(line("was approved already:"))).collect()
}

fn render_unapproved(done: &Unapproved) -> String {
    let line = |word: &'static str| move |patch: &PatchId| format!("{word} {patch}\n");
    let gone = done.unapproved.iter().map(line("approved no more:"));
    gone.chain(done.unchanged.iter().map(line("was not approved:"))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{describe, render};
    use super::*;
    use crate::command::tests::{fleet, manifest, patch, status};
    use protocol::policy::Holds;

    // proves N8
    #[test]
    fn approving_binds_the_manifest_that_is_there() {
        let directory = tempfile::tempdir().expect("directory");
        let files = fleet(directory.path());
        let libone = manifest("libone", 1);
        files.merge(vec![libone.clone(), manifest("libtwo", 1)], &status().system).expect("merge");
        let approved = approve_patches(&files, std::slice::from_ref(&libone.patch)).expect("approve");
        assert_eq!((approved.approved.len(), approved.unsigned.len()), (1, 1));
        let again = approve_patches(&files, std::slice::from_ref(&libone.patch)).expect("approve");
        assert_eq!((again.approved.len(), again.unchanged.len()), (0, 1));
        let state = || {
            let (layer, _) = files.layer().expect("layer");
            let manifests = files.manifests().expect("manifests");
            manifests
                .values()
                .map(|of_patch| describe(&of_patch[0], &layer, &Holds::default()).approved)
                .collect::<Vec<_>>()
        };
        assert_eq!(state(), ["yes", "no"]);
        let merged = files.merge(vec![manifest("libone", 2)], &status().system).expect("merge");
        assert_eq!(merged.changed, 1);
        assert_eq!(state(), ["other-manifest", "no"]);
        approve_patches(&files, &[libone.patch]).expect("approve");
        assert_eq!(state(), ["yes", "no"]);
        let unknown = approve_patches(&files, &[patch("debian/gone=1")]).expect_err("unknown");
        assert_eq!(unknown.exit, Exit::Usage);
    }

    // proves N8, N9
    #[test]
    fn a_patch_for_two_architectures_is_approved_for_both_and_taken_back_from_both() {
        let directory = tempfile::tempdir().expect("directory");
        let files = fleet(directory.path());
        let (amd64, mut arm64) = (manifest("libone", 1), manifest("libone", 2));
        arm64.targets[0].architecture = Some("arm64".to_owned());
        files.merge(vec![amd64.clone()], &status().system).expect("merge");
        approve_patches(&files, std::slice::from_ref(&amd64.patch)).expect("approve");
        // On the same machine: it takes nobody's place.
        let merged = files.merge(vec![arm64], &status().system).expect("merge");
        assert_eq!((merged.added, merged.changed), (1, 0));
        let shown = || {
            let ((layer, _), manifests) =
                (files.layer().expect("layer"), files.manifests().expect("manifests"));
            let all = manifests.values().flatten();
            let all: Vec<_> = all.map(|one| describe(one, &layer, &Holds::default())).collect();
            render(&all)
        };
        insta::assert_snapshot!("one_of_two_architectures_is_approved", shown());
        let approved = approve_patches(&files, std::slice::from_ref(&amd64.patch)).expect("approve");
        assert_eq!(approved.approved.len(), 1);
        assert_eq!(files.layer().expect("layer").0.approvals.len(), 2);
        assert!(!shown().contains("other-manifest"), "{}", shown());
        unapprove_patches(&files, std::slice::from_ref(&amd64.patch)).expect("unapprove");
        assert!(files.layer().expect("layer").0.approvals.is_empty());
    }

    #[test]
    fn an_approval_is_taken_back() {
        let directory = tempfile::tempdir().expect("directory");
        let files = fleet(directory.path());
        let libone = manifest("libone", 1).patch;
        files.merge(vec![manifest("libone", 1)], &status().system).expect("merge");
        approve_patches(&files, std::slice::from_ref(&libone)).expect("approve");
        let taken = unapprove_patches(&files, std::slice::from_ref(&libone)).expect("unapprove");
        assert_eq!((taken.unapproved.len(), taken.unchanged.len()), (1, 0));
        assert!(files.layer().expect("layer").0.approvals.is_empty());
        let again = unapprove_patches(&files, std::slice::from_ref(&libone)).expect("unapprove");
        assert_eq!((again.unapproved.len(), again.unchanged.len()), (0, 1));
        let unknown = unapprove_patches(&files, &[patch("debian/gone=1")]).expect_err("unknown");
        assert_eq!(unknown.exit, Exit::Usage);
    }
}
