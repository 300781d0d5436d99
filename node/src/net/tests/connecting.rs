//! Who gets a connection, and what the others are told.

use super::*;
use ::protocol::membership::Rejection;

async fn rejected(node: &mut Node) -> (Rejection, bool) {
    node.next(|event| match event {
        Event::Rejected { rejection, by_them, .. } => Some((rejection, by_them)),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn two_members_connect_and_know_each_other() {
    let (mut one, mut two) = (Node::member(1).await, Node::member(2).await);
    one.net.dial(two.device, two.net.listen_addresses()).await.expect("runs");
    for (node, dialled, expected) in [(&mut one, true, member(2)), (&mut two, false, member(1))] {
        let (found, outbound) = node
            .next(|event| match event {
                Event::Connected { member, outbound, .. } => Some((*member, outbound)),
                _ => None,
            })
            .await;
        assert_eq!((found, outbound), (expected, dialled));
    }
    one.net.disconnect(two.device).await.expect("runs");
    assert_eq!((one.disconnected().await, two.disconnected().await), (two.device, one.device));
}

#[tokio::test]
async fn both_dial_and_each_is_told_once() {
    for _ in 0..6 {
        let (mut one, mut two) = (Node::member(1).await, Node::member(2).await);
        let (there, back) = (one.net.listen_addresses(), two.net.listen_addresses());
        let (first, second) = tokio::join!(one.net.dial(two.device, back), two.net.dial(one.device, there));
        first.and(second).expect("runs");
        assert_eq!((one.connected().await, two.connected().await), (two.device, one.device));
        one.net.shutdown().await;
        let told = two
            .next(|event| match event {
                Event::Connected { .. } => Some("connected twice"),
                Event::Disconnected { .. } => Some("disconnected"),
                _ => None,
            })
            .await;
        assert_eq!(told, "disconnected");
    }
}

/// Every rejection that a certificate can earn, as the one who refuses and the one who is refused see it. proves M15
#[tokio::test]
async fn each_rejection_reaches_both_ends() {
    let stranger = SigningKey::from_seed(&[9; 32]);
    let cases = [
        (Rejection::OtherFleet, {
            let elsewhere = Member { fleet: FleetId::from_bytes([2; 32]), ..member(2) };
            Certificate::issue(&elsewhere, &issuer())
        }),
        (Rejection::UnknownIssuer, Certificate::issue(&member(2), &stranger)),
        (Rejection::Expired, Certificate::issue(&Member { expires: NOW, ..member(2) }, &issuer())),
        (Rejection::NotYetValid, {
            let early = Member { issued: NOW.plus_days(3), expires: NOW.plus_days(9), ..member(2) };
            Certificate::issue(&early, &issuer())
        }),
        (Rejection::OtherDevice, Certificate::issue(&member(3), &issuer())),
    ];
    for (rejection, certificate) in cases {
        let mut good = Node::member(1).await;
        let mut bad = Node::member(2).await;
        bad.net.set_certificate(&certificate);
        expect_rejection(&mut good, &mut bad, rejection).await;
        expect_rejection_of_dialled(&mut good, &mut bad, rejection).await;
    }
}

async fn expect_rejection(good: &mut Node, bad: &mut Node, rejection: Rejection) {
    bad.net.dial(good.device, good.net.listen_addresses()).await.expect("runs");
    assert_eq!(rejected(good).await, (rejection, false));
    assert_eq!(rejected(bad).await, (rejection, true));
    assert_eq!(dial_failed(bad).await, DialCause::Rejected { rejection, by_them: true });
}

async fn expect_rejection_of_dialled(good: &mut Node, bad: &mut Node, rejection: Rejection) {
    good.net.dial(bad.device, bad.net.listen_addresses()).await.expect("runs");
    assert_eq!(rejected(good).await, (rejection, false));
    assert_eq!(dial_failed(good).await, DialCause::Rejected { rejection, by_them: false });
    assert_eq!(rejected(bad).await, (rejection, true));
}

async fn dial_failed(node: &mut Node) -> DialCause {
    node.next(|event| match event {
        Event::DialFailed { cause, .. } => Some(cause),
        _ => None,
    })
    .await
}

// proves M15
#[tokio::test]
async fn revocation_takes_effect_on_running_connections_and_new_ones() {
    let (mut one, mut two) = pair(config(1), config(2)).await;
    one.net.replace_verifier(verifier(&[two.device]));
    one.net.recheck().await.expect("runs");
    assert_eq!(rejected(&mut one).await, (Rejection::Revoked, false));
    assert_eq!((one.disconnected().await, two.disconnected().await), (two.device, one.device));
    expect_rejection(&mut one, &mut two, Rejection::Revoked).await;
}

#[tokio::test]
async fn failed_dials_say_why() {
    let (mut one, two) = (Node::member(1).await, Node::member(2).await);
    let nobody = key(3).device();
    one.net.dial(nobody, Vec::new()).await.expect("runs");
    assert_eq!(dial_failed(&mut one).await, DialCause::NoAddress);
    let (_kept, silent) = nobody_listens();
    one.net.dial(nobody, vec![address::of_socket(silent)]).await.expect("runs");
    let cause = dial_failed(&mut one).await;
    assert!(matches!(&cause, DialCause::Unreachable(text) if text.contains("refused")), "{cause}");
    one.net.dial(nobody, two.net.listen_addresses()).await.expect("runs");
    assert_eq!(dial_failed(&mut one).await, DialCause::OtherDevice(Some(two.device)));
}

#[tokio::test]
async fn a_taken_port_is_named_with_a_remedy() {
    let one = Node::member(1).await;
    let taken = one.net.listen_addresses();
    let error = start(Config { listen: taken.clone(), ..config(2) }).await.err().expect("port is taken");
    assert!(matches!(&error, StartError::PortTaken { address } if *address == taken[0]));
    assert!(error.to_string().contains("choose another port"), "{error}");
    let elsewhere = vec!["/ip4/192.0.2.1/tcp/0".parse().expect("address")];
    assert!(matches!(start(Config { listen: elsewhere, ..config(2) }).await, Err(StartError::Listen { .. })));
    let odd = vec!["/ip4/127.0.0.1/udp/0".parse().expect("address")];
    assert!(matches!(start(Config { listen: odd, ..config(2) }).await, Err(StartError::BadAddress(_))));
    let certificate = Certificate::issue(&member(3), &issuer());
    assert!(matches!(start(Config { certificate, ..config(2) }).await, Err(StartError::OtherCertificate)));
}

#[tokio::test]
async fn shutdown_tells_the_peers() {
    let (mut one, mut two) = pair(config(1), config(2)).await;
    one.net.shutdown().await;
    assert_eq!(two.disconnected().await, one.device);
    while one.events.recv().await.is_some() {}
    assert_eq!(one.net.recheck().await, Err(Stopped));
    assert_eq!(
        two.net.request(one.device, Channel::Hello, vec![]).await,
        Err(RequestFailure::NotConnected(one.device))
    );
}

#[tokio::test]
async fn hints_reach_whoever_listens() {
    let (mut one, two) = pair(config(1), config(2)).await;
    one.net.subscribe("site/utrecht").await.expect("runs");
    let publishing = async {
        // Nobody is known to listen until the subscription has travelled.
        while two.net.publish("site/utrecht", b"news".to_vec()).await == Err(PublishFailure::Nobody) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, publishing).await.expect("somebody listens");
    let hint = one
        .next(|event| match event {
            Event::Gossip { from, topic, bytes } => Some((from, topic, bytes)),
            _ => None,
        })
        .await;
    assert_eq!(hint, (two.device, "site/utrecht".to_owned(), b"news".to_vec()));
    let large = two.net.publish("site/utrecht", vec![0; 1 << 20]).await;
    assert_eq!(large, Err(PublishFailure::TooLarge));
}

// proves N7: off means that not even the protocol is there, and on needs no restart
#[tokio::test]
async fn gossip_comes_on_while_the_node_runs() {
    let off = Config { gossip: false, ..config(1) };
    let (mut one, mut two) = pair(off, config(2)).await;
    let refused = one.net.publish("site/utrecht", b"news".to_vec()).await;
    assert!(matches!(refused, Err(PublishFailure::Unavailable(_))), "{refused:?}");
    one.net.subscribe("site/utrecht").await.expect("runs");
    assert_eq!((one.disconnected().await, two.disconnected().await), (two.device, one.device));
    one.connect(&mut two).await;
    let publishing = async {
        while two.net.publish("site/utrecht", b"news".to_vec()).await == Err(PublishFailure::Nobody) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, publishing).await.expect("somebody listens");
    let hint = |event| match event {
        Event::Gossip { bytes, .. } => Some(bytes),
        _ => None,
    };
    assert_eq!(one.next(hint).await, b"news");
}

#[tokio::test]
async fn a_peer_that_comes_back_replaces_its_dead_connection() {
    let (one, mut two) = pair(config(1), config(2)).await;
    // The same device again, as after a loss of power that nobody on the network noticed.
    let mut again = Node::start(config(1)).await;
    let returning = async {
        loop {
            again.net.dial(two.device, two.net.listen_addresses()).await.expect("runs");
            again.connected().await;
            let told = two.events.try_recv();
            if let Ok(Event::Disconnected { peer }) = told {
                return peer;
            }
            assert!(!matches!(told, Ok(Event::Connected { .. })), "connected twice");
            again.net.disconnect(two.device).await.expect("runs");
            again.disconnected().await;
        }
    };
    assert_eq!(
        tokio::time::timeout(BOUND, returning).await.expect("the old connection is given up"),
        one.device
    );
    assert_eq!(two.connected().await, one.device);
    drop(one);
}

#[tokio::test]
async fn an_owner_that_does_not_read_can_still_give_commands() {
    let mut one = Node::member(1).await;
    let nobody = key(3).device();
    let many = 3 * ::protocol::limits::NET_QUEUE;
    let telling = async {
        for _ in 0..many {
            one.net.dial(nobody, Vec::new()).await.expect("runs");
        }
    };
    tokio::time::timeout(BOUND, telling).await.expect("commands are taken");
    for _ in 0..many {
        assert_eq!(dial_failed(&mut one).await, DialCause::NoAddress);
    }
}
