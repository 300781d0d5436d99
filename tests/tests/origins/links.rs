//! Links to origins: thin, slow, hanging, and one whose other end sends without an end.

use super::comes;
use super::nginx::Mirror;
use super::seed::{Seed, bytes, import, manifest};
use super::server::Server;
use anyhow::{Context as _, Result, ensure};
use protocol::reason::Reason;
use std::fs;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A link to the server on `port` that takes up to so many bytes in a second.
async fn thin_link(port: u16, bytes_per_second: usize) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let here = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.split(), far.split());
                let up = async {
                    let mut pace = tokio::time::interval(Duration::from_millis(50));
                    let mut chunk = vec![0; bytes_per_second / 20];
                    while let Ok(length @ 1..) = from_near.read(&mut chunk).await {
                        pace.tick().await;
                        if to_far.write_all(&chunk[..length]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = up => {}
                    _ = tokio::io::copy(&mut from_far, &mut to_near) => {}
                }
            });
        }
    });
    Ok(here)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_may_take_long_on_a_thin_uplink() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(directory.path())?;
    let link = thin_link(server.port(), 1 << 20).await?;
    let table = server.table().replace(&server.port().to_string(), &link.to_string());
    let one = Seed::start(directory.path(), "one", &table)?;
    // One part, for which the storage says nothing for longer than a reader would wait.
    let content = bytes(14);
    let root = import(&one, directory.path(), &content)?;
    let begun = Instant::now();
    one.origins.keep(root).await?;
    ensure!(begun.elapsed() > Duration::from_secs(11), "the link is not thin: {:?}", begun.elapsed());
    ensure!(fs::read(server.object(&root.to_string()))? == content);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_trickles_keeps_nothing_else_waiting() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(directory.path())?;
    let mirror = Mirror::start(directory.path(), "limit_rate 100;")?;
    fs::create_dir_all(mirror.file("pool"))?;
    let mut all = Vec::new();
    for number in 0..6 {
        let (name, content) = (format!("slow{number}"), vec![number; 1 << 20]);
        fs::write(mirror.file(&format!("pool/{name}_2.0_all.deb")), &content)?;
        all.push(manifest(&name, &content)?);
    }
    let lines = format!("mirrors = [\"acme={}\"]\n{}", mirror.url(), server.table());
    let mut two = Seed::start(directory.path(), "two", &lines)?;
    two.origins.want(&all);
    patchmesh_tests::wait::until_told("the mirror trickles", patchmesh_tests::wait::SOON, || async {
        Ok((fs::read_dir(directory.path().join("two/state/origin"))?.count() == 4).then_some(()))
    })
    .await?;
    // What is published meanwhile is found, and served.
    let one = Seed::start(directory.path(), "one", &server.table())?;
    let content = bytes(1);
    let root = import(&one, directory.path(), &content)?;
    one.origins.keep(root).await?;
    all.push(manifest("quick", &content)?);
    two.origins.want(&all);
    two.finds(root).await?;
    ensure!(comes(&two, root, 0).await? == content[..1 << 20]);
    Ok(())
}

/// What an answer is asked for: the bytes of `Range: bytes=FIRST-LAST`.
fn range_of(request: &str) -> Option<String> {
    let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with("range: bytes="))?;
    line.split_once('=').map(|(_, range)| range.trim().to_owned())
}

/// A server on `port` that answers each request for a range with a body that does not end.
async fn endless(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if !matches!(socket.read(&mut byte).await, Ok(1)) {
                        return;
                    }
                    request.push(byte[0]);
                }
                let range = range_of(&String::from_utf8_lossy(&request)).unwrap_or_default();
                // The length is that of a piece; how the body is sent says otherwise, and counts (RFC 9112, section 6.3).
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Length: 1048576\r\nContent-Range: bytes {range}/3145735\r\nLast-Modified: Tue, 03 Nov 2026 10:00:00 GMT\r\nETag: \"1\"\r\nTransfer-Encoding: chunked\r\n\r\n"
                );
                let mut sent = socket.write_all(head.as_bytes()).await;
                while sent.is_ok() {
                    sent = socket.write_all(b"10000\r\n").await;
                    sent = sent.and(socket.write_all(&[7; 0x10000]).await);
                    sent = sent.and(socket.write_all(b"\r\n").await);
                }
            });
        }
    });
    Ok(())
}

// proves X2: who controls a bucket cannot fill a seed's memory
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_an_end_is_not_read_to_its_end() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut server = Server::start(directory.path())?;
    let one = Seed::start(directory.path(), "one", &server.table())?;
    let content = bytes(3);
    let root = import(&one, directory.path(), &content)?;
    one.origins.keep(root).await?;
    let mut two = Seed::start(directory.path(), "two", &server.table())?;
    two.origins.want(&[manifest("tool", &content)?]);
    two.finds(root).await?;
    server.kill()?;
    endless(server.port()).await.context("the port of the server")?;
    // It may have met nobody there in between, and then it asks again in a while.
    patchmesh_tests::wait::until_told("the answer is refused", patchmesh_tests::wait::SOON, || async {
        let refused = two.piece(root, 1).await.err();
        Ok((refused == Some(Reason::OriginCorrupt)).then_some(()))
    })
    .await?;
    let blamed = two.blames().await?;
    ensure!(blamed.contains("more bytes than asked for"), "{blamed}");
    Ok(())
}
