//! Everything that touches the network between nodes: one configuration, one task that owns the libp2p swarm.
//!
//! Modules stand in layer order: each imports only from those above it.

mod address;
mod frame;
mod gather;
mod identity;
mod membership;
mod way;

mod traffic;
mod tunnel;

pub mod pieces;

mod config;
mod streams;
mod tls;
mod transport;

mod event;
mod request;

mod multicast;

mod behaviour;
mod enrol;
mod gossip;
mod handle;
mod start;
mod task;

#[cfg(test)]
mod tests;

pub use address::{Redacted, announced, named_device};
pub use config::{Config, Patience, StartError};
pub use enrol::{EnrolError, enrol, enrol_with};
pub use event::{DialCause, Event, system_clock};
pub use handle::{Handle, PublishFailure, Stopped};
pub use identity::{NotAnIdentity, device, install_crypto_provider, peer_id};
pub use libp2p::{Multiaddr, PeerId};
pub use membership::Clock;
pub(crate) use pieces::cap::Cap;
pub use pieces::{Block, Opened, Pass, PeerBytes, PieceFailure, PieceReader, PieceSource};
pub use request::{Decline, RequestFailure};
pub use start::{listened, start};
pub use traffic::Traffic;
