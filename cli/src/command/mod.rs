//! The commands, a file for each: their arguments, what they do, and how it is printed.

pub mod catalogue;
pub mod deploy;
pub mod doctor;
pub mod explain;
pub mod fleet;
pub mod join;
pub mod node;
pub mod patch;
pub mod peers;
pub mod plan;
pub mod policy;
pub mod report;
pub mod scan;
pub mod status;
pub mod token;

use ::node::configuration::DEFAULT_CONTROL_SOCKET;
use ::node::control::Client;
use clap::Args;
use std::path::PathBuf;

/// How to reach the node of this device.
#[derive(Args, Clone, Debug)]
pub struct Socket {
    /// Control socket of the node
    #[arg(long, value_name = "PATH", env = "PATCHMESH_NODE_CONTROL_SOCKET", default_value = DEFAULT_CONTROL_SOCKET)]
    socket: PathBuf,
}

impl Socket {
    fn connect(&self) -> Result<Client, crate::exit::Failure> {
        Ok(Client::connect(&self.socket)?)
    }
}

/// Where the administrator keeps the fleet.
#[derive(Args, Clone, Debug)]
pub struct FleetOption {
    /// The fleet directory, as `patchmesh fleet init` made it
    #[arg(long = "fleet", value_name = "DIRECTORY", env = "PATCHMESH_FLEET", default_value = "fleet")]
    directory: PathBuf,
}

#[cfg(test)]
pub mod tests;
