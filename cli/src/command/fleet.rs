//! `patchmesh fleet`: make a fleet, publish what was staged.

mod init;
mod publish;

pub use init::{Addresses, Made, init};
pub use publish::{Headquarters, publish};

use crate::exit::Outcome;
use crate::printer::Printer;
use clap::Subcommand;

/// The fleet: its repository and its keys
#[derive(Debug, Subcommand)]
pub enum Fleet {
    /// Make a fleet: its keys, its first metadata, and its headquarters
    Init(init::Init),
    /// Sign what was staged and hand it to the seed
    Publish(publish::Publish),
}

impl Fleet {
    pub fn run(self, printer: Printer) -> Outcome {
        match self {
            Fleet::Init(init) => init.run(printer),
            Fleet::Publish(publish) => publish.run(printer),
        }
    }
}
