//! Joining a fleet over the enrolment address.

use super::*;
use ::protocol::membership::{ActivationKey, EnrolGrant, EnrolRefusal, EnrolRequest};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

fn request() -> EnrolRequest {
    EnrolRequest { secret: [3; 16], host: HostName::new("host").expect("host"), system: member(2).system }
}

async fn registrar() -> (Node, ActivationKey) {
    registrar_with(config(1).patience.stranger).await
}

async fn registrar_with(stranger: Duration) -> (Node, ActivationKey) {
    let enrol_listen = Some("/ip4/127.0.0.1/tcp/0".parse().expect("address"));
    let patience = Patience { stranger, ..config(1).patience };
    let node = Node::start(Config { enrol_listen, patience, ..config(1) }).await;
    let address = node.net.enrol_address().expect("bound").to_string();
    let addresses = vec!["nonsense".to_owned(), address];
    let key = ActivationKey {
        fleet: FleetId::from_bytes([1; 32]),
        registrar: node.device,
        addresses,
        secret: [3; 16],
    };
    (node, key)
}

async fn answer(node: &mut Node, answer: Result<EnrolGrant, EnrolRefusal>) -> (DeviceId, EnrolRequest) {
    let (from, request, respond) = node
        .next(|event| match event {
            Event::Enrol { from, request, respond } => Some((from, request, respond)),
            _ => None,
        })
        .await;
    respond.send(answer).expect("the stranger waits");
    (from, request)
}

// proves N2
#[tokio::test]
async fn a_stranger_joins_and_then_connects() {
    let (mut node, activation) = registrar().await;
    let grant = EnrolGrant {
        certificate: Certificate::issue(&member(2), &issuer()),
        root: vec![1; 100_000],
        services: Services::default(),
    };
    let (identity, asked) = (key(2), request());
    let joining = enrol(&identity, &activation, &asked);
    let (joined, heard) = tokio::join!(joining, answer(&mut node, Ok(grant.clone())));
    assert_eq!(heard, (key(2).device(), request()));
    let joined = joined.expect("joined");
    assert_eq!(joined, grant);
    let mut joined = Node::start(Config { certificate: joined.certificate, ..config(2) }).await;
    joined.connect(&mut node).await;
}

#[tokio::test]
async fn refusals_and_wrong_registrars_are_told_apart() {
    let (mut node, activation) = registrar().await;
    let (identity, asked) = (key(2), request());
    let joining = enrol(&identity, &activation, &asked);
    let (joined, _) = tokio::join!(joining, answer(&mut node, Err(EnrolRefusal::Token)));
    assert!(matches!(joined, Err(EnrolError::Refused(EnrolRefusal::Token))));
    let other = ActivationKey { registrar: key(7).device(), ..activation.clone() };
    let refused = enrol(&identity, &other, &asked).await;
    assert!(matches!(refused, Err(EnrolError::OtherRegistrar { .. })));
    let (_kept, silent) = nobody_listens();
    let nobody =
        ActivationKey { addresses: vec![address::of_socket(silent).to_string()], ..activation.clone() };
    let refused = enrol(&identity, &nobody, &asked).await;
    assert!(matches!(refused, Err(EnrolError::Unreachable { .. })));
    let none = ActivationKey { addresses: vec!["nonsense".to_owned()], ..activation };
    assert!(matches!(enrol(&identity, &none, &asked).await, Err(EnrolError::NoAddress)));
}

#[tokio::test]
async fn a_registrar_that_does_not_decide_is_busy() {
    let (mut node, activation) = registrar().await;
    let (identity, asked) = (key(2), request());
    let joining = enrol(&identity, &activation, &asked);
    let dropping = node.next(|event| matches!(event, Event::Enrol { .. }).then_some(()));
    let (joined, ()) = tokio::join!(joining, dropping);
    assert!(matches!(joined, Err(EnrolError::Refused(EnrolRefusal::Busy))));
}

// proves M15
#[tokio::test]
async fn the_enrolment_address_gives_the_silent_nothing() {
    let (node, _) = registrar().await;
    let Some(address::Endpoint::Socket(socket)) =
        address::endpoint(&node.net.enrol_address().expect("bound"))
    else {
        panic!("numeric")
    };
    // More than there are places: all are cut off in time, and then there is room again.
    let mut silent = Vec::new();
    for _ in 0..::protocol::limits::ENROL_CONNECTIONS + 4 {
        silent.push(TcpStream::connect(socket).await.expect("connects"));
    }
    for mut stream in silent {
        let mut heard = Vec::new();
        let read = tokio::time::timeout(BOUND, stream.read_to_end(&mut heard)).await.expect("cut off");
        assert!(read.is_err() || heard.is_empty());
    }
}

// Who begins to enrol and never ends gives way to who comes from elsewhere.
#[tokio::test]
async fn half_open_enrolments_keep_nobody_from_joining() {
    let (mut node, activation) = registrar_with(Duration::from_secs(600)).await;
    let Some(address::Endpoint::Socket(socket)) =
        address::endpoint(&node.net.enrol_address().expect("bound"))
    else {
        panic!("numeric")
    };
    let silent = half_open(4, ::protocol::limits::ENROL_CONNECTIONS as u32, socket).await;
    let (identity, asked) = (key(2), request());
    let joining = enrol(&identity, &activation, &asked);
    let (joined, _) = tokio::join!(joining, answer(&mut node, Err(EnrolRefusal::Token)));
    assert!(matches!(joined, Err(EnrolError::Refused(EnrolRefusal::Token))), "{joined:?}");
    drop(silent);
}

#[tokio::test]
async fn a_registrar_that_is_no_registrar_is_an_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = address::of_socket(listener.local_addr().expect("address")).to_string();
    let activation = ActivationKey {
        fleet: FleetId::from_bytes([1; 32]),
        registrar: key(1).device(),
        addresses: vec![address],
        secret: [3; 16],
    };
    let patience = Patience { answer: Duration::from_millis(300), ..config(1).patience };
    let (identity, asked) = (key(2), request());
    let joining = enrol_with(&identity, &activation, &asked, patience);
    let accepting = async { listener.accept().await.expect("accepts") };
    let (joined, held) = tokio::join!(joining, accepting);
    assert!(matches!(joined, Err(EnrolError::TimedOut(_))));
    drop(held);
}
