//! One installation from orders to outcome: copy, verify, compare with what is there, run dpkg.

use super::copy;
use super::lock;
use super::order::{Failure, Order, Outcome, Refusal, Target};
use super::package;
use super::run;
use crate::scan;
use crate::verify::package_file::PackageFile;
use protocol::inventory::{Package, PackageState};
use protocol::manifest::Installer;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SCRATCH: &str = "install-";

/// Installs `orders` with one call of dpkg. The signatures, the approval and the window are the caller's to check;
/// system, content, package and version are checked here, on the installer's own copy.
///
/// An installation that was interrupted is mended by the same call again: dpkg takes a half-installed package from
/// the start, and packages of others stay as they are (`dpkg --configure -a` would touch them).
pub fn install(target: &Target, orders: &[Order]) -> Outcome {
    install_when(target, orders, &|| true)
}

/// As [`install`], and right before dpkg starts asks `may_start`, which may block: whoever counts attempts records this
/// one there.
pub fn install_when(target: &Target, orders: &[Order], may_start: &dyn Fn() -> bool) -> Outcome {
    try_install(target, orders, may_start).unwrap_or_else(|outcome| outcome)
}

fn try_install(target: &Target, orders: &[Order], may_start: &dyn Fn() -> bool) -> Result<Outcome, Outcome> {
    check_orders(orders)?;
    let system = scan::system::read(target.root())
        .map_err(|error| Outcome::Failed(scan::Error::from(error).into()))?;
    for order in orders {
        if !order.manifest.targets.iter().any(|target| target.matches(&system)) {
            let (patch, system) = (order.manifest.patch.to_string(), system.to_string());
            return Err(Outcome::Refused(Refusal::OtherSystem { patch, system }));
        }
    }
    let _turn = lock::take(target)?;
    clear(&target.work);
    let scratch = scratch(&target.work)?;
    let mut debs = Vec::new();
    for order in orders {
        debs.extend(verify(order, scratch.path(), debs.len())?);
    }
    install_debs(target, &debs, scratch.path(), may_start)
}

/// Installs package files of the caller's own making or choosing, without manifests: for preparing root directories.
pub(super) fn install_local(target: &Target, files: &[PathBuf]) -> Result<Outcome, Outcome> {
    let _turn = lock::take(target)?;
    clear(&target.work);
    let scratch = scratch(&target.work)?;
    let mut debs = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let path = scratch.path().join(format!("{index:02}.deb"));
        fs::copy(file, &path).map_err(|source| copy::full_or_failed(source, &path))?;
        let fields = package::fields(&path, &file.display().to_string()).map_err(Outcome::Failed)?;
        debs.push((path, fields));
    }
    install_debs(target, &debs, scratch.path(), &|| true)
}

fn install_debs(
    target: &Target,
    debs: &[(PathBuf, PackageFile)],
    scratch: &Path,
    may_start: &dyn Fn() -> bool,
) -> Result<Outcome, Outcome> {
    let installed = scan::database::read(target.root())
        .map_err(|error| Outcome::Failed(scan::Error::from(error).into()))?;
    let wanted = still_wanted(&installed, debs)?;
    if wanted.is_empty() {
        return Ok(Outcome::AlreadyInstalled);
    }
    if !may_start() {
        return Err(Outcome::CalledOff);
    }
    Ok(run::install(target, &wanted, scratch))
}

fn check_orders(orders: &[Order]) -> Result<(), Outcome> {
    for Order { manifest, files } in orders {
        let problem = match manifest.check() {
            Err(error) => error.to_string(),
            Ok(()) if manifest.installer != Installer::Dpkg => "it is not for dpkg".to_owned(),
            Ok(()) if files.len() != manifest.artifacts.len() => {
                format!("{} files for {} artifacts", files.len(), manifest.artifacts.len())
            }
            Ok(()) => continue,
        };
        return Err(Outcome::Refused(Refusal::Order { patch: manifest.patch.to_string(), problem }));
    }
    Ok(())
}

/// Removes what a killed predecessor left; called with the turn held, so that nobody uses it.
fn clear(work: &Path) {
    let Ok(entries) = fs::read_dir(work) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(SCRATCH)
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "cannot remove a left-over of an installation");
        }
    }
}

/// A fresh directory that only this user can enter (mode 0700).
fn scratch(work: &Path) -> Result<TempDir, Outcome> {
    tempfile::Builder::new()
        .prefix(SCRATCH)
        .tempdir_in(work)
        .map_err(|source| copy::full_or_failed(source, work))
}

/// Copies and verifies the artifacts of one order, and returns the copies with what they say of themselves.
fn verify(order: &Order, scratch: &Path, first: usize) -> Result<Vec<(PathBuf, PackageFile)>, Outcome> {
    let mut debs = Vec::new();
    for (index, (artifact, file)) in order.manifest.artifacts.iter().zip(&order.files).enumerate() {
        let path = scratch.join(format!("{:02}.deb", first + index));
        copy::verified(file, artifact, &path)?;
        let fields = package::fields(&path, &artifact.name).map_err(Outcome::Failed)?;
        debs.push((path, fields));
    }
    let found: Vec<PackageFile> = debs.iter().map(|(_, fields)| fields.clone()).collect();
    package::check(&order.manifest, &found)?;
    fs::File::open(scratch).and_then(|directory| directory.sync_all()).map_err(|source| {
        Outcome::Failed(Failure::File { action: "sync the work directory".to_owned(), source })
    })?;
    Ok(debs)
}

/// The files that dpkg still has to see: not those whose version is installed and whole.
fn still_wanted(installed: &[Package], debs: &[(PathBuf, PackageFile)]) -> Result<Vec<PathBuf>, Outcome> {
    let whole: BTreeMap<(&str, &str), &Package> = installed
        .iter()
        .filter(|package| package.state == PackageState::Installed)
        .map(|package| ((package.name.as_str(), package.architecture.as_str()), package))
        .collect();
    let mut wanted = Vec::new();
    for (path, fields) in debs {
        match whole.get(&(fields.package.as_str(), fields.architecture.as_str())) {
            Some(package) if package.version > fields.version => {
                return Err(Outcome::Refused(Refusal::Downgrade {
                    package: fields.package.clone(),
                    installed: package.version.clone(),
                    offered: fields.version.clone(),
                }));
            }
            Some(package) if package.version == fields.version => {}
            _ => wanted.push(path.clone()),
        }
    }
    Ok(wanted)
}
