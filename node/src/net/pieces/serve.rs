//! Serving pieces: what the operating system has in memory goes out at once, for the rest a thread of the blocking pool waits.

use super::{Opened, PROTOCOL, PieceReader, PieceSource, REQUEST_BYTES, SERVED, Wanted, status_of};
use crate::net::config::Patience;
use crate::net::frame::{self, FrameError};
use crate::net::streams::Inbound;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::reason::Reason;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Bytes of one read from disk.
const CHUNK_BYTES: usize = 4 * limits::BLOCK_BYTES;

/// Status, length and clock before the bytes.
const HEAD_BYTES: usize = 13;

/// Requests that are read at once.
const REQUESTS_READ: usize = 16;

/// A requester that asks for nothing for so long gives up its stream; it can open another.
const UNUSED: Duration = Duration::from_secs(300);

/// What all serving tasks share.
#[derive(Clone)]
pub(in crate::net) struct Shelf {
    source: Arc<dyn PieceSource>,
    reads: Arc<Semaphore>,
    started: Instant,
    patience: Patience,
}

impl Shelf {
    pub(in crate::net) fn new(source: Arc<dyn PieceSource>, patience: Patience) -> Shelf {
        let reads = Arc::new(Semaphore::new(limits::PIECE_READS));
        Shelf { source, reads, started: Instant::now(), patience }
    }

    /// Answers requests on one stream, in order, until the requester ends it. Answers to requests that arrived together
    /// leave together: half-empty packets cost a thin link as much as full ones.
    pub(in crate::net) async fn serve(self, inbound: Inbound) -> Result<(), FrameError> {
        debug_assert_eq!(inbound.protocol, PROTOCOL);
        let Inbound { peer, mut stream, permit: _permit, .. } = inbound;
        let (mut waiting, mut chunk) = (Requests::default(), Vec::new());
        loop {
            let Some(wanted) = waiting.next() else {
                frame::flush(&mut stream, self.patience.idle).await?;
                waiting.read(&mut stream).await?;
                continue;
            };
            match self.find(peer, wanted, &mut chunk).await {
                Ok(reader) => self.send(&mut stream, peer, wanted, &reader, &mut chunk).await?,
                Err(reason) => {
                    tracing::debug!(peer = peer.short(), root = %wanted.root, %reason, "piece refused");
                    frame::write_all(&mut stream, &[status_of(reason)], self.patience.idle).await?;
                }
            }
        }
    }

    /// Asks the source, and reads the first chunk, behind the head of the answer: after the status byte there is no way to
    /// refuse any more.
    async fn find(&self, peer: DeviceId, wanted: Wanted, chunk: &mut Vec<u8>) -> Result<PieceReader, Reason> {
        if !wanted.is_sensible() {
            return Err(Reason::NoPieces);
        }
        let source = self.source.clone();
        let read = self.reads.acquire().await.map_err(|_| Reason::UploadLimit)?;
        let opened = spawn_blocking(move || {
            let opened = source.open(peer, wanted.root, wanted.index)?;
            // The blocks of a piece are asked for one after the other.
            if let (Opened::Here(reader), 0) = (&opened, wanted.from) {
                reader.announce();
            }
            Ok(opened)
        });
        let opened = opened.await.unwrap_or_else(|error| Err(unreadable(&error)))?;
        drop(read);
        let reader = match opened {
            Opened::Here(reader) => reader,
            Opened::Coming(coming) => coming.await?,
        };
        if u64::from(wanted.from) + u64::from(wanted.length) > u64::from(reader.length()) {
            return Err(Reason::NoPieces);
        }
        self.read(&reader, wanted, 0, HEAD_BYTES, chunk).await.map_err(|error| unreadable(&error))?;
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        chunk[0] = SERVED;
        chunk[1..5].copy_from_slice(&wanted.length.to_le_bytes());
        chunk[5..HEAD_BYTES].copy_from_slice(&micros.to_le_bytes());
        Ok(reader)
    }

    /// Sends an answer whose head and first bytes are in `chunk`.
    async fn send<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        peer: DeviceId,
        wanted: Wanted,
        reader: &PieceReader,
        chunk: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        let mut at = chunk.len() - HEAD_BYTES;
        self.send_chunk(stream, peer, wanted, chunk).await?;
        while at < wanted.length as usize {
            // Ending the stream in the middle is the only honest answer to a disk that fails now.
            self.read(reader, wanted, at, 0, chunk).await.map_err(FrameError::Broken)?;
            at += chunk.len();
            self.send_chunk(stream, peer, wanted, chunk).await?;
        }
        if wanted.from + wanted.length == reader.length() {
            self.source.served(peer, wanted.root, wanted.index, u64::from(wanted.length));
        }
        Ok(())
    }

    /// Sends in small steps: the source hears of each, so that a slow transfer is not taken for a dead one, and a grant
    /// that is taken back ends it soon.
    async fn send_chunk<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        peer: DeviceId,
        wanted: Wanted,
        chunk: &[u8],
    ) -> Result<(), FrameError> {
        for step in chunk.chunks(limits::BLOCK_BYTES) {
            if !self.source.still_granted(peer, wanted.root, wanted.index) {
                return Err(FrameError::Broken(std::io::Error::other("the grant was taken back")));
            }
            frame::write_all(stream, step, self.patience.idle).await?;
        }
        Ok(())
    }

    /// Reads the bytes of a request from its byte `at`, at most a chunk of them, behind `room` bytes for the caller.
    async fn read(
        &self,
        reader: &PieceReader,
        wanted: Wanted,
        at: usize,
        room: usize,
        chunk: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        chunk.resize(room + (wanted.length as usize - at).min(CHUNK_BYTES), 0);
        let from = u64::from(wanted.from) + at as u64;
        if reader.read_at_once(&mut chunk[room..], from) {
            return Ok(());
        }
        let _read = self.reads.acquire().await.map_err(std::io::Error::other)?;
        let (reader, mut bytes) = (reader.clone(), std::mem::take(chunk));
        let read = spawn_blocking(move || reader.read_exact_at(&mut bytes[room..], from).map(|()| bytes));
        *chunk = read.await.map_err(std::io::Error::other)??;
        Ok(())
    }
}

/// Requests that arrived and are not answered.
#[derive(Default)]
struct Requests {
    bytes: Vec<u8>,
    read: usize,
}

impl Requests {
    /// Takes the next whole request.
    fn next(&mut self) -> Option<Wanted> {
        let request: &[u8; REQUEST_BYTES] = self.bytes.get(self.read..)?.first_chunk()?;
        self.read += REQUEST_BYTES;
        Some(Wanted::decode(request))
    }

    /// Waits for more.
    async fn read<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Result<(), FrameError> {
        self.bytes.drain(..std::mem::take(&mut self.read));
        let from = self.bytes.len();
        self.bytes.resize(from + REQUESTS_READ * REQUEST_BYTES, 0);
        let count = tokio::time::timeout(UNUSED, stream.read(&mut self.bytes[from..]));
        let count = count.await.map_err(|_| FrameError::TimedOut(UNUSED))?.map_err(FrameError::Broken)?;
        self.bytes.truncate(from + count);
        if count == 0 { Err(FrameError::Broken(std::io::ErrorKind::UnexpectedEof.into())) } else { Ok(()) }
    }
}

/// What the disk does not give is not here for a peer; for us it is worth a warning.
fn unreadable(error: &impl std::error::Error) -> Reason {
    tracing::warn!(%error, "a piece could not be read");
    Reason::NoPieces
}
