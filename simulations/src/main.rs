//! The `simulate` command.

use anyhow::bail;
use clap::{Parser, Subcommand, ValueEnum};
use simulations::mutants::{self, Verdict};
use simulations::sweep::{Next, Swept, sweep};
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
    /// Play one branch with so many devices, without the other options of the world
    #[arg(long, global = true)]
    devices: Option<usize>,
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
    /// Play many seeds, count which options took effect, and name the seeds that fail
    Sweep {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        first_seed: u64,
        /// How many
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// Over how many threads; the outcome is the same
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// Put mistakes into the shipped code, one at a time, and see which check notices at which seed
    Mutants {
        /// How many seeds at most for each
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// Over how many threads
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Only those whose name contains this
        #[arg(long, default_value = "")]
        only: String,
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
        Some(Command::Sweep { first_seed, seeds, threads }) => {
            sweep_seeds(first_seed, seeds, threads, arguments.devices)
        }
        Some(Command::Mutants { seeds, threads, ref only }) => play_mutants(seeds, threads, only),
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

fn scenario(seed: u64, devices: Option<usize>) -> Scenario {
    match devices {
        Some(devices) => Scenario::branch(seed, devices),
        None => Scenario::drawn(seed),
    }
}

fn one(arguments: &Arguments) -> anyhow::Result<()> {
    let scenario = if arguments.demonstration {
        Scenario::demonstration(arguments.seed)
    } else {
        scenario(arguments.seed, arguments.devices)
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

fn sweep_seeds(first: u64, seeds: u64, threads: usize, devices: Option<usize>) -> anyhow::Result<()> {
    let each = |failure: &simulations::Failure| {
        let told = writeln!(io::stdout(), "{failure}");
        if told.is_ok() { Next::Go } else { Next::Stop }
    };
    let swept = sweep(first, seeds, threads, |seed| scenario(seed, devices), each);
    let Swept { seeds, failures, fired, duplicate_bytes_by_cause, digest } = swept;
    let mut out = io::stdout().lock();
    for (option, count) in &fired {
        writeln!(out, "{count:>10}  {option}")?;
    }
    for (cause, bytes) in &duplicate_bytes_by_cause {
        writeln!(out, "{bytes:>10}  bytes over the WAN again: {cause}")?;
    }
    writeln!(out, "{seeds} seeds, {} failed, digest {}", failures.len(), &digest[..16])?;
    if !failures.is_empty() {
        bail!("{} of {seeds} seeds failed", failures.len());
    }
    Ok(())
}

fn play_mutants(seeds: u64, threads: usize, only: &str) -> anyhow::Result<()> {
    let survived = mutants::play(seeds, threads, only, |mutant, verdict| {
        let line = match verdict {
            Verdict::Caught { by } => format!("caught    {mutant:?} ({}): {by}", mutant.what()),
            Verdict::Survived => format!("survived  {mutant:?} ({})", mutant.what()),
        };
        let told = writeln!(io::stdout(), "{line}");
        debug_assert!(told.is_ok(), "standard output takes a line");
    })?;
    writeln!(io::stdout(), "{survived} survived {seeds} seeds")?;
    Ok(())
}
