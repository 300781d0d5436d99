//! Installations without a sandbox: on the machine itself, here inside an overlay, and where no namespaces are.

use crate::fixture::{Device, LONG, child_device, in_child, installed, order, wait_until};
use node::deploy::{self, Isolation, Outcome, Target};
use node::scan;
use node::scan::database::lock_holder;
use protocol::inventory::PackageState;
use protocol::system;
use protocol::time::WallTime;
use std::path::Path;

fn unprotected() -> Isolation {
    Isolation::None { reason: "for the test".to_owned() }
}

#[test]
fn the_machine_itself_is_patched_with_its_own_dpkg() {
    let device = Device::new();
    let script = format!(
        "mount -t tmpfs none '{base}/root'; cd '{base}/root'; mkdir upper inner merged; \
         mount -t overlay -o lowerdir=/,upperdir=upper,workdir=inner overlay merged; \
         mkdir -p 'merged{base}' \"merged$(dirname \"$0\")\"; mount --rbind '{base}' 'merged{base}'; \
         mount --rbind \"$(dirname \"$0\")\" \"merged$(dirname \"$0\")\"; mount --rbind /proc merged/proc; \
         mount --rbind /dev merged/dev; exec chroot merged \"$0\" \"$@\"",
        base = device.base().display()
    );
    let status = in_child("machine::machine_in_an_overlay", &device, Some(&script)).status().expect("child");
    assert!(status.success());
    let real = scan::database::read(Path::new("/")).expect("database");
    assert!(real.iter().all(|package| package.name != "patched"), "the real machine stays as it is");
}

#[test]
fn machine_in_an_overlay() {
    let Some(device) = child_device() else { return };
    let deb = device.simple("1.0");
    let here = scan::system::read(Path::new("/")).expect("system");
    let mut order = order(&deb);
    order.manifest.targets[0] = system::Target {
        family: here.family,
        distribution: here.distribution,
        release: here.release,
        architecture: None,
    };
    let target = Target::machine(&device.work(), LONG).expect("target");
    let outcome = deploy::install(&target, &[order]);
    assert!(matches!(outcome, Outcome::Exited { code: 0, .. }), "{outcome:?}");
    let inventory = scan::take(Path::new("/"), WallTime::default()).expect("inventory");
    assert_eq!(
        inventory.package("patched", "all").map(|package| package.state),
        Some(PackageState::Installed)
    );
    assert!(Path::new("/usr/share/patched/version").exists());
}

#[test]
fn the_root_of_the_machine_is_no_sandbox() {
    let device = Device::new();
    let refused = Target::directory(Path::new("/tmp/.."), &device.work(), unprotected(), LONG);
    assert!(matches!(refused, Err(deploy::NotATarget::Machine(_))));
}

#[test]
fn without_namespaces_an_installation_works_where_nothing_interferes() {
    let device = Device::new();
    let outcome = device.install_with(&device.simple("1.0"), unprotected(), LONG);
    assert!(matches!(outcome, Outcome::Exited { code: 0, .. }), "{outcome:?}");
    assert_eq!(device.rescan(), installed("1.0"));
}

#[test]
fn a_dpkg_that_outlived_its_installer_is_waited_for() {
    let device = Device::new();
    device.close_gate();
    let deb = device.gated("1.1");
    let mut first = in_child("machine::unprotected_installer_in_a_process", &device, Some("true"))
        .spawn()
        .expect("child");
    wait_until("the preinst runs", || device.started());
    first.kill().expect("kill");
    first.wait().expect("wait");
    assert!(lock_holder(&device.root()).is_some(), "dpkg goes on");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| device.install_with(&deb, unprotected(), LONG));
        assert!(!second.is_finished());
        // The preinst has the pipe open: a writer lets it go on.
        std::fs::write(device.root().join("tmp/gate"), "go\n").expect("gate");
        assert_eq!(second.join().expect("second").code(), "already-installed");
    });
    assert_eq!(device.rescan(), installed("1.1"));
}

#[test]
fn unprotected_installer_in_a_process() {
    let Some(device) = child_device() else { return };
    let outcome = device.install_with(&device.gated("1.1"), unprotected(), LONG);
    panic!("not killed: {outcome:?}");
}
