//! Durable steps on the file system: whole files or none, and the space that is left.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempDir};

/// How names of files begin that are not finished; letters and digits follow.
const TEMPORARY: &str = ".new-";

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// This user alone (0600).
    Owner,
    /// Every user of the machine (0644).
    Everyone,
}

/// Free bytes that this user may still use on the file system of `path`.
///
/// # Errors
/// What the operating system says.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(path)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Whether `error` says that no space (or none of this user's quota) is left.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether `error` says that the operating system is short of descriptors or memory: the file is as it was, and may be tried
/// again.
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN))
}

/// Makes `directory` and what is missing above it, for this user alone (0700).
///
/// # Errors
/// What the operating system says.
pub fn make_private_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Opens a new file for this user alone (0600); a file that is already there is an error.
///
/// # Errors
/// What the operating system says.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Opens the regular file at `path` for reading when it has at most `limit` bytes. Nothing else is opened: a pipe would make this
/// wait for whoever writes to it, and a device may never end.
///
/// # Errors
/// What the operating system says, [`io::ErrorKind::InvalidInput`] for what is no regular file, and
/// [`io::ErrorKind::FileTooLarge`].
pub fn open_regular(path: &Path, limit: u64) -> io::Result<File> {
    let file = open_file(OpenOptions::new().read(true), path)?;
    match file.metadata()?.len() > limit {
        true => Err(too_large(limit)),
        false => Ok(file),
    }
}

/// Opens `path` as `options` say when a regular file is there, or was made; see [`open_regular`].
///
/// # Errors
/// What the operating system says, and [`io::ErrorKind::InvalidInput`] for what is no regular file.
pub fn open_file(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = options.custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    if about.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !about.is_file() {
        let text = "it is no regular file; copy what it gives into one and name that";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(file)
}

/// Whether `error`, of [`open_regular`] or [`open_file`], says that something else than a file has the name.
pub fn is_no_file(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::InvalidInput)
}

/// Refuses what is neither a file nor a directory in `directory`: whoever opens it without care waits, or reads for ever.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] with the name, and what the operating system says.
pub fn refuse_others(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // A link that leads nowhere is as good as nothing.
        let is_other = fs::metadata(&path).is_ok_and(|about| !about.is_file() && !about.is_dir());
        if is_other {
            let text = format!("{} is no regular file; remove it", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    Ok(())
}

/// Reads the regular file at `path` when it has at most `limit` bytes.
///
/// # Errors
/// As [`open_regular`].
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_file_bounded(&open_regular(path, limit)?, limit)
}

/// The same for text.
///
/// # Errors
/// As [`open_regular`], and [`io::ErrorKind::InvalidData`].
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read_regular(path, limit)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8"))
}

/// Reads the regular file at `path` when it has at most `limit` bytes; `None` when it does not exist.
///
/// # Errors
/// As [`open_regular`].
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    match open_regular(path, limit) {
        Ok(file) => read_file_bounded(&file, limit).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the rest of `file` when that is at most `limit` bytes.
///
/// # Errors
/// What the operating system says, and [`io::ErrorKind::FileTooLarge`].
pub fn read_file_bounded(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(limit));
    }
    Ok(bytes)
}

fn too_large(limit: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes"))
}

/// Makes a new file of `bytes`: afterwards, also after power loss, all of it is there or nothing.
///
/// # Errors
/// What the operating system says; [`io::ErrorKind::AlreadyExists`] when there is a file.
pub fn create(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    unnamed(path, bytes, readers)?.persist_noclobber(path).map_err(|error| error.error)?;
    sync_directory_of(path)
}

/// Replaces the file at `path` by `bytes`: afterwards, also after power loss, the whole old or the whole new file is
/// there.
///
/// # Errors
/// What the operating system says; the old file is then still there.
pub fn replace(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    replace_before_sync(path, bytes, readers)?;
    sync_directory_of(path)
}

/// [`replace`] for one of many files: the new one is whole, but stays for certain only after [`sync_directories`].
///
/// # Errors
/// As [`replace`].
pub fn replace_before_sync(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    unnamed(path, bytes, readers)?.persist(path).map(drop).map_err(|error| error.error)
}

/// Copies the file at `from` to `path` as [`replace`] would write it, for this user alone.
///
/// # Errors
/// As [`replace`].
pub fn replace_by_copy(path: &Path, from: &Path) -> io::Result<()> {
    let mut temporary = temporary_beside(path)?;
    io::copy(&mut open_regular(from, u64::MAX)?, &mut temporary)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_directory_of(path)
}

/// Removes what a process that died while it wrote here left behind, and nothing that one is writing now.
///
/// # Errors
/// What the operating system says; that there is no such directory is no error.
pub fn remove_unfinished(directory: &Path) -> io::Result<()> {
    remove_unfinished_below(directory, 0)
}

/// The same in so many levels of directories below it, too.
///
/// # Errors
/// As [`remove_unfinished`].
pub fn remove_unfinished_below(directory: &Path, levels: usize) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
        let kind = entry?;
        if kind.is_dir() && levels > 0 {
            remove_unfinished_below(&path, levels - 1)?;
        } else if kind.is_file() && is_temporary(&path) {
            remove_if_dead(&path)?;
        }
    }
    Ok(())
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.as_encoded_bytes()).unwrap_or_default();
    let rest = name.strip_prefix(TEMPORARY.as_bytes());
    rest.is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_alphanumeric))
}

/// Whoever writes a file holds its lock; the lock is held here until the name is gone, so that nobody begins meanwhile.
fn remove_if_dead(path: &Path) -> io::Result<()> {
    match open_regular(path, u64::MAX).map(|file| (file.try_lock().is_ok(), file)) {
        Ok((true, _locked)) => remove_if_there(path),
        Ok((false, _)) => Ok(()),
        // It is gone, or of another user: room on the disk is all that it costs.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Removes a file; that it is not there is no error.
///
/// # Errors
/// What the operating system says.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A directory in the making, beside the place where it will be: gone when it is dropped, or, after its process was killed, when
/// the next one is made there. A lock tells the living from the dead.
#[derive(Debug)]
pub struct Unfinished {
    directory: TempDir,
    _lock: File,
}

impl Unfinished {
    /// Makes one for what will be at `path`, for this user alone; `what` tells kinds apart.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn beside(path: &Path, what: &str) -> io::Result<Unfinished> {
        let above = directory_of(path);
        fs::create_dir_all(above)?;
        let prefix = format!(".patchmesh-unfinished-{what}-");
        for entry in fs::read_dir(above)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) && is_dead(&entry.path()) {
                // Where many users make theirs, not all may be removed.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        loop {
            let alone = Permissions::from_mode(0o700);
            let directory = tempfile::Builder::new().prefix(&prefix).permissions(alone).tempdir_in(above)?;
            // Between the two calls another process may have taken it for one of the dead.
            let lock = match File::open(directory.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
                Ok(()) if !directory.path().exists() => {}
                Ok(()) => return Ok(Unfinished { directory, _lock: lock }),
            }
        }
    }

    /// Where it is meanwhile.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Puts it at `path`, where nothing or an empty directory may be.
    ///
    /// # Errors
    /// What the operating system says; it is gone then.
    pub fn finish(self, path: &Path) -> io::Result<()> {
        fs::rename(self.directory.path(), path)?;
        // Nothing is under its old name any more.
        let _ = self.directory.keep();
        sync_directory_of(path)
    }
}

/// Whether it is a directory that no living process has locked.
fn is_dead(directory: &Path) -> bool {
    let flags = (rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW).bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(directory);
    opened.is_ok_and(|directory| directory.try_lock().is_ok())
}

/// Makes renames and removals in the directory of `path` durable.
///
/// # Errors
/// What the operating system says.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// Makes renames in these directories durable, and the directories themselves up to `top`.
///
/// # Errors
/// What the operating system says.
pub fn sync_directories(directories: &BTreeSet<PathBuf>, top: &Path) -> io::Result<()> {
    let mut all = BTreeSet::from([top.to_owned()]);
    for directory in directories {
        all.extend(directory.ancestors().take_while(|above| above.starts_with(top)).map(Path::to_owned));
    }
    all.iter().try_for_each(|directory| File::open(directory)?.sync_all())
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new file that is locked, so that nobody takes it for one of a dead process.
fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    loop {
        let file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory_of(path))?;
        // Between the two calls it may have been taken for one. A file system without locks has nobody who does that.
        let is_taken = matches!(file.as_file().try_lock(), Err(TryLockError::WouldBlock));
        if !is_taken && file.as_file().metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// `bytes` on the disk beside `path`, under a name of no meaning yet.
fn unnamed(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<NamedTempFile> {
    let mut temporary = temporary_beside(path)?;
    temporary.write_all(bytes)?;
    if readers == Readers::Everyone {
        temporary.as_file().set_permissions(Permissions::from_mode(0o644))?;
    }
    temporary.as_file().sync_all()?;
    Ok(temporary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_within_their_bound_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RUSR).unwrap();
        File::create(path("sparse")).unwrap().set_len(1 << 40).unwrap();
        fs::write(path("text"), "text").unwrap();
        fs::write(path("bytes"), [0xff]).unwrap();
        let kind = |path: &Path| read_text(path, 4).map_err(|error| error.kind());
        assert_eq!(kind(&path("pipe")), Err(io::ErrorKind::InvalidInput), "and nobody waits for a writer");
        assert_eq!(kind(Path::new("/dev/zero")), Err(io::ErrorKind::InvalidInput));
        assert_eq!(kind(&path("sparse")), Err(io::ErrorKind::FileTooLarge));
        assert_eq!(kind(directory.path()), Err(io::ErrorKind::IsADirectory));
        assert_eq!(kind(&path("bytes")), Err(io::ErrorKind::InvalidData));
        assert_eq!(kind(&path("text")), Ok("text".to_owned()));
        assert_eq!(read_bounded(&path("absent"), 4).unwrap(), None);
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_replaced_whole_and_for_their_readers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(directory.path().join(".new-abc"), "torn").unwrap();
        replace(&path, b"one", Readers::Everyone).unwrap();
        assert_eq!(mode(&path), 0o644);
        replace(&path, b"two", Readers::Owner).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"two".to_vec(), 0o600));
        replace_by_copy(&directory.path().join("copy"), &path).unwrap();
        assert_eq!(fs::read(directory.path().join("copy")).unwrap(), b"two");
        remove_unfinished(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(free_bytes(directory.path()).unwrap() > 0);
    }

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_write_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir_all(path("one/two/three")).unwrap();
        for name in [".new-abc123", "one/.new-abc123", "one/two/.new-abc123", "one/two/three/.new-abc123"] {
            fs::write(path(name), "torn").unwrap();
        }
        fs::write(path("one/.new-idea.txt"), "a note").unwrap();
        let living = temporary_beside(&path("one/file")).unwrap();
        remove_unfinished_below(directory.path(), 2).unwrap();
        assert!(!path(".new-abc123").exists() && !path("one/two/.new-abc123").exists());
        assert!(path("one/two/three/.new-abc123").exists(), "as deep as it was asked for");
        assert!(path("one/.new-idea.txt").exists() && living.path().exists());
        living.persist(path("one/file")).unwrap();
    }

    #[test]
    fn an_unfinished_directory_of_the_dead_goes_and_what_else_has_such_a_name_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = |end: &str| directory.path().join(format!(".patchmesh-unfinished-test-{end}"));
        fs::create_dir_all(path("dead").join("root")).unwrap();
        fs::write(path("file"), "").unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RWXU).unwrap();
        let living = Unfinished::beside(&directory.path().join("test"), "test").unwrap();
        assert_eq!(mode(living.path()), 0o700);
        assert!(!path("dead").exists());
        let _other = Unfinished::beside(&directory.path().join("test"), "test").unwrap();
        assert!(living.path().exists() && path("file").exists() && path("pipe").exists());
    }

    #[test]
    fn a_new_file_takes_nobodys_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create(&path, b"one", Readers::Owner).unwrap();
        assert_eq!(mode(&path), 0o600);
        let again = create(&path, b"two", Readers::Owner).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read_bounded(&path, 3).unwrap().unwrap(), b"one");
        assert_eq!(read_bounded(&path, 2).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(read_bounded(&directory.path().join("none"), 2).unwrap().is_none());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
