//! Pieces from mirrors of every kind of manners: what comes, what is asked for, and what is said when nothing comes.

mod server;

use super::*;
use crate::store::MemoryStore;
use protocol::identifier::PatchId;
use protocol::limits::{BLOCK_BYTES, PIECE_BYTES};
use protocol::manifest::{AptChain, Artifact, Detection, Installer, Kind, Reboot, SCHEMA, Severity};
use protocol::rate::Rate;
use protocol::reason::Reason;
use protocol::version::DebianVersion;
use server::{Answer, Server};
use std::time::Instant;

/// Longer than any test may wait in earnest.
const LONG: Duration = Duration::from_secs(60);

struct Fixture {
    directory: tempfile::TempDir,
    file: Vec<u8>,
    reader: Reader,
}

impl Fixture {
    fn new(size: usize) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let content =
            ContentStore::open(directory.path().join("content"), 1 << 30, Arc::<MemoryStore>::default());
        let mut reader = Reader::new(Arc::new(content.unwrap()), Arc::new(Cap::new()));
        reader.patience = Patience { silence: LONG, longest: |_| LONG };
        let file = (0..size as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8).collect();
        Fixture { directory, file, reader }
    }

    fn root(&self) -> Blake3Root {
        Content::of(&self.file).root
    }

    fn manifest(&self, evidence: Evidence) -> Manifest {
        Manifest {
            schema: SCHEMA,
            patch: PatchId::new("acme/tool=1.0").unwrap(),
            title: "tool".to_owned(),
            kind: Kind::Security,
            severity: Severity::Unknown,
            cves: Vec::new(),
            published: None,
            targets: Vec::new(),
            detection: Detection::DebianPackage {
                package: "tool".to_owned(),
                architecture: "amd64".to_owned(),
                version: DebianVersion::new("1.0").unwrap(),
            },
            requires: Vec::new(),
            supersedes: Vec::new(),
            artifacts: vec![Artifact {
                name: "tool-1.0.bin".to_owned(),
                content: Content::of(&self.file),
                evidence,
            }],
            installer: Installer::Dpkg,
            reboot: Reboot::Never,
        }
    }

    async fn read(&self, mirrors: &[&Server], range: Range<u64>) -> Result<Vec<u8>, OriginError> {
        let mirrors: Vec<_> = mirrors.iter().map(|server| mirror(server.url())).collect();
        self.reader.read(&mirrors, &self.manifest(Evidence::None {}), self.root(), range).await
    }

    /// A package index that lies here and names the file.
    fn index(&self) -> Evidence {
        let Content { sha256, size, .. } = Content::of(&self.file);
        let text = format!("Package: tool\nFilename: ./pool/t/tool.deb\nSize: {size}\nSHA256: {sha256}\n");
        let path = self.directory.path().join("Packages");
        std::fs::write(&path, text).unwrap();
        let packages = self.reader.content.import_file(&path).unwrap();
        Evidence::Apt(AptChain {
            release: Content::of(b"release"),
            packages,
            packages_path: "main/binary-amd64/Packages".to_owned(),
            suite: "stable".to_owned(),
            codename: "bookworm".to_owned(),
        })
    }
}

fn mirror(url: &str) -> configuration::Mirror {
    configuration::Mirror { vendor: VendorName::new("acme").unwrap(), url: url.to_owned() }
}

/// A server that answers every request with this.
async fn always(answer: impl Fn() -> Answer + Send + Sync + 'static) -> Server {
    Server::start(move |_| Some(answer())).await
}

/// What was asked for, in order of place, without gaps and without anything twice.
fn covers(server: &Server, range: Range<u64>) -> Vec<u64> {
    let mut asked: Vec<_> = server.asked().into_iter().map(|asked| asked.range).collect();
    asked.sort_by_key(|asked| asked.start);
    let end = asked.iter().fold(range.start, |from, asked| {
        assert_eq!(asked.start, from, "{asked:?}");
        asked.end
    });
    assert_eq!(end, range.end);
    asked.iter().map(|asked| asked.end - asked.start).collect()
}

#[tokio::test]
async fn a_piece_in_the_middle_and_the_short_last_one() {
    let size = 2 * PIECE_BYTES + 300_001;
    let fixture = Fixture::new(size as usize);
    for range in [PIECE_BYTES..2 * PIECE_BYTES, 2 * PIECE_BYTES..size] {
        let server = Server::of(&fixture.file).await;
        let bytes = fixture.read(&[&server], range.clone()).await.unwrap();
        assert!(bytes == fixture.file[range.start as usize..range.end as usize]);
        let blocks = covers(&server, range);
        assert!(server.asked().iter().all(|asked| asked.path == "/pub/tool-1.0.bin"));
        assert!(blocks.iter().all(|length| *length <= BLOCK_BYTES as u64));
        assert!(blocks.iter().all(|length| *length <= 12 << 10), "{blocks:?}");
    }
    assert_eq!(
        fixture.read(&[], 0..1).await.unwrap_err().of_piece(),
        PieceFailure::Refused(Reason::NoPieces)
    );
}

#[tokio::test]
async fn few_requests_at_once_however_far_the_mirror() {
    let fixture = Fixture::new(PIECE_BYTES as usize);
    let file = fixture.file.clone();
    let late = move |asked: &server::Asked| {
        let at = tokio::time::Instant::now() + Duration::from_millis(50);
        Some(Answer { at, ..Answer::part(&file, asked) })
    };
    let server = Server::start(late).await;
    for _ in 0..3 {
        fixture.read(&[&server], 0..PIECE_BYTES).await.unwrap();
    }
    assert!((2..=limits::MIRROR_REQUESTS).contains(&server.most_at_once()), "{}", server.most_at_once());
}

#[tokio::test]
async fn answers_that_are_none_to_the_request() {
    let fixture = Fixture::new(300_000);
    let (file, all) = (fixture.file.clone(), fixture.file.clone());
    let part = move |asked: &server::Asked| Answer::part(&file, asked);
    let whole = always(move || Answer::new("200 OK", &all)).await;
    let with = |change: fn(&mut Answer)| {
        let part = part.clone();
        move |asked: &server::Asked| {
            let mut answer = part(asked);
            change(&mut answer);
            Some(answer)
        }
    };
    let other =
        Server::start(with(|answer| answer.content_range = Some("bytes 1-8192/300000".to_owned()))).await;
    let unsaid = Server::start(with(|answer| answer.content_range = None)).await;
    let short = Server::start(with(|answer| answer.body.truncate(1))).await;
    let long = Server::start(with(|answer| answer.body.push(0))).await;
    let cut = Server::start(with(|answer| answer.cut = 1)).await;
    let busy = always(|| Answer::new("503 Service Unavailable", b"")).await;
    let gone = always(|| Answer::new("404 Not Found", b"")).await;
    let closed = always(|| Answer::new("403 Forbidden", b"")).await;
    let shrunk = always(|| Answer::new("416 Range Not Satisfiable", b"")).await;
    let none = PieceFailure::Refused(Reason::NoPieces);
    let cases = [
        ("whole", &whole, none),
        ("other", &other, none),
        ("unsaid", &unsaid, none),
        ("short", &short, none),
        ("long", &long, none),
        ("cut", &cut, PieceFailure::Lost),
        ("busy", &busy, PieceFailure::Lost),
        ("gone", &gone, none),
        ("closed", &closed, none),
        ("shrunk", &shrunk, none),
    ];
    for (name, server, expected) in cases {
        let error = fixture.read(&[server], 0..300_000).await.unwrap_err();
        assert_eq!(error.of_piece(), expected, "{name}: {error}");
    }
    let error = fixture.read(&[&gone, &busy, &other], 0..300_000).await.unwrap_err();
    assert_eq!(
        error.of_piece(),
        PieceFailure::Lost,
        "the one that may have it another time is told: {error}"
    );
}

#[tokio::test]
async fn a_mirror_that_says_nothing_or_too_little_is_given_up() {
    let mut fixture = Fixture::new(300_000);
    let silent = Server::start(|_| None).await;
    fixture.reader.patience.silence = Duration::from_millis(100);
    let begun = Instant::now();
    let error = fixture.read(&[&silent], 0..300_000).await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error}");
    assert!(begun.elapsed() >= Duration::from_millis(100) && begun.elapsed() < LONG);

    let file = fixture.file.clone();
    let dripping = move |asked: &server::Asked| {
        Some(Answer { drip: Some(Duration::from_millis(1)), ..Answer::part(&file, asked) })
    };
    let dripping = Server::start(dripping).await;
    fixture.reader.patience = Patience { silence: LONG, longest: |_| Duration::from_millis(200) };
    let error = fixture.read(&[&dripping], 0..300_000).await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn the_next_mirror_when_one_lacks_the_file_and_then_that_one_first() {
    let fixture = Fixture::new(100_000);
    let (gone, good) = (always(|| Answer::new("404 Not Found", b"")).await, Server::of(&fixture.file).await);
    assert!(fixture.read(&[&gone, &good], 0..100_000).await.unwrap() == fixture.file);
    let asked = gone.asked().len();
    assert!(asked > 0);
    fixture.read(&[&gone, &good], 0..50_000).await.unwrap();
    assert_eq!(gone.asked().len(), asked, "the one that worked is asked first");
    fixture.reader.was_wrong(&VendorName::new("acme").unwrap());
    fixture.read(&[&gone, &good], 0..50_000).await.unwrap();
    assert!(gone.asked().len() > asked, "and after the others when its bytes were wrong");
    assert_eq!(fixture.reader.open().len(), 2);
    fixture.read(&[&good], 0..50_000).await.unwrap();
    assert_eq!(fixture.reader.open().len(), 1, "what is not configured any more is closed");
}

#[tokio::test]
async fn clients_are_few_and_those_of_this_vendor_stay() {
    let fixture = Fixture::new(10);
    let vendor = |number: usize| VendorName::new(format!("vendor{number}")).unwrap();
    for number in 0..2 * limits::MIRRORS_READ {
        let mirrors =
            [configuration::Mirror { vendor: vendor(number), url: "http://mirror.example".to_owned() }];
        let ways = fixture.reader.ways(&mirrors, &vendor(number));
        assert!(ways.len() == 1 && ways[0].is_ok());
        assert!(fixture.reader.open().len() <= limits::MIRRORS_READ);
    }
    let bad = [configuration::Mirror { vendor: vendor(1), url: "http://".to_owned() }];
    assert!(matches!(fixture.reader.ways(&bad, &vendor(1))[..], [Err(OriginError::Setup { .. })]));
}

#[tokio::test]
async fn the_vendors_index_says_where_the_file_is() {
    let fixture = Fixture::new(100_000);
    let manifest = fixture.manifest(fixture.index());
    let (root, server) = (fixture.root(), Server::of(&fixture.file).await);
    let mirrors = [mirror(server.url())];
    let bytes = fixture.reader.read(&mirrors, &manifest, root, 0..100_000).await.unwrap();
    assert!(bytes == fixture.file);
    assert_eq!(server.asked()[0].path, "/pub/pool/t/tool.deb");
    let Evidence::Apt(chain) = &manifest.artifacts[0].evidence else { panic!("the chain") };
    fixture.reader.content.discard(chain.packages.root).unwrap();
    fixture.reader.read(&mirrors, &manifest, root, 0..10).await.expect("what was found is remembered");

    fixture.reader.paths.lock().await.clear();
    let error = fixture.reader.read(&mirrors, &manifest, root, 0..10).await.unwrap_err();
    assert!(matches!(error, OriginError::Content(_)), "{error}");
    assert_eq!(error.of_piece(), PieceFailure::Lost);

    let mut other = fixture.manifest(fixture.index());
    other.artifacts[0].content = Content::of(b"not in the index");
    let root = other.artifacts[0].content.root;
    let error = fixture.reader.read(&mirrors, &other, root, 0..10).await.unwrap_err();
    assert_eq!(error.of_piece(), PieceFailure::Refused(Reason::NoPieces), "{error}");
}

#[tokio::test]
async fn a_piece_that_was_given_up_leaves_the_window_free() {
    let fixture = Fixture::new(PIECE_BYTES as usize);
    let file = fixture.file.clone();
    let first = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |asked: &server::Asked| {
        let number = first.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (number >= 2).then(|| Answer::part(&file, asked))
    });
    let server = server.await;
    let mirrors = [&server];
    let reading = fixture.read(&mirrors, 0..PIECE_BYTES);
    let heard = async {
        while server.asked().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        read = reading => panic!("{read:?}"),
        () = heard => {}
    }
    assert!(fixture.read(&[&server], 0..PIECE_BYTES).await.unwrap() == fixture.file);
}

#[tokio::test]
async fn the_cap_holds_and_is_not_the_mirrors_fault() {
    let mut fixture = Fixture::new(128 << 10);
    let server = Server::of(&fixture.file).await;
    // 64,000 bytes in a second.
    fixture.reader.cap.set(Some(Rate::kilobits(512)));
    fixture.reader.patience.longest = |_| Duration::from_millis(1_500);
    let begun = Instant::now();
    fixture.read(&[&server], 0..128 << 10).await.unwrap();
    // All but the last block, of 4 KiB, has to be paid for before that is asked for, and 20 ms are saved.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1_800), "{took:?}");
}

/// Behind a link of 2,000,000 bytes in a second, and 5 ms away.
#[tokio::test]
async fn the_window_stays_small_on_a_slow_link() {
    let fixture = Fixture::new(PIECE_BYTES as usize);
    let link = Arc::new(Mutex::new((tokio::time::Instant::now(), Vec::new())));
    let (file, queued) = (fixture.file.clone(), Arc::clone(&link));
    let server = Server::start(move |asked: &server::Asked| {
        let now = tokio::time::Instant::now();
        let mut link = queued.lock().unwrap();
        let (free, queues) = &mut *link;
        let begins = now.max(*free);
        queues.push(begins - now);
        let takes = Duration::from_micros((asked.range.end - asked.range.start) / 2);
        *free = begins + takes;
        Some(Answer { at: begins + Duration::from_millis(5), takes, ..Answer::part(&file, asked) })
    });
    let server = server.await;
    for _ in 0..3 {
        fixture.read(&[&server], 0..PIECE_BYTES).await.unwrap();
    }
    let mut queues = link.lock().unwrap().1.split_off(32);
    queues.sort();
    let median = queues[queues.len() / 2];
    // The window aims at 20 ms; whatever is asked for at once without one makes a queue of 200.
    assert!(median < Duration::from_millis(80), "{median:?}");
    let way = Arc::clone(&fixture.reader.open()[0]);
    let window = way.window_bytes().await;
    assert!(window < limits::MIRROR_REQUESTS as u64 * BLOCK_BYTES as u64, "{window}");
}
