//! Deployment on the machine itself, with its own dpkg, inside an overlay that keeps every change from it. Needs root.

use node::deploy::root::{self, Blueprint};
use node::deploy::{self, Outcome, Target};
use node::scan;
use patchmesh_tests::package::order;
use protocol::inventory::PackageState;
use protocol::time::WallTime;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BASE: &str = "PATCHMESH_TEST_BASE";
const PACKAGE: &str = "patchmesh-test-overlay";

// proves S11
#[test]
fn the_machine_is_patched_with_its_own_dpkg() {
    let base = tempfile::tempdir().expect("directory");
    let path = fs::canonicalize(base.path()).expect("directory");
    fs::create_dir(path.join("overlay")).expect("directory");
    let script = format!(
        "mount -t tmpfs none '{base}/overlay'; cd '{base}/overlay'; mkdir upper inner merged; \
         mount -t overlay -o lowerdir=/,upperdir=upper,workdir=inner overlay merged; \
         programs=$(dirname \"$0\"); mkdir -p 'merged{base}' \"merged$programs\"; \
         mount --rbind '{base}' 'merged{base}'; mount --rbind \"$programs\" \"merged$programs\"; \
         mount --rbind /proc merged/proc; mount --rbind /dev merged/dev; exec chroot merged \"$0\" \"$@\"",
        base = path.display()
    );
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &script])
        .arg(std::env::current_exe().expect("test binary"))
        .args(["--exact", "deploy_machine::inside_the_overlay", "--nocapture"])
        .env(BASE, &path)
        .status()
        .expect("unshare");
    assert!(status.success(), "this test needs root, and the test inside the overlay must pass");
    let real = scan::database::read(Path::new("/")).expect("database");
    assert!(
        real.iter().all(|package| package.name != PACKAGE),
        "the machine outside the overlay stays as it is"
    );
}

#[test]
fn inside_the_overlay() {
    let Some(base) = std::env::var_os(BASE).map(PathBuf::from) else { return };
    let blueprint = Blueprint {
        package: PACKAGE.to_owned(),
        version: "1.0".to_owned(),
        architecture: "all".to_owned(),
        files: BTreeMap::from([(format!("usr/share/{PACKAGE}/text"), b"patched".to_vec())]),
        ..Blueprint::default()
    };
    let deb = root::build_deb(&blueprint, &base).expect("package");
    let target = Target::machine(&base, Duration::from_secs(60)).expect("target");
    let outcome = deploy::install(&target, &[order(&blueprint, &deb, Path::new("/")).expect("order")]);
    assert!(matches!(outcome, Outcome::Exited { code: 0, .. }), "{outcome:?}");
    let inventory = scan::take(Path::new("/"), WallTime::default()).expect("inventory");
    assert_eq!(inventory.package(PACKAGE, "all").map(|package| package.state), Some(PackageState::Installed));
    assert_eq!(fs::read(format!("/usr/share/{PACKAGE}/text")).expect("file"), b"patched");
    assert_eq!(
        deploy::install(&target, &[order(&blueprint, &deb, Path::new("/")).expect("order")]).code(),
        "already-installed"
    );
}
