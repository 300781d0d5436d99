//! The `simulate` command.

use anyhow::bail;
use clap::{Parser, Subcommand, ValueEnum};
use simulations::world::{Keep, Played};
use simulations::{Scenario, run};
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Plays a fleet in virtual time on the core of a node.
#[derive(Debug, Parser)]
struct Arguments {
    /// The seed that everything random follows from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Devices of the branch
    #[arg(long, default_value_t = 5)]
    devices: usize,
    /// Play the shape of `patchmesh demo` instead of what the seed draws
    #[arg(long)]
    demonstration: bool,
    /// Print every input and output
    #[arg(long)]
    trace: bool,
    /// Form of the summary
    #[arg(long, value_enum, default_value_t = Form::Text, global = true)]
    output: Form,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play many seeds, one after the other, and name those that fail
    Sweep {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        first_seed: u64,
        /// How many
        #[arg(long, default_value_t = 200)]
        seeds: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let played = match arguments.command {
        Some(Command::Sweep { first_seed, seeds }) => sweep(first_seed, seeds, arguments.devices),
        None => one(&arguments),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let told = writeln!(io::stderr(), "simulate: {error}");
            debug_assert!(told.is_ok(), "standard error takes a line");
            ExitCode::FAILURE
        }
    }
}

fn one(arguments: &Arguments) -> anyhow::Result<()> {
    let scenario = if arguments.demonstration {
        Scenario::demonstration(arguments.seed)
    } else {
        Scenario::drawn(arguments.seed, arguments.devices)
    };
    let keep = if arguments.trace { Keep::Lines } else { Keep::Digest };
    let played = run(&scenario, keep);
    let mut out = io::stdout().lock();
    let lines = match &played {
        Ok(played) => &played.lines,
        Err(failure) => &failure.lines,
    };
    for line in lines {
        writeln!(out, "{line}")?;
    }
    match played {
        Ok(Played { summary, .. }) if arguments.output == Form::Json => {
            writeln!(out, "{}", serde_json::to_string(&summary)?)?;
        }
        Ok(Played { summary, .. }) => writeln!(out, "{}", serde_json::to_string_pretty(&summary)?)?,
        Err(failure) => bail!(*failure),
    }
    Ok(())
}

fn sweep(first_seed: u64, seeds: u64, devices: usize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let mut failures = 0;
    for seed in first_seed..first_seed.saturating_add(seeds) {
        if let Err(failure) = run(&Scenario::drawn(seed, devices), Keep::Digest) {
            failures += 1;
            writeln!(out, "{failure}")?;
        }
    }
    writeln!(out, "{seeds} seeds, {failures} failed")?;
    if failures > 0 {
        bail!("{failures} of {seeds} seeds failed");
    }
    Ok(())
}
