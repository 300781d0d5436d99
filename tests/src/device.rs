//! One device of the branch: a root directory with real packages, and its node.

use crate::installer::Installer;
use crate::package::Upgrade;
use crate::process::Process;
use crate::program;
use crate::typed::free_port;
use crate::wait::{SOON, until};
use anyhow::{Context as _, Result, bail, ensure};
use node::control::{Client, answer};
use node::deploy::root::{self, OsRelease};
use node::deploy::{self, Helper, Outcome, Target};
use protocol::identifier::PatchId;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CONFIGURATION: &str = "\
[node]
directory = \"state\"
listen = [\"/ip4/127.0.0.1/tcp/0\"]
control-socket = \"control.socket\"
root = \"root\"
mdns = false
";

/// A device.
#[derive(Debug)]
pub struct Device {
    /// Its host name.
    pub host: String,
    /// Its node.
    pub node: Process,
    directory: PathBuf,
}

impl Device {
    /// Prepares a root directory into which dpkg installs the older packages of `upgrades`.
    ///
    /// # Errors
    /// dpkg fails, or no space.
    pub fn prepare(directory: &Path, host: &str, upgrades: &[&Upgrade]) -> Result<Device> {
        let directory = directory.join(host);
        let (root, work) = (directory.join("root"), directory.join("preparation"));
        fs::create_dir_all(&root)?;
        fs::create_dir_all(&work)?;
        root::prepare(&root, &OsRelease::Machine)?;
        let helper = Helper { program: program::path()?, arguments: vec!["installer-sandbox".to_owned()] };
        let target = Target::directory(&root, &work, deploy::probe(&helper), SOON)?;
        let older: Vec<PathBuf> = upgrades.iter().map(|upgrade| upgrade.older.clone()).collect();
        match root::install(&target, &older) {
            Outcome::Exited { code: 0, .. } => {}
            outcome => bail!("the older packages were not installed: {outcome:?}"),
        }
        let configuration = directory.join("patchmesh.toml");
        fs::write(&configuration, CONFIGURATION)?;
        let arguments = ["node".as_ref(), "run".as_ref(), "--config".as_ref(), configuration.as_os_str()];
        let node = Process::new(host, arguments, &directory.join("node.log"));
        Ok(Device { host: host.to_owned(), node, directory })
    }

    /// Makes it a member of the fleet that the activation key is of.
    ///
    /// # Errors
    /// The registrar refuses, or is not there.
    pub fn join(&self, activation_key: &str) -> Result<()> {
        let configuration = self.directory.join("patchmesh.toml");
        let arguments = ["join", activation_key, "--host", &self.host, "--config"].map(AsRef::as_ref);
        let _: serde_json::Value =
            program::ask("membership", arguments.into_iter().chain([configuration.as_os_str()]))?;
        Ok(())
    }

    /// Has the node listen on the same port at each start, as a device of an office does; which one.
    ///
    /// # Errors
    /// No free port, or the configuration cannot be written.
    pub fn keep_its_port(&self) -> Result<u16> {
        let port = free_port()?;
        let configuration = self.directory.join("patchmesh.toml");
        let text = fs::read_to_string(&configuration)?.replace("/tcp/0", &format!("/tcp/{port}"));
        fs::write(&configuration, text)?;
        Ok(port)
    }

    /// Starts the node and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&mut self) -> Result<()> {
        self.node.start()?;
        self.answers()
    }

    /// Waits until the node answers.
    ///
    /// # Errors
    /// It has ended, or does not come up.
    pub fn answers(&mut self) -> Result<()> {
        until(&format!("{} answers", self.host), SOON, || {
            self.node.check()?;
            Ok(Client::connect(&self.socket()).and_then(|mut client| client.status()).ok())
        })?;
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("control.socket")
    }

    fn client(&mut self) -> Result<Client> {
        self.node.check()?;
        Client::connect(&self.socket()).with_context(|| format!("{} does not answer", self.host))
    }

    /// What the node says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&mut self) -> Result<answer::Status> {
        Ok(self.client()?.status()?)
    }

    /// What a user reads who types `patchmesh NOUN` on the device, for example `scan` or `peers`.
    ///
    /// # Errors
    /// The command fails.
    pub fn ask<T: serde::de::DeserializeOwned>(&self, command: &str) -> Result<T> {
        let socket = self.socket();
        program::ask(command, [command.as_ref(), "--socket".as_ref(), socket.as_os_str()])
    }

    /// The same with more than one word, for example `explain PATCH`.
    ///
    /// # Errors
    /// The command fails.
    pub fn ask_words<T: serde::de::DeserializeOwned>(&self, command: &str) -> Result<T> {
        let socket = self.socket();
        let words = command.split(' ').map(AsRef::as_ref);
        let name = if command.starts_with("explain") { "explanation" } else { command };
        program::ask(name, words.chain(["--socket".as_ref(), socket.as_os_str()]))
    }

    /// Adds lines to the table `[node]` of its configuration, for its next start.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure(&self, lines: &str) -> Result<()> {
        let file = self.directory.join("patchmesh.toml");
        let text = fs::read_to_string(&file)?;
        fs::write(&file, text.replacen("[node]\n", &format!("[node]\n{lines}"), 1))?;
        Ok(())
    }

    /// How far the content of an upgrade has come; `None` before it is wanted.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn transfer(&mut self, upgrade: &Upgrade) -> Result<Option<answer::Transfer>> {
        let transfers = self.client()?.transfers()?;
        Ok(transfers.into_iter().find(|transfer| transfer.patch.as_ref() == Some(&upgrade.patch)))
    }

    /// Pieces of an upgrade that are here, verified and durable.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn pieces(&mut self, upgrade: &Upgrade) -> Result<u32> {
        Ok(self.transfer(upgrade)?.map_or(0, |transfer| transfer.pieces_held))
    }

    /// Waits until at least `count` pieces of an upgrade are here, and not all: the middle of a fetch.
    ///
    /// # Errors
    /// It does not come so far, or is through already.
    pub fn is_fetching(&mut self, upgrade: &Upgrade, count: u32) -> Result<u32> {
        let what = format!("{} has {count} pieces of {}", self.host, upgrade.patch);
        let transfer = until(&what, SOON, || {
            Ok(self.transfer(upgrade)?.filter(|transfer| transfer.pieces_held >= count))
        })?;
        ensure!(transfer.pieces_held < transfer.pieces_total, "{} has fetched it all", self.host);
        Ok(transfer.pieces_held)
    }

    /// The deployment of a patch; `None` before there is one.
    ///
    /// # Errors
    /// The node does not answer.
    pub fn deployment(&mut self, patch: &PatchId) -> Result<Option<answer::Deployment>> {
        Ok(self.status()?.deployments.into_iter().find(|deployment| deployment.patch == *patch))
    }

    /// Waits until a deployment is in `state`.
    ///
    /// # Errors
    /// It does not come to it within `bound`.
    pub fn reaches(&mut self, upgrade: &Upgrade, state: &str, bound: Duration) -> Result<answer::Deployment> {
        let mut last = None;
        let found = until(&format!("{} is {state} on {}", upgrade.patch, self.host), bound, || {
            last = self.deployment(&upgrade.patch)?;
            Ok(last.clone().filter(|deployment| deployment.state == state))
        });
        found.with_context(|| format!("last seen: {last:?}; log:\n{}", self.node.last_words()))
    }

    /// Its dpkg.
    pub fn installer(&self) -> Installer {
        Installer { root: self.directory.join("root"), work: self.directory.join("state/installer") }
    }

    /// That dpkg, by its own log, brought version 2.0 of an upgrade in exactly once.
    ///
    /// # Errors
    /// It did not, or more often.
    pub fn installed_once(&self, upgrade: &Upgrade) -> Result<()> {
        let completions = self.installer().completions(&upgrade.package, "2.0");
        ensure!(completions == 1, "{} was installed {completions} times on {}", upgrade.patch, self.host);
        Ok(())
    }

    fn gate(&self) -> PathBuf {
        self.directory.join("root/tmp/gate")
    }

    /// Gives the root directory a shell for maintainer scripts, and a gate at which gated upgrades wait.
    ///
    /// # Errors
    /// The machine has no shell to copy.
    pub fn close_gate(&self) -> Result<()> {
        let listing = Command::new("ldd").arg("/bin/sh").output().context("this test needs ldd")?;
        let listing = String::from_utf8(listing.stdout)?;
        for file in listing.split_whitespace().filter(|word| word.starts_with('/')).chain(["/bin/sh"]) {
            let place = self.directory.join("root").join(file.trim_start_matches('/'));
            fs::create_dir_all(place.parent().context("a file lies in a directory")?)?;
            fs::copy(file, place)?;
        }
        // What stood at an earlier gate does not count.
        let _ = fs::remove_file(self.directory.join("root/tmp/started"));
        let made = Command::new("mkfifo").arg(self.gate()).status().context("this test needs mkfifo")?;
        ensure!(made.success(), "no gate could be made");
        Ok(())
    }

    /// Waits until an installation stands at the gate.
    ///
    /// # Errors
    /// None comes.
    pub fn stands_at_the_gate(&mut self) -> Result<()> {
        let started = self.directory.join("root/tmp/started");
        until(&format!("an installation waits on {}", self.host), SOON, || {
            self.node.check()?;
            Ok((started.exists() && !self.installer().running().is_empty()).then_some(()))
        })
    }

    /// Waits until dpkg, which had begun `starts` times with an upgrade, has begun once more and stands at the gate.
    ///
    /// # Errors
    /// It does not.
    pub fn dpkg_starts_again(&mut self, upgrade: &Upgrade, starts: usize) -> Result<()> {
        let installer = self.installer();
        until(&format!("dpkg is started again on {}", self.host), SOON, || {
            self.node.check()?;
            let again = installer.starts(&upgrade.package, "2.0") > starts && !installer.running().is_empty();
            Ok(again.then_some(()))
        })
    }

    /// Lets the installation that waits, and all later ones, go on.
    ///
    /// # Errors
    /// There is no gate.
    pub fn open_gate(&self) -> Result<()> {
        // Whoever waits has the pipe open: opening it for both directions never waits, and its end wakes the reader.
        let gate = fs::OpenOptions::new().read(true).write(true).open(self.gate())?;
        fs::remove_file(self.gate())?;
        std::io::Write::write_all(&mut &gate, b"go\n")?;
        let emptied = self.installer();
        until(&format!("the installation on {} goes on", self.host), SOON, || {
            Ok(emptied.running().is_empty().then_some(()))
        })?;
        drop(gate);
        Ok(())
    }
}
