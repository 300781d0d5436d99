//! One change of a fleet directory at a time: two commands that read, change and write the same file undo each other's work.

use super::{FleetDirectory, FleetError, ROOT_FILE};
use crate::disk;
use protocol::limits;
use std::fs::{OpenOptions, TryLockError};
use std::time::{Duration, Instant};

/// How long a command waits for another one that changes the directory.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it tries.
const AGAIN: Duration = Duration::from_millis(20);

/// The lock of a fleet directory; released when it is dropped or the process dies.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] std::fs::File);

impl FleetDirectory {
    /// Locks the directory for a change, from the first read to the last write. It is the first root metadata that is locked: no
    /// command replaces that file, and none leaves another one behind. A process that locks twice waits for itself. What a command
    /// that was killed left half written goes.
    ///
    /// # Errors
    /// [`FleetError::Busy`] when another command keeps it for long.
    pub fn lock(&self) -> Result<Lock, FleetError> {
        self.lock_within(PATIENCE)
    }

    pub(super) fn lock_within(&self, patience: Duration) -> Result<Lock, FleetError> {
        let path = self.directory.join(ROOT_FILE);
        let failed = |source| FleetError::File { action: "lock", path: path.clone(), source };
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => {
                    // Room on the disk is all that it costs when they stay.
                    let _ = disk::remove_unfinished_below(&self.directory, limits::STAGING_DEPTH + 1);
                    return Ok(Lock(file));
                }
                Err(TryLockError::WouldBlock) if began.elapsed() < patience => std::thread::sleep(AGAIN),
                Err(TryLockError::WouldBlock) => return Err(FleetError::Busy(self.directory.clone())),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }
}
