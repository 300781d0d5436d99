//! Starts dpkg with exact arguments and a cleared environment, waits for it with a bound, and reads how it ended.

use super::copy;
use super::escape;
use super::hooks;
use super::order::{Failure, Isolation, Outcome, Place, Refusal, Target};
use super::sandbox::{self, Helper, Privilege};
use crate::disk::Unfinished;
use crate::scan::SYSTEM_PATH;
use protocol::limits;
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Marks a dpkg as ours: its value is the installer's work directory.
pub(super) const MARK: &str = "PATCHMESH_WORK";

/// Installs the package files `debs`; their directory `scratch` belongs to the installer and takes dpkg's output.
pub(super) fn install(target: &Target, debs: &[PathBuf], scratch: &Path) -> Outcome {
    let mut command = match &target.place {
        Place::Machine => Command::new("dpkg"),
        Place::Directory { root, isolation: Isolation::Namespaces { helper, privilege } } => {
            sandbox::command(helper, *privilege, root, &target.work, "dpkg")
        }
        Place::Directory { isolation: Isolation::None { .. }, .. } => {
            match unsandboxed(target.root(), debs) {
                Ok(None) => {}
                Ok(Some(refusal)) => return Outcome::Refused(refusal),
                Err(failure) => return Outcome::Failed(failure),
            }
            Command::new("dpkg")
        }
    };
    command.args(arguments(target)).args(debs);
    match run(command, &target.work, scratch, target.timeout) {
        Ok(ended) => judge(ended),
        Err(Failure::File { source, .. }) => copy::full_or_failed(source, scratch),
        Err(failure) => Outcome::Failed(failure),
    }
}

/// Why dpkg must not run without a sandbox.
fn unsandboxed(root: &Path, debs: &[PathBuf]) -> Result<Option<Refusal>, Failure> {
    match hooks::find(Path::new("/etc/dpkg")) {
        Some(refusal) => Ok(Some(refusal)),
        None => escape::find(root, debs),
    }
}

/// dpkg's options. A changed configuration file stays as the administrator left it, since nobody is there to be asked.
fn arguments(target: &Target) -> Vec<String> {
    let mut arguments = Vec::new();
    if let Place::Directory { root, .. } = &target.place {
        let root = root.display();
        arguments.push(format!("--root={root}"));
        // Without it dpkg writes to the log of the machine.
        arguments.push(format!("--log={root}/var/log/patchmesh-dpkg.log"));
        arguments.push("--force-not-root".to_owned());
    }
    let fixed = ["--refuse-downgrade", "--force-confdef", "--force-confold", "--install"];
    arguments.extend(fixed.map(str::to_owned));
    arguments
}

/// How a process ended.
pub(super) struct Ended {
    /// `None` when it was killed for taking too long.
    status: Option<ExitStatus>,
    log: String,
}

/// Runs `command` in a process group of its own. Its output goes to a file and not to a pipe, so that dpkg on the
/// machine itself does not die of a broken pipe when this process does.
pub(super) fn run(
    mut command: Command,
    work: &Path,
    scratch: &Path,
    timeout: Duration,
) -> Result<Ended, Failure> {
    let path = scratch.join("output");
    let failed = |source| Failure::File { action: format!("write {}", path.display()), source };
    let output = File::create(&path).map_err(failed)?;
    let errors = output.try_clone().map_err(failed)?;
    let program = command.get_program().to_string_lossy().into_owned();
    let sandboxed = program != "dpkg";
    if !sandboxed {
        command.stdin(Stdio::null());
    }
    let environment = [("PATH", SYSTEM_PATH), ("DEBIAN_FRONTEND", "noninteractive"), ("LC_ALL", "C")];
    command.env_clear().envs(environment).env(MARK, work);
    command.current_dir("/").stdout(output).stderr(errors).process_group(0);
    let child = command.spawn().map_err(|source| Failure::Program { program, source })?;
    let status = wait(child, timeout).map_err(failed)?;
    Ok(Ended { status, log: tail(&path).map_err(failed)? })
}

/// Waits for `child`, and kills its process group after `timeout`. The pipe to its standard input stays open as long.
fn wait(mut child: Child, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
    let group = Pid::from_child(&child);
    let held = child.stdin.take();
    let (sender, ended) = mpsc::sync_channel(1);
    let waiter = std::thread::spawn(move || {
        let status = child.wait();
        let _ = sender.send(());
        status
    });
    let kill = || {
        // Fails only when the group is gone already, which is what it is for.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    };
    let in_time = ended.recv_timeout(timeout).is_ok();
    if !in_time {
        kill();
    }
    let status = waiter.join().unwrap_or_else(|_| Err(std::io::Error::other("waiting failed")))?;
    if status.signal().is_some() {
        // A dpkg that was killed leaves its maintainer script behind.
        kill();
    }
    drop(held);
    Ok(in_time.then_some(status))
}

/// The end of a file, as text.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limits::INSTALLER_LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(limits::INSTALLER_LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn judge(Ended { status, log }: Ended) -> Outcome {
    let Some(status) = status else { return Outcome::TimedOut { log } };
    let full = ["No space left on device", "Disk quota exceeded", "File too large"];
    if !status.success() && full.iter().any(|message| log.contains(message)) {
        return Outcome::DiskFull { log };
    }
    match status.code() {
        Some(code) if code == i32::from(sandbox::NOT_ENTERED) => {
            Outcome::Failed(Failure::Sandbox { message: log.trim().to_owned() })
        }
        Some(2) if log.contains("lock was locked by") || log.contains("unable to lock") => {
            Outcome::LockBusy { holder: None }
        }
        // The sandbox passes a signal on as a shell does.
        Some(code) if code > 128 => Outcome::Killed { signal: code - 128, log },
        Some(code) => Outcome::Exited { code, log },
        None => Outcome::Killed { signal: status.signal().unwrap_or_default(), log },
    }
}

/// Which isolation this machine offers, found by making a sandbox with `helper` and starting dpkg in it. Takes some
/// ten milliseconds; `doctor` shows it, and whoever makes a [`Target`] hands it on.
pub fn probe(helper: &Helper) -> Isolation {
    let mut reasons = Vec::new();
    for privilege in [Privilege::Root, Privilege::UserNamespace] {
        if privilege == Privilege::Root && !rustix::process::geteuid().is_root() {
            reasons.push("not started as root".to_owned());
            continue;
        }
        match try_sandbox(helper, privilege) {
            Ok(()) => return Isolation::Namespaces { helper: helper.clone(), privilege },
            Err(reason) => reasons.push(reason),
        }
    }
    Isolation::None { reason: reasons.join("; ") }
}

fn try_sandbox(helper: &Helper, privilege: Privilege) -> Result<(), String> {
    let make = || -> std::io::Result<_> {
        let base = Unfinished::beside(&std::env::temp_dir().join("sandbox"), "sandbox")?;
        let path = std::fs::canonicalize(base.path())?;
        let (root, work) = (path.join("root"), path.join("work"));
        std::fs::create_dir(&root)?;
        std::fs::create_dir(&work)?;
        Ok((base, root, work))
    };
    let (_base, root, work) = make().map_err(|error| format!("no temporary directory: {error}"))?;
    let mut command = sandbox::command(helper, privilege, &root, &work, "dpkg");
    command.arg("--version");
    let ended = run(command, &work, &work, Duration::from_secs(20)).map_err(|error| error.to_string())?;
    match ended.status {
        Some(status) if status.success() => Ok(()),
        _ => Err(ended.log.trim().chars().take(300).collect()),
    }
}
