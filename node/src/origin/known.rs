//! What a seed remembers of contents that lie at an origin: their piece lists, and the checks that their bytes have passed.

use crate::store::{self, Batch, Store};
use protocol::codec;
use protocol::digest::{Blake3Root, Sha256};
use protocol::identifier::ManifestDigest;
use protocol::limits;
use protocol::piece::PieceTree;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys of all records begin with it; the 32 bytes of the root follow.
const PREFIX: &[u8] = b"origin/";
/// Checks that are remembered of one content; it is checked again for the next manifest that names it.
const CHECKS: usize = 16;
/// Largest record: the piece list of the largest artifact, and room.
const RECORD_BYTES: usize = 4 << 20;

/// A full check: the digest that the content was compared with, and the manifest whose package it is, if it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The SHA-256 of the whole.
    pub sha256: Sha256,
    /// The manifest that names it as an artifact.
    pub manifest: Option<ManifestDigest>,
}

/// One content.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) tree: Arc<PieceTree>,
    checks: Vec<Check>,
    /// Whether this seed has put it into the bucket, or read all of it there.
    pub(super) kept: bool,
}

#[derive(Serialize, Deserialize)]
struct Record {
    size: u64,
    values: Vec<[u8; 32]>,
    checks: Vec<Check>,
    kept: bool,
}

impl Known {
    pub(super) fn new(tree: Arc<PieceTree>) -> Known {
        Known { tree, checks: Vec::new(), kept: false }
    }

    /// Whether the bytes of this root passed this check. They are the same for ever, so the verdict is too.
    pub(super) fn passed(&self, check: &Check) -> bool {
        self.checks.contains(check)
    }

    /// Notes a check; `false` when it was known.
    pub(super) fn pass(&mut self, check: Check) -> bool {
        let news = !self.passed(&check) && self.checks.len() < CHECKS;
        if news {
            self.checks.push(check);
        }
        news
    }

    /// Makes it durable. Blocks.
    pub(super) fn save(&self, store: &dyn Store) -> Result<(), store::Error> {
        let record = Record {
            size: self.tree.size(),
            values: self.tree.values().to_vec(),
            checks: self.checks.clone(),
            kept: self.kept,
        };
        let mut batch = Batch::default();
        batch.put(key(self.tree.root()), codec::encode(&record));
        store.apply(batch)
    }
}

/// Takes a content out of the store. Blocks.
pub(super) fn forget(store: &dyn Store, root: Blake3Root) -> Result<(), store::Error> {
    let mut batch = Batch::default();
    batch.delete(key(root));
    store.apply(batch)
}

/// Everything that was saved. What does not prove itself is left out and found again. Blocks.
pub(super) fn load(store: &dyn Store) -> Result<BTreeMap<Blake3Root, Known>, store::Error> {
    let mut all = BTreeMap::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.page(PREFIX, after.as_deref(), limits::ORIGIN_RECORDS)?;
        let Some((last, _)) = page.last() else { return Ok(all) };
        after = Some(last.clone());
        for (key, value) in &page {
            if let Some(known) = decode(key, value) {
                all.insert(known.tree.root(), known);
            }
        }
    }
}

fn key(root: Blake3Root) -> Vec<u8> {
    [PREFIX, root.as_bytes()].concat()
}

fn decode(key: &[u8], value: &[u8]) -> Option<Known> {
    let root = key.strip_prefix(PREFIX)?.try_into().ok().map(Blake3Root::from_bytes)?;
    let record: Record = codec::decode::<Record, RECORD_BYTES>(value).ok()?;
    let tree = PieceTree::prove(root, record.size, record.values).ok()?;
    Some(Known { tree: Arc::new(tree), checks: record.checks, kept: record.kept })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use protocol::piece::TreeBuilder;

    fn tree(bytes: &[u8]) -> Arc<PieceTree> {
        let mut tree = TreeBuilder::default();
        tree.update(bytes);
        Arc::new(tree.finish())
    }

    #[test]
    fn what_is_known_survives_a_restart_and_proves_itself() {
        let store = MemoryStore::default();
        let mut known = Known::new(tree(b"one"));
        let check = Check { sha256: Sha256::of(b"one"), manifest: None };
        assert!(known.pass(check) && !known.pass(check));
        known.save(&store).expect("saved");
        Known::new(tree(b"two")).save(&store).expect("saved");
        forget(&store, Blake3Root::of(b"two")).expect("forgotten");
        let loaded = load(&store).expect("loaded");
        assert_eq!(loaded.keys().collect::<Vec<_>>(), [&Blake3Root::of(b"one")]);
        let one = &loaded[&Blake3Root::of(b"one")];
        assert!(one.passed(&check) && !one.passed(&Check { sha256: Sha256::of(b"two"), ..check }));
        let value = store.read(&key(Blake3Root::of(b"one"))).expect("read").expect("there");
        assert!(decode(&key(Blake3Root::of(b"two")), &value).is_none(), "the list of another content");
    }
}
