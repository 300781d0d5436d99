//! Installations that are interrupted by `kill -9` of dpkg or of the installer, or take too long.

use crate::fixture::{Device, LONG, child_device, in_child, installed, isolation, wait_until};
use node::deploy::Outcome;
use node::scan::database::lock_holder;
use protocol::inventory::PackageState;
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

fn kill(process: u32) {
    let process = Pid::from_raw(process.cast_signed()).expect("process");
    kill_process(process, Signal::KILL).expect("kill");
}

fn interrupted_upgrade() -> (Device, std::path::PathBuf) {
    let device = Device::new();
    assert_eq!(device.install(&device.simple("1.0")).code(), "exited");
    device.close_gate();
    let deb = device.gated("1.1");
    (device, deb)
}

// proves S11
#[test]
fn killed_dpkg_is_seen_in_the_journal_and_mended_by_the_same_installation() {
    let (device, deb) = interrupted_upgrade();
    let outcome = std::thread::scope(|scope| {
        let install = scope.spawn(|| device.install(&deb));
        wait_until("the preinst runs", || device.started());
        kill(lock_holder(&device.root()).expect("dpkg holds its lock"));
        install.join().expect("installation")
    });
    assert!(matches!(outcome, Outcome::Killed { signal: 9, .. }), "{outcome:?}");
    assert!(device.status().contains("install ok installed"), "status alone still says installed");
    assert_eq!(device.rescan().map(|(state, _)| state), Some(PackageState::Broken));
    device.open_gate();
    let outcome = device.install(&deb);
    assert!(matches!(outcome, Outcome::Exited { code: 0, .. }), "{outcome:?}");
    assert_eq!(device.rescan(), installed("1.1"));
}

// proves S11
#[test]
fn a_first_installation_that_was_killed_is_broken_and_mended() {
    let device = Device::new();
    device.close_gate();
    let deb = device.gated("1.0");
    std::thread::scope(|scope| {
        let install = scope.spawn(|| device.install(&deb));
        wait_until("the preinst runs", || device.started());
        kill(lock_holder(&device.root()).expect("dpkg holds its lock"));
        install.join().expect("installation")
    });
    assert_eq!(device.rescan().map(|(state, _)| state), Some(PackageState::Broken));
    device.open_gate();
    assert_eq!(device.install(&deb).code(), "exited");
    assert_eq!(device.rescan(), installed("1.0"));
}

#[test]
fn dpkg_dies_with_the_installer() {
    let (device, deb) = interrupted_upgrade();
    assert!(deb.exists());
    let mut installer = in_child("interrupt::installer_in_a_process", &device, None).spawn().expect("child");
    wait_until("the preinst runs", || device.started());
    let dpkg = lock_holder(&device.root()).expect("dpkg holds its lock");
    installer.kill().expect("kill");
    installer.wait().expect("wait");
    wait_until("dpkg is gone", || lock_holder(&device.root()).is_none());
    wait_until("its process is gone", || !std::path::Path::new(&format!("/proc/{dpkg}/root/etc")).exists());
    device.open_gate();
    assert_eq!(device.install(&deb).code(), "exited");
    assert_eq!(device.rescan(), installed("1.1"));
    assert_eq!(std::fs::read_dir(device.work()).expect("work").count(), 1, "left-overs are removed");
}

#[test]
fn installer_in_a_process() {
    let Some(device) = child_device() else { return };
    let outcome = device.install(&device.gated("1.1"));
    panic!("not killed: {outcome:?}");
}

#[test]
fn too_long_is_killed_with_everything_and_can_be_repeated() {
    let (device, deb) = interrupted_upgrade();
    let outcome = device.install_with(&deb, isolation(), Duration::from_millis(500));
    assert!(matches!(outcome, Outcome::TimedOut { .. }), "{outcome:?}");
    wait_until("dpkg is gone", || lock_holder(&device.root()).is_none());
    device.open_gate();
    assert_eq!(device.install(&deb).code(), "exited");
    assert_eq!(device.rescan(), installed("1.1"));
}

#[test]
fn a_second_installer_waits_for_the_first() {
    let (device, deb) = interrupted_upgrade();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| device.install(&deb));
        wait_until("the preinst runs", || device.started());
        let second = scope.spawn(|| device.install_with(&deb, isolation(), LONG));
        assert!(!second.is_finished());
        // The preinst has the pipe open: a writer lets it go on.
        std::fs::write(device.root().join("tmp/gate"), "go\n").expect("gate");
        assert_eq!(first.join().expect("first").code(), "exited");
        assert_eq!(second.join().expect("second").code(), "already-installed");
    });
    assert_eq!(device.rescan(), installed("1.1"));
}
