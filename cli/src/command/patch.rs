//! `patchmesh patch`: look at patches, approve them, put them on hold.

mod approve;
mod hold;

pub use approve::{Approve, Unapprove, approve_patches};
pub use hold::{Hold, Release};

use super::{FleetOption, Socket};
use crate::exit::{Exit, Failure, Outcome};
use crate::fleet_files::FleetFiles;
use crate::printer::{Printer, pairs, table};
use clap::{Args, Subcommand};
use node::control::answer;
use node::fleet_directory::FleetError;
use node::units::bytes;
use protocol::identifier::PatchId;
use protocol::manifest::Manifest;
use protocol::policy::deadline::{self, Deadline};
use protocol::policy::{self, Holds, Layer};
use std::collections::BTreeMap;

/// Patches: look at them, approve them, put them on hold
#[derive(Debug, Subcommand)]
pub enum Patch {
    /// List the patches of the catalogues
    List(List),
    /// Show one patch with its files and its evidence
    Show(Show),
    /// Approve patches: the fleet may share and install exactly these manifests
    Approve(Approve),
    /// Take approvals back: the fleet shares and installs these patches no more
    Unapprove(Unapprove),
    /// Put patches on hold: nobody installs or shares them, whatever approves them
    Hold(Hold),
    /// Release holds, by their identifiers or by the patch
    Release(Release),
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

impl Patch {
    pub fn run(self, printer: Printer) -> Outcome {
        match self {
            Patch::List(list) if list.here => {
                let patches = list.socket.connect()?.patches()?;
                printer.data("patches", &patches, |patches| render(patches))?;
            }
            Patch::List(list) => {
                let files = FleetFiles::open(&list.fleet.directory).map_err(without_fleet)?;
                let (layer, _) = files.layer()?;
                let (holds, _) = files.holds()?;
                let manifests = files.manifests()?;
                let patches: Vec<_> =
                    manifests.values().flatten().map(|manifest| describe(manifest, &layer, &holds)).collect();
                printer.data("patches", &patches, |patches| render(patches))?;
            }
            Patch::Show(show) => {
                let files = FleetFiles::open(&show.fleet.directory).map_err(without_fleet)?;
                let (layer, _) = files.layer()?;
                let manifests = files.manifests()?;
                let of_patch = find(&manifests, &show.patch)?;
                let (holds, _) = files.holds()?;
                let one = |manifest| render_one(manifest, &layer, &holds);
                printer
                    .data("manifests", &of_patch, |all| all.iter().map(one).collect::<Vec<_>>().join("\n"))?;
            }
            Patch::Approve(order) => return order.run(printer),
            Patch::Unapprove(order) => return order.run(printer),
            Patch::Hold(order) => return order.run(printer),
            Patch::Release(order) => return order.run(printer),
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

/// The manifests of a patch, at least one.
fn find<'a>(
    manifests: &'a BTreeMap<PatchId, Vec<Manifest>>,
    patch: &PatchId,
) -> Result<&'a [Manifest], Failure> {
    manifests.get(patch).map(Vec::as_slice).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("there is no patch {patch} in the catalogues"))
            .with_hint(
                "see `patchmesh patch list`; if it was imported into another copy of the fleet directory, \
                 `patchmesh fleet publish` brings this one up to date, and otherwise `patchmesh catalogue import` imports it",
            )
    })
}

/// The holds in force on a patch.
fn holds_on<'a>(patch: &PatchId, layer: &'a Layer, holds: &'a Holds) -> Vec<&'a policy::Hold> {
    layer.in_force(holds).filter(|hold| hold.patch == *patch).collect()
}

/// Until when a manifest is to be on the devices of each policy that says so, and on all others.
fn deadlines(manifest: &Manifest, layer: &Layer) -> Vec<String> {
    let digest = manifest.digest();
    let approvals =
        layer.approvals.iter().filter(|one| one.patch == manifest.patch && one.manifest == digest);
    let Some(approved) = approvals.map(|approval| approval.approved).min() else { return Vec::new() };
    let policies = layer.policies.iter().filter(|policy| policy.enabled);
    let set = policies.filter_map(|policy| Some((policy.deadline_days?, format!("policy {}", policy.name))));
    let others = deadline::days(None, manifest.severity)
        .map(|days| (days, "where no policy says otherwise".to_owned()));
    let all = set.chain(others);
    all.map(|(days, whose)| format!("{} ({whose})", Deadline { approved, days }.at())).collect()
}

fn describe(manifest: &Manifest, layer: &Layer, holds: &Holds) -> answer::Patch {
    let digest = manifest.digest();
    let of_patch: Vec<_> = layer.approvals.iter().filter(|one| one.patch == manifest.patch).collect();
    let approved = match of_patch.is_empty() {
        true => "no",
        false if of_patch.iter().any(|approval| approval.manifest == digest) => "yes",
        false => "other-manifest",
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
        held: !holds_on(&manifest.patch, layer, holds).is_empty(),
        finding: None,
    }
}

fn render(patches: &[answer::Patch]) -> String {
    if patches.is_empty() {
        return "No patches; import some with `patchmesh catalogue import`.\n".to_owned();
    }
    let several =
        |patch: &answer::Patch| patches.iter().filter(|other| other.patch == patch.patch).count() > 1;
    let rows = patches.iter().map(|patch| {
        let name = match several(patch) {
            true => format!("{} for {}", patch.patch, patch.targets.join(", ")),
            false => patch.patch.to_string(),
        };
        let approved =
            if patch.held { format!("{}, on hold", patch.approved) } else { patch.approved.clone() };
        vec![
            name,
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

fn render_one(manifest: &Manifest, layer: &Layer, holds: &Holds) -> String {
    let list = |texts: Vec<String>| if texts.is_empty() { "none".to_owned() } else { texts.join(", ") };
    let described = describe(manifest, layer, holds);
    let held = holds_on(&manifest.patch, layer, holds);
    let held = held.into_iter().map(|hold| format!("{} ({})", hold.id, hold.reason)).collect();
    let mut text = pairs(&[
        ("Patch", manifest.patch.to_string()),
        ("Title", manifest.title.clone()),
        ("Severity", format!("{:?}", manifest.severity).to_lowercase()),
        ("CVEs", list(manifest.cves.iter().map(ToString::to_string).collect())),
        ("For", list(described.targets)),
        ("Requires", list(manifest.requires.iter().map(ToString::to_string).collect())),
        ("Replaces", list(manifest.supersedes.iter().map(ToString::to_string).collect())),
        ("Manifest", manifest.digest().to_string()),
        ("Approved", described.approved),
        ("Deadline", list(deadlines(manifest, layer))),
        ("On hold", if described.held { list(held) } else { "no".to_owned() }),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::manifest;
    use protocol::manifest::Severity;

    #[test]
    fn patches_are_read_at_a_glance() {
        let one = manifest("libone", 1);
        let (layer, holds) = (Layer::default(), Holds::default());
        insta::assert_snapshot!(render(&[describe(&one, &layer, &holds)]));
        insta::assert_snapshot!(render_one(&one, &layer, &holds));
    }

    #[test]
    fn a_patch_has_the_deadlines_of_the_policies() {
        let mut one = manifest("libone", 1);
        let policy = |name: &str, rest: &str| {
            format!("[[policy]]\nname = \"{name}\"\nenabled = true\nassign = {{ everyone = true }}\n{rest}\n")
        };
        let mut said = |severity, rest: &str| {
            one.severity = severity;
            let approved = "approved = \"2027-01-01T00:00:00Z\"";
            let (patch, digest) = (&one.patch, one.digest());
            let approval =
                format!("[[approval]]\npatch = \"{patch}\"\nmanifest = \"{digest}\"\n{approved}\n");
            let text = format!("{}{}{approval}", policy("all", ""), policy("branches", rest));
            deadlines(&one, &Layer::parse("x", text.as_bytes()).expect("layer")).join(", ")
        };
        assert_eq!(said(Severity::Important, ""), "");
        assert_eq!(said(Severity::Important, "deadline-days = 3"), "2027-01-04T00:00:00Z (policy branches)");
        let both =
            "2027-01-04T00:00:00Z (policy branches), 2027-01-15T00:00:00Z (where no policy says otherwise)";
        assert_eq!(said(Severity::Critical, "deadline-days = 3"), both);
        assert_eq!(deadlines(&one, &Layer::default()), Vec::<String>::new(), "not approved");
    }
}
