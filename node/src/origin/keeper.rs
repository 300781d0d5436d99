//! What a seed has at its origins: finds contents there, gets pieces for whoever asks, puts there what is published.

use super::bucket::Bucket;
use super::known::{self, Check, Known};
use super::mirror::Mirror;
use super::pieces::{Coming, Pieces};
use super::wanted::{self, MirrorPath, Wanted};
use super::{Credentials, CredentialsError, Origin, OriginError};
use crate::configuration::Configuration;
use crate::content::ContentStore;
use crate::store::{self, Store};
use futures::StreamExt as _;
use protocol::digest::{Blake3Root, Sha256};
use protocol::identifier::ManifestDigest;
use protocol::limits;
use protocol::manifest::Manifest;
use protocol::piece::{CheckedPiece, PieceIndex, PieceTree};
use protocol::reason::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// An origin that did not answer is asked again after this time; whoever asks meanwhile hears so at once.
const DOWN: Duration = Duration::from_secs(1);
/// What was not found is looked for again after this time at first; it doubles.
pub(super) const SOON: Duration = Duration::from_secs(1);
/// And after this time at last.
pub(super) const LATER: Duration = Duration::from_secs(60);

/// What the node learns from its origins.
#[derive(Debug)]
pub enum News {
    /// One of them has this content.
    Found(Arc<PieceTree>),
    /// One of them has other bytes in its place.
    Wrong {
        /// The content.
        root: Blake3Root,
        /// Where, and what is wrong, in one sentence.
        detail: String,
    },
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
    bucket: Option<Bucket>,
    /// Bytes that copies of what lies at the origins may take up here.
    pub(super) keep_bytes: u64,
    pub(super) scratch: PathBuf,
    pieces: Arc<Pieces>,
    pub(super) copies: Semaphore,
    pub(super) state: Mutex<State>,
    news: mpsc::Sender<News>,
    wake: Notify,
    pub(super) stop: CancellationToken,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) known: BTreeMap<Blake3Root, Known>,
    wanted: BTreeMap<Blake3Root, Wanted>,
    /// In this order they are looked for.
    order: Vec<Blake3Root>,
    /// What the node was told of.
    told: BTreeSet<Blake3Root>,
    /// Origins that do not answer, and until when they are not asked.
    down: BTreeMap<String, Instant>,
    /// Last use of the copy here, counted in uses.
    pub(super) used: BTreeMap<Blake3Root, u64>,
    pub(super) uses: u64,
    /// Copies that somebody reads, and how many do.
    pub(super) pinned: BTreeMap<Blake3Root, usize>,
    pub(super) copying: BTreeMap<Blake3Root, Arc<tokio::sync::Mutex<()>>>,
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
        let mirrors = seed.mirrors.iter().map(Mirror::open).collect::<Result<_, _>>()?;
        let scratch = configuration.node.directory.join("origin");
        // What is in it was not finished.
        let made = match std::fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => crate::disk::make_private_directory(&scratch),
        };
        made.map_err(|source| OpenError::Scratch { path: scratch.clone(), source })?;
        let state = State { known: known::load(&**store)?, ..State::default() };
        Ok(Some(Arc::new(Origins {
            content: Arc::clone(content),
            store: Arc::clone(store),
            mirrors,
            bucket,
            keep_bytes: seed.keep_bytes,
            scratch,
            pieces: Arc::default(),
            copies: Semaphore::new(limits::ORIGIN_COPIES),
            state: Mutex::new(state),
            news,
            wake: Notify::new(),
            stop,
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the contents of these manifests are looked for, and no others.
    pub fn want(&self, manifests: &[(ManifestDigest, Arc<Manifest>)]) {
        let all = wanted::of_manifests(manifests);
        let mut state = self.state();
        state.order = all.iter().map(|wanted| wanted.content.root).collect();
        state.wanted = all.into_iter().map(|wanted| (wanted.content.root, wanted)).collect();
        drop(state);
        self.wake.notify_one();
    }

    /// Looks for what is wanted until the node stops; what is not found is looked for again.
    pub async fn run(self: Arc<Self>) {
        let mut pause = SOON;
        while !self.stop.is_cancelled() {
            self.forget_unwanted().await;
            let pending = self.pending();
            let mut searches = futures::stream::iter(pending)
                .map(|wanted| self.search(wanted))
                .buffer_unordered(limits::ORIGIN_COPIES);
            let mut missing = false;
            while let Some(found) = searches.next().await {
                missing |= !found;
            }
            drop(searches);
            let again = async {
                match missing {
                    true => tokio::time::sleep(pause).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.wake.notified() => pause = SOON,
                () = again => pause = LATER.min(pause * 2),
            }
        }
    }

    /// Piece lists of what nobody approves any more go when there are many.
    async fn forget_unwanted(self: &Arc<Self>) {
        let unwanted: Vec<Blake3Root> = {
            let mut state = self.state();
            let State { known, wanted, told, .. } = &mut *state;
            let over = known.len().saturating_sub(limits::ARTIFACTS_TRACKED);
            let unwanted = known.keys().filter(|root| !wanted.contains_key(root) && !self.is_here(**root));
            let unwanted: Vec<Blake3Root> = unwanted.take(over).copied().collect();
            for root in &unwanted {
                known.remove(root);
                told.remove(root);
            }
            unwanted
        };
        let store = Arc::clone(&self.store);
        let forgotten =
            spawn_blocking(move || unwanted.into_iter().try_for_each(|root| known::forget(&*store, root)));
        if let Ok(Err(error)) = forgotten.await {
            tracing::warn!(%error, "piece lists that nobody wants stay in the store");
        }
    }

    fn pending(&self) -> Vec<Wanted> {
        let state = self.state();
        let pending = state.order.iter().filter(|root| !state.told.contains(root) && !self.is_here(**root));
        pending.filter_map(|root| state.wanted.get(root).cloned()).collect()
    }

    /// Whether the whole content lies on this disk.
    pub(super) fn is_here(&self, root: Blake3Root) -> bool {
        let (tree, durable) = (self.content.tree(root), self.content.durable(root));
        tree.zip(durable).is_some_and(|(tree, durable)| durable.len() == tree.pieces())
    }

    /// Looks for one content and tells the node when it was found.
    async fn search(self: &Arc<Self>, wanted: Wanted) -> bool {
        let root = wanted.content.root;
        let found = tokio::select! {
            () = self.stop.cancelled() => return true,
            found = self.find(&wanted) => found,
        };
        match found {
            Ok(tree) => {
                self.state().told.insert(root);
                // Nobody listens only when the driver has stopped.
                let _ = self.news.send(News::Found(tree)).await;
                true
            }
            Err(error) => {
                self.complain(&error).await;
                false
            }
        }
    }

    async fn find(self: &Arc<Self>, wanted: &Wanted) -> Result<Arc<PieceTree>, OriginError> {
        let root = wanted.content.root;
        if wanted.files.iter().any(|file| matches!(file.path, MirrorPath::Indexed { .. })) {
            self.name_files(wanted).await;
        }
        if let Some(known) = self.state().known.get(&root) {
            return Ok(Arc::clone(&known.tree));
        }
        let mut failure = None;
        for origin in self.origins(wanted) {
            match origin.tree(wanted).await {
                Ok(Some(tree)) => {
                    let tree = Arc::new(tree);
                    self.remember(Known::new(Arc::clone(&tree))).await?;
                    return Ok(tree);
                }
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        match self.mirrors.iter().any(|mirror| mirror.knows(wanted)) {
            true => self.try_local(root).await.map(drop)?,
            false => {
                return Err(failure.unwrap_or_else(|| OriginError::Missing {
                    origin: "no origin of this seed".to_owned(),
                    what: root.to_string(),
                }));
            }
        }
        self.content.tree(root).ok_or(OriginError::Stopping)
    }

    /// Reads in the vendor's index where its mirror has a file, and all others of the same index with it.
    async fn name_files(self: &Arc<Self>, wanted: &Wanted) {
        for file in &wanted.files {
            let MirrorPath::Indexed { packages, packages_path } = &file.path else { continue };
            let Some(mirror) = self.mirrors.iter().find(|mirror| *mirror.vendor() == file.vendor) else {
                continue;
            };
            if mirror.knows(wanted) {
                continue;
            }
            let all = self.named_by(packages.root);
            let index = match self.try_local(packages.root).await {
                Ok(_pin) => self.read_index(packages.root).await,
                Err(error) => Err(error),
            };
            let index = match index {
                Ok(index) => index,
                Err(error) => {
                    self.complain(&error).await;
                    continue;
                }
            };
            let (files, path) = (all.keys().copied().collect(), packages_path.clone());
            let named = spawn_blocking(move || wanted::paths_in_index(&index, &path, &files)).await;
            for (sha256, (size, path)) in named.unwrap_or_default() {
                if let Some((root, _)) = all.get(&sha256).filter(|(_, expected)| *expected == size) {
                    mirror.index(*root, path);
                }
            }
        }
    }

    /// Every wanted content that this index names, by its SHA-256, with its size.
    fn named_by(&self, index: Blake3Root) -> BTreeMap<Sha256, (Blake3Root, u64)> {
        let state = self.state();
        let named = state.wanted.values().filter(|wanted| {
            wanted.files.iter().any(
                |file| matches!(&file.path, MirrorPath::Indexed { packages, .. } if packages.root == index),
            )
        });
        named.map(|wanted| (wanted.content.sha256, (wanted.content.root, wanted.content.size))).collect()
    }

    async fn read_index(&self, root: Blake3Root) -> Result<Vec<u8>, OriginError> {
        let content = Arc::clone(&self.content);
        let read = spawn_blocking(move || -> Result<Vec<u8>, OriginError> {
            let mut bytes = Vec::new();
            content.open_whole(root)?.take(limits::INDEX_BYTES as u64).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        read.await.map_err(|_| OriginError::Stopping)?
    }

    /// The origins that may have a content, the bucket first.
    fn origins<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = &'a dyn Origin> {
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
        if let Err(error) = self.remember(known).await {
            self.complain(&error).await;
        }
    }

    pub(super) async fn remember(&self, known: Known) -> Result<(), OriginError> {
        let (store, record) = (Arc::clone(&self.store), known.clone());
        let saved = spawn_blocking(move || record.save(&*store)).await.map_err(|_| OriginError::Stopping)?;
        saved.map_err(crate::content::Error::from)?;
        self.state().known.insert(known.tree.root(), known);
        Ok(())
    }

    /// Puts a content that is here whole into the bucket, if the seed has one.
    ///
    /// # Errors
    /// [`OriginError`]; then it is not there, or not whole, and must not be published.
    pub async fn keep(&self, root: Blake3Root) -> Result<(), OriginError> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let content = Arc::clone(&self.content);
        let opened = spawn_blocking(move || content.open_complete(root)).await;
        let file = opened.map_err(|_| OriginError::Stopping)??;
        let tree = self.content.tree(root).ok_or(crate::content::Error::Unknown(root))?;
        bucket.keep(&tree, file).await?;
        let known = self.state().known.get(&root).cloned();
        self.state().told.insert(root);
        match known {
            Some(_) => Ok(()),
            None => self.remember(Known::new(tree)).await,
        }
    }

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
        let mut failure: Option<Reason> = None;
        for origin in self.origins(&wanted) {
            if self.is_down(origin) {
                failure.get_or_insert(Reason::OriginUnreachable);
                continue;
            }
            let read = origin.read(&wanted, offset..offset + length as u64);
            let read = tokio::time::timeout(Duration::from_secs(limits::ORIGIN_SECONDS), read).await;
            let bytes = read.unwrap_or_else(|_| {
                Err(OriginError::Unreachable {
                    origin: origin.name().to_owned(),
                    cause: format!("a piece did not come within {} s", limits::ORIGIN_SECONDS),
                })
            });
            let error = match bytes {
                Ok(bytes) => match check(&tree, index, bytes).await {
                    Ok(checked) => {
                        self.is_up(origin);
                        return Ok(checked);
                    }
                    Err(what) => OriginError::Wrong { origin: origin.name().to_owned(), root, what },
                },
                Err(error) => error,
            };
            if error.is_outage() {
                self.goes_down(origin, &error);
            } else {
                self.complain(&error).await;
            }
            if let OriginError::NoRanges { .. } = error {
                let origins = Arc::clone(&self);
                tokio::spawn(async move { origins.make_local(root).await.map(drop) });
            }
            // Other bytes are worse than none: a person has to look.
            if failure != Some(Reason::OriginCorrupt) {
                failure = Some(error.reason());
            }
        }
        Err(failure.unwrap_or(Reason::NoPieces))
    }

    fn is_down(&self, origin: &dyn Origin) -> bool {
        self.state().down.get(origin.name()).is_some_and(|until| Instant::now() < *until)
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

    /// Says what went wrong, and where somebody is to blame makes it an incident.
    pub(super) async fn complain(&self, error: &OriginError) {
        match error {
            OriginError::Stopping => {}
            OriginError::Wrong { root, .. } => {
                tracing::error!(%error, "an origin has other bytes; they go nowhere");
                let wrong = News::Wrong { root: *root, detail: error.to_string() };
                // Nobody listens only when the driver has stopped.
                let _ = self.news.send(wrong).await;
            }
            error => tracing::warn!(%error, "content of an origin did not come"),
        }
    }
}

/// Checks a piece off the reactor.
async fn check(tree: &Arc<PieceTree>, index: PieceIndex, bytes: Vec<u8>) -> Result<CheckedPiece, String> {
    let tree = Arc::clone(tree);
    let checked = spawn_blocking(move || tree.check(index, bytes).map_err(|bad| bad.to_string()));
    checked.await.unwrap_or_else(|error| Err(error.to_string()))
}
