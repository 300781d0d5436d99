//! A whole fleet on one machine: the administrator's work, a headquarters, a WAN, and the devices of a branch.

use crate::device::Device;
use crate::headquarters::{Headquarters, SITE};
use crate::package::{Upgrade, VENDOR, Vendor};
use crate::program;
use crate::wait::{SOON, until};
use crate::wan::Speed;
use anyhow::{Context as _, Result, ensure};
use node::control::answer;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A policy under which every device deploys what is approved.
pub const DEPLOYS: &str = "\
[[policy]]
name = \"everyone\"
enabled = true
deploy = true
configurations = [\"install-approved\"]
assign = { everyone = true }

[[configuration]]
name = \"install-approved\"
deploy = true
";

/// A fleet. Its processes end, and its directory goes, with this value.
#[derive(Debug)]
pub struct Fleet {
    /// Headquarters.
    pub headquarters: Headquarters,
    /// The branch.
    pub devices: Vec<Device>,
    /// Who makes the packages.
    pub vendor: Vendor,
    // Last, so that it outlives the processes.
    directory: TempDir,
}

impl Fleet {
    /// A fleet without devices, whose policy deploys what is approved; the WAN to its branch is of this `speed`.
    ///
    /// # Errors
    /// Something does not come up.
    pub fn found(speed: Speed) -> Result<Fleet> {
        let directory = tempfile::Builder::new().prefix("patchmesh-test-").tempdir()?;
        let packages = directory.path().join("packages");
        std::fs::create_dir(&packages)?;
        let headquarters = Headquarters::found(directory.path(), speed)?;
        let vendor = Vendor::new(&packages);
        let fleet = Fleet { headquarters, devices: Vec::new(), vendor, directory };
        fleet.set_wan_fetchers(4)?;
        Ok(fleet)
    }

    /// Says how many devices of a site fetch over the WAN at the same time; takes effect with the next publication.
    ///
    /// # Errors
    /// A command fails.
    pub fn set_wan_fetchers(&self, count: u8) -> Result<()> {
        self.set_policy(&format!("wan-fetchers = {count}"))
    }

    /// Adds lines to the policy of all devices, in place of those that were added before; takes effect with the next publication.
    ///
    /// # Errors
    /// A command fails.
    pub fn set_policy(&self, lines: &str) -> Result<()> {
        self.apply(&DEPLOYS.replacen("[[policy]]\n", &format!("[[policy]]\n{lines}\n"), 1))
    }

    fn apply(&self, text: &str) -> Result<()> {
        let policy = self.directory.path().join("policy.toml");
        std::fs::write(&policy, text)?;
        self.administer("policy", &["policy", "apply", &policy.display().to_string()])?;
        Ok(())
    }

    /// Says how fast pieces may pass: lines of the table `caps`; takes effect with the next publication.
    ///
    /// # Errors
    /// A command fails.
    pub fn set_caps(&self, lines: &str) -> Result<()> {
        let text =
            DEPLOYS.replacen("assign =", &format!("[policy.caps]\n{lines}\n[policy.assign]\neveryone ="), 1);
        self.apply(&text.replacen("everyone = { everyone = true }", "everyone = true", 1))
    }

    /// Where everything of it lies: `fleet`, `headquarters`, and a directory for each device under its host name.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn fleet_directory(&self) -> PathBuf {
        self.directory.path().join("fleet")
    }

    /// Runs one command on the administrator's fleet directory.
    ///
    /// # Errors
    /// The command fails.
    pub fn administer(&self, name: &str, command: &[&str]) -> Result<serde_json::Value> {
        let fleet = self.fleet_directory().display().to_string();
        program::ask(name, command.iter().copied().chain(["--fleet", &fleet]))
    }

    /// Adds `count` devices that have the older packages of `upgrades` and joined; their nodes do not run yet.
    ///
    /// # Errors
    /// A device cannot be prepared, or does not join.
    pub fn add_devices(&mut self, count: usize, upgrades: &[&Upgrade]) -> Result<()> {
        self.add_devices_at(SITE, count, upgrades)
    }

    /// The same at another site.
    ///
    /// # Errors
    /// A device cannot be prepared, or does not join.
    pub fn add_devices_at(&mut self, site: &str, count: usize, upgrades: &[&Upgrade]) -> Result<()> {
        let key = self.headquarters.activation_key(site, count)?;
        for _ in 0..count {
            let host = format!("branch-{}", self.devices.len() + 1);
            let device = Device::prepare(self.directory.path(), &host, upgrades)?;
            device.join(&key)?;
            self.devices.push(device);
        }
        Ok(())
    }

    /// Starts every device that does not run, all at once, and waits until they answer.
    ///
    /// # Errors
    /// One does not come up.
    pub fn start_devices(&mut self) -> Result<()> {
        for device in self.devices.iter_mut().filter(|device| device.node.pid().is_none()) {
            device.node.start()?;
        }
        self.devices.iter_mut().try_for_each(Device::answers)
    }

    /// Imports and approves upgrades, and publishes.
    ///
    /// # Errors
    /// A command fails.
    pub fn publish(&self, upgrades: &[&Upgrade]) -> Result<()> {
        self.stage(upgrades)?;
        self.publish_staged()
    }

    /// Imports and approves upgrades.
    ///
    /// # Errors
    /// A command fails.
    pub fn stage(&self, upgrades: &[&Upgrade]) -> Result<()> {
        let key = self.vendor.key();
        for upgrade in upgrades {
            let (file, signature) =
                (upgrade.newer.display().to_string(), upgrade.signature.display().to_string());
            let import =
                ["catalogue", "import", "file", &file, "--vendor", VENDOR, "--signature", &signature];
            self.administer("import", &[&import[..], &["--trust-key", &key]].concat())?;
            self.administer("approved", &["patch", "approve", upgrade.patch.as_str()])?;
        }
        Ok(())
    }

    /// Puts a patch on hold; the fleet hears of it with what is published next.
    ///
    /// # Errors
    /// The command fails.
    pub fn stage_hold(&self, upgrade: &Upgrade) -> Result<()> {
        self.administer("held", &["patch", "hold", upgrade.patch.as_str(), "--reason", "It breaks things."])?;
        Ok(())
    }

    /// Publishes what was staged.
    ///
    /// # Errors
    /// The command fails, or headquarters does not serve it.
    pub fn publish_staged(&self) -> Result<()> {
        let published = self.administer("published", &["fleet", "publish"])?;
        ensure!(published["served"] == true, "headquarters does not serve it: {published}");
        Ok(())
    }

    /// Waits until every device is connected to every other.
    ///
    /// # Errors
    /// They do not find each other.
    pub fn are_neighbours(&mut self) -> Result<()> {
        let others = self.devices.len().saturating_sub(1);
        for device in &mut self.devices {
            until(&format!("{} has its neighbours", device.host), SOON, || {
                Ok((device.status()?.connections.neighbours as usize >= others).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Waits until every device has installed an upgrade.
    ///
    /// # Errors
    /// One does not.
    pub fn all_install(&mut self, upgrade: &Upgrade) -> Result<()> {
        self.devices.iter_mut().try_for_each(|device| device.reaches(upgrade, "installed", SOON).map(drop))
    }

    /// Waits until all is at rest and told: every report of every device is durable at the aggregator, which says of
    /// each device what the device itself says.
    ///
    /// # Errors
    /// A report does not arrive, or the two sides go on to differ.
    pub fn is_all_told(&mut self) -> Result<()> {
        for device in &mut self.devices {
            let mut difference = String::new();
            let told = until(&format!("all of {} is told", device.host), SOON, || {
                let outbox = device.status()?.outbox;
                let durable = outbox.last > 0 && outbox.waiting == 0 && outbox.watermark == outbox.last;
                let told =
                    if durable { compare(&self.headquarters, device)? } else { Err(format!("{outbox:?}")) };
                difference = told.err().unwrap_or_default();
                Ok(difference.is_empty().then_some(()))
            });
            told.with_context(|| difference)?;
        }
        Ok(())
    }
}

/// Compares what the aggregator says of a device with what it says itself; the difference, if there is one.
fn compare(headquarters: &Headquarters, device: &mut Device) -> Result<Result<(), String>> {
    let own: answer::Scan = device.ask("scan")?;
    let status = device.status()?;
    let identity = status.device.to_string();
    let devices = headquarters.rows("devices", "")?;
    let row = devices.iter().find(|row| row["device"] == identity.as_str()).context("an unknown device")?;
    if row["sequence"] != status.outbox.last {
        return Ok(Err(format!("{row} against {:?}", status.outbox)));
    }
    let own: BTreeMap<String, String> =
        own.findings.into_iter().map(|finding| (finding.patch.to_string(), finding.state)).collect();
    let rows = headquarters.rows("findings", &format!("?device={identity}"))?;
    let text = |row: &serde_json::Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let told: BTreeMap<String, String> =
        rows.iter().map(|row| (text(row, "patch"), text(row, "finding"))).collect();
    Ok(if told == own {
        Ok(())
    } else {
        Err(format!("the device found {own:?}, the aggregator says {told:?}"))
    })
}
