//! What a file is, as a manifest names it: root, digest and size over every byte.

use crate::disk;
use protocol::digest::Sha256;
use protocol::limits::ARTIFACT_BYTES;
use protocol::manifest::Content;
use protocol::piece::TreeBuilder;
use sha2::Digest as _;
use std::io::{self, Read};
use std::path::Path;

/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Describes the regular file at `path`: BLAKE3 root, SHA-256 and size, read once from beginning to end. Blocking.
///
/// # Errors
/// Those of opening and reading the file, and what is larger than any artifact.
pub fn describe(path: &Path) -> io::Result<Content> {
    let mut file = disk::open_regular(path, ARTIFACT_BYTES)?.take(ARTIFACT_BYTES);
    let mut tree = TreeBuilder::default();
    let mut sha256 = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        tree.update(&buffer[..read]);
        sha256.update(&buffer[..read]);
    }
    let tree = tree.finish();
    let sha256 = Sha256::from_bytes(sha256.finalize().into());
    Ok(Content { root: tree.root(), sha256, size: tree.size() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        let mut bytes: Vec<u8> = (0..2_500_000u32).map(|at| at.to_le_bytes()[1]).collect();
        std::fs::write(&path, &bytes).expect("write");
        let content = describe(&path).expect("describe");
        assert_eq!(content, Content::of(&bytes));
        bytes[2_000_000] ^= 1;
        std::fs::write(&path, &bytes).expect("write");
        let changed = describe(&path).expect("describe");
        assert_eq!(changed.size, content.size);
        assert!(changed.root != content.root && changed.sha256 != content.sha256);
        assert!(describe(&directory.path().join("absent")).is_err());
    }
}
