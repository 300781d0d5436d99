//! `patchmesh deploy`: installs approved patches now, and watches until the rescan has decided.

use super::{Socket, plan};
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Printer, table};
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use node::control::{Client, answer};
use protocol::identifier::PatchId;
use protocol::reason::Reason;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often the node is asked how far it is.
const POLL: Duration = Duration::from_millis(250);

/// Install one approved patch, or all that the plan names
#[derive(Args, Debug)]
#[command(after_help = "\
Only approved patches are installed; what is refused is listed with its reason. A patch that was named and is refused \
gives exit code 3.

Example:
  patchmesh deploy
  patchmesh deploy debian/libssl3=3.0.17-1~deb12u2")]
pub struct Deploy {
    /// The patch; without it, all that the plan names
    patch: Option<PatchId>,
    /// Return as soon as the deployment has begun
    #[arg(long)]
    no_wait: bool,
    /// Stop watching after so many seconds; the node goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
    #[command(flatten)]
    socket: Socket,
}

/// What came of an order to deploy.
#[derive(Debug, Serialize)]
struct Deployed {
    deployments: Vec<answer::Deployment>,
    left_out: Vec<answer::LeftOut>,
}

impl Deploy {
    pub fn run(self, printer: Printer) -> Outcome {
        let mut client = self.socket.connect()?;
        let begun = client.deploy(self.patch.clone())?;
        let watch = if self.no_wait { Duration::ZERO } else { Duration::from_secs(self.timeout) };
        let deployments = follow(&mut client, &begun.started, watch, printer)?;
        let result = Deployed { deployments, left_out: begun.left_out };
        printer.data("deploy", &result, render)?;
        if !self.no_wait && result.deployments.iter().any(|deployment| !deployment.finished) {
            return Err(Failure::new(
                Exit::Failed,
                "the deployment has not ended yet; the node goes on with it",
            )
            .with_hint("look at it with `patchmesh status`"));
        }
        Ok(exit(&result, self.patch.is_some()))
    }
}

fn exit(result: &Deployed, named: bool) -> Exit {
    let failed = |deployment: &answer::Deployment| deployment.finished && deployment.state != "installed";
    let failures = result.deployments.iter().filter(|deployment| failed(deployment)).count();
    match (result.deployments.len(), failures) {
        (0, _) if named && !result.left_out.iter().all(is_installed) => Exit::Refused,
        (_, 0) => Exit::Done,
        (all, failed) if all == failed => Exit::Failed,
        _ => Exit::Partly,
    }
}

/// Left out since there is nothing to do: what was asked for is so.
fn is_installed(left_out: &answer::LeftOut) -> bool {
    left_out.reason.code == Reason::AlreadyInstalled.code()
}

fn render(result: &Deployed) -> String {
    let rows = result.deployments.iter().map(|deployment| {
        let why = deployment.reason.as_ref().map(|reason| reason.sentence.clone());
        vec![deployment.patch.to_string(), deployment.state.clone(), why.unwrap_or_default()]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let deployed = match rows.is_empty() {
        true => "Nothing to install.\n".to_owned(),
        false => table(&["PATCH", "STATE", "WHY"], &[], &rows),
    };
    deployed + &plan::left_out(&result.left_out)
}

/// Watches the deployments of `patches` until all have ended or the time is over.
fn follow(
    client: &mut Client,
    patches: &[PatchId],
    watch: Duration,
    printer: Printer,
) -> Result<Vec<answer::Deployment>, Failure> {
    let began = Instant::now();
    let mut bars = Bars::new(printer);
    let mut said = BTreeSet::new();
    loop {
        let status = client.status()?;
        // What a deployment may wait for without an end, each once: its figures change.
        for problem in status.problems.into_iter().filter(|problem| concerns(problem, patches)) {
            if said.insert(problem.reason.code) {
                bars.aside(|| printer.message(&problem.reason.sentence));
            }
        }
        let mine: Vec<_> =
            status.deployments.into_iter().filter(|one| patches.contains(&one.patch)).collect();
        let ended = mine.len() == patches.len() && mine.iter().all(|deployment| deployment.finished);
        if ended || began.elapsed() >= watch {
            bars.clear();
            return Ok(mine);
        }
        if began.elapsed() > Duration::from_secs(1) {
            bars.show(&mine, &client.transfers()?);
        }
        std::thread::sleep(POLL);
    }
}

fn concerns(problem: &answer::Problem, patches: &[PatchId]) -> bool {
    let mut words = problem.reason.sentence.split_whitespace();
    let named = words
        .any(|word| patches.iter().any(|patch| word.trim_end_matches([',', '.', ':']) == patch.as_str()));
    named || problem.reason.code == Reason::DiskFull.code()
}

/// One progress bar for each deployment, on a terminal.
struct Bars {
    all: Option<MultiProgress>,
    bars: BTreeMap<PatchId, ProgressBar>,
}

impl Bars {
    fn new(printer: Printer) -> Bars {
        Bars { all: printer.is_live().then(MultiProgress::new), bars: BTreeMap::new() }
    }

    fn show(&mut self, deployments: &[answer::Deployment], transfers: &[answer::Transfer]) {
        let Some(all) = &self.all else { return };
        for deployment in deployments {
            let bar = self.bars.entry(deployment.patch.clone()).or_insert_with(|| {
                let style = ProgressStyle::with_template("{prefix:32!} {bar:20} {msg}");
                let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
                all.add(ProgressBar::new(1).with_style(style).with_prefix(deployment.patch.to_string()))
            });
            let of_patch =
                transfers.iter().filter(|transfer| transfer.patch.as_ref() == Some(&deployment.patch));
            let (held, total) = of_patch.fold((0, 0), |(held, total), transfer| {
                (held + u64::from(transfer.pieces_held), total + u64::from(transfer.pieces_total))
            });
            bar.set_length(total.max(1));
            bar.set_position(held);
            bar.set_message(deployment.state.clone());
        }
    }

    /// Prints something else in between.
    fn aside(&self, print: impl FnOnce()) {
        match &self.all {
            Some(all) => all.suspend(print),
            None => print(),
        }
    }

    fn clear(&mut self) {
        if let Some(all) = &self.all {
            let _ = all.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::{NOW, patch, reason};

    fn deployment(name: &str, state: &str, finished: bool) -> answer::Deployment {
        answer::Deployment {
            patch: patch(name),
            state: state.to_owned(),
            finished,
            attempts: 1,
            reason: (state == "failed").then(|| reason("installer", "dpkg ended with an error")),
            since: NOW,
        }
    }

    #[test]
    fn the_exit_code_follows_the_outcome() {
        let result = |deployments| Deployed { deployments, left_out: Vec::new() };
        let good = || deployment("debian/a=1", "installed", true);
        let bad = || deployment("debian/b=1", "failed", true);
        assert_eq!(exit(&result(vec![good()]), false), Exit::Done);
        assert_eq!(exit(&result(vec![good(), bad()]), false), Exit::Partly);
        assert_eq!(exit(&result(vec![bad()]), false), Exit::Failed);
        assert_eq!(exit(&result(vec![]), false), Exit::Done);
        let left =
            answer::LeftOut { patch: patch("debian/c=1"), reason: reason("not-approved", "not approved") };
        let only = |left_out| Deployed { deployments: vec![], left_out: vec![left_out] };
        assert_eq!(exit(&only(left.clone()), true), Exit::Refused);
        let there = answer::LeftOut { reason: reason("already-installed", "it is there"), ..left.clone() };
        assert_eq!(exit(&only(there), true), Exit::Done);
        insta::assert_snapshot!(render(&Deployed { deployments: vec![good(), bad()], left_out: vec![left] }));
    }
}
