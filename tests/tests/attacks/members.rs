//! Members that are not what they should be: of another system, of another site, revoked; and what they send.

use super::fleet::{Fleet, Node, Patch, SITE, system};
use super::hostile::Hostile;
use super::peers::{grant, hello, news};
use super::until;
use node::net::RequestFailure;
use protocol::codec;
use protocol::digest::{Blake3Root, Sha256};
use protocol::limits;
use protocol::reason::Reason;
use protocol::report::{Body, FIRST, Incident, IncidentKind, Report, SignedReport, Text};
use protocol::signature::SigningKey;
use protocol::wire::{Announce, Channel, Request, Response, Versions};

fn metadata() -> Request {
    Request::Metadata(protocol::trust::Request::default())
}

fn announce() -> Request {
    let addresses = vec!["/ip4/127.0.0.1/tcp/9".to_owned()];
    Request::Announce(Announce {
        addresses,
        versions: Versions::default(),
        utc_offset_minutes: 0,
        members: 64,
        metadata: None,
        alone: false,
    })
}

/// Headquarters, a device that lacks a patch which is not approved yet, and a hostile member of its site.
struct Scene {
    fleet: Fleet,
    patch: Patch,
    hq: Node,
    victim: Node,
    hostile: Hostile,
}

impl Scene {
    /// The hostile member is, by its certificate, of this distribution.
    async fn before_the_approval(distribution: &str) -> Scene {
        let mut fleet = Fleet::new();
        let patch = fleet.build("alpha", 50_000, true, &system("debian"));
        fleet.list(&patch.manifest);
        fleet.publish();
        let hq = fleet.headquarters().await;
        let victim = fleet.branch(1, SITE, &[&patch]).await;
        victim.metadata(1).await;
        let hostile = Hostile::join(&fleet, 99, SITE, &system(distribution)).await;
        Scene { fleet, patch, hq, victim, hostile }
    }

    async fn the_approved_patch_is_installed(&mut self) {
        self.fleet.approve(&self.patch.manifest);
        self.fleet.serve(&self.hq, &[&self.patch]).await;
        self.victim.deployment(&self.patch.id(), "installed").await;
    }

    async fn end(self) {
        self.victim.stop().await;
        self.hq.stop().await;
    }
}

// proves N9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_share_what_is_for_their_own_system_with_their_own_kind() {
    let mut fleet = Fleet::new();
    let (debian, ubuntu) = (system("debian"), system("ubuntu"));
    let own = fleet.build("alpha", 50_000, true, &debian);
    let mut both = fleet.build("beta", 50_000, true, &debian);
    both.manifest.targets.extend(fleet.build("other", 100, true, &ubuntu).manifest.targets);
    for patch in [&own, &both] {
        fleet.list(&patch.manifest);
        fleet.approve(&patch.manifest);
    }
    fleet.publish();
    let hq = fleet.headquarters().await;
    fleet.serve(&hq, &[&own, &both]).await;
    let victim = fleet.branch(1, SITE, &[&own, &both]).await;
    victim.deployment(&own.id(), "installed").await;
    victim.deployment(&both.id(), "installed").await;
    let stranger = Hostile::join(&fleet, 99, SITE, &ubuntu).await;
    stranger.connect(&victim).await;
    assert_eq!(stranger.refusal(&victim, &grant(&own.manifest)).await, Reason::WrongSystemAsker);
    victim.sees_refusal("wrong-system-asker", stranger.device).await;
    assert!(matches!(stranger.ask(&victim, &grant(&both.manifest)).await, Response::Grant(_)));
    let told = match stranger.ask(&victim, &Request::Hello(said())).await {
        Response::Hello(hello) => {
            hello.news.holdings.into_iter().map(|holding| holding.root).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(told, [both.manifest.artifacts[0].content.root], "it is not even told of the other");
    victim.stop().await;
    hq.stop().await;
}

fn said() -> protocol::wire::Hello {
    let Response::Hello(hello) = hello(Default::default()) else { unreachable!("a hello") };
    hello
}

// proves N9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_from_a_peer_of_another_system() {
    let mut scene = Scene::before_the_approval("ubuntu").await;
    let Scene { patch, victim, hostile: stranger, .. } = &scene;
    stranger.serves(&patch.bytes());
    let root = patch.manifest.artifacts[0].content.root;
    stranger.answers(move |request| match request {
        Request::Hello(_) => Some(hello(news(root, 1, Versions::default()))),
        _ => None,
    });
    stranger.connect(victim).await;
    scene.the_approved_patch_is_installed().await;
    let Scene { victim, hostile: stranger, .. } = &scene;
    assert!(victim.refused("wrong-system-own", stranger.device).await);
    assert_eq!(stranger.asked_by(victim, |request| matches!(request, Request::Grant(_))), 0);
    assert_eq!(stranger.pieces_asked(), 0);
    scene.end().await;
}

// proves N7, M15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_another_site_and_a_revoked_one_get_nothing() {
    let mut fleet = Fleet::new();
    let debian = system("debian");
    let patch = fleet.build("alpha", 50_000, true, &debian);
    fleet.list(&patch.manifest);
    fleet.approve(&patch.manifest);
    fleet.publish();
    let hq = fleet.headquarters().await;
    fleet.serve(&hq, &[&patch]).await;
    let victim = fleet.branch(1, SITE, &[&patch]).await;
    victim.deployment(&patch.id(), "installed").await;
    let elsewhere = Hostile::join(&fleet, 98, "lyon", &debian).await;
    elsewhere.connect(&victim).await;
    assert_eq!(elsewhere.refusal(&victim, &grant(&patch.manifest)).await, Reason::SiteNotAllowed);
    assert_eq!(elsewhere.refusal(&victim, &metadata()).await, Reason::SiteNotAllowed);
    assert_eq!(elsewhere.refusal(&victim, &announce()).await, Reason::NotASeed);
    victim.sees_refusal("site-not-allowed", elsewhere.device).await;
    victim.sees_refusal("not-a-seed", elsewhere.device).await;

    let lost = Hostile::join(&fleet, 99, SITE, &debian).await;
    lost.connect(&victim).await;
    lost.connect(&hq).await;
    assert!(matches!(lost.ask(&victim, &grant(&patch.manifest)).await, Response::Grant(_)));
    fleet.revoke(lost.device);
    fleet.publish();
    hq.ask(|client| client.repository_changed()).await;
    until("both drop it", async || !lost.is_connected(&victim) && !lost.is_connected(&hq)).await;
    for node in [&hq, &victim] {
        lost.dial(node).await;
        assert_eq!(lost.rejected().await, Reason::DeviceRevoked);
        until("the node lists it", async || {
            node.status().await.refusals.iter().any(|refusal| refusal.reason.code == "device-revoked")
        })
        .await;
        lost.forget();
    }
    victim.stop().await;
    hq.stop().await;
}

/// One report of this device.
fn report(key: &SigningKey, sequence: u64, previous: Sha256) -> SignedReport {
    let time = super::fleet::now();
    let detail = Text::new("made up");
    let incident =
        Incident { time, kind: IncidentKind::Store, reason: None, patch: None, peer: None, detail };
    let body = Body::Incidents(vec![incident]);
    SignedReport::sign(&Report { device: key.device(), incarnation: 7, sequence, previous, time, body }, key)
}

// proves X8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_of_another_device_are_refused_and_change_nothing() {
    let fleet = Fleet::new();
    fleet.publish();
    let hq = fleet.headquarters().await;
    let mallory = Hostile::join(&fleet, 99, SITE, &system("debian")).await;
    mallory.connect(&hq).await;
    let victim = SigningKey::from_seed(&[50; 32]);
    let send = |report: Vec<u8>| Request::Reports(vec![report]);
    let replayed = report(&victim, 1, FIRST).to_bytes();
    assert_eq!(mallory.refusal(&hq, &send(replayed)).await, Reason::ForeignReport);
    hq.sees_refusal("foreign-report", mallory.device).await;
    // In its name, and signed by somebody else.
    let mut claimed = report(&mallory.key, 1, FIRST).to_bytes();
    *claimed.last_mut().expect("bytes") ^= 1;
    assert_eq!(mallory.refusal(&hq, &send(claimed)).await, Reason::UnreadableReport);
    assert_eq!(mallory.refusal(&hq, &send(vec![9; 40])).await, Reason::UnreadableReport);
    hq.sees_refusal("malformed-message", mallory.device).await;
    // Its own ones are taken, and a gap is named.
    let own = report(&mallory.key, 1, FIRST);
    assert!(matches!(
        mallory.ask(&hq, &send(own.to_bytes())).await,
        Response::Watermark { expected: None, .. }
    ));
    let gap = report(&mallory.key, 3, own.hash()).to_bytes();
    assert!(matches!(mallory.ask(&hq, &send(gap)).await, Response::Watermark { expected: Some(2), .. }));
    hq.stop().await;
}

// proves X2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_and_malformed_messages_are_refused_on_every_channel_and_the_node_stays_up() {
    let mut scene = Scene::before_the_approval("debian").await;
    let Scene { hq, victim, hostile: mallory, .. } = &scene;
    // Every answer is nonsense, too.
    mallory.answers_raw(|_| Some(vec![0xff; 5_000]));
    for node in [hq, victim] {
        mallory.connect(node).await;
        for channel in Channel::ALL {
            let lists = codec::encode(&Request::Announce(Announce {
                addresses: vec!["x".repeat(50); limits::ADDRESSES_PER_DEVICE + 1],
                versions: Versions::default(),
                utc_offset_minutes: 0,
                members: 64,
                metadata: None,
                alone: false,
            }));
            let foreign = match channel {
                Channel::Hello => codec::encode(&announce()),
                _ => codec::encode(&Request::Hello(said())),
            };
            for bytes in [Vec::new(), vec![0xff; 64], vec![0; 100_000], lists, foreign] {
                let answer = mallory.raw(node, channel, bytes).await.expect("an answer");
                let refused = Response::decode(channel, &answer);
                assert!(
                    matches!(refused, Ok(Response::Refused { reason: Reason::MalformedMessage, .. })),
                    "{channel}: {refused:?}"
                );
            }
            // The largest that fits, made of what means nothing.
            let answer = mallory.raw(node, channel, vec![0x7f; channel.request_limit()]).await;
            assert!(answer.is_ok(), "{channel}");
            let larger = mallory.raw(node, channel, vec![0; channel.request_limit() + 1]).await;
            assert!(matches!(larger, Err(RequestFailure::RequestTooLarge { .. })), "{larger:?}");
        }
        node.sees_refusal("malformed-message", mallory.device).await;
    }
    // A hello that claims everything there could be.
    let mut claims = said();
    let root = Blake3Root::of(b"nothing");
    claims.news.holdings = vec![news(root, 65_536, Versions::default()).holdings.remove(0); 400];
    let answer = mallory.ask(victim, &Request::Hello(claims)).await;
    assert!(matches!(answer, Response::Hello(_)), "{answer:?}");
    // Both still do their work.
    scene.the_approved_patch_is_installed().await;
    scene.end().await;
}
