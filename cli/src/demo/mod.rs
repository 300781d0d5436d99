//! `patchmesh demo`: the whole path of a patch on one machine.

pub mod wan;

mod steps;
mod children;
mod wait;
mod upgrade;
mod content;
mod headquarters;
mod branch;
mod figures;
mod table;
mod story;

use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Output, Printer};
use anyhow::Context as _;
use children::Children;
use clap::Args;
use headquarters::Speed;
use std::path::Path;
use story::Story;
use tokio::signal::unix::{SignalKind, signal};

/// See the whole path of a patch on this machine: a headquarters, a thin WAN, a branch office
#[derive(Args, Debug)]
#[command(after_help = "\
Everything happens in a directory of its own, which is removed at the end; nothing is installed on this machine.

Example:
  patchmesh demo
  patchmesh demo --nodes 8 --wan 4/1
  patchmesh demo --exit --output json")]
pub struct Demo {
    /// Devices in the branch office
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=20))]
    nodes: u16,
    /// Megabits per second of the WAN, to the branch and back
    #[arg(long, value_name = "DOWN/UP", default_value = "10/2", value_parser = speed)]
    wan: Speed,
    /// End when the table is printed, instead of staying up until Ctrl-C
    #[arg(long)]
    exit: bool,
}

fn speed(text: &str) -> Result<Speed, String> {
    let expected = "expected two speeds in Mbit/s such as 10/2, each from 0.1 to 10000";
    let (down, up) = text.split_once('/').ok_or(expected)?;
    let one = |text: &str| text.parse::<f64>().ok().filter(|speed| (0.1..=10_000.0).contains(speed));
    Ok(Speed { down: one(down).ok_or(expected)?, up: one(up).ok_or(expected)? })
}

impl Demo {
    /// Runs the demo until it has ended or somebody ends it. All its processes have ended when this returns.
    pub fn run(self, printer: Printer) -> Outcome {
        let directory = tempfile::Builder::new().prefix("patchmesh-demo-").tempdir();
        let directory = directory.context("cannot make a directory for the demo")?;
        let children = Children::default();
        let stay = !self.exit && printer.output() == Output::Text;
        let story = Story {
            printer,
            directory: directory.path().to_owned(),
            children: children.clone(),
            devices: usize::from(self.nodes),
            speed: self.wan,
            stay,
        };
        let ended = crate::process::runtime()?.block_on(tell(story));
        children.stop();
        remove_side_by_side(directory.path());
        if let Err(error) = directory.close() {
            printer.message(&format!("cannot remove the demo's directory: {error}"));
        }
        ended
    }
}

/// The root directories hold thousands of files: removing them side by side takes a fraction of the time. What is left
/// over is the caller's to report.
fn remove_side_by_side(directory: &Path) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    std::thread::scope(|scope| {
        for path in &paths {
            scope.spawn(move || std::fs::remove_dir_all(path));
        }
    });
}

/// Tells the story on a thread of its own, which lives as long as its processes do, and ends it at a signal.
async fn tell(story: Story) -> Outcome {
    let (sender, mut told) = tokio::sync::mpsc::channel(2);
    let waits = |kind| signal(kind).context("cannot wait for a signal");
    let (mut interrupt, mut terminate) = (waits(SignalKind::interrupt())?, waits(SignalKind::terminate())?);
    let stay = story.stay;
    std::thread::Builder::new()
        .name("demo".to_owned())
        .spawn(move || {
            let outcome = story.tell();
            let ended = outcome.is_err() || !stay;
            let _ = sender.blocking_send(outcome);
            if !ended {
                // The processes end with this thread, so it stays until the demo ends.
                loop {
                    std::thread::park();
                }
            }
        })
        .context("cannot start a thread")?;
    let mut done = None;
    loop {
        tokio::select! {
            outcome = told.recv(), if done.is_none() => match outcome {
                Some(Ok(exit)) if stay => done = Some(exit),
                Some(outcome) => return outcome,
                None => return Err(Failure::new(Exit::Failed, "the demo stopped because of a mistake of its own")),
            },
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    done.ok_or_else(|| Failure::new(Exit::Failed, "interrupted before the demo had ended"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_checked() {
        assert_eq!(speed("10/2"), Ok(Speed { down: 10.0, up: 2.0 }));
        for bad in ["10", "10/", "0/1", "10/-2", "NaN/1", "1e9/1"] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }
}
