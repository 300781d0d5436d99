//! Runs a program in namespaces of its own: nothing outside one root directory and one work directory can be written.
//!
//! A helper process (a hidden subcommand of our own binary, single-threaded as user namespaces demand) makes the
//! namespaces in its first stage and the mounts in its second, and then becomes the program:
//!
//! - mount namespace: everything read-only but the root and the work directory; `/etc/dpkg` and `/proc` masked, the
//!   latter because `/proc/PID/root` leads to the mounts of other processes;
//! - process namespace: nothing survives the program, and everything dies with the caller;
//! - network, IPC and host-name namespaces: no network, not even loopback;
//! - without root rights all of that inside a user namespace in which the caller is root.

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_remount,
};
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, UnshareFlags};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Exit code of the helper when the sandbox could not be made and the program was not started.
pub const NOT_ENTERED: u8 = 125;

const OUTER: &str = "namespaces";
const INNER: &str = "mounts";

/// Capabilities that unpacking and maintainer scripts need; all others are dropped, those for mounting above all.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SYS_CHROOT);

/// How to start the helper: a program and the arguments that select the helper in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helper {
    /// Absolute path of the executable.
    pub program: PathBuf,
    /// Arguments in front of the helper's own, for example the name of a hidden subcommand.
    pub arguments: Vec<String>,
}

/// Whether namespaces need a user namespace around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// The caller may make namespaces itself (root with `CAP_SYS_ADMIN`).
    Root,
    /// The caller needs a user namespace, in which it is root. Files can belong to `root:root` only.
    UserNamespace,
}

impl Privilege {
    fn word(self) -> &'static str {
        match self {
            Privilege::Root => "root",
            Privilege::UserNamespace => "user",
        }
    }
}

/// What one stage could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Arguments that [`command`] does not make.
    #[error("the installer sandbox is started by patchmesh itself, not by hand")]
    Usage,
    /// The caller is gone.
    #[error("the process that started the sandbox is gone")]
    Orphan,
    /// One step failed.
    #[error("sandbox: {step}: {source}")]
    Step {
        /// What was tried.
        step: String,
        /// Cause.
        source: io::Error,
    },
}

fn step<T, E: Into<io::Error>>(what: impl Into<String>, result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|source| Error::Step { step: what.into(), source: source.into() })
}

/// The command that runs `program` in a sandbox where only `root` and `work` can be written. Both must be absolute
/// paths without links. Its standard input must be a pipe that the caller holds open: when it closes, all is killed.
pub fn command(helper: &Helper, privilege: Privilege, root: &Path, work: &Path, program: &str) -> Command {
    let mut command = Command::new(&helper.program);
    command.args(&helper.arguments).args([OUTER, privilege.word()]).arg(root).arg(work).arg(program);
    command.stdin(Stdio::piped());
    command
}

/// The helper: call it with the arguments after [`Helper::arguments`], before any thread is started, and end the
/// process with what it returns. In its last stage it becomes the program and does not return.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    match stage(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // The caller reads standard error as the log of the deployment.
            let _ = io::Write::write_all(&mut io::stderr(), format!("{error}\n").as_bytes());
            ExitCode::from(NOT_ENTERED)
        }
    }
}

fn stage(arguments: Vec<OsString>) -> Result<u8, Error> {
    die_with_the_caller()?;
    let count = arguments.len();
    let mut rest = arguments.into_iter();
    let mut next = || rest.next().ok_or(Error::Usage);
    let name = next()?;
    if name == OUTER {
        let privilege = match next()?.to_str() {
            Some("root") => Privilege::Root,
            Some("user") => Privilege::UserNamespace,
            _ => return Err(Error::Usage),
        };
        make_namespaces(privilege)?;
        run_inner(count, rest.collect())
    } else if name == INNER {
        let (root, work, program) = (PathBuf::from(next()?), PathBuf::from(next()?), next()?);
        make_mounts(&root, &work)?;
        drop_capabilities()?;
        let error = Command::new(&program).args(rest).stdin(Stdio::null()).current_dir("/").exec();
        step(format!("start {}", program.display()), Err(error))
    } else {
        Err(Error::Usage)
    }
}

/// Asks the kernel for death when the parent dies, and then looks whether it died before the asking: the parent holds
/// the other end of standard input.
fn die_with_the_caller() -> Result<(), Error> {
    let asked = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    step("tie the sandbox to its caller", asked)?;
    let input = io::stdin();
    let nonblocking = rustix::fs::fcntl_setfl(&input, rustix::fs::OFlags::NONBLOCK);
    step("look at the caller's pipe", nonblocking)?;
    match input.lock().read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        _ => Err(Error::Orphan),
    }
}

fn make_namespaces(privilege: Privilege) -> Result<(), Error> {
    let mut flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    if privilege == Privilege::UserNamespace {
        flags |= UnshareFlags::NEWUSER;
    }
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    #[expect(
        deprecated,
        reason = "its successor is unsafe because of UnshareFlags::FILES, which is not used here"
    )]
    let unshared = rustix::thread::unshare(flags);
    step("make namespaces", unshared)?;
    if privilege == Privilege::UserNamespace {
        step("deny setgroups", fs::write("/proc/self/setgroups", "deny"))?;
        step("map the user", fs::write("/proc/self/uid_map", format!("0 {user} 1")))?;
        step("map the group", fs::write("/proc/self/gid_map", format!("0 {group} 1")))?;
    }
    Ok(())
}

/// Starts the second stage, the first process of the new process namespace, and passes its exit code on.
fn run_inner(count: usize, rest: Vec<OsString>) -> Result<u8, Error> {
    let executable = step("find the helper", std::env::current_exe())?;
    let all: Vec<OsString> = std::env::args_os().skip(1).collect();
    let selector = &all[..all.len().saturating_sub(count)];
    let mut inner = Command::new(executable);
    inner.args(selector).arg(INNER).args(rest).stdin(Stdio::piped());
    let mut child = step("start the second stage", inner.spawn())?;
    // `Child::wait` closes the pipe, which would tell the second stage that this one is gone.
    let held = child.stdin.take();
    let status = step("wait for the second stage", child.wait())?;
    drop(held);
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(NOT_ENTERED.into());
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

fn make_mounts(root: &Path, work: &Path) -> Result<(), Error> {
    if root.parent().is_none() || work.parent().is_none() {
        return Err(Error::Usage);
    }
    let apart = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("separate the mounts", mount_change("/", apart))?;
    for writable in [root, work] {
        let bound = mount_bind_recursive(writable, writable);
        step(format!("keep {} writable", writable.display()), bound)?;
    }
    let table = step("read the mounts", fs::read("/proc/self/mountinfo"))?;
    for line in table.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let (place, flags) = parse_mount(line)
            .ok_or_else(|| io::Error::other("unknown format"))
            .map_err(|source| Error::Step { step: "read the mounts".to_owned(), source })?;
        if place.starts_with(root) || place.starts_with(work) {
            continue;
        }
        match mount_remount(&place, MountFlags::BIND | MountFlags::RDONLY | flags, c"") {
            // What cannot be reached from here cannot be written either: hidden below another mount, or closed to us.
            Ok(())
            | Err(rustix::io::Errno::NOENT | rustix::io::Errno::ACCESS | rustix::io::Errno::NOTDIR) => {}
            Err(error) => step(format!("make {} read-only", place.display()), Err(error))?,
        }
    }
    show_own_processes(root);
    for masked in ["/etc/dpkg", "/proc"] {
        mask(Path::new(masked))?;
    }
    Ok(())
}

/// Gives maintainer scripts, which run inside `root`, a read-only `/proc` that knows the sandbox's processes alone. It
/// is a courtesy: a kernel that does not allow it in a user namespace leaves the directory as it is.
fn show_own_processes(root: &Path) {
    let place = root.join("proc");
    if fs::symlink_metadata(&place).is_ok_and(|metadata| metadata.is_dir()) {
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let _ = mount("proc", &place, "proc", flags, None);
    }
}

/// Covers a directory with an empty one.
fn mask(place: &Path) -> Result<(), Error> {
    if !place.exists() {
        return Ok(());
    }
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let masked = mount("none", place, "tmpfs", flags, c"size=4k,nr_inodes=2,mode=555");
    step(format!("mask {}", place.display()), masked)
}

/// Mount point and flags of a line of `/proc/self/mountinfo` (proc(5)). Flags that were set must be repeated: in a user
/// namespace they are locked.
fn parse_mount(line: &[u8]) -> Option<(PathBuf, MountFlags)> {
    let mut fields = line.split(|byte| *byte == b' ').skip(4);
    let place = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    let mut flags = MountFlags::empty();
    for option in std::str::from_utf8(fields.next()?).ok()?.split(',') {
        flags |= match option {
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noexec" => MountFlags::NOEXEC,
            "noatime" => MountFlags::NOATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "relatime" => MountFlags::RELATIME,
            "nosymfollow" => MountFlags::NOSYMFOLLOW,
            _ => MountFlags::empty(),
        };
    }
    Some((place, flags))
}

/// Undoes the octal escapes (`\040` for a space) of the mount table.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

fn drop_capabilities() -> Result<(), Error> {
    for capability in CapabilitySet::all().iter() {
        if KEPT.contains(capability) || capability.bits().count_ones() != 1 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => step("drop capabilities", Err(error))?,
        }
    }
    step("give up new privileges", rustix::thread::set_no_new_privs(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table_is_read() {
        let line = b"36 35 98:0 /mnt1 /mnt/a\\040b\\134c rw,nosuid,relatime master:1 - ext3 /dev/root rw";
        let (place, flags) = parse_mount(line).expect("mount");
        assert_eq!(place, PathBuf::from("/mnt/a b\\c"));
        assert_eq!(flags, MountFlags::NOSUID | MountFlags::RELATIME);
        assert!(parse_mount(b"36 35").is_none());
        assert_eq!(unescape(b"\\9\\04"), b"\\9\\04");
    }
}
