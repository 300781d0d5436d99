//! The processes of the demo: started by it, watched by it, ended by it, whatever happens.

use crate::exit::{Exit, Failure};
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the processes have to stop at a safe point.
const GRACE: Duration = Duration::from_secs(5);

/// The end of a log that is shown when its process has ended on its own.
const LOG_LINES: usize = 8;

/// All processes that were started and not awaited yet.
#[derive(Clone, Debug, Default)]
pub struct Children {
    running: Arc<Mutex<Vec<Running>>>,
}

#[derive(Debug)]
struct Running {
    name: String,
    log: PathBuf,
    process: Child,
}

impl Children {
    /// Starts this very program with `arguments`, its output in the file `log`. It is in a process group of its own, so
    /// that a Ctrl-C at the terminal reaches the demo alone, which then ends its processes in order.
    pub fn start<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<(), Failure> {
        let start = || -> std::io::Result<Child> {
            let file = std::fs::File::create(log)?;
            Command::new(std::env::current_exe()?)
                .args(arguments)
                .env_remove("RUST_LOG")
                .stdin(Stdio::null())
                .stdout(file.try_clone()?)
                .stderr(file)
                .process_group(0)
                .spawn()
        };
        let process = start().with_context(|| format!("cannot start {name}"))?;
        let running = Running { name: name.to_owned(), log: log.to_owned(), process };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(running);
        Ok(())
    }

    /// Fails when one of the processes has ended on its own, with the end of its log.
    pub fn check(&self) -> Result<(), Failure> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for child in running.iter_mut() {
            if let Ok(Some(status)) = child.process.try_wait() {
                let log = std::fs::read_to_string(&child.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n           ");
                let message = format!("{} ended on its own ({status})", child.name);
                let failure = Failure::new(Exit::Failed, message);
                return Err(if end.is_empty() {
                    failure
                } else {
                    failure.with_hint(format!("it said:\n           {end}"))
                });
            }
        }
        Ok(())
    }

    /// Asks all processes to stop, latest first, waits for them, and kills those that do not.
    pub fn stop(&self) {
        let mut running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        running.reverse();
        for child in &mut running {
            // Asking first whether it has ended: its number could be another process's by now, had it been awaited.
            if matches!(child.process.try_wait(), Ok(None)) {
                let _ = kill_process(Pid::from_child(&child.process), Signal::TERM);
            }
        }
        let until = Instant::now() + GRACE;
        for child in &mut running {
            while matches!(child.process.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            if matches!(child.process.try_wait(), Ok(None)) {
                let _ = child.process.kill();
                let _ = child.process.wait();
            }
        }
    }
}
