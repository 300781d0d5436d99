//! Finding contents: what is wanted is looked for at the origins until one of them has it.

use super::keeper::{LATER, News, SOON, State};
use super::known::Known;
use super::mirror::Mirror;
use super::wanted::{self, MirrorPath, VendorFile, Wanted};
use super::{OriginError, Origins};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use protocol::digest::Blake3Root;
use protocol::identifier::{ManifestDigest, VendorName};
use protocol::limits;
use protocol::manifest::{Content, Manifest};
use protocol::piece::PieceTree;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::Instant;

impl Origins {
    /// From now on the contents of these manifests are looked for, and no others.
    pub fn want(&self, manifests: &[(ManifestDigest, Arc<Manifest>)]) {
        let all = wanted::of_manifests(manifests);
        all.iter().for_each(|wanted| self.confirm(wanted));
        let mut state = self.state();
        state.order = all.iter().map(|wanted| wanted.content.root).collect();
        state.wanted = all.into_iter().map(|wanted| (wanted.content.root, wanted)).collect();
        let State { failing, wanted, .. } = &mut *state;
        failing.retain(|root, _| wanted.contains_key(root));
        let files = wanted.values().flat_map(|wanted| &wanted.files);
        let indexes = files.filter_map(|file| match &file.path {
            MirrorPath::Indexed { packages, .. } => Some(packages.root),
            MirrorPath::Known(_) => None,
        });
        let indexes: BTreeSet<Blake3Root> = indexes.collect();
        drop(state);
        self.mirrors.iter().for_each(|mirror| mirror.keep_indexes(&indexes));
        self.wake.notify_one();
        self.wishes.notify_waiters();
    }

    /// Looks for what is wanted until the node stops; what is not found is looked for again. A search that takes long keeps
    /// no other waiting.
    pub async fn run(self: Arc<Self>) {
        let (mut pause, mut again) = (SOON, None);
        let (mut searches, mut under_way) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            self.forget_unwanted().await;
            self.forget_wrongs().await;
            for wanted in self.pending() {
                let root = wanted.content.root;
                if under_way.insert(root) {
                    let origins = Arc::clone(&self);
                    searches.push(async move { (root, origins.search(wanted).await) });
                }
            }
            loop {
                let next = again.unwrap_or_else(|| Instant::now() + LATER);
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.wake.notified() => {
                        (pause, again) = (SOON, None);
                        break;
                    }
                    Some((root, settled)) = searches.next() => {
                        under_way.remove(&root);
                        if !settled && again.is_none() {
                            again = Some(Instant::now() + pause);
                            pause = LATER.min(pause * 2);
                        }
                    }
                    () = tokio::time::sleep_until(next) => {
                        again = None;
                        break;
                    }
                }
            }
        }
    }

    /// Piece lists of what nobody approves any more go when there are many.
    async fn forget_unwanted(&self) {
        let unwanted: Vec<Blake3Root> = {
            let mut state = self.state();
            let all = state.known.keys().chain(state.remembered.keys());
            let over = all.clone().count().saturating_sub(limits::ARTIFACTS_TRACKED);
            let unwanted = all.filter(|root| !state.wanted.contains_key(root) && !self.is_here(**root));
            let unwanted: Vec<Blake3Root> = unwanted.take(over).copied().collect();
            for root in &unwanted {
                state.known.remove(root);
                state.remembered.remove(root);
                state.told.remove(root);
            }
            unwanted
        };
        if !unwanted.is_empty() {
            self.forget(unwanted).await;
        }
    }

    fn pending(&self) -> Vec<Wanted> {
        let all: Vec<Wanted> = {
            let state = self.state();
            state.order.iter().filter_map(|root| state.wanted.get(root).cloned()).collect()
        };
        all.into_iter().filter(|wanted| self.is_pending(wanted)).collect()
    }

    fn is_pending(&self, wanted: &Wanted) -> bool {
        let root = wanted.content.root;
        if self.is_shunned(None, root) {
            return false;
        }
        let here = self.is_here(root);
        let (told, listed, whole) = {
            let state = self.state();
            let listed = state.known.contains_key(&root) || state.remembered.contains_key(&root);
            (state.told.contains(&root), listed, state.whole.contains(&root))
        };
        (!here && (!told || whole)) || (listed && self.unnamed(wanted).next().is_some())
    }

    /// Looks for one content and tells the node when it was found; `false` when something is to be tried again.
    async fn search(self: Arc<Self>, wanted: Wanted) -> bool {
        let searched = tokio::select! {
            () = self.stop.cancelled() => return true,
            searched = self.look(&wanted) => searched,
        };
        match searched {
            Ok(named) => {
                self.works(wanted.content.root).await;
                named
            }
            Err(error) => {
                self.complain(&error).await;
                self.fails(wanted.content.root, &error).await;
                false
            }
        }
    }

    async fn look(self: &Arc<Self>, wanted: &Wanted) -> Result<bool, OriginError> {
        let root = wanted.content.root;
        let named = self.name_files(wanted).await;
        self.confirm(wanted);
        if self.is_here(root) {
            return Ok(named);
        }
        if !self.state().told.contains(&root) {
            let tree = self.find(wanted).await?;
            self.state().told.insert(root);
            // Nobody listens only when the driver has stopped.
            let _ = self.news.send(News::Found(tree)).await;
        }
        if self.state().whole.contains(&root) {
            let copied = self.try_local(root).await.map(drop);
            if matches!(copied, Ok(()) | Err(OriginError::Wrong { .. })) {
                self.state().whole.remove(&root);
            }
            copied?;
        }
        Ok(named)
    }

    async fn find(self: &Arc<Self>, wanted: &Wanted) -> Result<Arc<PieceTree>, OriginError> {
        let root = wanted.content.root;
        if let Some(tree) = self.tree(root) {
            return Ok(tree);
        }
        let mut failure = None;
        for origin in self.origins(wanted) {
            let asked = {
                let _question = self.questions.acquire().await.map_err(|_| OriginError::Stopping)?;
                origin.tree(wanted).await
            };
            match asked {
                Ok(Some(tree)) => {
                    self.is_right(origin.name(), root, |wrong| wrong.is_none()).await;
                    let tree = Arc::new(tree);
                    self.remember(Known::new(Arc::clone(&tree))).await?;
                    return Ok(tree);
                }
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        if !self.mirrors.iter().any(|mirror| mirror.knows(wanted)) {
            return Err(failure.unwrap_or_else(|| OriginError::nowhere(root)));
        }
        self.try_local(root).await.map(drop)?;
        self.content.tree(root).ok_or(OriginError::Stopping)
    }

    /// Indexes that say where a vendor's mirrors have this content, with their paths, as far as they were not read.
    fn unnamed<'a>(
        &'a self,
        wanted: &'a Wanted,
    ) -> impl Iterator<Item = (&'a VendorName, Blake3Root, &'a str)> {
        wanted.files.iter().filter_map(move |file| {
            let MirrorPath::Indexed { packages, packages_path } = &file.path else { return None };
            let mut mirrors = self.mirrors_of(&file.vendor);
            let unread = mirrors.any(|mirror| !mirror.looked_up(packages.root, wanted.content.root));
            unread.then_some((&file.vendor, packages.root, packages_path.as_str()))
        })
    }

    fn mirrors_of(&self, vendor: &VendorName) -> impl Iterator<Item = &Mirror> {
        self.mirrors.iter().filter(move |mirror| mirror.vendor() == vendor)
    }

    /// Reads in a vendor's index where its mirrors have a file, and all others of the same index with it; `false` when an
    /// index could not be read.
    async fn name_files(self: &Arc<Self>, wanted: &Wanted) -> bool {
        let mut named = true;
        for (vendor, index, path) in self.unnamed(wanted) {
            let found = match self.try_local(index).await {
                Ok(_pin) => {
                    let contents = self.named_by(vendor, index);
                    wanted::look_up(&self.content, index, path, contents).await
                }
                Err(error) => Err(error),
            };
            match found {
                Ok(found) => found.into_iter().for_each(|(root, path)| {
                    self.mirrors_of(vendor).for_each(|mirror| mirror.set_path(index, root, path.clone()));
                }),
                Err(error) => {
                    self.complain(&error).await;
                    self.fails(index, &error).await;
                    named = false;
                }
            }
        }
        named
    }

    /// Every wanted content that this index of a vendor names.
    fn named_by(&self, vendor: &VendorName, index: Blake3Root) -> Vec<Content> {
        let names = |file: &VendorFile| {
            let MirrorPath::Indexed { packages, .. } = &file.path else { return false };
            packages.root == index && file.vendor == *vendor
        };
        let state = self.state();
        let named = state.wanted.values().filter(|wanted| wanted.files.iter().any(names));
        named.map(|wanted| wanted.content).collect()
    }
}
