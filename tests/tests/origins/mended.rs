//! What is wrong with one file at an origin concerns no other, and is over when it is mended or wanted no more.

use super::nginx::Mirror;
use super::seed::{Seed, bytes, import, manifest};
use super::server::Server;
use super::{comes, flip};
use anyhow::{Result, ensure};
use patchmesh_tests::wait::{SOON, until_told};
use protocol::reason::Reason;
use std::fs;

// proves X7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_a_mirror_withholds_keeps_no_other_waiting() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let withheld = "location = /pool/gone_2.0_all.deb { if (-f $document_root/withheld) { return 403; } }";
    let mirror = Mirror::start(directory.path(), withheld)?;
    let (tool_bytes, gone_bytes) = (bytes(2), bytes(1));
    let (tool, gone) = (manifest("tool", &tool_bytes)?, manifest("gone", &gone_bytes)?);
    fs::create_dir_all(mirror.file("pool"))?;
    fs::write(mirror.file("pool/tool_2.0_all.deb"), &tool_bytes)?;
    fs::write(mirror.file("pool/gone_2.0_all.deb"), &gone_bytes)?;
    let lines = format!("keep-gibibytes = 0\nmirrors = [\"acme={}\"]\n", mirror.url());
    let seed = Seed::start(directory.path(), "one", &lines)?;
    let root = |named: &(_, std::sync::Arc<protocol::manifest::Manifest>)| named.1.artifacts[0].content.root;
    let (tool_root, gone_root) = (root(&tool), root(&gone));
    seed.origins.want(&[tool, gone]);
    until_told("both are found", SOON, || async {
        Ok((seed.origins.has(tool_root) && seed.origins.has(gone_root)).then_some(()))
    })
    .await?;
    until_told("no copy is left", SOON, || async {
        seed.origins.trim().await;
        Ok((seed.content.usage().contents == 0).then_some(()))
    })
    .await?;
    fs::write(mirror.file("withheld"), "")?;
    ensure!(seed.piece(gone_root, 0).await.err() == Some(Reason::OriginUnreachable));
    let piece = seed.piece(tool_root, 0).await.map_err(|reason| anyhow::anyhow!("{reason}"))?;
    ensure!(piece.bytes() == &tool_bytes[..1 << 20], "the mirror is of use for everything else");
    let failing = seed.origins.failing();
    let says = failing.get(&gone_root).map(|failing| failing.says.as_str()).unwrap_or_default();
    ensure!(says.contains("refuses pool/gone_2.0_all.deb") && says.contains("403"), "{failing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_mended_or_wanted_no_more_is_wrong_no_more() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(directory.path())?;
    let one = Seed::start(directory.path(), "one", &server.table())?;
    let content = bytes(5);
    let root = import(&one, directory.path(), &content)?;
    one.origins.keep(root).await?;
    let object = server.object(&root.to_string());
    let mut two = Seed::start(directory.path(), "two", &server.table())?;
    let named = manifest("tool", &content)?;
    two.origins.want(std::slice::from_ref(&named));
    two.finds(root).await?;
    flip(&object, 2 << 20)?;
    ensure!(two.piece(root, 2).await.err() == Some(Reason::OriginCorrupt));
    two.blames().await?;
    ensure!(comes(&two, root, 1).await? == content[1 << 20..2 << 20], "another piece mends nothing");
    flip(&object, 2 << 20)?;
    ensure!(comes(&two, root, 2).await? == content[2 << 20..3 << 20]);
    two.rights(root).await?;
    // Another seed, which has read nothing ahead.
    flip(&object, 3 << 20)?;
    let mut three = Seed::start(directory.path(), "three", &server.table())?;
    three.origins.want(&[named]);
    three.finds(root).await?;
    ensure!(three.piece(root, 3).await.err() == Some(Reason::OriginCorrupt));
    three.blames().await?;
    three.origins.want(&[]);
    three.rights(root).await
}
