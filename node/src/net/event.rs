//! What the network tells its owner.

use super::membership::Clock;
use libp2p::Multiaddr;
use protocol::identifier::DeviceId;
use protocol::membership::{EnrolGrant, EnrolRefusal, EnrolRequest, Member, Rejection};
use protocol::wire::Channel;
use tokio::sync::oneshot;

/// Something that happened on the network. Read them: the network slows down when nobody does.
#[derive(Debug)]
pub enum Event {
    /// A new address on which members can connect.
    Listening(Multiaddr),
    /// An address on which members could connect is gone.
    ListensNoMore,
    /// A member is connected; once per peer, also when both sides dialled.
    Connected {
        /// The peer.
        peer: DeviceId,
        /// What its certificate says.
        member: Box<Member>,
        /// Its address as seen from here.
        address: Multiaddr,
        /// Whether we dialled.
        outbound: bool,
        /// Whether it is at the other end of a tunnel, and so on no LAN of ours.
        tunnelled: bool,
    },
    /// The last connection to a peer ended, or the peer came back on a new one and the old one is given up (then
    /// `Connected` follows at once).
    Disconnected {
        /// The peer.
        peer: DeviceId,
    },
    /// A connection ended at the membership check, or because a member is one no more.
    Rejected {
        /// Address of the other end.
        address: Multiaddr,
        /// Why.
        rejection: Rejection,
        /// Whether the other end refused us.
        by_them: bool,
    },
    /// Nobody was reached under the addresses of a dial, and the peer did not connect to us meanwhile.
    DialFailed {
        /// The peer.
        peer: DeviceId,
        /// Why.
        cause: DialCause,
    },
    /// A neighbour answered on the local network; it is a claim until it connects.
    Discovered {
        /// The peer.
        peer: DeviceId,
        /// Where it says it is, at most as many as one device may announce.
        addresses: Vec<Multiaddr>,
    },
    /// A member asks for something; dropping `respond` tells it that there is no answer.
    Request {
        /// The member.
        from: DeviceId,
        /// What it asks.
        channel: Channel,
        /// The request, undecoded.
        bytes: Vec<u8>,
        /// Takes the answer.
        respond: oneshot::Sender<Vec<u8>>,
    },
    /// A hint, signed by `from`, whoever forwarded it.
    Gossip {
        /// The author.
        from: DeviceId,
        /// The topic.
        topic: String,
        /// The hint, undecoded.
        bytes: Vec<u8>,
    },
    /// A stranger on the enrolment address; its identity is proven, nothing else is.
    Enrol {
        /// The stranger.
        from: DeviceId,
        /// What it asks.
        request: EnrolRequest,
        /// Takes the answer; dropping it answers that the registrar is busy.
        respond: oneshot::Sender<Result<EnrolGrant, EnrolRefusal>>,
    },
}

/// Why a dial reached nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialCause {
    /// No address, or none that can be dialled.
    #[error("no usable address is known")]
    NoAddress,
    /// Nobody answers there.
    #[error("nobody answers there: {0}")]
    Unreachable(String),
    /// Somebody else answers there.
    #[error("another device answers there: {}", .0.map_or_else(|| "of no fleet".to_owned(), |id| id.short()))]
    OtherDevice(Option<DeviceId>),
    /// The membership check ended the connection.
    #[error("{}: {rejection}", if *.by_them { "the peer refused us" } else { "we refused the peer" })]
    Rejected {
        /// Why.
        rejection: Rejection,
        /// Whether the other end refused us.
        by_them: bool,
    },
    /// The node has as many connections as it may have.
    #[error("this node has as many connections as it may have")]
    Full,
}

/// The wall clock of the operating system.
pub fn system_clock() -> Clock {
    std::sync::Arc::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        protocol::time::WallTime::from_unix_seconds(since.as_secs())
    })
}
