//! `patchmesh policy`: check, apply and show the rules.

use super::{FleetOption, Socket, patch::without_fleet};
use crate::exit::{Exit, Failure, Outcome};
use crate::fleet_files::FleetFiles;
use crate::printer::{Printer, pairs};
use crate::rules_text::{approve, release};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use node::control::answer;
use node::disk;
use protocol::limits;
use protocol::policy::Layer;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Rules: for whom, what, when
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Check a policy file without applying it
    Check(Check),
    /// Make a file the policy of the whole fleet
    Apply(Apply),
    /// Show the policy in force on this device
    Show(Show),
}

/// Check a policy file without applying it
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  patchmesh policy check our-policy.toml")]
pub struct Check {
    /// The file
    file: PathBuf,
}

/// Make a file the policy of the whole fleet
#[derive(Args, Debug)]
#[command(after_help = "\
Approvals are made with `patchmesh patch approve`, holds are released with `patchmesh patch release`; a file that names \
none of one kind keeps those that there are.

Example:
  patchmesh policy apply our-policy.toml
  patchmesh fleet publish")]
pub struct Apply {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    fleet: FleetOption,
}

/// Show the policy in force on this device
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  patchmesh policy show")]
pub struct Show {
    #[command(flatten)]
    socket: Socket,
}

/// What a policy file says, in numbers.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    policies: usize,
    configurations: usize,
    approvals: usize,
    /// Of the approvals, those that were taken over from the policy that was there before.
    approvals_kept: usize,
}

impl Policy {
    pub fn run(self, printer: Printer) -> Outcome {
        match self {
            Policy::Check(check) => {
                let (layer, _) = read(&check.file)?;
                printer
                    .data("policy", &count(&layer, 0), |checked| format!("Good: {}\n", render(checked)))?;
            }
            Policy::Apply(apply) => {
                let files = FleetFiles::open(&apply.fleet.directory).map_err(without_fleet)?;
                let checked = apply_policy(&files, &apply.file)?;
                printer.data("policy", &checked, |checked| format!("Applied: {}\n", render(checked)))?;
                printer.message("The fleet learns of it with `patchmesh fleet publish`.");
            }
            Policy::Show(show) => {
                let policy = show.socket.connect()?.policy()?;
                printer.data("policy", &policy, render_view)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn read(path: &Path) -> Result<(Layer, String), Failure> {
    let text = disk::read_text(path, limits::TARGET_BYTES as u64)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let layer = Layer::parse(&path.display().to_string(), text.as_bytes());
    let layer = layer.and_then(|layer| layer.check_written().map(|()| layer));
    let layer = layer.map_err(|error| Failure::of(Exit::Configuration, &error))?;
    Ok((layer, text))
}

/// Makes `file` the policy of the whole fleet. A file without approvals keeps those that there are, and so with releases.
pub fn apply_policy(files: &FleetFiles, file: &Path) -> Result<Checked, Failure> {
    let (layer, text) = read(file)?;
    let _lock = files.lock()?;
    let (old, before) = files.layer()?;
    let kept = if layer.approvals.is_empty() { old.approvals } else { Vec::new() };
    let whole = approve(&layer, &text, &kept, |_| true);
    // A policy that forgot its releases would put patches on hold again.
    let released = if layer.releases.is_empty() { old.releases } else { Vec::new() };
    let approved = Layer { approvals: [layer.approvals.clone(), kept.clone()].concat(), ..layer.clone() };
    files.write_layer(&before, &release(&approved, &whole, &released))?;
    let checked = count(&layer, kept.len());
    Ok(Checked { approvals: checked.approvals + kept.len(), ..checked })
}

fn count(layer: &Layer, approvals_kept: usize) -> Checked {
    Checked {
        policies: layer.policies.len(),
        configurations: layer.configurations.len(),
        approvals: layer.approvals.len(),
        approvals_kept,
    }
}

fn render(checked: &Checked) -> String {
    let kept = match checked.approvals_kept {
        0 => String::new(),
        kept => format!(" ({kept} kept from before)"),
    };
    let Checked { policies, configurations, approvals, .. } = checked;
    format!("policies {policies}, configurations {configurations}, approvals {approvals}{kept}")
}

fn render_view(policy: &answer::Policy) -> String {
    let names =
        |names: &[String], none: &str| if names.is_empty() { none.to_owned() } else { names.join(", ") };
    let deploys = match &policy.inert {
        Some(reason) => format!("no: {}", reason.sentence),
        None => format!("yes, by {}", names(&policy.configurations, "no configuration")),
    };
    let held: Vec<String> = policy.held.iter().map(|(patch, why)| format!("{patch} ({why})")).collect();
    let deadlines = match policy.deadline_days {
        Some(days) => format!("{days} days after approval"),
        None => "14 days after approval for critical patches, none for others".to_owned(),
    };
    let approved: Vec<String> = policy.approved.iter().map(ToString::to_string).collect();
    pairs(&[
        ("Policies", names(&policy.policies, "none: the built-in default, which only scans")),
        ("Deploys", deploys),
        ("Peer download", if policy.peer_download { "on" } else { "off" }.to_owned()),
        ("WAN fetchers", format!("at most {} of the site at a time", policy.wan_fetchers)),
        ("Mirrors", names(&policy.mirrors, "none")),
        ("Caps", names(&policy.caps, "none")),
        ("Scans", format!("every {} minutes", policy.scan_minutes)),
        ("Deadlines", deadlines),
        ("Without news", format!("in force for {} days", policy.offline_days)),
        ("Approved", names(&approved, "nothing")),
        ("On hold", names(&held, "nothing")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::patch::approve_patches;
    use crate::command::tests::{fleet, manifest, patch, reason, status};

    #[test]
    fn applying_keeps_approvals_and_refuses_what_does_not_hold() {
        let directory = tempfile::tempdir().expect("directory");
        let files = fleet(directory.path());
        let libone = manifest("libone", 1);
        files.merge(vec![libone.clone()], &status().system).expect("merge");
        approve_patches(&files, &[libone.patch]).expect("approve");
        let file = directory.path().join("ours.toml");
        std::fs::write(&file, "[[policy]]\nname = \"all\"\nenabled = true\nassign = { everyone = true }\n")
            .expect("write");
        let checked = apply_policy(&files, &file).expect("apply");
        assert_eq!(checked, Checked { policies: 1, configurations: 0, approvals: 1, approvals_kept: 1 });
        std::fs::write(&file, "[[policy]]\nname = \"all\"\nenabeld = true\n").expect("write");
        let bad = apply_policy(&files, &file).expect_err("typo");
        assert_eq!(bad.exit, Exit::Configuration);
        assert!(bad.message.contains("line 3"), "{}", bad.message);
        assert_eq!(files.layer().expect("as before").0.policies.len(), 1);
    }

    #[test]
    fn the_policy_in_force_is_read_at_a_glance() {
        let view = answer::Policy {
            policies: Vec::new(),
            configurations: Vec::new(),
            inert: Some(reason("not-assigned", "no policy is assigned to this device")),
            peer_download: true,
            wan_fetchers: 4,
            mirrors: vec!["debian=http://mirror.example/debian".to_owned()],
            caps: vec!["site 20 Mbit/s, 2 Mbit/s from 08:00 until 18:00".to_owned()],
            scan_minutes: 240,
            deadline_days: None,
            offline_days: 30,
            approved: vec![patch("debian/a=1")],
            held: [(patch("debian/b=1"), "breaks printing".to_owned())].into(),
        };
        insta::assert_snapshot!(render_view(&view));
    }
}
