//! Installations that end, well or not: dpkg decides, the rescan judges.

use crate::fixture::{Device, LONG, child_device, in_child, installed, isolation, order};
use node::deploy::{self, Outcome, Refusal};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

// proves S11, N18
#[test]
fn install_upgrade_and_refused_downgrade() {
    let device = Device::new();
    let (old, new) = (device.simple("1.0"), device.simple("1.1"));
    let outcome = device.install(&old);
    assert!(matches!(outcome, Outcome::Exited { code: 0, .. }), "{outcome:?}");
    assert_eq!(device.rescan(), installed("1.0"));
    assert_eq!(device.install(&old).code(), "already-installed");
    let outcome = device.install(&new);
    assert!(matches!(outcome, Outcome::Exited { code: 0, .. }), "{outcome:?}");
    assert_eq!(device.rescan(), installed("1.1"));
    let text = fs::read(device.root().join("usr/share/patched/version")).expect("file");
    assert_eq!(text, b"1.1");
    assert_eq!(device.install(&old).code(), "downgrade");
    assert_eq!(device.rescan(), installed("1.1"));
    let left = fs::read_dir(device.work()).expect("work").flatten().count();
    assert_eq!(left, 1, "only the lock stays in the work directory");
    let log = fs::read_to_string(device.root().join("var/log/patchmesh-dpkg.log")).expect("log");
    assert!(log.contains("upgrade patched:all 1.0 1.1"), "{log}");
}

// proves X2
#[test]
fn a_flipped_byte_is_refused_before_dpkg_starts() {
    let device = Device::new();
    let deb = device.simple("1.0");
    let mut flipped = order(&deb);
    let mut bytes = fs::read(&deb).expect("package");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&deb, bytes).expect("package");
    let target = device.target(isolation(), LONG);
    let outcome = deploy::install(&target, &[flipped]);
    assert_eq!(outcome.code(), "content-mismatch");
    assert!(!outcome.started());
    assert_eq!(device.rescan(), None);
    assert!(!device.root().join("var/log/patchmesh-dpkg.log").exists());
    flipped = order(&deb);
    flipped.files.clear();
    assert_eq!(deploy::install(&target, &[flipped]).code(), "order-incomplete");
}

// proves S11
#[test]
fn what_the_manifest_does_not_name_is_refused() {
    let device = Device::new();
    let target = device.target(isolation(), LONG);
    let (old, new) = (device.simple("1.0"), device.simple("1.1"));
    let mut wrong = order(&new);
    wrong.manifest.detection = order(&old).manifest.detection;
    let outcome = deploy::install(&target, &[wrong]);
    assert!(matches!(outcome, Outcome::Refused(Refusal::OtherPackage { .. })), "{outcome:?}");
    // proves N9
    let mut elsewhere = order(&new);
    elsewhere.manifest.targets[0].release = "13".to_owned();
    assert_eq!(deploy::install(&target, &[elsewhere]).code(), "other-system");
    // A file that is no package, with the right digests.
    fs::write(&new, b"not a package").expect("file");
    assert_eq!(deploy::install(&target, &[order(&new)]).code(), "installer-failed");
    assert_eq!(device.rescan(), None);
}

#[test]
fn a_failing_script_leaves_a_broken_package_that_the_rescan_sees() {
    let device = Device::new();
    device.close_gate();
    device.open_gate();
    let file = ("usr/share/patched/version", &b"1.0"[..]);
    let deb = device.build("1.0", file, &[("postinst", "#!/bin/sh\nexit 3\n")]);
    let outcome = device.install(&deb);
    assert!(matches!(&outcome, Outcome::Exited { code: 1, log } if log.contains("status 3")), "{outcome:?}");
    assert_eq!(device.rescan().map(|(state, _)| state), Some(protocol::inventory::PackageState::Broken));
}

#[test]
fn a_lock_of_somebody_else_is_not_an_attempt() {
    let device = Device::new();
    device.close_gate();
    let gated = device.gated("1.0");
    let root = device.root();
    let mut foreign = Command::new("unshare");
    foreign.args(["--map-root-user", "dpkg"]);
    foreign.arg(format!("--root={}", root.display())).arg("--log=/dev/null").arg("-i").arg(&gated);
    foreign.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").process_group(0);
    let mut foreign = foreign.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("dpkg");
    crate::fixture::wait_until("dpkg runs", || device.started());
    let outcome = device.install(&device.simple("1.1"));
    assert!(
        matches!(outcome, Outcome::LockBusy { holder: Some(holder) } if holder == foreign.id()),
        "{outcome:?}"
    );
    assert!(!outcome.started());
    let group = rustix::process::Pid::from_child(&foreign);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("kill");
    foreign.wait().expect("wait");
    device.open_gate();
    let outcome = device.install(&device.simple("1.1"));
    assert!(matches!(outcome, Outcome::Exited { code: 0, .. }), "{outcome:?}");
    assert_eq!(device.rescan(), installed("1.1"));
}

#[test]
fn a_full_disk_is_told_apart_and_the_retry_works() {
    let device = Device::new();
    let mount = format!("mount -t tmpfs -o size=24m none '{}'", device.root().display());
    let status =
        in_child("install::full_disk_in_a_namespace", &device, Some(&mount)).status().expect("child");
    assert!(status.success());
}

#[test]
fn full_disk_in_a_namespace() {
    let Some(device) = child_device() else { return };
    device.prepare();
    let word = |at: u32| at.wrapping_mul(2_654_435_761).rotate_left(7).wrapping_mul(at).to_le_bytes();
    let noise: Vec<u8> = (0..1_500_000).flat_map(word).collect();
    let deb = device.build("1.0", ("usr/share/patched/noise", &noise), &[]);
    let ballast = device.root().join("ballast");
    fs::write(&ballast, vec![1; 20_000_000]).expect("ballast");
    let outcome = device.install(&deb);
    assert!(matches!(outcome, Outcome::DiskFull { .. }), "{outcome:?}");
    assert_ne!(device.rescan().map(|(state, _)| state), Some(protocol::inventory::PackageState::Installed));
    fs::remove_file(ballast).expect("ballast");
    let outcome = device.install(&deb);
    assert!(matches!(outcome, Outcome::Exited { code: 0, .. }), "{outcome:?}");
    assert_eq!(device.rescan(), installed("1.0"));
}
