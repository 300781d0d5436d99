//! Discovery by multicast between network namespaces: a bridge and three hosts, real interfaces, real multicast.

use node::net::{
    Config, DialCause, Event, Handle, Multiaddr, Opened, Patience, PieceSource, start, system_clock,
};
use protocol::digest::Blake3Root;
use protocol::fleet::{EnrolmentKey, Revoked, Services};
use protocol::identifier::{DeviceId, FleetId, HostName, SiteName};
use protocol::membership::{Certificate, Class, Member, Verifier};
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use protocol::signature::SigningKey;
use protocol::system::{Family, System};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Everything here takes a few seconds; reaching this fails the test.
const BOUND: Duration = Duration::from_secs(60);

/// LANs that this process has made: each has its own names.
static LANS: AtomicUsize = AtomicUsize::new(0);

/// Network namespaces on one bridge; they go away with this value, also when the test fails.
struct Lan {
    prefix: String,
    hosts: usize,
}

impl Lan {
    /// Namespace 0 holds the bridge, the others a host each, with the address `10.77.0.NUMBER`.
    fn new(hosts: usize) -> Lan {
        let number = LANS.fetch_add(1, Ordering::Relaxed);
        let lan = Lan { prefix: format!("pm{}x{number}y", std::process::id()), hosts };
        for number in 0..=hosts {
            ip(&["netns", "add", &lan.name(number)]);
            ip(&["-n", &lan.name(number), "link", "set", "lo", "up"]);
        }
        let switch = lan.name(0);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        for number in 1..=hosts {
            let (host, port) = (lan.name(number), format!("p{number}"));
            ip(&[
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host,
            ]);
            ip(&["-n", &switch, "link", "set", &port, "master", "br0"]);
            ip(&["-n", &switch, "link", "set", &port, "up"]);
            for address in [format!("10.77.0.{number}/24"), format!("fd77::{number}/64")] {
                // Nobody else has it, and nobody waits until that is proven.
                let proven: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                ip(&[&["-n", &host, "addr", "add", &address, "dev", "eth0"], proven].concat());
            }
            ip(&["-n", &host, "link", "set", "eth0", "up"]);
            ip(&["-n", &host, "route", "add", "default", "dev", "eth0"]);
            ip(&["-n", &host, "-6", "route", "add", "default", "dev", "eth0"]);
        }
        lan
    }

    fn name(&self, number: usize) -> String {
        format!("{}{number}", self.prefix)
    }

    /// Runs a node on a thread that lives in the namespace of host `number`.
    fn run(&self, number: u8, mdns: bool) -> Running {
        self.run_at(number, mdns, "/ip4/0.0.0.0/tcp/7700")
    }

    /// The same, on another address to listen on.
    fn run_at(&self, number: u8, mdns: bool, listen: &'static str) -> Running {
        let space = File::open(format!("/run/netns/{}", self.name(number.into()))).expect("namespace");
        let (events, receiver) = mpsc::channel(256);
        let (handle, started) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("enters (needs root)");
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async move {
                let (net, mut happened) = start(config(number, mdns, listen)).await.expect("starts");
                assert!(handle.send(net).is_ok(), "the test waits");
                while let Some(event) = happened.recv().await {
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
            });
        });
        Running { started, events: receiver, thread }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for number in 0..=self.hosts {
            // Virtual interfaces go with their namespace.
            let _ = Command::new("ip").args(["netns", "del", &self.name(number)]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {} (needs root): {said}", arguments.join(" "));
}

struct Running {
    started: oneshot::Receiver<Handle>,
    events: mpsc::Receiver<Event>,
    thread: std::thread::JoinHandle<()>,
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

struct Nothing;

impl PieceSource for Nothing {
    fn open(&self, _: DeviceId, _: Blake3Root, _: PieceIndex) -> Result<Opened, Reason> {
        Err(Reason::NoGrant)
    }
}

fn config(number: u8, mdns: bool, listen: &str) -> Config {
    let (issuer, clock, fleet) = (key(200), system_clock(), FleetId::from_bytes([1; 32]));
    let member = Member {
        fleet,
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
        issued: clock(),
        expires: clock().plus_days(1),
    };
    let services = Services {
        enrolment_keys: vec![EnrolmentKey { public: issuer.public(), valid_until: None }],
        ..Services::default()
    };
    Config {
        identity: key(number),
        listen: vec![listen.parse().expect("address")],
        external: Vec::new(),
        enrol_listen: None,
        verifier: Verifier::new(fleet, &services, &Revoked::default()),
        certificate: Certificate::issue(&member, &issuer),
        clock,
        mdns,
        gossip: false,
        source: Arc::new(Nothing),
        patience: Patience::default(),
    }
}

/// Reads events until `peer` is discovered; everyone who was discovered on the way goes into `seen`.
async fn discover(
    events: &mut mpsc::Receiver<Event>,
    peer: DeviceId,
    seen: &mut BTreeSet<DeviceId>,
) -> Vec<Multiaddr> {
    loop {
        if let Event::Discovered { peer: found, addresses } = events.recv().await.expect("network runs") {
            seen.insert(found);
            if found == peer {
                return addresses;
            }
        }
    }
}

async fn connected(events: &mut mpsc::Receiver<Event>) -> DeviceId {
    loop {
        if let Event::Connected { peer, .. } = events.recv().await.expect("network runs") {
            return peer;
        }
    }
}

// One part of N7: whoever is switched off takes no part.
#[tokio::test]
async fn neighbours_find_each_other_and_not_the_one_that_stays_out() {
    let lan = Lan::new(3);
    let (one, two, out) = (lan.run(1, true), lan.run(2, true), lan.run(3, false));
    let scenario = async {
        let nets =
            [one.started, two.started, out.started].map(|started| async { started.await.expect("starts") });
        let nets: [Handle; 3] = {
            let [one, two, out] = nets;
            let (one, two, out) = tokio::join!(one, two, out);
            [one, two, out]
        };
        let (mut first, mut second, mut third) = (one.events, two.events, out.events);
        let mut seen = BTreeSet::new();
        let addresses = discover(&mut first, key(2).device(), &mut seen).await;
        discover(&mut second, key(1).device(), &mut seen).await;
        assert!(
            addresses.iter().all(|address| address.to_string().starts_with("/ip4/10.77.0.2/")),
            "{addresses:?}"
        );
        nets[0].dial(key(2).device(), addresses).await.expect("runs");
        assert_eq!(connected(&mut first).await, key(2).device());
        assert_eq!(connected(&mut second).await, key(1).device());
        // Whoever stays out neither looks nor is seen, until it is let in.
        assert!(!seen.contains(&key(3).device()));
        while let Ok(event) = third.try_recv() {
            assert!(!matches!(event, Event::Discovered { .. }), "{event:?}");
        }
        nets[2].set_discovery(true).await.expect("runs");
        discover(&mut third, key(1).device(), &mut seen).await;
        discover(&mut first, key(3).device(), &mut seen).await;
        for net in nets {
            net.shutdown().await;
        }
    };
    tokio::time::timeout(BOUND, scenario).await.expect("in time");
    for thread in [one.thread, two.thread, out.thread] {
        thread.join().expect("ends in order");
    }
}

#[tokio::test]
async fn neighbours_find_each_other_with_ipv6_alone() {
    let lan = Lan::new(2);
    let (one, two) = (lan.run_at(1, true, "/ip6/::/tcp/7700"), lan.run_at(2, true, "/ip6/::/tcp/7700"));
    let scenario = async {
        let (first_net, second_net) = tokio::join!(one.started, two.started);
        let (first_net, second_net) = (first_net.expect("starts"), second_net.expect("starts"));
        let (mut first, mut second) = (one.events, two.events);
        let addresses = discover(&mut first, key(2).device(), &mut BTreeSet::new()).await;
        assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["/ip6/fd77::2/tcp/7700"]);
        first_net.dial(key(2).device(), addresses).await.expect("runs");
        assert_eq!(connected(&mut second).await, key(1).device());
        first_net.shutdown().await;
        second_net.shutdown().await;
    };
    tokio::time::timeout(BOUND, scenario).await.expect("in time");
    for thread in [one.thread, two.thread] {
        thread.join().expect("ends in order");
    }
}

#[tokio::test]
async fn an_interface_that_comes_later_is_used_and_a_firewalled_neighbour_is_heard_and_not_reached() {
    let lan = Lan::new(2);
    let (first_host, second_host) = (lan.name(1), lan.name(2));
    ip(&["-n", &first_host, "addr", "flush", "dev", "eth0"]);
    // Whatever comes in by TCP is dropped without a word.
    ip(&["-n", &second_host, "rule", "add", "iif", "eth0", "ipproto", "tcp", "blackhole", "priority", "1"]);
    // A rule of the host's own addresses would come first.
    ip(&["-n", &second_host, "rule", "add", "lookup", "local", "priority", "2"]);
    ip(&["-n", &second_host, "rule", "del", "lookup", "local", "priority", "0"]);
    let (one, two) = (lan.run(1, true), lan.run(2, true));
    let scenario = async {
        let (first_net, second_net) = tokio::join!(one.started, two.started);
        let (first_net, second_net) = (first_net.expect("starts"), second_net.expect("starts"));
        ip(&["-n", &first_host, "addr", "add", "10.77.0.1/24", "dev", "eth0"]);
        let mut first = one.events;
        let addresses = discover(&mut first, key(2).device(), &mut BTreeSet::new()).await;
        first_net.dial(key(2).device(), addresses).await.expect("runs");
        let cause = loop {
            if let Event::DialFailed { peer, cause } = first.recv().await.expect("network runs") {
                assert_eq!(peer, key(2).device());
                break cause;
            }
        };
        assert!(matches!(cause, DialCause::Unreachable(_)), "{cause}");
        first_net.shutdown().await;
        second_net.shutdown().await;
    };
    tokio::time::timeout(BOUND, scenario).await.expect("in time");
    for thread in [one.thread, two.thread] {
        thread.join().expect("ends in order");
    }
}

// A virtual private network that looks like a LAN: members behind the tunnel would be neighbours, were it not seen.
#[tokio::test]
async fn whoever_is_behind_a_tunnel_is_told_apart() {
    let lan = Lan::new(2);
    for (number, other) in [(1, 2), (2, 1)] {
        // The ends of a tunnel without anything in between: what is sent from them goes by the bridge.
        let (host, own, peer) =
            (lan.name(number), format!("10.99.0.{number}/32"), format!("10.99.0.{other}/32"));
        ip(&["-n", &host, "tuntap", "add", "dev", "vpn0", "mode", "tun"]);
        ip(&["-n", &host, "addr", "add", &own, "dev", "vpn0"]);
        ip(&["-n", &host, "link", "set", "vpn0", "up"]);
        ip(&["-n", &host, "route", "add", &peer, "dev", "eth0", "src", &format!("10.99.0.{number}")]);
    }
    let (one, two) = (lan.run(1, false), lan.run(2, false));
    let scenario = async {
        let (first_net, second_net) = tokio::join!(one.started, two.started);
        let (first_net, second_net) = (first_net.expect("starts"), second_net.expect("starts"));
        let mut first = one.events;
        for (address, expected) in [("/ip4/10.99.0.2/tcp/7700", true), ("/ip4/10.77.0.2/tcp/7700", false)] {
            let address = address.parse().expect("address");
            first_net.dial(key(2).device(), vec![address]).await.expect("runs");
            loop {
                if let Event::Connected { tunnelled, .. } = first.recv().await.expect("network runs") {
                    assert_eq!(tunnelled, expected);
                    break;
                }
            }
            first_net.disconnect(key(2).device()).await.expect("runs");
            while !matches!(first.recv().await.expect("network runs"), Event::Disconnected { .. }) {}
        }
        first_net.shutdown().await;
        second_net.shutdown().await;
    };
    tokio::time::timeout(BOUND, scenario).await.expect("in time");
    for thread in [one.thread, two.thread] {
        thread.join().expect("ends in order");
    }
}
