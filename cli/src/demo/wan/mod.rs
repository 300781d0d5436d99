//! The WAN emulator: the only way from the branch to headquarters in the demo, as thin as a real one, every byte counted.
//!
//! A TCP proxy in a process of its own. Both directions have one pace each, which all connections share.

mod counter;
mod pace;
mod relay;

pub use counter::Counters;
pub use pace::Pace;

use crate::exit::{Exit, Failure, Outcome};
use crate::printer::Printer;
use anyhow::Context as _;
use clap::Args;
use counter::Ledger;
use relay::Relay;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often the counters are written, when they have changed.
const WRITE_EVERY: Duration = Duration::from_millis(100);

/// Emulate the WAN of the demo
#[derive(Args, Debug)]
pub struct Wan {
    /// Where headquarters listens for members
    #[arg(long, value_name = "IP:PORT")]
    pub members: SocketAddr,
    /// Where headquarters listens for devices that enrol
    #[arg(long, value_name = "IP:PORT")]
    pub enrolment: SocketAddr,
    /// Megabits per second from headquarters to the branch
    #[arg(long, value_name = "MBIT")]
    pub down: f64,
    /// Megabits per second from the branch to headquarters
    #[arg(long, value_name = "MBIT")]
    pub up: f64,
    /// File for the counters and the addresses that the branch uses
    #[arg(long, value_name = "FILE")]
    pub counters: PathBuf,
}

impl Wan {
    /// Runs until it is told to stop or its parent has ended.
    pub fn run(self, printer: Printer) -> Outcome {
        let _ = printer;
        crate::process::end_with_parent().context("cannot tie the emulator to the demo")?;
        let runtime = crate::process::runtime()?;
        runtime.block_on(self.emulate())?;
        Ok(Exit::Done)
    }

    async fn emulate(self) -> Result<(), Failure> {
        let mut stop = signal(SignalKind::terminate()).context("cannot wait for a signal")?;
        let ledger = Arc::new(Ledger::default());
        let up = Arc::new(Pace::megabits(self.up));
        let down = Arc::new(Pace::megabits(self.down));
        let relay = Relay { ledger: Arc::clone(&ledger), up, down };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (members, enrolment) = (relay::listen(any), relay::listen(any));
        let (members, enrolment) = (members.context("cannot listen")?, enrolment.context("cannot listen")?);
        ledger.listening(
            members.local_addr().context("listening")?,
            enrolment.local_addr().context("listening")?,
        );
        let writer =
            tokio::spawn(counter::write_changes(Arc::clone(&ledger), self.counters.clone(), WRITE_EVERY));
        let branch = tokio::spawn(relay.clone().run(members, self.members, "members"));
        let stranger = tokio::spawn(relay.run(enrolment, self.enrolment, "enrolment"));
        stop.recv().await;
        for task in [&branch, &stranger, &writer] {
            task.abort();
        }
        counter::write(&ledger.counters(), &self.counters).context("cannot write the counters")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
