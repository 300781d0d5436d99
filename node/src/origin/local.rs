//! Copies on this seed's disk of what lies at its origins: for the full check, and as a cache whose longest unused goes first.

use super::keeper::{LATER, SOON};
use super::known::Known;
use super::wanted::Wanted;
use super::{OriginError, Origins};
use futures::StreamExt as _;
use protocol::digest::Blake3Root;
use protocol::limits;
use protocol::piece::{PieceIndex, PieceTree};
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Pieces that are written before they are made durable.
const PIECES_AT_ONCE: usize = 32;

/// A copy that is not discarded while this value lives.
pub struct Pin {
    origins: Arc<Origins>,
    root: Blake3Root,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.origins.state();
        if let Some(readers) = state.pinned.get_mut(&self.root) {
            *readers -= 1;
            if *readers == 0 {
                state.pinned.remove(&self.root);
            }
        }
    }
}

impl Origins {
    /// Waits until the whole content lies on this disk, and keeps it there as long as the pin lives. What an origin does
    /// not give is asked for again and again.
    ///
    /// # Errors
    /// [`OriginError::Stopping`]; [`OriginError::Missing`] when no origin ever had it.
    pub async fn make_local(self: &Arc<Self>, root: Blake3Root) -> Result<Pin, OriginError> {
        let mut pause = SOON;
        loop {
            match self.try_local(root).await {
                Ok(pin) => return Ok(pin),
                Err(error @ (OriginError::Stopping | OriginError::Missing { .. })) => return Err(error),
                Err(error) => {
                    self.complain(&error).await;
                    tokio::select! {
                        () = self.stop.cancelled() => return Err(OriginError::Stopping),
                        () = tokio::time::sleep(pause) => pause = LATER.min(pause * 2),
                    }
                }
            }
        }
    }

    /// The same, once.
    ///
    /// # Errors
    /// [`OriginError`] with what the origins said.
    pub(super) async fn try_local(self: &Arc<Self>, root: Blake3Root) -> Result<Pin, OriginError> {
        let pin = self.pin(root);
        let lock = {
            let mut state = self.state();
            state.copying.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(state.copying.entry(root).or_default())
        };
        let _alone = lock.lock().await;
        if !self.is_here(root) {
            tokio::select! {
                () = self.stop.cancelled() => return Err(OriginError::Stopping),
                copied = self.copy(root) => copied?,
            }
        }
        Ok(pin)
    }

    fn pin(self: &Arc<Self>, root: Blake3Root) -> Pin {
        let mut state = self.state();
        *state.pinned.entry(root).or_default() += 1;
        state.uses += 1;
        let uses = state.uses;
        state.used.insert(root, uses);
        Pin { origins: Arc::clone(self), root }
    }

    /// Notes that a copy was of use just now.
    pub fn touch(&self, root: Blake3Root) {
        let mut state = self.state();
        state.uses += 1;
        let uses = state.uses;
        state.used.insert(root, uses);
    }

    async fn copy(self: &Arc<Self>, root: Blake3Root) -> Result<(), OriginError> {
        let _copy = self.copies.acquire().await.map_err(|_| OriginError::Stopping)?;
        let wanted = self.wanted(root).ok_or_else(|| OriginError::Missing {
            origin: "no origin of this seed".to_owned(),
            what: root.to_string(),
        })?;
        let pieces = match self.tree(root) {
            Some(tree) => self.copy_pieces(tree).await,
            None => Err(OriginError::Missing { origin: "no origin".to_owned(), what: root.to_string() }),
        };
        match pieces {
            Ok(()) => Ok(()),
            // Where ranges do not lead to it, the whole file may.
            Err(_) if self.mirrors.iter().any(|mirror| mirror.knows(&wanted)) => {
                self.copy_whole(&wanted).await
            }
            Err(error) => Err(error),
        }
    }

    /// Copies what is missing, piece by piece: an interrupted copy goes on where it was.
    async fn copy_pieces(self: &Arc<Self>, tree: Arc<PieceTree>) -> Result<(), OriginError> {
        let root = tree.root();
        let (origins, list) = (Arc::clone(self), Arc::clone(&tree));
        let begun = spawn_blocking(move || {
            if origins.content.tree(root).is_none() {
                origins.make_room(list.size())?;
            }
            origins.content.begin(&list)
        });
        let have = begun.await.map_err(|_| OriginError::Stopping)??;
        let missing = (0..tree.pieces()).map(PieceIndex).filter(|index| !have.contains(*index));
        let mut coming = futures::stream::iter(missing)
            .map(|piece| {
                let coming = self.get(root, piece);
                async move { coming.await.map_err(|reason| OriginError::Piece { root, piece, reason }) }
            })
            .buffer_unordered(limits::ORIGIN_COPIES);
        let mut written = 0;
        while let Some(piece) = coming.next().await {
            let (content, piece) = (Arc::clone(&self.content), piece?);
            written += 1;
            let last = written % PIECES_AT_ONCE == 0;
            let stored = spawn_blocking(move || {
                content.write(&piece)?;
                if last { content.sync(root).map(drop) } else { Ok(()) }
            });
            stored.await.map_err(|_| OriginError::Stopping)??;
        }
        let content = Arc::clone(&self.content);
        let synced = spawn_blocking(move || content.sync(root)).await.map_err(|_| OriginError::Stopping)?;
        synced?;
        Ok(())
    }

    /// Copies a whole file of a mirror, and learns its piece list from it.
    async fn copy_whole(self: &Arc<Self>, wanted: &Wanted) -> Result<(), OriginError> {
        let mut failure = OriginError::Stopping;
        for mirror in self.mirrors.iter().filter(|mirror| mirror.knows(wanted)) {
            let file = tempfile::Builder::new().prefix("copy-").tempfile_in(&self.scratch)?;
            let mut to = tokio::fs::File::from_std(file.reopen()?);
            if let Err(error) = mirror.download(wanted, &mut to).await {
                failure = error;
                continue;
            }
            let (origins, root, size) = (Arc::clone(self), wanted.content.root, wanted.content.size);
            let imported = spawn_blocking(move || {
                origins.make_room(size)?;
                // Something else may lie here under this root, in part.
                if !origins.is_here(root) {
                    origins.content.discard(root)?;
                }
                origins.content.import_content(file.path(), root)
            });
            match imported.await.map_err(|_| OriginError::Stopping)?? {
                Some(_) => {
                    if let Some(tree) = self.content.tree(root).filter(|_| !self.has(root)) {
                        self.remember(Known::new(tree)).await?;
                    }
                    return Ok(());
                }
                None => {
                    failure = OriginError::Wrong {
                        origin: super::Origin::name(mirror).to_owned(),
                        root,
                        what: "the file is another one".to_owned(),
                    };
                }
            }
        }
        Err(failure)
    }

    /// Discards copies of what lies at an origin until `needed` bytes more fit, the longest unused first. Blocks.
    fn make_room(&self, needed: u64) -> Result<(), crate::content::Error> {
        while self.content.usage().bytes.saturating_add(needed) > self.keep_bytes {
            let oldest =
                {
                    let state = self.state();
                    let idle =
                        self.content.held().into_iter().map(|held| held.root).filter(|root| {
                            state.known.contains_key(root) && !state.pinned.contains_key(root)
                        });
                    idle.min_by_key(|root| state.used.get(root).copied().unwrap_or_default())
                };
            // What lies nowhere else stays; the quota of the content store is the last word.
            let Some(oldest) = oldest else { return Ok(()) };
            tracing::debug!(root = %oldest, "the copy makes room; the content lies at its origin");
            self.content.discard(oldest)?;
            self.state().used.remove(&oldest);
        }
        Ok(())
    }

    /// Discards copies that take up more than they may.
    pub async fn trim(self: &Arc<Self>) {
        let origins = Arc::clone(self);
        let trimmed = spawn_blocking(move || origins.make_room(0)).await;
        if let Ok(Err(error)) = trimmed {
            tracing::warn!(%error, "copies of content cannot be discarded");
        }
    }
}
