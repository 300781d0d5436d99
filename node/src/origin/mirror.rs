//! A mirror or content delivery network that a vendor's files lie on already: whole files and ranges over HTTP.

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
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

/// A connection that does not stand by then will not.
const CONNECT: Duration = Duration::from_secs(5);
/// No byte for so long ends a transfer.
const SILENCE: Duration = Duration::from_secs(10);
/// How often a request that failed on the way is sent in all.
const TRIES: u32 = 3;
/// Pause before the second time; doubles.
const PAUSE: Duration = Duration::from_millis(200);

/// TLS takes *ring* for its cryptography, like the rest of the product.
pub(super) fn choose_cryptography() {
    // Fails only when it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A mirror of one vendor.
#[derive(Debug)]
pub(super) struct Mirror {
    name: String,
    vendor: VendorName,
    base: Url,
    client: Client,
    /// Paths that an index named, by root.
    indexed: Mutex<BTreeMap<Blake3Root, String>>,
}

impl Mirror {
    /// Makes the client; nothing is sent yet.
    ///
    /// # Errors
    /// [`OriginError::Setup`].
    pub(super) fn open(mirror: &configuration::Mirror) -> Result<Mirror, OriginError> {
        choose_cryptography();
        let name = format!("mirror of {}", mirror.vendor);
        let setup = |cause: String| OriginError::Setup { origin: name.clone(), cause };
        let base = Url::parse(&mirror.url).map_err(|error| setup(error.to_string()))?;
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(reqwest::redirect::Policy::limited(limits::MIRROR_REDIRECTS))
            .user_agent(concat!("patchmesh/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| setup(error.without_url().to_string()))?;
        Ok(Mirror { name, vendor: mirror.vendor.clone(), base, client, indexed: Mutex::default() })
    }

    pub(super) fn vendor(&self) -> &VendorName {
        &self.vendor
    }

    /// From now on the content is the file at this path.
    pub(super) fn index(&self, root: Blake3Root, path: String) {
        let mut indexed = self.indexed.lock().unwrap_or_else(PoisonError::into_inner);
        indexed.insert(root, path);
    }

    /// Whether the path of the content is known.
    pub(super) fn knows(&self, wanted: &Wanted) -> bool {
        self.path(wanted).is_some()
    }

    fn path(&self, wanted: &Wanted) -> Option<String> {
        let known =
            wanted.files.iter().filter(|file| file.vendor == self.vendor).find_map(|file| match &file.path {
                MirrorPath::Known(path) => Some(path.clone()),
                MirrorPath::Indexed { .. } => None,
            });
        let indexed = self.indexed.lock().unwrap_or_else(PoisonError::into_inner);
        known.or_else(|| indexed.get(&wanted.content.root).cloned())
    }

    /// Whether the mirror answers at all.
    pub(super) async fn probe(&self) -> Result<(), OriginError> {
        let answer = self.client.get(self.base.clone()).send().await.map_err(|error| self.lost(error))?;
        match answer.status() {
            status if status.is_server_error() => Err(self.unreachable(status.to_string())),
            _ => Ok(()),
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

    /// Sends a request for a file or a part of it until there is an answer with a body.
    async fn ask(&self, wanted: &Wanted, range: Option<&Range<u64>>) -> Result<Response, OriginError> {
        let url = self.url(wanted)?;
        let mut pause = PAUSE;
        for attempt in 1.. {
            let mut request = self.client.get(url.clone());
            if let Some(range) = range {
                request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
            }
            let failure = match request.send().await {
                Ok(answer) => match self.judge(wanted, answer) {
                    Err(failure @ OriginError::Unreachable { .. }) => failure,
                    judged => return judged,
                },
                Err(error) => self.lost(error),
            };
            if attempt == TRIES {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(OriginError::Stopping)
    }

    /// Writes the whole file, as it lies there.
    ///
    /// # Errors
    /// [`OriginError`]; [`OriginError::Wrong`] when it has another length.
    pub(super) async fn download(&self, wanted: &Wanted, to: &mut File) -> Result<(), OriginError> {
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
                Err(OriginError::Denied { origin, cause: status.to_string() })
            }
            status => Err(self.unreachable(status.to_string())),
        }
    }

    fn lost(&self, error: reqwest::Error) -> OriginError {
        // The address may carry a password.
        let error = error.without_url();
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        self.unreachable(causes.last().map_or_else(String::new, ToString::to_string))
    }

    fn unreachable(&self, cause: String) -> OriginError {
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

    fn covers(&self, wanted: &Wanted) -> bool {
        wanted.files.iter().any(|file| file.vendor == self.vendor)
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
            let mut answer = self.ask(wanted, Some(&range)).await?;
            if answer.status() != StatusCode::PARTIAL_CONTENT {
                return Err(OriginError::NoRanges { origin: self.name.clone() });
            }
            let said = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let expected = format!("bytes {}-{}/", range.start, range.end - 1);
            if !said.is_some_and(|said| said.starts_with(&expected)) {
                return Err(self.wrong(wanted, "the mirror sent another range than asked for".to_owned()));
            }
            let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let mut bytes = Vec::with_capacity(length);
            while let Some(part) = answer.chunk().await.map_err(|error| self.lost(error))? {
                if bytes.len() + part.len() > length {
                    return Err(self.wrong(wanted, "more bytes than asked for".to_owned()));
                }
                bytes.extend_from_slice(&part);
            }
            if bytes.len() != length {
                return Err(self.wrong(wanted, "fewer bytes than asked for".to_owned()));
            }
            Ok(bytes)
        })
    }
}
