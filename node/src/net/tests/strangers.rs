//! What strangers get: nothing. proves M15

use super::*;
use crate::net::identity::keypair;
use ::protocol::membership::Rejection;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, Transport as _};
use libp2p::core::upgrade::{OutboundConnectionUpgrade as _, Version};
use libp2p::swarm::{SwarmEvent, dial_opts::DialOpts};
use libp2p::{Swarm, tcp, tls, yamux};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

async fn rejection(node: &mut Node) -> Rejection {
    node.next(|event| match event {
        Event::Rejected { rejection, by_them: false, .. } => Some(rejection),
        Event::Connected { .. } | Event::Request { .. } => panic!("a stranger got in"),
        _ => None,
    })
    .await
}

fn socket(node: &Node) -> std::net::SocketAddr {
    match address::endpoint(&node.net.listen_addresses()[0]) {
        Some(address::Endpoint::Socket(socket)) => socket,
        other => panic!("{other:?}"),
    }
}

async fn encrypted(node: &Node, number: u8) -> tls::TlsStream<Compat<TcpStream>> {
    let tls = tls::Config::new(&keypair(&key(number))).expect("TLS");
    let stream = TcpStream::connect(socket(node)).await.expect("connects").compat();
    let (peer, stream) = tls.upgrade_outbound(stream, "tls").await.expect("TLS alone is open to all");
    assert_eq!(device(&peer), Some(node.device));
    stream
}

/// TLS as we do it, then yamux at once: a libp2p node of today that lacks nothing but membership.
fn without_membership(number: u8) -> Boxed<(PeerId, StreamMuxerBox)> {
    let tls = tls::Config::new(&keypair(&key(number))).expect("TLS");
    let tcp = tcp::tokio::Transport::new(tcp::Config::new());
    tcp.and_then(move |stream, _| async move {
        let (peer, stream) = tls.upgrade_outbound(stream, "tls").await.map_err(std::io::Error::other)?;
        let muxer = yamux::Config::default().upgrade_outbound(stream, "yamux").await?;
        Ok::<_, std::io::Error>((peer, StreamMuxerBox::new(muxer)))
    })
    .boxed()
}

fn ordinary(number: u8) -> Boxed<(PeerId, StreamMuxerBox)> {
    tcp::tokio::Transport::new(tcp::Config::new())
        .upgrade(Version::V1)
        .authenticate(tls::Config::new(&keypair(&key(number))).expect("TLS"))
        .multiplex(yamux::Config::default())
        .boxed()
}

/// Dials with streams of every protocol waiting to be opened; returns once the connection is gone.
async fn probe(transport: Boxed<(PeerId, StreamMuxerBox)>, node: &Node) {
    let behaviour = libp2p_stream::Behaviour::new();
    let control = behaviour.new_control();
    let local = keypair(&key(9)).public().to_peer_id();
    let mut swarm = Swarm::new(transport, behaviour, local, libp2p::swarm::Config::with_tokio_executor());
    let peer = peer_id(node.device).expect("key");
    swarm.dial(DialOpts::peer_id(peer).addresses(node.net.listen_addresses()).build()).expect("dials");
    let names = Channel::ALL.into_iter().map(request::stream_name);
    let names = names.chain([
        super::super::pieces::PROTOCOL,
        libp2p::StreamProtocol::new("/patchmesh/enrol/1"),
        libp2p::StreamProtocol::new("/ipfs/id/1.0.0"),
        libp2p::StreamProtocol::new("/ipfs/ping/1.0.0"),
        libp2p::StreamProtocol::new("/meshsub/1.1.0"),
    ]);
    let probes = names.map(|name| {
        let mut control = control.clone();
        async move { assert!(control.open_stream(peer, name.clone()).await.is_err(), "{name} was opened") }
    });
    let driving = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. } => break,
                _ => {}
            }
        }
        // Whatever was still asked for learns that the connection is gone.
        drop(swarm);
    };
    let all = futures::future::join(driving, futures::future::join_all(probes));
    tokio::time::timeout(BOUND, all).await.expect("the connection ends");
}

#[tokio::test]
async fn no_protocol_answers_a_stranger() {
    let mut node = Node::member(1).await;
    probe(without_membership(9), &node).await;
    assert_eq!(rejection(&mut node).await, Rejection::Malformed);
    // One that negotiates TLS by name does not even reach the check.
    probe(ordinary(9), &node).await;
    assert!(node.net.traffic().is_empty());
    assert!(node.net.stranger_traffic().iter().any(|(_, traffic)| traffic.received > 0));
}

#[tokio::test]
async fn silence_is_cut_off_in_time() {
    let mut node = Node::member(1).await;
    let began = std::time::Instant::now();
    // Silent before TLS, after TLS, and in the middle of the certificate.
    let mut bare = TcpStream::connect(socket(&node)).await.expect("connects").compat();
    let mut quiet = encrypted(&node, 9).await;
    let mut slow = encrypted(&node, 9).await;
    slow.write_all(&[1, 200, 0, 0, 0, 7]).await.expect("writes");
    slow.flush().await.expect("flushes");
    for _ in 0..3 {
        assert_eq!(rejection(&mut node).await, Rejection::Silent);
    }
    let patience = config(1).patience.stranger;
    assert!(began.elapsed() >= patience && began.elapsed() < patience * 3, "{:?}", began.elapsed());
    let mut rest = Vec::new();
    // The one who reached TLS gets the node's certificate, and is told why it ends.
    quiet.read_to_end(&mut rest).await.expect("ends in order");
    assert_eq!(rest.last(), Some(&8));
    assert!(slow.read_to_end(&mut rest).await.is_ok());
    assert!(bare.read_to_end(&mut rest).await.is_ok());
}

// Strangers from many addresses, who would stay for longer than this test waits, keep no member out.
#[tokio::test]
async fn a_crowd_of_strangers_keeps_no_member_out() {
    let patience = Patience { stranger: Duration::from_secs(600), ..config(1).patience };
    let mut node = Node::start(Config { patience, ..config(1) }).await;
    let crowd = half_open(8, ::protocol::limits::PENDING_CONNECTIONS / 4, socket(&node)).await;
    Node::member(2).await.connect(&mut node).await;
    drop(crowd);
}

#[tokio::test]
async fn hostile_certificates_are_malformed() {
    let mut node = Node::member(1).await;
    let huge = [&[1][..], &u32::MAX.to_le_bytes()].concat();
    let nonsense = [&[1][..], &5u32.to_le_bytes(), b"hello"].concat();
    for bytes in [huge, nonsense, vec![2, 0, 0, 0, 0], b"\x13/multistream/1.0.0\n".to_vec()] {
        let mut stream = encrypted(&node, 9).await;
        stream.write_all(&bytes).await.expect("writes");
        stream.flush().await.expect("flushes");
        assert_eq!(rejection(&mut node).await, Rejection::Malformed, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_members_certificate_is_worth_nothing_to_another() {
    let mut node = Node::member(1).await;
    let stolen = Certificate::issue(&member(2), &issuer()).to_bytes();
    let mut stream = encrypted(&node, 9).await;
    let shown = [&[1][..], &(stolen.len() as u32).to_le_bytes(), &stolen].concat();
    stream.write_all(&shown).await.expect("writes");
    stream.flush().await.expect("flushes");
    assert_eq!(rejection(&mut node).await, Rejection::OtherDevice);
}

#[tokio::test]
async fn whoever_ignores_the_verdict_is_cut_off() {
    let mut node = Node::member(1).await;
    let forged = Certificate::issue(&member(9), &key(9)).to_bytes();
    let mut stream = encrypted(&node, 9).await;
    // A certificate of its own making, a verdict that accepts us, and at once yamux: opening a stream.
    let opening = [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
    let all = [&[1][..], &(forged.len() as u32).to_le_bytes(), &forged, &[0], &opening].concat();
    stream.write_all(&all).await.expect("writes");
    stream.flush().await.expect("flushes");
    assert_eq!(rejection(&mut node).await, Rejection::UnknownIssuer);
    let mut heard = Vec::new();
    // Cut off in order or not: what comes back is the node's certificate and its verdict, and not one byte of yamux.
    let _ = stream.read_to_end(&mut heard).await;
    let own = Certificate::issue(&member(1), &issuer()).to_bytes();
    assert_eq!(heard, [&[1][..], &(own.len() as u32).to_le_bytes(), &own, &[4]].concat());
}
