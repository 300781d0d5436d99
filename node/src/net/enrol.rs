//! The registrar's enrolment address, the only one that answers strangers, and the device's side of joining.
//!
//! On the wire, inside TLS: the client sends the name of the protocol and its request, each as a frame; the registrar answers
//! with one frame and closes. There is no multiplexer and nothing else to ask for.

use super::address::{self, Endpoint};
use super::config::{Patience, StartError};
use super::event::{Event, system_clock};
use super::frame::{self, FrameError};
use super::identity;
use super::tls::VALID_FROM;
use super::traffic::{Counted, Ledger};
use crate::listening::{Place, Places, Refusals};
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use libp2p::core::upgrade::{InboundConnectionUpgrade as _, OutboundConnectionUpgrade as _};
use libp2p::{Multiaddr, tls};
use protocol::codec;
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::membership::{ActivationKey, EnrolGrant, EnrolRefusal, EnrolRequest};
use protocol::signature::SigningKey;
use protocol::time::WallTime;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use tokio_util::task::TaskTracker;

const NAME: &[u8] = b"/patchmesh/enrol/1";

/// The answer carries the root metadata.
const GRANT_BYTES: usize = limits::METADATA_BYTES + (64 << 10);

/// Time for one address of the registrar to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Pauses of a device that was turned away.
const TURNED_AWAY: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Why a device could not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The activation key names no address that can be dialled.
    #[error(
        "the activation key names no usable address of a registrar; set registrar.external at headquarters, then run `patchmesh token create` there"
    )]
    NoAddress,
    /// Nobody answers at any address.
    #[error("no registrar answers at {tried}; check the network, the firewall, and that the registrar runs")]
    Unreachable {
        /// The addresses that were tried.
        tried: String,
        /// What the last one failed with.
        #[source]
        cause: std::io::Error,
    },
    /// Something else answers there.
    #[error(
        "what answers at {address} is not the registrar that the activation key names; the key may be old, or somebody sits in between"
    )]
    OtherRegistrar {
        /// The address.
        address: String,
    },
    /// It closes the connection at once, again and again.
    #[error(
        "what answers at {address} closes the connection before it has answered: many devices may be joining just now, \
         so try again in a minute; if that does not help, see whether it is the enrolment port and whether both run the same \
         version"
    )]
    TurnedAway {
        /// The address.
        address: String,
    },
    /// No encryption at this time.
    #[error(
        "the clock of this device says {now}, when no certificate was valid yet: set it and switch time synchronisation on, \
         then join again"
    )]
    Clock {
        /// What it says.
        now: WallTime,
        /// What TLS said.
        #[source]
        cause: tls::UpgradeError,
    },
    /// No encrypted connection.
    #[error("what answers at {address} does not speak TLS as a registrar does; is it the enrolment port?")]
    Tls {
        /// The address.
        address: String,
        /// What TLS said.
        #[source]
        cause: tls::UpgradeError,
    },
    /// The registrar refused.
    #[error("the registrar refused: {0}")]
    Refused(EnrolRefusal),
    /// The registrar accepted the connection and then said nothing.
    #[error(
        "the registrar did not answer within {0} seconds; whether it enrolled this device is not known, joining again is safe"
    )]
    TimedOut(u64),
    /// The answer is none.
    #[error("the registrar's answer is not one; check that both run the same version of Patchmesh")]
    Malformed,
    /// The request does not fit.
    #[error("the request is too large for a registrar: shorten the host name")]
    RequestTooLarge,
    /// Our own TLS is at fault.
    #[error("TLS could not be configured: {0}")]
    Configuration(String),
}

type Answer = Result<EnrolGrant, EnrolRefusal>;

/// Joins a fleet: finds the registrar of `key`, proves that it is that one, and asks for membership.
///
/// # Errors
/// [`EnrolError`] says what to do about it.
pub async fn enrol(
    identity: &SigningKey,
    key: &ActivationKey,
    request: &EnrolRequest,
) -> Result<EnrolGrant, EnrolError> {
    enrol_with(identity, key, request, Patience::default()).await
}

/// Like [`enrol`], with waiting times other than the default ones.
///
/// # Errors
/// As [`enrol`].
pub async fn enrol_with(
    identity: &SigningKey,
    key: &ActivationKey,
    request: &EnrolRequest,
    patience: Patience,
) -> Result<EnrolGrant, EnrolError> {
    let tls = tls::Config::new(&identity::keypair(identity))
        .map_err(|error| EnrolError::Configuration(error.to_string()))?;
    let request = codec::encode(request);
    if request.len() > limits::ENROL_MESSAGE_BYTES {
        return Err(EnrolError::RequestTooLarge);
    }
    let mut pauses = TURNED_AWAY.into_iter();
    loop {
        let (stream, address) = Box::pin(connect(&key.addresses)).await?;
        let exchange = async {
            let (peer, mut stream) = tls
                .clone()
                .upgrade_outbound(stream.compat(), "tls")
                .await
                .map_err(|cause| of_tls(address.clone(), cause, system_clock()()))?;
            // Before the secret leaves: only the registrar that the key names may see it.
            if identity::device(&peer) != Some(key.registrar) {
                return Err(EnrolError::OtherRegistrar { address });
            }
            ask(&mut stream, address, &request, patience.answer).await
        };
        let answered = timeout(patience.answer, exchange).await;
        match (answered, pauses.next()) {
            (Ok(Err(EnrolError::TurnedAway { .. })), Some(pause)) => tokio::time::sleep(pause).await,
            (Ok(answer), _) => return answer,
            (Err(_), _) => return Err(EnrolError::TimedOut(patience.answer.as_secs())),
        }
    }
}

/// A registrar that has as many connections as it takes closes one before it has answered.
fn is_closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn of_tls(address: String, cause: tls::UpgradeError, now: WallTime) -> EnrolError {
    match &cause {
        _ if now < VALID_FROM => EnrolError::Clock { now, cause },
        tls::UpgradeError::ClientUpgrade(error) if is_closed(error) => EnrolError::TurnedAway { address },
        _ => EnrolError::Tls { address, cause },
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    address: String,
    request: &[u8],
    idle: Duration,
) -> Result<EnrolGrant, EnrolError> {
    let failed = |error: FrameError| match error {
        FrameError::TimedOut(idle) => EnrolError::TimedOut(idle.as_secs()),
        FrameError::Broken(error) if is_closed(&error) => EnrolError::TurnedAway { address: address.clone() },
        FrameError::TooLarge { .. } | FrameError::Broken(_) => EnrolError::Malformed,
    };
    frame::write(stream, NAME, NAME.len(), idle).await.map_err(failed)?;
    frame::write(stream, request, limits::ENROL_MESSAGE_BYTES, idle).await.map_err(failed)?;
    let answer = frame::read(stream, GRANT_BYTES, idle).await.map_err(failed)?;
    let _ = stream.close().await;
    let answer: Answer = codec::decode::<_, GRANT_BYTES>(&answer).map_err(|_| EnrolError::Malformed)?;
    answer.map_err(EnrolError::Refused)
}

async fn connect(addresses: &[String]) -> Result<(TcpStream, String), EnrolError> {
    let mut last = None;
    for text in addresses.iter().take(limits::ADDRESSES_PER_DEVICE) {
        let Some(endpoint) = text.parse().ok().and_then(|address: Multiaddr| address::endpoint(&address))
        else {
            continue;
        };
        let connecting = async {
            match endpoint {
                Endpoint::Socket(socket) => TcpStream::connect(socket).await,
                Endpoint::Name(name, port) => TcpStream::connect((name, port)).await,
            }
        };
        match timeout(CONNECT, connecting).await {
            Ok(Ok(stream)) => return Ok((stream, text.clone())),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(std::io::ErrorKind::TimedOut.into()),
        }
    }
    match last {
        Some(cause) => Err(EnrolError::Unreachable { tried: addresses.join(", "), cause }),
        None => Err(EnrolError::NoAddress),
    }
}

/// The registrar's side.
pub(super) struct Registrar {
    listener: TcpListener,
    tls: tls::Config,
    ledger: Arc<Ledger>,
    events: mpsc::Sender<Event>,
    patience: Patience,
}

impl Registrar {
    pub(super) async fn bind(
        address: &Multiaddr,
        identity: &SigningKey,
        ledger: Arc<Ledger>,
        events: mpsc::Sender<Event>,
        patience: Patience,
    ) -> Result<Registrar, StartError> {
        let Some(Endpoint::Socket(socket)) = address::endpoint(address) else {
            return Err(StartError::BadAddress(address.clone()));
        };
        let listener =
            TcpListener::bind(socket).await.map_err(|cause| StartError::of_bind(address, cause))?;
        let tls = tls::Config::new(&identity::keypair(identity))
            .map_err(|error| StartError::Configuration(error.to_string()))?;
        Ok(Registrar { listener, tls, ledger, events, patience })
    }

    pub(super) fn address(&self) -> Option<Multiaddr> {
        self.listener.local_addr().ok().map(address::of_socket)
    }

    /// Accepts strangers for as long as it is polled; each gets a task of its own.
    pub(super) async fn run(self, tasks: TaskTracker) {
        let places = Places::new(limits::ENROL_CONNECTIONS);
        let mut refusals = Refusals::of("enrolment");
        loop {
            match self.listener.accept().await {
                Ok((stream, remote)) => {
                    let Some(place) = places.take(remote.ip()) else {
                        tracing::debug!("too many enrolments at once");
                        continue;
                    };
                    let gone = place.gone();
                    let serving = self.serve(stream, remote, place);
                    tasks.spawn(async move {
                        tokio::select! {
                            () = gone => tracing::debug!("enrolment connection gave way to another"),
                            served = serving => if let Err(error) = served {
                                tracing::debug!(%error, "enrolment connection ended early");
                            }
                        }
                    });
                }
                Err(error) => refusals.wait(&error).await,
            }
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        place: Place,
    ) -> impl Future<Output = Result<(), FrameError>> + Send + 'static {
        let (tls, events, patience) = (self.tls.clone(), self.events.clone(), self.patience);
        let stream = Counted::new(stream.compat(), &address::of_socket(remote), self.ledger.clone());
        Box::pin(async move {
            let hearing = async {
                let (peer, mut stream) = tls
                    .upgrade_inbound(stream, "tls")
                    .await
                    .map_err(|error| FrameError::Broken(std::io::Error::other(error)))?;
                let name = frame::read(&mut stream, NAME.len(), patience.stranger).await?;
                let request =
                    frame::read(&mut stream, limits::ENROL_MESSAGE_BYTES, patience.stranger).await?;
                Ok((peer, name, request, stream))
            };
            let heard = timeout(patience.stranger, hearing).await;
            let (peer, name, request, mut stream) =
                heard.unwrap_or(Err(FrameError::TimedOut(patience.stranger)))?;
            place.settle();
            let request = codec::decode::<EnrolRequest, { limits::ENROL_MESSAGE_BYTES }>(&request);
            let (Some(from), Ok(request)) = (identity::device(&peer).filter(|_| name == NAME), request)
            else {
                return Err(FrameError::Broken(std::io::ErrorKind::InvalidData.into()));
            };
            let answer = decide(&events, from, request, patience.answer).await;
            frame::write(&mut stream, &codec::encode(&answer), GRANT_BYTES, patience.idle).await?;
            timeout(patience.stranger, stream.close())
                .await
                .map_err(|_| FrameError::TimedOut(patience.stranger))??;
            Ok(())
        })
    }
}

async fn decide(
    events: &mpsc::Sender<Event>,
    from: DeviceId,
    request: EnrolRequest,
    answer: Duration,
) -> Answer {
    let (respond, decided) = oneshot::channel();
    let deciding = async {
        events.send(Event::Enrol { from, request, respond }).await.ok()?;
        decided.await.ok()
    };
    // Somewhat less than the client waits, so that it hears the refusal.
    timeout(answer.mul_f32(0.8), deciding).await.ok().flatten().unwrap_or(Err(EnrolRefusal::Busy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_never_set_is_named() {
        let failed = |seconds| {
            let cause = tls::UpgradeError::ClientUpgrade(std::io::ErrorKind::InvalidData.into());
            of_tls("/ip4/192.0.2.1/tcp/7701".to_owned(), cause, WallTime::from_unix_seconds(seconds))
        };
        assert!(failed(5).to_string().contains("clock of this device says 1970"), "{}", failed(5));
        assert!(matches!(failed(1_800_000_000), EnrolError::Tls { .. }));
    }
}
