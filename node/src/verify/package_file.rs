//! What a `.deb` says of itself, asked of the program that will install it.
//!
//! `dpkg-deb` reads the control fields, because dpkg is what reads the file when it is installed: a parser of our own
//! could be made to see another package than dpkg does.

use protocol::manifest::{Detection, Manifest};
use protocol::verify::Refusal;
use protocol::version::DebianVersion;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where Debian has it.
const PROGRAMS: [&str; 2] = ["/usr/bin/dpkg-deb", "/bin/dpkg-deb"];

/// Most bytes of answer that are read: three short fields.
const ANSWER_BYTES: u64 = 4 << 10;

/// Identity of a Debian package file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageFile {
    /// `Package`.
    pub package: String,
    /// `Version`.
    pub version: DebianVersion,
    /// `Architecture`.
    pub architecture: String,
}

/// Why a file does not say which package it is.
#[derive(Debug, thiserror::Error)]
pub enum NotAPackage {
    /// There is no dpkg here.
    #[error("dpkg-deb is not installed; only machines with dpkg can read Debian packages")]
    NoDpkg,
    /// It could not be asked.
    #[error("cannot run dpkg-deb")]
    Run(#[source] std::io::Error),
    /// dpkg-deb does not take the file.
    #[error("not a Debian package: {0}")]
    Refused(String),
    /// The fields are there but not of their form.
    #[error("not a usable Debian package: {0}")]
    Fields(String),
}

/// Reads package, version and architecture of the `.deb` at `path`. Blocking.
///
/// # Errors
/// [`NotAPackage`].
pub fn read(path: &Path) -> Result<PackageFile, NotAPackage> {
    let path = std::path::absolute(path).map_err(NotAPackage::Run)?;
    // By its whole path: looking it up in another PATH than our own would copy this process first, with all its memory.
    let program = PROGRAMS.iter().map(Path::new).find(|path| path.is_file()).ok_or(NotAPackage::NoDpkg)?;
    let mut child = Command::new(program)
        .arg("--field")
        .arg(&path)
        .args(["Package", "Version", "Architecture"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => NotAPackage::NoDpkg,
            _ => NotAPackage::Run(error),
        })?;
    let (mut answer, mut complaint) = (String::new(), String::new());
    let stdout = child.stdout.take().map(|pipe| pipe.take(ANSWER_BYTES).read_to_string(&mut answer));
    let stderr = child.stderr.take().map(|pipe| pipe.take(ANSWER_BYTES).read_to_string(&mut complaint));
    // The pipes are closed now, so a program with more to say ends.
    let status = child.wait().map_err(NotAPackage::Run)?;
    for read in [stdout, stderr].into_iter().flatten() {
        read.map_err(NotAPackage::Run)?;
    }
    if !status.success() {
        return Err(NotAPackage::Refused(complaint.trim().replace('\n', " ")));
    }
    parse(&answer)
}

fn parse(answer: &str) -> Result<PackageFile, NotAPackage> {
    let field = |name: &str| {
        let mut values = answer.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        match (values.next(), values.next()) {
            (Some(value), None) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(NotAPackage::Fields(format!("field {name} does not stand there once"))),
        }
    };
    let version = DebianVersion::new(field("Version")?);
    Ok(PackageFile {
        package: field("Package")?,
        version: version.map_err(|error| NotAPackage::Fields(error.to_string()))?,
        architecture: field("Architecture")?,
    })
}

/// Checks that the `.deb` at `path` is the package, version and architecture that the manifest detects. Blocking.
///
/// # Errors
/// [`Refusal::EvidenceMismatch`] when they differ, [`Refusal::Malformed`] when the file is no package,
/// [`Refusal::Missing`] when dpkg is.
pub fn verify_package_file(path: &Path, manifest: &Manifest) -> Result<(), Refusal> {
    let found = read(path).map_err(|error| match error {
        NotAPackage::NoDpkg | NotAPackage::Run(_) => Refusal::Missing(error.to_string()),
        NotAPackage::Refused(_) | NotAPackage::Fields(_) => Refusal::Malformed(error.to_string()),
    })?;
    let Detection::DebianPackage { package, architecture, version } = &manifest.detection;
    let same = found.package == *package
        && found.architecture == *architecture
        && found.version.as_str() == version.as_str();
    if same {
        return Ok(());
    }
    Err(Refusal::EvidenceMismatch(format!(
        "the file is {} {} for {}, the manifest says {package} {version} for {architecture}",
        found.package, found.version, found.architecture
    )))
}
