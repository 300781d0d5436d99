//! Copies on this seed's disk of what lies at its origins: for the full check, and as a cache whose longest unused goes first.

use super::keeper::{LATER, SOON};
use super::known::Known;
use super::mirror::Mirror;
use super::wanted::Wanted;
use super::{Origin as _, OriginError, Origins};
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
    /// not give is asked for again and again, also when it has it no more: then it may be published again. While nobody wants
    /// it nobody is asked, and it goes on when somebody does: whoever waits has to get an answer in the end.
    ///
    /// # Errors
    /// [`OriginError::Stopping`] only.
    pub async fn make_local(self: &Arc<Self>, root: Blake3Root) -> Result<Pin, OriginError> {
        let mut pause = SOON;
        loop {
            match self.try_local(root).await {
                Ok(pin) => {
                    self.works(root).await;
                    return Ok(pin);
                }
                Err(error @ OriginError::Stopping) => return Err(error),
                Err(_) if self.wanted(root).is_none() => {
                    pause = SOON;
                    tokio::select! {
                        () = self.stop.cancelled() => return Err(OriginError::Stopping),
                        () = self.until_wanted(root) => {}
                    }
                }
                Err(error) => {
                    self.complain(&error).await;
                    self.fails(root, &error).await;
                    tokio::select! {
                        () = self.stop.cancelled() => return Err(OriginError::Stopping),
                        () = tokio::time::sleep(pause) => pause = LATER.min(pause * 2),
                    }
                }
            }
        }
    }

    async fn until_wanted(&self, root: Blake3Root) {
        loop {
            // Before the look, so that no change falls between the two.
            let changed = self.wishes.notified();
            if self.wanted(root).is_some() {
                return;
            }
            changed.await;
        }
    }

    /// The same, once.
    ///
    /// # Errors
    /// [`OriginError`] with what the origins said.
    pub(super) async fn try_local(self: &Arc<Self>, root: Blake3Root) -> Result<Pin, OriginError> {
        let pin = self.pin(root);
        let lock = self.state().copying(root);
        let _alone = lock.lock().await;
        if !self.is_here(root) {
            tokio::select! {
                () = self.stop.cancelled() => return Err(OriginError::Stopping),
                copied = self.copy(root) => copied?,
            }
        }
        Ok(pin)
    }

    pub(super) fn pin(self: &Arc<Self>, root: Blake3Root) -> Pin {
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
        let wanted = self.wanted(root).ok_or_else(|| OriginError::nowhere(root))?;
        let pieces = match self.tree(root) {
            Some(tree) => self.copy_pieces(tree).await,
            None => Err(OriginError::nowhere(root)),
        };
        match pieces {
            Ok(()) => Ok(()),
            // Where ranges do not lead to it, the whole file may.
            Err(error) => self.copy_whole(&wanted, error).await,
        }
    }

    /// Copies what is missing, piece by piece: an interrupted copy goes on where it was.
    async fn copy_pieces(self: &Arc<Self>, tree: Arc<PieceTree>) -> Result<(), OriginError> {
        let _copy = self.copies.acquire().await.map_err(|_| OriginError::Stopping)?;
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

    /// Copies a whole file of a mirror, and learns its piece list from it. `failure` is what went wrong before.
    async fn copy_whole(self: &Arc<Self>, wanted: &Wanted, failure: OriginError) -> Result<(), OriginError> {
        let root = wanted.content.root;
        let mut failed = None;
        for mirror in self.mirrors.iter().filter(|mirror| mirror.knows(wanted)) {
            if self.is_shunned(Some(mirror.name()), root) {
                continue;
            }
            let copied = self.copy_from(mirror, wanted).await;
            if let Err(OriginError::Wrong { .. }) = copied {
                self.shun(Some(mirror.name()), root);
            }
            // The last failure is told by whoever wanted the copy.
            if let Some(before) = failed.take() {
                self.complain(&before).await;
            }
            match copied {
                Ok(()) => return Ok(()),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or(failure))
    }

    async fn copy_from(self: &Arc<Self>, mirror: &Mirror, wanted: &Wanted) -> Result<(), OriginError> {
        let _download = self.downloads.acquire().await.map_err(|_| OriginError::Stopping)?;
        let (root, size) = (wanted.content.root, wanted.content.size);
        let origins = Arc::clone(self);
        let file = spawn_blocking(move || -> Result<_, OriginError> {
            origins.make_room(size)?;
            // The download, and the copy that is made of it.
            origins.content.check_space(2 * size)?;
            Ok(tempfile::Builder::new().prefix("copy-").tempfile_in(&origins.scratch)?)
        });
        let file = file.await.map_err(|_| OriginError::Stopping)??;
        let mut to = tokio::fs::File::from_std(file.reopen()?);
        mirror.download(wanted, &mut to).await?;
        let origins = Arc::clone(self);
        let imported = spawn_blocking(move || {
            // Something else may lie here under this root, in part.
            if !origins.is_here(root) {
                origins.content.discard(root)?;
            }
            origins.content.import_content(file.path(), root)
        });
        if imported.await.map_err(|_| OriginError::Stopping)??.is_none() {
            let what = "the file is another one".to_owned();
            return Err(OriginError::Wrong { origin: mirror.name().to_owned(), root, what });
        }
        self.is_right(mirror.name(), root, |_| true).await;
        if let Some(tree) = self.content.tree(root).filter(|_| !self.has(root)) {
            self.remember(Known::new(tree)).await?;
        }
        Ok(())
    }

    /// Discards copies of what lies at an origin until `needed` bytes more of such fit, the longest unused first. What is in
    /// use stays, and the quota of the content store is the last word. Blocks.
    fn make_room(&self, needed: u64) -> Result<(), crate::content::Error> {
        let mut copies = self.content.held();
        {
            let state = self.state();
            copies.retain(|held| state.known.contains_key(&held.root));
            copies.sort_by_key(|held| state.used.get(&held.root).copied().unwrap_or_default());
        }
        let mut bytes = copies.iter().map(|held| held.size).sum::<u64>().saturating_add(needed);
        for held in copies {
            if bytes <= self.keep_bytes {
                break;
            }
            if self.evict(held.root)? {
                bytes -= held.size;
            }
        }
        Ok(())
    }

    /// Discards a copy that nobody uses, and nobody can begin to use meanwhile; `false` when somebody does. Blocks.
    pub fn evict(&self, root: Blake3Root) -> Result<bool, crate::content::Error> {
        let lock = {
            let mut state = self.state();
            if state.pinned.contains_key(&root) {
                return Ok(false);
            }
            state.copying(root)
        };
        let Ok(_alone) = lock.try_lock() else { return Ok(false) };
        // Who pins it from now on waits for the lock, and finds that it is gone.
        if self.state().pinned.contains_key(&root) {
            return Ok(false);
        }
        tracing::debug!(%root, "the copy makes room; the content lies at its origin");
        self.content.discard(root)?;
        self.state().used.remove(&root);
        Ok(true)
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
