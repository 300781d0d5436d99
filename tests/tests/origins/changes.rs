//! Origins whose content changes under a seed: deleted, rotten, late, or an origin that is configured no more.

use super::nginx::Mirror;
use super::seed::{Seed, bytes, import, manifest};
use super::server::Server;
use super::{comes, flip};
use anyhow::{Context as _, Result, ensure};
use node::origin::OriginError;
use node::store::{MemoryStore, Store};
use patchmesh_tests::wait::{SOON, until_told};
use protocol::reason::Reason;
use std::fs;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_from_the_bucket_is_offered_no_more_until_it_is_back() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(directory.path())?;
    let one = Seed::start(directory.path(), "one", &server.table())?;
    let content = bytes(3);
    let root = import(&one, directory.path(), &content)?;
    one.origins.keep(root).await?;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let named = manifest("tool", &content)?;
    let mut two = Seed::with_store(directory.path(), "two", &server.table(), store.clone())?;
    two.origins.want(std::slice::from_ref(&named));
    two.finds(root).await?;
    // Its piece list alone is no content.
    let (object, away) = (server.object(&root.to_string()), directory.path().join("away"));
    fs::rename(&object, &away)?;
    ensure!(two.piece(root, 1).await.err() == Some(Reason::NoPieces));
    two.loses(root).await?;
    ensure!(!two.origins.has(root));
    fs::rename(&away, &object)?;
    two.finds(root).await?;
    ensure!(comes(&two, root, 1).await? == content[1 << 20..2 << 20]);
    // What the node dropped counts again when it is handed in.
    two.origins.dropped(root).await;
    ensure!(!two.origins.has(root));
    import(&two, directory.path(), &content)?;
    two.origins.keep(root).await?;
    ensure!(two.origins.has(root));
    drop(two);
    // A bucket that is configured no more has nothing; the only copy stays.
    let lines = "keep-gibibytes = 0\nmirrors = [\"other=http://127.0.0.1:1\"]\n";
    let three = Seed::with_store(directory.path(), "three", lines, store)?;
    import(&three, directory.path(), &content)?;
    three.origins.want(std::slice::from_ref(&named));
    three.origins.trim().await;
    ensure!(!three.origins.has(root) && three.content.usage().contents == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_needs_a_content_waits_until_somebody_publishes_it() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(directory.path())?;
    let content = bytes(2);
    let named = manifest("tool", &content)?;
    let root = named.1.artifacts[0].content.root;
    let two = Seed::start(directory.path(), "two", &server.table())?;
    two.origins.want(&[named]);
    let origins = Arc::clone(&two.origins);
    let waiting = tokio::spawn(async move { origins.make_local(root).await.map(drop) });
    let says = until_told("it has asked at least once", SOON, || async {
        Ok(two.origins.failing().get(&root).map(|failing| failing.says.clone()))
    })
    .await?;
    ensure!(says.contains("does not have") && says.contains("publish it again"), "{says}");
    ensure!(!waiting.is_finished(), "that nobody has it is no answer");
    let one = Seed::start(directory.path(), "one", &server.table())?;
    import(&one, directory.path(), &content)?;
    one.origins.keep(root).await?;
    tokio::time::timeout(2 * SOON, waiting).await.context("it does not come")???;
    ensure!(two.origins.failing().is_empty());
    Ok(())
}

// proves X2: the only good copy is not given up for an object that nobody has read
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_was_there_already_is_read_before_it_counts() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(directory.path())?;
    let content = bytes(3);
    let one = Seed::start(directory.path(), "one", &server.table())?;
    let root = import(&one, directory.path(), &content)?;
    one.origins.keep(root).await?;
    let object = server.object(&root.to_string());
    flip(&object, 2 << 20)?;
    let lines = format!("keep-gibibytes = 0\n{}", server.table());
    let two = Seed::start(directory.path(), "two", &lines)?;
    import(&two, directory.path(), &content)?;
    let refused = two.origins.keep(root).await;
    ensure!(matches!(refused, Err(OriginError::Wrong { .. })), "{refused:?}");
    two.origins.trim().await;
    ensure!(two.content.usage().contents == 1, "it lies nowhere else");
    flip(&object, 2 << 20)?;
    two.origins.keep(root).await?;
    two.origins.trim().await;
    ensure!(two.content.usage().contents == 0, "now it may go");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_copies_of_what_lies_elsewhere_count_against_their_room() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(directory.path())?;
    let content = bytes(2);
    let one = Seed::start(directory.path(), "one", &server.table())?;
    let root = import(&one, directory.path(), &content)?;
    one.origins.keep(root).await?;
    let mut two = Seed::keeping(directory.path(), "two", &server.table(), 4 << 20)?;
    import(&two, directory.path(), &bytes(6))?;
    two.origins.want(&[manifest("tool", &content)?]);
    two.finds(root).await?;
    drop(two.origins.make_local(root).await?);
    two.origins.trim().await;
    ensure!(two.content.usage().contents == 2, "3 MiB of copies are within 4 MiB");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_at_a_mirror_without_ranges_is_read_once() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mirror = Mirror::start(directory.path(), "max_ranges 0;")?;
    let content = bytes(2);
    let named = manifest("tool", &content)?;
    let root = named.1.artifacts[0].content.root;
    fs::create_dir_all(mirror.file("pool"))?;
    let file = mirror.file("pool/tool_2.0_all.deb");
    fs::write(&file, &content)?;
    let lines = format!("mirrors = [\"acme={}\"]\n", mirror.url());
    let mut seed = Seed::start(directory.path(), "one", &lines)?;
    seed.origins.want(&[named]);
    seed.finds(root).await?;
    flip(&file, 5)?;
    seed.content.discard(root)?;
    ensure!(seed.piece(root, 1).await.err() == Some(Reason::OriginUnreachable));
    let blamed = seed.blames().await?;
    ensure!(blamed.contains("another"), "{blamed}");
    for _ in 0..5 {
        ensure!(seed.piece(root, 1).await.is_err());
        ensure!(seed.piece(root, 0).await.is_err());
    }
    let asked = mirror.requests()?;
    ensure!(asked.iter().filter(|line| line.ends_with(" 200 -")).count() == 2, "{asked:#?}");
    Ok(())
}
