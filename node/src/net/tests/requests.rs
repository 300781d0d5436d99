//! Requests and answers between two members.

use super::*;
use ::protocol::limits;

/// Answers every request with what `answer` makes of it, until the node ends.
fn answering(mut node: Node, answer: impl Fn(Protocol, Vec<u8>) -> Option<Vec<u8>> + Send + 'static) {
    tokio::spawn(async move {
        while let Some(event) = node.events.recv().await {
            if let Event::Request { protocol, bytes, respond, .. } = event
                && let Some(bytes) = answer(protocol, bytes)
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
    answering(two, |protocol, bytes| Some([protocol.name().as_bytes(), &bytes].concat()));
    for protocol in Protocol::ALL {
        let expected = [protocol.name().as_bytes(), b"?"].concat();
        assert_eq!(one.net.request(peer, protocol, b"?".to_vec()).await, Ok(expected));
    }
    assert_eq!(one.net.request(peer, Protocol::Hello, vec![]).await, Ok(b"/patchmesh/hello/1".to_vec()));
}

#[tokio::test]
async fn a_burst_of_requests_is_answered_in_full() {
    let (one, two) = pair(config(1), config(2)).await;
    let peer = two.device;
    answering(two, |_, bytes| Some(bytes));
    let asks = (0..400u32).map(|number| {
        let net = one.net.clone();
        async move {
            let answer = net.request(peer, Protocol::Site, number.to_le_bytes().to_vec()).await;
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
        b"bundle" => Some(vec![7; limits::BUNDLE_BYTES]),
        b"too much" => Some(vec![7; limits::BUNDLE_BYTES + 1]),
        other => Some(vec![other.len() as u8]),
    });
    let full = vec![0; limits::MESSAGE_BYTES];
    assert_eq!(one.net.request(peer, Protocol::Reports, full).await, Ok(vec![0]));
    let over = vec![0; limits::MESSAGE_BYTES + 1];
    let found = limits::MESSAGE_BYTES + 1;
    let refused = RequestFailure::RequestTooLarge { found, limit: limits::MESSAGE_BYTES };
    assert_eq!(one.net.request(peer, Protocol::Reports, over).await, Err(refused));
    let bundle = one.net.request(peer, Protocol::Metadata, b"bundle".to_vec()).await.expect("bundle");
    assert_eq!(bundle.len(), limits::BUNDLE_BYTES);
    let declined = RequestFailure::Declined { peer, reason: Decline::NoAnswer };
    assert_eq!(one.net.request(peer, Protocol::Metadata, b"too much".to_vec()).await, Err(declined));
}

#[tokio::test]
async fn no_answer_and_no_reader_are_told_apart() {
    let (one, mut two) = pair(config(1), config(2)).await;
    let peer = two.device;
    let asking = one.net.request(peer, Protocol::Grant, vec![1]);
    let dropping = async {
        two.next(|event| matches!(event, Event::Request { .. }).then_some(())).await;
    };
    let (answer, ()) = tokio::join!(asking, dropping);
    assert_eq!(answer, Err(RequestFailure::Declined { peer, reason: Decline::NoAnswer }));
    // Nobody reads the events now: the request runs out of its time and says so.
    let mut held = Vec::new();
    let asking = one.net.request(peer, Protocol::Grant, vec![2]);
    let holding = async { held.push(two.next(|event| matches!(event, Event::Request { .. }).then_some(event)).await) };
    let (answer, ()) = tokio::join!(asking, holding);
    assert_eq!(answer, Err(RequestFailure::Declined { peer, reason: Decline::TooSlow }));
    let nobody = key(3).device();
    assert_eq!(one.net.request(nobody, Protocol::Hello, vec![]).await, Err(RequestFailure::NotConnected(nobody)));
}

#[tokio::test]
async fn a_connection_that_ends_ends_its_requests() {
    let (mut one, mut two) = pair(config(1), config(2)).await;
    let peer = two.device;
    let net = one.net.clone();
    let asking = net.request(peer, Protocol::Hello, vec![1]);
    let cutting = async {
        let held = two.next(|event| matches!(event, Event::Request { .. }).then_some(event)).await;
        one.net.disconnect(peer).await.expect("runs");
        one.disconnected().await;
        drop(held);
    };
    let (answer, ()) = tokio::join!(asking, cutting);
    assert_eq!(answer, Err(RequestFailure::Disconnected(peer)));
}
