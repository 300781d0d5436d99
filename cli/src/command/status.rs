//! `patchmesh status`: what the node is and how it is.

use super::Socket;
use crate::exit::{Exit, Outcome};
use crate::printer::{Printer, pairs, table};
use clap::Args;
use node::control::answer;
use node::units::bytes;
use std::fmt::Write as _;

/// Show what the node of this device is and how it is
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  patchmesh status\n  patchmesh status --output json")]
pub struct Status {
    #[command(flatten)]
    socket: Socket,
}

impl Status {
    pub fn run(self, printer: Printer) -> Outcome {
        let status = self.socket.connect()?.status()?;
        printer.data("status", &status, render)?;
        Ok(Exit::Done)
    }
}

fn render(status: &answer::Status) -> String {
    let mut text = pairs(&lines(status));
    if !status.deployments.is_empty() {
        let rows = status.deployments.iter().map(|deployment| {
            let why = deployment.reason.as_ref().map(|reason| reason.sentence.clone());
            vec![
                deployment.patch.to_string(),
                deployment.state.clone(),
                deployment.attempts.to_string(),
                why.unwrap_or_default(),
            ]
        });
        let headings = ["DEPLOYMENT", "STATE", "ATTEMPTS", "WHY"];
        let _ = write!(text, "\n{}", table(&headings, &[2], &rows.collect::<Vec<_>>()));
    }
    if !status.refusals.is_empty() {
        let rows = status.refusals.iter().map(|refusal| {
            let subject = refusal.subject.clone();
            vec![
                subject,
                refusal.reason.code.clone(),
                refusal.count.to_string(),
                refusal.reason.sentence.clone(),
            ]
        });
        let headings = ["REFUSED", "CODE", "TIMES", "WHY"];
        let _ = write!(text, "\n{}", table(&headings, &[2], &rows.collect::<Vec<_>>()));
    }
    for problem in &status.problems {
        let _ = write!(text, "\nNeeds attention: {}", problem.reason.sentence);
        if let Some(remedy) = &problem.remedy {
            let _ = write!(text, "\n  {remedy}");
        }
        text.push('\n');
    }
    text
}

fn lines(status: &answer::Status) -> Vec<(&'static str, String)> {
    let roles = if status.roles.is_empty() { "endpoint".to_owned() } else { status.roles.join(", ") };
    let metadata = &status.metadata;
    let version = |role: &str| metadata.versions.get(role).copied().unwrap_or_default();
    let time =
        |time: Option<protocol::time::WallTime>| time.map_or("never".to_owned(), |time| time.to_string());
    let findings = &status.findings;
    let traffic = |part: &answer::Bytes| format!("{} in, {} out", bytes(part.received), bytes(part.sent));
    let seed = if status.connections.seed { "" } else { ", no seed" };
    vec![
        ("Device", format!("{} ({})", status.host, status.device.short())),
        ("Site", format!("{}, {}", status.site, status.class)),
        ("System", status.system.to_string()),
        ("Role", roles),
        ("Software", format!("{}, since {}", status.software, status.started)),
        (
            "Metadata",
            format!(
                "timestamp {}, root {}, expires {}, checked {}",
                version("timestamp"),
                version("root"),
                time(metadata.expires),
                time(metadata.checked)
            ),
        ),
        (
            "Connected",
            format!(
                "{} members, {} of them neighbours{seed}",
                status.connections.members, status.connections.neighbours
            ),
        ),
        (
            "Patches",
            format!(
                "{} missing, {} installed, {} not applicable (scanned {})",
                findings.missing,
                findings.installed,
                findings.not_applicable,
                time(findings.scanned)
            ),
        ),
        ("Content", kept(&status.kept)),
        ("WAN", traffic(&status.traffic.wan)),
        ("LAN", traffic(&status.traffic.lan)),
        ("Caps", caps(&status.caps)),
        (
            "Reports",
            format!("{} written, {} waiting for an aggregator", status.outbox.last, status.outbox.waiting),
        ),
    ]
}

/// What lies on the disk, and how much may.
fn kept(kept: &answer::Kept) -> String {
    let most = match kept.quota {
        0 => String::new(),
        quota => format!("; beyond {} what is not needed here goes", bytes(quota)),
    };
    let files = if kept.contents == 1 { "file" } else { "files" };
    format!("{} in {} {files}{most}", bytes(kept.bytes), kept.contents)
}

/// What may pass now, and why not more, in one line.
fn caps(caps: &answer::Caps) -> String {
    let way = |name: &str, way: &answer::Way| {
        let cap = way.cap.as_ref().map(|cap| format!("at most {cap}"));
        let only = match way.passing.as_str() {
            "all" => None,
            "critical" => Some("critical patches only".to_owned()),
            _ => Some("nothing".to_owned()),
        };
        let only = only.map(|only| match &way.reason {
            Some(reason) => format!("{only} ({})", reason.code),
            None => only,
        });
        let parts: Vec<String> = only.into_iter().chain(cap).collect();
        (!parts.is_empty()).then(|| format!("{name} {}", parts.join(", ")))
    };
    let own = [way("download", &caps.download), way("upload", &caps.upload)];
    let sites = caps.sites.iter().map(|(site, passage)| way(&format!("to {site}"), passage));
    let all: Vec<String> = own.into_iter().chain(sites).flatten().collect();
    if all.is_empty() { "none".to_owned() } else { all.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::status;

    #[test]
    fn a_status_is_read_at_a_glance() {
        insta::assert_snapshot!(render(&status()));
    }

    #[test]
    fn the_json_has_stable_names() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&status()).expect("JSON"));
    }
}
