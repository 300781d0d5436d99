//! A disk in memory that only one thread sees: what is mounted and written there is gone with the thread.

use anyhow::{Context as _, Result, anyhow};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;
use std::path::Path;

/// Runs `work` on a thread with a mount namespace of its own, in an empty directory that lies in memory. Needs root.
///
/// # Errors
/// `work` failed, or this is not root.
pub fn with_memory_disk<T: Send>(work: impl FnOnce(&Path) -> Result<T> + Send) -> Result<T> {
    let directory = tempfile::Builder::new().prefix("patchmesh-test-").tempdir()?;
    let place = std::fs::canonicalize(directory.path())?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            separate(&place).context("this test mounts a disk in memory: run it as root")?;
            work(&place)
        });
        thread.join().map_err(|_| anyhow!("the work on the memory disk panicked"))?
    })
}

fn separate(place: &Path) -> Result<()> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe because of UnshareFlags::FILES, which is not used here"
    )]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("none", place, "tmpfs", MountFlags::empty(), c"mode=755")?;
    Ok(())
}
