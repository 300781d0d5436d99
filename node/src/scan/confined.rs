//! Opens files below a root directory so that no symbolic link in it leads outside (`openat2`, Linux 5.6).

use crate::disk;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A root directory that is open.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens the directory `path`.
    ///
    /// # Errors
    /// As the operating system says; a path that is not a directory is one of them.
    pub fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens the file `path`, relative to the root, for reading. Links are followed as if the root were `/`.
    ///
    /// # Errors
    /// As the operating system says, and when the path is not a plain file.
    pub fn file(&self, path: &str) -> io::Result<File> {
        let file = File::from(self.descend(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"))
        }
    }

    /// Reads a plain file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Root::file`], and [`io::ErrorKind::FileTooLarge`].
    pub fn read(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        disk::read_file_bounded(&self.file(path)?, limit)
    }

    /// Names in the directory `path`, sorted, without `.` and `..`; at most `limit`.
    ///
    /// # Errors
    /// As the operating system says, and [`io::ErrorKind::QuotaExceeded`] for more names than `limit`.
    pub fn names(&self, path: &str, limit: usize) -> io::Result<Vec<String>> {
        let directory = self.descend(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::new(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." || entry.file_type() == FileType::Directory {
                continue;
            }
            if names.len() == limit {
                let text = format!("more than {limit} files");
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
            }
            names.push(name);
        }
        names.sort();
        Ok(names)
    }

    fn descend(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), inside)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_never_lead_outside() {
        let outside = tempfile::tempdir().expect("directory");
        std::fs::write(outside.path().join("secret"), "outside").expect("file");
        let root = tempfile::tempdir().expect("directory");
        std::fs::create_dir(root.path().join("etc")).expect("directory");
        std::fs::write(root.path().join("here"), "inside").expect("file");
        symlink(outside.path().join("secret"), root.path().join("etc/absolute")).expect("link");
        symlink("../../../../here", root.path().join("etc/relative")).expect("link");
        let opened = Root::open(root.path()).expect("root");
        assert_eq!(
            opened.read("etc/absolute", 100).map_err(|error| error.kind()),
            Err(io::ErrorKind::NotFound)
        );
        assert_eq!(opened.read("etc/relative", 100).expect("inside"), b"inside");
        assert_eq!(opened.read("here", 5).map_err(|error| error.kind()), Err(io::ErrorKind::FileTooLarge));
        assert!(opened.read("etc", 5).is_err());
        assert!(opened.names("etc", 1).is_err());
    }
}
