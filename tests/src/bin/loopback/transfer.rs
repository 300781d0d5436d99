//! One neighbour fetches from another, and how long that took.

use crate::office::Office;
use crate::usage;
use anyhow::{Context as _, Result, bail, ensure};
use patchmesh_tests::device::Device;
use patchmesh_tests::package::Upgrade;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest time for one transfer.
const BOUND: Duration = Duration::from_secs(300);
/// Between two looks: much shorter than what is measured.
const PAUSE: Duration = Duration::from_millis(2);

/// What one transfer took.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Bytes of the file.
    pub bytes: u64,
    /// Until the file was there and checked.
    pub took: Duration,
    /// Processor time of both ends.
    pub processor: Duration,
}

impl Measured {
    /// Speed in MiB/s.
    pub fn speed(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / self.took.as_secs_f64()
    }

    /// Processor seconds for each GiB.
    pub fn processor_per_gib(&self) -> f64 {
        self.processor.as_secs_f64() / (self.bytes as f64 / f64::from(1 << 30))
    }
}

/// Waits until the disk has nothing left to do from what came before, and has the system use as much memory as a transfer
/// of `bytes` will: a virtual machine whose host has to find memory at its first use pays ten times what writing costs, or
/// nothing, by chance.
pub fn settle(directory: &Path, bytes: u64) -> Result<()> {
    let mut file = tempfile::tempfile_in(directory)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..(bytes + bytes / 4).div_ceil(zeros.len() as u64) {
        file.write_all(&zeros)?;
    }
    drop(file);
    rustix::fs::sync();
    Ok(())
}

/// A device that has all and one that has nothing: the second starts, and fetches all from the first. From the moment at
/// which it wants the content until it has checked all of it, piece by piece against the BLAKE3 root and as a whole
/// against SHA-256, and has it on the disk.
pub fn neighbour(office: &mut Office) -> Result<Measured> {
    let upgrade = office.upgrade.clone();
    office.add_device()?;
    settle(office.fleet.path(), upgrade.size)?;
    let [source, .., receiver] = &mut office.fleet.devices[..] else { bail!("two devices are needed") };
    let serving = source.node.pid().context("the first device runs")?;
    receiver.node.start()?;
    let receiving = receiver.node.pid().context("it was just started")?;
    let wants = |receiver: &mut Device| receiver.transfer(&upgrade).ok().flatten().is_some();
    wait("the content is wanted", || Ok(wants(receiver)))?;
    let before = usage::processor_time(serving)? + usage::processor_time(receiving)?;
    let began = Instant::now();
    let mut log = Log::new(&office.log_of_last);
    wait("the content is complete", || log.says(&office.complete))?;
    let took = began.elapsed();
    let processor = usage::processor_time(serving)? + usage::processor_time(receiving)? - before;
    came_from_the_neighbour(receiver, &upgrade)?;
    office.remove_last_device()?;
    Ok(Measured { bytes: upgrade.size, took, processor })
}

fn came_from_the_neighbour(receiver: &mut Device, upgrade: &Upgrade) -> Result<()> {
    let transfer = receiver.transfer(upgrade)?.context("a transfer that is not known any more")?;
    ensure!(
        transfer.verified && transfer.wan_bytes == 0 && transfer.lan_bytes == upgrade.size,
        "not all came from the neighbour, or some of it twice: {transfer:?}"
    );
    Ok(())
}

fn wait(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + BOUND;
    while !done()? {
        ensure!(Instant::now() < end, "waited {} s in vain until {what}", BOUND.as_secs());
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// A node's log: reading its new end costs the node nothing.
pub struct Log {
    path: PathBuf,
    read: u64,
    line: String,
}

impl Log {
    /// The log at `path`, from its beginning.
    pub fn new(path: &Path) -> Log {
        Log { path: path.to_owned(), read: 0, line: String::new() }
    }

    /// Whether a line with `words` has appeared.
    pub fn says(&mut self, words: &str) -> Result<bool> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
        self.read += file.read_to_string(&mut self.line)? as u64;
        let found = self.line.contains(words);
        let rest = self.line.rfind('\n').map_or(0, |end| end + 1);
        self.line.drain(..rest);
        Ok(found)
    }
}
