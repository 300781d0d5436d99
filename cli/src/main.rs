//! The `patchmesh` command: daemon entry, administration, demo.

mod command;
mod demo;
mod exit;
mod fleet_files;
mod printer;

use clap::Parser as _;
use exit::{Exit, Failure};
use node::deploy::{Helper, sandbox};
use printer::Printer;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// First argument that makes this program the installer's sandbox; only the node starts it so.
const SANDBOX: &str = "installer-sandbox";

/// How the node starts the installer's sandbox.
fn sandbox_helper() -> Result<Helper, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::of(Exit::Failed, &error))?;
    Ok(Helper { program, arguments: vec![SANDBOX.to_owned()] })
}

fn main() -> ExitCode {
    // Before anything else: namespaces want a process with one thread.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == SANDBOX) {
        return sandbox::run(std::env::args_os().skip(2).collect());
    }
    let arguments = command::Arguments::parse();
    let printer = Printer::new(arguments.output);
    // A panic is a mistake in the program: it goes to the log with its place, and the user is told so in one line.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panic")));
    let outcome = catch_unwind(AssertUnwindSafe(|| command::run(arguments, printer)));
    let exit = match outcome {
        Ok(Ok(exit)) => exit,
        Ok(Err(failure)) => {
            printer.failure(&failure);
            failure.exit
        }
        Err(_) => {
            let failure = Failure::new(Exit::Failed, "the program stopped because of a mistake of its own")
                .with_hint("run it again with RUST_LOG=error and report what it prints");
            printer.failure(&failure);
            failure.exit
        }
    };
    exit.into()
}
