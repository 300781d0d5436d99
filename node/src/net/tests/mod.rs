//! Networks on loopback: real sockets, real TLS, ports chosen by the operating system.

mod connecting;
mod counting;
mod enrolling;
mod pieces;
mod requests;
mod strangers;

use super::*;
use ::protocol::digest::Blake3Root;
use ::protocol::fleet::{EnrolmentKey, Revoked, Services};
use ::protocol::identifier::{DeviceId, FleetId, HostName, SiteName};
use ::protocol::membership::{Certificate, Class, Member, Verifier};
use ::protocol::piece::PieceIndex;
use ::protocol::reason::Reason;
use ::protocol::signature::SigningKey;
use ::protocol::system::{Family, System};
use ::protocol::time::WallTime;
use ::protocol::wire::Channel;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub(super) const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);
/// Longer than anything here takes; reaching it fails the test.
pub(super) const BOUND: Duration = Duration::from_secs(20);

pub(super) fn issuer() -> SigningKey {
    SigningKey::from_seed(&[200; 32])
}

pub(super) fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

pub(super) fn member(number: u8) -> Member {
    Member {
        fleet: FleetId::from_bytes([1; 32]),
        device: key(number).device(),
        site: SiteName::new("utrecht").expect("site"),
        class: Class::Server,
        system: System {
            family: Family::Linux,
            distribution: "debian".to_owned(),
            release: "12".to_owned(),
            architecture: "amd64".to_owned(),
        },
        host: HostName::new(format!("host{number}")).expect("host"),
        issued: NOW,
        expires: NOW.plus_days(1),
    }
}

pub(super) fn verifier(revoked: &[DeviceId]) -> Verifier {
    let services = Services {
        enrolment_keys: vec![EnrolmentKey { public: issuer().public(), valid_until: None }],
        ..Services::default()
    };
    let devices = revoked.iter().map(|&device| ::protocol::fleet::RevokedDevice {
        device,
        since: NOW,
        reason: String::new(),
    });
    Verifier::new(FleetId::from_bytes([1; 32]), &services, &Revoked { devices: devices.collect() })
}

/// Serves nothing.
pub(super) struct Nothing;

impl PieceSource for Nothing {
    fn open(&self, _: DeviceId, _: Blake3Root, _: PieceIndex) -> Result<Opened, Reason> {
        Err(Reason::NoGrant)
    }
}

pub(super) fn config(number: u8) -> Config {
    Config {
        identity: key(number),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("address")],
        external: Vec::new(),
        enrol_listen: None,
        verifier: verifier(&[]),
        certificate: Certificate::issue(&member(number), &issuer()),
        clock: Arc::new(|| NOW),
        mdns: false,
        gossip: true,
        source: Arc::new(Nothing),
        patience: Patience {
            stranger: Duration::from_secs(5),
            answer: Duration::from_secs(15),
            idle: Duration::from_secs(5),
            shutdown: Duration::from_secs(2),
        },
    }
}

/// An address at which nobody listens, and nobody will while the socket is kept.
pub(super) fn nobody_listens() -> (tokio::net::TcpSocket, std::net::SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().expect("socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("port");
    let address = socket.local_addr().expect("address");
    (socket, address)
}

/// Connections that say nothing, so many from each of so many networks (of this machine).
pub(super) async fn half_open(
    networks: u8,
    from_each: u32,
    to: std::net::SocketAddr,
) -> Vec<tokio::net::TcpStream> {
    let mut all = Vec::new();
    for network in 0..networks {
        for _ in 0..from_each {
            let socket = tokio::net::TcpSocket::new_v4().expect("socket");
            socket.bind(([127, 0, 1, network], 0).into()).expect("port");
            all.push(socket.connect(to).await.expect("connects"));
        }
    }
    all
}

pub(super) struct Node {
    pub(super) net: Handle,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) device: DeviceId,
}

impl Node {
    pub(super) async fn start(config: Config) -> Node {
        let device = config.identity.device();
        let (net, events) = start(config).await.expect("starts");
        Node { net, events, device }
    }

    pub(super) async fn member(number: u8) -> Node {
        Node::start(config(number)).await
    }

    /// The next event for which `pick` has an answer; others are skipped.
    pub(super) async fn next<T>(&mut self, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let finding = async {
            loop {
                let event = self.events.recv().await.expect("network runs");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(BOUND, finding).await.expect("the event comes in time")
    }

    pub(super) async fn connected(&mut self) -> DeviceId {
        self.next(|event| match event {
            Event::Connected { peer, .. } => Some(peer),
            _ => None,
        })
        .await
    }

    pub(super) async fn disconnected(&mut self) -> DeviceId {
        self.next(|event| match event {
            Event::Disconnected { peer } => Some(peer),
            _ => None,
        })
        .await
    }

    pub(super) async fn connect(&mut self, other: &mut Node) {
        self.net.dial(other.device, other.net.listen_addresses()).await.expect("runs");
        assert_eq!(self.connected().await, other.device);
        assert_eq!(other.connected().await, self.device);
    }
}

/// Two connected members.
pub(super) async fn pair(first: Config, second: Config) -> (Node, Node) {
    let (mut first, mut second) = (Node::start(first).await, Node::start(second).await);
    first.connect(&mut second).await;
    (first, second)
}
