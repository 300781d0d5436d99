//! Checked pieces in memory, within a bound, and one request to the origin for a piece however many want it.

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use protocol::digest::Blake3Root;
use protocol::limits::ORIGIN_CACHE_BYTES;
use protocol::piece::{CheckedPiece, PieceIndex};
use protocol::reason::Reason;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which piece.
pub(super) type Key = (Blake3Root, PieceIndex);

/// A piece that is on its way, for everybody who waits for it.
pub(super) type Coming = Shared<BoxFuture<'static, Result<Arc<CheckedPiece>, Reason>>>;

/// The pieces.
pub(super) struct Pieces {
    shelf: Mutex<Shelf>,
    capacity: usize,
}

#[derive(Default)]
struct Shelf {
    /// With the time of the last use, counted in uses.
    held: BTreeMap<Key, (Arc<CheckedPiece>, u64)>,
    bytes: usize,
    uses: u64,
    coming: BTreeMap<Key, Coming>,
}

impl Default for Pieces {
    fn default() -> Pieces {
        Pieces { shelf: Mutex::default(), capacity: ORIGIN_CACHE_BYTES }
    }
}

impl Pieces {
    /// The piece, if it is in memory.
    pub(super) fn held(&self, key: Key) -> Option<Arc<CheckedPiece>> {
        self.shelf().take(key)
    }

    /// The piece, from memory, from a request that is on its way, or with `fetch`. Whoever stops waiting stops nothing.
    pub(super) fn get<F>(self: &Arc<Self>, key: Key, fetch: impl FnOnce() -> F) -> Coming
    where
        F: Future<Output = Result<CheckedPiece, Reason>> + Send + 'static,
    {
        let mut shelf = self.shelf();
        if let Some(piece) = shelf.take(key) {
            return futures::future::ready(Ok(piece)).boxed().shared();
        }
        if let Some(coming) = shelf.coming.get(&key) {
            return coming.clone();
        }
        let (pieces, fetch) = (Arc::clone(self), fetch());
        let task = tokio::spawn(async move {
            let under_way = UnderWay(pieces, key);
            let fetched = fetch.await.map(Arc::new);
            if let Ok(piece) = &fetched {
                // Before it ends, or somebody would find neither and ask the origin once more.
                under_way.0.shelf().put(key, Arc::clone(piece), under_way.0.capacity);
            }
            fetched
        });
        let coming = async move { task.await.unwrap_or(Err(Reason::OriginUnreachable)) }.boxed().shared();
        shelf.coming.insert(key, coming.clone());
        coming
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is on its way; it is not any more when this goes, also when it goes in a panic.
struct UnderWay(Arc<Pieces>, Key);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.shelf().coming.remove(&self.1);
    }
}

impl Shelf {
    fn take(&mut self, key: Key) -> Option<Arc<CheckedPiece>> {
        self.uses += 1;
        let (piece, used) = self.held.get_mut(&key)?;
        *used = self.uses;
        Some(Arc::clone(piece))
    }

    fn put(&mut self, key: Key, piece: Arc<CheckedPiece>, capacity: usize) {
        self.uses += 1;
        self.bytes += piece.bytes().len();
        if let Some((old, _)) = self.held.insert(key, (piece, self.uses)) {
            self.bytes -= old.bytes().len();
        }
        while self.bytes > capacity {
            let oldest = self.held.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            let Some((old, _)) = oldest.and_then(|key| self.held.remove(&key)) else { return };
            self.bytes -= old.bytes().len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::piece::{PieceTree, TreeBuilder};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const MIB: usize = 1 << 20;

    fn content(pieces: u8) -> (PieceTree, Vec<u8>) {
        let bytes: Vec<u8> = (0..pieces).flat_map(|piece| vec![piece; MIB]).collect();
        let mut tree = TreeBuilder::default();
        tree.update(&bytes);
        (tree.finish(), bytes)
    }

    fn piece(tree: &PieceTree, bytes: &[u8], index: u32) -> CheckedPiece {
        let at = index as usize * MIB;
        tree.check(PieceIndex(index), bytes[at..at + MIB].to_vec()).expect("its own piece")
    }

    // proves X1: 750 devices that ask for one piece cause one request
    #[tokio::test]
    async fn many_who_want_one_piece_cause_one_request() {
        let (tree, bytes) = content(1);
        let (pieces, requests) = (Arc::new(Pieces::default()), Arc::new(AtomicUsize::new(0)));
        let (go, gate) = tokio::sync::watch::channel(false);
        let waiting: Vec<Coming> = (0..750)
            .map(|_| {
                let (requests, mut gate, found) = (requests.clone(), gate.clone(), piece(&tree, &bytes, 0));
                pieces.get((tree.root(), PieceIndex(0)), || async move {
                    requests.fetch_add(1, Ordering::Relaxed);
                    gate.wait_for(|open| *open).await.expect("the test holds it");
                    Ok(found)
                })
            })
            .collect();
        go.send(true).expect("somebody waits");
        for one in waiting {
            assert_eq!(one.await.expect("a piece").bytes(), &bytes[..]);
        }
        assert_eq!(requests.load(Ordering::Relaxed), 1);
        assert!(pieces.held((tree.root(), PieceIndex(0))).is_some(), "and the next finds it in memory");
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all_and_not_kept() {
        let (tree, bytes) = content(1);
        let pieces = Arc::new(Pieces::default());
        let key = (tree.root(), PieceIndex(0));
        let failed = pieces.get(key, || async { Err(Reason::OriginUnreachable) });
        let same = pieces.get(key, || async { panic!("one is on its way") });
        assert_eq!(
            (failed.await, same.await),
            (Err(Reason::OriginUnreachable), Err(Reason::OriginUnreachable))
        );
        let found = piece(&tree, &bytes, 0);
        assert!(pieces.get(key, || async { Ok(found) }).await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_and_not_kept() {
        let (tree, bytes) = content(1);
        let pieces = Arc::new(Pieces::default());
        let key = (tree.root(), PieceIndex(0));
        let panics = pieces.get(key, || async { panic!("of the test") });
        assert_eq!(panics.await, Err(Reason::OriginUnreachable));
        let found = piece(&tree, &bytes, 0);
        assert!(pieces.get(key, || async { Ok(found) }).await.is_ok(), "the next one asks again");
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_longest_unused_goes_first() {
        let (tree, bytes) = content(4);
        let pieces = Arc::new(Pieces { capacity: 2 * MIB, ..Pieces::default() });
        let held = |index| pieces.held((tree.root(), PieceIndex(index))).is_some();
        for index in 0..4 {
            let found = piece(&tree, &bytes, index);
            let got = pieces.get((tree.root(), PieceIndex(index)), || async { Ok(found) });
            got.await.expect("a piece");
            assert!(index == 0 || held(0), "in use all the time");
        }
        assert_eq!([held(0), held(1), held(2), held(3)], [true, false, false, true]);
        assert_eq!(pieces.shelf().bytes, 2 * MIB);
    }
}
