//! Processes of the fleet: started by a test, ended by it, whatever becomes of the test.

use crate::program;
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;

/// One process of the fleet, which can be killed and started again.
#[derive(Debug)]
pub struct Process {
    name: String,
    arguments: Vec<OsString>,
    log: PathBuf,
    running: Option<Child>,
}

impl Process {
    /// A process that does not run yet; what it says goes to the end of the file `log`.
    pub fn new<A: Into<OsString>>(name: &str, arguments: impl IntoIterator<Item = A>, log: &Path) -> Process {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Process { name: name.to_owned(), arguments, log: log.to_owned(), running: None }
    }

    /// Starts it.
    ///
    /// # Errors
    /// It runs already, or does not start.
    pub fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            bail!("{} runs already", self.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = program::command()?
            .args(&self.arguments)
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} does not start", self.name))?;
        self.running = Some(child);
        Ok(())
    }

    /// Its number, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Child::id)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It ended on its own before.
    pub fn kill(&mut self) -> Result<()> {
        self.check()?;
        if let Some(mut child) = self.running.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Has it stand still: what is sent to it waits in the kernel.
    ///
    /// # Errors
    /// It does not run, or ended on its own before.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Has it go on after a pause.
    ///
    /// # Errors
    /// It does not run, or ended on its own before.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.check()?;
        let child = self.running.as_ref().with_context(|| format!("{} does not run", self.name))?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// Asks it to stop at a safe point and waits until it has.
    ///
    /// # Errors
    /// It ended on its own before, or failed at stopping.
    pub fn stop(&mut self) -> Result<()> {
        self.check()?;
        if let Some(mut child) = self.running.take() {
            kill_process(Pid::from_child(&child), Signal::TERM)?;
            let status = child.wait()?;
            if !status.success() {
                bail!("{} stopped with {status}: {}", self.name, self.last_words());
            }
        }
        Ok(())
    }

    /// Whether it still runs, if it should.
    ///
    /// # Errors
    /// It ended on its own; with its last words.
    pub fn check(&mut self) -> Result<()> {
        let Some(child) = &mut self.running else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            self.running = None;
            bail!("{} ended on its own with {status}: {}", self.name, self.last_words());
        }
        Ok(())
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.running {
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() || std::env::var_os("PATCHMESH_TEST_LOGS").is_some() {
            let mut errors = std::io::stderr().lock();
            let _ = std::io::Write::write_fmt(
                &mut errors,
                format_args!("── {} said last\n{}\n", self.name, self.last_words()),
            );
        }
    }
}
