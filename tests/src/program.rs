//! The program under test: where it is, and one command of it at a time.

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Names the program where it is not next to the tests.
const VARIABLE: &str = "PATCHMESH_BIN";

/// Path of the program.
///
/// # Errors
/// It was not built.
pub fn path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return Ok(PathBuf::from(path));
    }
    let tests = std::env::current_exe().context("cannot find the test's own executable")?;
    let own = tests.parent().context("the test lies in no directory")?;
    // Tests lie one below the programs, benchmarks beside them.
    let profile = if own.ends_with("deps") { own.parent() } else { Some(own) };
    let path = profile.context("the test lies in no target directory")?.join("patchmesh");
    ensure!(
        path.exists(),
        "{} is missing: run `cargo build -p patchmesh`, or name the program with {VARIABLE}",
        path.display()
    );
    Ok(path)
}

/// The program, untouched by what the caller's environment says about it.
///
/// # Errors
/// It was not built.
pub fn command() -> Result<Command> {
    let mut command = Command::new(path()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PATCHMESH_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// How one command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// The JSON document on standard output; null when there was none.
    pub document: serde_json::Value,
    /// What it said on standard error.
    pub messages: String,
}

/// Runs one command with `--output json` to its end.
///
/// # Errors
/// It does not start.
pub fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Ended> {
    let output =
        command()?.args(["--output", "json"]).args(arguments).output().context("patchmesh does not start")?;
    Ok(Ended {
        code: output.status.code(),
        document: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        messages: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs one command that has to succeed, and takes what it printed under `name`.
///
/// # Errors
/// It failed, or printed something else.
pub fn ask<T: DeserializeOwned, A: AsRef<OsStr>>(
    name: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<T> {
    let mut ended = run(arguments)?;
    if ended.code != Some(0) {
        bail!("patchmesh ended with {:?}: {}", ended.code, ended.messages);
    }
    serde_json::from_value(ended.document[name].take())
        .with_context(|| format!("patchmesh printed no \"{name}\": {}", ended.messages))
}
