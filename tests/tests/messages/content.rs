//! Content that does not come: the device that waits says why, and so does the seed that cannot give it.

use super::Place;
use patchmesh_tests::package::{Upgrade, Vendor};
use patchmesh_tests::typed;
use std::fs;

const POLICY: &str = "\
[[policy]]
name = \"everyone\"
enabled = true
deploy = true
configurations = [\"approved\"]
assign = { everyone = true }

[[configuration]]
name = \"approved\"
deploy = true
";

/// Publishes an approved patch with a content of `bytes` bytes.
fn publish(place: &Place, bytes: usize) -> Upgrade {
    let vendor = Vendor::new(place.path());
    let upgrade = vendor.upgrade("tool", bytes).expect("this test needs dpkg-deb");
    fs::write(place.path().join("policy.toml"), POLICY).expect("write");
    let (file, signature) = (upgrade.newer.display().to_string(), upgrade.signature.display().to_string());
    let import = ["catalogue", "import", "file", &file, "--vendor", "acme", "--signature", &signature];
    let key = vendor.key();
    let commands: [Vec<&str>; 4] = [
        [import.as_slice(), &["--trust-key", &key]].concat(),
        vec!["policy", "apply", "policy.toml"],
        vec!["patch", "approve", upgrade.patch.as_str()],
        vec!["fleet", "publish"],
    ];
    for command in commands {
        let said = typed::run(place.command(&command));
        assert_eq!(said.code, Some(0), "{command:?}: {}{}", said.out, said.err);
    }
    upgrade
}

/// A device on which dpkg says that the older version is installed.
fn device(place: &Place, name: &str) {
    place.device(name);
    let status = "Package: tool\nStatus: install ok installed\nArchitecture: all\nVersion: 1.0\n\
                  Maintainer: nobody\nDescription: tool\n";
    fs::write(place.path().join(name).join("root/var/lib/dpkg/status"), status).expect("write");
    let said = typed::run(place.join(name, &place.token("1")));
    assert_eq!(said.code, Some(0), "{}", said.err);
}

/// Waits until `status` of a node says all of this; and `explain` too, where a patch is named.
fn says(place: &Place, name: &str, patch: Option<&str>, texts: &[&str]) {
    let socket = format!("{name}/control.socket");
    let ask = |words: &[&str]| typed::run(place.command(&[words, &["--socket", &socket]].concat())).out;
    let all = |text: &str| texts.iter().all(|wanted| text.contains(wanted));
    let told = typed::wait_for(|| {
        let explained = patch.is_none_or(|patch| all(&ask(&["explain", patch])));
        (explained && all(&ask(&["status"]))).then_some(())
    });
    let patch = patch.map(|patch| ask(&["explain", patch])).unwrap_or_default();
    assert!(told.is_some(), "{name} should say {texts:?}: {}{patch}", ask(&["status"]));
}

#[test]
fn a_seed_that_cannot_read_its_disk_is_named_on_both_sides() {
    let place = Place::new();
    let headquarters = place.start();
    let upgrade = publish(&place, 3 << 20);
    // What goes away before the seed has checked it is damaged, which is another thing to say.
    let checked = typed::wait_for(|| headquarters.said().contains("complete and checked").then_some(()));
    assert!(checked.is_some(), "the seed checks what it was handed: {}", headquarters.said());
    let contents = place.path().join("headquarters/state/content");
    for entry in fs::read_dir(&contents).expect("content") {
        let path = entry.expect("an entry").path();
        if fs::metadata(&path).expect("metadata").len() > 1 << 20 {
            fs::rename(&path, place.path().join("away")).expect("move");
        }
    }
    device(&place, "desk");
    let run = place.command(&["node", "run", "--config", "desk/patchmesh.toml"]);
    let _desk = place.background(run, "desk");
    let patch = upgrade.patch.as_str();
    says(&place, "desk", Some(patch), &["does not give it", "`patchmesh status` at the seed"]);
    let wait =
        format!("Needs attention: Devices wait for {patch}, which this seed cannot read on its own disk");
    says(&place, "headquarters", None, &[&wait, "`patchmesh fleet publish`"]);
}

#[test]
fn a_device_without_room_says_how_much_it_needs() {
    let place = Place::new();
    let _headquarters = place.start();
    let upgrade = publish(&place, 40 << 20);
    device(&place, "desk");
    // 32 MiB stay free for the system, so the 40 MiB of the patch find no room on 64.
    let mut unshare = typed::other("unshare", place.path());
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let script = "cp -a desk/state kept && mount -t tmpfs -o size=64m none desk/state && cp -a kept/. desk/state/ && exec \"$@\"";
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    unshare.arg("setpriv").args(["--pdeathsig", "KILL"]);
    let run = place.command(&["node", "run", "--config", "desk/patchmesh.toml"]);
    unshare.arg(run.get_program()).args(run.get_args());
    let _desk = place.background(unshare, "desk");
    let patch = upgrade.patch.as_str();
    says(
        &place,
        "desk",
        Some(patch),
        &["It waits for room on the disk: ", " bytes must be free in ", "make room there"],
    );
    says(&place, "desk", None, &["Needs attention: acme/tool=2.0 cannot be fetched."]);
}
