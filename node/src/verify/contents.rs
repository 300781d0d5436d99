//! The full check of a file: every byte of it, under the digests of its manifest.

use protocol::digest::Sha256;
use protocol::manifest::Content;
use protocol::piece::TreeBuilder;
use protocol::verify::Refusal;
use sha2::Digest as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Describes the file at `path`: BLAKE3 root, SHA-256 and size, read once from beginning to end. Blocking.
///
/// # Errors
/// Those of opening and reading the file.
pub fn describe(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?;
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

/// The full check before a file is installed or offered as complete: the whole content is what the manifest says, under
/// the digest that the vendor signed and under the root by which it came. Blocking.
///
/// # Errors
/// [`Refusal::EvidenceMismatch`] when the bytes are others, [`Refusal::Missing`] when the file cannot be read.
pub fn verify_contents(path: &Path, expected: &Content) -> Result<(), Refusal> {
    let found = describe(path).map_err(|error| Refusal::Missing(format!("{}: {error}", path.display())))?;
    if found == *expected {
        return Ok(());
    }
    let what = if found.size != expected.size { "size" } else { "digest" };
    Err(Refusal::EvidenceMismatch(format!("{} has another {what} than its manifest says", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves X2
    #[test]
    fn every_byte_counts() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        let mut bytes: Vec<u8> = (0..2_500_000u32).map(|at| at.to_le_bytes()[1]).collect();
        std::fs::write(&path, &bytes).expect("write");
        let content = describe(&path).expect("describe");
        assert_eq!(content, Content::of(&bytes));
        assert_eq!(verify_contents(&path, &content), Ok(()));
        bytes[2_000_000] ^= 1;
        std::fs::write(&path, &bytes).expect("write");
        let code = |path: &Path| verify_contents(path, &content).map_err(|refusal| refusal.code());
        assert_eq!(code(&path), Err("evidence-mismatch"));
        bytes.truncate(1_000_000);
        std::fs::write(&path, &bytes).expect("write");
        assert_eq!(code(&path), Err("evidence-mismatch"));
        assert_eq!(code(&directory.path().join("absent")), Err("missing-evidence"));
    }
}
