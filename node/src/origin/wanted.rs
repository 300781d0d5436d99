//! What a seed wants from its origins: contents that approved manifests name, and under which names mirrors have them.

use super::OriginError;
use crate::content::ContentStore;
use crate::verify::index::{Compression, for_each_package};
use protocol::digest::{Blake3Root, Sha256};
use protocol::identifier::{ManifestDigest, VendorName};
use protocol::limits::{INDEX_BYTES, TARGET_PATH_BYTES};
use protocol::manifest::{Artifact, Content, Evidence, Manifest};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// One content, and the files that it may be at a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The content.
    pub content: Content,
    /// Where a mirror of a vendor has it.
    pub(super) files: Vec<VendorFile>,
}

/// A file of a vendor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VendorFile {
    pub(super) vendor: VendorName,
    pub(super) path: MirrorPath,
}

/// How the path of a file below the address of a mirror is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MirrorPath {
    /// It is this one.
    Known(String),
    /// The vendor's own index says it: `Filename` of the package with the SHA-256 of the content.
    Indexed {
        /// The index.
        packages: Content,
        /// Its path, whose end says how it is compressed.
        packages_path: String,
    },
}

impl VendorFile {
    /// The file of a mirror that an artifact of a manifest is; `None` where it has no name that could be one.
    fn of(manifest: &Manifest, artifact: &Artifact) -> Option<VendorFile> {
        let path = match &artifact.evidence {
            Evidence::Apt(chain) => {
                MirrorPath::Indexed { packages: chain.packages, packages_path: chain.packages_path.clone() }
            }
            Evidence::Ed25519 { .. } | Evidence::None {} => {
                is_plain(&artifact.name).then(|| MirrorPath::Known(artifact.name.clone()))?
            }
        };
        Some(VendorFile { vendor: manifest.patch.vendor(), path })
    }
}

/// Every content of these manifests, each once, in an order in which evidence comes before what it proves.
pub(super) fn of_manifests(manifests: &[(ManifestDigest, Arc<Manifest>)]) -> Vec<Wanted> {
    let mut evidence: BTreeMap<Blake3Root, Wanted> = BTreeMap::new();
    let mut artifacts: BTreeMap<Blake3Root, Wanted> = BTreeMap::new();
    for (_, manifest) in manifests {
        for artifact in &manifest.artifacts {
            if let Evidence::Apt(chain) = &artifact.evidence {
                for content in [chain.release, chain.packages] {
                    evidence.entry(content.root).or_insert(Wanted { content, files: Vec::new() });
                }
            }
            let Some(file) = VendorFile::of(manifest, artifact) else { continue };
            let content = artifact.content;
            let wanted = artifacts.entry(content.root).or_insert(Wanted { content, files: Vec::new() });
            if !wanted.files.contains(&file) {
                wanted.files.push(file);
            }
        }
    }
    artifacts.retain(|root, _| !evidence.contains_key(root));
    evidence.into_values().chain(artifacts.into_values()).collect()
}

/// An artifact of a manifest; `None` when it has none with this root.
pub(super) fn of_artifact(manifest: &Manifest, root: Blake3Root) -> Option<Wanted> {
    let mut artifacts = manifest.artifacts.iter().filter(|artifact| artifact.content.root == root).peekable();
    let content = artifacts.peek()?.content;
    Some(Wanted {
        content,
        files: artifacts.filter_map(|artifact| VendorFile::of(manifest, artifact)).collect(),
    })
}

/// Whether a path stays below the address of a mirror and means the same to every server.
pub(super) fn is_plain(path: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\?#".contains(&byte))
    };
    path.len() <= TARGET_PATH_BYTES && path.split('/').all(plain)
}

/// The paths that an index gives for the package files with these digests, with the size of each.
fn paths_in_index(
    index: &[u8],
    packages_path: &str,
    files: &BTreeSet<Sha256>,
) -> BTreeMap<Sha256, (u64, String)> {
    let mut found = BTreeMap::new();
    let Some(compression) = Compression::of_path(packages_path) else { return found };
    let read = for_each_package(
        index,
        compression,
        |_| true,
        |stanza| {
            let Some((sha256, size)) = stanza.file().filter(|(sha256, _)| files.contains(sha256)) else {
                return;
            };
            let path = stanza.field("Filename").map(|path| path.trim_start_matches("./"));
            if let Some(path) = path.filter(|path| is_plain(path)) {
                found.entry(sha256).or_insert_with(|| (size, path.to_owned()));
            }
        },
    );
    if let Err(fault) = read {
        tracing::warn!(%fault, packages_path, "the index does not say where the mirror has its files");
        found.clear();
    }
    found
}

/// Reads in an index of a vendor, which lies here whole, where its mirrors have these contents: none for what it does not name, or not
/// with this size.
///
/// # Errors
/// [`OriginError::Content`] and [`OriginError::Disk`] when the index cannot be read.
pub(super) async fn look_up(
    store: &Arc<ContentStore>,
    index: Blake3Root,
    packages_path: &str,
    contents: Vec<Content>,
) -> Result<Vec<(Blake3Root, Option<String>)>, OriginError> {
    let (store, packages_path) = (Arc::clone(store), packages_path.to_owned());
    let read = spawn_blocking(move || -> Result<_, OriginError> {
        let mut bytes = Vec::new();
        store.open_whole(index)?.take(INDEX_BYTES as u64).read_to_end(&mut bytes)?;
        let files = contents.iter().map(|content| content.sha256).collect();
        let found = paths_in_index(&bytes, &packages_path, &files);
        let path = |content: &Content| {
            let named = found.get(&content.sha256).filter(|(size, _)| *size == content.size);
            (content.root, named.map(|(_, path)| path.clone()))
        };
        Ok(contents.iter().map(path).collect())
    });
    read.await.map_err(|_| OriginError::Stopping)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_mirror() {
        assert!(is_plain("pool/main/t/tool/tool_1.0+b1~1_amd64.deb"));
        for path in ["", "/etc/passwd", "a//b", "../a", "a/../b", "a/.", "a?b", "a#b", "a b", "a\\b", "ä"] {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn the_vendors_own_index_names_the_file() {
        let (one, two) = (Sha256::of(b"one"), Sha256::of(b"two"));
        let index = format!(
            "Package: a\nFilename: ./pool/a.deb\nSize: 3\nSHA256: {one}\n\nPackage: b\nFilename: ../b.deb\nSize: 3\nSHA256: {two}\n"
        );
        let files = BTreeSet::from([one, two, Sha256::of(b"three")]);
        let found = paths_in_index(index.as_bytes(), "main/binary-amd64/Packages", &files);
        assert_eq!(
            found,
            BTreeMap::from([(one, (3, "pool/a.deb".to_owned()))]),
            "not the path that leads away"
        );
        assert!(paths_in_index(b"\x00", "main/binary-amd64/Packages.xz", &files).is_empty());
    }
}
