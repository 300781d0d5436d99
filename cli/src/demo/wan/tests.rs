//! The emulator is no faster than it says, counts exactly, shares fairly, and closes as TCP does.

use super::*;
use std::io;
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

struct Line {
    address: SocketAddr,
    ledger: Arc<Ledger>,
}

/// A line to a server that treats every connection with `serve`.
async fn line<F, S>(down: f64, up: f64, serve: F) -> Line
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = io::Result<()>> + Send + 'static,
{
    let server = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let headquarters = server.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let ledger = Arc::new(Ledger::default());
    let listener = relay::listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("listen");
    let address = listener.local_addr().expect("address");
    let relay = Relay {
        ledger: Arc::clone(&ledger),
        up: Arc::new(Pace::megabits(up)),
        down: Arc::new(Pace::megabits(down)),
    };
    tokio::spawn(relay.run(listener, headquarters, "members"));
    Line { address, ledger }
}

async fn send_many(mut stream: TcpStream, bytes: usize) -> io::Result<()> {
    stream.write_all(&vec![7; bytes]).await?;
    stream.shutdown().await
}

async fn receive(line: &Line) -> (usize, Duration) {
    let began = Instant::now();
    let mut stream = TcpStream::connect(line.address).await.expect("connect");
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.expect("read");
    (received.len(), began.elapsed())
}

/// Never faster than the line, which makes up for a hundredth of a second at most. How much slower depends on who else
/// wants the processor: ten times would be another line.
fn paced(took: Duration, expected: f64) {
    let seconds = took.as_secs_f64();
    assert!(seconds > 0.95 * expected, "took {seconds:.3} s instead of {expected:.3} s");
    assert!(seconds < 10.0 * expected, "took {seconds:.3} s instead of {expected:.3} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_gets_the_whole_line_and_no_more() {
    let line = line(40.0, 2.0, |stream| send_many(stream, 5_000_000)).await;
    let (received, took) = receive(&line).await;
    assert_eq!(received, 5_000_000);
    paced(took, 1.0);
    let counters = line.ledger.counters();
    assert_eq!((counters.down_bytes, counters.up_bytes, counters.connections_total), (5_000_000, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_share_the_line_evenly() {
    // They set off together, however late one of them is connected.
    let all_here = Arc::new(Barrier::new(4));
    let line = line(40.0, 2.0, move |stream| {
        let all_here = Arc::clone(&all_here);
        async move {
            all_here.wait().await;
            send_many(stream, 1_250_000).await
        }
    })
    .await;
    let began = Instant::now();
    let ends = (0..4).map(|_| async {
        assert_eq!(receive(&line).await.0, 1_250_000);
        line.ledger.counters().down_bytes
    });
    let carried = futures::future::join_all(ends).await;
    paced(began.elapsed(), 1.0);
    // When the first has all of its own, the others have nearly all of theirs.
    assert!(carried.iter().all(|bytes| *bytes > 4_250_000), "one connection was ahead: {carried:?}");
    assert_eq!(line.ledger.counters().down_bytes, 5_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upload_has_a_pace_of_its_own() {
    let line = line(1000.0, 8.0, |mut stream| async move {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await?;
        stream.write_all(&received.len().to_be_bytes()).await
    })
    .await;
    let began = Instant::now();
    let mut stream = TcpStream::connect(line.address).await.expect("connect");
    stream.write_all(&vec![1; 1_000_000]).await.expect("write");
    // The half that is closed first must not take the other one with it.
    stream.shutdown().await.expect("half-close");
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).await.expect("the answer comes after our end");
    paced(began.elapsed(), 1.0);
    assert_eq!(usize::from_be_bytes(answer), 1_000_000);
    let counters = line.ledger.counters();
    assert_eq!((counters.up_bytes, counters.down_bytes), (1_000_000, 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_headquarters_ends_the_connection() {
    let line = line(1000.0, 1000.0, |stream| async move {
        drop(stream);
        Ok(())
    })
    .await;
    let (received, _) = receive(&line).await;
    assert_eq!(received, 0);
    let closed = async {
        while line.ledger.counters().connections.iter().any(|connection| connection.open) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), closed).await.expect("the account is closed");
}

#[test]
fn counters_survive_the_file() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("wan.json");
    let ledger = Ledger::default();
    ledger.listening(SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
    for port in 0..1_100 {
        let account = ledger.open("members", SocketAddr::from(([127, 0, 0, 1], port)));
        account.up.fetch_add(3, std::sync::atomic::Ordering::Relaxed);
    }
    let counters = ledger.counters();
    assert_eq!(
        (counters.up_bytes, counters.connections_total, counters.connections.len()),
        (3_300, 1_100, 1_024)
    );
    counter::write(&counters, &path).expect("write");
    assert_eq!(Counters::read(&path).expect("read"), counters);
}
