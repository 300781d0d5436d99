//! What one neighbour costs another on this machine, with the released program: `make bench` runs it. See
//! `docs/benchmarks.md`.
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

mod usage;
mod office;
mod transfer;
mod web;
mod crowd;

use anyhow::{Context as _, Result, bail};
use office::Office;
use std::time::Duration;
use transfer::Measured;
use web::Web;

const HELP: &str = "\
loopback - what a fetch from a neighbour costs, beside nginx, curl and sha256sum
  --runs N       pairs of transfers (5)
  --size MIB     size of the file in MiB (1024)
  --idle SECONDS how long idle nodes are looked at (60); 0: not at all
  --peers N      members that one node serves at the same time (50); 0: not at all
";

/// Idle nodes beside the first.
const OTHERS: usize = 5;

struct Options {
    runs: usize,
    size: usize,
    idle: u64,
    peers: u32,
}

fn options() -> Result<Option<Options>> {
    let mut options = Options { runs: 5, size: 1024, idle: 60, peers: 50 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--help" {
            return Ok(None);
        }
        let value = words.next().with_context(|| format!("{word} needs a number; see --help"))?;
        let number = || value.parse::<u32>().with_context(|| format!("{word} {value}: not a number"));
        match word.as_str() {
            "--runs" => options.runs = number()? as usize,
            "--size" => options.size = number()? as usize,
            "--idle" => options.idle = number()?.into(),
            "--peers" => options.peers = number()?,
            _ => bail!("{word} is no option; see --help"),
        }
    }
    Ok(Some(options))
}

fn main() -> Result<()> {
    let Some(options) = options()? else {
        print!("{HELP}");
        return Ok(());
    };
    println!("preparing a package of {} MiB", options.size);
    let mut office = Office::open(options.size << 20)?;
    if options.idle > 0 {
        let idle = office.idle(OTHERS, Duration::from_secs(options.idle))?;
        println!(
            "idle node, {OTHERS} neighbours and the seed, worst of {}: {:.1} MB anonymous (limit 40), {:.1} MB with \
             the program's file, {:.2} % of a core (limit 0.3)",
            OTHERS + 1,
            megabytes(idle.memory.anonymous),
            megabytes(idle.memory.resident),
            idle.processor_percent
        );
    }
    office.publish()?;
    if options.runs > 0 {
        pairs(&mut office, options.runs)?;
    }
    if options.peers > 0 {
        let served = crowd::serve(&office, options.peers)?;
        println!(
            "serving {} peers: at most {:.1} MB anonymous (limit 60), {:.1} MB with the program's file, {:.0} MiB/s",
            options.peers,
            megabytes(served.memory.anonymous),
            megabytes(served.memory.resident),
            served.speed
        );
    }
    Ok(())
}

/// Each way in turn, so that whatever else the machine does falls on all of them.
fn pairs(office: &mut Office, runs: usize) -> Result<()> {
    let web = Web::start(office.fleet.path(), &office.upgrade.newer)?;
    let names = ["patchmesh, from a neighbour", "nginx, curl, sha256sum", "nginx, curl, openssl dgst"];
    let mut ways: [Vec<Measured>; 3] = Default::default();
    for run in 0..runs {
        let measured = [
            transfer::neighbour(office)?,
            web.fetch(&["sha256sum"])?,
            web.fetch(&["openssl", "dgst", "-sha256"])?,
        ];
        for (way, one) in ways.iter_mut().zip(measured) {
            way.push(one);
        }
        let speeds = measured.map(|one| format!("{:.0}", one.speed())).join(" ");
        println!("run {}: {speeds} MiB/s", run + 1);
    }
    println!("{:<28} {:>9} {:>18}", "median", "MiB/s", "CPU-seconds/GiB");
    for (name, way) in names.iter().zip(&ways) {
        let speed = median(way.iter().map(Measured::speed).collect());
        let processor = median(way.iter().map(Measured::processor_per_gib).collect());
        println!("{name:<28} {speed:>9.0} {processor:>18.2}");
    }
    let ratios = ways[0].iter().zip(&ways[1]).map(|(ours, theirs)| ours.speed() / theirs.speed());
    println!(
        "ratio to sha256sum's way, median of {runs} pairs: {:.2} (at least 1)",
        median(ratios.collect())
    );
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
