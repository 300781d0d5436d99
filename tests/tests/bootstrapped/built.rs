//! A package built on the spot whose scripts do what real ones do: a user, a daemon, a changed configuration file.

use super::Root;
use anyhow::{Context as _, Result, ensure};
use node::deploy::Outcome;
use node::deploy::root::{self, Blueprint, build_deb};
use patchmesh_tests::package::order;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const PACKAGE: &str = "patchmesh-test-service";

/// Name of the daemon that it starts.
pub const DAEMON: &str = "patchmesh-test-daemon";

const SETTINGS: &str = "etc/patchmesh-test-service.conf";

const START: &str = "#!/bin/sh\n\
    exec start-stop-daemon --\"$1\" --background --make-pidfile --pidfile /run/patchmesh-test-daemon.pid \
    --exec /usr/sbin/patchmesh-test-daemon -- 100000\n";

const PREINST: &str = "#!/bin/sh -e\necho \"$1 $2\" >/var/lib/patchmesh-test-service.preinst\n";

const PRERM: &str = "#!/bin/sh -e\necho \"$1 $2\" >/var/lib/patchmesh-test-service.prerm\n";

/// Starts its daemon as the worst of packages do: not through `invoke-rc.d`, which does nothing in a root without an init
/// system.
const POSTINST: &str = "#!/bin/sh -e\n\
    getent passwd patchmesh-test >/dev/null || useradd --system --no-create-home patchmesh-test\n\
    cp /bin/sleep /usr/sbin/patchmesh-test-daemon\n\
    chmod 0755 /etc/init.d/patchmesh-test-service\n\
    /etc/init.d/patchmesh-test-service start\n\
    until [ -s /run/patchmesh-test-daemon.pid ]; do sleep 0.1; done\n";

fn blueprint(version: &str, settings: &str, scripts: &[(&str, &str)]) -> Blueprint {
    let text = |text: &str| text.as_bytes().to_vec();
    Blueprint {
        package: PACKAGE.to_owned(),
        version: version.to_owned(),
        architecture: "all".to_owned(),
        files: BTreeMap::from([
            (SETTINGS.to_owned(), text(settings)),
            (format!("etc/init.d/{PACKAGE}"), text(START)),
            ("DEBIAN/conffiles".to_owned(), text(&format!("/{SETTINGS}\n"))),
            ("DEBIAN/triggers".to_owned(), text("activate-noawait ldconfig\n")),
        ]),
        scripts: scripts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        ..Blueprint::default()
    }
}

/// An upgrade with a script of each kind, a trigger, a user, a daemon, and a configuration file that the administrator
/// and the vendor both changed.
pub fn scripts_of_every_kind_take_effect(root: &Root, directory: &Path) -> Result<()> {
    let older = build_deb(&blueprint("1.0", "one\n", &[("prerm", PRERM)]), directory)?;
    match root::install(&root.target()?, &[older]) {
        Outcome::Exited { code: 0, .. } => {}
        outcome => anyhow::bail!("the older package was not installed: {outcome:?}"),
    }
    let settings = root.path.join(SETTINGS);
    fs::write(&settings, "the administrator's\n")?;
    let scripts = [("preinst", PREINST), ("prerm", PRERM), ("postinst", POSTINST)];
    let newer = blueprint("2.0", "two\n", &scripts);
    let deb = build_deb(&newer, directory)?;
    let order = || order(&newer, &deb, &root.path);
    let manifest = order()?.manifest;
    let triggered = root.scripts.calls("libc-bin", "postinst", "triggered");

    root.scripts.hold(PACKAGE, "postinst")?;
    let first = [order()?];
    let outcome = root.killed_while_a_script_waits(&first)?;
    ensure!(matches!(outcome, Outcome::Killed { signal: 9, .. }), "{outcome:?}");
    ensure!(!root.rescan(&manifest)?, "it is only half installed");
    root.scripts.release(PACKAGE, "postinst")?;
    let log = root.deploys(&[order()?])?;
    root.has_once(&[&manifest])?;

    let read = |name: &str| fs::read_to_string(root.path.join(name)).with_context(|| name.to_owned());
    ensure!(read(SETTINGS)? == "the administrator's\n", "the administrator's changes are kept");
    ensure!(read(&format!("{SETTINGS}.dpkg-dist"))? == "two\n", "the vendor's new file lies beside it");
    ensure!(read(&format!("var/lib/{PACKAGE}.prerm"))?.starts_with("upgrade"), "prerm ran");
    ensure!(read(&format!("var/lib/{PACKAGE}.preinst"))?.starts_with("upgrade"), "preinst ran");
    ensure!(read("etc/passwd")?.contains("patchmesh-test:"), "postinst made the user");
    let daemon = read(&format!("run/{DAEMON}.pid")).with_context(|| log)?;
    ensure!(!daemon.trim().is_empty(), "postinst started the daemon");
    let record = root.scripts.record();
    ensure!(root.scripts.calls("libc-bin", "postinst", "triggered") > triggered, "no trigger: {record}");
    Ok(())
}
