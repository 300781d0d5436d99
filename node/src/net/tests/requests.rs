//! Requests and answers between two members.

use super::*;
use crate::net::membership::Trust;
use crate::net::traffic::Ledger;
use crate::net::transport::Secure;
use ::protocol::limits;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::Swarm;

/// Answers every request with what `answer` makes of it, until the node ends.
fn answering(node: Node, answer: impl Fn(Channel, Vec<u8>) -> Option<Vec<u8>> + Send + 'static) {
    let Node { net, mut events, .. } = node;
    tokio::spawn(async move {
        // The network ends with its last handle.
        let _net = net;
        while let Some(event) = events.recv().await {
            if let Event::Request { channel, bytes, respond, .. } = event
                && let Some(bytes) = answer(channel, bytes)
            {
                let _ = respond.send(bytes);
            }
        }
    });
}

#[tokio::test]
async fn every_protocol_carries_a_request_and_an_answer() {
    let (one, two) = pair(config(1), config(2)).await;
    let peer = two.device;
    answering(two, |channel, bytes| Some([channel.name().as_bytes(), &bytes].concat()));
    for channel in Channel::ALL {
        let expected = [channel.name().as_bytes(), b"?"].concat();
        assert_eq!(one.net.request(peer, channel, b"?".to_vec()).await, Ok(expected));
    }
    assert_eq!(one.net.request(peer, Channel::Hello, vec![]).await, Ok(b"/patchmesh/hello/2".to_vec()));
}

#[tokio::test]
async fn a_burst_of_requests_is_answered_in_full() {
    let (one, two) = pair(config(1), config(2)).await;
    let peer = two.device;
    answering(two, |_, bytes| Some(bytes));
    let asks = (0..400u32).map(|number| {
        let net = one.net.clone();
        async move {
            let answer = net.request(peer, Channel::Site, number.to_le_bytes().to_vec()).await;
            assert_eq!(answer, Ok(number.to_le_bytes().to_vec()));
        }
    });
    futures::future::join_all(asks).await;
}

#[tokio::test]
async fn large_messages_pass_and_too_large_ones_do_not() {
    let (one, two) = pair(config(1), config(2)).await;
    let peer = two.device;
    answering(two, |_, bytes| match bytes.as_slice() {
        b"bundle" => Some(vec![7; Channel::Metadata.response_limit()]),
        b"too much" => Some(vec![7; Channel::Metadata.response_limit() + 1]),
        other => Some(vec![other.len() as u8]),
    });
    let full = vec![0; limits::MESSAGE_BYTES];
    assert_eq!(one.net.request(peer, Channel::Reports, full).await, Ok(vec![0]));
    let over = vec![0; limits::MESSAGE_BYTES + 1];
    let found = limits::MESSAGE_BYTES + 1;
    let refused = RequestFailure::RequestTooLarge { found, limit: limits::MESSAGE_BYTES };
    assert_eq!(one.net.request(peer, Channel::Reports, over).await, Err(refused));
    let bundle = one.net.request(peer, Channel::Metadata, b"bundle".to_vec()).await.expect("bundle");
    assert_eq!(bundle.len(), Channel::Metadata.response_limit());
    let declined = RequestFailure::Declined { peer, reason: Decline::NoAnswer };
    let answer = one.net.request(peer, Channel::Metadata, b"too much".to_vec()).await;
    assert_eq!(answer.map(|bytes| bytes.len()), Err(declined));
}

#[tokio::test]
async fn no_answer_and_no_reader_are_told_apart() {
    let (one, mut two) = pair(config(1), config(2)).await;
    let peer = two.device;
    let asking = one.net.request(peer, Channel::Grant, vec![1]);
    let dropping = async {
        two.next(|event| matches!(event, Event::Request { .. }).then_some(())).await;
    };
    let (answer, ()) = tokio::join!(asking, dropping);
    assert_eq!(answer, Err(RequestFailure::Declined { peer, reason: Decline::NoAnswer }));
    // Nobody reads the events now: the request runs out of its time and says so.
    let mut held = Vec::new();
    let asking = one.net.request(peer, Channel::Grant, vec![2]);
    let holding =
        async { held.push(two.next(|event| matches!(event, Event::Request { .. }).then_some(event)).await) };
    let (answer, ()) = tokio::join!(asking, holding);
    assert_eq!(answer, Err(RequestFailure::Declined { peer, reason: Decline::TooSlow }));
    let nobody = key(3).device();
    assert_eq!(
        one.net.request(nobody, Channel::Hello, vec![]).await,
        Err(RequestFailure::NotConnected(nobody))
    );
}

#[tokio::test]
async fn a_connection_that_ends_ends_its_requests() {
    let (mut one, mut two) = pair(config(1), config(2)).await;
    let peer = two.device;
    let net = one.net.clone();
    let asking = net.request(peer, Channel::Hello, vec![1]);
    let cutting = async {
        let held = two.next(|event| matches!(event, Event::Request { .. }).then_some(event)).await;
        one.net.disconnect(peer).await.expect("runs");
        one.disconnected().await;
        drop(held);
    };
    let (answer, ()) = tokio::join!(asking, cutting);
    assert_eq!(answer, Err(RequestFailure::Disconnected(peer)));
}

#[tokio::test]
async fn a_member_of_another_version_is_named_as_such() {
    let mut one = Node::member(1).await;
    // A member that speaks none of our protocols.
    let trust = Arc::new(Trust::new(Arc::new(|| NOW), verifier(&[]), &config(2).certificate));
    let secure = Secure::new(&key(2), trust, Arc::<Ledger>::default(), BOUND).expect("TLS");
    let peer = key(2).device();
    let settings = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(BOUND);
    let id = peer_id(peer).expect("key");
    let mut other = Swarm::new(secure.transport(), libp2p::swarm::dummy::Behaviour, id, settings);
    other.dial(one.net.listen_addresses()[0].clone()).expect("dials");
    tokio::spawn(async move { while other.next().await.is_some() {} });
    assert_eq!(one.connected().await, peer);
    let answer = one.net.request(peer, Channel::Site, vec![1]).await;
    assert_eq!(answer, Err(RequestFailure::Unsupported { peer, channel: Channel::Site }));
}

#[tokio::test]
async fn a_hostile_member_is_declined_and_bounded() {
    let idle = Duration::from_secs(4);
    let patient = Config { patience: Patience { idle, ..config(2).patience }, ..config(2) };
    let (one, mut two) = pair(config(1), patient).await;
    let open = || one.net.0.opener.open(two.device, request::stream_name(Channel::Hello));
    // Announces 4 GiB: declined before a byte of it is read.
    let mut stream = open().await.expect("opens");
    stream.write_all(&u32::MAX.to_le_bytes()).await.expect("writes");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.expect("closed in order");
    assert_eq!(heard, [1]);
    // More streams than it may have, each with half a request: some are refused at once, none reaches the owner.
    let mut held = Vec::new();
    for _ in 0..limits::STREAMS_PER_PEER + 4 {
        let mut stream = open().await.expect("opens");
        // Both fail where it was refused already.
        let _ = stream.write_all(&[9, 0, 0, 0, 7]).await;
        let _ = stream.flush().await;
        held.push(stream);
    }
    let began = std::time::Instant::now();
    let ends = held.iter_mut().map(|stream| async move {
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        assert!(heard.is_empty());
        began.elapsed()
    });
    let ends = futures::future::join_all(ends).await;
    let early = ends.iter().filter(|end| **end < idle / 2).count();
    assert!(early >= 4, "{early} refused at once");
    assert!(ends.iter().all(|end| *end < idle * 3));
    // And then it is welcome again.
    let (net, peer) = (one.net.clone(), two.device);
    let asking = net.request(peer, Channel::Hello, vec![1]);
    let answering = two.next(|event| match event {
        Event::Request { bytes, respond, .. } => Some((bytes, respond.send(vec![2]))),
        _ => None,
    });
    let (answer, heard) = tokio::join!(asking, answering);
    assert_eq!((answer, heard), (Ok(vec![2]), (vec![1], Ok(()))));
}
