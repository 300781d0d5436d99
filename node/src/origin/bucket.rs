//! A bucket of storage that speaks S3: several seeds read from it, `fleet publish` puts content there.
//!
//! A content is the object `PREFIX/ROOT`, ROOT being its BLAKE3 root in hexadecimal digits; beside it lies `ROOT.tree`, its
//! piece list, which proves itself against the root. The piece list comes last, so whoever finds it finds the content.

use super::{Credentials, Origin, OriginError, Wanted};
use crate::configuration;
use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, MultipartUpload, ObjectStore as _, ObjectStoreExt as _, PutMode,
    PutOptions, PutPayload, RetryConfig,
};
use protocol::digest::Blake3Root;
use protocol::limits;
use protocol::piece::{PieceIndex, PieceTree};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

/// Pieces in one part of an upload. S3 wants at least 5 MiB and at most 10,000 parts.
const PART_PIECES: u32 = 8;
/// Parts that are on their way at the same time.
const PARTS_AT_ONCE: usize = 4;
/// A connection that does not stand by then will not.
const CONNECT: Duration = Duration::from_secs(5);
/// A request that does not end by then counts as failed; the longest carries one part.
const REQUEST: Duration = Duration::from_secs(120);
/// No byte for so long ends a request.
const SILENCE: Duration = Duration::from_secs(10);

/// A bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    name: String,
    prefix: Path,
    store: AmazonS3,
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
        super::mirror::choose_cryptography();
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
            })
            .with_client_options(
                ClientOptions::new()
                    .with_allow_http(true)
                    .with_http1_only()
                    .with_connect_timeout(CONNECT)
                    .with_read_timeout(SILENCE)
                    .with_timeout(REQUEST),
            );
        if let Some(token) = &credentials.session_token {
            builder = builder.with_token(token);
        }
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let store = builder.build().map_err(|error| setup(innermost(&error)))?;
        let prefix = Path::parse(&bucket.prefix).map_err(|error| setup(error.to_string()))?;
        Ok(Bucket { name, prefix, store })
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
    pub(super) async fn keep(&self, tree: &Arc<PieceTree>, file: File) -> Result<(), OriginError> {
        let root = tree.root();
        let object = self.object(root);
        if !self.is_there(&object, root, tree.size()).await? {
            let file = Arc::new(file);
            if tree.pieces() <= 2 * PART_PIECES {
                let bytes = self.part(tree, &file, 0..tree.pieces()).await?;
                self.put(&object, root, bytes).await?;
            } else {
                self.put_parts(&object, tree, &file).await?;
            }
        }
        let list = self.list(root);
        let values = tree.values().as_flattened();
        if !self.is_there(&list, root, values.len() as u64).await? {
            self.put(&list, root, values.to_vec()).await?;
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

    async fn put(&self, object: &Path, root: Blake3Root, bytes: Vec<u8>) -> Result<(), OriginError> {
        let size = bytes.len() as u64;
        let payload = PutPayload::from(bytes);
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(object, payload.clone(), create).await {
            Ok(_) => Ok(()),
            // Another administrator was faster: under this name there can only be the same bytes.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                self.is_there(object, root, size).await.map(drop)
            }
            // Storage that does not know the condition; that nothing was there was seen a moment ago.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                let put = self.store.put(object, payload).await;
                put.map(drop).map_err(|error| self.failure(error, &root.to_string()))
            }
            Err(error) => Err(self.failure(error, &root.to_string())),
        }
    }

    /// Uploads in parts; the object appears as a whole or not at all.
    async fn put_parts(
        &self,
        object: &Path,
        tree: &Arc<PieceTree>,
        file: &Arc<File>,
    ) -> Result<(), OriginError> {
        let what = tree.root().to_string();
        let failed = |error| self.failure(error, &what);
        let mut upload = self.store.put_multipart(object).await.map_err(failed)?;
        let sent = self.send_parts(upload.as_mut(), tree, file).await;
        let ended = match sent {
            Ok(()) => upload.complete().await.map(drop).map_err(failed),
            Err(error) => Err(error),
        };
        if ended.is_err() {
            // The storage throws parts of uploads that nobody ended away by itself, later.
            let _ = upload.abort().await;
        }
        ended
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        tree: &Arc<PieceTree>,
        file: &Arc<File>,
    ) -> Result<(), OriginError> {
        let what = tree.root().to_string();
        let mut sending = futures::stream::FuturesUnordered::new();
        for first in (0..tree.pieces()).step_by(PART_PIECES as usize) {
            let range = first..tree.pieces().min(first + PART_PIECES);
            let bytes = self.part(tree, file, range).await?;
            if sending.len() >= PARTS_AT_ONCE {
                sending.try_next().await.map_err(|error| self.failure(error, &what))?;
            }
            sending.push(upload.put_part(PutPayload::from(bytes)));
        }
        while sending.try_next().await.map_err(|error| self.failure(error, &what))?.is_some() {}
        Ok(())
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

    fn covers(&self, _: &Wanted) -> bool {
        true
    }

    fn tree<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Option<PieceTree>, OriginError>> {
        Box::pin(async move {
            let content = wanted.content;
            let what = content.root.to_string();
            let failed = |error| self.failure(error, &what);
            let found = self.store.get(&self.list(content.root)).await.map_err(failed)?;
            let expected = u64::from(protocol::piece::count(content.size)) * 32;
            if found.meta.size != expected {
                return Err(self.wrong(content.root, "its piece list has another length".to_owned()));
            }
            let bytes = found.bytes().await.map_err(failed)?;
            let values = bytes.as_chunks::<32>().0.to_vec();
            let tree = PieceTree::prove(content.root, content.size, values)
                .map_err(|error| self.wrong(content.root, error.to_string()))?;
            Ok(Some(tree))
        })
    }

    fn read<'a>(
        &'a self,
        wanted: &'a Wanted,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Vec<u8>, OriginError>> {
        Box::pin(async move {
            let (root, length) = (wanted.content.root, range.end - range.start);
            let read = self.store.get_range(&self.object(root), range).await;
            let bytes = read.map_err(|error| self.failure(error, &root.to_string()))?;
            if bytes.len() as u64 != length {
                return Err(self.wrong(root, format!("{} bytes instead of {length}", bytes.len())));
            }
            Ok(bytes.into())
        })
    }
}

/// The cause at the bottom, in one line without the answer's body.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let last = std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error);
    let text = last.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.split('<').next().unwrap_or_default().chars().take(limits::NAME_BYTES).collect()
}
