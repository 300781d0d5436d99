//! From a TCP connection to a member's multiplexed one: TCP, TLS, the membership check, yamux, in this order and no other.
//!
//! Neither TLS nor yamux is negotiated by name: there is one choice, so a negotiation could only be attacked.

use super::address;
use super::gather::Gather;
use super::identity;
use super::membership::{self, Refused, Trust};
use super::tls::{self, Tls};
use super::traffic::{Counted, Ledger};
use super::way::{Control, Ways};
use crate::listening::{Place, Places};
use futures::io::BufReader;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{Boxed, Transport as _};
use libp2p::core::upgrade::{InboundConnectionUpgrade as _, OutboundConnectionUpgrade as _};
use libp2p::{PeerId, dns, tcp, yamux};
use protocol::limits;
use protocol::membership::Rejection;
use protocol::signature::SigningKey;
use protocol::text;
use protocol::time::WallTime;
use std::net::Ipv6Addr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// Streams of one connection: both ends' requests and pieces, and the few that libp2p's own protocols keep.
const STREAMS_PER_CONNECTION: usize = 2 * limits::STREAMS_PER_PEER + 16;

/// Bytes that wait in the kernel before they are sent (`TCP_NOTSENT_LOWAT`): on a thin link a small answer would wait
/// behind all of them.
const UNSENT_BYTES: u32 = 128 << 10;

/// Bytes that are taken from the kernel at once: the TLS library asks for 4 KiB at a time.
const RECEIVED_BYTES: usize = 64 << 10;

/// Why a connection was not set up; the cause in `source()`, where the swarm's task looks for it.
#[derive(Debug, thiserror::Error)]
#[error("the connection was not set up")]
pub(super) struct Setup(#[source] pub(super) SetupError);

/// How long a firewall may keep silent before a dial counts as failed: the operating system would wait for minutes.
const CONNECT: Duration = Duration::from_secs(10);

/// What went wrong between TCP and yamux.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    /// The encrypted connection did not come about.
    #[error("TLS failed; the other end is no Patchmesh node, or something between us changes the bytes")]
    Tls(#[source] std::io::Error),
    /// The membership check ended the connection.
    #[error("no member's connection: {0}")]
    Refused(#[from] Refused),
    /// There are too many who have not proven membership, and most of them are from there.
    #[error("too many connections have not proven membership, most of them from the same network")]
    Crowded,
    /// The multiplexer did not start.
    #[error("yamux failed")]
    Yamux(#[source] std::io::Error),
}

/// What every connection's setup needs.
#[derive(Clone)]
pub(super) struct Secure {
    tls: Tls,
    trust: Arc<Trust>,
    ledger: Arc<Ledger>,
    ways: Ways,
    places: Places,
    patience: Duration,
}

impl Secure {
    pub(super) fn new(
        identity: &SigningKey,
        trust: Arc<Trust>,
        ledger: Arc<Ledger>,
        patience: Duration,
    ) -> Result<Secure, tls::Unusable> {
        let tls = Tls::new(&identity::keypair(identity))?;
        let places = Places::new(limits::PENDING_CONNECTIONS as usize);
        Ok(Secure { tls, trust, ledger, ways: Ways::new(), places, patience })
    }

    /// The whole transport: names are resolved where the system has a resolver configured.
    pub(super) fn transport(self) -> Boxed<(PeerId, StreamMuxerBox)> {
        let tcp = || {
            let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
            TransportTimeout::with_outgoing_timeout(tcp, CONNECT)
        };
        match dns::tokio::Transport::system(tcp()) {
            Ok(named) => named.and_then(move |stream, point| self.upgrade(stream, point)).boxed(),
            Err(error) => {
                tracing::warn!(%error, "no resolver configured; only numeric addresses can be dialled");
                tcp().and_then(move |stream, point| self.upgrade(stream, point)).boxed()
            }
        }
    }

    async fn upgrade(
        self,
        stream: tcp::tokio::TcpStream,
        point: ConnectedPoint,
    ) -> Result<(PeerId, StreamMuxerBox), Setup> {
        let place = self.place_for(&point).map_err(Setup)?;
        // Where the kernel does not take it, large answers delay small ones; nothing else changes.
        if let Err(error) = socket2::SockRef::from(&stream.0).set_tcp_notsent_lowat(UNSENT_BYTES) {
            tracing::debug!(%error, "the kernel does not bound unsent bytes");
        }
        let ends = stream.0.local_addr().and_then(|local| Ok((local, stream.0.peer_addr()?))).ok();
        let watch = ends.and_then(|(local, remote)| self.ways.watch(local, remote));
        let stream = Counted::new(stream, point.get_remote_address(), self.ledger.clone())
            .switching(watch, |stream, control| suit(&socket2::SockRef::from(&stream.0), control));
        Box::pin(self.authenticate(stream, point, place)).await.map_err(Setup)
    }

    /// Whoever comes in needs a place until it has proven membership; whom we dial, none.
    fn place_for(&self, point: &ConnectedPoint) -> Result<Option<Place>, SetupError> {
        let ConnectedPoint::Listener { send_back_addr, .. } = point else { return Ok(None) };
        let from = address::ip(send_back_addr).unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        self.places.take(from).map(Some).ok_or(SetupError::Crowded)
    }

    async fn authenticate<S>(
        self,
        stream: Counted<S>,
        point: ConnectedPoint,
        place: Option<Place>,
    ) -> Result<(PeerId, StreamMuxerBox), SetupError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let meter = stream.meter();
        let silent = || Refused::Membership { rejection: Rejection::Silent, by_them: false };
        let stream = BufReader::with_capacity(RECEIVED_BYTES, stream);
        let encrypted = async {
            match &point {
                ConnectedPoint::Dialer { .. } => self.tls.dial(stream).await,
                ConnectedPoint::Listener { .. } => self.tls.accept(stream).await,
            }
        };
        // One deadline for encryption and certificate together: that is how long somebody may be a stranger.
        let deadline = Instant::now() + self.patience;
        let proven = async {
            let encrypted = timeout_at(deadline.into(), encrypted).await.map_err(|_| silent())?;
            let (peer, mut stream) = encrypted.map_err(|error| of_tls(error, self.trust.now()))?;
            let device = membership::check(&mut stream, &peer, &self.trust, deadline, self.patience).await?;
            Ok::<_, SetupError>((peer, device, stream))
        };
        let (peer, device, stream) = tokio::select! {
            () = given_away(place.as_ref()) => return Err(SetupError::Crowded),
            proven = proven => proven?,
        };
        drop(place);
        meter.assign(device);
        let stream = Gather::new(stream);
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS_PER_CONNECTION);
        let muxer = match point {
            ConnectedPoint::Dialer { .. } => config.upgrade_outbound(stream, "yamux").await,
            ConnectedPoint::Listener { .. } => config.upgrade_inbound(stream, "yamux").await,
        };
        Ok((peer, StreamMuxerBox::new(muxer.map_err(SetupError::Yamux)?)))
    }
}

/// Why TLS failed. Before the time from which its certificates are valid it always does, and the peer's is not to blame.
fn of_tls(error: std::io::Error, now: WallTime) -> SetupError {
    if now < tls::VALID_FROM {
        return Refused::Membership { rejection: Rejection::NotYetValid, by_them: false }.into();
    }
    SetupError::Tls(error)
}

/// Completes when somebody else has the place; never where none is needed.
async fn given_away(place: Option<&Place>) {
    match place {
        Some(place) => place.gone().await,
        None => std::future::pending().await,
    }
}

#[cfg(target_os = "linux")]
fn suit(socket: &socket2::Socket, control: Control) -> std::io::Result<()> {
    static SYSTEM: OnceLock<Vec<u8>> = OnceLock::new();
    // Ours is still what the system has when the first one is changed.
    let used = socket.tcp_congestion()?;
    let system = SYSTEM.get_or_init(|| used.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
    socket.set_tcp_congestion(match control {
        Control::System => system,
        Control::Bbr => b"bbr",
    })
}

#[cfg(not(target_os = "linux"))]
fn suit(_: &socket2::Socket, _: Control) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// The membership verdict in a chain of causes, if that is what ended the connection.
pub(super) fn rejection(error: &(dyn std::error::Error + 'static)) -> Option<(Rejection, bool)> {
    match setup_error(error)? {
        SetupError::Refused(Refused::Membership { rejection, by_them }) => Some((*rejection, *by_them)),
        _ => None,
    }
}

/// Whether a connection ended because there was no place for it.
pub(super) fn was_crowded_out(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(setup_error(error), Some(SetupError::Crowded))
}

fn setup_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a SetupError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error hides the error that it wraps from `source()`.
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// A chain of causes in one line, for people. An error of several dials has a line for each of them.
pub(super) fn describe(error: &std::io::Error) -> String {
    let mut text = error.to_string();
    let inner = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    let mut next = inner.and_then(std::error::Error::source);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text::shown(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_described_in_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("Multiple dial errors occurred:\n - refused\r\n - no route")]
        struct Several(#[source] std::io::Error);
        let several = Several(std::io::Error::other("the last\n\tsaid\u{1b}[2J"));
        let said = "Multiple dial errors occurred: - refused - no route: the last said\\u{1b}[2J";
        assert_eq!(describe(&std::io::Error::other(several)), said);
    }

    #[test]
    fn before_certificates_are_valid_the_clock_is_to_blame() {
        let failed =
            |seconds| of_tls(std::io::ErrorKind::InvalidData.into(), WallTime::from_unix_seconds(seconds));
        assert_eq!(rejection(&Setup(failed(5))), Some((Rejection::NotYetValid, false)));
        assert!(matches!(failed(1_800_000_000), SetupError::Tls(_)));
    }
}
