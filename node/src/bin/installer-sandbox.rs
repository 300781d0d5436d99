//! The helper of the installer's sandbox as a program of its own; `patchmesh` has the same as a hidden subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    node::deploy::sandbox::run(std::env::args_os().skip(1).collect())
}
