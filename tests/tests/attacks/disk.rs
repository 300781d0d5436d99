//! Disks: trusted metadata that is torn, content of a seed that was changed behind its back.

use super::fleet::{Fleet, Node, SITE, system};
use node::driver::StartError;
use node::store::{Batch, SledStore, Store as _};
use protocol::core::RestoreError;
use std::path::Path;

/// The store of a node that has stopped; its threads may let go of the lock a little later.
async fn open(state: &Path) -> SledStore {
    let opened = std::cell::RefCell::new(None);
    super::until("the store is free", async || {
        *opened.borrow_mut() = SledStore::open(state.join("store")).ok();
        opened.borrow().is_some()
    })
    .await;
    opened.into_inner().expect("just opened")
}

/// The records of the trusted metadata in a node's store.
async fn trust_records(state: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let store = open(state).await;
    store.scan(b"core/trust/").expect("records")
}

async fn apply(state: &Path, change: impl FnOnce(&mut Batch) -> &mut Batch) {
    let store = open(state).await;
    let mut batch = Batch::default();
    change(&mut batch);
    store.apply(batch).expect("applied");
}

async fn refuses(fleet: &Fleet) -> bool {
    matches!(fleet.try_branch(1, SITE, "debian", &[]).await, Err(StartError::Restore(RestoreError::Trust(_))))
}

// proves X2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torn_trusted_metadata_stops_the_start_and_nothing_older_is_believed() {
    let mut fleet = Fleet::new();
    fleet.publish();
    fleet.set_policy("# version 2\n");
    fleet.publish();
    let hq = fleet.headquarters().await;
    let node = fleet.branch(1, SITE, &[]).await;
    node.metadata(2).await;
    let state = node.configuration.node.directory.clone();
    node.stop().await;
    hq.stop().await;
    let records = trust_records(&state).await;
    assert!(records.len() > 8, "{}", records.len());
    for (key, value) in &records {
        let name = String::from_utf8_lossy(key).into_owned();
        let mut flipped = value.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        let torn = value[..middle].to_vec();
        for change in [None, Some(flipped), Some(torn)] {
            apply(&state, |batch| match &change {
                None => batch.delete(key.clone()),
                Some(bytes) => batch.put(key.clone(), bytes.clone()),
            })
            .await;
            let refused = fleet.try_branch(1, SITE, "debian", &[]).await.err().expect("the start is refused");
            assert!(matches!(refused, StartError::Restore(RestoreError::Trust(_))), "{name}: {refused:?}");
            assert!(refused.to_string().contains("patchmesh join"), "{refused}");
        }
        apply(&state, |batch| batch.put(key.clone(), value.clone())).await;
    }
    // A record that does not belong there.
    let extra = b"core/trust/metadata/9.policy.json".to_vec();
    apply(&state, |batch| batch.put(extra.clone(), b"{}".to_vec())).await;
    assert!(refuses(&fleet).await);
    apply(&state, |batch| batch.delete(extra)).await;
    // All of it: that is no fresh device.
    apply(&state, |batch| {
        for (key, _) in &records {
            batch.delete(key.clone());
        }
        batch
    })
    .await;
    assert!(refuses(&fleet).await, "the memory of versions is gone");
    // As it was, it starts, with the versions that it had.
    apply(&state, |batch| {
        for (key, value) in &records {
            batch.put(key.clone(), value.clone());
        }
        batch
    })
    .await;
    let node = fleet.branch(1, SITE, &[]).await;
    assert_eq!(node.timestamp().await, 2);
    node.stop().await;
}

// proves X2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_that_was_changed_on_the_seeds_disk_goes_nowhere() {
    let mut fleet = Fleet::new();
    let debian = system("debian");
    let [damaged, good] = ["alpha", "beta"].map(|name| fleet.build(name, 1_500_000, true, &debian));
    for patch in [&damaged, &good] {
        fleet.list(&patch.manifest);
        fleet.approve(&patch.manifest);
    }
    fleet.publish();
    let hq = fleet.headquarters().await;
    fleet.serve(&hq, &[&damaged, &good]).await;
    let root = damaged.manifest.artifacts[0].content.root.to_string();
    let content = hq.configuration.node.directory.join("content");
    flip(&content, &root);
    // While the seed runs it does not know; who asks finds out, and takes the rest.
    let node = fleet.branch(1, SITE, &[&damaged, &good]).await;
    node.deployment(&good.id(), "installed").await;
    node.sees_refusal("piece-corrupt", hq.device).await;
    assert_eq!(node.installed("alpha").as_deref(), Some("1.0"));
    // At its next start it notices, says so, and has what is damaged no more; the other piece stays.
    let seed = hq.device;
    node.stop().await;
    hq.stop().await;
    let hq = fleet.headquarters().await;
    hq.sees_problem("disk-damaged").await;
    let pieces = async |node: &Node, root: &str| {
        let transfers = node.ask(|client| client.transfers()).await;
        let found = transfers.iter().find(|transfer| transfer.root.to_string() == root);
        found.map(|transfer| (transfer.pieces_held, transfer.pieces_total, transfer.verified))
    };
    assert_eq!(pieces(&hq, &root).await, Some((1, 2, false)));
    let other = good.manifest.artifacts[0].content.root.to_string();
    super::until("the other patch is checked", async || pieces(&hq, &other).await == Some((2, 2, true)))
        .await;
    let node = fleet.branch(1, SITE, &[]).await;
    super::until("the other piece is here", async || pieces(&node, &root).await == Some((1, 2, false))).await;
    // Handed in again, it goes out, and the problem is over.
    let paths = vec![damaged.newer.clone()];
    hq.ask(move |client| client.add_content(paths)).await;
    node.deployment(&damaged.id(), "installed").await;
    assert_eq!(node.installed("alpha").as_deref(), Some("2.0"));
    assert!(!node.refused("piece-corrupt", seed).await);
    super::until("the problem is over", async || {
        hq.status().await.problems.iter().all(|problem| problem.reason.code != "disk-damaged")
    })
    .await;
    assert_eq!(pieces(&hq, &root).await, Some((2, 2, true)));
    node.stop().await;
    hq.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_has_what_was_handed_to_it_before_a_file_that_it_cannot_read() {
    let mut fleet = Fleet::new();
    let patch = fleet.build("alpha", 1_500_000, true, &system("debian"));
    fleet.list(&patch.manifest);
    fleet.approve(&patch.manifest);
    fleet.publish();
    let hq = fleet.headquarters().await;
    let paths = vec![patch.newer.clone(), fleet.path("gone")];
    let refused = hq.try_ask(move |client| client.add_content(paths)).await.expect_err("no such file");
    assert!(refused.to_string().contains("gone"), "{refused}");
    let root = patch.manifest.artifacts[0].content.root;
    super::until("the seed knows that it has the first", async || {
        let transfers = hq.ask(|client| client.transfers()).await;
        transfers.iter().any(|transfer| transfer.root == root && transfer.pieces_held == 2)
    })
    .await;
    hq.stop().await;
}

// proves X2, X7: a copy on the disk is checked at each start, also where a bucket has the content too
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_seeds_disk_did_not_keep_comes_back_from_its_bucket() {
    let mut fleet = Fleet::new();
    let server = crate::origins::server::Server::start(fleet.place.path()).expect("storage");
    fleet.bucket = Some(server.bucket());
    let patch = fleet.build("alpha", 1_500_000, true, &system("debian"));
    fleet.list(&patch.manifest);
    fleet.approve(&patch.manifest);
    fleet.publish();
    let hq = fleet.headquarters().await;
    fleet.serve(&hq, &[&patch]).await;
    let root = patch.manifest.artifacts[0].content.root.to_string();
    super::until("it is checked", async || {
        let transfers = hq.ask(|client| client.transfers()).await;
        transfers.iter().any(|transfer| transfer.root.to_string() == root && transfer.verified)
    })
    .await;
    let content = hq.configuration.node.directory.join("content");
    hq.stop().await;
    flip(&content, &root);
    let hq = fleet.headquarters().await;
    super::until("the piece is what it was", async || {
        std::fs::read(content.join(&root)).is_ok_and(|bytes| bytes == patch.bytes())
    })
    .await;
    let node = fleet.branch(1, SITE, &[&patch]).await;
    node.deployment(&patch.id(), "installed").await;
    assert!(!node.refused("piece-corrupt", hq.device).await);
    node.stop().await;
    hq.stop().await;
}

/// Flips a byte in every content file of this root.
fn flip(directory: &Path, root: &str) {
    let mut flipped = 0;
    for entry in std::fs::read_dir(directory).expect("content") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        if !name.starts_with(root) || name.ends_with("tree") {
            continue;
        }
        let mut bytes = std::fs::read(&path).expect("content");
        if bytes.len() > 1_000_000 {
            bytes[500_000] ^= 1;
            std::fs::write(&path, bytes).expect("written");
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1, "{root}");
}
