//! `patchmesh patch`: look at patches, approve them.

use super::{FleetOption, Socket, token::now};
use crate::exit::{Exit, Failure, Outcome};
use crate::fleet_files::{FleetFiles, approve};
use crate::printer::{Printer, bytes, pairs, table};
use clap::{Args, Subcommand};
use node::control::answer;
use node::fleet_directory::FleetError;
use protocol::identifier::PatchId;
use protocol::manifest::Manifest;
use protocol::policy::{Approval, Layer};
use serde::Serialize;
use std::collections::BTreeMap;

/// Patches: look at them, approve them
#[derive(Debug, Subcommand)]
pub enum Patch {
    /// List the patches of the catalogues
    List(List),
    /// Show one patch with its files and its evidence
    Show(Show),
    /// Approve patches: the fleet may share and install exactly these manifests
    Approve(Approve),
}

/// List the patches of the catalogues
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  patchmesh patch list\n  patchmesh patch list --here")]
pub struct List {
    /// As the node of this device sees them, instead of the fleet directory
    #[arg(long)]
    here: bool,
    #[command(flatten)]
    fleet: FleetOption,
    #[command(flatten)]
    socket: Socket,
}

/// Show one patch with its files and its evidence
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  patchmesh patch show debian/libssl3=3.0.17-1~deb12u2")]
pub struct Show {
    /// The patch
    patch: PatchId,
    #[command(flatten)]
    fleet: FleetOption,
}

/// Approve patches: the fleet may share and install exactly these manifests
#[derive(Args, Debug)]
#[command(after_help = "\
An approval binds the manifest's digest: when an import changes the manifest, it has to be approved again.

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

impl Patch {
    pub fn run(self, printer: Printer) -> Outcome {
        match self {
            Patch::List(list) if list.here => {
                let patches = list.socket.connect()?.patches()?;
                printer.data("patches", &patches, |patches| render(patches));
            }
            Patch::List(list) => {
                let files = FleetFiles::open(&list.fleet.directory).map_err(without_fleet)?;
                let (layer, _) = files.layer()?;
                let manifests = files.manifests()?;
                let patches: Vec<_> = manifests.values().map(|manifest| describe(manifest, &layer)).collect();
                printer.data("patches", &patches, |patches| render(patches));
            }
            Patch::Show(show) => {
                let files = FleetFiles::open(&show.fleet.directory).map_err(without_fleet)?;
                let (layer, _) = files.layer()?;
                let manifests = files.manifests()?;
                let manifest = find(&manifests, &show.patch)?;
                let approved = describe(manifest, &layer).approved;
                printer.data("patch", manifest, |manifest| render_one(manifest, &approved));
            }
            Patch::Approve(order) => {
                let files = FleetFiles::open(&order.fleet.directory).map_err(without_fleet)?;
                let approved = approve_patches(&files, &order.patches)?;
                printer.data("approved", &approved, render_approved);
                for patch in &approved.unsigned {
                    printer.message(&format!("warning: the vendor did not sign {patch}; nodes refuse it"));
                }
                printer.message("The fleet learns of it with `patchmesh fleet publish`.");
            }
        }
        Ok(Exit::Done)
    }
}

/// Adds what was missing to an error about the fleet directory.
pub fn without_fleet(error: anyhow::Error) -> Failure {
    let elsewhere = matches!(error.downcast_ref(), Some(FleetError::NotAFleet(_)));
    let failure = Failure::from(error);
    match elsewhere {
        true => failure.with_hint("name the one that there is with --fleet, or set PATCHMESH_FLEET"),
        false => failure,
    }
}

/// Approves patches by the manifests that the catalogues hold now.
pub fn approve_patches(files: &FleetFiles, patches: &[PatchId]) -> Result<Approved, Failure> {
    let (layer, text) = files.layer()?;
    let manifests = files.manifests()?;
    let time = now()?;
    let mut done = Approved { approved: Vec::new(), unchanged: Vec::new(), unsigned: Vec::new() };
    let mut new = Vec::new();
    for patch in patches {
        let manifest = find(&manifests, patch)?;
        let digest = manifest.digest();
        if layer.approvals.iter().any(|old| old.patch == *patch && old.manifest == digest) {
            done.unchanged.push(patch.clone());
        } else {
            new.push(Approval { patch: patch.clone(), manifest: digest, approved: time });
            done.approved.push(patch.clone());
        }
        if manifest.weakest_evidence() == "none" {
            done.unsigned.push(patch.clone());
        }
    }
    if !new.is_empty() {
        files.write_layer(&approve(&layer, &text, &new))?;
    }
    Ok(done)
}

fn find<'a>(manifests: &'a BTreeMap<PatchId, Manifest>, patch: &PatchId) -> Result<&'a Manifest, Failure> {
    manifests.get(patch).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("there is no patch {patch} in the catalogues"))
            .with_hint("see `patchmesh patch list`, or import it with `patchmesh catalogue import`")
    })
}

fn describe(manifest: &Manifest, layer: &Layer) -> answer::Patch {
    let digest = manifest.digest();
    let approval = layer.approvals.iter().find(|approval| approval.patch == manifest.patch);
    let approved = match approval {
        Some(approval) if approval.manifest == digest => "yes",
        Some(_) => "other-manifest",
        None => "no",
    };
    answer::Patch {
        patch: manifest.patch.clone(),
        title: manifest.title.clone(),
        kind: manifest.kind,
        severity: manifest.severity,
        cves: manifest.cves.clone(),
        targets: manifest.targets.iter().map(ToString::to_string).collect(),
        manifest: digest,
        size: manifest.size(),
        evidence: manifest.weakest_evidence().to_owned(),
        approved: approved.to_owned(),
        held: false,
        finding: None,
    }
}

fn render(patches: &[answer::Patch]) -> String {
    if patches.is_empty() {
        return "No patches; import some with `patchmesh catalogue import`.\n".to_owned();
    }
    let rows = patches.iter().map(|patch| {
        let approved =
            if patch.held { format!("{}, on hold", patch.approved) } else { patch.approved.clone() };
        vec![
            patch.patch.to_string(),
            format!("{:?}", patch.severity).to_lowercase(),
            bytes(patch.size),
            patch.evidence.clone(),
            approved,
            patch.finding.clone().unwrap_or_default(),
        ]
    });
    let headings = ["PATCH", "SEVERITY", "SIZE", "SIGNED", "APPROVED", "HERE"];
    table(&headings, &[2], &rows.collect::<Vec<_>>())
}

fn render_one(manifest: &Manifest, approved: &str) -> String {
    let list = |texts: Vec<String>| if texts.is_empty() { "none".to_owned() } else { texts.join(", ") };
    let described = describe(manifest, &Layer::default());
    let mut text = pairs(&[
        ("Patch", manifest.patch.to_string()),
        ("Title", manifest.title.clone()),
        ("Severity", format!("{:?}", manifest.severity).to_lowercase()),
        ("CVEs", list(manifest.cves.iter().map(ToString::to_string).collect())),
        ("For", list(described.targets)),
        ("Requires", list(manifest.requires.iter().map(ToString::to_string).collect())),
        ("Replaces", list(manifest.supersedes.iter().map(ToString::to_string).collect())),
        ("Manifest", manifest.digest().to_string()),
        ("Approved", approved.to_owned()),
    ]);
    let rows = manifest.artifacts.iter().map(|artifact| {
        let content = &artifact.content;
        let signed = artifact.evidence.code().to_owned();
        vec![artifact.name.clone(), bytes(content.size), signed, content.sha256.to_string()]
    });
    text.push('\n');
    text.push_str(&table(&["FILE", "SIZE", "SIGNED", "SHA-256"], &[1], &rows.collect::<Vec<_>>()));
    text
}

fn render_approved(approved: &Approved) -> String {
    let line = |word: &'static str| move |patch: &PatchId| format!("{word} {patch}\n");
    let new = approved.approved.iter().map(line("approved"));
    new.chain(approved.unchanged.iter().map(line("was approved already:"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::{fleet, manifest, patch, status};

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
            manifests.values().map(|manifest| describe(manifest, &layer).approved).collect::<Vec<_>>()
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

    #[test]
    fn patches_are_read_at_a_glance() {
        let one = manifest("libone", 1);
        insta::assert_snapshot!(render(&[describe(&one, &Layer::default())]));
        insta::assert_snapshot!(render_one(&one, "no"));
    }
}
