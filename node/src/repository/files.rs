//! Files of a repository on disk: bounded reads, and writes of which either all or nothing is there after a crash.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// How names of files begin that are not finished.
const TEMPORARY: &str = ".new-";

/// Reads at most `limit` bytes; `None` when the file does not exist.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let text = format!("it has more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Some(bytes))
}

/// Writes a file that every user may read: temporary file, fsync, rename. The directory still needs [`sync`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let mut temporary = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory)?;
    temporary.write_all(bytes)?;
    temporary.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(directory.to_owned())
}

/// Removes what a process that died in the middle of [`write`] left behind. Only under the lock of all writers.
pub(crate) fn remove_leftovers(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes renames in these directories durable, and the directories themselves up to `top`.
pub(crate) fn sync(directories: &BTreeSet<PathBuf>, top: &Path) -> io::Result<()> {
    let mut all = BTreeSet::from([top.to_owned()]);
    for directory in directories {
        all.extend(directory.ancestors().take_while(|above| above.starts_with(top)).map(Path::to_owned));
    }
    all.iter().try_for_each(|directory| fs::File::open(directory)?.sync_all())
}

/// Writes one file durably, whatever happens afterwards.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = write(path, bytes)?;
    fs::File::open(directory)?.sync_all()
}
