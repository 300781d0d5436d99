//! The traffic counters against a proxy that counts for itself.

use super::*;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
pub(super) struct Counts {
    pub(super) up: AtomicU64,
    pub(super) down: AtomicU64,
}

/// A TCP proxy in front of `target`: its address, what it carried, and a switch that cuts its connections.
pub(super) async fn proxy(target: SocketAddr) -> (Multiaddr, Arc<Counts>, CancellationToken) {
    stalling_proxy(target, u64::MAX).await
}

/// The same, but it carries nothing more towards the dialler after `most` bytes, without ending the connection.
pub(super) async fn stalling_proxy(
    target: SocketAddr,
    most: u64,
) -> (Multiaddr, Arc<Counts>, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = address::of_socket(listener.local_addr().expect("address"));
    let counts = Arc::new(Counts::default());
    let cut = CancellationToken::new();
    let (shared, switch) = (counts.clone(), cut.clone());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(target).await.expect("target listens");
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            let (there, back) = (shared.clone(), shared.clone());
            let switch = switch.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = switch.cancelled() => {}
                    _ = futures::future::join(
                        copy(from_client, to_server, u64::MAX, |count| there.up.fetch_add(count, Ordering::Relaxed)),
                        copy(from_server, to_client, most, |count| back.down.fetch_add(count, Ordering::Relaxed)),
                    ) => {}
                }
            });
        }
    });
    (address, counts, cut)
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    most: u64,
    count: impl Fn(u64) -> u64,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if count(read as u64) + read as u64 > most {
            return std::future::pending().await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

fn within_one_percent(counted: u64, carried: u64) {
    assert!(
        carried > 0 && counted.abs_diff(carried) * 100 <= carried,
        "{counted} counted, {carried} carried"
    );
}

#[tokio::test]
async fn counters_equal_what_the_link_carried() {
    let (mut one, mut two) = (Node::member(1).await, Node::member(2).await);
    let Some(address::Endpoint::Socket(target)) = address::endpoint(&two.net.listen_addresses()[0]) else {
        panic!("numeric")
    };
    let (address, counts, _cut) = proxy(target).await;
    one.net.dial(two.device, vec![address]).await.expect("runs");
    assert_eq!((one.connected().await, two.connected().await), (two.device, one.device));
    let peer = one.device;
    let sizes = [3usize, 70_000, 2_000_000];
    let (net, device) = (one.net.clone(), two.device);
    for size in sizes {
        let asking = net.request(device, Protocol::Reports, vec![5; size]);
        let answering = two.next(|event| match event {
            Event::Request { respond, bytes, .. } => Some(respond.send(vec![6; bytes.len() / 2])),
            _ => None,
        });
        let (answer, sent) = tokio::join!(asking, answering);
        assert_eq!((answer.map(|bytes| bytes.len()), sent), (Ok(size / 2), Ok(())));
    }
    one.net.disconnect(device).await.expect("runs");
    assert_eq!((one.disconnected().await, two.disconnected().await), (device, peer));
    let (up, down) = (counts.up.load(Ordering::Relaxed), counts.down.load(Ordering::Relaxed));
    // Also after the connection ended.
    let of = |node: &Node, device| {
        node.net.traffic().into_iter().find(|(of, _)| *of == device).expect("counted").1
    };
    let (ours, theirs) = (of(&one, device), of(&two, peer));
    within_one_percent(ours.sent, up);
    within_one_percent(ours.received, down);
    within_one_percent(theirs.received, up);
    within_one_percent(theirs.sent, down);
}
