//! Tests of the package database on written files; the ones with a real dpkg are in `node/tests`.

use super::*;
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;

struct Database {
    directory: tempfile::TempDir,
}

impl Database {
    fn new(status: &str) -> Database {
        let directory = tempfile::tempdir().expect("directory");
        fs::create_dir_all(directory.path().join(UPDATES)).expect("directory");
        fs::write(directory.path().join(STATUS), status).expect("file");
        Database { directory }
    }

    fn journal(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(UPDATES).join(name);
        fs::write(&path, text).expect("file");
        path
    }

    fn read(&self) -> Result<Vec<Package>, Error> {
        read(self.directory.path())
    }

    fn state(&self, name: &str) -> Option<PackageState> {
        let packages = self.read().expect("database");
        packages.into_iter().find(|package| package.name == name).map(|package| package.state)
    }
}

fn stanza(name: &str, status: &str, version: &str) -> String {
    format!(
        "Package: {name}\nStatus: {status}\nArchitecture: amd64\nVersion: {version}\nDescription: x\n y\n\n"
    )
}

// proves S11
#[test]
fn only_installed_without_reinstreq_is_installed() {
    let cases = [
        ("install ok installed", PackageState::Installed),
        ("hold ok installed", PackageState::Installed),
        ("deinstall ok installed", PackageState::Installed),
        ("install ok triggers-pending", PackageState::Installed),
        ("install ok triggers-awaited", PackageState::Installed),
        ("install reinstreq installed", PackageState::Broken),
        ("install reinstreq half-installed", PackageState::Broken),
        ("install ok half-installed", PackageState::Broken),
        ("install ok unpacked", PackageState::Broken),
        ("hold ok half-configured", PackageState::Broken),
        ("deinstall ok config-files", PackageState::Absent),
        ("purge ok not-installed", PackageState::Absent),
    ];
    for (status, expected) in cases {
        assert_eq!(Database::new(&stanza("a", status, "1.0")).state("a"), Some(expected), "{status}");
    }
}

// proves S11
#[test]
fn the_journal_overrules_status_in_order() {
    let database = Database::new(&stanza("a", "install ok installed", "1.0"));
    database.journal("0000", &stanza("a", "install reinstreq half-installed", "1.0"));
    assert_eq!(database.state("a"), Some(PackageState::Broken));
    database.journal("0002", &stanza("a", "install ok installed", "1.1"));
    database.journal("0001", &stanza("a", "install ok unpacked", "1.1"));
    database.journal("tmp.i", "torn");
    assert_eq!(database.state("a"), Some(PackageState::Installed));
    assert_eq!(database.read().expect("database")[0].version.as_str(), "1.1");
    database.journal("0003", "Package: a\nStatus: purge ok not-installed\nArchitecture: amd64\n\n");
    assert_eq!(database.state("a"), None);
    database.journal("00004", &stanza("a", "install ok installed", "1.1"));
    assert!(matches!(database.read(), Err(Error::Journal { .. })));
}

#[test]
fn damage_is_named_with_file_and_line() {
    let good = stanza("a", "install ok installed", "1.0");
    let problems = [
        (good.replace("install ok installed", "install ok"), 1),
        (good.replace("ok installed", "ok perhaps"), 1),
        (good.replace("ok installed", "maybe installed"), 1),
        (good.replace("install ok", "want ok"), 1),
        (good.replace("Version: 1.0\n", ""), 1),
        (good.replace("1.0", "a:1"), 1),
        (good.replace("Architecture: amd64\n", ""), 1),
        (good.replace("Package: a", "Package: ../a"), 1),
        (format!("{good}{good}"), 8),
        (good.trim_end().to_owned(), 6),
        (format!("{good}garbage\n"), 8),
    ];
    for (text, expected) in problems {
        let Err(Error::Malformed { file, source, .. }) = Database::new(&text).read() else {
            panic!("believed: {text}");
        };
        assert_eq!((file.as_str(), source.line), (STATUS, expected), "{text}");
    }
    let database = Database::new(&good);
    database.journal("0000", "Package: a\n");
    let error = database.read().expect_err("malformed journal");
    assert!(matches!(&error, Error::Malformed { file, .. } if file.ends_with("updates/0000")), "{error}");
}

#[test]
fn a_missing_database_is_an_error_and_an_empty_one_is_not() {
    let empty = tempfile::tempdir().expect("directory");
    assert!(matches!(read(empty.path()), Err(Error::Read { .. })));
    assert_eq!(Database::new("").read().expect("database"), []);
}

struct Stops<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_read_while_the_database_changes_is_one_consistent_state() {
    let database = Database::new(&stanza("a", "install ok installed", "1"));
    let root = database.directory.path().to_owned();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when an assertion fails: the scope waits for its threads.
        let _stops = Stops(&stop);
        scope.spawn(|| {
            let mut version = 1u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                version += 1;
                let temporary = root.join("var/lib/dpkg/status-new");
                let pair = [("a", version), ("b", version)];
                let text: String = pair
                    .map(|(name, version)| stanza(name, "install ok installed", &version.to_string()))
                    .concat();
                let update = root.join(UPDATES).join("0000");
                fs::write(root.join(UPDATES).join("tmp.i"), &text).expect("journal");
                fs::rename(root.join(UPDATES).join("tmp.i"), &update).expect("journal");
                fs::write(&temporary, &text).expect("status");
                fs::rename(&temporary, root.join(STATUS)).expect("status");
                fs::remove_file(&update).expect("journal");
            }
        });
        let mut consistent = 0;
        for _ in 0..50 {
            match read(&root) {
                Ok(packages) => {
                    assert!(packages.windows(2).all(|pair| pair[0].version == pair[1].version));
                    consistent += 1;
                }
                Err(Error::Changing { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            if consistent == 3 {
                break;
            }
        }
        assert!(consistent > 0, "never read a consistent state");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_stanzas_never_panic(text in "(Package|Status|Version|Architecture|X|): ?[a-z0-9:. ]{0,12}\n{1,2}") {
        let _ = Database::new(&text).read();
    }
}
