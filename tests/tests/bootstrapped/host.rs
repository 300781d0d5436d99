//! Facts about the machine itself, which no deployment into a root directory may change.

use anyhow::{Result, ensure};
use protocol::digest::Sha256;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What maintainer scripts and dpkg write to, where they are let.
const FILES: [&str; 12] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/shadow",
    "/etc/ld.so.cache",
    "/etc/timezone",
    "/etc/localtime",
    "/var/cache/debconf/config.dat",
    "/var/lib/dpkg/diversions",
    "/var/lib/dpkg/status",
    "/var/lib/dpkg/triggers/Unincorp",
    "/var/log/alternatives.log",
    "/var/log/dpkg.log",
];

/// The machine at one moment.
#[derive(PartialEq, Eq)]
pub struct Host {
    /// Digest of each file; `None` where there is none.
    files: BTreeMap<&'static str, Option<Sha256>>,
    /// The mounts that this thread sees.
    mounts: Vec<String>,
}

impl Host {
    pub fn look() -> Result<Host> {
        let digest = |name| (name, fs::read(name).ok().map(|bytes| Sha256::of(&bytes)));
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
        Ok(Host { files: FILES.map(digest).into(), mounts: mounts.lines().map(str::to_owned).collect() })
    }

    /// What is other than it was `before`.
    pub fn difference(&self, before: &Host) -> String {
        let files = self.files.iter().filter(|(name, digest)| before.files[*name] != **digest);
        let mounts = self.mounts.iter().filter(|mount| !before.mounts.contains(mount));
        let files = files.map(|(name, _)| (*name).to_owned());
        files.chain(mounts.cloned()).collect::<Vec<_>>().join(", ")
    }
}

/// No process lives on that was started below `directory`: by an installer that has its work directory there, or from a
/// program file there.
pub fn nothing_runs_on(directory: &Path) -> Result<()> {
    let place = directory.display().to_string();
    for entry in fs::read_dir("/proc")?.flatten().filter(|entry| entry.file_name() != *"self") {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let link = |name: &str| fs::read_link(entry.path().join(name)).unwrap_or_default();
        let environment = String::from_utf8_lossy(&read("environ")).into_owned();
        let command = String::from_utf8_lossy(&read("cmdline")).into_owned();
        let ours = environment.contains(&place)
            || command.contains(super::built::DAEMON)
            || ["exe", "root", "cwd"].iter().any(|name| link(name).starts_with(directory));
        ensure!(!ours, "process {} runs on: {command:?}", entry.file_name().display());
    }
    Ok(())
}
