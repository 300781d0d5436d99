//! The `simulate` command.

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand, ValueEnum};
use simulations::mutants::{self, Verdict};
use simulations::rollout::{self, Plan};
use simulations::sweep::{Next, Swept, sweep};
use simulations::world::{Keep, Played};
use simulations::{Scenario, run};
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
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
    /// Bring one patch to hundreds of large sites, and see how far that is from what no way of fetching can beat
    Fleet(FleetArguments),
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

/// One patch for many large sites.
#[derive(Debug, clap::Args)]
struct FleetArguments {
    /// A file with the plan (TOML); what it does not say stands as `--print-plan` shows
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Print the plan instead of playing it
    #[arg(long)]
    print_plan: bool,
    /// How many sites, instead of what the plan says
    #[arg(long)]
    sites: Option<u32>,
    /// The seed, instead of what the plan says
    #[arg(id = "plan_seed", long = "seed")]
    seed: Option<u64>,
    /// Play the site of this number only
    #[arg(long)]
    site: Option<u32>,
    /// Over how many threads; the outcome is the same
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Write a table of the sites (sites.csv) and charts (SVG) into this directory
    #[arg(long)]
    to: Option<PathBuf>,
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
            let each = |seed| scenario(seed, arguments.devices);
            sweep_seeds(first_seed, seeds, threads, each, arguments.output)
        }
        Some(Command::Mutants { seeds, threads, ref only }) => {
            play_mutants(seeds, threads, only, arguments.output)
        }
        Some(Command::Fleet(ref fleet)) => rollout(fleet, arguments.devices, arguments.output),
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

/// A failure is told when it is known: as a text among the figures, beside a document on standard error.
fn sweep_seeds(
    first: u64,
    seeds: u64,
    threads: usize,
    scenario: impl Fn(u64) -> Scenario + Sync,
    output: Form,
) -> anyhow::Result<()> {
    let each = |failure: &simulations::Failure| {
        let told = match output {
            Form::Text => writeln!(io::stdout(), "{failure}"),
            Form::Json => writeln!(io::stderr(), "{failure}"),
        };
        if told.is_ok() { Next::Go } else { Next::Stop }
    };
    let swept = sweep(first, seeds, threads, scenario, each);
    let mut out = io::stdout().lock();
    match output {
        Form::Text => write_swept(&mut out, &swept)?,
        Form::Json => writeln!(out, "{}", serde_json::to_string(&swept)?)?,
    }
    if !swept.failures.is_empty() {
        bail!("{} of {} seeds failed", swept.failures.len(), swept.seeds);
    }
    Ok(())
}

fn write_swept(out: &mut impl io::Write, swept: &Swept) -> io::Result<()> {
    let Swept { seeds, failures, fired, duplicate_bytes_by_cause, digest } = swept;
    for (option, count) in fired {
        writeln!(out, "{count:>10}  {option}")?;
    }
    for (cause, bytes) in duplicate_bytes_by_cause {
        writeln!(out, "{bytes:>10}  bytes over the WAN again: {cause}")?;
    }
    writeln!(out, "{seeds} seeds, {} failed, digest {}", failures.len(), &digest[..16])
}

fn play_mutants(seeds: u64, threads: usize, only: &str, output: Form) -> anyhow::Result<()> {
    let mut verdicts = Vec::new();
    let survived = mutants::play(seeds, threads, only, |mutant, verdict| {
        let line = match verdict {
            _ if output == Form::Json => return verdicts.push(verdict.document(mutant)),
            Verdict::Caught { by } => format!("caught    {mutant:?} ({}): {by}", mutant.what()),
            Verdict::Survived => format!("survived  {mutant:?} ({})", mutant.what()),
        };
        let told = writeln!(io::stdout(), "{line}");
        debug_assert!(told.is_ok(), "standard output takes a line");
    })?;
    match output {
        Form::Text => writeln!(io::stdout(), "{survived} survived {seeds} seeds")?,
        Form::Json => {
            let all = serde_json::json!({ "seeds": seeds, "survived": survived, "mutants": verdicts });
            writeln!(io::stdout(), "{all}")?;
        }
    }
    Ok(())
}

fn rollout(arguments: &FleetArguments, devices: Option<usize>, output: Form) -> anyhow::Result<()> {
    let mut plan = match &arguments.plan {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Plan::from_toml(&text).with_context(|| path.display().to_string())?
        }
        None => Plan::default(),
    };
    plan.sites = arguments.sites.unwrap_or(plan.sites);
    plan.seed = arguments.seed.unwrap_or(plan.seed);
    if let Some(devices) = devices {
        plan.devices = u32::try_from(devices)?;
    }
    plan.check()?;
    let mut out = io::stdout().lock();
    if arguments.print_plan {
        return Ok(write!(out, "{}", toml::to_string(&plan)?)?);
    }
    let again = |failure: rollout::Failure| {
        let plan_file = arguments.plan.as_ref().map(|path| format!(" --plan {}", path.display()));
        anyhow::anyhow!(
            "{failure}\nsimulate fleet{} --sites {} --devices {} --seed {} --site {}",
            plan_file.unwrap_or_default(),
            plan.sites,
            plan.devices,
            plan.seed,
            failure.site
        )
    };
    if let Some(number) = arguments.site {
        let site = rollout::run::play_one(&plan, number).map_err(again)?;
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&site)?)?);
    }
    let played = rollout::run(&plan, arguments.threads, |done| {
        let told = write!(io::stderr(), "\r{done} of {} sites", plan.sites);
        debug_assert!(told.is_ok(), "standard error takes a line");
    });
    writeln!(io::stderr())?;
    let played = played.map_err(again)?;
    if let Some(directory) = &arguments.to {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("sites.csv"), rollout::report::csv(&played.sites))?;
        fs::write(directory.join("distances.svg"), rollout::chart::distances(&played.sites))?;
        fs::write(directory.join("progress.svg"), rollout::chart::progress(&played.fleet))?;
    }
    match output {
        Form::Json => {
            let all = serde_json::json!({ "plan": plan, "fleet": played.fleet, "sites": played.sites });
            writeln!(out, "{all}")?;
        }
        Form::Text => write!(out, "{}", rollout::report::text(&played.fleet))?,
    }
    Ok(())
}
