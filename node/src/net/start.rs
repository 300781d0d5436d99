//! Starting the network: everything is bound and ready, or the error says why not.

use super::address::{self, Endpoint};
use super::behaviour::Behaviour;
use super::config::{Config, StartError};
use super::enrol::Registrar;
use super::event::Event;
use super::handle::{Command, Handle, Shared};
use super::identity;
use super::membership::Trust;
use super::pieces::{self, cap::Cap, fetch::Fetchers, paced::Paced, serve::Shelf};
use super::request;
use super::streams::{self, Inbound, Opener};
use super::task::{Discovery, State, Task};
use super::traffic::Ledger;
use super::transport::Secure;
use libp2p::core::transport::TransportError;
use libp2p::core::upgrade::Version;
use libp2p::{Multiaddr, Swarm, swarm};
use protocol::limits;
use protocol::wire::Channel;
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for the operating system to report the addresses that we listen on.
const READY_SECONDS: u64 = 5;

/// Starts the network and returns when it listens. Events must be read; the network ends when their receiver is dropped.
///
/// # Errors
/// [`StartError`] names what is wrong and what to do.
pub async fn start(config: Config) -> Result<(Handle, mpsc::Receiver<Event>), StartError> {
    let device = config.identity.device();
    let site = match config.certificate.claims() {
        Ok(member) if member.device == device => member.site,
        _ => return Err(StartError::OtherCertificate),
    };
    let (events, receiver) = mpsc::channel(limits::NET_QUEUE);
    let ledger = Arc::new(Ledger::default());
    let trust = Arc::new(Trust::new(config.clock.clone(), config.verifier.clone(), &config.certificate));
    let opener = Opener::default();
    let (swarm, inbound) = build(&config, &trust, &ledger, &opener)?;
    let registrar = match &config.enrol_listen {
        Some(address) => {
            let (ledger, events) = (ledger.clone(), events.clone());
            Some(Registrar::bind(address, &config.identity, ledger, events, config.patience).await?)
        }
        None => None,
    };
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (listening, addresses) = watch::channel(Vec::new());
    let (sender, commands) = mpsc::channel::<Command>(limits::NET_QUEUE);
    let (finding, found) = mpsc::channel(limits::NET_QUEUE);
    let task = Task {
        swarm,
        commands,
        inbound,
        listening,
        trust: trust.clone(),
        shelf: Shelf::new(config.source.clone(), config.patience),
        tasks: tasks.clone(),
        stop: stop.clone(),
        patience: config.patience,
        key: config.identity.clone(),
        site,
        found,
        discovery: Discovery { finding, neighbours: watch::channel(0).0, running: None },
        state: State::new(events),
    };
    let task = if config.mdns { task.with_discovery() } else { task };
    let enrol_address = registrar.as_ref().and_then(Registrar::address);
    tasks.spawn(Box::pin(task.run()));
    if let Some(registrar) = registrar {
        let (stop, tasks) = (stop.clone(), tasks.clone());
        tasks.clone().spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = registrar.run(tasks) => {}
            }
        });
    }
    let cap = Arc::new(Cap::new());
    let paced = Paced::new(opener.clone(), config.patience, tasks.clone(), stop.clone(), Arc::clone(&cap));
    let fetchers = Fetchers::new(opener.clone(), config.patience, tasks.clone(), stop.clone());
    let shared = Shared {
        commands: sender,
        opener,
        fetchers,
        paced,
        cap,
        trust,
        ledger,
        patience: config.patience,
        listening: addresses.clone(),
        enrol_address,
        stop,
        tasks,
    };
    let handle = Handle(Arc::new(shared));
    ready(&handle, addresses, listened(&config.listen).count()).await?;
    Ok((handle, receiver))
}

fn build(
    config: &Config,
    trust: &Arc<Trust>,
    ledger: &Arc<Ledger>,
    opener: &Opener,
) -> Result<(Swarm<Behaviour>, mpsc::Receiver<Inbound>), StartError> {
    let secure = Secure::new(&config.identity, trust.clone(), ledger.clone(), config.patience.stranger)
        .map_err(|error| StartError::Configuration(format!("TLS: {error}")))?;
    let (streams, inbound) = mpsc::channel(limits::NET_QUEUE);
    let protocols: Vec<_> =
        Channel::ALL.into_iter().map(request::stream_name).chain([pieces::PROTOCOL]).collect();
    let streams = streams::Behaviour::new(opener.clone(), protocols.into(), streams);
    let behaviour = Behaviour::new(&config.identity, streams, config.gossip)?;
    let local = identity::keypair(&config.identity).public().to_peer_id();
    // A request leaves together with the name of its protocol: one round trip instead of two.
    let settings = swarm::Config::with_tokio_executor()
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_max_negotiating_inbound_streams(2 * limits::STREAMS_PER_PEER);
    let mut swarm = Swarm::new(secure.transport(), behaviour, local, settings);
    for address in listened(&config.listen) {
        listen(&mut swarm, address)?;
    }
    for address in &config.external {
        swarm.add_external_address(address.clone());
    }
    Ok((swarm, inbound))
}

/// Of `addresses`, those that a node listens on: all but "any of IPv6" on a machine that has none, which may be listed everywhere.
pub fn listened(addresses: &[Multiaddr]) -> impl Iterator<Item = &Multiaddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let has_v6 = interfaces.iter().any(|interface| interface.ip().is_ipv6()) || addresses.len() == 1;
    let is_any_v6 =
        |address: &&Multiaddr| address::ip(address).is_some_and(|ip| ip.is_ipv6() && ip.is_unspecified());
    addresses.iter().filter(move |address| has_v6 || !is_any_v6(address))
}

/// Binds as libp2p does, but alone: it shares a port with whoever shares it too (`SO_REUSEPORT`), another node on this
/// machine included.
fn probe(socket: SocketAddr) -> std::io::Result<()> {
    let probe = Socket::new(Domain::for_address(socket), Type::STREAM, None)?;
    #[cfg(unix)]
    probe.set_reuse_address(true)?;
    if socket.is_ipv6() {
        probe.set_only_v6(true)?;
    }
    probe.bind(&socket.into())?;
    probe.listen(1)
}

fn listen(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) -> Result<(), StartError> {
    let Some(Endpoint::Socket(socket)) = address::endpoint(address) else {
        return Err(StartError::BadAddress(address.clone()));
    };
    if socket.port() != 0 {
        probe(socket).map_err(|cause| StartError::of_bind(address, cause))?;
    }
    match swarm.listen_on(address.clone()) {
        Ok(_) => Ok(()),
        Err(TransportError::Other(cause)) => Err(StartError::of_bind(address, cause)),
        Err(TransportError::MultiaddrNotSupported(_)) => Err(StartError::BadAddress(address.clone())),
    }
}

async fn ready(
    handle: &Handle,
    mut addresses: watch::Receiver<Vec<Multiaddr>>,
    expected: usize,
) -> Result<(), StartError> {
    let waiting = addresses.wait_for(|all| all.len() >= expected);
    match tokio::time::timeout(Duration::from_secs(READY_SECONDS), waiting).await {
        Ok(Ok(_)) => Ok(()),
        _ => {
            handle.shutdown().await;
            Err(StartError::NotReady(READY_SECONDS))
        }
    }
}
