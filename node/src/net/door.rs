//! The door: connections that have not yet proven membership are bounded per remote address, so that one stranger cannot shut out members.

use super::address;
use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use protocol::limits;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

/// Too many connections from one address are at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {} connections from one address have not proven membership", limits::PENDING_PER_ADDRESS)]
pub(super) struct Crowded;

/// The behaviour: remembers who stands at the door.
#[derive(Default)]
pub(super) struct Behaviour {
    waiting: HashMap<ConnectionId, IpAddr>,
}

impl Behaviour {
    fn arrive(&mut self, connection: ConnectionId, ip: IpAddr) -> Result<(), Crowded> {
        if self.waiting.values().filter(|other| **other == ip).count() >= limits::PENDING_PER_ADDRESS {
            return Err(Crowded);
        }
        self.waiting.insert(connection, ip);
        Ok(())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        match address::ip(remote) {
            Some(ip) => self.arrive(connection, ip).map_err(ConnectionDenied::new),
            None => Ok(()),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let through = match event {
            FromSwarm::ConnectionEstablished(established) => established.connection_id,
            FromSwarm::ListenFailure(failure) => failure.connection_id,
            _ => return,
        };
        self.waiting.remove(&through);
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_fills_its_own_share_only() {
        let mut door = Behaviour::default();
        let (crowd, member) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for number in 0..limits::PENDING_PER_ADDRESS {
            assert_eq!(door.arrive(ConnectionId::new_unchecked(number), crowd), Ok(()));
        }
        assert_eq!(door.arrive(ConnectionId::new_unchecked(1_000), crowd), Err(Crowded));
        assert_eq!(door.arrive(ConnectionId::new_unchecked(1_001), member), Ok(()));
    }
}
