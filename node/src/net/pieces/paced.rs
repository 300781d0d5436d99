//! Fetching over the WAN: pieces one after the other, in blocks, and never more outstanding than the window allows.

use super::cap::Cap;
use super::queue::Queues;
use super::{PROTOCOL, PeerBytes, PieceFailure, SERVED, Wanted, reason_of};
use crate::net::config::Patience;
use crate::net::frame;
use crate::net::streams::Opener;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use protocol::digest::Blake3Root;
use protocol::fetch::window::{Sample, Window};
use protocol::fetch::{Advice, Pace};
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use protocol::time::Moment;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A task with nothing to do ends after this time, and its stream with it.
const UNUSED: Duration = Duration::from_secs(60);
/// How long a window that slowed down is left alone before it is looked at again.
const LOOK: Duration = Duration::from_millis(50);
/// Status, length and the seed's clock before each block.
const HEAD_BYTES: usize = 13;

type Answer = Result<(PeerBytes, Pace), PieceFailure>;

/// One piece to fetch.
pub(super) struct Job {
    pub(super) root: Blake3Root,
    pub(super) index: PieceIndex,
    pub(super) length: u32,
    /// What the seed said of the way.
    pub(super) advice: Advice,
    pub(super) reply: oneshot::Sender<Answer>,
}

/// All fetching over the WAN of one node.
pub(in crate::net) struct Paced {
    opener: Opener,
    patience: Patience,
    queues: Queues<Job>,
    cap: Arc<Cap>,
}

impl Paced {
    pub(in crate::net) fn new(
        opener: Opener,
        patience: Patience,
        tasks: TaskTracker,
        stop: CancellationToken,
        cap: Arc<Cap>,
    ) -> Arc<Paced> {
        let queues = Queues::new(tasks, stop, limits::PIECES_IN_FLIGHT);
        Arc::new(Paced { opener, patience, queues, cap })
    }

    /// Fetches a whole piece from a seed; dropping the future takes the rest of it back.
    pub(in crate::net) async fn fetch(
        &self,
        seed: DeviceId,
        root: Blake3Root,
        index: PieceIndex,
        length: u32,
        advice: Advice,
    ) -> Answer {
        if u64::from(length) > limits::PIECE_BYTES {
            return Err(PieceFailure::Refused(Reason::NoPieces));
        }
        let (reply, answer) = oneshot::channel();
        let job = Job { root, index, length, advice, reply };
        let run = |jobs| run(self.opener.clone(), seed, jobs, self.patience.idle, Arc::clone(&self.cap));
        match self.queues.submit(seed, job, run).await {
            Ok(()) => answer.await.unwrap_or(Err(PieceFailure::Disconnected)),
            Err(_) => Err(PieceFailure::Disconnected),
        }
    }
}

async fn run(opener: Opener, seed: DeviceId, mut jobs: mpsc::Receiver<Job>, idle: Duration, cap: Arc<Cap>) {
    while let Ok(Some(job)) = tokio::time::timeout(UNUSED, jobs.recv()).await {
        if job.reply.is_closed() {
            continue;
        }
        match opener.open(seed, PROTOCOL).await {
            Ok(stream) => {
                let (reader, writer) = stream.split();
                Session::new(reader, writer, idle, Arc::clone(&cap)).run(job, &mut jobs).await;
            }
            Err(error) => {
                tracing::debug!(peer = seed.short(), %error, "no stream for pieces");
                let _ = job.reply.send(Err(PieceFailure::Disconnected));
            }
        }
    }
}

/// A piece that is arriving.
struct Arriving {
    job: Job,
    bytes: Vec<u8>,
    /// Bytes that were asked for, from its beginning.
    asked: u32,
    /// Bytes that arrived, from its beginning.
    arrived: u32,
    /// Why the seed does not give it.
    refused: Option<PieceFailure>,
}

impl Arriving {
    fn left(&self) -> u32 {
        let given_up = self.refused.is_some() || self.job.reply.is_closed();
        if given_up { 0 } else { self.job.length - self.asked }
    }

    /// Whether nothing more comes or is to be asked for, when `waiting` blocks of it are on their way.
    fn is_over(&self, waiting: usize) -> bool {
        waiting == 0 && self.left() == 0
    }
}

/// A block that is on its way.
#[derive(Clone, Copy)]
struct Asked {
    piece: u64,
    from: u32,
    length: u32,
    at: Moment,
    ahead: u64,
}

/// One stream to a seed.
struct Session<R, W> {
    reader: R,
    writer: W,
    idle: Duration,
    cap: Arc<Cap>,
    began: Instant,
    window: Window,
    /// Pieces in the order in which they were asked for; the first has this number.
    pieces: VecDeque<Arriving>,
    first: u64,
    blocks: VecDeque<Asked>,
    head: [u8; HEAD_BYTES],
    /// Bytes of the head, and then of the block, that were read.
    read: usize,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Session<R, W> {
    fn new(reader: R, writer: W, idle: Duration, cap: Arc<Cap>) -> Session<R, W> {
        Session {
            reader,
            writer,
            idle,
            cap,
            began: Instant::now(),
            window: Window::new(Moment::START),
            pieces: VecDeque::new(),
            first: 0,
            blocks: VecDeque::new(),
            head: [0; HEAD_BYTES],
            read: 0,
        }
    }

    fn now(&self) -> Moment {
        Moment::from_micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Uses the stream until it fails or nobody has needed it for long.
    async fn run(mut self, first: Job, jobs: &mut mpsc::Receiver<Job>) {
        self.take(first);
        let failure = loop {
            if let Err(failure) = self.ask().await {
                break failure;
            }
            let wait = match (self.blocks.is_empty(), self.pieces.is_empty()) {
                (true, true) => UNUSED,
                (true, false) => LOOK,
                (false, _) => self.idle,
            };
            let room = self.pieces.len() < limits::PIECES_IN_FLIGHT;
            let listening = !self.blocks.is_empty();
            let capped = self.cap.wait().filter(|_| self.pieces.iter().any(|piece| piece.left() > 0));
            let buffer = target(&mut self.head, self.read, &self.blocks, &mut self.pieces, self.first);
            tokio::select! {
                count = self.reader.read(buffer), if listening => match count {
                    Ok(count) if count > 0 => if let Err(failure) = self.on_read(count) {
                        break failure;
                    },
                    _ => break PieceFailure::Disconnected,
                },
                job = jobs.recv(), if room => match job {
                    Some(job) => self.take(job),
                    None => break PieceFailure::Disconnected,
                },
                () = tokio::time::sleep(capped.unwrap_or_default()), if capped.is_some() => {}
                () = tokio::time::sleep(wait) => match (listening, self.pieces.is_empty()) {
                    (true, _) => break PieceFailure::TimedOut(self.idle.as_secs()),
                    (false, true) => return,
                    (false, false) => {}
                },
            }
        };
        for piece in self.pieces {
            // Whoever gave up waiting needs no answer.
            let _ = piece.job.reply.send(Err(failure.clone()));
        }
    }

    fn take(&mut self, job: Job) {
        self.window.heed(self.now(), job.advice);
        let bytes = vec![0; job.length as usize];
        self.pieces.push_back(Arriving { job, bytes, asked: 0, arrived: 0, refused: None });
    }

    /// Asks for as many blocks as the window has room for, in one go.
    async fn ask(&mut self) -> Result<(), PieceFailure> {
        self.finish();
        let now = self.now();
        let mut requests = Vec::new();
        for (number, piece) in self.pieces.iter_mut().enumerate() {
            while let Some(most) = self.cap.most() {
                let next = self.window.next_block(now, piece.left().min(most));
                let Some(length) = next else { break };
                self.cap.take(length);
                let (root, index, from) = (piece.job.root, piece.job.index, piece.asked);
                requests.extend(Wanted { root, index, from, length }.encode());
                let ahead = self.window.on_asked(length);
                self.blocks.push_back(Asked {
                    piece: self.first + number as u64,
                    from,
                    length,
                    at: now,
                    ahead,
                });
                piece.asked += length;
                if self.blocks.len() >= limits::PIECE_REQUESTS_PER_STREAM {
                    break;
                }
            }
            if piece.left() > 0 {
                break;
            }
        }
        if requests.is_empty() {
            return Ok(());
        }
        let sent = async {
            frame::write_all(&mut self.writer, &requests, self.idle).await?;
            frame::flush(&mut self.writer, self.idle).await
        };
        sent.await.map_err(|_| PieceFailure::Disconnected)
    }

    /// `count` more bytes of a head or a block are here.
    fn on_read(&mut self, count: usize) -> Result<(), PieceFailure> {
        let before = self.read;
        self.read += count;
        let Some(block) = self.blocks.front().copied() else { return Ok(()) };
        if self.head[0] != SERVED {
            self.read = 0;
            self.blocks.pop_front();
            self.window.on_refused(block.length);
            let reason = reason_of(self.head[0]);
            let failure = reason.map_or(PieceFailure::RefusedOtherwise(self.head[0]), PieceFailure::Refused);
            if let Some(piece) = self.piece(block.piece) {
                piece.refused = Some(failure);
            }
            return Ok(());
        }
        if before < HEAD_BYTES && self.read >= HEAD_BYTES {
            self.on_head(block)?;
        }
        if self.read < HEAD_BYTES + block.length as usize {
            return Ok(());
        }
        self.read = 0;
        self.blocks.pop_front();
        if let Some(piece) = self.piece(block.piece) {
            piece.arrived += block.length;
        }
        Ok(())
    }

    fn on_head(&mut self, block: Asked) -> Result<(), PieceFailure> {
        let length = u32::from_le_bytes(std::array::from_fn(|at| self.head[1 + at]));
        let sent_micros = u64::from_le_bytes(std::array::from_fn(|at| self.head[5 + at]));
        if length != block.length {
            return Err(PieceFailure::Malformed("another length than asked for"));
        }
        let sample = Sample { asked: block.at, sent_micros, length, ahead: block.ahead };
        self.window.on_block(self.now(), sample);
        Ok(())
    }

    fn piece(&mut self, number: u64) -> Option<&mut Arriving> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.pieces.get_mut(at)
    }

    /// Hands out the pieces that are over, in their order.
    fn finish(&mut self) {
        let pace = self.window.pace();
        while let Some(piece) = self.pieces.front() {
            let waiting = self.blocks.iter().take_while(|block| block.piece == self.first).count();
            if !piece.is_over(waiting) {
                return;
            }
            self.first += 1;
            let Some(Arriving { job, bytes, arrived, refused, .. }) = self.pieces.pop_front() else { return };
            let answer = match refused {
                Some(failure) => Err(failure),
                None if arrived == job.length => Ok((PeerBytes(bytes), pace)),
                None => Err(PieceFailure::Disconnected),
            };
            tracing::debug!(
                root = %job.root,
                piece = job.index.0,
                window = pace.window_bytes,
                rate = pace.bytes_per_second,
                came = answer.is_ok(),
                "piece over the WAN"
            );
            // Whoever gave up waiting needs no answer.
            let _ = job.reply.send(answer);
        }
    }
}

/// Where the next bytes go: into the head, or into their place in the piece, which stays until all its blocks are here.
fn target<'a>(
    head: &'a mut [u8; HEAD_BYTES],
    read: usize,
    blocks: &VecDeque<Asked>,
    pieces: &'a mut VecDeque<Arriving>,
    first: u64,
) -> &'a mut [u8] {
    match blocks.front() {
        // A refusal is one byte, and nothing follows.
        Some(_) if read == 0 => &mut head[..1],
        Some(block) if read >= HEAD_BYTES => {
            let (at, end) = (block.from as usize + read - HEAD_BYTES, (block.from + block.length) as usize);
            let number = usize::try_from(block.piece.saturating_sub(first)).unwrap_or(usize::MAX);
            pieces.get_mut(number).and_then(|piece| piece.bytes.get_mut(at..end)).unwrap_or_default()
        }
        Some(_) => &mut head[read..],
        None => &mut [],
    }
}
