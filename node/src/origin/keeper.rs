//! What a seed has at its origins, and what it puts there when it is published.

use super::bucket::{Bucket, Kept};
use super::failing::Failing;
use super::known::{self, Check, Known};
use super::mirror::Mirror;
use super::pieces::Pieces;
use super::wanted::Wanted;
use super::{Credentials, CredentialsError, Origin, OriginError};
use crate::configuration::Configuration;
use crate::content::ContentStore;
use crate::store::{self, Store};
use protocol::digest::Blake3Root;
use protocol::limits;
use protocol::piece::{PieceIndex, PieceTree};
use protocol::reason::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// What was not found is looked for again after this time at first; it doubles.
pub(super) const SOON: Duration = Duration::from_secs(1);
/// And after this time at last.
pub(super) const LATER: Duration = Duration::from_secs(60);
/// What turned out wrong is not read whole again before: it would be the same bytes, minute by minute.
const SHUNNED: Duration = Duration::from_secs(2 * 3600);

/// What the node learns from its origins.
#[derive(Debug)]
pub enum News {
    /// One of them has this content.
    Found(Arc<PieceTree>),
    /// None of them has it any more.
    Gone(Arc<PieceTree>),
    /// It cannot be read where it lies, or, without a reason, can again.
    Unreadable {
        /// The content.
        root: Blake3Root,
        /// What devices are told.
        reason: Option<Reason>,
    },
    /// One of them has other bytes in its place.
    Wrong {
        /// The content.
        root: Blake3Root,
        /// Where, and what is wrong, in one sentence.
        detail: String,
    },
    /// None of them has other bytes in its place any more, or nobody wants it.
    Right(Blake3Root),
}

/// Why a seed cannot use its origins.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The key to the bucket.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A bucket or a mirror.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// What is remembered of them.
    #[error("what is known of the bucket and the mirrors cannot be read from the node's store")]
    Store(#[from] store::Error),
    /// The place for files that are not yet checked.
    #[error("cannot make {path}; check space and permissions")]
    Scratch {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// The origins of a seed.
pub struct Origins {
    pub(super) content: Arc<ContentStore>,
    pub(super) store: Arc<dyn Store>,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) bucket: Option<Bucket>,
    /// Bytes that copies of what lies at the origins may take up here.
    pub(super) keep_bytes: u64,
    pub(super) scratch: PathBuf,
    pub(super) pieces: Arc<Pieces>,
    /// Questions for piece lists.
    pub(super) questions: Semaphore,
    /// Copies that come piece by piece.
    pub(super) copies: Semaphore,
    /// Whole files of mirrors, which a slow one must not keep everything else waiting for.
    pub(super) downloads: Semaphore,
    state: Mutex<State>,
    pub(super) news: mpsc::Sender<News>,
    pub(super) wake: Notify,
    /// What is wanted changed.
    pub(super) wishes: Notify,
    pub(super) stop: CancellationToken,
}

#[derive(Default)]
pub(super) struct State {
    /// What lies at an origin that is configured now.
    pub(super) known: BTreeMap<Blake3Root, Known>,
    /// What lay at one before the last start, until an origin turns up that may have it.
    pub(super) remembered: BTreeMap<Blake3Root, Known>,
    pub(super) wanted: BTreeMap<Blake3Root, Wanted>,
    /// In this order they are looked for.
    pub(super) order: Vec<Blake3Root>,
    /// What the node was told of.
    pub(super) told: BTreeSet<Blake3Root>,
    /// What has to be read whole, since its mirror ignores ranges.
    pub(super) whole: BTreeSet<Blake3Root>,
    /// What an origin (by its name), or where there is no name the node, found wrong, and until when that counts.
    shunned: BTreeMap<(Option<String>, Blake3Root), Instant>,
    /// What is wanted and cannot be read.
    pub(super) failing: BTreeMap<Blake3Root, Failing>,
    /// What has other bytes at an origin, by its name: in the first piece that showed it, or as a whole.
    pub(super) wrong: BTreeMap<(Blake3Root, String), Option<PieceIndex>>,
    /// Origins that do not answer, and until when they are not asked.
    pub(super) down: BTreeMap<String, Instant>,
    /// Last use of the copy here, counted in uses.
    pub(super) used: BTreeMap<Blake3Root, u64>,
    pub(super) uses: u64,
    /// Copies that somebody reads, and how many do.
    pub(super) pinned: BTreeMap<Blake3Root, usize>,
    copying: BTreeMap<Blake3Root, Arc<tokio::sync::Mutex<()>>>,
}

impl State {
    /// Held by whoever copies a content, or discards its copy.
    pub(super) fn copying(&mut self, root: Blake3Root) -> Arc<tokio::sync::Mutex<()>> {
        self.copying.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(self.copying.entry(root).or_default())
    }
}

impl Origins {
    /// Opens what the configuration names; `None` when it names neither bucket nor mirror. Blocks on the disk; nothing is
    /// sent yet.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        configuration: &Configuration,
        content: &Arc<ContentStore>,
        store: &Arc<dyn Store>,
        news: mpsc::Sender<News>,
        stop: CancellationToken,
    ) -> Result<Option<Arc<Origins>>, OpenError> {
        let Some(seed) = &configuration.seed else { return Ok(None) };
        let bucket = configuration.bucket.as_ref().map(|bucket| -> Result<Bucket, OpenError> {
            let variable = |name: &str| std::env::var(name).ok();
            let credentials = Credentials::find(bucket.credentials.as_deref(), variable)?;
            Ok(Bucket::open(bucket, &credentials)?)
        });
        let bucket = bucket.transpose()?;
        if bucket.is_none() && seed.mirrors.is_empty() {
            return Ok(None);
        }
        let mirrors = Mirror::open_all(&seed.mirrors).into_iter().collect::<Result<_, _>>()?;
        let scratch = configuration.node.directory.join("origin");
        // What is in it was not finished.
        let made = match std::fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => crate::disk::make_private_directory(&scratch),
        };
        made.map_err(|source| OpenError::Scratch { path: scratch.clone(), source })?;
        let (loaded, mut state) = (known::load(&**store)?, State::default());
        match bucket {
            Some(_) => state.known = loaded,
            // Which mirror has a content shows when it is wanted.
            None => state.remembered = loaded,
        }
        Ok(Some(Arc::new(Origins {
            content: Arc::clone(content),
            store: Arc::clone(store),
            mirrors,
            bucket,
            keep_bytes: seed.keep_bytes,
            scratch,
            pieces: Arc::default(),
            questions: Semaphore::new(limits::ORIGIN_COPIES),
            copies: Semaphore::new(limits::ORIGIN_COPIES),
            downloads: Semaphore::new(limits::ORIGIN_COPIES),
            state: Mutex::new(state),
            news,
            wake: Notify::new(),
            wishes: Notify::new(),
            stop,
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The origins that may have a content, the bucket first.
    pub(super) fn origins<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = &'a dyn Origin> {
        let bucket = self.bucket.iter().map(|bucket| bucket as &dyn Origin);
        let mirrors = self.mirrors.iter().map(|mirror| mirror as &dyn Origin);
        bucket.chain(mirrors).filter(|origin| origin.covers(wanted))
    }

    pub(super) fn wanted(&self, root: Blake3Root) -> Option<Wanted> {
        self.state().wanted.get(&root).cloned()
    }

    /// The piece list of a content that lies at an origin.
    pub(super) fn tree(&self, root: Blake3Root) -> Option<Arc<PieceTree>> {
        self.state().known.get(&root).map(|known| Arc::clone(&known.tree))
    }

    /// Whether a content lies at an origin, whether or not it is here too.
    pub fn has(&self, root: Blake3Root) -> bool {
        self.state().known.contains_key(&root)
    }

    /// Whether the whole content lies on this disk.
    pub fn is_here(&self, root: Blake3Root) -> bool {
        let (tree, durable) = (self.content.tree(root), self.content.durable(root));
        tree.zip(durable).is_some_and(|(tree, durable)| durable.len() == tree.pieces())
    }

    /// Whether a content passed this check, here or before it was evicted.
    pub fn passed(&self, root: Blake3Root, check: &Check) -> bool {
        self.state().known.get(&root).is_some_and(|known| known.passed(check))
    }

    /// Notes that a content passed a check, if it lies at an origin.
    pub async fn pass(&self, root: Blake3Root, check: Check) {
        let known = {
            let mut state = self.state();
            let Some(known) = state.known.get_mut(&root) else { return };
            if !known.pass(check) {
                return;
            }
            known.clone()
        };
        if let Err(error) = self.save(known).await {
            self.complain(&error).await;
        }
    }

    pub(super) async fn remember(&self, known: Known) -> Result<(), OriginError> {
        self.save(known.clone()).await?;
        self.state().known.insert(known.tree.root(), known);
        Ok(())
    }

    async fn save(&self, known: Known) -> Result<(), OriginError> {
        let store = Arc::clone(&self.store);
        let saved = spawn_blocking(move || known.save(&*store)).await.map_err(|_| OriginError::Stopping)?;
        Ok(saved.map_err(crate::content::Error::from)?)
    }

    /// What was remembered counts as soon as an origin may have it.
    pub(super) fn confirm(&self, wanted: &Wanted) {
        if self.origins(wanted).next().is_none() {
            return;
        }
        let mut state = self.state();
        if let Some(known) = state.remembered.remove(&wanted.content.root) {
            state.known.entry(wanted.content.root).or_insert(known);
        }
    }

    /// The node dropped a content: it is offered again when it is handed in, or after a long time.
    pub async fn dropped(&self, root: Blake3Root) {
        if self.withdraw(root).await.is_some() {
            self.shun(None, root);
            self.offer_again(root);
        }
    }

    /// No origin has a content any more, or not in a form that is of use: it is neither served from there, nor is a copy of
    /// it here discarded to make room.
    pub(super) async fn withdraw(&self, root: Blake3Root) -> Option<Arc<PieceTree>> {
        let known = {
            let mut state = self.state();
            state.remembered.remove(&root);
            state.known.remove(&root)?
        };
        self.forget(vec![root]).await;
        Some(known.tree)
    }

    /// What was withdrawn is looked for like anything else that is wanted.
    pub(super) fn offer_again(&self, root: Blake3Root) {
        self.state().told.remove(&root);
        self.wake.notify_one();
    }

    pub(super) async fn forget(&self, roots: Vec<Blake3Root>) {
        let store = Arc::clone(&self.store);
        let forgotten =
            spawn_blocking(move || roots.into_iter().try_for_each(|root| known::forget(&*store, root)));
        if let Ok(Err(error)) = forgotten.await {
            tracing::warn!(%error, "piece lists that nobody wants stay in the store");
        }
    }

    pub(super) fn shun(&self, origin: Option<&str>, root: Blake3Root) {
        let (mut state, now) = (self.state(), Instant::now());
        state.shunned.retain(|_, until| now < *until);
        state.shunned.insert((origin.map(str::to_owned), root), now + SHUNNED);
    }

    pub(super) fn is_shunned(&self, origin: Option<&str>, root: Blake3Root) -> bool {
        let until = self.state().shunned.get(&(origin.map(str::to_owned), root)).copied();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Puts a content that is here whole into the bucket, if the seed has one. What lies there already is read once, whole,
    /// since the copy here may be discarded afterwards.
    ///
    /// # Errors
    /// [`OriginError`]; then it is not there, or not whole, and must not be published.
    pub async fn keep(self: &Arc<Self>, root: Blake3Root) -> Result<(), OriginError> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let _pin = self.pin(root);
        let content = Arc::clone(&self.content);
        let opened = spawn_blocking(move || content.open_complete(root)).await;
        let file = opened.map_err(|_| OriginError::Stopping)??;
        let tree = self.content.tree(root).ok_or(crate::content::Error::Unknown(root))?;
        let known = self.state().known.get(&root).cloned();
        let mut known = known.unwrap_or_else(|| Known::new(Arc::clone(&tree)));
        let kept = match bucket.keep(&tree, file).await {
            Ok(Kept::Found) if !known.kept || self.was_wrong(bucket.name(), root) => {
                bucket.read_back(&tree).await
            }
            kept => kept.map(drop),
        };
        if let Err(OriginError::Wrong { .. }) = kept {
            self.withdraw(root).await;
            self.offer_again(root);
        }
        kept?;
        self.is_right(bucket.name(), root, |_| true).await;
        {
            let mut state = self.state();
            state.shunned.remove(&(None, root));
            state.told.insert(root);
        }
        self.works(root).await;
        if known.kept && self.has(root) {
            return Ok(());
        }
        known.kept = true;
        self.remember(known).await
    }

    /// Says what went wrong, and where somebody is to blame makes it an incident.
    pub(super) async fn complain(&self, error: &OriginError) {
        self.complain_of(error, None).await;
    }

    /// The same of one piece, or of a content as a whole.
    pub(super) async fn complain_of(&self, error: &OriginError, piece: Option<PieceIndex>) {
        match error {
            OriginError::Stopping => {}
            OriginError::Wrong { origin, root, .. } => {
                tracing::error!(%error, "an origin has other bytes; they go nowhere");
                self.state().wrong.entry((*root, origin.clone())).or_insert(piece);
                let wrong = News::Wrong { root: *root, detail: error.to_string() };
                // Nobody listens only when the driver has stopped.
                let _ = self.news.send(wrong).await;
            }
            error => tracing::warn!(%error, "content of an origin did not come"),
        }
    }
}
