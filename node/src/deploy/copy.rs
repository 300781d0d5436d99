//! Copies content from an open file into the installer's own directory and verifies the copy.

use super::order::{Failure, Outcome, Refusal};
use protocol::digest::{Blake3Root, Sha256};
use protocol::manifest::Artifact;
use sha2::Digest as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

const BUFFER_BYTES: usize = 1 << 20;

/// Copies `from` to the new file `to`, writes it to disk, reads the copy again and compares it with the manifest.
///
/// # Errors
/// The outcome of the deployment: refused, disk full, or failed.
pub(super) fn verified(from: &File, artifact: &Artifact, to: &Path) -> Result<(), Outcome> {
    let copied = copy(from, artifact.content.size, to).map_err(|source| full_or_failed(source, to))?;
    let refused =
        |differs| Err(Outcome::Refused(Refusal::Content { artifact: artifact.name.clone(), differs }));
    if copied != artifact.content.size {
        return refused("size");
    }
    let (sha256, root) = digests(to).map_err(|source| full_or_failed(source, to))?;
    if sha256 != artifact.content.sha256 {
        return refused("SHA-256");
    }
    if root != artifact.content.root {
        return refused("BLAKE3 root");
    }
    Ok(())
}

/// Copies at most one byte more than `size`, so that a longer file is noticed and costs nothing. Reads by position,
/// since others may share the descriptor.
fn copy(from: &File, size: u64, to: &Path) -> io::Result<u64> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut copied = 0;
    while copied <= size {
        let room = usize::try_from(size + 1 - copied).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        match from.read_at(&mut buffer[..room], copied) {
            Ok(0) => break,
            Ok(read) => {
                file.write_all(&buffer[..read])?;
                copied += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.sync_all()?;
    Ok(copied)
}

fn digests(path: &Path) -> io::Result<(Sha256, Blake3Root)> {
    let file = File::open(path)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut sha256, mut blake3, mut offset) = (sha2::Sha256::new(), blake3::Hasher::new(), 0);
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => break,
            Ok(read) => {
                sha256.update(&buffer[..read]);
                blake3.update(&buffer[..read]);
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((Sha256::from_bytes(sha256.finalize().into()), Blake3Root::from_bytes(*blake3.finalize().as_bytes())))
}

/// Tells a full disk, which waiting mends, from other failures.
pub(super) fn full_or_failed(source: io::Error, path: &Path) -> Outcome {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let action = format!("write {}", path.display());
    if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
        Outcome::DiskFull { log: format!("cannot {action}: {source}") }
    } else {
        Outcome::Failed(Failure::File { action, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::manifest::{Content, Evidence};

    fn artifact(bytes: &[u8]) -> Artifact {
        Artifact { name: "a.deb".to_owned(), content: Content::of(bytes), evidence: Evidence::None {} }
    }

    fn try_copy(bytes: &[u8], artifact: &Artifact) -> Result<(), String> {
        let directory = tempfile::tempdir().expect("directory");
        let source = directory.path().join("source");
        std::fs::write(&source, bytes).expect("file");
        let file = File::open(&source).expect("file");
        verified(&file, artifact, &directory.path().join("copy")).map_err(|outcome| match outcome {
            Outcome::Refused(refusal) => refusal.to_string(),
            other => panic!("{other:?}"),
        })
    }

    // proves X2
    #[test]
    fn only_the_exact_bytes_pass() {
        let bytes = vec![7; 3_000_000];
        let right = artifact(&bytes);
        assert_eq!(try_copy(&bytes, &right), Ok(()));
        let mut flipped = bytes.clone();
        flipped[2_999_999] ^= 1;
        assert!(try_copy(&flipped, &right).expect_err("flipped").contains("SHA-256"));
        assert!(try_copy(&bytes[1..], &right).expect_err("short").contains("size"));
        let longer = [&bytes[..], b"x"].concat();
        assert!(try_copy(&longer, &right).expect_err("long").contains("size"));
        let mut other_root = artifact(&bytes);
        other_root.content.root = Blake3Root::of(b"other");
        assert!(try_copy(&bytes, &other_root).expect_err("root").contains("BLAKE3"));
    }
}
