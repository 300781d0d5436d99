//! `patchmesh node run`: the daemon.

use super::join;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::Printer;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use node::configuration::{Configuration, DEFAULT_FILE, Flag, LogFormat, is_variable};
use node::driver::{self, CancellationToken, Options, SeedError, StartError};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The node of this device
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Run the node until it is told to stop
    Run(Run),
}

/// Run the node until it is told to stop
#[derive(Args, Debug)]
#[command(after_help = "\
Flags override environment variables (PATCHMESH_NODE_LISTEN and so on), which override the file. A bad value stops the \
start, with exit code 78, before anything is bound.

Example:
  patchmesh node run
  patchmesh node run --config branch.toml --log debug")]
pub struct Run {
    #[command(flatten)]
    settings: Settings,
    /// Multiaddresses to listen on for members, separated by commas
    #[arg(long, value_name = "ADDRESSES")]
    listen: Option<String>,
    /// Control socket
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,
    /// What to log: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Form of the log: text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// End when the parent process ends
    #[arg(long, hide = true)]
    end_with_parent: bool,
}

/// Where the configuration comes from.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Configuration file; without it /etc/patchmesh/patchmesh.toml, when that is there
    #[arg(long, value_name = "FILE", env = "PATCHMESH_CONFIG")]
    config: Option<PathBuf>,
    /// Directory of the node's state
    #[arg(long, value_name = "PATH")]
    directory: Option<String>,
    /// Root directory of the system to scan and patch
    #[arg(long, value_name = "PATH")]
    root: Option<String>,
    /// Any other setting, as in the file: --set node.mdns=false
    #[arg(long, value_name = "SETTING=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected SETTING=VALUE, for example node.mdns=false")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Node {
    pub fn run(self, printer: Printer) -> Outcome {
        let Node::Run(run) = self;
        if run.end_with_parent {
            crate::process::end_with_parent().map_err(|error| Failure::of(Exit::Failed, &error))?;
        }
        let configuration = run.settings.configuration(&[
            ("--listen", "node.listen", &run.listen),
            ("--socket", "node.control-socket", &run.socket),
            ("--log", "node.log", &run.log),
            ("--log-format", "node.log-format", &run.log_format),
        ])?;
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| configuration.node.log.clone());
        start_log(&filter, configuration.node.log_format)?;
        start(configuration, printer)
    }
}

impl Settings {
    /// Reads file, environment and flags; `more` are flags of the command: name, setting, value.
    pub fn configuration(&self, more: &[(&str, &str, &Option<String>)]) -> Result<Configuration, Failure> {
        let file = match &self.config {
            Some(file) => Some(file.as_path()),
            None => Some(Path::new(DEFAULT_FILE)).filter(|file| file.exists()),
        };
        let named = [("--directory", "node.directory", &self.directory), ("--root", "node.root", &self.root)];
        let named = named.iter().chain(more).filter_map(|(flag, setting, value)| {
            let value = (*value).clone()?;
            Some(Flag { flag: (*flag).to_owned(), setting: (*setting).to_owned(), value })
        });
        let set = self.set.iter().map(|(setting, value)| Flag {
            flag: format!("--set {setting}"),
            setting: setting.clone(),
            value: value.clone(),
        });
        let flags: Vec<Flag> = named.chain(set).collect();
        let mut environment = Vec::new();
        // Variables whose names are not text cannot be ours.
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        for (name, value) in variables {
            match value.into_string() {
                Ok(value) => environment.push((name, value)),
                Err(_) if is_variable(&name) => {
                    let says = format!("environment variable {name}: its value is not text in UTF-8");
                    return Err(Failure::new(Exit::Configuration, says)
                        .with_hint("give it another value; paths have to be text as well"));
                }
                Err(_) => {}
            }
        }
        Ok(Configuration::load(file, environment, &flags)?)
    }
}

/// Sends the log to standard error, which the service manager keeps.
fn start_log(filter: &str, format: LogFormat) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::of(Exit::Configuration, &error).with_hint("set node.log or RUST_LOG to a level such as info")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

fn start(configuration: Configuration, printer: Printer) -> Outcome {
    node::net::install_crypto_provider();
    let runtime = crate::process::runtime()?;
    let ended = runtime.block_on(run_until_stopped(configuration, printer));
    // What is left are reads of the disk that nobody waits for.
    runtime.shutdown_background();
    ended
}

async fn run_until_stopped(configuration: Configuration, printer: Printer) -> Outcome {
    let waits = |kind| signal(kind).context("cannot wait for a signal");
    let (mut interrupt, mut terminate) = (waits(SignalKind::interrupt())?, waits(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let options = Options { configuration, helper: crate::process::sandbox_helper()?, agent: agent() };
    let running = Box::pin(driver::start(options, stop.clone())).await;
    let running = running.map_err(|error| match error {
        StartError::Membership(error) => join::failed(error),
        StartError::Key(error) => join::failed(error.into()),
        error @ StartError::Seed(SeedError::NoKey { .. }) => Failure::of(Exit::Configuration, &error),
        error => Failure::of(Exit::Failed, &error),
    })?;
    for address in &running.listening {
        printer.message(&format!("members connect at {address}"));
    }
    if let Some(address) = &running.enrolment {
        printer.message(&format!("devices enrol at {address}"));
    }
    if let Some(address) = running.http {
        printer.message(&format!("the dashboard is at http://{address}/"));
    }
    let stopped = running.stopped();
    tokio::pin!(stopped);
    tokio::select! {
        () = &mut stopped => return Ok(Exit::Done),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.cancel();
    // A second signal does not wait for the safe point.
    tokio::select! {
        () = stopped => Ok(Exit::Done),
        _ = interrupt.recv() => Err(unsafe_stop()),
        _ = terminate.recv() => Err(unsafe_stop()),
    }
}

fn unsafe_stop() -> Failure {
    Failure::new(Exit::Failed, "stopped at a second signal, before a safe point was reached")
        .with_hint("nothing is lost: what was under way is resumed at the next start")
}

/// Name and version, for other nodes and for people.
fn agent() -> String {
    format!("patchmesh {}", env!("CARGO_PKG_VERSION"))
}
