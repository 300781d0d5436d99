//! A whole fleet on one machine: the administrator's work, a headquarters, a WAN, and the devices of a branch.

use crate::device::Device;
use crate::headquarters::Headquarters;
use crate::package::{Upgrade, VENDOR, Vendor};
use crate::program;
use crate::wait::{SOON, until};
use crate::wan::Speed;
use anyhow::{Context as _, Result, ensure};
use node::control::answer;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tempfile::TempDir;

/// Every device deploys what is approved; as many devices of a site fetch over the WAN as the number at the end says.
const POLICY: &str = "\
[[configuration]]
name = \"install-approved\"
deploy = true

[[policy]]
name = \"everyone\"
enabled = true
deploy = true
configurations = [\"install-approved\"]
assign = { everyone = true }
wan-fetchers = ";

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
        let policy = self.directory.path().join("policy.toml");
        std::fs::write(&policy, format!("{POLICY}{count}\n"))?;
        self.administer("policy", &["policy", "apply", &policy.display().to_string()])?;
        Ok(())
    }

    fn fleet_directory(&self) -> PathBuf {
        self.directory.path().join("fleet")
    }

    /// Runs one command on the administrator's fleet directory.
    fn administer(&self, name: &str, command: &[&str]) -> Result<serde_json::Value> {
        let fleet = self.fleet_directory().display().to_string();
        program::ask(name, command.iter().copied().chain(["--fleet", &fleet]))
    }

    /// Adds `count` devices that have the older packages of `upgrades` and joined; their nodes do not run yet.
    ///
    /// # Errors
    /// A device cannot be prepared, or does not join.
    pub fn add_devices(&mut self, count: usize, upgrades: &[&Upgrade]) -> Result<()> {
        let key = self.headquarters.activation_key(count)?;
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
        let key = self.vendor.key();
        for upgrade in upgrades {
            let (file, signature) =
                (upgrade.newer.display().to_string(), upgrade.signature.display().to_string());
            let import =
                ["catalogue", "import", "file", &file, "--vendor", VENDOR, "--signature", &signature];
            self.administer("import", &[&import[..], &["--trust-key", &key]].concat())?;
            self.administer("approved", &["patch", "approve", upgrade.patch.as_str()])?;
        }
        self.publish_staged()
    }

    /// Puts a patch on hold and publishes.
    ///
    /// # Errors
    /// A command fails.
    pub fn hold(&self, upgrade: &Upgrade) -> Result<()> {
        let holds = self.fleet_directory().join("targets/hold/holds.toml");
        std::fs::create_dir_all(holds.parent().context("holds lie in a directory")?)?;
        let text = format!(
            "[[hold]]\nid = \"bad-one\"\npatch = \"{}\"\nreason = \"It breaks things.\"\n",
            upgrade.patch
        );
        std::fs::write(holds, text)?;
        self.publish_staged()
    }

    fn publish_staged(&self) -> Result<()> {
        let published = self.administer("published", &["fleet", "publish"])?;
        ensure!(published["served"] == true, "headquarters does not serve it: {published}");
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
    /// A report does not arrive, or the two sides differ.
    pub fn is_all_told(&mut self) -> Result<()> {
        for device in &mut self.devices {
            let what = format!("every report of {} is durable", device.host);
            let status = until(&what, SOON, || {
                let status = device.status()?;
                let outbox = status.outbox;
                let durable = outbox.last > 0 && outbox.waiting == 0 && outbox.watermark == outbox.last;
                Ok(durable.then_some(status))
            })?;
            let identity = status.device.to_string();
            let devices = self.headquarters.rows("devices", "")?;
            let row =
                devices.iter().find(|row| row["device"] == identity.as_str()).context("an unknown device")?;
            ensure!(
                row["sequence"] == status.outbox.last,
                "{}: {row} against {:?}",
                device.host,
                status.outbox
            );
            let own: answer::Scan = device.ask("scan")?;
            let own: BTreeMap<String, String> =
                own.findings.into_iter().map(|finding| (finding.patch.to_string(), finding.state)).collect();
            let rows = self.headquarters.rows("findings", &format!("?device={identity}"))?;
            let text =
                |row: &serde_json::Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
            let told: BTreeMap<String, String> =
                rows.iter().map(|row| (text(row, "patch"), text(row, "finding"))).collect();
            ensure!(told == own, "{} found {own:?}, and the aggregator says {told:?}", device.host);
        }
        Ok(())
    }
}
