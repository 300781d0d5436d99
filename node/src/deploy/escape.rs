//! Looks for symbolic links in a root directory through which dpkg would write outside it.

use super::order::{Failure, Refusal};
use super::package;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Directories that dpkg writes whatever the package.
const ALWAYS: [&str; 4] = ["var/lib/dpkg", "var/lib/dpkg/updates", "var/lib/dpkg/info", "var/log"];

/// The first directory, among those that the packages `debs` write to, that a link takes out of `root`.
pub(super) fn find(root: &Path, debs: &[PathBuf]) -> Result<Option<Refusal>, Failure> {
    let mut directories: BTreeSet<PathBuf> = ALWAYS.iter().map(PathBuf::from).collect();
    for deb in debs {
        for path in package::paths(deb)? {
            directories.extend(path.ancestors().skip(1).map(Path::to_owned));
        }
    }
    Ok(directories.iter().find_map(|directory| leads_outside(root, directory)))
}

fn leads_outside(root: &Path, directory: &Path) -> Option<Refusal> {
    let place = root.join(directory);
    let leads_to = match fs::canonicalize(&place) {
        Ok(real) if real.starts_with(root) => return None,
        Ok(real) => real,
        // What is not there yet will be made inside; a link to nowhere is not followed at our risk.
        Err(_) => fs::read_link(&place).ok()?,
    };
    let path = directory.display().to_string();
    Some(Refusal::LeadsOutside { path, leads_to: leads_to.display().to_string() })
}
