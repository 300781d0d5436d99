//! Makes root directories to install into, and small packages, with nothing but dpkg: for the demo and for tests.

use super::install::install_local;
use super::order::{Failure, Outcome, Target};
use super::package;
use crate::scan::{SYSTEM_PATH, stanza, system};
use crate::verify::package_file;
use protocol::version::DebianVersion;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Name of the package that [`base`] builds.
pub const BASE_PACKAGE: &str = "patchmesh-base";

/// Where the `os-release` of a new root directory comes from.
#[derive(Clone, Debug)]
pub enum OsRelease {
    /// A copy of the machine's own.
    Machine,
    /// This text.
    Text(String),
}

/// A package to build: control fields, files and maintainer scripts.
#[derive(Clone, Debug, Default)]
pub struct Blueprint {
    /// Name.
    pub package: String,
    /// Version.
    pub version: String,
    /// Architecture, `all` included.
    pub architecture: String,
    /// Further control fields, such as `("Provides", "libc6 (= 2.36)")`.
    pub fields: Vec<(String, String)>,
    /// Files by path inside the root, for example `usr/share/doc/a/readme`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Maintainer scripts by name, for example `preinst`.
    pub scripts: BTreeMap<String, String>,
}

/// Makes an empty dpkg database, `os-release` and the usual directories in `root`, which may exist but must not hold a
/// database yet. No package is recorded: packages come in through dpkg alone.
///
/// # Errors
/// [`Failure`]; what was made before stays.
pub fn prepare(root: &Path, os_release: &OsRelease) -> Result<(), Failure> {
    let failed = |action: String| move |source| Failure::File { action, source };
    if root.join("var/lib/dpkg/status").exists() {
        let source = io::Error::from(io::ErrorKind::AlreadyExists);
        return Err(failed(format!("prepare {}: it holds a package database", root.display()))(source));
    }
    let architecture = system::machine_architecture()
        .map_err(|source| Failure::Program { program: "dpkg --print-architecture".to_owned(), source })?;
    let text = match os_release {
        OsRelease::Text(text) => text.clone(),
        OsRelease::Machine => {
            fs::read_to_string("/etc/os-release").map_err(failed("read /etc/os-release".to_owned()))?
        }
    };
    for directory in
        ["etc", "tmp", "usr/lib", "usr/share", "var/log", "var/lib/dpkg/updates", "var/lib/dpkg/info"]
    {
        let path = root.join(directory);
        fs::create_dir_all(&path).map_err(failed(format!("create {}", path.display())))?;
    }
    let files = [
        ("etc/os-release", text),
        ("var/lib/dpkg/arch", format!("{architecture}\n")),
        ("var/lib/dpkg/available", String::new()),
        // Last, since it says that the rest is there.
        ("var/lib/dpkg/status", String::new()),
    ];
    for (name, text) in files {
        let path = root.join(name);
        fs::write(&path, text).map_err(failed(format!("write {}", path.display())))?;
    }
    Ok(())
}

/// Installs package files into a prepared root directory as they are: the caller vouches for them.
pub fn install(target: &Target, debs: &[PathBuf]) -> Outcome {
    install_local(target, debs).unwrap_or_else(|outcome| outcome)
}

/// Builds in `directory` the package [`BASE_PACKAGE`], which provides in sufficient versions whatever `debs` need and
/// do not bring themselves, so that they install without forcing a dependency. Give it the older and the newer
/// packages at once, so that it serves for both.
///
/// # Errors
/// [`Failure`].
pub fn base(debs: &[PathBuf], directory: &Path) -> Result<PathBuf, Failure> {
    let mut brought = Vec::new();
    let mut needed: BTreeMap<String, Option<DebianVersion>> = BTreeMap::new();
    for deb in debs {
        let name = deb.display().to_string();
        let control = package_file::control(deb).map_err(|error| package::failure(&name, error))?;
        let broken = |message: String| Failure::Package { artifact: name.clone(), message };
        let stanzas = stanza::parse(&control).map_err(|error| broken(error.to_string()))?;
        for stanza in &stanzas {
            let field = |name| stanza.field(name).map_err(|error| broken(error.to_string()));
            brought.extend(field("Package")?.map(str::to_owned));
            for field in [field("Pre-Depends")?, field("Depends")?].into_iter().flatten() {
                for (package, version) in field.split(',').filter_map(dependency) {
                    let most = needed.entry(package).or_default();
                    *most = most.take().max(version);
                }
            }
        }
    }
    needed.retain(|package, _| !brought.contains(package));
    let provides: Vec<String> = needed
        .iter()
        .map(|(package, version)| match version {
            Some(version) => format!("{package} (= {version})"),
            None => package.clone(),
        })
        .collect();
    let architecture = system::machine_architecture()
        .map_err(|source| Failure::Program { program: "dpkg --print-architecture".to_owned(), source })?;
    let mut blueprint = Blueprint {
        package: BASE_PACKAGE.to_owned(),
        version: "1.0".to_owned(),
        architecture,
        ..Blueprint::default()
    };
    blueprint.fields.push(("Multi-Arch".to_owned(), "foreign".to_owned()));
    if !provides.is_empty() {
        blueprint.fields.push(("Provides".to_owned(), provides.join(", ")));
    }
    build_deb(&blueprint, directory)
}

/// The first alternative of one dependency: package, and the version that satisfies it.
fn dependency(text: &str) -> Option<(String, Option<DebianVersion>)> {
    let first = text.split('|').next()?.trim();
    let (name, constraint) = match first.split_once('(') {
        Some((name, constraint)) => (name, Some(constraint.trim_end_matches(')'))),
        None => (first, None),
    };
    let name = name.trim().split(':').next()?.to_owned();
    let version = constraint.and_then(|constraint| {
        let version = constraint.trim_start_matches(['<', '>', '=']).trim();
        DebianVersion::new(version).ok()
    });
    (!name.is_empty()).then_some((name, version))
}

/// Builds a package file in `directory` and returns its path. The same blueprint gives the same bytes with the same
/// dpkg-deb: times are fixed, owners are root, compression has one thread.
///
/// # Errors
/// [`Failure`]; dpkg-deb's own words when it does not like the blueprint.
pub fn build_deb(blueprint: &Blueprint, directory: &Path) -> Result<PathBuf, Failure> {
    let Blueprint { package, version, architecture, .. } = blueprint;
    let plain_version = version.split_once(':').map_or(version.as_str(), |(_, rest)| rest);
    let path = directory.join(format!("{package}_{plain_version}_{architecture}.deb"));
    let failed = |source| Failure::File { action: format!("build {}", path.display()), source };
    let tree = tempfile::tempdir_in(directory).map_err(failed)?;
    lay_out(blueprint, tree.path()).map_err(failed)?;
    let output = Command::new("dpkg-deb")
        .args(["--root-owner-group", "--uniform-compression", "-Zgzip", "-z6", "--build"])
        .arg(tree.path())
        .arg(&path)
        .env_clear()
        .envs([("PATH", SYSTEM_PATH), ("LC_ALL", "C"), ("SOURCE_DATE_EPOCH", "1000000000")])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Failure::Program { program: "dpkg-deb".to_owned(), source })?;
    if output.status.success() {
        return Ok(path);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
    Err(Failure::Package { artifact: package.clone(), message })
}

fn lay_out(blueprint: &Blueprint, tree: &Path) -> io::Result<()> {
    fs::set_permissions(tree, fs::Permissions::from_mode(0o755))?;
    let Blueprint { package, version, architecture, .. } = blueprint;
    let mut control = format!(
        "Package: {package}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: Patchmesh <none@invalid>\n"
    );
    for (name, value) in &blueprint.fields {
        control.push_str(&format!("{name}: {value}\n"));
    }
    control.push_str(&format!("Description: {package}, built by patchmesh\n"));
    put(tree, "DEBIAN/control", control.as_bytes(), 0o644)?;
    for (name, script) in &blueprint.scripts {
        put(tree, &format!("DEBIAN/{name}"), script.as_bytes(), 0o755)?;
    }
    for (name, bytes) in &blueprint.files {
        put(tree, name, bytes, 0o644)?;
    }
    Ok(())
}

/// Writes one file of the tree, with directories and permissions that do not depend on the caller's mask.
fn put(tree: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let relative = Path::new(name);
    if !relative.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("\"{name}\" is not a relative path"),
        ));
    }
    let mut directory = tree.to_owned();
    for part in relative.parent().into_iter().flat_map(Path::components) {
        directory.push(part);
        if !directory.exists() {
            fs::create_dir(&directory)?;
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        }
    }
    let path = tree.join(relative);
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blueprint() -> Blueprint {
        Blueprint {
            package: "hello".to_owned(),
            version: "1:1.0-1".to_owned(),
            architecture: "all".to_owned(),
            files: BTreeMap::from([("usr/share/hello/text".to_owned(), b"hello\n".to_vec())]),
            ..Blueprint::default()
        }
    }

    #[test]
    fn a_package_is_built_reproducibly() {
        let (one, two) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
        let first = build_deb(&blueprint(), one.path()).expect("this test needs dpkg-deb");
        let second = build_deb(&blueprint(), two.path()).expect("package");
        assert_eq!(first.file_name().expect("name"), "hello_1.0-1_all.deb");
        assert_eq!(fs::read(&first).expect("package"), fs::read(&second).expect("package"));
        let fields = package::fields(&first, "hello").expect("fields");
        assert_eq!((fields.package.as_str(), fields.version.as_str()), ("hello", "1:1.0-1"));
        let mut escaping = blueprint();
        escaping.files.insert("../outside".to_owned(), Vec::new());
        assert!(build_deb(&escaping, one.path()).is_err());
    }

    #[test]
    fn the_base_package_provides_what_is_missing() {
        let directory = tempfile::tempdir().expect("directory");
        let mut older = blueprint();
        older
            .fields
            .push(("Depends".to_owned(), "libc6 (>= 2.34), world | earth, zlib1g:any (>= 1.2)".to_owned()));
        let mut newer = blueprint();
        newer.package = "world".to_owned();
        newer.fields.push(("Pre-Depends".to_owned(), "libc6 (>= 2.36)".to_owned()));
        let debs = [older, newer].map(|entry| build_deb(&entry, directory.path()).expect("package"));
        let base = base(&debs, directory.path()).expect("base");
        let control = package_file::control(&base).expect("control file");
        let stanzas = stanza::parse(&control).expect("stanzas");
        assert_eq!(stanzas[0].required("Provides"), Ok("libc6 (= 2.36), zlib1g (= 1.2)"));
    }

    #[test]
    fn a_root_is_prepared_once() {
        let root = tempfile::tempdir().expect("directory");
        let text = OsRelease::Text("ID=debian\nVERSION_ID=12\n".to_owned());
        prepare(root.path(), &text).expect("root");
        let inventory =
            crate::scan::take(root.path(), protocol::time::WallTime::default()).expect("inventory");
        assert!(inventory.packages.is_empty());
        assert!(prepare(root.path(), &text).is_err());
    }
}
