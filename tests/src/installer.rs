//! What dpkg did to a root directory, by its own log, and what it is doing.

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};

/// The installer of one device.
#[derive(Clone, Debug)]
pub struct Installer {
    /// The root directory.
    pub root: PathBuf,
    /// The installer's own directory.
    pub work: PathBuf,
}

impl Installer {
    fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.root.join("var/log/patchmesh-dpkg.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// How often dpkg began to install `package` in `version`.
    pub fn starts(&self, package: &str, version: &str) -> usize {
        let begin = format!(" upgrade {package}:");
        self.log()
            .iter()
            .filter(|line| line.contains(&begin) && line.ends_with(&format!(" {version}")))
            .count()
    }

    /// How often `package` came to be installed in `version`.
    pub fn completions(&self, package: &str, version: &str) -> usize {
        let installed = format!(" status installed {package}:");
        self.log()
            .iter()
            .filter(|line| line.contains(&installed) && line.ends_with(&format!(" {version}")))
            .count()
    }

    /// Processes of dpkg that work for this device.
    pub fn running(&self) -> Vec<Pid> {
        let Ok(work) = std::fs::canonicalize(&self.work) else { return Vec::new() };
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| is_dpkg_for(*pid, &work)).filter_map(Pid::from_raw).collect()
    }

    /// `kill -9` of the dpkg that is at work.
    ///
    /// # Errors
    /// None is.
    pub fn kill(&self) -> Result<()> {
        let running = self.running();
        if running.is_empty() {
            bail!("no dpkg is at work in {}", self.root.display());
        }
        for pid in running {
            kill_process(pid, Signal::KILL)?;
        }
        Ok(())
    }
}

fn is_dpkg_for(pid: i32, work: &Path) -> bool {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let mark = format!("PATCHMESH_WORK={}", work.display());
    read("comm").trim_ascii_end() == b"dpkg"
        && read("environ").split(|byte| *byte == 0).any(|one| one == mark.as_bytes())
}
