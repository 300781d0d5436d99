//! Fetching pieces: one long-lived stream for each peer, with requests sent ahead of the answers.

use super::buffers::Buffers;
use super::queue::Queues;
use super::{Block, PROTOCOL, PeerBytes, PieceFailure, SERVED, Wanted, reason_of};
use crate::net::config::Patience;
use crate::net::frame::{self, FrameError};
use crate::net::streams::Opener;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::reason::Reason;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A fetching task with nothing to do ends after this time, and its stream with it.
const UNUSED: Duration = Duration::from_secs(60);

struct Job {
    wanted: Wanted,
    reply: oneshot::Sender<Result<Block, PieceFailure>>,
}

/// All fetching tasks of one node.
pub(in crate::net) struct Fetchers {
    opener: Opener,
    patience: Patience,
    queues: Queues<Job>,
    buffers: Arc<Buffers>,
}

impl Fetchers {
    pub(in crate::net) fn new(
        opener: Opener,
        patience: Patience,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Fetchers> {
        let queues = Queues::new(tasks, stop, limits::PIECES_IN_FLIGHT);
        Arc::new(Fetchers { opener, patience, queues, buffers: Arc::default() })
    }

    /// The buffers that pieces come in.
    pub(in crate::net) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Fetches a part of a piece; dropping the future takes the request back.
    pub(in crate::net) async fn fetch(&self, peer: DeviceId, wanted: Wanted) -> Result<Block, PieceFailure> {
        if !wanted.is_sensible() {
            return Err(PieceFailure::Refused(Reason::NoPieces));
        }
        let (reply, answer) = oneshot::channel();
        let run = |jobs| run(self.opener.clone(), peer, jobs, self.patience.idle, Arc::clone(&self.buffers));
        match self.queues.submit(peer, Job { wanted, reply }, run).await {
            Ok(()) => answer.await.unwrap_or(Err(PieceFailure::Disconnected)),
            Err(_) => Err(PieceFailure::Disconnected),
        }
    }
}

async fn run(
    opener: Opener,
    peer: DeviceId,
    mut jobs: mpsc::Receiver<Job>,
    idle: Duration,
    buffers: Arc<Buffers>,
) {
    while let Ok(Some(job)) = tokio::time::timeout(UNUSED, jobs.recv()).await {
        if job.reply.is_closed() {
            continue;
        }
        match opener.open(peer, PROTOCOL).await {
            Ok(stream) => session(stream, job, &mut jobs, idle, &buffers).await,
            Err(error) => {
                tracing::debug!(peer = peer.short(), %error, "no stream for pieces");
                let _ = job.reply.send(Err(PieceFailure::Disconnected));
            }
        }
    }
    buffers.clear();
}

/// Uses one stream until it fails, nobody wants its answers, or it has been unused for long.
async fn session<S>(stream: S, first: Job, jobs: &mut mpsc::Receiver<Job>, idle: Duration, buffers: &Buffers)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = stream.split();
    let (sent, mut answers) = mpsc::channel(limits::PIECE_REQUESTS_PER_STREAM);
    let ask = async move {
        let mut next = Some(first);
        loop {
            let job = match next.take() {
                Some(job) => job,
                None => match tokio::time::timeout(UNUSED, jobs.recv()).await {
                    Ok(Some(job)) => job,
                    _ => return,
                },
            };
            if job.reply.is_closed() {
                continue;
            }
            let Ok(place) = sent.reserve().await else { return };
            let request = job.wanted.encode();
            // Queued first: should writing fail, the reader reports the job with the others.
            place.send(job);
            if frame::write_all(&mut writer, &request, idle).await.is_err()
                || frame::flush(&mut writer, idle).await.is_err()
            {
                return;
            }
        }
    };
    let listen = async {
        let mut failure = PieceFailure::Disconnected;
        while let Some(job) = answers.recv().await {
            let Job { wanted, mut reply } = job;
            let mut answering = pin!(answer(&mut reader, wanted, idle, buffers));
            let answer = tokio::select! {
                biased;
                answer = &mut answering => answer,
                // Taken back: what is on its way is cut off when nothing else is waiting behind it on this stream.
                () = reply.closed() => match answers.is_empty() {
                    true => break,
                    false => answering.await,
                },
            };
            let broken = answer.as_ref().err().filter(|failure| failure.ends_stream()).cloned();
            let _ = reply.send(answer);
            if let Some(error) = broken {
                failure = error;
                break;
            }
        }
        failure
    };
    let (mut ask, mut listen) = (pin!(ask), Box::pin(listen));
    let failure = tokio::select! {
        failure = &mut listen => failure,
        () = &mut ask => (&mut listen).await,
    };
    drop(listen);
    answers.close();
    while let Ok(job) = answers.try_recv() {
        let _ = job.reply.send(Err(failure.clone()));
    }
}

async fn answer<S: AsyncRead + Unpin>(
    stream: &mut S,
    wanted: Wanted,
    idle: Duration,
    buffers: &Buffers,
) -> Result<Block, PieceFailure> {
    let mut status = [0];
    read(stream, &mut status, idle).await?;
    if status[0] != SERVED {
        let reason = reason_of(status[0]);
        return Err(reason.map_or(PieceFailure::RefusedOtherwise(status[0]), PieceFailure::Refused));
    }
    let (mut length, mut micros) = ([0; 4], [0; 8]);
    read(stream, &mut length, idle).await?;
    read(stream, &mut micros, idle).await?;
    if u32::from_le_bytes(length) != wanted.length {
        return Err(PieceFailure::Malformed("another length than asked for"));
    }
    let mut bytes = buffers.take(wanted.length as usize);
    read(stream, &mut bytes, idle).await?;
    Ok(Block { bytes: PeerBytes(bytes), sent_micros: u64::from_le_bytes(micros) })
}

async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut [u8],
    idle: Duration,
) -> Result<(), PieceFailure> {
    frame::read_exact(stream, buffer, idle).await.map_err(|error| match error {
        FrameError::TimedOut(idle) => PieceFailure::TimedOut(idle.as_secs()),
        FrameError::Broken(_) | FrameError::TooLarge { .. } => PieceFailure::Disconnected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;
    use proptest::prelude::*;
    use protocol::digest::Blake3Root;
    use protocol::piece::PieceIndex;

    fn hear(bytes: &[u8]) -> Result<Block, PieceFailure> {
        let wanted =
            Wanted { root: Blake3Root::from_bytes([1; 32]), index: PieceIndex(0), from: 0, length: 3 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
        runtime.block_on(answer(&mut Cursor::new(bytes), wanted, UNUSED, &Buffers::default()))
    }

    #[test]
    fn answers_are_taken_apart() {
        let good = [&[0, 3, 0, 0, 0][..], &9u64.to_le_bytes(), b"abc"].concat();
        assert_eq!(hear(&good), Ok(Block { bytes: PeerBytes(b"abc".to_vec()), sent_micros: 9 }));
        assert_eq!(hear(&good[..good.len() - 1]), Err(PieceFailure::Disconnected));
        assert_eq!(hear(&[1]), Err(PieceFailure::Refused(Reason::ALL[0])));
        assert_eq!(hear(&[255]), Err(PieceFailure::RefusedOtherwise(255)));
        let longer = [&[0, 4, 0, 0, 0][..], &[0; 12]].concat();
        assert!(matches!(hear(&longer), Err(PieceFailure::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_block_or_a_failure(bytes: Vec<u8>) {
            if let Ok(block) = hear(&bytes) {
                prop_assert_eq!(block.bytes.0.len(), 3);
            }
        }
    }
}
