//! Serving pieces: what the operating system has in memory goes out at once, for the rest a thread of the blocking pool waits.

use super::{Opened, PROTOCOL, Pass, PieceReader, PieceSource, REQUEST_BYTES, SERVED, Wanted, status_of};
use crate::net::config::Patience;
use crate::net::frame::{self, FrameError};
use crate::net::streams::Inbound;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use protocol::digest::Blake3Root;
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Bytes of one read from disk.
const CHUNK_BYTES: usize = limits::BLOCK_BYTES;

/// Status, length and clock before the bytes.
const HEAD_BYTES: usize = 13;

/// Requests that are read at once.
const REQUESTS_READ: usize = 16;

/// A requester that asks for nothing for so long gives up its stream; it can open another.
const UNUSED: Duration = Duration::from_secs(300);

/// How often somebody whose turn has not come is looked at: often enough for its lease.
const WAITING: Duration = Duration::from_millis(300);

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
        let mut sent = Sent::default();
        let ended = self.answer(&mut stream, peer, &mut sent).await;
        for ((root, index), part) in sent.parts {
            self.source.served(peer, root, index, part.bytes, false);
        }
        ended
    }

    async fn answer<S>(&self, stream: &mut S, peer: DeviceId, sent: &mut Sent) -> Result<(), FrameError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut waiting, mut chunk) = (Requests::default(), Vec::new());
        loop {
            let Some(wanted) = waiting.next() else {
                frame::flush(stream, self.patience.idle).await?;
                waiting.read(stream).await?;
                continue;
            };
            match self.find(peer, wanted, &mut chunk).await {
                Ok(reader) => {
                    let length = reader.length();
                    self.send(stream, peer, wanted, &reader, &mut chunk).await?;
                    if let Some((root, index, bytes, whole)) = sent.note(wanted, length) {
                        self.source.served(peer, root, index, bytes, whole);
                    }
                }
                Err(reason) => {
                    tracing::debug!(peer = peer.short(), root = %wanted.root, %reason, "piece refused");
                    frame::write_all(stream, &[status_of(reason)], self.patience.idle).await?;
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
        chunk[0] = SERVED;
        chunk[1..5].copy_from_slice(&wanted.length.to_le_bytes());
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
        // What waits here for its turn stands in no queue of the way.
        let passed = self.pass(peer, wanted, chunk.len()).await?;
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        chunk[5..HEAD_BYTES].copy_from_slice(&micros.to_le_bytes());
        self.send_chunk(stream, peer, wanted, chunk, passed).await?;
        while at < wanted.length as usize {
            // Ending the stream in the middle is the only honest answer to a disk that fails now.
            self.read(reader, wanted, at, 0, chunk).await.map_err(FrameError::Broken)?;
            at += chunk.len();
            self.send_chunk(stream, peer, wanted, chunk, 0).await?;
        }
        Ok(())
    }

    /// Sends in small steps: the source hears of each, so that a slow transfer is not taken for a dead one, and a grant
    /// that is taken back ends it soon. So many of its bytes have had their turn already.
    async fn send_chunk<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        peer: DeviceId,
        wanted: Wanted,
        chunk: &[u8],
        mut passed: usize,
    ) -> Result<(), FrameError> {
        let mut rest = chunk;
        while !rest.is_empty() {
            if passed == 0 {
                passed = self.pass(peer, wanted, rest.len()).await?;
            }
            self.check_grant(peer, wanted, passed.min(rest.len()))?;
            let (step, later) = rest.split_at(passed.min(rest.len()));
            frame::write_all(stream, step, self.patience.idle).await?;
            (rest, passed) = (later, 0);
        }
        Ok(())
    }

    /// How many of so many bytes may go, once it is the peer's turn; without caps it is.
    async fn pass(&self, peer: DeviceId, wanted: Wanted, bytes: usize) -> Result<usize, FrameError> {
        let mut turn = match self.source.pass(peer, bytes.min(limits::BLOCK_BYTES)) {
            Pass::Now(bytes) => return Ok(bytes),
            Pass::Wait(turn) => turn,
        };
        loop {
            match tokio::time::timeout(WAITING, &mut turn).await {
                Ok(bytes) => return Ok(bytes),
                // It is not dead: it waits.
                Err(_) => self.check_grant(peer, wanted, 0)?,
            }
        }
    }

    fn check_grant(&self, peer: DeviceId, wanted: Wanted, bytes: usize) -> Result<(), FrameError> {
        if self.source.still_granted(peer, wanted.root, wanted.index, bytes as u64) {
            return Ok(());
        }
        Err(FrameError::Broken(std::io::Error::other("the grant was taken back")))
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

/// What went over one stream of pieces that are not whole yet: their blocks are asked for in order.
#[derive(Default)]
struct Sent {
    parts: BTreeMap<(Blake3Root, PieceIndex), Part>,
}

#[derive(Clone, Copy, Default)]
struct Part {
    bytes: u64,
    /// Everything before this byte went.
    until: u32,
}

impl Sent {
    /// Notes an answer about a piece of `length` bytes; returns what is to be told: of it, when it is whole now, or of another
    /// one, which must make room.
    fn note(&mut self, wanted: Wanted, length: u32) -> Option<(Blake3Root, PieceIndex, u64, bool)> {
        let key = (wanted.root, wanted.index);
        let part = self.parts.entry(key).or_default();
        part.bytes += u64::from(wanted.length);
        if wanted.from <= part.until {
            part.until = part.until.max(wanted.from + wanted.length);
        }
        if part.until >= length {
            let bytes = self.parts.remove(&key).map_or(0, |part| part.bytes);
            return Some((key.0, key.1, bytes, true));
        }
        if self.parts.len() <= limits::PIECE_REQUESTS_PER_STREAM {
            return None;
        }
        let other = self.parts.keys().copied().find(|other| *other != key)?;
        self.parts.remove(&other).map(|part| (other.0, other.1, part.bytes, false))
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

#[cfg(test)]
mod tests {
    use super::*;

    // proves X1: whoever asks for the ends of pieces holds none of them, and all that went is counted
    #[test]
    fn a_piece_is_whole_when_all_its_blocks_went() {
        let block = |index, from, length| Wanted {
            root: Blake3Root::of(b"x"),
            index: PieceIndex(index),
            from,
            length,
        };
        let told = |told: Option<(Blake3Root, PieceIndex, u64, bool)>| {
            told.map(|(_, index, bytes, whole)| (index.0, bytes, whole))
        };
        let mut sent = Sent::default();
        assert_eq!(told(sent.note(block(0, 900, 100), 1_000)), None);
        assert_eq!(told(sent.note(block(1, 0, 600), 1_000)), None);
        assert_eq!(told(sent.note(block(1, 600, 400), 1_000)), Some((1, 1_000, true)));
        assert_eq!(told(sent.note(block(2, 0, 1_000), 1_000)), Some((2, 1_000, true)));
        // A block that is asked for twice goes twice.
        assert_eq!(told(sent.note(block(0, 0, 900), 1_000)), None);
        assert_eq!(told(sent.note(block(0, 900, 100), 1_000)), Some((0, 1_100, true)));
        for index in 3..3 + u32::try_from(limits::PIECE_REQUESTS_PER_STREAM).expect("few") {
            assert_eq!(told(sent.note(block(index, 0, 10), 1_000)), None);
        }
        assert_eq!(told(sent.note(block(500, 0, 10), 1_000)), Some((3, 10, false)), "it makes room");
    }
}
