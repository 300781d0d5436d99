//! What a node's network needs to start, and why it may not.

use super::membership::Clock;
use super::pieces::PieceSource;
use libp2p::Multiaddr;
use protocol::limits;
use protocol::membership::{Certificate, Verifier};
use protocol::signature::SigningKey;
use std::sync::Arc;
use std::time::Duration;

/// Everything that the network needs to start.
pub struct Config {
    /// The device's key: its identity on every connection.
    pub identity: SigningKey,
    /// Where members connect; port 0 lets the operating system choose.
    pub listen: Vec<Multiaddr>,
    /// Addresses at which others reach this node, where they differ from those it listens on.
    pub external: Vec<Multiaddr>,
    /// The registrar's enrolment address, the only one that answers strangers; `None` on nodes that are no registrar.
    pub enrol_listen: Option<Multiaddr>,
    /// Who counts as a member.
    pub verifier: Verifier,
    /// This device's own membership.
    pub certificate: Certificate,
    /// The wall clock.
    pub clock: Clock,
    /// Whether to look for and answer neighbours by multicast; off when policy switches peer download off (N7).
    pub mdns: bool,
    /// Whether to take part in gossip; off when policy switches peer download off (N7).
    pub gossip: bool,
    /// What this node serves.
    pub source: Arc<dyn PieceSource>,
    /// How long to wait for what.
    pub patience: Patience,
}

/// How long the network waits for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a stranger to prove membership, or to say what it wants on the enrolment address.
    pub stranger: Duration,
    /// For the first byte of an answer to a request.
    pub answer: Duration,
    /// For the next byte, once a message or a piece is on its way.
    pub idle: Duration,
    /// For tasks to reach a safe point at shutdown.
    pub shutdown: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            stranger: Duration::from_secs(limits::STRANGER_SECONDS),
            answer: Duration::from_secs(30),
            idle: Duration::from_secs(10),
            shutdown: Duration::from_secs(3),
        }
    }
}

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process listens there.
    #[error(
        "{address} is in use by another process; stop it (`ss -ltnp` shows which) or choose another port in the configuration"
    )]
    PortTaken {
        /// The address.
        address: Multiaddr,
    },
    /// The operating system refuses the address.
    #[error("cannot listen on {address}; check that it belongs to this machine and that the port is allowed")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the operating system said.
        #[source]
        cause: std::io::Error,
    },
    /// Not an address of the form that this node listens on.
    #[error("{0} is not an address to listen on; expected the form /ip4/0.0.0.0/tcp/7700")]
    BadAddress(Multiaddr),
    /// An address did not become ready.
    #[error("no listening address became ready within {0} seconds; check that the network interfaces are up")]
    NotReady(u64),
    /// The certificate is somebody else's.
    #[error("the membership certificate is not this device's; run `patchmesh join` again")]
    OtherCertificate,
    /// TLS or a part of libp2p could not be configured.
    #[error("the network could not be configured: {0}")]
    Configuration(String),
}

impl StartError {
    pub(super) fn of_bind(address: &Multiaddr, cause: std::io::Error) -> StartError {
        match cause.kind() {
            std::io::ErrorKind::AddrInUse => StartError::PortTaken { address: address.clone() },
            _ => StartError::Listen { address: address.clone(), cause },
        }
    }
}
