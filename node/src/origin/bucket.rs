//! A bucket of storage that speaks S3: several seeds read from it, `fleet publish` puts content there.
//!
//! A content is the object `PREFIX/ROOT`, ROOT being its BLAKE3 root in hexadecimal digits; beside it lies `ROOT.tree`, its
//! piece list, which proves itself against the root. The piece list comes last, so whoever finds it finds the content.

use super::body::{self, Unfit};
use super::{Credentials, Origin, OriginError, Wanted};
use crate::configuration;
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, GetOptions, GetResult, MultipartUpload, ObjectStore as _,
    ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig,
};
use protocol::digest::Blake3Root;
use protocol::limits;
use protocol::piece::{PieceIndex, PieceTree};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Pieces in one part of an upload. S3 wants at least 5 MiB and at most 10,000 parts.
const PART_PIECES: u32 = 8;
/// A connection that does not stand by then will not.
const CONNECT: Duration = Duration::from_secs(5);
/// A request that does not end by then counts as failed.
const REQUEST: Duration = Duration::from_secs(120);
/// No byte for so long ends a request that reads.
const SILENCE: Duration = Duration::from_secs(10);

/// A bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    name: String,
    prefix: Path,
    store: AmazonS3,
    /// The same for what is put there: no byte comes back while a part is on its way, so only its size bounds the time.
    uploads: AmazonS3,
    reads: Semaphore,
    parts: Semaphore,
}

/// What putting a content into the bucket came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Its bytes, checked, are there now.
    Put,
    /// An object of its name and size is there that somebody else put.
    Found,
}

impl Bucket {
    /// Makes the client; nothing is sent yet.
    ///
    /// # Errors
    /// [`OriginError::Setup`].
    pub(super) fn open(
        bucket: &configuration::Bucket,
        credentials: &Credentials,
    ) -> Result<Bucket, OriginError> {
        crate::net::install_crypto_provider();
        let name = format!("bucket {}", bucket.name);
        let setup = |cause: String| OriginError::Setup { origin: name.clone(), cause };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&bucket.name)
            .with_region(&bucket.region)
            .with_access_key_id(&credentials.access_key_id)
            .with_secret_access_key(&credentials.secret_access_key)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(100),
                    max_backoff: Duration::from_secs(1),
                    base: 2.0,
                },
                max_retries: 2,
                retry_timeout: Duration::from_secs(limits::ORIGIN_SECONDS),
            });
        if let Some(token) = &credentials.session_token {
            builder = builder.with_token(token);
        }
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let client =
            ClientOptions::new().with_allow_http(true).with_http1_only().with_connect_timeout(CONNECT);
        let build = |client| {
            let built = builder.clone().with_client_options(client).build();
            built.map_err(|error| setup(innermost(&error)))
        };
        let store = build(client.clone().with_read_timeout(SILENCE).with_timeout(REQUEST))?;
        let uploads = build(client.with_read_timeout_disabled().with_timeout_disabled())?;
        let prefix = Path::parse(&bucket.prefix).map_err(|error| setup(error.to_string()))?;
        let (reads, parts) = (Semaphore::new(limits::ORIGIN_READS), Semaphore::new(limits::ORIGIN_PARTS));
        Ok(Bucket { name, prefix, store, uploads, reads, parts })
    }

    fn object(&self, root: Blake3Root) -> Path {
        self.prefix.clone().join(root.to_string())
    }

    fn list(&self, root: Blake3Root) -> Path {
        self.prefix.clone().join(format!("{root}.tree"))
    }

    /// Whether the bucket answers and lets us read: looks for an object that cannot be there.
    pub(super) async fn probe(&self) -> Result<(), OriginError> {
        match self.store.head(&self.object(Blake3Root::from_bytes([0; 32]))).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failure(error, "the bucket")),
        }
    }

    /// Puts a content and its piece list into the bucket, unless they are there. Every byte is checked against the tree
    /// before it leaves; an object that is there already is left as it is.
    ///
    /// # Errors
    /// [`OriginError::Wrong`] when something else lies under its name, or the file is not what the tree says; others from
    /// the bucket.
    pub(super) async fn keep(&self, tree: &Arc<PieceTree>, file: File) -> Result<Kept, OriginError> {
        let root = tree.root();
        let object = self.object(root);
        let kept = if self.is_there(&object, root, tree.size()).await? {
            Kept::Found
        } else {
            let file = Arc::new(file);
            if tree.pieces() <= 2 * PART_PIECES {
                let _part = self.part_permit().await?;
                let bytes = self.part(tree, &file, 0..tree.pieces()).await?;
                self.put(&object, root, bytes).await?
            } else {
                self.put_parts(&object, tree, &file).await?;
                Kept::Put
            }
        };
        let list = self.list(root);
        let values = tree.values().as_flattened();
        let kept_list = match self.is_there(&list, root, values.len() as u64).await? {
            // What it is shows when it is read: it proves itself.
            true => kept,
            false => self.put(&list, root, values.to_vec()).await?,
        };
        Ok(if kept_list == Kept::Found { Kept::Found } else { kept })
    }

    /// Reads all of a content and its piece list, and checks each piece.
    ///
    /// # Errors
    /// [`OriginError`], [`OriginError::Wrong`] when a byte is another one.
    pub(super) async fn read_back(&self, tree: &Arc<PieceTree>) -> Result<(), OriginError> {
        let root = tree.root();
        let values = tree.values().as_flattened();
        if self.read_list(root, values.len() as u64).await? != values {
            return Err(self.wrong(root, "its piece list is another one".to_owned()));
        }
        for index in (0..tree.pieces()).map(PieceIndex) {
            let Some((offset, length)) = tree.extent(index) else { continue };
            let bytes = self.read_range(root, offset..offset + length as u64).await?;
            let tree = Arc::clone(tree);
            let checked = tokio::task::spawn_blocking(move || tree.check(index, bytes).map(drop)).await;
            let checked = checked.map_err(|_| OriginError::Stopping)?;
            checked.map_err(|bad| self.wrong(root, bad.to_string()))?;
        }
        Ok(())
    }

    async fn is_there(&self, object: &Path, root: Blake3Root, size: u64) -> Result<bool, OriginError> {
        match self.store.head(object).await {
            Ok(found) if found.size == size => Ok(true),
            Ok(found) => Err(self.wrong(root, format!("{} bytes instead of {size}", found.size))),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failure(error, &root.to_string())),
        }
    }

    async fn part_permit(&self) -> Result<SemaphorePermit<'_>, OriginError> {
        self.parts.acquire().await.map_err(|_| OriginError::Stopping)
    }

    /// Waits for a request that carries so many bytes, as long as they may take.
    async fn within<T>(
        &self,
        bytes: usize,
        root: Blake3Root,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, OriginError> {
        let longest = REQUEST.max(super::longest(bytes as u64));
        match tokio::time::timeout(longest, request).await {
            Ok(answer) => answer.map_err(|error| self.failure(error, &root.to_string())),
            Err(_) => Err(OriginError::Unreachable {
                origin: self.name.clone(),
                cause: format!("it did not take {bytes} bytes within {} s", longest.as_secs()),
            }),
        }
    }

    async fn put(&self, object: &Path, root: Blake3Root, bytes: Vec<u8>) -> Result<Kept, OriginError> {
        let size = bytes.len();
        let payload = PutPayload::from(bytes);
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = async {
            match self.uploads.put_opts(object, payload.clone(), create).await {
                Ok(_) => Ok(true),
                // Somebody else was faster.
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
                // Storage that does not know the condition; that nothing was there was seen a moment ago.
                Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                    self.uploads.put(object, payload).await.map(|_| true)
                }
                Err(error) => Err(error),
            }
        };
        match self.within(size, root, put).await? {
            true => Ok(Kept::Put),
            false => self.is_there(object, root, size as u64).await.map(|_| Kept::Found),
        }
    }

    /// Uploads in parts; the object appears as a whole or not at all.
    async fn put_parts(
        &self,
        object: &Path,
        tree: &Arc<PieceTree>,
        file: &Arc<File>,
    ) -> Result<(), OriginError> {
        let root = tree.root();
        let mut upload = self.within(0, root, self.uploads.put_multipart(object)).await?;
        let sent = self.send_parts(upload.as_mut(), tree, file).await;
        let ended = match sent {
            Ok(()) => self.within(0, root, upload.complete()).await.map(drop),
            Err(error) => Err(error),
        };
        if ended.is_err()
            && let Err(error) = self.within(0, root, upload.abort()).await
        {
            tracing::warn!(%root, %error, "parts of an upload that failed stay in the bucket until its lifecycle rule removes them");
        }
        ended
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        tree: &Arc<PieceTree>,
        file: &Arc<File>,
    ) -> Result<(), OriginError> {
        let mut sending = futures::stream::FuturesUnordered::new();
        for first in (0..tree.pieces()).step_by(PART_PIECES as usize) {
            let range = first..tree.pieces().min(first + PART_PIECES);
            let permit = loop {
                // What is on its way goes on while this waits for its turn.
                tokio::select! {
                    permit = self.part_permit() => break permit?,
                    Some(sent) = sending.next() => sent?,
                }
            };
            let bytes = self.part(tree, file, range).await?;
            let (size, part) = (bytes.len(), upload.put_part(PutPayload::from(bytes)));
            sending.push(async move {
                let _permit = permit;
                self.within(size, tree.root(), part).await
            });
        }
        sending.try_collect::<()>().await
    }

    /// Reads pieces from the disk and checks them.
    async fn part(
        &self,
        tree: &Arc<PieceTree>,
        file: &Arc<File>,
        pieces: Range<u32>,
    ) -> Result<Vec<u8>, OriginError> {
        let (tree, file) = (Arc::clone(tree), Arc::clone(file));
        let read = tokio::task::spawn_blocking(move || -> Result<Vec<u8>, OriginError> {
            let mut part = Vec::new();
            for index in pieces.map(PieceIndex) {
                let Some((offset, length)) = tree.extent(index) else { continue };
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset)?;
                let checked = tree.check(index, bytes).map_err(|bad| OriginError::Wrong {
                    origin: "the disk of this seed".to_owned(),
                    root: tree.root(),
                    what: bad.to_string(),
                })?;
                part.extend_from_slice(checked.bytes());
            }
            Ok(part)
        });
        read.await.map_err(|_| OriginError::Stopping)?
    }

    /// Reads the body of an answer, and no more of it than should be there.
    async fn body(&self, found: GetResult, root: Blake3Root, length: u64) -> Result<Vec<u8>, OriginError> {
        body::exactly(found.into_stream(), length).await.map_err(|unfit| match unfit {
            Unfit::Length(what) => self.wrong(root, what.to_owned()),
            Unfit::Lost(error) => self.failure(error, &root.to_string()),
        })
    }

    async fn read_list(&self, root: Blake3Root, length: u64) -> Result<Vec<u8>, OriginError> {
        let found = self.store.get(&self.list(root)).await;
        let found = found.map_err(|error| self.failure(error, &root.to_string()))?;
        self.body(found, root, length).await
    }

    async fn read_range(&self, root: Blake3Root, range: Range<u64>) -> Result<Vec<u8>, OriginError> {
        let length = range.end - range.start;
        // An empty range cannot be asked for.
        let range = (length > 0).then_some(range);
        let options = GetOptions::new().with_range(range);
        let found = self.store.get_opts(&self.object(root), options).await;
        let found = found.map_err(|error| self.failure(error, &root.to_string()))?;
        self.body(found, root, length).await
    }

    fn wrong(&self, root: Blake3Root, what: String) -> OriginError {
        OriginError::Wrong { origin: self.name.clone(), root, what }
    }

    fn failure(&self, error: Error, what: &str) -> OriginError {
        let origin = self.name.clone();
        match error {
            Error::NotFound { .. } => OriginError::Missing { origin, what: what.to_owned() },
            // The body of such an answer repeats parts of the signed request.
            Error::PermissionDenied { .. } => {
                OriginError::Denied { origin, cause: "403 Forbidden".to_owned() }
            }
            Error::Unauthenticated { .. } => {
                OriginError::Denied { origin, cause: "401 Unauthorized".to_owned() }
            }
            error => OriginError::Unreachable { origin, cause: innermost(&error) },
        }
    }
}

impl Origin for Bucket {
    fn name(&self) -> &str {
        &self.name
    }

    fn reads(&self) -> &Semaphore {
        &self.reads
    }

    fn covers(&self, _: &Wanted) -> bool {
        true
    }

    fn tree<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Option<PieceTree>, OriginError>> {
        Box::pin(async move {
            let content = wanted.content;
            let length = u64::from(protocol::piece::count(content.size)) * 32;
            let bytes = self.read_list(content.root, length).await?;
            let values = bytes.as_chunks::<32>().0.to_vec();
            let tree = PieceTree::prove(content.root, content.size, values)
                .map_err(|error| self.wrong(content.root, error.to_string()))?;
            // A list alone is left when somebody deleted the object.
            match self.is_there(&self.object(content.root), content.root, content.size).await? {
                true => Ok(Some(tree)),
                false => {
                    let (origin, what) = (self.name.clone(), content.root.to_string());
                    Err(OriginError::Missing { origin, what })
                }
            }
        })
    }

    fn read<'a>(
        &'a self,
        wanted: &'a Wanted,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Vec<u8>, OriginError>> {
        Box::pin(self.read_range(wanted.content.root, range))
    }
}

/// The cause at the bottom, in one line without the answer's body.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let last = std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error);
    let text = last.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.split('<').next().unwrap_or_default().chars().take(limits::NAME_BYTES).collect()
}
