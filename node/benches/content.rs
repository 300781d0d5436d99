//! How fast content becomes durable, checked and served on this disk: `cargo bench -p patchmesh-node --bench content`.
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use node::content::ContentStore;
use node::store::{Batch, SledStore, Store as _};
use protocol::digest::Sha256;
use protocol::limits::PIECE_BYTES;
use protocol::piece::{PieceIndex, TreeBuilder};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Instant;

const PIECES: u32 = 128;
const BATCHES: u32 = 500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir_in(".")?;
    let store = Arc::new(SledStore::open(directory.path().join("store"))?);
    let begin = Instant::now();
    for number in 0..BATCHES {
        let mut batch = Batch::default();
        batch.put(format!("key/{number}"), vec![7; 200]);
        store.apply(batch)?;
    }
    let each = begin.elapsed() / BATCHES;
    println!("store: a durable batch takes {each:?}");

    let bytes: Vec<u8> =
        (0..u64::from(PIECES) * PIECE_BYTES).map(|at| ((at * 0x9e37_79b9) >> 7) as u8).collect();
    let mut builder = TreeBuilder::default();
    let speed = |what: &str, begin: Instant| {
        let mebibytes = f64::from(PIECES) / begin.elapsed().as_secs_f64();
        println!("content: {what}: {mebibytes:.0} MiB/s");
    };
    let begin = Instant::now();
    builder.update(&bytes);
    let tree = builder.finish();
    speed("building the tree", begin);

    let content = ContentStore::open(directory.path().join("content"), 1 << 40, store)?;
    content.begin(&tree)?;
    let begin = Instant::now();
    for index in (0..PIECES).map(PieceIndex) {
        let (offset, length) = tree.extent(index).ok_or("no such piece")?;
        let piece = tree.check(index, bytes[offset as usize..][..length].to_vec())?;
        content.write(&piece)?;
        if index.0 % 16 == 15 {
            content.sync(tree.root())?;
        }
    }
    speed("checking and writing pieces, durable every 16", begin);

    let begin = Instant::now();
    content.full_check(tree.root(), Sha256::of(&bytes[..]))?;
    speed("full check (with one SHA-256 beside it)", begin);

    let begin = Instant::now();
    let mut buffer = vec![0; PIECE_BYTES as usize];
    for index in (0..PIECES).map(PieceIndex) {
        let piece = content.open_piece(tree.root(), index)?;
        piece.file.read_exact_at(&mut buffer[..piece.length], piece.offset)?;
    }
    speed("opening and reading pieces", begin);
    Ok(())
}
