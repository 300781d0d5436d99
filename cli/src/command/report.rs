//! `patchmesh report`: what this device has reported.

use super::Socket;
use crate::exit::{Exit, Outcome};
use crate::printer::{Printer, table};
use clap::{Args, Subcommand};
use node::control::answer;

/// Reports of this device
#[derive(Debug, Subcommand)]
pub enum Report {
    /// List the reports that this device still keeps, and whether an aggregator has them
    List(List),
}

/// List the reports that this device still keeps, and whether an aggregator has them
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  patchmesh report list --limit 5")]
pub struct List {
    /// Only reports with a higher number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// At most so many, the newest ones
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    limit: u32,
    #[command(flatten)]
    socket: Socket,
}

impl Report {
    pub fn run(self, printer: Printer) -> Outcome {
        let Report::List(list) = self;
        let reports = list.socket.connect()?.reports(list.after, list.limit)?;
        printer.data("reports", &reports, |reports| render(reports))?;
        Ok(Exit::Done)
    }
}

fn render(reports: &[answer::Report]) -> String {
    if reports.is_empty() {
        return "No report is kept here: none was written yet, or an aggregator has them all.\n".to_owned();
    }
    let rows = reports.iter().map(|report| {
        let kept = if report.durable { "at the aggregator" } else { "waiting" };
        vec![
            report.sequence.to_string(),
            report.time.to_string(),
            report.kind.clone(),
            kept.to_owned(),
            report.summary.clone(),
        ]
    });
    table(&["NUMBER", "TIME", "KIND", "WHERE", "SAYS"], &[0], &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::NOW;

    #[test]
    fn reports_stand_in_a_table() {
        let report = |sequence, durable| answer::Report {
            incarnation: 1,
            sequence,
            time: NOW,
            kind: "scan".to_owned(),
            summary: "2 missing, 1 installed".to_owned(),
            durable,
        };
        insta::assert_snapshot!(render(&[report(1, true), report(2, false)]));
        assert_eq!(
            render(&[]),
            "No report is kept here: none was written yet, or an aggregator has them all.\n"
        );
    }
}
