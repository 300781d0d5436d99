//! The branch office of the demo: devices with root directories of their own, joined and started in the same second.

use super::children::Children;
use super::content::Content;
use super::headquarters::{START, start_node};
use super::wait::until;
use crate::command::join::join;
use crate::exit::{Exit, Failure};
use anyhow::Context as _;
use node::control::{Client, ClientError, answer};
use node::deploy::{self, Target, root};
use protocol::identifier::{HostName, PatchId};
use protocol::membership::ActivationKey;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest time for dpkg to install the older packages.
const INSTALL: Duration = Duration::from_secs(120);

/// One device of the branch.
#[derive(Debug)]
pub struct Device {
    /// Its host name.
    pub host: String,
    directory: PathBuf,
}

/// What a device says of itself.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its status.
    pub status: answer::Status,
    /// Its plan.
    pub plan: answer::Plan,
    /// Its transfers.
    pub transfers: Vec<answer::Transfer>,
}

/// Makes the devices: a root directory each, into which dpkg installs the older packages.
pub fn make(directory: &Path, content: &Content, count: usize) -> Result<Vec<Device>, Failure> {
    let failed = |error: deploy::Failure| Failure::of(Exit::Failed, &error);
    let both: Vec<PathBuf> = content.older.iter().chain(&content.newer).cloned().collect();
    let base = root::base(&both, directory).map_err(failed)?;
    let debs: Vec<PathBuf> = std::iter::once(base).chain(content.older.iter().cloned()).collect();
    let isolation = deploy::probe(&crate::process::sandbox_helper()?);
    let devices: Vec<Device> = (1..=count)
        .map(|number| {
            let host = format!("branch-{number}");
            Device { directory: directory.join(&host), host }
        })
        .collect();
    std::thread::scope(|scope| {
        let installing = devices.iter().map(|device| {
            let (isolation, debs) = (isolation.clone(), &debs);
            scope.spawn(move || install(device, content, isolation, debs))
        });
        let installing: Vec<_> = installing.collect();
        installing.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(Failure::new(Exit::Failed, "a root directory was not made")))
        })
    })?;
    Ok(devices)
}

fn install(
    device: &Device,
    content: &Content,
    isolation: deploy::Isolation,
    debs: &[PathBuf],
) -> Result<(), Failure> {
    let (root, work) = (device.directory.join("root"), device.directory.join("install"));
    for directory in [&root, &work] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    root::prepare(&root, &content.os_release).map_err(|error| Failure::of(Exit::Failed, &error))?;
    let target = Target::directory(&root, &work, isolation, INSTALL)
        .map_err(|error| Failure::of(Exit::Failed, &error))?;
    match root::install(&target, debs) {
        deploy::Outcome::Exited { code: 0, .. } => Ok(()),
        outcome => {
            let failure = Failure::new(
                Exit::Failed,
                format!("dpkg did not install the older packages on {}", device.host),
            );
            Err(failure.with_hint(format!("{outcome:?}")))
        }
    }
}

impl Device {
    fn socket(&self) -> PathBuf {
        self.directory.join("control.socket")
    }

    /// Joins the fleet with an activation key.
    pub fn join(&self, key: &ActivationKey) -> Result<(), Failure> {
        let host = HostName::new(self.host.clone()).map_err(|error| Failure::of(Exit::Failed, &error))?;
        join(&self.directory.join("state"), &self.directory.join("root"), host, key)?;
        Ok(())
    }

    /// Starts the node; it answers once [`Device::ready`] has returned.
    pub fn start(&self, children: &Children) -> Result<(), Failure> {
        let configuration = self.directory.join("patchmesh.toml");
        let text = "\
[node]
directory = \"state\"
listen = [\"/ip4/127.0.0.1/tcp/0\"]
control-socket = \"control.socket\"
root = \"root\"
mdns = false
";
        std::fs::write(&configuration, text)
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        start_node(&self.host, &configuration, &self.directory.join("node.log"), children)
    }

    /// Waits until the node answers.
    pub fn ready(&self, children: &Children) -> Result<(), Failure> {
        let what = format!("{} answers", self.host);
        until(&what, START, children, || Ok(Client::connect(&self.socket()).ok()))?;
        Ok(())
    }

    /// What the device says of itself now; `None` while it cannot say.
    pub fn ask(&self) -> Result<Option<Told>, Failure> {
        let ask = || -> Result<Told, ClientError> {
            let mut client = Client::connect(&self.socket())?;
            Ok(Told { status: client.status()?, plan: client.plan()?, transfers: client.transfers()? })
        };
        match ask() {
            Ok(told) => Ok(Some(told)),
            Err(ClientError::Failure(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Told {
    /// Whether every patch of `patches` has ended on this device.
    pub fn has_ended(&self, patches: &[PatchId]) -> bool {
        let ended = |patch: &PatchId| {
            self.status.deployments.iter().any(|deployment| deployment.patch == *patch && deployment.finished)
        };
        patches.iter().all(ended)
    }

    /// One line for the live view.
    pub fn line(&self, host: &str) -> String {
        let artifacts = || self.transfers.iter().filter(|transfer| transfer.kind == "artifact");
        let held: u32 = artifacts().map(|transfer| transfer.pieces_held).sum();
        let total: u32 = artifacts().map(|transfer| transfer.pieces_total).sum();
        let states = self.status.deployments.iter().map(|deployment| deployment.state.as_str());
        let mut states: Vec<&str> = states.collect();
        states.sort_unstable();
        states.dedup();
        let wan: u64 = self.transfers.iter().map(|transfer| transfer.wan_bytes).sum();
        let lan: u64 = self.transfers.iter().map(|transfer| transfer.lan_bytes).sum();
        format!(
            "{host:<10} {held:>2}/{total:<2} pieces  {:>8} WAN  {:>8} LAN  {}",
            node::units::bytes(wan),
            node::units::bytes(lan),
            states.join(", ")
        )
    }
}
