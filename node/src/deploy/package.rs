//! Asks `dpkg-deb` what a package file says of itself and compares it with the manifest.

use super::order::{Failure, Outcome, Refusal};
use crate::scan::SYSTEM_PATH;
use crate::verify::package_file::{self, NotAPackage, PackageFile};
use protocol::manifest::{Detection, Manifest};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Reads the fields of the package file at `path`; `name` is for messages.
pub(super) fn fields(path: &Path, name: &str) -> Result<PackageFile, Failure> {
    package_file::read(path).map_err(|error| failure(name, error))
}

/// What a package file does not say, as a failure of a deployment.
pub(super) fn failure(name: &str, error: NotAPackage) -> Failure {
    match error {
        NotAPackage::NoDpkg => {
            Failure::Program { program: "dpkg-deb".to_owned(), source: std::io::ErrorKind::NotFound.into() }
        }
        NotAPackage::Run(source) => Failure::Program { program: "dpkg-deb".to_owned(), source },
        NotAPackage::Refused(message) | NotAPackage::Fields(message) => {
            let message = message.chars().take(500).collect();
            Failure::Package { artifact: name.to_owned(), message }
        }
    }
}

/// Paths of the files in the package file at `path`, relative to the root.
pub(super) fn paths(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let program = |program: &str| {
        let program = program.to_owned();
        move |source| Failure::Program { program, source }
    };
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(path)
        .env_clear()
        .envs([("PATH", SYSTEM_PATH), ("LC_ALL", "C")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(program("dpkg-deb"))?;
    let pipe = archive.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let listed = Command::new("tar")
        .args(["--list", "--quoting-style=literal", "--file=-"])
        .env_clear()
        .envs([("PATH", SYSTEM_PATH), ("LC_ALL", "C")])
        .stdin(pipe)
        .output();
    let ended = archive.wait().map_err(program("dpkg-deb"))?;
    let listed = listed.map_err(program("tar"))?;
    if !(ended.success() && listed.status.success()) {
        let message = String::from_utf8_lossy(&listed.stderr).trim().chars().take(500).collect();
        return Err(Failure::Package { artifact: path.display().to_string(), message });
    }
    let lines = listed.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(|line| PathBuf::from(OsStr::from_bytes(line.strip_prefix(b"./").unwrap_or(line)))).collect())
}

fn describe(found: &PackageFile) -> String {
    format!("{} {} {}", found.package, found.version, found.architecture)
}

/// Checks that one of the packages is exactly the one that `manifest` detects, and that the others fit beside it.
pub(super) fn check(manifest: &Manifest, found: &[PackageFile]) -> Result<(), Outcome> {
    let Detection::DebianPackage { package, architecture, version } = &manifest.detection;
    let detected = |fields: &PackageFile| {
        fields.package == *package
            && fields.architecture == *architecture
            && fields.version.as_str() == version.as_str()
    };
    let refused = |artifact: &str, found: String| {
        Err(Outcome::Refused(Refusal::OtherPackage { artifact: artifact.to_owned(), found }))
    };
    let stranger = found.iter().zip(&manifest.artifacts).find(|(fields, _)| {
        fields.package == *package && !detected(fields)
            || !manifest.targets.iter().any(|target| {
                fields.architecture == "all"
                    || fields.architecture == *architecture
                    || target.architecture.as_deref() == Some(&fields.architecture)
            })
    });
    if let Some((fields, artifact)) = stranger {
        return refused(&artifact.name, describe(fields));
    }
    if !found.iter().any(detected) {
        let all: Vec<String> = found.iter().map(describe).collect();
        return refused(&manifest.artifacts[0].name, all.join(", "));
    }
    Ok(())
}
