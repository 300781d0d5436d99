//! Tells the operating system of a root directory from its `os-release` and dpkg's architecture (N27).

use super::confined::Root;
use protocol::system::{Family, System};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// The operating systems that a node scans and patches: distribution and release as `os-release` names them.
/// Anything else is refused by name, since a patch for a similar system is still a patch for another one.
pub const SUPPORTED: [(&str, &str); 5] =
    [("debian", "11"), ("debian", "12"), ("debian", "13"), ("ubuntu", "22.04"), ("ubuntu", "24.04")];

const OS_RELEASE_BYTES: u64 = 64 << 10;
const ARCHITECTURES_BYTES: u64 = 4 << 10;

/// Why the operating system could not be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `os-release`, or not readable.
    #[error("cannot read etc/os-release in {root}; without it the operating system is not known")]
    OsRelease {
        /// The root directory.
        root: String,
        /// Cause.
        source: io::Error,
    },
    /// An operating system that is not on the list [`SUPPORTED`].
    #[error("{found} is not supported; supported are {}", supported())]
    Unsupported {
        /// What `os-release` says.
        found: String,
    },
    /// dpkg did not say what architecture it is for.
    #[error("cannot tell the architecture of {root}: dpkg --print-architecture failed; is dpkg installed?")]
    Architecture {
        /// The root directory.
        root: String,
        /// Cause.
        source: io::Error,
    },
}

fn supported() -> String {
    SUPPORTED.map(|(distribution, release)| format!("{distribution} {release}")).join(", ")
}

/// The operating system in `root`.
///
/// # Errors
/// [`Error`]; an unsupported system is named.
pub fn read(root: &Path) -> Result<System, Error> {
    let shown = || root.display().to_string();
    let failed = |source| Error::OsRelease { root: shown(), source };
    let opened = Root::open(root).map_err(failed)?;
    let text = match opened.read("etc/os-release", OS_RELEASE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            opened.read("usr/lib/os-release", OS_RELEASE_BYTES)
        }
        read => read,
    };
    let text = String::from_utf8_lossy(&text.map_err(failed)?).into_owned();
    let (distribution, release) = identify(&text)?;
    let architecture = match native_architecture(&opened) {
        Some(architecture) => architecture,
        None => machine_architecture().map_err(|source| Error::Architecture { root: shown(), source })?,
    };
    Ok(System { family: Family::Linux, distribution, release, architecture })
}

fn identify(os_release: &str) -> Result<(String, String), Error> {
    let value = |name: &str| os_release_value(os_release, name).unwrap_or_default();
    let (id, release) = (value("ID"), value("VERSION_ID"));
    if SUPPORTED.contains(&(id.as_str(), release.as_str())) {
        return Ok((id, release));
    }
    let name = [value("PRETTY_NAME"), format!("{id} {release}").trim().to_owned()]
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "an operating system without a name".to_owned());
    Err(Error::Unsupported { found: name.chars().filter(|char| !char.is_control()).take(100).collect() })
}

/// The value of a variable in `os-release` (os-release(5): shell-like assignments, quotes, no expansion).
pub fn os_release_value(text: &str, name: &str) -> Option<String> {
    let assigned =
        text.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix('=')).next_back()?;
    let quoted = |quote: char| assigned.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    Some(quoted('"').or_else(|| quoted('\'')).unwrap_or(assigned).to_owned())
}

/// The first line of dpkg's list of architectures, which is there where more than one is allowed.
fn native_architecture(root: &Root) -> Option<String> {
    let bytes = root.read("var/lib/dpkg/arch", ARCHITECTURES_BYTES).ok()?;
    let first = String::from_utf8(bytes).ok()?.lines().next()?.trim().to_owned();
    is_architecture(&first).then_some(first)
}

/// The architecture of the machine's own dpkg (`dpkg --print-architecture`).
///
/// # Errors
/// When dpkg is not there or does not answer with an architecture.
pub fn machine_architecture() -> io::Result<String> {
    let output = Command::new("dpkg")
        .arg("--print-architecture")
        .env_clear()
        .env("PATH", super::SYSTEM_PATH)
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && is_architecture(&text) {
        Ok(text)
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

fn is_architecture(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 40
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves N27
    #[test]
    fn an_unsupported_system_is_named() {
        let found = |text: &str| match identify(text) {
            Err(Error::Unsupported { found }) => found,
            other => panic!("{other:?}"),
        };
        assert_eq!(found("PRETTY_NAME=\"Plan 9\"\nID=plan9\n"), "Plan 9");
        assert_eq!(found("ID=debian\nVERSION_ID=\"4\"\n"), "debian 4");
        assert_eq!(found("ID=debian\n"), "debian");
        // A relative of a supported system is not that system.
        assert_eq!(found("ID=mint\nID_LIKE=debian\nVERSION_ID=12\n"), "mint 12");
        assert_eq!(found(""), "an operating system without a name");
        let message = identify("ID=plan9\n").expect_err("unsupported").to_string();
        assert_eq!(
            message,
            "plan9 is not supported; supported are debian 11, debian 12, debian 13, ubuntu 22.04, ubuntu 24.04"
        );
    }

    #[test]
    fn a_root_directory_tells_its_own_system() {
        let root = tempfile::tempdir().expect("directory");
        std::fs::create_dir_all(root.path().join("usr/lib")).expect("directory");
        std::fs::create_dir_all(root.path().join("var/lib/dpkg")).expect("directory");
        assert!(matches!(read(root.path()), Err(Error::OsRelease { .. })));
        let text = "ID='debian'\nVERSION_ID=\"12\"\n";
        std::fs::write(root.path().join("usr/lib/os-release"), text).expect("file");
        std::fs::write(root.path().join("var/lib/dpkg/arch"), "arm64\namd64\n").expect("file");
        let system = read(root.path()).expect("system");
        assert_eq!(system.to_string(), "debian 12 arm64");
        std::fs::remove_file(root.path().join("var/lib/dpkg/arch")).expect("file");
        let native = machine_architecture().expect("this test needs dpkg");
        assert_eq!(read(root.path()).expect("system").architecture, native);
    }
}
