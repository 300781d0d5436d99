//! A fleet directory in the making, under a name that nobody takes for a fleet: keys of a fleet that never was must not be found.

use super::{FleetDirectory, FleetError, Initial, ROOT_FILE, initial_files, is_free, make_keys};
use crate::disk::{self, Readers, Unfinished};
use protocol::time::WallTime;
use std::io;
use std::path::{Path, PathBuf};

/// A fleet directory that has all its files and not its name yet; gone when it is dropped, or by the next attempt.
#[derive(Debug)]
pub struct NewFleet {
    unfinished: Unfinished,
    begun: FleetDirectory,
    directory: PathBuf,
}

impl NewFleet {
    /// Makes keys, first root metadata and the files to edit for the fleet directory that `directory` will be.
    ///
    /// # Errors
    /// [`FleetError::Exists`] when it holds anything.
    pub fn begin(directory: &Path, initial: &Initial, now: WallTime) -> Result<NewFleet, FleetError> {
        if !is_free(directory).map_err(failed("read", directory))? {
            return Err(FleetError::Exists(directory.to_owned()));
        }
        let unfinished = Unfinished::beside(directory, "fleet").map_err(failed("make", directory))?;
        let keys = unfinished.path().join("keys");
        disk::make_private_directory(&keys.join("online")).map_err(failed("make", &keys))?;
        let root = make_keys(&keys, initial, now)?;
        let path = unfinished.path().join(ROOT_FILE);
        disk::create(&path, &root, Readers::Everyone).map_err(failed("write", &path))?;
        let begun = FleetDirectory { directory: unfinished.path().to_owned(), root };
        for (target, bytes) in initial_files(initial) {
            begun.write_staged(target, &bytes).map_err(failed("write", &begun.staged_path(target)))?;
        }
        Ok(NewFleet { unfinished, begun, directory: directory.to_owned() })
    }

    /// The fleet under its passing name.
    pub fn fleet(&self) -> &FleetDirectory {
        &self.begun
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// [`FleetError::Exists`] when something got that name meanwhile.
    pub fn finish(self) -> Result<FleetDirectory, FleetError> {
        let directory = self.directory;
        self.unfinished.finish(&directory).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                FleetError::Exists(directory.clone())
            }
            _ => failed("make", &directory)(error),
        })?;
        FleetDirectory::open(&directory)
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FleetError + use<> {
    let path = path.to_owned();
    move |source| FleetError::File { action, path, source }
}
