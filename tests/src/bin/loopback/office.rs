//! A headquarters and an office on this machine: the released program, a signed package, signed metadata.

use crate::usage::{self, Memory};
use anyhow::{Context as _, Result, bail};
use patchmesh_tests::fleet::Fleet;
use patchmesh_tests::package::Upgrade;
use patchmesh_tests::wait::until;
use patchmesh_tests::wan::Speed;
use protocol::digest::Blake3Root;
use protocol::identifier::ManifestDigest;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A policy in force that installs nothing: the work of dpkg is not what is measured.
const POLICY: &str = "[[policy]]\nname = \"fetch-ahead\"\nenabled = true\nassign = { everyone = true }\n";

/// How fast the first device gets the file, in Mbit/s: the WAN is not what is measured.
const WAN: Speed = Speed { down: 20_000.0, up: 20_000.0 };

/// For the first device to have it.
const FETCHED: Duration = Duration::from_secs(600);

/// How long a node that has just started is left alone before it counts as idle.
const REST: Duration = Duration::from_secs(10);

/// The office; its first device is the one that has what others want.
pub struct Office {
    /// The fleet.
    pub fleet: Fleet,
    /// What is distributed.
    pub upgrade: Upgrade,
    /// What a node's log says when it has all of it.
    pub complete: String,
    /// The content.
    pub root: Option<(Blake3Root, ManifestDigest)>,
    /// Log of the device that was added last.
    pub log_of_last: PathBuf,
    /// Port of the first device.
    pub port: u16,
}

/// What an idle node takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idle {
    /// Its memory.
    pub memory: Memory,
    /// Percent of one core.
    pub processor_percent: f64,
}

impl Office {
    /// A fleet with one device, and a package of `bytes` that is not published yet.
    pub fn open(bytes: usize) -> Result<Office> {
        let mut fleet = Fleet::found(WAN)?;
        let policy = fleet.path().join("fetch-ahead.toml");
        fs::write(&policy, POLICY)?;
        fleet.administer("policy", &["policy", "apply", &policy.display().to_string()])?;
        let upgrade = fleet.vendor.upgrade("patch", bytes)?;
        fleet.add_devices(1, &[&upgrade])?;
        let port = fleet.devices[0].keep_its_port()?;
        let (complete, log_of_last) = (String::new(), PathBuf::new());
        Ok(Office { fleet, upgrade, complete, root: None, log_of_last, port })
    }

    /// Adds a device that has joined and never run.
    pub fn add_device(&mut self) -> Result<()> {
        self.fleet.add_devices(1, &[&self.upgrade])?;
        let host = self.fleet.devices.last().context("it was just added")?.host.clone();
        self.log_of_last = self.fleet.path().join(host).join("node.log");
        Ok(())
    }

    /// Stops the device that was added last, and frees what it held. Its name is given again.
    pub fn remove_last_device(&mut self) -> Result<()> {
        let mut device = self.fleet.devices.pop().context("a device")?;
        device.node.stop()?;
        Ok(fs::remove_dir_all(self.fleet.path().join(&device.host))?)
    }

    /// `others` more devices run beside the first, all of them connected to each other and to headquarters, and have
    /// nothing to do: what each of them takes for `lasting`, the worst of each figure.
    pub fn idle(&mut self, others: usize, lasting: Duration) -> Result<Idle> {
        for _ in 0..others {
            self.add_device()?;
        }
        self.fleet.publish_staged()?;
        self.fleet.start_devices()?;
        self.fleet.are_neighbours()?;
        std::thread::sleep(REST);
        let processes: Vec<u32> = self.fleet.devices.iter().filter_map(|device| device.node.pid()).collect();
        let before: Vec<Duration> =
            processes.iter().map(|process| usage::processor_time(*process)).collect::<Result<_>>()?;
        let began = Instant::now();
        std::thread::sleep(lasting);
        let mut worst = Idle::default();
        for (process, before) in processes.iter().zip(before) {
            let share = (usage::processor_time(*process)? - before).div_duration_f64(began.elapsed());
            let memory = usage::memory(*process)?;
            worst.processor_percent = worst.processor_percent.max(100.0 * share);
            worst.memory.anonymous = worst.memory.anonymous.max(memory.anonymous);
            worst.memory.resident = worst.memory.resident.max(memory.resident);
        }
        for _ in 0..others {
            self.remove_last_device()?;
        }
        Ok(worst)
    }

    /// Publishes the package, and waits until the first device has it.
    pub fn publish(&mut self) -> Result<()> {
        self.fleet.publish(&[&self.upgrade])?;
        let shown = self.fleet.administer("manifests", &["patch", "show", self.upgrade.patch.as_str()])?;
        let manifests: Vec<protocol::manifest::Manifest> = serde_json::from_value(shown)?;
        let [manifest] = &manifests[..] else { bail!("{} manifests, not one", manifests.len()) };
        let root = manifest.artifacts[0].content.root;
        self.root = Some((root, manifest.digest()));
        self.complete = format!("content complete and checked root={root}");
        let first = &mut self.fleet.devices[0];
        if first.node.pid().is_none() {
            first.start()?;
        }
        let upgrade = &self.upgrade;
        until("the first device has it", FETCHED, || {
            Ok(first.transfer(upgrade)?.filter(|transfer| transfer.verified).map(drop))
        })
    }
}
