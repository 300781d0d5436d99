//! The WAN between branch and headquarters: the emulator of the demo, in a process of its own.

use crate::process::Process;
use crate::wait::{SOON, until};
use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// How fast the WAN is, in megabits per second.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// From headquarters to the branch.
    pub down: f64,
    /// From the branch to headquarters.
    pub up: f64,
}

/// Fast enough not to matter.
pub const FAST: Speed = Speed { down: 400.0, up: 400.0 };

/// A running WAN.
#[derive(Debug)]
pub struct Wan {
    process: Process,
    counters: PathBuf,
    /// Where the branch reaches headquarters' members.
    pub members: SocketAddr,
    /// Where the branch reaches headquarters' enrolment.
    pub enrolment: SocketAddr,
}

impl Wan {
    /// Starts it before a headquarters that listens at `members` and `enrolment`.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(directory: &Path, members: SocketAddr, enrolment: SocketAddr, speed: Speed) -> Result<Wan> {
        let counters = directory.join("wan.json");
        let flags = [
            ("--members", members.to_string()),
            ("--enrolment", enrolment.to_string()),
            ("--down", speed.down.to_string()),
            ("--up", speed.up.to_string()),
            ("--counters", counters.display().to_string()),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let arguments = std::iter::once("demo-wan".to_owned()).chain(flags);
        let mut process = Process::new("the WAN", arguments, &directory.join("wan.log"));
        process.start()?;
        let (members, enrolment) = until("the WAN is there", SOON, || {
            process.check()?;
            let Ok(counters) = read(&counters) else { return Ok(None) };
            let address = |name: &str| counters[name].as_str().and_then(|text| text.parse().ok());
            Ok(address("members").zip(address("enrolment")))
        })?;
        Ok(Wan { process, counters, members, enrolment })
    }

    /// Bytes that it carried to the branch so far; it writes them down ten times a second.
    ///
    /// # Errors
    /// It has ended.
    pub fn down_bytes(&mut self) -> Result<u64> {
        self.process.check()?;
        read(&self.counters)?["down_bytes"].as_u64().context("the WAN counts no bytes")
    }
}

fn read(path: &Path) -> Result<serde_json::Value> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}
