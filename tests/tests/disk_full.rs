//! A disk that is really full: a small file system of its own, mounted in a private namespace.

use node::content::{ContentStore, Error};
use node::disk;
use node::store::{self, Batch, SledStore, Store as _};
use protocol::limits::{DISK_RESERVE_BYTES, PIECE_BYTES};
use protocol::piece::{PieceIndex, PieceTree, TreeBuilder};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const CHILD: &str = "PATCHMESH_SMALL_DISK";
const ROOM_BYTES: u64 = 24 << 20;

/// Mounting needs a private namespace, so the work is done by this test run again inside of one.
#[test]
fn a_full_disk_is_an_error_with_a_remedy_and_harms_nothing() {
    let mount_point = tempfile::tempdir().expect("temporary directory");
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let script =
        format!("mount -t tmpfs -o size={} none \"$1\" && exec \"$2\" --exact \"$3\" --nocapture", {
            DISK_RESERVE_BYTES + ROOM_BYTES
        });
    let done = unshare
        .args(["--mount", "sh", "-c", &script, "sh"])
        .arg(mount_point.path())
        .arg(std::env::current_exe().expect("this binary"))
        .arg("disk_full::inside_the_namespace")
        .env(CHILD, mount_point.path())
        .output()
        .expect("unshare, of the package util-linux");
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

/// Not a test of its own: what the test above runs on the small disk.
#[test]
fn inside_the_namespace() {
    let Some(disk) = std::env::var_os(CHILD) else { return };
    let disk = Path::new(&disk);
    let store = Arc::new(SledStore::open(disk.join("store")).expect("there is room"));
    let content = ContentStore::open(disk.join("content"), 1 << 40, store.clone()).expect("there is room");
    put(&store, b"before").expect("there is room");

    // An artifact that cannot fit is refused before it is begun.
    let large = tree(&vec![1; (ROOM_BYTES + PIECE_BYTES) as usize]);
    let refused = content.begin(&large).expect_err("there is no room");
    assert!(matches!(refused, Error::DiskFull { .. }), "{refused}");
    assert!(refused.to_string().contains("free at least"), "{refused}");

    // Somebody else fills the disk while an artifact arrives.
    let bytes = vec![2; 2 * PIECE_BYTES as usize];
    let small = tree(&bytes);
    content.begin(&small).expect("there is room");
    let piece = |index: usize| {
        let from = index * PIECE_BYTES as usize;
        let bytes = bytes[from..from + PIECE_BYTES as usize].to_vec();
        small.check(PieceIndex(index as u32), bytes).expect("the right bytes")
    };
    content.write(&piece(0)).expect("there is room");
    content.sync(small.root()).expect("there is room");
    let filler = disk.join("filler");
    fill(&filler);
    assert_eq!(disk::free_bytes(disk).expect("a file system"), 0);
    assert!(matches!(content.write(&piece(1)), Err(Error::DiskFull { .. })));
    assert!(matches!(content.import_file(&filler), Err(Error::DiskFull { .. })));
    let refused = put(&store, b"full").expect_err("there is no room");
    assert!(matches!(refused, store::Error::DiskFull { .. }), "{refused}");
    assert_eq!(store.read(b"full").expect("reading works"), None, "a refused batch changes nothing");
    assert!(store.read(b"before").expect("reading works").is_some());
    let another = SledStore::open(disk.join("another")).expect_err("there is no room");
    assert!(matches!(another, store::OpenError::DiskFull { .. }), "{another}");

    // Once there is room again, both go on without having been opened anew.
    std::fs::remove_file(&filler).expect("it is there");
    put(&store, b"after").expect("there is room");
    content.write(&piece(1)).expect("there is room");
    content.sync(small.root()).expect("there is room");
    content.full_check(small.root(), protocol::digest::Sha256::of(&bytes)).expect("all bytes are right");
}

fn put(store: &SledStore, key: &[u8]) -> Result<(), store::Error> {
    let mut batch = Batch::default();
    batch.put(key, *b"value");
    store.apply(batch)
}

fn tree(bytes: &[u8]) -> PieceTree {
    let mut builder = TreeBuilder::default();
    builder.update(bytes);
    builder.finish()
}

fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
