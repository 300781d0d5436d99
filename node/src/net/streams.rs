//! Raw streams between members: bounded per peer in both directions, handed over without loss, opened without waiting for the swarm.

use super::identity;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, Stream, StreamProtocol};
use protocol::identifier::DeviceId;
use protocol::limits;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// A stream that a member opened; the permit is its place among that member's streams.
pub(super) struct Inbound {
    pub(super) peer: DeviceId,
    pub(super) protocol: StreamProtocol,
    pub(super) stream: Stream,
    pub(super) permit: OwnedSemaphorePermit,
}

/// Why no stream could be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("not connected")]
    NotConnected,
    #[error("the peer does not speak the protocol")]
    Unsupported,
    #[error("the peer did not answer")]
    TimedOut,
    #[error("the connection broke")]
    Broken(#[source] std::io::Error),
}

type OpenReply = oneshot::Sender<Result<Stream, OpenError>>;

struct Open {
    protocol: StreamProtocol,
    reply: OpenReply,
}

struct Peer {
    connections: Vec<mpsc::Sender<Open>>,
    inbound: Arc<Semaphore>,
    outbound: Arc<Semaphore>,
}

impl Peer {
    fn new() -> Peer {
        Peer {
            connections: Vec::new(),
            inbound: Arc::new(Semaphore::new(limits::STREAMS_PER_PEER)),
            outbound: Arc::new(Semaphore::new(limits::REQUESTS_PER_PEER)),
        }
    }
}

/// Opens streams to connected members; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Opener {
    peers: Arc<Mutex<HashMap<DeviceId, Peer>>>,
}

impl Opener {
    fn peers(&self) -> MutexGuard<'_, HashMap<DeviceId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, peer: DeviceId, sender: mpsc::Sender<Open>) -> Arc<Semaphore> {
        let mut peers = self.peers();
        // A connection that ended, or was never established, shows by its closed channel.
        peers.retain(|_, entry| {
            entry.connections.retain(|connection| !connection.is_closed());
            !entry.connections.is_empty()
        });
        let entry = peers.entry(peer).or_insert_with(Peer::new);
        entry.connections.push(sender);
        entry.inbound.clone()
    }

    /// A place among our own requests to `peer`; waits while all are taken.
    pub(super) async fn turn(&self, peer: DeviceId) -> Result<OwnedSemaphorePermit, OpenError> {
        let places = self.peers().get(&peer).map(|entry| entry.outbound.clone());
        places.ok_or(OpenError::NotConnected)?.acquire_owned().await.map_err(|_| OpenError::NotConnected)
    }

    /// Opens a stream on the newest live connection to `peer`; never dials.
    pub(super) async fn open(&self, peer: DeviceId, protocol: StreamProtocol) -> Result<Stream, OpenError> {
        let connection = {
            let peers = self.peers();
            let live = peers.get(&peer).map(|entry| entry.connections.iter().rev());
            live.and_then(|mut all| all.find(|connection| !connection.is_closed()).cloned())
        };
        let connection = connection.ok_or(OpenError::NotConnected)?;
        let (reply, answer) = oneshot::channel();
        connection.send(Open { protocol, reply }).await.map_err(|_| OpenError::NotConnected)?;
        answer.await.map_err(|_| OpenError::NotConnected)?
    }
}

/// The behaviour: offers `protocols` on every connection and hands their streams to one bounded queue.
pub(super) struct Behaviour {
    opener: Opener,
    protocols: Arc<[StreamProtocol]>,
    inbound: mpsc::Sender<Inbound>,
}

impl Behaviour {
    pub(super) fn new(
        opener: Opener,
        protocols: Arc<[StreamProtocol]>,
        inbound: mpsc::Sender<Inbound>,
    ) -> Behaviour {
        Behaviour { opener, protocols, inbound }
    }

    fn handler(&self, peer: &PeerId) -> Result<Handler, ConnectionDenied> {
        let device =
            identity::device(peer).ok_or_else(|| ConnectionDenied::new("not a device's identity"))?;
        let (sender, open) = mpsc::channel(limits::STREAMS_PER_PEER);
        let permits = self.opener.add(device, sender);
        let (protocols, inbound) = (self.protocols.clone(), self.inbound.clone());
        Ok(Handler { device, protocols, inbound, permits, open })
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(&peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(&peer)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// One connection's share of the work.
pub(super) struct Handler {
    device: DeviceId,
    protocols: Arc<[StreamProtocol]>,
    inbound: mpsc::Sender<Inbound>,
    permits: Arc<Semaphore>,
    open: mpsc::Receiver<Open>,
}

impl Handler {
    fn hand_over(&self, stream: Stream, protocol: StreamProtocol) {
        // Dropping the stream resets it, which tells the peer at once.
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            tracing::debug!(peer = self.device.short(), %protocol, "peer has too many streams; one refused");
            return;
        };
        if self.inbound.try_send(Inbound { peer: self.device, protocol, stream, permit }).is_err() {
            tracing::warn!(peer = self.device.short(), "too many new streams at once; one refused");
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer(self.protocols.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Offer, OpenReply, Self::ToBehaviour>> {
        while let Poll::Ready(Some(Open { protocol, reply })) = self.open.poll_recv(cx) {
            if !reply.is_closed() {
                let protocol = SubstreamProtocol::new(Offer([protocol].into()), reply);
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), OpenReply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.hand_over(protocol.0, protocol.1);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                // Nobody waiting any more: the stream is dropped, which resets it.
                let _ = info.send(Ok(protocol.0));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => OpenError::TimedOut,
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Io(error) => OpenError::Broken(error),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = info.send(Err(error));
            }
            _ => {}
        }
    }
}

/// Negotiates one of some protocols and hands out the bare stream.
pub(super) struct Offer(Arc<[StreamProtocol]>);

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = Vec<StreamProtocol>;

    fn protocol_info(&self) -> Vec<StreamProtocol> {
        self.0.to_vec()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
