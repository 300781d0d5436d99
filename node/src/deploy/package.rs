//! Asks `dpkg-deb` what a package file says of itself and compares it with the manifest.

use super::order::{Failure, Outcome, Refusal};
use crate::scan::{SYSTEM_PATH, stanza};
use protocol::manifest::{Detection, Manifest};
use protocol::version::DebianVersion;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a package file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub package: String,
    pub version: DebianVersion,
    pub architecture: String,
}

impl Fields {
    fn describe(&self) -> String {
        format!("{} {} {}", self.package, self.version, self.architecture)
    }
}

/// Reads the fields of the package file at `path`; `name` is for messages.
pub(super) fn fields(path: &Path, name: &str) -> Result<Fields, Failure> {
    let text = control(path, name, &["Package", "Version", "Architecture"])?;
    let broken = |message: String| Failure::Package { artifact: name.to_owned(), message };
    let stanzas = stanza::parse(text.as_bytes()).map_err(|error| broken(error.to_string()))?;
    let [stanza] = &stanzas[..] else { return Err(broken("it has no control fields".to_owned())) };
    let field = |name| stanza.required(name).map_err(|error| broken(error.to_string()));
    let version = DebianVersion::new(field("Version")?).map_err(|error| broken(error.to_string()))?;
    Ok(Fields {
        package: field("Package")?.to_owned(),
        version,
        architecture: field("Architecture")?.to_owned(),
    })
}

/// The named control fields of the package file at `path`, as `dpkg-deb --field` prints them.
pub(super) fn control(path: &Path, name: &str, names: &[&str]) -> Result<String, Failure> {
    let output = Command::new("dpkg-deb")
        .arg("--field")
        .arg(path)
        .args(names)
        .env_clear()
        .envs([("PATH", SYSTEM_PATH), ("LC_ALL", "C")])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Failure::Program { program: "dpkg-deb".to_owned(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
    Err(Failure::Package { artifact: name.to_owned(), message })
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

/// Checks that one of the packages is exactly the one that `manifest` detects, and that the others fit beside it.
pub(super) fn check(manifest: &Manifest, found: &[Fields]) -> Result<(), Outcome> {
    let Detection::DebianPackage { package, architecture, version } = &manifest.detection;
    let detected = |fields: &Fields| {
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
        return refused(&artifact.name, fields.describe());
    }
    if !found.iter().any(detected) {
        let all: Vec<String> = found.iter().map(Fields::describe).collect();
        return refused(&manifest.artifacts[0].name, all.join(", "));
    }
    Ok(())
}
