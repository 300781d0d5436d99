//! Pieces between two members.

use super::*;
use ::protocol::fetch::Advice;
use ::protocol::piece::{BadPiece, PieceTree, TreeBuilder};
use std::io::Write as _;

const PIECE: usize = 1 << 20;

/// One artifact of `pieces` pieces in a temporary file.
struct Artifact {
    file: Arc<std::fs::File>,
    bytes: Vec<u8>,
    tree: PieceTree,
}

impl Artifact {
    fn new(pieces: usize) -> Artifact {
        let bytes: Vec<u8> =
            (0..pieces * PIECE).map(|at| (at as u64).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let mut tree = TreeBuilder::default();
        tree.update(&bytes);
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(&bytes).expect("disk");
        Artifact { file: Arc::new(file), bytes, tree: tree.finish() }
    }

    fn root(&self) -> Blake3Root {
        self.tree.root()
    }

    fn source(&self) -> Arc<Grants> {
        Arc::new(Grants { file: self.file.clone(), root: self.root(), peer: key(1).device() })
    }
}

/// Serves one artifact to one peer.
struct Grants {
    file: Arc<std::fs::File>,
    root: Blake3Root,
    peer: DeviceId,
}

impl PieceSource for Grants {
    fn open(&self, peer: DeviceId, root: Blake3Root, index: PieceIndex) -> Result<Opened, Reason> {
        if peer != self.peer || root != self.root {
            return Err(Reason::NoGrant);
        }
        let size = self.file.metadata().map_err(|_| Reason::NoPieces)?.len();
        let (offset, length) = ::protocol::piece::extent(size, index).ok_or(Reason::NoPieces)?;
        Ok(Opened::Here(PieceReader::File { file: self.file.clone(), offset, length: length as u32 }))
    }
}

// proves X2
#[tokio::test]
async fn pieces_arrive_as_sent_and_are_not_judged_here() {
    let artifact = Artifact::new(2);
    let (one, two) = pair(config(1), Config { source: artifact.source(), ..config(2) }).await;
    let fetch = |index| one.net.fetch_piece(two.device, artifact.root(), PieceIndex(index), PIECE as u32);
    let piece = fetch(1).await.expect("piece");
    assert!(artifact.tree.check(PieceIndex(1), piece.0).is_ok());
    let mut flipped = artifact.bytes[..PIECE].to_vec();
    flipped[77] ^= 1;
    std::os::unix::fs::FileExt::write_all_at(&*artifact.file, &flipped, 0).expect("disk");
    let piece = fetch(0).await.expect("delivered, whatever it is");
    assert_eq!(piece, PeerBytes(flipped));
    assert_eq!(artifact.tree.check(PieceIndex(0), piece.0), Err(BadPiece::Hash));
}

#[tokio::test]
async fn parts_of_pieces_carry_the_time_of_sending() {
    let artifact = Artifact::new(1);
    let (one, two) = pair(config(1), Config { source: artifact.source(), ..config(2) }).await;
    let fetch = |from| one.net.fetch_block(two.device, artifact.root(), PieceIndex(0), from, 65_536);
    let (first, second) = (fetch(0).await.expect("block"), fetch(900_000).await.expect("block"));
    assert_eq!(first.bytes.0, artifact.bytes[..65_536]);
    assert_eq!(second.bytes.0, artifact.bytes[900_000..965_536]);
    assert!(second.sent_micros >= first.sent_micros);
}

#[tokio::test]
async fn refusals_have_codes_and_the_stream_goes_on() {
    let artifact = Artifact::new(1);
    let (one, two) = pair(config(1), Config { source: artifact.source(), ..config(2) }).await;
    let fetch = |root, index, length| one.net.fetch_piece(two.device, root, PieceIndex(index), length);
    let refused = |refusal| Err(PieceFailure::Refused(refusal));
    let other = Blake3Root::from_bytes([1; 32]);
    assert_eq!(fetch(other, 0, 5).await, refused(Reason::NoGrant));
    assert_eq!(fetch(artifact.root(), 1, 5).await, refused(Reason::NoPieces));
    assert_eq!(fetch(artifact.root(), 0, u32::MAX).await, refused(Reason::NoPieces));
    assert!(fetch(artifact.root(), 0, PIECE as u32).await.is_ok());
    artifact.file.set_len(10).expect("disk");
    assert_eq!(fetch(artifact.root(), 0, 11).await, refused(Reason::NoPieces));
    let nobody = one.net.fetch_piece(key(3).device(), artifact.root(), PieceIndex(0), 1).await;
    assert_eq!(nobody, Err(PieceFailure::Disconnected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pieces_at_once() {
    const PIECES: usize = 64;
    let artifact = Artifact::new(PIECES);
    let (one, two) = pair(config(1), Config { source: artifact.source(), ..config(2) }).await;
    let (wall, cpu) = (std::time::Instant::now(), cpu_seconds());
    let fetches = (0..PIECES as u32).map(|index| {
        let fetched = one.net.fetch_piece(two.device, artifact.root(), PieceIndex(index), PIECE as u32);
        async move { fetched.await.expect("piece") }
    });
    let pieces = futures::future::join_all(fetches).await;
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "{PIECES} MiB in {wall:.2} s: {:.0} MiB/s, {cpu:.2} s of CPU for both ends",
        PIECES as f64 / wall
    );
    for (at, piece) in pieces.into_iter().enumerate() {
        assert_eq!(piece.0, artifact.bytes[at * PIECE..(at + 1) * PIECE], "piece {at}");
    }
}

// proves X3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_wan_pieces_come_in_blocks_under_a_window() {
    const PIECES: u32 = 6;
    let artifact = Artifact::new(PIECES as usize);
    let (one, two) = pair(config(1), Config { source: artifact.source(), ..config(2) }).await;
    let advice = Advice { round_trip: Some(Duration::from_micros(100)), ..Advice::default() };
    let fetches = (0..PIECES).map(|index| {
        one.net.fetch_paced(two.device, artifact.root(), PieceIndex(index), PIECE as u32, advice)
    });
    let pieces = futures::future::join_all(fetches).await;
    for (at, piece) in pieces.into_iter().enumerate() {
        let (bytes, pace) = piece.expect("piece");
        assert_eq!(bytes.0, artifact.bytes[at * PIECE..(at + 1) * PIECE], "piece {at}");
        assert!(pace.round_trip.is_some() && pace.bytes_per_second > 0 && pace.window_bytes > 0);
    }
}

#[tokio::test]
async fn over_the_wan_a_refused_block_refuses_its_piece_and_no_other() {
    let artifact = Artifact::new(2);
    let (one, two) = pair(config(1), Config { source: artifact.source(), ..config(2) }).await;
    let fetch = |index, length| {
        one.net.fetch_paced(two.device, artifact.root(), PieceIndex(index), length, Advice::default())
    };
    let (good, none, other) =
        tokio::join!(fetch(0, PIECE as u32), fetch(7, PIECE as u32), fetch(1, PIECE as u32));
    assert_eq!(none.map(|_| ()), Err(PieceFailure::Refused(Reason::NoPieces)));
    assert!(artifact.tree.check(PieceIndex(0), good.expect("piece").0.0).is_ok());
    assert!(artifact.tree.check(PieceIndex(1), other.expect("piece").0.0).is_ok());
    assert_eq!(fetch(0, u32::MAX).await.map(|_| ()), Err(PieceFailure::Refused(Reason::NoPieces)));
    // Taken back in the middle: what comes after it still comes.
    let mut given_up = Box::pin(fetch(0, PIECE as u32));
    assert!(futures::poll!(&mut given_up).is_pending());
    drop(given_up);
    assert!(artifact.tree.check(PieceIndex(1), fetch(1, PIECE as u32).await.expect("piece").0.0).is_ok());
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("after the name").split(' ').collect();
    // Fields 14 and 15 of proc(5), utime and stime, in ticks of 1/100 s.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
}

#[tokio::test]
async fn a_connection_killed_in_the_middle_of_a_piece() {
    let artifact = Artifact::new(2);
    let (mut one, mut two) =
        (Node::member(1).await, Node::start(Config { source: artifact.source(), ..config(2) }).await);
    let Some(address::Endpoint::Socket(target)) = address::endpoint(&two.net.listen_addresses()[0]) else {
        panic!("numeric")
    };
    let (address, counts, cut) = counting::stalling_proxy(target, 300_000).await;
    one.net.dial(two.device, vec![address]).await.expect("runs");
    assert_eq!((one.connected().await, two.connected().await), (two.device, one.device));
    let fetch = |index| one.net.fetch_piece(two.device, artifact.root(), PieceIndex(index), PIECE as u32);
    let killing = async {
        while counts.down.load(std::sync::atomic::Ordering::Relaxed) < 300_000 {
            tokio::task::yield_now().await;
        }
        cut.cancel();
    };
    let (first, second, ()) = tokio::join!(fetch(0), fetch(1), killing);
    assert_eq!((first, second), (Err(PieceFailure::Disconnected), Err(PieceFailure::Disconnected)));
    assert_eq!(one.disconnected().await, two.device);
}

#[tokio::test]
async fn a_peer_that_stalls_runs_out_of_time() {
    let artifact = Artifact::new(1);
    let (mut one, mut two) =
        (Node::member(1).await, Node::start(Config { source: artifact.source(), ..config(2) }).await);
    let Some(address::Endpoint::Socket(target)) = address::endpoint(&two.net.listen_addresses()[0]) else {
        panic!("numeric")
    };
    let (address, _, _cut) = counting::stalling_proxy(target, 300_000).await;
    one.net.dial(two.device, vec![address]).await.expect("runs");
    assert_eq!((one.connected().await, two.connected().await), (two.device, one.device));
    let piece = one.net.fetch_piece(two.device, artifact.root(), PieceIndex(0), PIECE as u32).await;
    assert_eq!(piece, Err(PieceFailure::TimedOut(config(1).patience.idle.as_secs())));
}

/// Lets one request through at a time, as its test says.
struct Slow {
    grants: Arc<Grants>,
    gate: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
    opened: std::sync::atomic::AtomicUsize,
}

impl PieceSource for Slow {
    fn open(&self, peer: DeviceId, root: Blake3Root, index: PieceIndex) -> Result<Opened, Reason> {
        let _ = self.gate.lock().expect("not poisoned").recv();
        self.opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.grants.open(peer, root, index)
    }
}

#[tokio::test]
async fn a_request_taken_back_leaves_the_others_alone() {
    let artifact = Artifact::new(3);
    let (open, gate) = std::sync::mpsc::channel();
    let source = Arc::new(Slow { grants: artifact.source(), gate: gate.into(), opened: 0.into() });
    let (one, two) = pair(config(1), Config { source: source.clone(), ..config(2) }).await;
    let fetch = |index| one.net.fetch_piece(two.device, artifact.root(), PieceIndex(index), PIECE as u32);
    let mut first = Box::pin(fetch(0));
    let second = fetch(1);
    assert!(futures::poll!(&mut first).is_pending());
    let (_, piece) = tokio::join!(
        async move {
            drop(first);
            for _ in 0..4 {
                let _ = open.send(());
            }
        },
        second
    );
    assert!(artifact.tree.check(PieceIndex(1), piece.expect("still wanted").0).is_ok());
}
