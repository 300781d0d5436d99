//! Watches the maintainer scripts of a bootstrapped root: its shell writes down which ones run, and can make one wait.

use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const RECORD: &str = "var/log/maintainer-scripts";
const WAITS: &str = "var/lib/a-maintainer-script-waits";

/// What the shell becomes: dpkg says in the environment whose script it starts. Scripts of shells inside scripts, and
/// those in other languages, are not written down.
const SHELL: &str = r#"#!/bin/dash.real
[ -n "$DPKG_MAINTSCRIPT_NAME" ] || exec /bin/dash.real "$@"
for word; do
    case $word in
    */"$DPKG_MAINTSCRIPT_NAME" | *."$DPKG_MAINTSCRIPT_NAME") script=$word ;;
    *)
        [ -z "$script" ] && continue
        echo "$DPKG_MAINTSCRIPT_PACKAGE $DPKG_MAINTSCRIPT_NAME $word" >>/var/log/maintainer-scripts
        gate=/var/lib/gate-$DPKG_MAINTSCRIPT_PACKAGE.$DPKG_MAINTSCRIPT_NAME
        if [ -p "$gate" ]; then
            : >/var/lib/a-maintainer-script-waits
            read -r _ <"$gate"
        fi
        break
        ;;
    esac
done
unset script gate word
exec /bin/dash.real "$@"
"#;

/// The maintainer scripts of one root directory.
#[derive(Debug)]
pub struct MaintainerScripts {
    root: PathBuf,
}

impl MaintainerScripts {
    /// Puts the watching shell in the place of dash, which is `/bin/sh`, in `root`, with dpkg's own means, so that a
    /// newer dash leaves it alone.
    ///
    /// # Errors
    /// `root` is not a whole system whose shell is dash.
    pub fn watch(root: &Path) -> Result<MaintainerScripts> {
        let files = fs::read_to_string(root.join("var/lib/dpkg/info/dash.list")).context("no dash")?;
        let shell = files.lines().find(|file| file.ends_with("/bin/dash")).context("dash has no program")?;
        let diverted = Command::new("dpkg-divert")
            .arg(format!("--root={}", root.display()))
            .args(["--quiet", "--local", "--no-rename", "--divert", &format!("{shell}.real"), "--add", shell])
            .status()
            .context("this test needs dpkg-divert")?;
        ensure!(diverted.success(), "the shell of {} cannot be put aside", root.display());
        let shell = root.join(shell.trim_start_matches('/'));
        fs::rename(&shell, shell.with_extension("real"))?;
        fs::write(&shell, SHELL)?;
        fs::set_permissions(&shell, fs::Permissions::from_mode(0o755))?;
        Ok(MaintainerScripts { root: root.to_owned() })
    }

    /// How often a script was called with this action, for example `("tzdata", "postinst", "configure")`.
    pub fn calls(&self, package: &str, script: &str, action: &str) -> usize {
        let call = format!("{package} {script} {action}");
        self.record().lines().filter(|line| *line == call).count()
    }

    /// One line for each call: package, script, action.
    pub fn record(&self) -> String {
        fs::read_to_string(self.root.join(RECORD)).unwrap_or_default()
    }

    fn gate(&self, package: &str, script: &str) -> PathBuf {
        self.root.join(format!("var/lib/gate-{package}.{script}"))
    }

    /// Makes a script wait when it begins.
    ///
    /// # Errors
    /// It is made to wait already.
    pub fn hold(&self, package: &str, script: &str) -> Result<()> {
        let made = Command::new("mkfifo").arg(self.gate(package, script)).status()?;
        ensure!(made.success(), "no gate could be made");
        Ok(())
    }

    /// Whether a script waits.
    pub fn one_waits(&self) -> bool {
        self.root.join(WAITS).exists()
    }

    /// Lets the script run through from its next call on.
    ///
    /// # Errors
    /// It was not made to wait.
    pub fn release(&self, package: &str, script: &str) -> Result<()> {
        fs::remove_file(self.root.join(WAITS))?;
        Ok(fs::remove_file(self.gate(package, script))?)
    }
}
