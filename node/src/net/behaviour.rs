//! The libp2p behaviours of a node and their one configuration.

use super::config::StartError;
use super::identity;
use super::streams;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{connection_limits, gossipsub, identify, memory_connection_limits, ping};
use protocol::limits;
use protocol::signature::SigningKey;
use std::time::Duration;

/// Gossip whose topics are bounded for each peer.
pub(super) type Gossip = gossipsub::Behaviour<
    gossipsub::IdentityTransform,
    gossipsub::MaxCountSubscriptionFilter<gossipsub::AllowAllSubscriptionFilter>,
>;

/// Everything that runs on a connection, and the limits that stand before it.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    connections: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(super) gossip: Toggle<Gossip>,
    streams: streams::Behaviour,
}

impl Behaviour {
    pub(super) fn new(
        key: &SigningKey,
        streams: streams::Behaviour,
        gossips: bool,
    ) -> Result<Behaviour, StartError> {
        let keys = identity::keypair(key);
        let identify = identify::Config::new("/patchmesh/1".to_owned(), keys.public())
            .with_agent_version(concat!("patchmesh/", env!("CARGO_PKG_VERSION")).to_owned())
            .with_hide_listen_addrs(true)
            .with_push_listen_addr_updates(false)
            .with_cache_size(0);
        Ok(Behaviour {
            connections: connection_limits::Behaviour::new(connection_bounds()),
            memory: memory_connection_limits::Behaviour::with_max_percentage(
                f64::from(limits::MEMORY_PERCENT) / 100.0,
            ),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(15))),
            gossip: gossips.then(|| gossip(key)).transpose()?.into(),
            streams,
        })
    }
}

fn connection_bounds() -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        // Those that gave up their place are still counted until the swarm has heard of it.
        .with_max_pending_incoming(Some(2 * limits::PENDING_CONNECTIONS))
        .with_max_pending_outgoing(Some(limits::PENDING_CONNECTIONS))
        .with_max_established(Some(limits::CONNECTIONS))
        .with_max_established_per_peer(Some(limits::CONNECTIONS_PER_PEER))
}

/// Gossip, signed with the device's key.
pub(super) fn gossip(key: &SigningKey) -> Result<Gossip, StartError> {
    let keys = identity::keypair(key);
    let wrong = |error: &dyn std::fmt::Display| StartError::Configuration(format!("gossip: {error}"));
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Strict)
        .max_transmit_size(limits::GOSSIP_BYTES)
        .heartbeat_interval(Duration::from_secs(1))
        .build()
        .map_err(|error| wrong(&error))?;
    let filter = gossipsub::MaxCountSubscriptionFilter {
        filter: gossipsub::AllowAllSubscriptionFilter {},
        max_subscribed_topics: limits::GOSSIP_TOPICS,
        max_subscriptions_per_request: 2 * limits::GOSSIP_TOPICS,
    };
    gossipsub::Behaviour::new_with_subscription_filter(
        gossipsub::MessageAuthenticity::Signed(keys),
        config,
        filter,
    )
    .map_err(|error| wrong(&error))
}
