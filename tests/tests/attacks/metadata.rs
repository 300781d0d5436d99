//! Metadata: bundles that are older, expired, changed or mixed, from a neighbour who says that they are newer.

use super::fleet::{Fleet, Node, SITE, system};
use super::hostile::Hostile;
use super::peers::hello;
use super::until;
use node::control::ClientError;
use node::repository::Repository;
use protocol::trust::{Bundle, Trusted};
use protocol::wire::{News, Request, Response, Versions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// More than any repository here has.
static CLAIM: AtomicU64 = AtomicU64::new(1_000);

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("directory");
    for entry in std::fs::read_dir(from).expect("directory") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copy");
        }
    }
}

/// The files of a repository that a node with `request` would get.
fn bundle(repository: &Path, request: &protocol::trust::Request) -> Bundle {
    Repository::open(repository).expect("repository").bundle(request).expect("bundle")
}

/// A fleet at version 2, a victim that has it, and the repository as it was at version 1.
async fn fleet() -> (Fleet, Node, PathBuf) {
    let fleet = Fleet::new();
    fleet.publish();
    let old = fleet.path("repository-1");
    copy(&fleet.repository(), &old);
    let mut fleet = fleet;
    fleet.set_policy("# version 2\n");
    fleet.publish();
    let hq = fleet.headquarters().await;
    let victim = fleet.branch(1, SITE, &[]).await;
    victim.metadata(2).await;
    hq.stop().await;
    (fleet, victim, old)
}

/// Says that it has newer metadata, and hands out what `make` makes of the request.
async fn offer(
    mallory: &Hostile,
    victim: &Node,
    make: impl Fn(&protocol::trust::Request) -> Bundle + Send + 'static,
) {
    let claim = CLAIM.fetch_add(1, Ordering::Relaxed);
    let versions = Versions { root: 1, timestamp: claim, snapshot: claim };
    mallory.answers(move |request| match request {
        Request::Hello(_) => Some(hello(News { versions, holdings: Vec::new() })),
        Request::Metadata(request) => Some(Response::Metadata(make(request))),
        _ => None,
    });
    mallory.net.disconnect(victim.device).await.expect("runs");
    until("it is gone", async || !mallory.is_connected(victim)).await;
    mallory.connect(victim).await;
}

// proves X2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_metadata_is_a_rollback_also_after_a_restart() {
    let (fleet, victim, old) = fleet().await;
    let mallory = Hostile::join(&fleet, 99, SITE, &system("debian")).await;
    let serve = old.clone();
    offer(&mallory, &victim, move |request| bundle(&serve, request)).await;
    victim.sees_problem("timestamp-rollback").await;
    assert_eq!(victim.timestamp().await, 2);
    victim.stop().await;
    let victim = fleet.branch(1, SITE, &[]).await;
    assert_eq!(victim.timestamp().await, 2);
    let mallory = Hostile::join(&fleet, 98, SITE, &system("debian")).await;
    offer(&mallory, &victim, move |request| bundle(&old, request)).await;
    victim.sees_problem("timestamp-rollback").await;
    assert_eq!(victim.timestamp().await, 2);
    victim.stop().await;
}

// proves X2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_bundle_is_refused_with_its_code_and_a_good_one_still_taken() {
    let (mut fleet, victim, old) = fleet().await;
    // Version 3, good.
    fleet.set_policy("# version 3\n");
    fleet.publish();
    // Version 4, for nobody but the victim: signed long ago, so that its timestamp is expired by now. It comes last, since
    // the fleet directory publishes nowhere on a basis that is older than what it signed.
    let late = fleet.path("repository-late");
    copy(&fleet.repository(), &late);
    fleet.set_policy("# version 4, long ago\n");
    let past = protocol::time::WallTime::from_unix_seconds(super::fleet::now().unix_seconds() - 20 * 86_400);
    fleet.publish_at(&late, past);
    let good = fleet.repository();
    let other = Fleet::new();
    other.publish();

    let change = |path: &'static str, from: PathBuf, change: fn(&mut Vec<u8>)| {
        move |request: &protocol::trust::Request| {
            let mut changed = Bundle::default();
            for (name, bytes) in bundle(&from, request).files() {
                let mut bytes = bytes.to_vec();
                if name.contains(path) {
                    change(&mut bytes);
                }
                changed.insert(name.to_owned(), bytes).expect("fits");
            }
            changed
        }
    };
    let version = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(std::mem::take(bytes)).expect("text");
        *bytes = text.replacen("\"version\": 3", "\"version\": 9", 1).into_bytes();
    };
    type Make = Box<dyn Fn(&protocol::trust::Request) -> Bundle + Send>;
    let attacks: Vec<(&'static str, Make)> = vec![
        ("expired", Box::new(change("nothing", late, |_| {}))),
        ("bad-signature", Box::new(change("timestamp.json", good.clone(), version))),
        ("wrong-hash", Box::new(change("snapshot.json", good.clone(), |bytes| bytes[20] ^= 1))),
        ("wrong-hash", Box::new(change("policy.json", good.clone(), |bytes| bytes[20] ^= 1))),
        ("wrong-hash", Box::new(change("fleet.toml", good.clone(), |bytes| bytes[2] ^= 1))),
        ("malformed", Box::new(change("timestamp.json", good.clone(), |bytes| bytes[0] ^= 1))),
        ("too-large", Box::new(change("timestamp.json", good.clone(), |bytes| bytes.resize(20_000, b' ')))),
        ("missing-file", Box::new(|_| Bundle::default())),
        ("too-few-signatures", Box::new(change("nothing", other.repository(), |_| {}))),
        ("timestamp-rollback", Box::new(change("nothing", old, |_| {}))),
    ];
    for (number, (code, make)) in attacks.into_iter().enumerate() {
        let number = u8::try_from(100 + number).expect("few attacks");
        let mallory = Hostile::join(&fleet, number, SITE, &system("debian")).await;
        offer(&mallory, &victim, make).await;
        victim.sees_problem(code).await;
        assert_eq!(victim.timestamp().await, 2, "{code}");
        mallory.net.shutdown().await;
    }
    // The same neighbour that lied about versions may still bring what verifies.
    let honest = Hostile::join(&fleet, 97, SITE, &system("debian")).await;
    offer(&honest, &victim, move |request| bundle(&good, request)).await;
    victim.metadata(3).await;
    until("the problem is over", async || {
        victim.status().await.problems.iter().all(|problem| problem.reason.code != "timestamp-rollback")
    })
    .await;
    victim.stop().await;
}

// proves X2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_that_never_delivers_does_not_keep_newer_metadata_away() {
    let fleet = Fleet::new();
    fleet.publish();
    let hq = fleet.headquarters().await;
    let victim = fleet.branch(1, SITE, &[]).await;
    victim.metadata(1).await;
    let mallory = Hostile::join(&fleet, 99, SITE, &system("debian")).await;
    // Says again and again that it has more, and sends nothing that is.
    mallory.answers(|request| match request {
        Request::Metadata(_) => Some(Response::Noted),
        _ => None,
    });
    mallory.connect(&victim).await;
    let mut fleet = fleet;
    fleet.set_policy("# version 2\n");
    fleet.publish();
    let flood = async {
        for version in 10.. {
            let versions = Versions { root: 1, timestamp: version, snapshot: version };
            let news = Request::News(News { versions, holdings: Vec::new() });
            let _ = mallory.raw(&victim, news.channel(), protocol::codec::encode(&news)).await;
        }
    };
    let progress = async {
        hq.ask(|client| client.repository_changed()).await;
        victim.metadata(2).await;
    };
    tokio::select! {
        () = flood => {}
        () = progress => {}
    }
    assert!(mallory.asked_by(&victim, |request| matches!(request, Request::Metadata(_))) <= 3);
    victim.stop().await;
    hq.stop().await;
}

// proves X2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_again_after_every_version() {
    let mut fleet = Fleet::new();
    fleet.publish();
    let hq = fleet.headquarters().await;
    for version in 1..=4 {
        let node = fleet.branch(1, SITE, &[]).await;
        node.metadata(version).await;
        assert_eq!(node.timestamp().await, version);
        node.stop().await;
        fleet.set_policy(&format!("# version {}\n", version + 1));
        fleet.publish();
        hq.ask(|client| client.repository_changed()).await;
    }
    hq.stop().await;
}

// proves X2: whoever publishes hears that the seed did not take it over, and why
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_says_what_it_does_not_serve() {
    let mut fleet = Fleet::new();
    fleet.publish();
    let (old, new) = (fleet.path("repository-1"), fleet.path("repository-2"));
    copy(&fleet.repository(), &old);
    let hq = fleet.headquarters().await;
    fleet.set_policy("# version 2\n");
    fleet.publish();
    copy(&fleet.repository(), &new);
    let loaded = hq.ask(|client| client.repository_changed()).await;
    assert_eq!(loaded.timestamp, 2);
    let put = |from: &Path| {
        std::fs::remove_dir_all(fleet.repository()).expect("removed");
        copy(from, &fleet.repository());
    };
    let refusal = async || match hq.try_ask(|client| client.repository_changed()).await {
        Err(ClientError::Failure(failure)) => failure,
        other => panic!("{other:?}"),
    };
    put(&old);
    let failure = refusal().await;
    assert_eq!(
        (failure.code.as_str(), failure.remedy.is_some()),
        ("timestamp-rollback", true),
        "{failure:?}"
    );
    std::fs::write(fleet.repository().join("metadata/timestamp.json"), "torn").expect("write");
    let failure = refusal().await;
    assert_eq!((failure.code.as_str(), failure.remedy.is_some()), ("repository", true), "{failure:?}");
    put(&new);
    let loaded = hq.ask(|client| client.repository_changed()).await;
    assert_eq!(loaded.timestamp, 2);
    hq.stop().await;
}

/// The first version that is trusted by the pinned root alone, for comparison.
#[test]
fn a_repository_of_another_fleet_is_not_this_one() {
    let (one, other) = (Fleet::new(), Fleet::new());
    let refused = Trusted::from_root(one.directory.first_root(), other.directory.fleet());
    assert_eq!(refused.expect_err("another fleet").code(), "other-fleet");
}
