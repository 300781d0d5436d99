//! What the sandbox keeps in: hooks of the machine, links that lead outside, the network, other processes.

use crate::fixture::{Device, LONG, child_device, helper, in_child, installed, isolation, wait_until};
use node::deploy::sandbox::{self, Privilege};
use node::deploy::{Isolation, Outcome};
use node::scan::database::lock_holder;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

fn both() -> Vec<Privilege> {
    match isolation() {
        Isolation::Namespaces { privilege: Privilege::Root, .. } => {
            vec![Privilege::Root, Privilege::UserNamespace]
        }
        _ => vec![Privilege::UserNamespace],
    }
}

fn namespaces(privilege: Privilege) -> Isolation {
    Isolation::Namespaces { helper: helper(), privilege }
}

#[test]
fn only_root_and_work_can_be_written() {
    let device = Device::new();
    let outside = device.base().join("outside");
    fs::create_dir(&outside).expect("directory");
    fs::create_dir(device.root().join("proc")).expect("directory");
    for privilege in both() {
        let script = format!(
            "test -e {base}/root/proc/1/stat || exit 9; touch {base}/root/proc/1/root/etc/x && exit 8; \
             touch {base}/root/in || exit 10; touch {base}/work/in || exit 11; \
             touch {base}/outside/out && exit 12; touch /etc/patchmesh-out && exit 13; \
             mount -o remount,rw / && exit 14; umount /etc/dpkg && exit 15; \
             test \"$(ls -A /etc/dpkg /proc)\" = \"$(printf '/etc/dpkg:\\n\\n/proc:')\" || exit 16; \
             test $$ = 1 || exit 17; exit 0",
            base = device.base().display()
        );
        let mut command = sandbox::command(&helper(), privilege, &device.root(), &device.work(), "sh");
        let mut child = command.args(["-c", &script]).stderr(Stdio::null()).spawn().expect("sandbox");
        let pipe = child.stdin.take();
        let status = child.wait().expect("sandbox");
        drop(pipe);
        assert_eq!(status.code(), Some(0), "{privilege:?}");
        assert!(!outside.join("out").exists());
    }
}

#[test]
fn links_in_the_root_lead_nowhere() {
    for privilege in both() {
        let device = Device::new();
        let outside = device.base().join("outside");
        fs::create_dir(&outside).expect("directory");
        fs::remove_dir(device.root().join("usr/lib")).expect("directory");
        symlink(&outside, device.root().join("usr/lib")).expect("link");
        let deb = device.build("1.0", ("usr/lib/patched", b"1.0"), &[]);
        let unprotected = Isolation::None { reason: "for the test".to_owned() };
        assert_eq!(device.install_with(&deb, unprotected, LONG).code(), "leads-outside");
        let outcome = device.install_with(&deb, namespaces(privilege), LONG);
        assert!(
            matches!(&outcome, Outcome::Exited { code: 1, log } if log.contains("Read-only file system")),
            "{outcome:?}"
        );
        assert_eq!(fs::read_dir(&outside).expect("directory").count(), 0);
        fs::remove_file(device.root().join("usr/lib")).expect("link");
        assert_eq!(device.install_with(&deb, namespaces(privilege), LONG).code(), "exited");
        assert_eq!(device.rescan(), installed("1.0"));
    }
}

#[test]
fn dpkg_has_no_network_and_processes_of_its_own() {
    let device = Device::new();
    device.close_gate();
    let deb = device.gated("1.0");
    std::thread::scope(|scope| {
        let install = scope.spawn(|| device.install(&deb));
        wait_until("the preinst runs", || device.started());
        let dpkg = lock_holder(&device.root()).expect("dpkg holds its lock");
        for namespace in ["net", "pid", "mnt", "ipc"] {
            let of =
                |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}")).expect("namespace");
            assert_ne!(of(&dpkg.to_string()), of("self"), "{namespace}");
        }
        let environment = fs::read(format!("/proc/{dpkg}/environ")).expect("environment");
        let mut names: Vec<String> = environment
            .split(|byte| *byte == 0)
            .filter_map(|variable| {
                String::from_utf8_lossy(variable).split_once('=').map(|pair| pair.0.to_owned())
            })
            .filter(|name| !name.starts_with("DPKG_"))
            .collect();
        names.sort();
        assert_eq!(names, ["DEBIAN_FRONTEND", "LC_ALL", "PATCHMESH_WORK", "PATH"]);
        fs::write(device.root().join("tmp/gate"), "go\n").expect("gate");
        assert_eq!(install.join().expect("installation").code(), "exited");
    });
}

#[test]
fn hooks_of_the_machine_do_not_run() {
    let device = Device::new();
    let configuration = device.base().join("configuration");
    fs::create_dir_all(configuration.join("dpkg.cfg.d")).expect("directory");
    let hook = format!("pre-invoke=\"touch {}\"\n", device.base().join("hooked").display());
    fs::write(configuration.join("dpkg.cfg.d/hook"), hook).expect("file");
    let mount = format!("mount --bind '{}' /etc/dpkg", configuration.display());
    let status = in_child("sandbox::hooks_in_a_namespace", &device, Some(&mount)).status().expect("child");
    assert!(status.success());
}

#[test]
fn hooks_in_a_namespace() {
    let Some(device) = child_device() else { return };
    let hooked = device.base().join("hooked");
    let deb = device.simple("1.0");
    let refused = device.install_with(&deb, Isolation::None { reason: "for the test".to_owned() }, LONG);
    assert_eq!(refused.code(), "host-hook");
    let outcome = device.install(&deb);
    assert!(matches!(outcome, Outcome::Exited { code: 0, .. }), "{outcome:?}");
    assert!(!hooked.exists());
    // The hook is a real one: without the sandbox it runs.
    let root = format!("--root={}", device.root().display());
    let log = format!("--log={}", device.base().join("log").display());
    let newer = device.simple("1.1");
    let plain = Command::new("dpkg").args([root, log]).arg("-i").arg(newer).status().expect("dpkg");
    assert!(plain.success() && hooked.exists());
}
