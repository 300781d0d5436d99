//! What the rest of the node holds of its network.

use super::config::Patience;
use super::membership::Trust;
use super::pieces::cap::Cap;
use super::pieces::fetch::Fetchers;
use super::pieces::paced::Paced;
use super::pieces::{Block, PeerBytes, PieceFailure, Wanted};
use super::request::{self, RequestFailure};
use super::streams::Opener;
use super::traffic::{Ledger, Traffic};
use libp2p::Multiaddr;
use protocol::digest::Blake3Root;
use protocol::fetch::{Advice, Pace};
use protocol::identifier::DeviceId;
use protocol::membership::{Certificate, Verifier};
use protocol::piece::PieceIndex;
use protocol::rate::Rate;
use protocol::wire::Channel;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the swarm's task is told to do.
pub(super) enum Command {
    Dial { peer: DeviceId, addresses: Vec<Multiaddr> },
    Disconnect { peer: DeviceId },
    Recheck,
    Publish { topic: String, bytes: Vec<u8>, done: oneshot::Sender<Result<(), PublishFailure>> },
    Subscribe { topic: String },
    Unsubscribe { topic: String },
    Discover { on: bool },
}

/// Why a hint was not published. Losing one is harmless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishFailure {
    /// Nobody to tell.
    #[error("nobody listens to this topic")]
    Nobody,
    /// Larger than a hint may be.
    #[error("the hint is larger than {} bytes", protocol::limits::GOSSIP_BYTES)]
    TooLarge,
    /// Gossip is off, or its queues are full, or the network has stopped.
    #[error("gossip is not available: {0}")]
    Unavailable(String),
}

/// The network has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the network of this node has stopped")]
pub struct Stopped;

/// A handle on a running network; clones share it.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) opener: Opener,
    pub(super) fetchers: Arc<Fetchers>,
    pub(super) paced: Arc<Paced>,
    pub(super) cap: Arc<Cap>,
    pub(super) trust: Arc<Trust>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) patience: Patience,
    pub(super) listening: watch::Receiver<Vec<Multiaddr>>,
    pub(super) enrol_address: Option<Multiaddr>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Handle {
    async fn tell(&self, command: Command) -> Result<(), Stopped> {
        self.0.commands.send(command).await.map_err(|_| Stopped)
    }

    /// Dials `peer` at `addresses` unless it is connected or being dialled. The outcome is an event: `Connected` or `DialFailed`.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn dial(&self, peer: DeviceId, addresses: Vec<Multiaddr>) -> Result<(), Stopped> {
        self.tell(Command::Dial { peer, addresses }).await
    }

    /// Ends all connections to `peer`.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn disconnect(&self, peer: DeviceId) -> Result<(), Stopped> {
        self.tell(Command::Disconnect { peer }).await
    }

    /// Replaces the rules of membership: they count at once for every new connection, in the order of the calls. Whoever
    /// is connected and no longer a member is dropped by the next [`Handle::recheck`].
    pub fn replace_verifier(&self, verifier: Verifier) {
        self.0.trust.replace_verifier(verifier);
    }

    /// Asks again whether all connected members still are, with `Rejected` and `Disconnected` as events.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn recheck(&self) -> Result<(), Stopped> {
        self.tell(Command::Recheck).await
    }

    /// Replaces this device's own certificate after its renewal, for connections from now on.
    pub fn set_certificate(&self, certificate: &Certificate) {
        self.0.trust.replace_certificate(certificate);
    }

    /// Switches discovery by multicast on or off (N7).
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn set_discovery(&self, on: bool) -> Result<(), Stopped> {
        self.tell(Command::Discover { on }).await
    }

    /// Asks a connected member and waits for the answer; many may run at the same time, a bounded number per peer.
    ///
    /// # Errors
    /// [`RequestFailure`] says whose fault it is and what is not known.
    pub async fn request(
        &self,
        peer: DeviceId,
        channel: Channel,
        bytes: Vec<u8>,
    ) -> Result<Vec<u8>, RequestFailure> {
        let asking = request::ask(&self.0.opener, peer, channel, bytes, self.0.patience);
        tokio::select! {
            answer = asking => answer,
            () = self.0.stop.cancelled() => Err(RequestFailure::Disconnected(peer)),
        }
    }

    /// Fetches a whole piece of `expected_length` bytes from a connected member. Dropping the future takes the request back.
    ///
    /// # Errors
    /// [`PieceFailure`].
    pub async fn fetch_piece(
        &self,
        peer: DeviceId,
        root: Blake3Root,
        index: PieceIndex,
        expected_length: u32,
    ) -> Result<PeerBytes, PieceFailure> {
        Ok(self.fetch_block(peer, root, index, 0, expected_length).await?.bytes)
    }

    /// Takes the bytes of a piece that was written, for one of the next pieces: it spares making a new buffer.
    pub fn reuse(&self, bytes: Vec<u8>) {
        self.0.fetchers.buffers().give(bytes);
    }

    /// Fetches a whole piece over the WAN, in blocks, with no more outstanding than the connection's window allows;
    /// also what the window then was. `advice` is what this seed said of the way. Dropping the
    /// future takes back what was not asked for yet.
    ///
    /// # Errors
    /// [`PieceFailure`].
    pub async fn fetch_paced(
        &self,
        seed: DeviceId,
        root: Blake3Root,
        index: PieceIndex,
        expected_length: u32,
        advice: Advice,
    ) -> Result<(PeerBytes, Pace), PieceFailure> {
        self.0.paced.fetch(seed, root, index, expected_length, advice).await
    }

    /// From now on no more than this comes over the WAN: of the pieces that [`Handle::fetch_paced`] fetches, and of what
    /// others fetch who share the cap.
    pub fn set_download_cap(&self, rate: Option<Rate>) {
        self.0.cap.set(rate);
    }

    /// The cap itself, for those who fetch over the WAN by other ways.
    pub(crate) fn download_cap(&self) -> Arc<Cap> {
        Arc::clone(&self.0.cap)
    }

    /// Fetches `length` bytes of a piece, beginning at its byte `from`, with the time at which the peer sent them.
    ///
    /// # Errors
    /// [`PieceFailure`].
    pub async fn fetch_block(
        &self,
        peer: DeviceId,
        root: Blake3Root,
        index: PieceIndex,
        from: u32,
        length: u32,
    ) -> Result<Block, PieceFailure> {
        self.0.fetchers.fetch(peer, Wanted { root, index, from, length }).await
    }

    /// Gives a hint to the members that listen to `topic`.
    ///
    /// # Errors
    /// [`PublishFailure`]; a hint may be lost, so the caller goes on.
    pub async fn publish(&self, topic: &str, bytes: Vec<u8>) -> Result<(), PublishFailure> {
        let stopped = |_| PublishFailure::Unavailable(Stopped.to_string());
        let (done, published) = oneshot::channel();
        self.tell(Command::Publish { topic: topic.to_owned(), bytes, done }).await.map_err(stopped)?;
        published.await.unwrap_or_else(|_| Err(stopped(Stopped)))
    }

    /// Listens to `topic`.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn subscribe(&self, topic: &str) -> Result<(), Stopped> {
        self.tell(Command::Subscribe { topic: topic.to_owned() }).await
    }

    /// Listens to `topic` no more.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), Stopped> {
        self.tell(Command::Unsubscribe { topic: topic.to_owned() }).await
    }

    /// The addresses on which members can connect.
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.0.listening.borrow().clone()
    }

    /// The enrolment address, on a registrar.
    pub fn enrol_address(&self) -> Option<Multiaddr> {
        self.0.enrol_address.clone()
    }

    /// TCP payload bytes by member since the network started, also of connections that ended.
    pub fn traffic(&self) -> Vec<(DeviceId, Traffic)> {
        self.0.ledger.devices()
    }

    /// TCP payload bytes of ended connections that never proved membership, and of enrolment, by remote address; `None`
    /// gathers the rest.
    pub fn stranger_traffic(&self) -> Vec<(Option<IpAddr>, Traffic)> {
        self.0.ledger.strangers()
    }

    /// Stops: no new work, connections closed, tasks given a moment to end. The event channel closes.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(self.0.patience.shutdown, self.0.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.0.tasks.len(), "network tasks did not end in time");
        }
    }
}
