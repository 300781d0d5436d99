//! `patchmesh demo`: the whole path of a patch on one machine.

pub mod wan;

use crate::exit::{Exit, Failure, Outcome};
use crate::printer::Printer;
use clap::Args;

/// See the whole path of a patch on this machine: a headquarters, a thin WAN, a branch office
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  patchmesh demo\n  patchmesh demo --exit --output json")]
pub struct Demo {}

impl Demo {
    pub fn run(self, _: Printer) -> Outcome {
        Err(Failure::new(Exit::Failed, "x"))
    }
}

/// Makes the kernel end this process when its parent ends, however that ends.
pub fn end_with_parent() -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    Ok(())
}

/// The runtime of commands that wait for the network.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|error| Failure::of(Exit::Failed, &error))
}
