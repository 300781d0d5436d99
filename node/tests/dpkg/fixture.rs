//! A root directory, a work directory and packages for one test, in words of the domain.

use node::deploy::root::{self, Blueprint, OsRelease};
use node::deploy::sandbox::Privilege;
use node::deploy::{self, Helper, Isolation, Order, Outcome, Target};
use node::scan;
use protocol::identifier::PatchId;
use protocol::inventory::{Inventory, Package, PackageState};
use protocol::manifest::{
    Artifact, Content, Detection, Evidence, Installer, Kind, Manifest, Reboot, SCHEMA, Severity,
};
use protocol::system::{Family, Target as For};
use protocol::time::WallTime;
use protocol::version::DebianVersion;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub const LONG: Duration = Duration::from_secs(60);

pub fn helper() -> Helper {
    Helper { program: env!("CARGO_BIN_EXE_installer-sandbox").into(), arguments: Vec::new() }
}

/// The isolation of this machine; tests of real deployments make no sense without.
pub fn isolation() -> Isolation {
    match deploy::probe(&helper()) {
        Isolation::None { reason } => panic!("these tests need root or user namespaces: {reason}"),
        isolation => isolation,
    }
}

/// Waits until `holds`, at most a minute.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub struct Device {
    _base: Option<tempfile::TempDir>,
    base: PathBuf,
}

impl Device {
    pub fn new() -> Device {
        let base = tempfile::tempdir().expect("directory");
        let path = fs::canonicalize(base.path()).expect("directory");
        let device = Device { _base: Some(base), base: path };
        fs::create_dir(device.root()).expect("directory");
        fs::create_dir(device.work()).expect("directory");
        fs::create_dir(device.base.join("debs")).expect("directory");
        device.prepare();
        device
    }

    /// The same device from another process.
    pub fn at(base: &Path) -> Device {
        Device { _base: None, base: base.to_owned() }
    }

    pub fn prepare(&self) {
        let text = "ID=debian\nVERSION_ID=\"12\"\n".to_owned();
        root::prepare(&self.root(), &OsRelease::Text(text)).expect("root directory");
    }

    pub fn base(&self) -> &Path {
        &self.base
    }

    pub fn root(&self) -> PathBuf {
        self.base.join("root")
    }

    pub fn work(&self) -> PathBuf {
        self.base.join("work")
    }

    pub fn target(&self, isolation: Isolation, timeout: Duration) -> Target {
        Target::directory(&self.root(), &self.work(), isolation, timeout).expect("target")
    }

    /// Builds version `version` of package `patched`, with one file and the given maintainer scripts.
    pub fn build(&self, version: &str, file: (&str, &[u8]), scripts: &[(&str, &str)]) -> PathBuf {
        let blueprint = Blueprint {
            package: "patched".to_owned(),
            version: version.to_owned(),
            architecture: "all".to_owned(),
            files: BTreeMap::from([(file.0.to_owned(), file.1.to_vec())]),
            scripts: scripts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
            ..Blueprint::default()
        };
        root::build_deb(&blueprint, &self.base.join("debs")).expect("package")
    }

    pub fn simple(&self, version: &str) -> PathBuf {
        self.build(version, ("usr/share/patched/version", version.as_bytes()), &[])
    }

    /// A package whose preinst waits until [`Device::open_gate`].
    pub fn gated(&self, version: &str) -> PathBuf {
        let script = "#!/bin/sh\n: > /tmp/started\nread line < /tmp/gate\n";
        self.build(version, ("usr/share/patched/version", version.as_bytes()), &[("preinst", script)])
    }

    /// Gives the root directory a shell for maintainer scripts, and closes the gate.
    pub fn close_gate(&self) {
        let listing = Command::new("ldd").arg("/bin/sh").output().expect("ldd");
        let text = String::from_utf8(listing.stdout).expect("text");
        let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
        for file in libraries.chain(["/bin/sh"]) {
            let place = self.root().join(file.trim_start_matches('/'));
            fs::create_dir_all(place.parent().expect("directory")).expect("directory");
            fs::copy(file, place).expect("shell");
        }
        let made = Command::new("mkfifo").arg(self.root().join("tmp/gate")).status().expect("mkfifo");
        assert!(made.success());
    }

    pub fn started(&self) -> bool {
        self.root().join("tmp/started").exists()
    }

    pub fn open_gate(&self) {
        fs::remove_file(self.root().join("tmp/gate")).expect("gate");
        fs::write(self.root().join("tmp/gate"), "go\n").expect("gate");
    }

    pub fn install(&self, deb: &Path) -> Outcome {
        self.install_with(deb, isolation(), LONG)
    }

    pub fn install_with(&self, deb: &Path, isolation: Isolation, timeout: Duration) -> Outcome {
        deploy::install(&self.target(isolation, timeout), &[order(deb)])
    }

    pub fn inventory(&self) -> Inventory {
        scan::take(&self.root(), WallTime::default()).expect("inventory")
    }

    pub fn patched(&self) -> Option<Package> {
        self.inventory().package("patched", "all").cloned()
    }

    /// State and version of the package, in the words of the rescan.
    pub fn rescan(&self) -> Option<(PackageState, String)> {
        self.patched().map(|package| (package.state, package.version.as_str().to_owned()))
    }

    pub fn status(&self) -> String {
        fs::read_to_string(self.root().join("var/lib/dpkg/status")).expect("status")
    }
}

pub fn installed(version: &str) -> Option<(PackageState, String)> {
    Some((PackageState::Installed, version.to_owned()))
}

/// An order for the package file `deb`, with the manifest that an import would have made.
pub fn order(deb: &Path) -> Order {
    let name = deb.file_name().and_then(|name| name.to_str()).expect("name").to_owned();
    let version = name.split('_').nth(1).expect("version");
    let version = DebianVersion::new(version).expect("version");
    let manifest = Manifest {
        schema: SCHEMA,
        patch: PatchId::new(format!("acme/patched={version}")).expect("patch"),
        title: "patched".to_owned(),
        kind: Kind::Security,
        severity: Severity::Important,
        cves: Vec::new(),
        published: None,
        targets: vec![For {
            family: Family::Linux,
            distribution: "debian".to_owned(),
            release: "12".to_owned(),
            architecture: None,
        }],
        detection: Detection::DebianPackage {
            package: "patched".to_owned(),
            architecture: "all".to_owned(),
            version,
        },
        requires: Vec::new(),
        supersedes: Vec::new(),
        artifacts: vec![Artifact {
            name,
            content: Content::of(&fs::read(deb).expect("package")),
            evidence: Evidence::None {},
        }],
        installer: Installer::Dpkg,
        reboot: Reboot::Never,
    };
    Order { manifest, files: vec![File::open(deb).expect("package")] }
}

/// Runs the test `name` of this binary in a process of its own, with the device in its environment. `before` are shell
/// commands that run in front of it, in a mount namespace of its own.
pub fn in_child(name: &str, device: &Device, before: Option<&str>) -> Command {
    let executable = std::env::current_exe().expect("test binary");
    let mut command = match before {
        None => Command::new(executable),
        Some(script) => {
            let mut command = Command::new("unshare");
            command.arg("--mount");
            if matches!(isolation(), Isolation::Namespaces { privilege: Privilege::UserNamespace, .. }) {
                command.args(["--user", "--map-root-user"]);
            }
            command.args(["sh", "-ec", &format!("{script}\nexec \"$0\" \"$@\"")]).arg(executable);
            command
        }
    };
    command.args(["--exact", name, "--nocapture"]).env(DEVICE, device.base());
    command
}

const DEVICE: &str = "PATCHMESH_TEST_DEVICE";

/// The device of a test that only runs when [`in_child`] started it.
pub fn child_device() -> Option<Device> {
    std::env::var_os(DEVICE).map(|base| Device::at(Path::new(&base)))
}
