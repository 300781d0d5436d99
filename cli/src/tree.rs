//! The command tree: verbs act on this device, nouns administer the fleet.

use crate::command::{
    catalogue, deploy, doctor, explain, fleet, join, node, patch, peers, plan, policy, report, scan, status,
    token,
};
use crate::demo;
use crate::exit::Outcome;
use crate::printer::{Output, Printer};
use clap::{Parser, Subcommand};

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
    /// Say what is wrong with this device's part in the fleet, and how to mend it
    Doctor(doctor::Doctor),
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
        Command::Doctor(doctor) => doctor.run(printer),
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
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_tree_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        let mut text = String::new();
        let mut waiting = vec![Arguments::command()];
        while let Some(command) = waiting.pop() {
            let leaf = command.get_subcommands().next().is_none();
            if leaf && !command.is_hide_set() {
                let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(example.contains("Example"), "{} has no example", command.get_name());
            }
            text.push_str(&format!("── {}\n", command.get_name()));
            text.push_str(&command.clone().term_width(100).render_help().to_string());
            waiting.extend(command.get_subcommands().cloned());
        }
        insta::assert_snapshot!(text);
    }
}
