//! Content: a member of the same site that lies about what it holds, or asks for what it must not have.

use super::fleet::{Fleet, SITE, system};
use super::hostile::Hostile;
use super::until;
use node::net::PieceFailure;
use protocol::bitmap::PieceSet;
use protocol::digest::Blake3Root;
use protocol::identifier::ManifestDigest;
use protocol::manifest::Manifest;
use protocol::piece::{PieceIndex, PieceTree, TreeBuilder};
use protocol::reason::Reason;
use protocol::wire::{
    GrantAnswer, GrantRequest, Hello, Holding, LeaseLine, LeaseRequest, News, Request, Response, Versions,
};

fn content(manifest: &Manifest) -> Blake3Root {
    manifest.artifacts[0].content.root
}

fn tree(bytes: &[u8]) -> PieceTree {
    let mut builder = TreeBuilder::default();
    builder.update(bytes);
    builder.finish()
}

pub fn news(root: Blake3Root, pieces: u32, versions: Versions) -> News {
    News { versions, holdings: vec![Holding { root, pieces: PieceSet::full(pieces) }] }
}

pub fn hello(news: News) -> Response {
    Response::Hello(Hello {
        agent: "patchmesh/0".to_owned(),
        medium: protocol::conditions::Medium::Cable,
        news,
    })
}

pub fn grant(manifest: &Manifest) -> Request {
    grant_of(content(manifest), manifest.digest())
}

fn grant_of(root: Blake3Root, manifest: ManifestDigest) -> Request {
    Request::Grant(GrantRequest { root, manifest, need_tree: true })
}

pub fn lease(manifest: &Manifest) -> Request {
    let line = LeaseLine {
        root: content(manifest),
        manifest: manifest.digest(),
        wanted: PieceSet::full(4),
        need_tree: true,
    };
    Request::Lease(LeaseRequest {
        lines: vec![line],
        unreachable: Vec::new(),
        alone: false,
        room_bytes: 4 << 20,
        round_trip_micros: 0,
        bytes_per_second: 0,
    })
}

// proves X1: it takes no place of its site, and what it leases and never fetches is leased to the others too
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_says_it_is_on_its_own_keeps_nothing_from_the_others() {
    let mut fleet = Fleet::new();
    let patch = fleet.build("alpha", 3_500_000, true, &system("debian"));
    fleet.list(&patch.manifest);
    fleet.approve(&patch.manifest);
    fleet.publish();
    let hq = fleet.headquarters().await;
    fleet.serve(&hq, &[&patch]).await;
    let mallory = Hostile::join(&fleet, 99, SITE, &system("debian")).await;
    mallory.connect(&hq).await;
    let Request::Lease(asked) = lease(&patch.manifest) else { panic!("a lease") };
    let Response::Lease(answer) =
        mallory.ask(&hq, &Request::Lease(LeaseRequest { alone: true, ..asked })).await
    else {
        panic!("no leases");
    };
    assert_eq!(answer.lines[0].leased.len(), 4);
    let branch = fleet.branch(1, SITE, &[&patch]).await;
    branch.deployment(&patch.id(), "installed").await;
}

// proves X2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_with_flipped_bytes_is_found_out_and_passed_over() {
    let mut fleet = Fleet::new();
    let patch = fleet.build("alpha", 2_500_000, true, &system("debian"));
    let next = fleet.build("beta", 50_000, true, &system("debian"));
    fleet.list(&patch.manifest);
    fleet.list(&next.manifest);
    fleet.publish();
    let hq = fleet.headquarters().await;
    let victim = fleet.branch(1, SITE, &[&patch, &next]).await;
    victim.metadata(1).await;
    let mallory = Hostile::join(&fleet, 99, SITE, &system("debian")).await;
    let mut bytes = patch.bytes();
    let tree = tree(&bytes);
    for at in (0..bytes.len()).step_by(1 << 20) {
        bytes[at] ^= 1;
    }
    mallory.serves(&bytes);
    let (root, pieces, values) = (content(&patch.manifest), tree.pieces(), tree.values().to_vec());
    mallory.answers(move |request| match request {
        Request::Hello(_) => Some(hello(news(root, pieces, Versions::default()))),
        Request::Grant(_) => Some(Response::Grant(GrantAnswer {
            pieces: PieceSet::full(pieces),
            tree: Some(values.clone()),
            seconds: 600,
        })),
        _ => None,
    });
    mallory.connect(&victim).await;
    // Only now is it wanted, and the liar is the first who offers it.
    fleet.approve(&patch.manifest);
    fleet.serve(&hq, &[&patch]).await;
    victim.sees_refusal("piece-corrupt", mallory.device).await;
    victim.deployment(&patch.id(), "installed").await;
    assert_eq!(victim.installed("alpha").as_deref(), Some("2.0"));
    assert!(mallory.pieces_asked() >= 1);
    // Coming back does not make it trustworthy again: what is approved next comes from elsewhere.
    let asked = mallory.pieces_asked();
    mallory.net.disconnect(victim.device).await.expect("runs");
    until("it is gone", async || !mallory.is_connected(&victim)).await;
    let (root, pieces) = (content(&next.manifest), 1);
    mallory.answers(move |request| match request {
        Request::Hello(_) => Some(hello(news(root, pieces, Versions::default()))),
        Request::Grant(_) => {
            Some(Response::Grant(GrantAnswer { pieces: PieceSet::full(pieces), tree: None, seconds: 600 }))
        }
        _ => None,
    });
    mallory.connect(&victim).await;
    fleet.approve(&next.manifest);
    fleet.serve(&hq, &[&next]).await;
    victim.deployment(&next.id(), "installed").await;
    assert_eq!(mallory.pieces_asked(), asked);
    victim.stop().await;
    hq.stop().await;
}

// proves N8, N9, X2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_pass_is_refused_by_seed_and_peer_with_the_same_code() {
    let mut fleet = Fleet::new();
    let debian = system("debian");
    let [approved, unapproved, held_back] =
        ["alpha", "beta", "gamma"].map(|name| fleet.build(name, 50_000, true, &debian));
    let unsigned = fleet.build("delta", 50_000, false, &debian);
    let foreign = fleet.build("epsilon", 50_000, true, &system("ubuntu"));
    for patch in [&approved, &unapproved, &unsigned, &foreign] {
        fleet.list(&patch.manifest);
    }
    // What was approved is another manifest of the same patch.
    let mut changed = held_back.manifest.clone();
    changed.title = "changed after approval".to_owned();
    fleet.list(&changed);
    for manifest in [&approved.manifest, &unsigned.manifest, &foreign.manifest, &held_back.manifest] {
        fleet.approve(manifest);
    }
    fleet.publish();
    let hq = fleet.headquarters().await;
    fleet.serve(&hq, &[&approved, &unapproved, &held_back, &unsigned, &foreign]).await;
    let all = [&approved, &unapproved, &held_back, &unsigned];
    let victim = fleet.branch(1, SITE, &all).await;
    victim.deployment(&approved.id(), "installed").await;
    let mallory = Hostile::join(&fleet, 99, SITE, &debian).await;
    mallory.connect(&hq).await;
    mallory.connect(&victim).await;

    for (manifest, reason) in [
        (&unapproved.manifest, Reason::Unapproved),
        (&changed, Reason::ApprovedOtherManifest),
        (&unsigned.manifest, Reason::Unsigned),
        (&foreign.manifest, Reason::WrongSystemAsker),
    ] {
        assert_eq!(mallory.refusal(&hq, &lease(manifest)).await, reason, "{}", manifest.patch);
        hq.sees_refusal(reason.code(), mallory.device).await;
    }
    // A peer that holds nothing of it says so only when nothing else speaks against it. Of other systems it knows nothing.
    for (manifest, expected) in [
        (&unapproved.manifest, Reason::Unapproved),
        (&changed, Reason::ApprovedOtherManifest),
        (&unsigned.manifest, Reason::Unsigned),
        (&foreign.manifest, Reason::NotInCatalogue),
    ] {
        let reason = mallory.refusal(&victim, &grant(manifest)).await;
        assert_eq!(reason, expected, "{}", manifest.patch);
        victim.sees_refusal(reason.code(), mallory.device).await;
    }
    // The approved content under the name of another manifest, or of one that does not exist.
    for other in [unapproved.manifest.digest(), ManifestDigest::from_bytes([7; 32])] {
        let request = grant_of(content(&approved.manifest), other);
        assert_eq!(mallory.refusal(&victim, &request).await, Reason::NotInCatalogue);
    }
    // Pieces without a grant, without a lease; leases of a node that is no seed, grants of one that is.
    let root = content(&approved.manifest);
    for node in [&hq, &victim] {
        let fetched = mallory.net.fetch_piece(node.device, root, PieceIndex(0), 1_000).await;
        assert_eq!(fetched, Err(PieceFailure::Refused(Reason::NoGrant)));
    }
    assert_eq!(mallory.refusal(&victim, &lease(&approved.manifest)).await, Reason::NotASeed);
    assert_eq!(mallory.refusal(&hq, &grant(&approved.manifest)).await, Reason::LeaseNeeded);
    assert_eq!(mallory.refusal(&victim, &Request::Reports(Vec::new())).await, Reason::NotAnAggregator);
    // What it may have it gets: the refusals were not about itself.
    assert!(matches!(mallory.ask(&victim, &grant(&approved.manifest)).await, Response::Grant(_)));

    // Nothing of it was installed, and each has its reason.
    for (patch, code) in
        [(&unapproved, "unapproved"), (&held_back, "approved-other-manifest"), (&unsigned, "unsigned")]
    {
        let name = patch.id().to_string();
        assert_eq!(victim.left_out(&patch.id()).await.as_deref(), Some(code), "{name}");
        let package = name.split(['/', '=']).nth(1).expect("package");
        assert_eq!(victim.installed(package).as_deref(), Some("1.0"), "{name}");
    }
    victim.stop().await;
    hq.stop().await;
}
