//! What a `.deb` says of itself, asked of the program that will install it.
//!
//! `dpkg-deb` opens the archive, because dpkg is what opens the file when it is installed: a reader of our own could be
//! made to see another package than dpkg does. It hands over the control archive, which is read here: for `--field` it would
//! unpack that with `tar` into a temporary directory and delete it with `rm`, three times the work.

use crate::scan::stanza;
use protocol::manifest::{Detection, Manifest};
use protocol::verify::Refusal;
use protocol::version::DebianVersion;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where Debian has it.
const PROGRAMS: [&str; 2] = ["/usr/bin/dpkg-deb", "/bin/dpkg-deb"];

/// Largest control archive that is read, without compression: it lists every file of a package, 100,000 of them in the
/// largest ones.
const CONTROL_ARCHIVE_BYTES: u64 = 64 << 20;

/// Largest control file in it.
const CONTROL_BYTES: u64 = 1 << 20;

/// Most bytes of a complaint that are read.
const COMPLAINT_BYTES: u64 = 4 << 10;

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
    let broken = |problem: stanza::Malformed| NotAPackage::Fields(problem.to_string());
    let control = control(path)?;
    let stanzas = stanza::parse(&control).map_err(broken)?;
    let [stanza] = &stanzas[..] else {
        return Err(NotAPackage::Fields("its control file does not have one paragraph".to_owned()));
    };
    let version = DebianVersion::new(stanza.required("Version").map_err(broken)?);
    Ok(PackageFile {
        package: stanza.required("Package").map_err(broken)?.to_owned(),
        version: version.map_err(|error| NotAPackage::Fields(error.to_string()))?,
        architecture: stanza.required("Architecture").map_err(broken)?.to_owned(),
    })
}

/// The control file of the `.deb` at `path`. Blocking.
///
/// # Errors
/// [`NotAPackage`].
pub fn control(path: &Path) -> Result<Vec<u8>, NotAPackage> {
    let path = std::path::absolute(path).map_err(NotAPackage::Run)?;
    // By its whole path: looking it up in another PATH than our own would copy this process first, with all its memory.
    let program = PROGRAMS.iter().map(Path::new).find(|path| path.is_file()).ok_or(NotAPackage::NoDpkg)?;
    let mut child = Command::new(program)
        .arg("--ctrl-tarfile")
        .arg(&path)
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
    let found = child.stdout.take().map(|pipe| control_file(pipe.take(CONTROL_ARCHIVE_BYTES)));
    let mut complaint = String::new();
    let stderr = child.stderr.take().map(|pipe| pipe.take(COMPLAINT_BYTES).read_to_string(&mut complaint));
    // The pipes are closed now, so a program with more to say ends.
    let status = child.wait().map_err(NotAPackage::Run)?;
    stderr.transpose().map_err(NotAPackage::Run)?;
    if !status.success() {
        return Err(NotAPackage::Refused(complaint.trim().replace('\n', " ")));
    }
    found.unwrap_or_else(|| Err(NotAPackage::Fields("it has no control archive".to_owned())))
}

/// The one file `control` in a control archive. Two of them, and it would depend on who reads which package it is.
fn control_file(archive: impl std::io::Read) -> Result<Vec<u8>, NotAPackage> {
    let broken = |error: std::io::Error| NotAPackage::Fields(format!("its control archive: {error}"));
    let mut archive = tar::Archive::new(archive);
    let mut found = None;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path_bytes();
        if path.strip_prefix(b"./").unwrap_or(&path) != b"control" {
            continue;
        }
        if found.is_some() || !entry.header().entry_type().is_file() || entry.size() > CONTROL_BYTES {
            return Err(NotAPackage::Fields("it needs one control file of at most 1 MiB".to_owned()));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(broken)?;
        found = Some(bytes);
    }
    found.ok_or_else(|| NotAPackage::Fields("it has no control file".to_owned()))
}

/// Checks that the `.deb` at `path` is the package, version and architecture that the manifest detects. Blocking.
///
/// # Errors
/// [`Refusal::EvidenceMismatch`] when they differ, [`Refusal::Malformed`] when the file is no package,
/// [`Refusal::Missing`] when dpkg is.
pub fn verify_package_file(path: &Path, manifest: &Manifest) -> Result<(), Refusal> {
    judge(read(path), manifest)
}

/// As [`verify_package_file`], for what [`read`] said of the file.
///
/// # Errors
/// As [`verify_package_file`].
pub fn judge(found: Result<PackageFile, NotAPackage>, manifest: &Manifest) -> Result<(), Refusal> {
    let found = found.map_err(|error| match error {
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
