//! Reads dpkg's database: `status`, with the journal in `updates/` applied on top of it in order.
//!
//! dpkg writes each change as a numbered file in `updates/` and merges them into `status` later. After `kill -9` the
//! journal alone knows that a package is half-installed. The format is that of dpkg's `lib/dpkg/dbmodify.c`.

use super::confined::Root;
use super::stanza::{self, Malformed, Stanza, malformed};
use protocol::inventory::{Package, PackageState};
use protocol::limits;
use protocol::version::DebianVersion;
use rustix::process::{Flock, FlockType, fcntl_getlk};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

const STATUS: &str = "var/lib/dpkg/status";
const UPDATES: &str = "var/lib/dpkg/updates";
/// dpkg changes its database some ten times a second while it works, and a read takes a few milliseconds.
const ATTEMPTS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(25);

/// Why the package database could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened or read.
    #[error("cannot read {file} in {root}; check that the directory holds a dpkg database and may be read")]
    Read {
        /// The root directory.
        root: String,
        /// The file, relative to the root.
        file: String,
        /// Cause.
        source: io::Error,
    },
    /// A file is damaged.
    #[error("{file} in {root} is damaged; repair it (dpkg keeps copies in /var/backups) and scan again")]
    Malformed {
        /// The root directory.
        root: String,
        /// The file, relative to the root.
        file: String,
        /// Line and problem.
        source: Malformed,
    },
    /// A journal with names that dpkg does not write.
    #[error("{UPDATES} in {root} holds files of differing name lengths; run \"dpkg --configure -a\" there")]
    Journal {
        /// The root directory.
        root: String,
    },
    /// dpkg changed the database faster than it could be read.
    #[error("the package database in {root} kept changing while it was read; try again when dpkg is done")]
    Changing {
        /// The root directory.
        root: String,
    },
}

/// Every package that the database below `root` has a record of, sorted by name and architecture.
///
/// # Errors
/// [`Error`]; a single bad stanza refuses the whole database.
pub fn read(root: &Path) -> Result<Vec<Package>, Error> {
    let files = snapshot(root)?;
    let mut packages = BTreeMap::new();
    for (at, (file, bytes)) in files.iter().enumerate() {
        let broken = |source| Error::Malformed { root: shown(root), file: file.clone(), source };
        let journal = at > 0;
        for stanza in stanza::parse(bytes).map_err(broken)? {
            apply(&mut packages, &stanza, journal).map_err(broken)?;
        }
        if packages.len() > limits::PACKAGES_PER_INVENTORY {
            return Err(broken(malformed(1, "lists more packages than any machine has")));
        }
    }
    Ok(packages.into_values().flatten().collect())
}

/// A process that holds one of dpkg's locks below `root`, or `None`. Where the lock file cannot be opened the answer
/// is `None` too: dpkg itself has the last word.
pub fn lock_holder(root: &Path) -> Option<u32> {
    let root = Root::open(root).ok()?;
    let ask = Flock::from(FlockType::WriteLock);
    ["var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock"].into_iter().find_map(|path| {
        let held = fcntl_getlk(root.file(path).ok()?, &ask).ok()??;
        Some(held.pid.map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned()))
    })
}

fn shown(root: &Path) -> String {
    root.display().to_string()
}

/// The files of one consistent state, `status` first, then the journal in order.
fn snapshot(root: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let failed = |file: &str, source| Error::Read { root: shown(root), file: file.to_owned(), source };
    let opened = Root::open(root).map_err(|source| failed(".", source))?;
    let mut vanished = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        let before = identity(&opened).map_err(|source| failed(STATUS, source))?;
        if !journal_names_hold(&before.journal) {
            return Err(Error::Journal { root: shown(root) });
        }
        let mut files = Vec::new();
        vanished = None;
        for file in std::iter::once(STATUS.to_owned())
            .chain(before.journal.iter().map(|name| format!("{UPDATES}/{name}")))
        {
            let limit = if file == STATUS {
                limits::PACKAGE_DATABASE_BYTES
            } else {
                limits::PACKAGE_JOURNAL_FILE_BYTES
            };
            match opened.read(&file, limit) {
                Ok(bytes) => files.push((file, bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => vanished = Some((file, error)),
                Err(error) => return Err(failed(&file, error)),
            }
        }
        if identity(&opened).map_err(|source| failed(STATUS, source))? != before {
            vanished = None;
            continue;
        }
        // One that was away while it was to be read may be there again: dpkg uses its numbers anew.
        if vanished.is_none() {
            return Ok(files);
        }
    }
    Err(match vanished {
        Some((file, error)) => failed(&file, error),
        None => Error::Changing { root: shown(root) },
    })
}

/// What tells two states of the database apart: dpkg replaces `status` by renaming, and only adds or removes journal
/// files.
#[derive(PartialEq, Eq)]
struct Identity {
    status: (u64, u64, i64, i64),
    journal: Vec<String>,
}

fn identity(root: &Root) -> io::Result<Identity> {
    let status = root.file(STATUS)?.metadata()?;
    let mut journal = match root.names(UPDATES, limits::PACKAGE_JOURNAL_FILES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names?,
    };
    journal.retain(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()));
    Ok(Identity { status: (status.ino(), status.size(), status.mtime(), status.mtime_nsec()), journal })
}

/// dpkg numbers its journal with a fixed number of digits, so that the order of names is the order of changes.
fn journal_names_hold(names: &[String]) -> bool {
    names.windows(2).all(|pair| pair[0].len() == pair[1].len())
}

type Packages = BTreeMap<(String, String), Option<Package>>;

fn apply(packages: &mut Packages, stanza: &Stanza<'_>, journal: bool) -> Result<(), Malformed> {
    let name = stanza.required("Package")?;
    if !is_package_name(name) {
        return Err(malformed(stanza.line, format!("\"{name:.80}\" is not a package name")));
    }
    let (state, status) = state(stanza)?;
    let version = version(stanza, status)?;
    let architecture = match stanza.field("Architecture")? {
        Some(architecture) if is_package_name(architecture) => architecture,
        // dpkg writes no architecture for a package that it only knows by name.
        None | Some("") if status == "not-installed" || status == "config-files" => "",
        _ => return Err(malformed(stanza.line, format!("package {name} has no valid architecture"))),
    };
    let package = version.map(|version| Package {
        name: name.to_owned(),
        architecture: architecture.to_owned(),
        version,
        state,
    });
    let key = (name.to_owned(), architecture.to_owned());
    if packages.insert(key, package).is_some() && !journal {
        return Err(malformed(stanza.line, format!("package {name} {architecture} is listed twice")));
    }
    Ok(())
}

/// The state in the three words of `Status`: what is wanted, a flag, what is (`lib/dpkg/dpkg-db.h`).
fn state<'a>(stanza: &Stanza<'a>) -> Result<(PackageState, &'a str), Malformed> {
    let text = stanza.required("Status")?;
    let bad = || malformed(stanza.line, format!("status \"{text:.80}\" is not one that dpkg writes"));
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [want, flag, status] = words[..] else { return Err(bad()) };
    if !["unknown", "install", "hold", "deinstall", "purge"].contains(&want) {
        return Err(bad());
    }
    let state = match status {
        "installed" | "triggers-awaited" | "triggers-pending" => PackageState::Installed,
        "half-installed" | "unpacked" | "half-configured" => PackageState::Broken,
        "not-installed" | "config-files" => PackageState::Absent,
        _ => return Err(bad()),
    };
    match flag {
        "ok" => Ok((state, status)),
        "reinstreq" => Ok((PackageState::Broken, status)),
        _ => Err(bad()),
    }
}

/// The recorded version; `None` where there is no package to speak of. A first installation that was interrupted
/// before dpkg noted the version counts as version `0`.
fn version(stanza: &Stanza<'_>, status: &str) -> Result<Option<DebianVersion>, Malformed> {
    let text = match (stanza.field("Version")?, stanza.field("Config-Version")?, status) {
        (Some(version), _, _) | (None, Some(version), "config-files") => version,
        (None, _, "not-installed" | "config-files") => return Ok(None),
        (None, _, "half-installed") => "0",
        (None, ..) => return Err(malformed(stanza.line, "this stanza has no field Version")),
    };
    match DebianVersion::new(text) {
        Ok(version) => Ok(Some(version)),
        Err(error) => Err(malformed(stanza.line, error.to_string())),
    }
}

fn is_package_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= limits::NAME_BYTES
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
}

#[cfg(test)]
mod tests;
