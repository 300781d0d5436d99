//! The command tree: verbs act on this device, nouns administer the fleet. A file per command.

mod catalogue;
mod deploy;
mod explain;
mod fleet;
mod join;
mod node;
mod patch;
mod peers;
mod plan;
mod policy;
mod report;
mod scan;
mod status;
mod token;

use crate::demo;
use crate::exit::Outcome;
use crate::printer::{Output, Printer};
use ::node::configuration::DEFAULT_CONTROL_SOCKET;
use ::node::control::Client;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Distributes patches from peer to peer: once over the WAN for a whole office, verified before they are shared.
#[derive(Debug, Parser)]
#[command(name = "patchmesh", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Arguments {
    /// Form of the data on standard output
    #[arg(long, global = true, value_enum, default_value_t, hide_default_value = true)]
    pub output: Output,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Verbs act on this device, nouns administer the fleet. Every command has an example: patchmesh COMMAND --help

Exit codes: 0 done, 1 failed, 2 usage, 3 not approved or refused, 4 unreachable, 5 partly failed, 78 bad configuration";

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at what is installed and which patches are missing
    Scan(scan::Scan),
    /// Show what this device will install, and why it leaves patches out
    Plan(plan::Plan),
    /// Install one approved patch, or all that the plan names
    Deploy(deploy::Deploy),
    /// Reports of this device
    #[command(subcommand)]
    Report(report::Report),
    /// Say why a patch is in its state on this device
    Explain(explain::Explain),
    /// Show what the node of this device is and how it is
    Status(status::Status),
    /// Show the members of the fleet that this node knows
    Peers(peers::Peers),
    /// Make this device a member of a fleet
    Join(join::Join),
    /// The fleet: its repository and its keys
    #[command(subcommand)]
    Fleet(fleet::Fleet),
    /// Patches of a vendor, as the fleet knows them
    #[command(subcommand)]
    Catalogue(catalogue::Catalogue),
    /// Patches: look at them, approve them
    #[command(subcommand)]
    Patch(patch::Patch),
    /// Rules: for whom, what, when
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Activation keys for new devices
    #[command(subcommand)]
    Token(token::Token),
    /// The node of this device
    #[command(subcommand)]
    Node(node::Node),
    /// See the whole path of a patch on this machine: a headquarters, a thin WAN, a branch office
    Demo(demo::Demo),
    #[command(name = "demo-wan", hide = true)]
    DemoWan(demo::wan::Wan),
}

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

/// Runs the command that was asked for.
pub fn run(arguments: Arguments, printer: Printer) -> Outcome {
    match arguments.command {
        Command::Scan(scan) => scan.run(printer),
        Command::Plan(plan) => plan.run(printer),
        Command::Deploy(deploy) => deploy.run(printer),
        Command::Report(report) => report.run(printer),
        Command::Explain(explain) => explain.run(printer),
        Command::Status(status) => status.run(printer),
        Command::Peers(peers) => peers.run(printer),
        Command::Join(join) => join.run(printer),
        Command::Fleet(fleet) => fleet.run(printer),
        Command::Catalogue(catalogue) => catalogue.run(printer),
        Command::Patch(patch) => patch.run(printer),
        Command::Policy(policy) => policy.run(printer),
        Command::Token(token) => token.run(printer),
        Command::Node(node) => node.run(printer),
        Command::Demo(demo) => demo.run(printer),
        Command::DemoWan(wan) => wan.run(printer),
    }
}

#[cfg(test)]
pub mod tests;
