//! Gossip on the swarm: topics, hints, and coming on while the node runs.

use super::behaviour;
use super::handle::PublishFailure;
use super::task::Task;
use libp2p::PeerId;
use libp2p::gossipsub::{IdentTopic, PublishError};

impl Task {
    /// Listens to a topic; switches gossip on first where it is off (N7).
    pub(super) fn subscribe(&mut self, topic: String) {
        let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() else {
            return self.want_gossip(topic);
        };
        if let Err(error) = gossip.subscribe(&IdentTopic::new(topic)) {
            tracing::warn!(%error, "cannot subscribe");
        }
    }

    pub(super) fn unsubscribe(&mut self, topic: String) {
        self.state.gossip_wanted = None;
        if let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() {
            gossip.unsubscribe(&IdentTopic::new(topic));
        }
    }

    pub(super) fn publish(&mut self, topic: String, bytes: Vec<u8>) -> Result<(), PublishFailure> {
        let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() else {
            return Err(PublishFailure::Unavailable("switched off".to_owned()));
        };
        match gossip.publish(IdentTopic::new(topic), bytes) {
            Ok(_) | Err(PublishError::Duplicate) => Ok(()),
            Err(PublishError::NoPeersSubscribedToTopic) => Err(PublishFailure::Nobody),
            Err(PublishError::MessageTooLarge) => Err(PublishFailure::TooLarge),
            Err(error) => Err(PublishFailure::Unavailable(error.to_string())),
        }
    }

    /// A connection that began without gossip never speaks it: all end, which are few while peer download is off, and
    /// are made anew.
    fn want_gossip(&mut self, topic: String) {
        if self.state.gossip_wanted.replace(topic).is_none() {
            let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
            for peer in peers {
                // Not connected is what was wanted.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
        }
        self.switch_gossip_on();
    }

    /// Switches gossip on, where that is wanted, as soon as no connection is left that it knows nothing of.
    pub(super) fn switch_gossip_on(&mut self) {
        if self.swarm.connected_peers().next().is_some() {
            return;
        }
        let Some(topic) = self.state.gossip_wanted.take() else { return };
        match behaviour::gossip(&self.key) {
            Ok(gossip) => {
                self.swarm.behaviour_mut().gossip = Some(gossip).into();
                self.subscribe(topic);
            }
            Err(error) => tracing::warn!(%error, "gossip stays off"),
        }
    }
}
