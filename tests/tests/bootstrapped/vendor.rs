//! Real upgrades of the distribution: what the suite of security fixes has for a root made of the main suite.

use super::Root;
use anyhow::{Context as _, Result, ensure};
use node::deploy::{Order, Outcome};
use node::import::Imported;
use node::import::apt::{ImportRequest, Suites};
use node::scan;
use protocol::identifier::VendorName;
use protocol::inventory::PackageState;
use protocol::manifest::{Detection, Manifest};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an administrator leaves at the end of a configuration file.
const OWN_LINE: &str = "# changed by the administrator\n";

/// Everything that is installed in `root` and has a newer version in a security suite, all of it, so that no dependency
/// among them stays open; imported as `catalogue import apt` does.
pub fn upgrades(suites: &Suites, root: &Path) -> Result<Imported> {
    let installed = scan::database::read(root)?;
    let names: Vec<String> = installed.iter().map(|package| package.name.clone()).collect();
    let is_newer = |name: &str, version| {
        installed.iter().any(|package| {
            package.name == name && package.state == PackageState::Installed && package.version < version
        })
    };
    let pairs = suites.upgrades(&names)?.into_iter();
    let packages: Vec<String> = pairs
        .filter(|(_, newer)| is_newer(&newer.package, newer.version.clone()))
        .map(|(_, newer)| newer.package)
        .collect();
    ensure!(
        packages.iter().any(|package| has_script(root, package, "postinst")),
        "no package of a fresh root has a maintainer script and a security fix at the moment: {packages:?}"
    );
    let vendor = VendorName::new("debian")?;
    let request = ImportRequest { vendor, packages, suite: None, system: scan::system::read(root)? };
    Ok(suites.import(&request)?)
}

/// Whether the installed package has this script; libraries of more than one architecture bear it in the file's name.
fn has_script(root: &Path, package: &str, script: &str) -> bool {
    let files = fs::read_dir(root.join("var/lib/dpkg/info")).into_iter().flatten().flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).any(|name| {
        name.strip_suffix(script)
            .and_then(|name| name.strip_suffix('.'))
            .is_some_and(|name| name.split(':').next() == Some(package))
    })
}

/// The packages in the runs of dpkg that it takes: what a package pre-depends on has to be configured before it is
/// unpacked, so in a run before (Debian Policy 7.2).
fn runs(imported: &Imported) -> Result<Vec<Vec<&Manifest>>> {
    let mut left: Vec<(&Manifest, String)> = Vec::new();
    for manifest in &imported.manifests {
        let field = Command::new("dpkg-deb")
            .arg("--field")
            .arg(file_of(imported, manifest)?)
            .arg("Pre-Depends")
            .output()?;
        ensure!(field.status.success(), "{}", String::from_utf8_lossy(&field.stderr));
        left.push((manifest, String::from_utf8(field.stdout)?));
    }
    let mut runs = Vec::new();
    while !left.is_empty() {
        let waiting: Vec<&str> = left.iter().map(|(manifest, _)| package(manifest)).collect();
        let waits = |(_, needs): &(&Manifest, String)| {
            let mut names = needs.split([',', '|']).filter_map(|need| need.split_whitespace().next());
            names.any(|name| waiting.contains(&name.split(':').next().unwrap_or(name)))
        };
        let (later, now): (Vec<_>, Vec<_>) = left.iter().cloned().partition(waits);
        ensure!(!now.is_empty(), "the packages pre-depend on each other: {waiting:?}");
        runs.push(now.into_iter().map(|(manifest, _)| manifest).collect());
        left = later;
    }
    Ok(runs)
}

fn file_of<'a>(imported: &'a Imported, manifest: &Manifest) -> Result<&'a Path> {
    let content = manifest.artifacts[0].content;
    let found = imported.files.iter().find(|(one, _)| *one == content);
    found.map(|(_, path)| path.as_path()).context("an import brings the package file")
}

fn orders(imported: &Imported, manifests: &[&Manifest]) -> Result<Vec<Order>> {
    let order = |manifest: &&Manifest| {
        let file = File::open(file_of(imported, manifest)?)?;
        Ok(Order { manifest: (*manifest).clone(), files: vec![file] })
    };
    manifests.iter().map(order).collect()
}

fn package(manifest: &Manifest) -> &str {
    let Detection::DebianPackage { package, .. } = &manifest.detection;
    package
}

/// Every script that a package has runs, with the action that dpkg's manual names for an upgrade; triggers run; what an
/// administrator wrote into the packages' configuration files stays.
pub fn real_upgrades_run_their_scripts(root: &Root, imported: &Imported) -> Result<()> {
    let changed = change_configuration_files(root, imported)?;
    let library_cache = root.path.join("etc/ld.so.cache");
    fs::write(&library_cache, b"")?;
    let mut expected = Vec::new();
    for manifest in &imported.manifests {
        let package = package(manifest);
        for (script, action) in [("prerm", "upgrade"), ("preinst", "upgrade"), ("postrm", "upgrade")] {
            expected.push((package, script, action, has_script(&root.path, package, script)));
        }
    }
    for run in runs(imported)? {
        root.deploys(&orders(imported, &run)?)?;
    }
    for (package, script, action, had_it) in expected {
        // A newer version may have brought the script, or dropped it: then the manual has no rule for all of them.
        let has_it = has_script(&root.path, package, script);
        let ran = root.scripts.calls(package, script, action);
        ensure!(!(had_it && has_it && ran == 0), "{package} {script}: {}", root.scripts.record());
    }
    for package in imported.manifests.iter().map(package) {
        let ran = root.scripts.calls(package, "postinst", "configure");
        let has_it = has_script(&root.path, package, "postinst");
        ensure!(has_it == (ran > 0), "{package}: {}", root.scripts.record());
    }
    // A library activates the trigger of libc-bin, which makes the cache again.
    let triggered = root.scripts.calls("libc-bin", "postinst", "triggered") > 0;
    ensure!(triggered == (fs::metadata(&library_cache)?.len() > 0), "{}", root.scripts.record());
    for (path, text) in changed {
        ensure!(fs::read_to_string(&path)? == text, "{} was changed", path.display());
    }
    root.has_once(&imported.manifests.iter().collect::<Vec<_>>())
}

/// Adds a line to every configuration file of the packages; each with its text.
fn change_configuration_files(root: &Root, imported: &Imported) -> Result<Vec<(PathBuf, String)>> {
    let mut changed = Vec::new();
    for package in imported.manifests.iter().map(package) {
        let list = root.path.join(format!("var/lib/dpkg/info/{package}.conffiles"));
        for name in fs::read_to_string(list).unwrap_or_default().lines() {
            let path = root.path.join(name.trim_start_matches('/'));
            let text = fs::read_to_string(&path)? + OWN_LINE;
            fs::write(&path, &text)?;
            changed.push((path, text));
        }
    }
    Ok(changed)
}

/// dpkg is killed while a package's own script runs, and the same deployment once more ends well, with each package
/// installed once.
pub fn dpkg_killed_in_a_script_is_mended(root: &Root, imported: &Imported) -> Result<()> {
    let first = runs(imported)?.swap_remove(0);
    let held = first.iter().find(|one| has_script(&root.path, package(one), "postinst"));
    let held = held.context("one has a script")?;
    root.scripts.hold(package(held), "postinst")?;
    let outcome = root.killed_while_a_script_waits(&orders(imported, &first)?)?;
    ensure!(matches!(outcome, Outcome::Killed { signal: 9, .. }), "{outcome:?}");
    ensure!(!root.rescan(held)?, "the rescan sees that {} is not whole", held.patch);
    root.scripts.release(package(held), "postinst")?;
    root.deploys(&orders(imported, &first)?)?;
    let again = root.deploy(&orders(imported, &first)?)?;
    ensure!(matches!(again, Outcome::AlreadyInstalled), "{again:?}");
    root.has_once(&first)
}
