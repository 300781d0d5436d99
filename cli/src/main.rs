//! The `patchmesh` command: daemon entry, administration, demo.

mod exit;
mod process;
mod printer;
mod fleet_files;
mod rules_text;
mod command;
mod demo;
mod tree;

use clap::Parser as _;
use exit::{Exit, Failure};
use node::deploy::sandbox;
use printer::Printer;
use process::SANDBOX;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: namespaces want a process with one thread.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == SANDBOX) {
        return sandbox::run(std::env::args_os().skip(2).collect());
    }
    let arguments = tree::Arguments::parse();
    let printer = Printer::new(arguments.output);
    // A panic is a mistake in the program: it goes to the log with its place, and the user is told so in one line.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panic")));
    let outcome = catch_unwind(AssertUnwindSafe(|| tree::run(arguments, printer)));
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
