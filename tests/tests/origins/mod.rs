//! Content of a seed that lies in a bucket or at a mirror, with a real server of S3 and a real web server.

mod changes;
mod devices;
mod fleets;
mod links;
mod mended;
mod nginx;
mod seed;
pub mod server;

use anyhow::{Context as _, Result, ensure};
use nginx::Mirror;
use node::origin::{Check, OriginError};
use node::store::{MemoryStore, Store};
use patchmesh_tests::wait::{SOON, until_told};
use protocol::digest::{Blake3Root, Sha256};
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use seed::{Seed, bytes, import, manifest};
use server::Server;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn flip(file: &std::path::Path, at: u64) -> Result<()> {
    let file = fs::File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    Ok(())
}

/// Asks for a piece until it comes.
async fn comes(seed: &Seed, root: Blake3Root, index: u32) -> Result<Vec<u8>> {
    until_told("the piece comes", SOON, || async {
        Ok(seed.piece(root, index).await.ok().map(|piece| piece.bytes().to_vec()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_seed_puts_into_the_bucket_another_reads_through_an_outage() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut server = Server::start(directory.path())?;
    let (one, mut two) = (
        Seed::start(directory.path(), "one", &server.table())?,
        Seed::start(directory.path(), "two", &server.table())?,
    );
    // More than one part of an upload, and a small one.
    let (large, small) = (bytes(20), bytes(0));
    let roots = [import(&one, directory.path(), &large)?, import(&one, directory.path(), &small)?];
    for root in roots {
        one.origins.keep(root).await?;
        one.origins.keep(root).await.context("a second time nothing happens")?;
    }
    ensure!(fs::read(server.object(&roots[0].to_string()))? == large, "the object is the file");
    ensure!(fs::read(server.object(&format!("{}.tree", roots[0])))?.len() == 21 * 32);
    two.origins.want(&[manifest("large", &large)?, manifest("small", &small)?]);
    two.finds(roots[0]).await?;
    ensure!(comes(&two, roots[1], 0).await? == small);
    ensure!(comes(&two, roots[0], 0).await? == large[..1 << 20]);
    server.kill()?;
    ensure!(two.piece(roots[0], 12).await.err() == Some(Reason::OriginUnreachable));
    let asked = Instant::now();
    ensure!(two.piece(roots[0], 15).await.err() == Some(Reason::OriginUnreachable));
    ensure!(asked.elapsed() < Duration::from_secs(10), "who asks during an outage does not wait long");
    let failing = two.origins.failing();
    let says = failing.get(&roots[0]).map(|failing| failing.says.as_str()).unwrap_or_default();
    ensure!(says.contains("bucket patches does not answer"), "status says what failed: {failing:?}");
    ensure!(two.piece(roots[0], 0).await.is_ok(), "what is in memory is served all the same");
    server.start_again()?;
    ensure!(comes(&two, roots[0], 12).await? == large[12 << 20..13 << 20]);
    ensure!(two.origins.failing().is_empty(), "and that it is over");
    // The whole comes onto the disk, and goes on after an outage in the middle.
    server.kill()?;
    let origins = Arc::clone(&two.origins);
    let copying = tokio::spawn(async move { origins.make_local(roots[0]).await.map(drop) });
    ensure!(two.piece(roots[0], 19).await.err() == Some(Reason::OriginUnreachable));
    server.start_again()?;
    tokio::time::timeout(SOON, copying).await.context("the copy does not end")???;
    two.content.full_check(roots[0], Sha256::of(&large))?;
    Ok(())
}

// proves X2, X7: who can write to the bucket can withhold, and not bring in a byte
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_in_the_bucket_go_nowhere() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(directory.path())?;
    let one = Seed::start(directory.path(), "one", &server.table())?;
    let content = bytes(9);
    let root = import(&one, directory.path(), &content)?;
    one.origins.keep(root).await?;
    let object = server.object(&root.to_string());
    flip(&object, 5 << 20)?;
    let mut two = Seed::start(directory.path(), "two", &server.table())?;
    two.origins.want(&[manifest("tool", &content)?]);
    two.finds(root).await?;
    ensure!(two.piece(root, 5).await.err() == Some(Reason::OriginCorrupt));
    let blamed = two.blames().await?;
    ensure!(blamed.contains(&root.to_string()) && blamed.contains("bucket patches"), "{blamed}");
    ensure!(comes(&two, root, 4).await? == content[4 << 20..5 << 20], "the others are good");
    flip(&object, 5 << 20)?;
    ensure!(comes(&two, root, 5).await? == content[5 << 20..6 << 20], "mended, it is served");
    // A short object, and a piece list of something else.
    fs::File::options().write(true).open(&object)?.set_len(3 << 20)?;
    ensure!(two.piece(root, 8).await.is_err());
    fs::write(server.object(&format!("{root}.tree")), vec![7; 10 * 32])?;
    let mut three = Seed::start(directory.path(), "three", &server.table())?;
    three.origins.want(&[manifest("tool", &content)?]);
    ensure!(three.blames().await?.contains("bucket patches"));
    // What lies there is never overwritten with something else: a person has to look.
    let refused = one.origins.keep(root).await;
    ensure!(matches!(refused, Err(OriginError::Wrong { .. })), "{refused:?}");
    ensure!(fs::metadata(&object)?.len() == 3 << 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_refused_and_named_and_shown_to_nobody() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(directory.path())?;
    let credentials = directory.path().join("credentials");
    fs::write(&credentials, "aws_access_key_id = patchmesh-tests\naws_secret_access_key = another-secret\n")?;
    let one = Seed::start(directory.path(), "one", &server.table())?;
    let root = import(&one, directory.path(), b"bytes")?;
    let refused = one.origins.keep(root).await.err().context("refused")?;
    ensure!(matches!(refused, OriginError::Denied { .. }), "{refused}");
    ensure!(!format!("{refused} {refused:?}").contains("another-secret"));
    ensure!(!server.object(&root.to_string()).exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_makes_room_is_not_checked_twice() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut server = Server::start(directory.path())?;
    let one = Seed::start(directory.path(), "one", &server.table())?;
    let content = bytes(3);
    let root = import(&one, directory.path(), &content)?;
    one.origins.keep(root).await?;
    let lines = format!("keep-gibibytes = 0\n{}", server.table());
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let named = manifest("tool", &content)?;
    let check = Check { sha256: Sha256::of(&content), manifest: Some(named.0) };
    {
        let mut two = Seed::with_store(directory.path(), "two", &lines, store.clone())?;
        two.origins.want(std::slice::from_ref(&named));
        two.finds(root).await?;
        let pin = two.origins.make_local(root).await?;
        two.origins.trim().await;
        ensure!(two.content.usage().contents == 1, "somebody reads it");
        two.content.full_check(root, check.sha256)?;
        two.origins.pass(root, check).await;
        drop(pin);
        two.origins.trim().await;
        ensure!(two.content.usage().contents == 0, "no copy may stay");
        ensure!(comes(&two, root, 1).await? == content[1 << 20..2 << 20]);
    }
    // After a restart, and while the bucket does not answer, the seed knows what it has and what it has checked.
    server.kill()?;
    let mut two = Seed::with_store(directory.path(), "two", &lines, store)?;
    two.origins.want(&[named]);
    two.finds(root).await?;
    ensure!(two.origins.passed(root, &check));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_gives_ranges_and_one_request_serves_all() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mirror = Mirror::start(directory.path(), "")?;
    let content = bytes(6);
    let named = manifest("tool", &content)?;
    fs::create_dir_all(mirror.file("pool"))?;
    fs::write(mirror.file("pool/tool_2.0_all.deb"), &content)?;
    let lines = format!("keep-gibibytes = 0\nmirrors = [\"acme={}\"]\n", mirror.url());
    let mut seed = Seed::start(directory.path(), "one", &lines)?;
    let root = named.1.artifacts[0].content.root;
    seed.origins.want(&[named]);
    seed.finds(root).await?;
    seed.origins.trim().await;
    ensure!(seed.content.usage().contents == 0, "read once in whole for its piece list, and not kept");
    let all: Vec<_> = (0..750).map(|_| seed.piece(root, 5)).collect();
    for piece in futures::future::join_all(all).await {
        ensure!(piece.map_err(|reason| anyhow::anyhow!("{reason}"))?.bytes() == &content[5 << 20..6 << 20]);
    }
    // nginx writes a request down when it has answered, which may be later than we have the answer.
    let range = |line: &String| line.contains("bytes=5242880-6291455");
    let asked = until_told("the mirror has written the range down", SOON, || async {
        Ok(Some(mirror.requests()?).filter(|asked| asked.iter().any(range)))
    })
    .await?;
    ensure!(
        asked.iter().filter(|line| range(line)).count() == 1
            && asked.iter().filter(|line| line.ends_with(" 200 -")).count() == 1,
        "{asked:#?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_ignores_ranges_is_read_whole() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mirror = Mirror::start(directory.path(), "max_ranges 0;")?;
    let content = bytes(4);
    let named = manifest("tool", &content)?;
    fs::create_dir_all(mirror.file("pool"))?;
    fs::write(mirror.file("pool/tool_2.0_all.deb"), &content)?;
    let lines = format!("mirrors = [\"acme={}\"]\n", mirror.url());
    let mut seed = Seed::start(directory.path(), "one", &lines)?;
    let root = named.1.artifacts[0].content.root;
    seed.origins.want(&[named]);
    seed.finds(root).await?;
    seed.content.discard(root)?;
    ensure!(seed.piece(root, 1).await.err() == Some(Reason::OriginUnreachable));
    until_told("the whole file is here", SOON, || async {
        Ok(seed.content.open_piece(root, PieceIndex(1)).ok().map(drop))
    })
    .await
}

// proves X2: a mirror is not believed
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_with_another_file_or_none_gives_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mirror = Mirror::start(directory.path(), "")?;
    let (content, mut other) = (bytes(2), bytes(2));
    other[5] ^= 1;
    let (tool, gone) = (manifest("tool", &content)?, manifest("gone", b"not there yet")?);
    fs::create_dir_all(mirror.file("pool"))?;
    fs::write(mirror.file("pool/tool_2.0_all.deb"), &other)?;
    let lines = format!("mirrors = [\"acme={}\"]\n", mirror.url());
    let mut seed = Seed::start(directory.path(), "one", &lines)?;
    let root = tool.1.artifacts[0].content.root;
    seed.origins.want(&[tool.clone(), gone.clone()]);
    let blamed = seed.blames().await?;
    ensure!(blamed.contains("mirror of acme") && blamed.contains("another"), "{blamed}");
    ensure!(seed.content.usage().contents == 0 && !seed.origins.has(root), "nothing of it stays");
    // A file that comes late is found.
    fs::write(mirror.file("pool/gone_2.0_all.deb"), "not there yet")?;
    seed.finds(gone.1.artifacts[0].content.root).await?;
    // The other one is not read again and again, whatever else is wanted meanwhile.
    fs::write(mirror.file("pool/late_2.0_all.deb"), "late")?;
    let late = manifest("late", b"late")?;
    let late_root = late.1.artifacts[0].content.root;
    seed.origins.want(&[tool, gone, late]);
    seed.finds(late_root).await?;
    let asked = mirror.requests()?;
    ensure!(asked.iter().filter(|line| line.contains("tool_2.0")).count() == 1, "{asked:#?}");
    Ok(())
}
