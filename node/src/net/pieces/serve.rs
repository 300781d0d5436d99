//! Serving pieces: reads ahead by one chunk on the blocking pool while the chunk before is on its way.

use super::{Opened, PROTOCOL, PieceReader, PieceSource, REQUEST_BYTES, SERVED, Wanted, status_of};
use crate::net::config::Patience;
use crate::net::frame::{self, FrameError};
use crate::net::streams::Inbound;
use futures::AsyncWrite;
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::reason::Reason;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Bytes of one read from disk.
const CHUNK_BYTES: usize = 4 * limits::BLOCK_BYTES;

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

    /// Answers requests on one stream, in order, until the requester ends it.
    pub(in crate::net) async fn serve(self, inbound: Inbound) -> Result<(), FrameError> {
        debug_assert_eq!(inbound.protocol, PROTOCOL);
        let Inbound { peer, mut stream, permit: _permit, .. } = inbound;
        loop {
            let mut request = [0; REQUEST_BYTES];
            frame::read_exact(&mut stream, &mut request, UNUSED).await?;
            let wanted = Wanted::decode(&request);
            match self.find(peer, wanted).await {
                Ok(first) => self.send(&mut stream, peer, wanted, first).await?,
                Err(reason) => {
                    tracing::debug!(peer = peer.short(), root = %wanted.root, %reason, "piece refused");
                    frame::write_all(&mut stream, &[status_of(reason)], self.patience.idle).await?;
                }
            }
            frame::flush(&mut stream, self.patience.idle).await?;
        }
    }

    /// Asks the source, and reads the first chunk: after the status byte there is no way to refuse any more.
    async fn find(&self, peer: DeviceId, wanted: Wanted) -> Result<(PieceReader, Vec<u8>), Reason> {
        if !wanted.is_sensible() {
            return Err(Reason::NoPieces);
        }
        let source = self.source.clone();
        let read = self.reads.acquire().await.map_err(|_| Reason::UploadLimit)?;
        let opened = spawn_blocking(move || match source.open(peer, wanted.root, wanted.index)? {
            Opened::Here(reader) => Ok(Ok(first_chunk(reader, wanted)?)),
            Opened::Coming(coming) => Ok(Err(coming)),
        });
        let opened = opened.await.unwrap_or_else(|error| Err(unreadable(&error)))?;
        drop(read);
        match opened {
            Ok(found) => Ok(found),
            // It comes into memory: reading it there blocks nobody.
            Err(coming) => first_chunk(coming.await?, wanted),
        }
    }

    async fn send<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        peer: DeviceId,
        wanted: Wanted,
        (reader, mut chunk): (PieceReader, Vec<u8>),
    ) -> Result<(), FrameError> {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut head = [SERVED; 13];
        head[1..5].copy_from_slice(&wanted.length.to_le_bytes());
        head[5..].copy_from_slice(&micros.to_le_bytes());
        frame::write_all(stream, &head, self.patience.idle).await?;
        let mut at = 0;
        loop {
            at += chunk.len();
            if at >= wanted.length as usize {
                self.send_chunk(stream, peer, wanted, &chunk).await?;
                frame::flush(stream, self.patience.idle).await?;
                if wanted.from + wanted.length == reader.length() {
                    self.source.served(peer, wanted.root, wanted.index, u64::from(wanted.length));
                }
                return Ok(());
            }
            let (written, next) = tokio::join!(
                self.send_chunk(stream, peer, wanted, &chunk),
                self.read_next(reader.clone(), wanted, at)
            );
            written?;
            // Ending the stream in the middle is the only honest answer to a disk that fails now.
            chunk = next.map_err(FrameError::Broken)?;
        }
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
        for step in chunk.chunks(limits::BLOCK_BYTES / 4) {
            if !self.source.still_granted(peer, wanted.root, wanted.index) {
                return Err(FrameError::Broken(std::io::Error::other("the grant was taken back")));
            }
            frame::write_all(stream, step, self.patience.idle).await?;
        }
        Ok(())
    }

    async fn read_next(&self, reader: PieceReader, wanted: Wanted, at: usize) -> std::io::Result<Vec<u8>> {
        let _read = self.reads.acquire().await.map_err(std::io::Error::other)?;
        spawn_blocking(move || read_chunk(&reader, wanted, at)).await.map_err(std::io::Error::other)?
    }
}

/// What the disk does not give is not here for a peer; for us it is worth a warning.
fn unreadable(error: &impl std::error::Error) -> Reason {
    tracing::warn!(%error, "a piece could not be read");
    Reason::NoPieces
}

fn first_chunk(reader: PieceReader, wanted: Wanted) -> Result<(PieceReader, Vec<u8>), Reason> {
    if u64::from(wanted.from) + u64::from(wanted.length) > u64::from(reader.length()) {
        return Err(Reason::NoPieces);
    }
    let bytes = read_chunk(&reader, wanted, 0).map_err(|error| unreadable(&error))?;
    Ok((reader, bytes))
}

fn read_chunk(reader: &PieceReader, wanted: Wanted, at: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; (wanted.length as usize - at).min(CHUNK_BYTES)];
    reader.read_exact_at(&mut bytes, u64::from(wanted.from) + at as u64)?;
    Ok(bytes)
}
