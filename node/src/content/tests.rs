//! Content through its life: begun, written in any order, killed, found again, checked, damaged, discarded.

use super::*;
use crate::store::{MemoryStore, SledStore};
use proptest::prelude::*;
use protocol::limits::PIECE_BYTES;
use protocol::piece::TreeBuilder;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};

const MIB: usize = PIECE_BYTES as usize;

fn bytes(size: usize) -> Vec<u8> {
    (0..size as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8 | 1).collect()
}

fn tree_of(bytes: &[u8]) -> PieceTree {
    let mut builder = TreeBuilder::default();
    builder.update(bytes);
    builder.finish()
}

fn piece(tree: &PieceTree, bytes: &[u8], index: u32) -> CheckedPiece {
    let (offset, length) = tree.extent(PieceIndex(index)).unwrap();
    tree.check(PieceIndex(index), bytes[offset as usize..][..length].to_vec()).unwrap()
}

struct Fixture {
    directory: tempfile::TempDir,
    store: Arc<MemoryStore>,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture { directory: tempfile::tempdir().unwrap(), store: Arc::default() }
    }

    fn open(&self) -> ContentStore {
        self.open_with(1 << 30)
    }

    fn open_with(&self, quota: u64) -> ContentStore {
        ContentStore::open(self.directory.path().join("content"), quota, self.store.clone()).unwrap()
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

// proves X2
#[test]
fn pieces_become_a_checked_file() {
    let fixture = Fixture::new();
    let content = fixture.open();
    let bytes = bytes(3 * MIB + 17);
    let tree = tree_of(&bytes);
    let root = tree.root();
    assert!(matches!(content.write(&piece(&tree, &bytes, 0)), Err(Error::Unknown(_))));
    assert_eq!(content.begin(&tree).unwrap().len(), 0);
    for index in [3, 0, 2] {
        content.write(&piece(&tree, &bytes, index)).unwrap();
    }
    assert_eq!(content.durable(root).unwrap().len(), 0);
    assert_eq!(content.sync(root).unwrap().iter().map(|index| index.0).collect::<Vec<_>>(), [0, 2, 3]);
    assert!(matches!(content.open_piece(root, PieceIndex(1)), Err(Error::Missing { .. })));
    let incomplete = content.full_check(root, Sha256::of(&bytes));
    assert!(matches!(incomplete, Err(CheckError::Content(Error::Incomplete { missing: 1, .. }))));
    content.write(&piece(&tree, &bytes, 1)).unwrap();
    assert!(matches!(content.open_complete(root), Err(Error::Incomplete { missing: 0, .. })));
    assert_eq!(content.sync_all().unwrap(), [(root, PieceSet::full(4))]);
    content.full_check(root, Sha256::of(&bytes)).unwrap();
    let mut read = Vec::new();
    content.open_complete(root).unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes);
    let served = content.open_piece(root, PieceIndex(3)).unwrap();
    let mut last = vec![0; served.length];
    served.file.read_exact_at(&mut last, served.offset).unwrap();
    assert_eq!(last, bytes[3 * MIB..]);

    let again = fixture.open();
    assert_eq!(again.held(), content.held());
    assert!(again.open_complete(root).is_ok());
    again.discard(root).unwrap();
    assert_eq!(again.usage().bytes, 0);
    assert_eq!(fs::read_dir(fixture.directory.path().join("content")).unwrap().count(), 0);
    assert!(fixture.store.scan(b"").unwrap().is_empty());
}

#[test]
fn files_are_sparse_and_for_nobody_else() {
    let fixture = Fixture::new();
    let content = fixture.open();
    let bytes = bytes(8 * MIB);
    let tree = tree_of(&bytes);
    content.begin(&tree).unwrap();
    content.write(&piece(&tree, &bytes, 7)).unwrap();
    content.sync(tree.root()).unwrap();
    let directory = fixture.directory.path().join("content");
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&directory).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let about = fs::metadata(content.path(tree.root())).unwrap();
    assert_eq!(about.len(), 8 * PIECE_BYTES);
    assert!(about.blocks() * 512 < 3 * PIECE_BYTES, "the file is not sparse");
}

#[test]
fn changes_behind_our_back_are_noticed_and_mended() {
    let fixture = Fixture::new();
    let content = fixture.open();
    let bytes = bytes(2 * MIB + 5);
    let imported = content.import_file(fixture.write_file("file", &bytes)).unwrap();
    let path = content.path(imported.root);
    let tree = tree_of(&bytes);
    type Damage = fn(&File);
    let damages: [(Damage, &[u32]); 3] = [
        (|file| file.write_all_at(b"\0", MIB as u64 + 3).unwrap(), &[1]),
        (|file| file.set_len(2 * MIB as u64).unwrap(), &[2]),
        (|file| file.write_all_at(b"more", 2 * MIB as u64 + 5).unwrap(), &[2]),
    ];
    for (damage, expected) in damages {
        content.full_check(imported.root, imported.sha256).unwrap();
        damage(&OpenOptions::new().write(true).open(&path).unwrap());
        match content.full_check(imported.root, imported.sha256) {
            Err(CheckError::Changed { pieces, .. }) => {
                assert_eq!(pieces.iter().map(|index| index.0).collect::<Vec<_>>(), expected);
                assert!(matches!(content.open_complete(imported.root), Err(Error::Incomplete { .. })));
                for index in pieces {
                    content.write(&piece(&tree, &bytes, index.0)).unwrap();
                }
            }
            other => panic!("expected a changed file, found {other:?}"),
        }
    }
    content.full_check(imported.root, imported.sha256).unwrap();
    let wrong = content.full_check(imported.root, Sha256::of(b"another"));
    assert!(matches!(wrong, Err(CheckError::Digest { .. })), "{wrong:?}");
}

#[test]
fn imports_are_what_they_say_and_leave_nothing_behind() {
    let fixture = Fixture::new();
    let content = fixture.open_with(3 * PIECE_BYTES);
    for size in [0, 1, MIB, MIB + 1] {
        let bytes = bytes(size);
        let path = fixture.write_file("file", &bytes);
        let imported = content.import_file(&path).unwrap();
        assert_eq!(imported, protocol::manifest::Content::of(&bytes));
        assert_eq!(content.import_file(&path).unwrap(), imported, "again");
        assert_eq!(*content.tree(imported.root).unwrap(), tree_of(&bytes));
        content.full_check(imported.root, imported.sha256).unwrap();
    }
    let refused = content.import_file(fixture.write_file("file", &bytes(2 * MIB))).unwrap_err();
    assert!(matches!(refused, Error::Quota { needed, .. } if needed == 2 * PIECE_BYTES));
    assert!(refused.to_string().contains("2097152 bytes"), "{refused}");
    assert!(matches!(content.import_file(fixture.directory.path()), Err(Error::Source { .. })));
    assert!(matches!(content.import_file(fixture.directory.path().join("none")), Err(Error::Io { .. })));
    assert_eq!(content.usage().bytes, 2 * PIECE_BYTES + 2);
    let names: Vec<_> = fs::read_dir(fixture.directory.path().join("content")).unwrap().collect();
    assert_eq!(names.len(), 8, "a file and a tree for each: {names:?}");
}

#[test]
fn what_is_here_is_neither_copied_nor_needs_room() {
    let fixture = Fixture::new();
    let content = fixture.open_with(2 * PIECE_BYTES);
    let first = bytes(2 * MIB);
    let imported = content.import_file(fixture.write_file("file", &first)).unwrap();
    let named = fixture.write_file(&imported.root.to_string(), &first);
    assert_eq!(content.import_file(fixture.write_file("another name", &first)).unwrap(), imported);
    // By its name it is known without being read; a file of another length cannot be it.
    fs::write(&named, vec![0; first.len()]).unwrap();
    assert_eq!(content.import_file(&named).unwrap(), imported);
    fs::write(&named, b"short").unwrap();
    assert!(matches!(content.import_file(&named), Err(Error::Quota { .. })));
    drop(content);
    // What is not whole any more comes in again.
    let content = fixture.open_with(8 * PIECE_BYTES);
    fs::write(&named, &first).unwrap();
    fs::remove_file(content.path(imported.root)).unwrap();
    assert_eq!(content.import_file(&named).unwrap(), imported);
    content.full_check(imported.root, imported.sha256).unwrap();
}

#[test]
fn room_is_made_in_the_order_asked_for_and_no_more() {
    let fixture = Fixture::new();
    let content = fixture.open_with(4 * PIECE_BYTES);
    let import = |seed: u8| {
        let file = fixture.write_file("file", &vec![seed; MIB]);
        content.import_file(file).unwrap().root
    };
    let roots = [import(1), import(2), import(3), import(4)];
    let discarded = content.make_room(2 * PIECE_BYTES, |held| {
        assert_eq!(held.len(), 4);
        vec![roots[2], roots[0], roots[1]]
    });
    assert_eq!(discarded.unwrap(), [roots[2], roots[0]]);
    assert_eq!(content.make_room(2 * PIECE_BYTES, |_| panic!("there is room")).unwrap(), []);
    assert!(matches!(content.make_room(5 * PIECE_BYTES, |_| Vec::new()), Err(Error::Quota { .. })));
}

#[test]
fn a_start_drops_what_has_no_file_and_removes_leftovers() {
    let fixture = Fixture::new();
    let bytes = bytes(MIB + 1);
    let imported = fixture.open().import_file(fixture.write_file("file", &bytes)).unwrap();
    let directory = fixture.directory.path().join("content");
    let other = Blake3Root::of(b"other");
    for name in [
        format!("{other}"),
        format!("{other}.tree"),
        "7.importing".to_owned(),
        ".new-a1".to_owned(),
        "notes.txt".to_owned(),
    ] {
        fs::write(directory.join(name), "left over").unwrap();
    }
    fs::write(directory.join(format!("{}.tree", imported.root)), "torn").unwrap();
    let content = fixture.open();
    assert_eq!(content.held(), []);
    let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"], "only what is not ours stays");
    assert!(fixture.store.scan(b"").unwrap().is_empty());
}

// What is no file is content that is not here: it keeps nobody waiting, and a directory stays where it is.
#[test]
fn what_is_no_file_counts_as_not_here() {
    let fixture = Fixture::new();
    let bytes = bytes(1_000);
    let file = fixture.write_file("file", &bytes);
    let root = tree_of(&bytes).root();
    let directory = fixture.directory.path().join("content");
    let pipe = |path: &Path| rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
    let endless = |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap();
    let folder = |path: &Path| fs::create_dir(path).unwrap();
    let kinds: [&dyn Fn(&Path); 3] = [&pipe, &endless, &folder];
    for end in ["", ".tree"] {
        for put in kinds {
            fixture.open().import_file(&file).unwrap();
            let path = directory.join(format!("{root}{end}"));
            fs::remove_file(&path).unwrap();
            put(&path);
            let content = fixture.open();
            assert_eq!(content.held(), []);
            if path.is_dir() {
                fs::remove_dir(&path).unwrap();
            }
        }
    }
    fixture.open().import_file(&file).unwrap();
}

#[test]
fn no_permission_is_said_so() {
    // Nobody, not even root, makes a directory there.
    let refused = ContentStore::open("/sys/patchmesh", 1, Arc::new(MemoryStore::default()));
    assert!(matches!(refused, Err(Error::Permission { .. })), "{:?}", refused.err());
}

#[test]
fn many_threads_write_and_sync_one_artifact() {
    let fixture = Fixture::new();
    let content = fixture.open();
    let bytes = bytes(16 * MIB);
    let tree = tree_of(&bytes);
    content.begin(&tree).unwrap();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (content, tree, bytes) = (&content, &tree, &bytes);
            scope.spawn(move || {
                for index in (part..16).step_by(4) {
                    content.write(&piece(tree, bytes, index)).unwrap();
                    assert!(content.sync(tree.root()).unwrap().contains(PieceIndex(index)));
                }
            });
        }
    });
    content.full_check(tree.root(), Sha256::of(&bytes)).unwrap();
    assert!(fixture.open().open_complete(tree.root()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever was written is found after a stop at any moment, recorded or not, and nothing else is.
    #[test]
    fn nothing_verified_is_fetched_twice(
        size in 0usize..6_000_000,
        steps in proptest::collection::vec((0u32..6, any::<bool>()), 0..10),
        torn in proptest::option::of(0u32..6),
    ) {
        let fixture = Fixture::new();
        let bytes = bytes(size);
        let tree = tree_of(&bytes);
        let root = tree.root();
        let mut expected = PieceSet::new();
        {
            let content = fixture.open();
            content.begin(&tree).unwrap();
            for (index, sync) in steps {
                if index < tree.pieces() {
                    content.write(&piece(&tree, &bytes, index)).unwrap();
                    expected.insert(PieceIndex(index));
                }
                if sync {
                    prop_assert_eq!(content.sync(root).unwrap(), expected.clone());
                }
            }
            if let Some((offset, length)) = torn.and_then(|index| tree.extent(PieceIndex(index)))
                && torn.is_some_and(|index| !expected.contains(PieceIndex(index)))
            {
                // Half of a piece reached the disk.
                let file = OpenOptions::new().write(true).open(content.path(root)).unwrap();
                file.write_all_at(&bytes[offset as usize..][..length / 2], offset).unwrap();
            }
        }
        if size == 0 {
            expected.insert(PieceIndex(0));
        }
        let content = fixture.open();
        prop_assert_eq!(content.durable(root), Some(expected.clone()));
        prop_assert_eq!(content.begin(&tree).unwrap(), expected.clone());
        for index in expected.missing(tree.pieces()).collect::<Vec<_>>() {
            content.write(&piece(&tree, &bytes, index.0)).unwrap();
        }
        content.full_check(root, Sha256::of(&bytes)).unwrap();
    }
}

const CHILD: &str = "PATCHMESH_CONTENT_CHILD";
const CHILD_PIECES: u32 = 24;

/// Not a test of its own: what the child of the next test runs.
#[test]
fn child_writes_pieces_until_killed() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let directory = Path::new(&directory);
    let store = Arc::new(SledStore::open(directory.join("store")).unwrap());
    let content = ContentStore::open(directory.join("content"), 1 << 30, store).unwrap();
    let bytes = bytes(CHILD_PIECES as usize * MIB);
    let tree = tree_of(&bytes);
    let mut out = std::io::stderr();
    let missing: Vec<_> = content.begin(&tree).unwrap().missing(CHILD_PIECES).collect();
    for index in missing {
        content.write(&piece(&tree, &bytes, index.0)).unwrap();
        writeln!(out, "written {}", index.0).unwrap();
        if index.0 % 3 == 2 {
            content.sync(tree.root()).unwrap();
        }
    }
    writeln!(out, "done").unwrap();
    std::thread::park();
}

#[test]
fn kill_loses_no_piece_that_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = bytes(CHILD_PIECES as usize * MIB);
    let tree = tree_of(&bytes);
    let mut expected = PieceSet::new();
    for _ in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "content::tests::child_writes_pieces_until_killed", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = 0;
        let mut killed = false;
        for line in lines {
            if let Some(index) = line.strip_prefix("written ") {
                assert!(
                    !expected.contains(PieceIndex(index.parse().unwrap())),
                    "piece {index} was written twice"
                );
                expected.insert(PieceIndex(index.parse().unwrap()));
                seen += 1;
            }
            if !killed && (seen == 5 || line == "done") {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        let store = Arc::new(SledStore::open(directory.path().join("store")).unwrap());
        let content = ContentStore::open(directory.path().join("content"), 1 << 30, store).unwrap();
        let found = content.durable(tree.root()).unwrap();
        let lost: Vec<_> = expected.iter().filter(|index| !found.contains(*index)).collect();
        assert_eq!(lost, [], "written and verified, and gone");
        // A piece whose line was not written yet may be there, too.
        expected = found;
        for index in expected.iter() {
            let PieceFile { file, offset, length } = content.open_piece(tree.root(), index).unwrap();
            let mut read = vec![0; length];
            file.read_exact_at(&mut read, offset).unwrap();
            assert!(tree.check(index, read).is_ok());
        }
    }
}

#[test]
fn a_shortage_says_nothing_about_the_content() {
    let failed =
        |number| CheckError::from(Error::at("file".as_ref())(std::io::Error::from_raw_os_error(number)));
    let [too_many_files, disk_error] = [24, 5];
    failed(too_many_files).into_shortage().unwrap_err();
    failed(disk_error).into_shortage().unwrap();
}
