//! Packages with maintainer scripts, deployed into a real Debian root directory that debootstrap made. Needs root.

mod built;
mod host;
mod vendor;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use host::Host;
use node::deploy::{self, Helper, Isolation, Order, Outcome, Target};
use node::import::apt::Suites;
use node::scan;
use patchmesh_tests::bootstrap::{bootstrap, copy};
use patchmesh_tests::installer::Installer;
use patchmesh_tests::maintainer_scripts::MaintainerScripts;
use patchmesh_tests::memory_disk::with_memory_disk;
use patchmesh_tests::program;
use patchmesh_tests::wait::{SOON, until};
use protocol::inventory::{Inventory, PackageState};
use protocol::manifest::{Detection, Manifest};
use protocol::time::WallTime;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Real maintainer scripts take seconds each.
const TIMEOUT: Duration = Duration::from_secs(120);

/// One root directory with what is needed to deploy into it.
struct Root {
    path: PathBuf,
    work: PathBuf,
    isolation: Isolation,
    scripts: MaintainerScripts,
}

impl Root {
    /// A copy of the bootstrapped root `original`, whose maintainer scripts are watched.
    fn like(original: &Path, name: &str) -> Result<Root> {
        let path = original.with_file_name(name);
        copy(original, &path)?;
        let work = original.with_file_name(format!("{name}-installer"));
        fs::create_dir(&work)?;
        let helper = Helper { program: program::path()?, arguments: vec!["installer-sandbox".to_owned()] };
        let isolation = deploy::probe(&helper);
        ensure!(matches!(isolation, Isolation::Namespaces { .. }), "this test needs root: {isolation:?}");
        let scripts = MaintainerScripts::watch(&path)?;
        Ok(Root { path, work, isolation, scripts })
    }

    fn target(&self) -> Result<Target> {
        Ok(Target::directory(&self.path, &self.work, self.isolation.clone(), TIMEOUT)?)
    }

    fn deploy(&self, orders: &[Order]) -> Result<Outcome> {
        Ok(deploy::install(&self.target()?, orders))
    }

    /// Deploys, and wants dpkg to end well without a question; what it said.
    fn deploys(&self, orders: &[Order]) -> Result<String> {
        match self.deploy(orders)? {
            Outcome::Exited { code: 0, log } if !log.contains("What would you like to do") => Ok(log),
            outcome => bail!("{outcome:?}\nscripts:\n{}", self.scripts.record()),
        }
    }

    /// Deploys, and kills dpkg as soon as a script of the orders waits.
    fn killed_while_a_script_waits(&self, orders: &[Order]) -> Result<Outcome> {
        std::thread::scope(|scope| {
            let deployment = scope.spawn(|| self.deploy(orders));
            let waits = until("a maintainer script waits", SOON, || {
                ensure!(!deployment.is_finished(), "dpkg ended before the script");
                Ok(self.scripts.one_waits().then_some(()))
            });
            // Killed in any case: otherwise the end of this scope would wait for the script.
            let killed = self.installer().kill();
            let outcome = deployment.join().map_err(|_| anyhow!("the deployment panicked"))??;
            waits.and(killed).with_context(|| format!("{outcome:?}"))?;
            Ok(outcome)
        })
    }

    fn installer(&self) -> Installer {
        Installer { root: self.path.clone(), work: self.work.clone() }
    }

    fn inventory(&self) -> Result<Inventory> {
        Ok(scan::take(&self.path, WallTime::default())?)
    }

    /// The rescan finds each manifest installed, dpkg finds nothing to complain about, and its log tells of one
    /// completed installation of each.
    fn has_once(&self, manifests: &[&Manifest]) -> Result<()> {
        for manifest in manifests {
            let Detection::DebianPackage { package, version, .. } = &manifest.detection;
            ensure!(self.rescan(manifest)?, "the rescan does not find {} installed", manifest.patch);
            let times = self.installer().completions(package, version.as_str());
            ensure!(times == 1, "{} was installed {times} times", manifest.patch);
        }
        let root = format!("--root={}", self.path.display());
        let audit = Command::new("dpkg").args([&root, "--audit"]).output().context("this test needs dpkg")?;
        let complaints = String::from_utf8_lossy(&audit.stdout).into_owned();
        ensure!(audit.status.success() && complaints.is_empty(), "dpkg --audit: {complaints}");
        Ok(())
    }

    /// Whether the rescan finds a manifest's package installed in its very version.
    fn rescan(&self, manifest: &Manifest) -> Result<bool> {
        let Detection::DebianPackage { package, architecture, version } = &manifest.detection;
        let inventory = self.inventory()?;
        let found = inventory.package(package, architecture);
        Ok(found.is_some_and(|found| found.state == PackageState::Installed && found.version == *version))
    }
}

// proves S11, N18
#[test]
fn packages_with_maintainer_scripts_are_deployed_and_the_machine_is_untouched() -> Result<()> {
    with_memory_disk(|directory| {
        let lists = directory.join("lists");
        let now = node::net::system_clock()();
        let suites = Suites::fetch(&lists, now).context("this test needs the machine's package mirror")?;
        let original = bootstrap(directory, &lists)?;
        let before = Host::look()?;
        let upgrades = vendor::upgrades(&suites, &original)?;
        let titles: Vec<&str> = upgrades.manifests.iter().map(|one| one.title.as_str()).collect();
        println!("upgrades: {titles:?}");
        vendor::real_upgrades_run_their_scripts(&Root::like(&original, "upgraded")?, &upgrades)?;
        vendor::dpkg_killed_in_a_script_is_mended(&Root::like(&original, "killed")?, &upgrades)?;
        built::scripts_of_every_kind_take_effect(&Root::like(&original, "built")?, directory)?;
        let after = Host::look()?;
        ensure!(after == before, "the machine was changed: {}", after.difference(&before));
        host::nothing_runs_on(directory)
    })
}
