//! Takes turns: one installer of ours at a time for a work directory, and nobody while dpkg is at work.

use super::order::{Failure, Outcome, Target};
use super::run::MARK;
use crate::disk;
use crate::scan::database::lock_holder;
use rustix::fs::FlockOperation;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a lock of ours is looked at while another installation of ours holds it.
const PAUSE: Duration = Duration::from_millis(50);

/// Our turn, as long as it is held; the operating system ends it when this process dies.
pub(super) struct Turn(#[expect(dead_code, reason = "holds the lock until it is dropped")] File);

/// Waits until no other installation of ours works for this target, also one that a killed predecessor left behind;
/// at most as long as an installation may take.
///
/// # Errors
/// [`Outcome::LockBusy`] at once when a foreign process holds dpkg's lock, or when ours does not end in time.
pub(super) fn take(target: &Target) -> Result<Turn, Outcome> {
    let path = target.work.join("lock");
    let failed =
        |source| Outcome::Failed(Failure::File { action: format!("lock {}", path.display()), source });
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = disk::open_file(&mut options, &path).map_err(failed)?;
    let start = Instant::now();
    let patient = || start.elapsed() < target.timeout;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if patient() => std::thread::sleep(PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Outcome::LockBusy { holder: None }),
            Err(error) => return Err(failed(error.into())),
        }
    }
    while let Some(holder) = lock_holder(target.root()) {
        if !(is_ours(holder, &target.work) && patient()) {
            return Err(Outcome::LockBusy { holder: (holder != 0).then_some(holder) });
        }
        std::thread::sleep(PAUSE);
    }
    Ok(Turn(file))
}

/// Whether process `holder` was started by an installer with this work directory: it carries our mark in its
/// environment. A process that is already gone counts as ours, since the next look settles it.
fn is_ours(holder: u32, work: &Path) -> bool {
    let environment = match std::fs::read(format!("/proc/{holder}/environ")) {
        Ok(environment) => environment,
        Err(error) => return error.kind() == std::io::ErrorKind::NotFound && holder != 0,
    };
    let mark = [MARK.as_bytes(), b"=", work.as_os_str().as_bytes()].concat();
    environment.is_empty() || environment.split(|byte| *byte == 0).any(|variable| variable == mark)
}
