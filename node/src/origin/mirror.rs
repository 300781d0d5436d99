//! A mirror or content delivery network that a vendor's files lie on already: whole files and ranges over HTTP.

use super::body::{self, Unfit};
use super::wanted::MirrorPath;
use super::{Origin, OriginError, Wanted};
use crate::configuration;
use futures::future::BoxFuture;
use protocol::digest::Blake3Root;
use protocol::identifier::VendorName;
use protocol::limits;
use protocol::piece::PieceTree;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;

/// A connection that does not stand by then will not.
const CONNECT: Duration = Duration::from_secs(5);
/// No byte for so long ends a transfer.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// How often a request that failed on the way is sent in all.
const TRIES: u32 = 3;
/// Pause before the second time; doubles.
const PAUSE: Duration = Duration::from_millis(200);

/// A mirror of one vendor.
pub(super) struct Mirror {
    name: String,
    vendor: VendorName,
    base: Url,
    client: Client,
    reads: Semaphore,
    /// Paths that an index named, by its root and that of the content; none where it named none that is of use.
    indexed: Mutex<BTreeMap<(Blake3Root, Blake3Root), Option<String>>>,
}

impl fmt::Debug for Mirror {
    // The address may carry a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Mirror {
    /// Makes the clients of mirrors; each has a name of its own, also where a vendor has several.
    ///
    /// # Errors
    /// [`OriginError::Setup`], for each.
    pub(super) fn open_all(mirrors: &[configuration::Mirror]) -> Vec<Result<Mirror, OriginError>> {
        let named = Mirror::named(mirrors).into_iter();
        named.map(|(name, mirror)| Mirror::open(mirror, name, SILENCE)).collect()
    }

    /// Each with what it is called.
    pub(super) fn named(mirrors: &[configuration::Mirror]) -> Vec<(String, &configuration::Mirror)> {
        let mut numbers: BTreeMap<&VendorName, u32> = BTreeMap::new();
        let named = mirrors.iter().map(|mirror| {
            let number = numbers.entry(&mirror.vendor).or_default();
            *number += 1;
            let name = match *number {
                1 => format!("mirror of {}", mirror.vendor),
                number => format!("mirror {number} of {}", mirror.vendor),
            };
            (name, mirror)
        });
        named.collect()
    }

    /// Makes the client, for which a transfer ends that brings no byte for so long; nothing is sent yet.
    ///
    /// # Errors
    /// [`OriginError::Setup`].
    pub(super) fn open(
        mirror: &configuration::Mirror,
        name: String,
        silence: Duration,
    ) -> Result<Mirror, OriginError> {
        crate::net::install_crypto_provider();
        let setup = |cause: String| OriginError::Setup { origin: name.clone(), cause };
        let base = Url::parse(&mirror.url).map_err(|error| setup(error.to_string()))?;
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(silence)
            .redirect(reqwest::redirect::Policy::limited(limits::MIRROR_REDIRECTS))
            .user_agent(concat!("patchmesh/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| setup(error.without_url().to_string()))?;
        let reads = Semaphore::new(limits::ORIGIN_READS);
        Ok(Mirror { name, vendor: mirror.vendor.clone(), base, client, reads, indexed: Mutex::default() })
    }

    pub(super) fn vendor(&self) -> &VendorName {
        &self.vendor
    }

    /// By this index the content is the file at this path, or there is none.
    pub(super) fn set_path(&self, index: Blake3Root, root: Blake3Root, path: Option<String>) {
        self.indexed().insert((index, root), path);
    }

    /// Whether this index was asked for the path of the content.
    pub(super) fn looked_up(&self, index: Blake3Root, root: Blake3Root) -> bool {
        self.indexed().contains_key(&(index, root))
    }

    /// What other indexes said counts no more.
    pub(super) fn keep_indexes(&self, indexes: &BTreeSet<Blake3Root>) {
        self.indexed().retain(|(index, _), _| indexes.contains(index));
    }

    fn indexed(&self) -> MutexGuard<'_, BTreeMap<(Blake3Root, Blake3Root), Option<String>>> {
        self.indexed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the path of the content is known.
    pub(super) fn knows(&self, wanted: &Wanted) -> bool {
        self.path(wanted).is_some()
    }

    fn path(&self, wanted: &Wanted) -> Option<String> {
        let indexed = self.indexed();
        let mut files = wanted.files.iter().filter(|file| file.vendor == self.vendor);
        files.find_map(|file| match &file.path {
            MirrorPath::Known(path) => Some(path.clone()),
            MirrorPath::Indexed { packages, .. } => {
                indexed.get(&(packages.root, wanted.content.root)).cloned().flatten()
            }
        })
    }

    /// What the mirror says to its own address.
    pub(super) async fn probe(&self) -> Result<StatusCode, OriginError> {
        let answer = self.client.get(self.base.clone()).send().await.map_err(|error| self.lost(error))?;
        match answer.status() {
            status if status.is_server_error() => Err(self.unreachable(status.to_string())),
            status => Ok(status),
        }
    }

    fn url(&self, wanted: &Wanted) -> Result<Url, OriginError> {
        let path = self.path(wanted).ok_or_else(|| OriginError::Missing {
            origin: self.name.clone(),
            what: format!("a path for {}", wanted.content.root),
        })?;
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path.split('/')),
            Err(()) => return Err(self.unreachable("its address has no path".to_owned())),
        };
        Ok(url)
    }

    /// Sends a request for a file, or for a part of it, until there is an answer with a body.
    async fn ask(&self, wanted: &Wanted, range: Option<&Range<u64>>) -> Result<Response, OriginError> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.ask_once(wanted, range).await {
                Err(OriginError::Unreachable { .. }) => {}
                answered => return answered,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.ask_once(wanted, range).await
    }

    /// Sends a request for a file, or for a part of it, which must not be empty; the answer is one to this request, as far as its
    /// head says.
    ///
    /// # Errors
    /// [`OriginError`].
    pub(super) async fn ask_once(
        &self,
        wanted: &Wanted,
        range: Option<&Range<u64>>,
    ) -> Result<Response, OriginError> {
        let mut request = self.client.get(self.url(wanted)?);
        if let Some(Range { start, end }) = range {
            request = request.header(RANGE, format!("bytes={start}-{}", end.saturating_sub(1)));
        }
        let answer = request.send().await.map_err(|error| self.lost(error))?;
        let answer = self.judge(wanted, answer)?;
        match range {
            Some(range) => self.judge_range(wanted, range, answer),
            None => Ok(answer),
        }
    }

    /// Fills `into` with the body of an answer.
    ///
    /// # Errors
    /// [`OriginError::Wrong`] when it has another length, [`OriginError::Unreachable`] when it did not come.
    pub(super) async fn fill(
        &self,
        wanted: &Wanted,
        answer: Response,
        into: &mut [u8],
    ) -> Result<(), OriginError> {
        let parts = futures::stream::try_unfold(answer, |mut answer| async move {
            Ok::<_, reqwest::Error>(answer.chunk().await?.map(|part| (part, answer)))
        });
        body::fill(parts, into).await.map_err(|unfit| match unfit {
            Unfit::Length(what) => self.wrong(wanted, what.to_owned()),
            Unfit::Lost(error) => self.lost(error),
        })
    }

    /// Writes the whole file, as it lies there.
    ///
    /// # Errors
    /// [`OriginError`]; [`OriginError::Wrong`] when it has another length.
    pub(super) async fn download(&self, wanted: &Wanted, to: &mut File) -> Result<(), OriginError> {
        let longest = super::longest(wanted.content.size);
        tokio::time::timeout(longest, self.download_all(wanted, to)).await.unwrap_or_else(|_| {
            Err(self.unreachable(format!("a file did not come within {} s", longest.as_secs())))
        })
    }

    async fn download_all(&self, wanted: &Wanted, to: &mut File) -> Result<(), OriginError> {
        let mut answer = self.ask(wanted, None).await?;
        let mut left = wanted.content.size;
        while let Some(part) = answer.chunk().await.map_err(|error| self.lost(error))? {
            let Some(rest) = left.checked_sub(part.len() as u64) else {
                return Err(self.wrong(wanted, "the file is longer than it should be".to_owned()));
            };
            left = rest;
            to.write_all(&part).await?;
        }
        if left > 0 {
            return Err(self.wrong(wanted, "the file is shorter than it should be".to_owned()));
        }
        Ok(to.sync_all().await?)
    }

    fn judge(&self, wanted: &Wanted, answer: Response) -> Result<Response, OriginError> {
        let origin = self.name.clone();
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                let what = self.path(wanted).unwrap_or_default();
                Err(OriginError::Missing { origin, what })
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(self.wrong(wanted, "the file is shorter than it should be".to_owned()))
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let what = self.path(wanted).unwrap_or_default();
                Err(OriginError::Withheld { origin, what, cause: status.to_string() })
            }
            status => Err(self.unreachable(status.to_string())),
        }
    }

    fn judge_range(
        &self,
        wanted: &Wanted,
        asked: &Range<u64>,
        answer: Response,
    ) -> Result<Response, OriginError> {
        if answer.status() != StatusCode::PARTIAL_CONTENT {
            return Err(OriginError::NoRanges { origin: self.name.clone() });
        }
        let said = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let right = format!("bytes {}-{}/", asked.start, asked.end.saturating_sub(1));
        match said.is_some_and(|said| said.starts_with(&right)) {
            true => Ok(answer),
            false => Err(self.wrong(wanted, "the mirror sent another range than asked for".to_owned())),
        }
    }

    fn lost(&self, error: reqwest::Error) -> OriginError {
        // The address may carry a password.
        let error = error.without_url();
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        self.unreachable(causes.last().map_or_else(String::new, ToString::to_string))
    }

    pub(super) fn unreachable(&self, cause: String) -> OriginError {
        OriginError::Unreachable { origin: self.name.clone(), cause }
    }

    fn wrong(&self, wanted: &Wanted, what: String) -> OriginError {
        OriginError::Wrong { origin: self.name.clone(), root: wanted.content.root, what }
    }
}

impl Origin for Mirror {
    fn name(&self) -> &str {
        &self.name
    }

    fn reads(&self) -> &Semaphore {
        &self.reads
    }

    fn covers(&self, wanted: &Wanted) -> bool {
        self.knows(wanted)
    }

    fn tree<'a>(&'a self, _: &'a Wanted) -> BoxFuture<'a, Result<Option<PieceTree>, OriginError>> {
        Box::pin(async { Ok(None) })
    }

    fn read<'a>(
        &'a self,
        wanted: &'a Wanted,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Vec<u8>, OriginError>> {
        Box::pin(async move {
            // An empty range cannot be asked for.
            let asked = (!range.is_empty()).then_some(&range);
            let answer = self.ask(wanted, asked).await?;
            let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
            self.fill(wanted, answer, &mut bytes).await?;
            Ok(bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(urls: &[&str]) -> Vec<Mirror> {
        let vendor = VendorName::new("acme").expect("name");
        let mirror = |url: &&str| configuration::Mirror { vendor: vendor.clone(), url: (*url).to_owned() };
        let mirrors: Vec<_> = urls.iter().map(mirror).collect();
        Mirror::open_all(&mirrors).into_iter().map(|opened| opened.expect("an address")).collect()
    }

    #[test]
    fn a_password_in_the_address_is_shown_to_nobody() {
        let [mirror] = &open(&["http://user:secret@mirror.example/pool"])[..] else { panic!("one mirror") };
        let shown = format!("{mirror:?} {:?} {:#?}", mirror as &dyn Origin, Some(mirror));
        assert!(shown.contains("mirror of acme"), "{shown}");
        assert!(!shown.contains("secret") && !shown.contains("user"), "{shown}");
    }

    #[test]
    fn mirrors_of_one_vendor_have_names_of_their_own() {
        let mirrors = open(&["http://one.example", "http://two.example"]);
        let names: Vec<&str> = mirrors.iter().map(Origin::name).collect();
        assert_eq!(names, ["mirror of acme", "mirror 2 of acme"]);
    }
}
