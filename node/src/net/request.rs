//! Requests and answers between members: one stream each, a length-prefixed message each way, the payload opaque here.
//!
//! On the wire: the request as a frame; then one status byte (0, or why there is no answer) and the answer as a frame.
//! The version of a protocol stands in its name.

use super::config::Patience;
use super::event::Event;
use super::frame::{self, FrameError};
use super::streams::{Inbound, OpenError, Opener};
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use libp2p::core::upgrade::NegotiationError;
use libp2p::{Stream, StreamProtocol};
use protocol::identifier::DeviceId;
use protocol::limits;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// What one member can ask of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Who are you, what do you have.
    Hello,
    /// The tracker and the leases of a site.
    Site,
    /// Signed metadata, as a bundle.
    Metadata,
    /// May I have pieces of this artifact.
    Grant,
    /// Reports on their way to an aggregator.
    Reports,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 5] =
        [Protocol::Hello, Protocol::Site, Protocol::Metadata, Protocol::Grant, Protocol::Reports];

    /// The name on the wire, which ends in the version.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Hello => "/patchmesh/hello/1",
            Protocol::Site => "/patchmesh/site/1",
            Protocol::Metadata => "/patchmesh/metadata/1",
            Protocol::Grant => "/patchmesh/grant/1",
            Protocol::Reports => "/patchmesh/reports/1",
        }
    }

    /// Largest request in bytes.
    pub const fn request_limit(self) -> usize {
        limits::MESSAGE_BYTES
    }

    /// Largest answer in bytes.
    pub const fn response_limit(self) -> usize {
        match self {
            Protocol::Metadata => limits::BUNDLE_BYTES,
            _ => limits::MESSAGE_BYTES,
        }
    }

    pub(super) const fn stream(self) -> StreamProtocol {
        StreamProtocol::new(self.name())
    }

    pub(super) fn of(name: &StreamProtocol) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.stream() == *name)
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFailure {
    /// No connection to that peer; dial first.
    #[error("not connected to {}", .0.short())]
    NotConnected(DeviceId),
    /// The peer does not know this protocol in this version; one of the two nodes needs an update.
    #[error("{} does not speak {protocol}; update the older of the two nodes", .peer.short())]
    Unsupported {
        /// The peer.
        peer: DeviceId,
        /// The protocol.
        protocol: Protocol,
    },
    /// Our request is larger than the protocol allows; nothing was sent.
    #[error("request of {found} bytes is larger than the limit of {limit}")]
    RequestTooLarge {
        /// Bytes of the request.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The peer's answer is larger than the protocol allows; it was not read.
    #[error("{} announced an answer of {found} bytes, the limit is {limit}", .peer.short())]
    AnswerTooLarge {
        /// The peer.
        peer: DeviceId,
        /// Bytes announced.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The peer has no answer, and says why.
    #[error("{} gave no answer: {reason}", .peer.short())]
    Declined {
        /// The peer.
        peer: DeviceId,
        /// Its reason.
        reason: Decline,
    },
    /// The answer did not come in time; whether the peer acted on the request is not known.
    #[error("{} did not answer in time; whether it acted on the request is not known", .0.short())]
    TimedOut(DeviceId),
    /// The connection ended; whether the peer acted on the request is not known.
    #[error("the connection to {} ended; whether it acted on the request is not known", .0.short())]
    Disconnected(DeviceId),
}

/// Why a peer has no answer, as its status byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Decline {
    /// The request was larger than it reads.
    #[error("the request is too large")]
    TooLarge,
    /// It could not or would not make an answer.
    #[error("it has none for this request")]
    NoAnswer,
    /// It took too long.
    #[error("it ran out of time; try again later")]
    TooSlow,
    /// A code of a later version.
    #[error("code {0}")]
    Other(u8),
}

impl Decline {
    const fn code(self) -> u8 {
        match self {
            Decline::TooLarge => 1,
            Decline::NoAnswer => 2,
            Decline::TooSlow => 3,
            Decline::Other(code) => code,
        }
    }

    const fn of(code: u8) -> Option<Decline> {
        match code {
            0 => None,
            1 => Some(Decline::TooLarge),
            2 => Some(Decline::NoAnswer),
            3 => Some(Decline::TooSlow),
            other => Some(Decline::Other(other)),
        }
    }
}

/// Whether an error says that the other end does not know the protocol.
pub(super) fn is_unsupported(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<NegotiationError>());
    matches!(inner, Some(NegotiationError::Failed))
}

/// Asks `peer` and waits for the answer.
pub(super) async fn ask(
    opener: &Opener,
    peer: DeviceId,
    protocol: Protocol,
    bytes: Vec<u8>,
    patience: Patience,
) -> Result<Vec<u8>, RequestFailure> {
    let limit = protocol.request_limit();
    if bytes.len() > limit {
        return Err(RequestFailure::RequestTooLarge { found: bytes.len(), limit });
    }
    let failed = |error: OpenError| match error {
        OpenError::NotConnected => RequestFailure::NotConnected(peer),
        OpenError::Unsupported => RequestFailure::Unsupported { peer, protocol },
        OpenError::TimedOut => RequestFailure::TimedOut(peer),
        OpenError::Broken(_) => RequestFailure::Disconnected(peer),
    };
    let turn =
        timeout(patience.answer, opener.turn(peer)).await.map_err(|_| RequestFailure::TimedOut(peer))?;
    let _turn = turn.map_err(failed)?;
    let mut stream = opener.open(peer, protocol.stream()).await.map_err(failed)?;
    converse(&mut stream, protocol, &bytes, patience).await.map_err(|error| match error {
        Failed::Declined(reason) => RequestFailure::Declined { peer, reason },
        Failed::Frame(FrameError::TooLarge { announced, limit }) => {
            RequestFailure::AnswerTooLarge { peer, found: announced, limit }
        }
        Failed::Frame(FrameError::TimedOut(_)) => RequestFailure::TimedOut(peer),
        Failed::Frame(FrameError::Broken(error)) if is_unsupported(&error) => {
            RequestFailure::Unsupported { peer, protocol }
        }
        Failed::Frame(FrameError::Broken(_)) => RequestFailure::Disconnected(peer),
    })
}

enum Failed {
    Declined(Decline),
    Frame(FrameError),
}

impl From<FrameError> for Failed {
    fn from(error: FrameError) -> Failed {
        Failed::Frame(error)
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    protocol: Protocol,
    bytes: &[u8],
    patience: Patience,
) -> Result<Vec<u8>, Failed> {
    // A peer that declines early stops reading; what it says then matters more than our failure to write on.
    let written = frame::write(stream, bytes, protocol.request_limit(), patience.idle).await;
    let mut status = [0];
    match (written, frame::read_exact(stream, &mut status, patience.answer).await) {
        (_, Ok(())) => {}
        (Err(error), Err(_)) | (Ok(()), Err(error)) => return Err(error.into()),
    }
    if let Some(reason) = Decline::of(status[0]) {
        return Err(Failed::Declined(reason));
    }
    let answer = frame::read(stream, protocol.response_limit(), patience.idle).await?;
    let _ = timeout(patience.idle, stream.close()).await;
    Ok(answer)
}

/// Reads one request, hands it to the owner, and writes what the owner answers.
pub(super) async fn serve(
    inbound: Inbound,
    protocol: Protocol,
    events: mpsc::Sender<Event>,
    patience: Patience,
) -> Result<(), FrameError> {
    let Inbound { peer, mut stream, permit: _permit, .. } = inbound;
    let bytes = match frame::read(&mut stream, protocol.request_limit(), patience.idle).await {
        Ok(bytes) => bytes,
        Err(error @ FrameError::TooLarge { .. }) => {
            decline(&mut stream, Decline::TooLarge, patience.idle).await?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let (respond, answer) = oneshot::channel();
    let answered = async {
        events.send(Event::Request { from: peer, protocol, bytes, respond }).await.ok()?;
        answer.await.ok()
    };
    // A little less than the asker's patience, so that it hears the reason.
    match timeout(patience.answer.mul_f32(0.9), answered).await {
        Ok(Some(bytes)) if bytes.len() <= protocol.response_limit() => {
            frame::write_all(&mut stream, &[0], patience.idle).await?;
            frame::write(&mut stream, &bytes, protocol.response_limit(), patience.idle).await?;
            close(&mut stream, patience.idle).await
        }
        Ok(Some(bytes)) => {
            tracing::error!(%protocol, bytes = bytes.len(), "our answer is larger than the protocol allows");
            decline(&mut stream, Decline::NoAnswer, patience.idle).await
        }
        Ok(None) => decline(&mut stream, Decline::NoAnswer, patience.idle).await,
        Err(_) => decline(&mut stream, Decline::TooSlow, patience.idle).await,
    }
}

async fn decline(stream: &mut Stream, reason: Decline, idle: Duration) -> Result<(), FrameError> {
    frame::write_all(stream, &[reason.code()], idle).await?;
    close(stream, idle).await
}

async fn close(stream: &mut Stream, idle: Duration) -> Result<(), FrameError> {
    timeout(idle, stream.close()).await.map_err(|_| FrameError::TimedOut(idle))??;
    Ok(())
}
