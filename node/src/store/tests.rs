//! One suite for both stores, and what only the disk can show.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

fn batch(changes: &[(&[u8], Option<&[u8]>)]) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(*key, *value),
            None => batch.delete(*key),
        };
    }
    batch
}

fn suite(store: &dyn Store) {
    assert_eq!(store.read(b"a").unwrap(), None);
    store.apply(batch(&[(b"a/1", Some(b"one")), (b"a/2", Some(b"two")), (b"b", Some(b""))])).unwrap();
    assert_eq!(store.read(b"a/1").unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(store.read(b"b").unwrap().as_deref(), Some(&b""[..]));
    store.apply(batch(&[(b"a/1", None), (b"a/3", Some(b"x")), (b"a/3", Some(b"three"))])).unwrap();
    let found = store.scan(b"a/").unwrap();
    assert_eq!(found, [(b"a/2".to_vec(), b"two".to_vec()), (b"a/3".to_vec(), b"three".to_vec())]);
    assert_eq!(store.page(b"a/", None, 1).unwrap(), found[..1]);
    assert_eq!(store.page(b"a/", Some(b"a/2"), 9).unwrap(), found[1..]);
    assert_eq!(store.page(b"a/", Some(b"A"), 9).unwrap(), found, "before the prefix is from its beginning");
    assert_eq!(store.page(b"a/", Some(b"b"), 9).unwrap(), []);
    assert_eq!(store.scan(b"").unwrap().len(), 3);

    let large = vec![7u8; 300_000];
    store.apply(batch(&[(b"large", Some(&large))])).unwrap();
    assert_eq!(store.read(b"large").unwrap(), Some(large));
    let long_key = vec![0u8; limits::STORE_KEY_BYTES + 1];
    let refused = store.apply(batch(&[(b"c", Some(b"1")), (&long_key, Some(b"1"))]));
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
    assert_eq!(store.read(b"c").unwrap(), None, "a refused batch changes nothing");
}

#[test]
fn memory_passes_the_suite() {
    suite(&MemoryStore::default());
}

#[test]
fn sled_passes_the_suite_and_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path()).unwrap();
    suite(&store);
    let before = store.scan(b"").unwrap();
    drop(store);
    assert_eq!(SledStore::open(directory.path()).unwrap().scan(b"").unwrap(), before);
}

#[test]
fn a_second_process_is_told_that_it_is_locked() {
    let directory = tempfile::tempdir().unwrap();
    let _first = SledStore::open(directory.path()).unwrap();
    let error = SledStore::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }));
    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
}

#[test]
fn damage_is_named_with_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    drop(SledStore::open(directory.path()).unwrap());
    std::fs::write(directory.path().join("conf"), b"not what sled wrote").unwrap();
    let error = SledStore::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
}

/// Bytes of every file flipped or cut off: then everything is there as it was acknowledged, or it does not open.
#[test]
fn random_damage_is_an_error_or_harmless() {
    let original = tempfile::tempdir().unwrap();
    let store = SledStore::open(original.path()).unwrap();
    for number in 0..40u32 {
        let mut records = Batch::default();
        for key in 0..20 {
            records.put(format!("key/{key}"), vec![number as u8; 2_000]);
        }
        store.apply(records).unwrap();
    }
    drop(store);
    let names: Vec<_> =
        std::fs::read_dir(original.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let (mut opened, mut refused) = (0, 0);
    for round in 0..48usize {
        let damaged = tempfile::tempdir().unwrap();
        for name in names.iter().filter(|name| original.path().join(name).is_file()) {
            std::fs::copy(original.path().join(name), damaged.path().join(name)).unwrap();
        }
        std::fs::create_dir(damaged.path().join("blobs")).unwrap();
        let files: Vec<_> =
            names.iter().filter(|name| damaged.path().join(name).is_file() && *name != "lock").collect();
        let path = damaged.path().join(files[round % files.len()]);
        let mut bytes = std::fs::read(&path).unwrap();
        let place = (round * 7_919 * 31) % bytes.len().max(1);
        if round % 5 == 4 {
            bytes.truncate(place);
        } else if !bytes.is_empty() {
            bytes[place] ^= 0x55;
        }
        std::fs::write(&path, bytes).unwrap();
        match SledStore::open(damaged.path()) {
            Err(OpenError::Corrupt { .. } | OpenError::Unknown { .. }) => refused += 1,
            Err(error) => panic!("{path:?} at {place}: {error:?}"),
            Ok(store) => {
                opened += 1;
                if let Ok(records) = store.scan(b"key/") {
                    assert!(records.iter().all(|(_, value)| *value == [39; 2_000]), "{path:?} at {place}");
                    assert_eq!(records.len(), 20, "{path:?} at {place}");
                }
                let _ = store.apply(batch(&[(b"new", Some(b"value"))]));
            }
        }
    }
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
}

#[test]
fn formats_are_this_one_and_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let open = |format| sled::open_as(directory.path(), format);
    drop(open(5).unwrap());
    drop(open(6).unwrap());
    assert!(matches!(open(4).unwrap_err(), OpenError::Newer { found: 5, .. }));
    assert!(matches!(open(7).unwrap_err(), OpenError::Unknown { .. }));
    drop(open(5).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn pages_are_the_sorted_map(
        changes in proptest::collection::vec((proptest::collection::vec(0u8..4, 0..4), any::<Option<u8>>()), 0..40),
        prefix in proptest::collection::vec(0u8..4, 0..3),
        size in 1usize..5,
    ) {
        let store = MemoryStore::default();
        let mut model = BTreeMap::new();
        let mut batch = Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => { batch.put(key.clone(), [value]); model.insert(key, vec![value]); }
                None => { batch.delete(key.clone()); model.remove(&key); }
            }
        }
        store.apply(batch).unwrap();
        let mut found: Vec<Record> = Vec::new();
        loop {
            let after = found.last().map(|(key, _)| key.clone());
            let page = store.page(&prefix, after.as_deref(), size).unwrap();
            if page.is_empty() { break; }
            found.extend(page);
        }
        model.retain(|key, _| key.starts_with(&prefix));
        prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
    }
}

const CHILD: &str = "PATCHMESH_STORE_CHILD";
const KEYS_PER_BATCH: u32 = 40;

/// Not a test of its own: what the child of the next test runs.
#[test]
fn child_writes_until_killed() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let store = SledStore::open(directory).unwrap();
    let first =
        store.read(b"last").unwrap().map_or(0, |last| u32::from_le_bytes(last.try_into().unwrap()) + 1);
    let mut out = std::io::stderr();
    for number in first.. {
        let mut batch = Batch::default();
        batch.put(*b"last", number.to_le_bytes());
        for key in 0..KEYS_PER_BATCH {
            // Every eleventh batch is large enough for sled's separate files.
            let bytes = if number % 11 == 0 && key == 0 { 200_000 } else { 100 };
            let mut value = number.to_le_bytes().to_vec();
            value.resize(bytes, 7);
            batch.put(format!("key/{key:03}"), value);
        }
        store.apply(batch).unwrap();
        writeln!(out, "applied {number}").unwrap();
    }
}

#[test]
fn kill_keeps_every_acknowledged_batch_and_no_half_one() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..6u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::child_writes_until_killed", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let enough = 5 + 9 * round;
        let mut acknowledged = None;
        for line in lines
            .by_ref()
            .map(Result::unwrap)
            .filter(|line| line.starts_with("applied "))
            .take(enough as usize)
        {
            acknowledged = line["applied ".len()..].parse::<u32>().ok();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok).filter(|line| line.starts_with("applied ")) {
            acknowledged = line["applied ".len()..].parse::<u32>().ok();
        }
        let acknowledged = acknowledged.expect("the child wrote at least one batch");

        let store = SledStore::open(directory.path()).unwrap();
        let last = u32::from_le_bytes(store.read(b"last").unwrap().unwrap().try_into().unwrap());
        assert!(last >= acknowledged, "batch {acknowledged} was acknowledged, {last} is the last one there");
        let records = store.scan(b"key/").unwrap();
        assert_eq!(records.len(), KEYS_PER_BATCH as usize);
        for (key, value) in records {
            assert_eq!(value[..4], last.to_le_bytes(), "{key:?} is of another batch");
        }
    }
}

// A pipe would keep the start waiting, and a device that never ends would fill the memory.
#[test]
fn what_is_no_file_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("store");
    drop(SledStore::open(&place).unwrap());
    for name in ["lock", "conf", "db", "acknowledged"] {
        let (path, aside) = (place.join(name), directory.path().join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        for endless in [false, true] {
            match endless {
                true => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
                false => rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap(),
            }
            let refused = SledStore::open(&place).unwrap_err();
            assert!(matches!(refused, OpenError::Io { .. }), "{name}: {refused:?}");
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::rename(&aside, &path).unwrap();
    }
    SledStore::open(&place).unwrap();
}
