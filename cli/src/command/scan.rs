//! `patchmesh scan`: what is installed and what is missing.

use super::Socket;
use crate::exit::{Exit, Outcome};
use crate::printer::{Printer, table};
use clap::Args;
use node::control::answer;

/// Look at what is installed and which patches are missing
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  patchmesh scan\n  patchmesh scan --all --output json")]
pub struct Scan {
    /// Show patches that are installed or not applicable, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    socket: Socket,
}

impl Scan {
    pub fn run(self, printer: Printer) -> Outcome {
        let scan = self.socket.connect()?.scan()?;
        printer.data("scan", &scan, |scan| render(scan, self.all))?;
        Ok(Exit::Done)
    }
}

fn render(scan: &answer::Scan, all: bool) -> String {
    let shown = scan.findings.iter().filter(|finding| all || finding.state == "missing");
    let rows: Vec<Vec<String>> = shown
        .map(|finding| {
            let state = match &finding.superseded_by {
                Some(newer) => format!("{}, superseded by {newer}", finding.state),
                None => finding.state.clone(),
            };
            let severity = format!("{:?}", finding.severity).to_lowercase();
            vec![finding.patch.to_string(), severity, state, finding.found.clone().unwrap_or_default()]
        })
        .collect();
    let counts = &scan.counts;
    let summary = format!(
        "{} missing, {} installed, {} not applicable, {} not assessed\n",
        counts.missing, counts.installed, counts.not_applicable, counts.not_assessed
    );
    if rows.is_empty() {
        return summary;
    }
    format!("{}\n{summary}", table(&["PATCH", "SEVERITY", "STATE", "INSTALLED NOW"], &[], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::patch;
    use protocol::manifest::Severity;

    #[test]
    fn missing_patches_stand_in_a_table() {
        let finding = |name, state: &str, found: Option<&str>| answer::Finding {
            patch: patch(name),
            title: name.to_owned(),
            severity: Severity::Important,
            state: state.to_owned(),
            found: found.map(str::to_owned),
            superseded_by: None,
        };
        let scan = answer::Scan {
            counts: answer::FindingCounts { missing: 1, installed: 1, ..answer::FindingCounts::default() },
            findings: vec![
                finding("debian/libssl3=3.0.17-1", "missing", Some("3.0.16-1")),
                finding("debian/zlib1g=1.2", "installed", Some("1.2")),
            ],
        };
        insta::assert_snapshot!(render(&scan, false));
        insta::assert_snapshot!(render(&scan, true));
    }
}
