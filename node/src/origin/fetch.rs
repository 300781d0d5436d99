//! Pieces for whoever asks: from memory, or from the first origin that has them.

use super::keeper::News;
use super::pieces::Coming;
use super::wanted::Wanted;
use super::{Origin, OriginError, Origins};
use protocol::digest::Blake3Root;
use protocol::limits;
use protocol::piece::{CheckedPiece, PieceIndex, PieceTree};
use protocol::reason::Reason;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

/// An origin that did not answer is asked again after this time; whoever asks meanwhile hears so at once.
const DOWN: Duration = Duration::from_secs(1);
/// An origin that does not send a piece by then does not answer.
const PATIENCE: Duration = Duration::from_secs(limits::ORIGIN_SECONDS);

impl Origins {
    /// A piece of a content that lies at an origin, and those after it, which will be asked for next; `None` when no origin
    /// has it.
    pub fn piece(self: &Arc<Self>, root: Blake3Root, index: PieceIndex) -> Option<Coming> {
        let tree = self.tree(root)?;
        let coming = self.get(root, index);
        for ahead in 1..=limits::ORIGIN_READ_AHEAD {
            let next = PieceIndex(index.0.saturating_add(ahead));
            if next.0 < tree.pieces() && self.pieces.held((root, next)).is_none() {
                // It runs without anybody who waits for it.
                drop(self.get(root, next));
            }
        }
        Some(coming)
    }

    /// One piece, checked.
    pub(super) fn get(self: &Arc<Self>, root: Blake3Root, index: PieceIndex) -> Coming {
        let origins = Arc::clone(self);
        self.pieces.get((root, index), move || async move { origins.fetch(root, index).await })
    }

    async fn fetch(self: Arc<Self>, root: Blake3Root, index: PieceIndex) -> Result<CheckedPiece, Reason> {
        let (Some(tree), Some(wanted)) = (self.tree(root), self.wanted(root)) else {
            return Err(Reason::NoPieces);
        };
        let (offset, length) = tree.extent(index).ok_or(Reason::NoPieces)?;
        let range = offset..offset + length as u64;
        let (mut failure, mut nowhere): (Option<OriginError>, _) = (None, false);
        for origin in self.origins(&wanted) {
            let error = match self.ask(origin, &wanted, &tree, index, range.clone()).await {
                Ok(piece) => {
                    self.works(root).await;
                    return Ok(piece);
                }
                Err(error) => error,
            };
            nowhere = matches!(error, OriginError::Missing { .. }) && (nowhere || failure.is_none());
            // Other bytes are worse than none: a person has to look.
            if !matches!(failure, Some(OriginError::Wrong { .. })) {
                failure = Some(error);
            }
        }
        let failure = failure.unwrap_or_else(|| OriginError::nowhere(root));
        // That an origin ignores ranges is no failure: the whole is on its way.
        if !matches!(failure, OriginError::NoRanges { .. }) {
            self.fails(root, &failure).await;
        }
        if nowhere && let Some(tree) = self.withdraw(root).await {
            tracing::error!(%root, "no origin has this content any more; publish it again");
            // Nobody listens only when the driver has stopped.
            let _ = self.news.send(News::Gone(tree)).await;
            self.offer_again(root);
        }
        Err(failure.reason())
    }

    /// Asks one origin for a piece, and says what it did wrong.
    async fn ask(
        &self,
        origin: &dyn Origin,
        wanted: &Wanted,
        tree: &Arc<PieceTree>,
        index: PieceIndex,
        range: Range<u64>,
    ) -> Result<CheckedPiece, OriginError> {
        let silent = |cause: &str| OriginError::Unreachable {
            origin: origin.name().to_owned(),
            cause: cause.to_owned(),
        };
        let _read = origin.reads().acquire().await.map_err(|_| OriginError::Stopping)?;
        if self.is_down(origin) {
            return Err(silent("nor did it a moment ago"));
        }
        let read = tokio::time::timeout(PATIENCE, origin.read(wanted, range)).await;
        let read = read.unwrap_or_else(|_| Err(silent("a piece took too long")));
        let asked = match read {
            Ok(bytes) => check(tree, index, bytes).await.map_err(|what| OriginError::Wrong {
                origin: origin.name().to_owned(),
                root: tree.root(),
                what,
            }),
            Err(error) => Err(error),
        };
        match &asked {
            Err(error) if error.is_outage() => self.goes_down(origin, error),
            asked => {
                self.is_up(origin);
                match asked {
                    Ok(_) => self.is_right(origin.name(), tree.root(), |wrong| wrong == Some(index)).await,
                    Err(error) => self.complain_of(error, Some(index)).await,
                }
            }
        }
        if let Err(OriginError::NoRanges { .. }) = asked
            && self.state().whole.insert(tree.root())
        {
            self.wake.notify_one();
        }
        asked
    }

    fn is_down(&self, origin: &dyn Origin) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        match state.down.get_mut(origin.name()) {
            Some(until) if now < *until => true,
            // One finds out whether it answers again; nobody else waits for that.
            Some(until) => {
                *until = now + PATIENCE + DOWN;
                false
            }
            None => false,
        }
    }

    fn goes_down(&self, origin: &dyn Origin, error: &OriginError) {
        if self.state().down.insert(origin.name().to_owned(), Instant::now() + DOWN).is_none() {
            tracing::error!(%error, "content of an origin cannot be served");
        }
    }

    fn is_up(&self, origin: &dyn Origin) {
        if self.state().down.remove(origin.name()).is_some() {
            tracing::info!(origin = origin.name(), "the origin answers again");
        }
    }
}

/// Checks a piece off the reactor.
async fn check(tree: &Arc<PieceTree>, index: PieceIndex, bytes: Vec<u8>) -> Result<CheckedPiece, String> {
    let tree = Arc::clone(tree);
    let checked = spawn_blocking(move || tree.check(index, bytes).map_err(|bad| bad.to_string()));
    checked.await.unwrap_or_else(|error| Err(error.to_string()))
}
