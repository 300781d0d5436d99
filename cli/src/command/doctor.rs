//! `patchmesh doctor`: what is wrong with this device's part in the fleet, and how to mend it.

mod here;
mod node;

use super::node::Settings;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Printer, Tone};
use ::node::control::{Client, ClientError};
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;

/// Say what is wrong with this device's part in the fleet, and how to mend it
#[derive(Args, Debug)]
#[command(after_help = "\
Looks at configuration, membership, clock, metadata, seed and neighbours, ports, disk, permissions and dpkg. What only a running \
node knows is left out while none runs. Exit code 1 when there is a problem, 0 when there are only warnings.

Example:
  patchmesh doctor
  patchmesh doctor --config branch.toml --output json")]
pub struct Doctor {
    #[command(flatten)]
    settings: Settings,
    /// Control socket of the node, when it is not the one of the configuration
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, and wants attention.
    Warning,
    /// Does not work.
    Problem,
}

/// One line of the diagnosis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, in one word.
    pub about: &'static str,
    /// What was found.
    pub verdict: Verdict,
    /// One sentence.
    pub says: String,
    /// What to do, where something is to be done.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(about: &'static str, says: impl Into<String>) -> Check {
        Check { about, verdict: Verdict::Ok, says: says.into(), remedy: None }
    }

    fn warning(about: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { about, verdict: Verdict::Warning, says: says.into(), remedy: Some(remedy.into()) }
    }

    fn problem(about: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { about, verdict: Verdict::Problem, says: says.into(), remedy: Some(remedy.into()) }
    }

    /// A problem in the words of an error and its causes. Messages end with the remedy, after a semicolon.
    fn of(about: &'static str, failure: &Failure) -> Check {
        let (message, remedy) = match (failure.message.rsplit_once("; "), &failure.hint) {
            (_, Some(hint)) => (failure.message.as_str(), hint.clone()),
            (Some((message, remedy)), None) => (message, remedy.to_owned()),
            (None, None) => (failure.message.as_str(), "look at the node's log".to_owned()),
        };
        let says = std::iter::once(message).chain(failure.causes.iter().map(String::as_str));
        Check::problem(about, says.collect::<Vec<_>>().join(": "), remedy)
    }
}

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// Whether there is no problem.
    pub healthy: bool,
    /// The checks, in the order in which to mend them.
    pub checks: Vec<Check>,
}

impl Doctor {
    pub fn run(self, printer: Printer) -> Outcome {
        let checks = printer.wait("Looking at this device", || self.examine());
        let diagnosis =
            Diagnosis { healthy: checks.iter().all(|check| check.verdict != Verdict::Problem), checks };
        printer.data("doctor", &diagnosis, |diagnosis| render(diagnosis, printer))?;
        Ok(if diagnosis.healthy { Exit::Done } else { Exit::Failed })
    }

    fn examine(&self) -> Vec<Check> {
        let socket = ("--socket", "node.control-socket", &self.socket);
        let configuration = match self.settings.configuration(&[socket]) {
            Ok(configuration) => configuration,
            // Nothing else can be found without knowing where it lies.
            Err(failure) => return vec![Check::of("configuration", &failure)],
        };
        let socket = &configuration.node.control_socket;
        let mut node = Client::connect(socket);
        let mut checks = here::checks(&configuration, node.is_ok());
        match &mut node {
            Ok(client) => match node::ask(client) {
                Ok(known) => checks.extend(node::checks(&known)),
                Err(error) => checks.push(Check::of("node", &Failure::from(error))),
            },
            Err(error @ ClientError::NotRunning(_)) => checks.push(Check::problem(
                "node",
                format!("{error}; seed, neighbours and metadata cannot be looked at"),
                "start it with `patchmesh node run`",
            )),
            Err(_) => {}
        }
        if let Err(error) = node
            && !matches!(error, ClientError::NotRunning(_))
        {
            checks.push(Check::of("node", &Failure::from(error)));
        }
        checks
    }
}

fn render(diagnosis: &Diagnosis, printer: Printer) -> String {
    let mut text = String::new();
    for check in &diagnosis.checks {
        let (tone, word) = match check.verdict {
            Verdict::Ok => (Tone::Good, "ok     "),
            Verdict::Warning => (Tone::Faint, "warning"),
            Verdict::Problem => (Tone::Bad, "problem"),
        };
        let _ = writeln!(text, "{}  {:<13}  {}", printer.paint(tone, word), check.about, check.says);
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "{:24}→ {remedy}", "");
        }
    }
    let problems = diagnosis.checks.iter().filter(|check| check.verdict == Verdict::Problem).count();
    let _ = match problems {
        0 => writeln!(text, "\nNo problem found."),
        1 => writeln!(text, "\nOne problem found."),
        many => writeln!(text, "\n{many} problems found."),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printer::Output;

    #[test]
    fn a_diagnosis_is_read_at_a_glance() {
        let checks = vec![
            Check::ok("membership", "desk-7 of site utrecht, until 2027-01-15T08:00:00Z"),
            Check::warning("neighbours", "no neighbour is connected", "look at the network"),
            Check::problem("node", "no node is running on this device", "start it with `patchmesh node run`"),
        ];
        let diagnosis = Diagnosis { healthy: false, checks };
        insta::assert_snapshot!(render(&diagnosis, Printer::new(Output::Json)));
        insta::assert_snapshot!(serde_json::to_string_pretty(&diagnosis).expect("JSON"));
    }
}
