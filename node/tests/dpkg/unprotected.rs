//! Installations without a sandbox, where the machine offers no namespaces.

use crate::fixture::{Device, LONG, child_device, in_child, installed, wait_until};
use node::deploy::{self, Isolation, Outcome, Target};
use node::scan::database::lock_holder;
use std::path::Path;

fn unprotected() -> Isolation {
    Isolation::None { reason: "for the test".to_owned() }
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
    let mut first = in_child("unprotected::unprotected_installer_in_a_process", &device, Some("true"))
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
