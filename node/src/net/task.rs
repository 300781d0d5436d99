//! The one task that owns the swarm: it carries out commands and turns what libp2p says into events.

use super::address::{self, Redacted};
use super::behaviour::{Behaviour, BehaviourEvent};
use super::config::Patience;
use super::event::{DialCause, Event};
use super::handle::Command;
use super::identity;
use super::membership::Trust;
use super::multicast::{self, Found, Surroundings};
use super::pieces::{self, serve::Shelf};
use super::request;
use super::streams::Inbound;
use super::transport;
use super::tunnel;
use crate::listening::Seldom;
use futures::StreamExt as _;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::TransportError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, gossipsub, ping};
use protocol::identifier::{DeviceId, SiteName};
use protocol::limits;
use protocol::membership::{Member, Rejection};
use protocol::signature::SigningKey;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A member with at least one connection.
struct Connected {
    member: Box<Member>,
    address: Multiaddr,
    since: Instant,
    connections: Vec<ConnectionId>,
    /// Our own address at that end, as far as the kernel tells.
    local: Option<IpAddr>,
}

pub(super) struct Task {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) inbound: mpsc::Receiver<Inbound>,
    pub(super) listening: watch::Sender<Vec<Multiaddr>>,
    pub(super) trust: Arc<Trust>,
    pub(super) shelf: Shelf,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) patience: Patience,
    pub(super) key: SigningKey,
    pub(super) site: SiteName,
    pub(super) found: mpsc::Receiver<Found>,
    pub(super) discovery: Discovery,
    pub(super) state: State,
}

/// Discovery by multicast, which policy switches on and off (N7).
pub(super) struct Discovery {
    pub(super) finding: mpsc::Sender<Found>,
    /// How many members of the own site are connected.
    pub(super) neighbours: watch::Sender<usize>,
    /// Ends it, where it runs.
    pub(super) running: Option<CancellationToken>,
}

/// What the task itself remembers.
pub(super) struct State {
    events: mpsc::Sender<Event>,
    outbox: VecDeque<Event>,
    connected: BTreeMap<DeviceId, Connected>,
    requests: Arc<Semaphore>,
    /// Lines in the log about connections that had to give way.
    crowded: Seldom<()>,
    /// Waits for the last connection to end, so that gossip can come on with those that follow.
    pub(super) gossip_wanted: Option<String>,
}

impl State {
    pub(super) fn new(events: mpsc::Sender<Event>) -> State {
        let requests = Arc::new(Semaphore::new(limits::REQUESTS_SERVED));
        State {
            events,
            outbox: VecDeque::new(),
            connected: BTreeMap::new(),
            requests,
            crowded: Seldom::default(),
            gossip_wanted: None,
        }
    }
}

impl Task {
    /// Runs until told to stop, or until nobody reads the events or holds a handle any more.
    pub(super) async fn run(mut self) {
        let events = self.state.events.clone();
        loop {
            // Commands go on while events wait, or an owner that waits for a command to be taken would wait for ever.
            let room = self.state.outbox.len() < limits::NET_QUEUE;
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = events.closed() => break,
                place = events.reserve(), if !self.state.outbox.is_empty() => {
                    if let (Ok(place), Some(event)) = (place, self.state.outbox.pop_front()) {
                        place.send(event);
                    }
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => break,
                },
                event = self.swarm.select_next_some(), if room => self.on_swarm_event(event),
                Some(inbound) = self.inbound.recv() => self.on_stream(inbound),
                Some(found) = self.found.recv(), if room => self.on_found(found),
            }
        }
        self.stop.cancel();
        self.close().await;
    }

    fn emit(&mut self, event: Event) {
        self.state.outbox.push_back(event);
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Dial { peer, addresses } => self.dial(peer, addresses),
            Command::Disconnect { peer } => self.disconnect(peer),
            Command::Recheck => self.recheck(),
            Command::Publish { topic, bytes, done } => {
                // Nobody waiting for the outcome is no reason not to publish.
                let _ = done.send(self.publish(topic, bytes));
            }
            Command::Subscribe { topic } => self.subscribe(topic),
            Command::Unsubscribe { topic } => self.unsubscribe(topic),
            Command::Discover { on } => self.set_discovery(on),
        }
    }

    fn dial(&mut self, peer: DeviceId, mut addresses: Vec<Multiaddr>) {
        let Ok(id) = identity::peer_id(peer) else {
            return self.emit(Event::DialFailed { peer, cause: DialCause::OtherDevice(None) });
        };
        addresses.truncate(limits::ADDRESSES_PER_DEVICE);
        let options = DialOpts::peer_id(id)
            .addresses(addresses)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .allocate_new_port()
            .build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => self.on_dial_error(peer, &error),
        }
    }

    fn disconnect(&mut self, peer: DeviceId) {
        if let Ok(id) = identity::peer_id(peer) {
            // Not connected is what was wanted.
            let _ = self.swarm.disconnect_peer_id(id);
        }
    }

    fn recheck(&mut self) {
        let trust = self.trust.clone();
        let lapsed: Vec<(DeviceId, Multiaddr, Rejection)> = (self.state.connected.iter())
            .filter_map(|(device, entry)| {
                let rejection = trust.check_current(&entry.member).err()?;
                Some((*device, entry.address.clone(), rejection))
            })
            .collect();
        for (device, address, rejection) in lapsed {
            tracing::info!(peer = device.short(), %rejection, "member dropped");
            self.emit(Event::Rejected { address, rejection, by_them: false });
            self.disconnect(device);
        }
    }

    pub(super) fn with_discovery(mut self) -> Task {
        self.set_discovery(true);
        self
    }

    fn set_discovery(&mut self, on: bool) {
        let running = self.discovery.running.take();
        self.discovery.running = match running {
            Some(running) if !on => {
                running.cancel();
                None
            }
            None if on => {
                let stop = self.stop.child_token();
                let surroundings = Surroundings {
                    device: self.key.device(),
                    listening: self.listening.subscribe(),
                    neighbours: self.discovery.neighbours.subscribe(),
                    found: self.discovery.finding.clone(),
                };
                self.tasks.spawn(multicast::follow(surroundings, stop.clone()));
                Some(stop)
            }
            as_before => as_before,
        };
    }

    fn on_found(&mut self, found: Found) {
        // What was heard before it was switched off is not used either.
        if self.discovery.running.is_some() {
            let addresses = found.addresses.into_iter().map(address::of_socket).collect();
            self.emit(Event::Discovered { peer: found.device, addresses });
        }
    }

    fn count_neighbours(&mut self) {
        let count = self.state.connected.values().filter(|entry| entry.member.site == self.site).count();
        self.discovery.neighbours.send_if_modified(|before| std::mem::replace(before, count) != count);
    }

    fn on_stream(&mut self, inbound: Inbound) {
        let peer = inbound.peer;
        let work: std::pin::Pin<Box<dyn Future<Output = Result<(), super::frame::FrameError>> + Send>> =
            if inbound.protocol == pieces::PROTOCOL {
                Box::pin(self.shelf.clone().serve(inbound))
            } else if let Some(channel) = request::channel_of(&inbound.protocol) {
                let (events, requests) = (self.state.events.clone(), self.state.requests.clone());
                let patience = self.patience;
                Box::pin(async move {
                    let Ok(_place) = requests.acquire_owned().await else { return Ok(()) };
                    request::serve(inbound, channel, events, patience).await
                })
            } else {
                return;
            };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                result = work => if let Err(error) = result {
                    tracing::debug!(peer = peer.short(), %error, "stream ended early");
                }
            }
        });
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(&peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.on_closed(&peer_id);
                self.switch_gossip_on();
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                self.on_listen_error(send_back_addr, &error);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                if let Some(peer) = identity::device(&peer) {
                    self.on_dial_error(peer, &error);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(address = %Redacted(&address), "listening");
                self.listening.send_modify(|all| all.push(address.clone()));
                self.emit(Event::Listening(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listening.send_modify(|all| all.retain(|known| *known != address));
                self.close_from(&address);
                self.emit(Event::ListensNoMore);
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(?reason, "a listening address was lost; members cannot connect there");
                self.listening.send_modify(|all| all.retain(|known| !addresses.contains(known)));
                self.emit(Event::ListensNoMore);
            }
            _ => {}
        }
    }

    fn on_established(&mut self, peer: &PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let member = identity::device(peer).and_then(|device| self.trust.verified(device));
        let Some(member) = member else {
            tracing::error!("a connection without a verified member; closed");
            self.swarm.close_connection(connection);
            return;
        };
        let address = endpoint.get_remote_address().clone();
        if self.state.gossip_wanted.is_some() {
            self.swarm.close_connection(connection);
            return;
        }
        // The rules may have changed between the check and now.
        if let Err(rejection) = self.trust.check_current(&member) {
            self.swarm.close_connection(connection);
            return self.emit(Event::Rejected { address, rejection, by_them: false });
        }
        let peer = member.device;
        if let Some(entry) = self.state.connected.get_mut(&peer) {
            // Both dialled. Later than that, only a peer that lost or never knew the older connection dials again.
            if endpoint.is_dialer() || entry.since.elapsed() <= self.patience.stranger {
                entry.connections.push(connection);
                return;
            }
            for old in std::mem::take(&mut entry.connections) {
                self.swarm.close_connection(old);
            }
            self.emit(Event::Disconnected { peer });
        }
        let member = Box::new(member);
        let entry = Connected {
            member: member.clone(),
            address: address.clone(),
            since: Instant::now(),
            connections: vec![connection],
            local: match endpoint {
                ConnectedPoint::Listener { local_addr, .. } => address::ip(local_addr),
                // Where a name was dialled nobody says which of its addresses answered.
                ConnectedPoint::Dialer { address, .. } => address::ip(address).and_then(address::source),
            },
        };
        self.state.connected.insert(peer, entry);
        self.count_neighbours();
        let tunnelled = tunnel::leads_to(&address);
        self.emit(Event::Connected { peer, member, address, outbound: endpoint.is_dialer(), tunnelled });
    }

    /// Ends the connections from an own address that is gone, and those of which nobody knows from which address they are: nothing
    /// comes over such a one any more, which would show after a minute.
    fn close_from(&mut self, gone: &Multiaddr) {
        let Some(gone) = address::ip(gone) else { return };
        let dead =
            self.state.connected.values().filter(|entry| entry.local.is_none_or(|local| local == gone));
        let dead: Vec<ConnectionId> = dead.flat_map(|entry| entry.connections.iter().copied()).collect();
        for connection in dead {
            self.swarm.close_connection(connection);
        }
    }

    fn on_closed(&mut self, peer: &PeerId) {
        let Some(peer) = identity::device(peer) else { return };
        if self.state.connected.remove(&peer).is_some() {
            self.count_neighbours();
            self.emit(Event::Disconnected { peer });
        }
        self.trust.forget(|device| self.state.connected.contains_key(&device));
    }

    fn on_listen_error(&mut self, address: Multiaddr, error: &ListenError) {
        if let ListenError::Transport(TransportError::Other(error)) = error
            && let Some((rejection, by_them)) = transport::rejection(error)
        {
            tracing::debug!(address = %Redacted(&address), %rejection, by_them, "connection rejected");
            self.emit(Event::Rejected { address, rejection, by_them });
        } else if let ListenError::Transport(TransportError::Other(error)) = error
            && transport::was_crowded_out(error)
        {
            if let Some(times) = self.state.crowded.turn((), Instant::now()) {
                let most = limits::PENDING_CONNECTIONS;
                tracing::warn!(
                    times,
                    most,
                    "too many connections have not proven membership; networks with most of them gave way"
                );
            }
        } else {
            // Not the error itself: it may name addresses.
            tracing::debug!(address = %Redacted(&address), "inbound connection failed before the membership check");
        }
    }

    fn on_dial_error(&mut self, peer: DeviceId, error: &DialError) {
        let cause = match error {
            DialError::NoAddresses => DialCause::NoAddress,
            DialError::Denied { .. } => DialCause::Full,
            DialError::WrongPeerId { obtained, .. } => DialCause::OtherDevice(identity::device(obtained)),
            DialError::Transport(attempts) => self.on_failed_attempts(attempts),
            DialError::LocalPeerId { .. } => DialCause::OtherDevice(Some(peer)),
            DialError::Aborted | DialError::DialPeerConditionFalse(_) => {
                DialCause::Unreachable("given up".to_owned())
            }
        };
        // The peer may have reached us in the meantime, and then there is nothing to tell.
        if !self.state.connected.contains_key(&peer) {
            tracing::debug!(peer = peer.short(), %cause, "dial failed");
            self.emit(Event::DialFailed { peer, cause });
        }
    }

    fn on_failed_attempts(&mut self, attempts: &[(Multiaddr, TransportError<std::io::Error>)]) -> DialCause {
        let mut cause = DialCause::NoAddress;
        for (address, error) in attempts {
            let TransportError::Other(error) = error else { continue };
            if let Some((rejection, by_them)) = transport::rejection(error) {
                self.emit(Event::Rejected { address: address.clone(), rejection, by_them });
                cause = DialCause::Rejected { rejection, by_them };
            } else if !matches!(cause, DialCause::Rejected { .. }) {
                cause = DialCause::Unreachable(transport::describe(error));
            }
        }
        cause
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(gossipsub::Event::Message { message, .. }) => {
                let Some(from) = message.source.as_ref().and_then(identity::device) else { return };
                self.emit(Event::Gossip { from, topic: message.topic.into_string(), bytes: message.data });
            }
            BehaviourEvent::Ping(ping::Event { peer, connection, result: Err(error) })
                if !matches!(error, ping::Failure::Unsupported) =>
            {
                tracing::debug!(%peer, %error, "connection is dead");
                self.swarm.close_connection(connection);
            }
            _ => {}
        }
    }

    /// Closes all connections in order, so that peers learn of it at once.
    async fn close(mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closing = async {
            while self.swarm.network_info().num_peers() > 0 {
                let event = self.swarm.select_next_some().await;
                if let SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } = event {
                    self.on_closed(&peer_id);
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
        for event in std::mem::take(&mut self.state.outbox) {
            // Whoever still reads gets what fits.
            let _ = self.state.events.try_send(event);
        }
    }
}
