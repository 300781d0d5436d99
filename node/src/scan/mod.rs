//! Scan: reads what operating system and which packages a root directory holds. Judging them is `protocol`'s.

pub mod confined;
pub mod stanza;

pub mod database;
pub mod system;

use protocol::inventory::{Inventory, Package};
use protocol::time::WallTime;
use std::collections::BTreeMap;
use std::path::Path;

/// Where the system's own programs are looked for; the caller's `PATH` is never used.
pub const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a scan brought no inventory. Nothing of a scan that failed is believed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system could not be told or is not supported.
    #[error(transparent)]
    System(#[from] system::Error),
    /// The package database could not be read.
    #[error(transparent)]
    Database(#[from] database::Error),
}

/// Reads the inventory of the machine (`/`) or of any root directory. Blocks on disk: call it on a blocking thread.
///
/// It takes no lock, so that it works without root rights and while a package manager runs; the inventory is then
/// one consistent state between two steps of that package manager, with the package at work as `Broken`.
///
/// # Errors
/// [`Error`]; see its variants for what to do.
pub fn take(root: &Path, now: WallTime) -> Result<Inventory, Error> {
    let records = database::read(root)?;
    let system = system::read(root)?;
    let packages: BTreeMap<(String, String), Package> = records
        .into_iter()
        .map(|package| ((package.name.clone(), package.architecture.clone()), package))
        .collect();
    Ok(Inventory { system, packages, taken: now })
}
