//! The web server as a client sees it, over loopback.

use super::*;
use protocol::aggregate::{Listing, State};
use protocol::deploy;
use protocol::identifier::{DeviceId, FleetId, HostName, ManifestDigest, PatchId, SiteName};
use protocol::limits;
use protocol::manifest::{Kind, Severity};
use protocol::membership::{Class, Member};
use protocol::reason::Reason;
use protocol::report::{
    Body, ContentKind, Deployment, Extent, Found, FoundPatch, Incident, IncidentKind, Log, NetworkTotals,
    Scan, Source, Text, Transfer, Transfers,
};
use protocol::scan::Finding;
use protocol::signature::SigningKey;
use protocol::system::{Family, System};
use protocol::time::WallTime;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const BOUND: Duration = Duration::from_secs(10);

const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

fn member(number: u8, site: &str, host: &str) -> Member {
    Member {
        fleet: FleetId::from_bytes([1; 32]),
        device: key(number).device(),
        site: SiteName::new(site).expect("a site"),
        class: Class::Server,
        system: System {
            family: Family::Linux,
            distribution: "debian".to_owned(),
            release: "12".to_owned(),
            architecture: "amd64".to_owned(),
        },
        host: HostName::new(host).expect("a host name"),
        issued: NOW,
        expires: NOW.plus_days(365),
    }
}

fn patch(name: &str) -> PatchId {
    PatchId::new(name).expect("a patch")
}

fn scan(findings: &[(&str, Finding)]) -> Body {
    let found = |finding| Found { finding, manifest: ManifestDigest::from_bytes([1; 32]), since: NOW };
    let findings =
        findings.iter().map(|(name, finding)| FoundPatch { patch: patch(name), found: found(*finding) });
    Body::Scan(Scan { extent: Extent::Full, time: NOW, findings: findings.collect() })
}

const SSL: &str = "debian/libssl3=3.0.17-1~deb12u2";
const LZMA: &str = "debian/liblzma5=5.4.1-1";

fn bodies_of_first() -> Vec<Body> {
    let moved = |wan: u64, lan: u64| Transfer {
        root: protocol::digest::Blake3Root::of(b"libssl3"),
        size: 2_000_000,
        kind: ContentKind::Artifact,
        fetched: vec![(Source::Wan, Reason::Lease, wan), (Source::Lan, Reason::Lease, lan)],
        served: 0,
    };
    let network = NetworkTotals { wan_in: 600_000, wan_out: 9_000, metadata_wan: 40_000, metadata_lan: 0 };
    vec![
        scan(&[(SSL, Finding::Missing), (LZMA, Finding::Installed)]),
        Body::Transfers(Transfers { contents: vec![moved(500_000, 1_500_000)], network, served: Vec::new() }),
        Body::Deployments(vec![Deployment {
            time: NOW,
            patch: patch(SSL),
            state: deploy::State::Failed,
            reason: Some(Reason::DiskFull),
            attempts: 2,
            exit_code: Some(2),
            detail: Text::new("dpkg: <error> no space left"),
        }]),
        Body::Incidents(vec![Incident {
            time: NOW,
            kind: IncidentKind::CorruptPiece,
            reason: Some(Reason::PieceCorrupt),
            patch: Some(patch(SSL)),
            peer: Some(DeviceId::from_bytes([9; 32])),
            detail: Text::new("piece 3"),
        }]),
    ]
}

fn later() -> WallTime {
    NOW.plus_seconds(3 * 3_600)
}

/// Two devices of two sites, a third that only joined, and two patches.
fn filled() -> SharedState {
    let mut state = State::new(5);
    let listing = |title: &str, approved| Listing {
        manifest: ManifestDigest::from_bytes([1; 32]),
        title: title.to_owned(),
        kind: Kind::Security,
        severity: Severity::Important,
        size: 2_000_000,
        approved,
        held: false,
        files: vec![(protocol::digest::Blake3Root::of(b"libssl3"), "libssl3.deb".to_owned())],
    };
    let listings = [
        (patch(SSL), listing("OpenSSL <b>\"quoted\"</b> & more", true)),
        (patch(LZMA), listing("XZ-format compression library", false)),
    ];
    state.set_listings(listings.into_iter().collect());
    let mut feed = |number: u8, member: &Member, bodies: Vec<Body>| {
        let mut log = Log::new(key(number).device(), 1);
        for body in bodies {
            log.append(body, NOW, &key(number)).expect("it fits");
        }
        for signed in log.pending(0, 64) {
            state.receive(&signed, member, NOW).expect("in order");
        }
    };
    feed(1, &member(1, "utrecht", "alpha"), bodies_of_first());
    feed(2, &member(2, "bern", "beta"), vec![scan(&[(SSL, Finding::Installed)])]);
    state.join(&member(3, "bern", "gamma"), WallTime::from_unix_seconds(NOW.unix_seconds() - 86_400));
    SharedState::with_clock(state, later)
}

fn names() -> Vec<String> {
    vec!["hq.example".to_owned()]
}

async fn start(view: SharedState) -> SocketAddr {
    let server =
        Server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), &names(), Arc::new(view)).await.expect("a port");
    let address = server.address();
    tokio::spawn(server.run(std::future::pending()));
    address
}

/// Sends raw bytes and reads all that comes back.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // The server may refuse before it has read all; what it answered still counts.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = raw(address, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head.to_ascii_lowercase(), body.to_owned())
}

async fn json(address: SocketAddr, path: &str) -> Value {
    let (status, _, body) = get(address, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

// proves N20, N31
#[tokio::test]
async fn listings_are_json_with_a_schema_and_page() {
    let address = start(filled()).await;
    let first = json(address, "/api/v1/devices?limit=2").await;
    assert_eq!(first["schema"], 1);
    let hosts = |page: &Value| -> Vec<String> {
        let rows = page["rows"].as_array().expect("rows").iter();
        rows.map(|row| row["host"].as_str().expect("a host").to_owned()).collect()
    };
    assert_eq!(hosts(&first), ["alpha", "beta"]);
    let next = first["next"].as_str().expect("more");
    let second = json(address, &format!("/api/v1/devices?limit=2&after={next}")).await;
    assert_eq!(hosts(&second), ["gamma"]);
    assert_eq!(second["next"], Value::Null);
    assert_eq!(second["rows"][0]["compliance"], "not-assessed");
    assert_eq!(hosts(&json(address, "/api/v1/devices?compliance=behind").await), ["alpha"]);
    assert_eq!(hosts(&json(address, "/api/v1/devices?site=bern").await), ["beta", "gamma"]);
    let missing = json(address, "/api/v1/findings?finding=missing").await;
    assert_eq!((&missing["rows"][0]["patch"], &missing["rows"][1]), (&Value::from(SSL), &Value::Null));
    let patches = json(address, "/api/v1/patches?limit=1").await;
    let on = json(address, "/api/v1/patches?after=debian%2Fliblzma5%3D5.4.1-1").await;
    assert_eq!((&patches["next"], &on["rows"][0]["patch"]), (&Value::from(LZMA), &Value::from(SSL)));
    assert_eq!(on["rows"][0]["tally"]["missing"], 1);
    assert_eq!(on["rows"][0]["not_assessed"], 1);
    let failed = json(address, "/api/v1/deployments?failed=true").await;
    assert_eq!(failed["rows"][0]["reason"], "disk-full");
    assert_eq!(failed["rows"][0]["exit_code"], 2);
    assert!(failed["rows"][0]["needs"].as_str().expect("a sentence").contains("disk space"));
}

// proves N19
#[tokio::test]
async fn the_shape_of_every_listing_is_pinned() {
    let address = start(filled()).await;
    let mut all = serde_json::Map::new();
    for name in ["devices", "patches", "findings", "deployments"] {
        all.insert(name.to_owned(), json(address, &format!("/api/v1/{name}?limit=1")).await);
    }
    insta::assert_json_snapshot!(all);
}

#[tokio::test]
async fn the_description_names_every_path_and_parameter() {
    let address = start(filled()).await;
    let document = json(address, "/api/v1/openapi.json").await;
    for path in ["devices", "patches", "findings", "deployments"] {
        let operation = &document["paths"][format!("/api/v1/{path}")]["get"];
        assert!(operation["summary"].is_string(), "{path}");
        let parameters = operation["parameters"].as_array().expect("parameters");
        let query: Vec<String> = parameters
            .iter()
            .map(|parameter| {
                let name = parameter["name"].as_str().or_else(|| {
                    parameter["$ref"].as_str().and_then(|reference| reference.rsplit('/').next())
                });
                name.expect("a name").to_owned()
            })
            .collect();
        let listed = json(address, &format!("/api/v1/{path}")).await;
        let row = listed["rows"][0].as_object().expect("a row");
        let schema = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["rows"]
            ["items"]["$ref"]
            .as_str()
            .and_then(|reference| reference.rsplit('/').next())
            .expect("a schema");
        let described =
            document["components"]["schemas"][schema]["properties"].as_object().expect("properties");
        assert_eq!(row.keys().collect::<Vec<_>>(), described.keys().collect::<Vec<_>>(), "{path}");
        let (status, _, refusal) = get(address, &format!("/api/v1/{path}?no-such=1")).await;
        assert_eq!(status, 400);
        for name in query {
            assert!(refusal.contains(&format!("`{name}`")), "{name} of {path} is not taken: {refusal}");
        }
    }
}

#[tokio::test]
async fn mistakes_are_answered_with_code_and_message() {
    let address = start(filled()).await;
    let cases = [
        ("/nowhere", 404, "not-found"),
        ("/api/v2/devices", 404, "not-found"),
        ("/api/v1/devices?limit=0", 400, "bad-parameter"),
        ("/api/v1/devices?limit=100000", 400, "bad-parameter"),
        ("/api/v1/devices?limit=x", 400, "bad-parameter"),
        ("/api/v1/devices?after=nonsense", 400, "bad-parameter"),
        ("/api/v1/devices?colour=red", 400, "bad-parameter"),
        ("/api/v1/findings?patch=../etc", 400, "bad-parameter"),
        ("/?after=%00", 400, "bad-parameter"),
    ];
    for (path, status, code) in cases {
        let (found, head, body) = get(address, path).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((found, &body["error"]["code"]), (status, &Value::from(code)), "{path}");
        assert!(
            body["error"]["message"].as_str().is_some_and(|message| message.len() > 20),
            "{path}: {body}"
        );
        assert!(head.contains("content-type: application/json"), "{path}");
    }
    for method in ["POST", "DELETE", "PUT"] {
        let request = format!(
            "{method} /api/v1/devices HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        let answer = raw(address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"), "{answer}");
    }
}

#[tokio::test]
async fn every_answer_forbids_scripts_frames_and_keeping() {
    let address = start(filled()).await;
    for path in ["/", "/api/v1/devices", "/metrics", "/nowhere", "/livez", "/readyz"] {
        let (_, head, _) = get(address, path).await;
        for line in ["cache-control: no-store", "default-src 'none'", "nosniff", "x-frame-options: deny"] {
            assert!(head.contains(line), "{path}: {line} is not in {head}");
        }
    }
    let (_, head, page) = get(address, "/").await;
    assert!(head.contains("content-type: text/html"));
    assert!(!page.contains("<script") && !page.contains(" style=") && !page.contains("http://"));
}

// proves N20, P7
#[tokio::test]
async fn the_page_is_pinned() {
    let address = start(filled()).await;
    let (_, _, page) = get(address, "/").await;
    let (before, rest) = page.split_once("<style>").expect("a style");
    let (_, after) = rest.split_once("</style>").expect("its end");
    insta::assert_snapshot!(format!("{before}{after}").replace("><", ">\n<"));
}

// proves N19
#[tokio::test]
async fn a_device_has_a_page_with_its_history() {
    let address = start(filled()).await;
    let (status, _, page) = get(address, &format!("/device/{}", key(1).device())).await;
    assert_eq!(status, 200);
    for words in [SSL, LZMA, "There is not enough disk space", "no space left", "missing", "alpha"] {
        assert!(page.contains(words), "{words}");
    }
    let (status, _, page) = get(address, &format!("/device/{}", key(3).device())).await;
    assert!(status == 200 && page.contains("has not reported a scan yet"));
    for path in ["/device/x".to_owned(), format!("/device/{}", key(9).device())] {
        let (status, _, body) = get(address, &path).await;
        assert!(status == 404 && body.contains("no-such-device"), "{path}: {body}");
    }
}

#[tokio::test]
async fn an_empty_fleet_says_what_to_do() {
    let address = start(SharedState::with_clock(State::new(1), later)).await;
    let (status, _, page) = get(address, "/").await;
    assert_eq!(status, 200);
    assert!(page.contains("patchmesh token create") && page.contains("No deployment has failed."));
}

// proves N31
#[tokio::test]
async fn no_site_is_lost_however_many_there_are() {
    let mut state = State::new(5);
    let sites = limits::PAGE_ROWS + 30;
    for number in 0..sites {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let device = SigningKey::from_seed(&seed).device();
        state.join(&Member { device, ..member(1, &format!("site{number:04}"), "host") }, NOW);
    }
    let address = start(SharedState::with_clock(state, later)).await;
    let (_, _, body) = get(address, "/metrics").await;
    assert!(body.contains(&format!("patchmesh_devices{{site=\"site{:04}\"}} 1\n", sites - 1)));
    assert!(body.contains(&format!("patchmesh_fleet_devices {sites}\n")));
    let (_, _, page) = get(address, "/").await;
    assert!(page.contains("More exist; /metrics lists all."));
}

#[tokio::test]
async fn metrics_are_complete_lines() {
    let address = start(filled()).await;
    let (_, head, body) = get(address, "/metrics").await;
    assert!(head.contains("version=0.0.4"));
    assert!(body.contains("patchmesh_devices{site=\"bern\"} 2\n"));
    assert!(body.contains("from=\"peers\"} 1500000\n") && body.ends_with('\n'));
    insta::assert_snapshot!(body);
}

#[tokio::test]
async fn a_taken_port_names_itself_and_the_remedy() {
    let first = start(filled()).await;
    let error = Server::bind(first, &[], Arc::new(filled())).await.expect_err("taken").to_string();
    assert!(error.contains(&first.port().to_string()) && error.contains("aggregator.http"), "{error}");
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 7_780));
    let error = Server::bind(elsewhere, &[], Arc::new(filled())).await.expect_err("not ours").to_string();
    assert!(error.contains("192.0.2.1") && error.contains("7780"), "{error}");
}

#[tokio::test]
async fn a_request_without_end_is_cut_off() {
    let address = start(filled()).await;
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(2 * limits::HTTP_REQUEST_BYTES));
    let answer = raw(address, &endless).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(get(address, "/livez").await.0, 200, "others are served");
}

/// Asks until there is an answer: on a busy machine whoever asks well may be cut off too.
async fn is_served(address: SocketAddr) {
    let request = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let asking = async { while !raw(address, request).await.starts_with("HTTP/1.1 200") {} };
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("a place becomes free");
}

// Half a request holds no place for as long as a connection may last, also when its bytes trickle.
#[tokio::test]
async fn requests_that_do_not_end_lose_their_places() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let bounded = BoundedListener::with_bounds(listener, 2, 60 * BOUND, Duration::from_secs(1));
    let router = router(&[], Arc::new(filled()));
    tokio::spawn(async move { axum::serve(bounded, router).await });
    for _ in 0..4 {
        let mut half = TcpStream::connect(address).await.expect("the backlog takes it");
        tokio::spawn(async move {
            let _ = half.write_all(b"GET / HTTP/1.1\r\nX: ").await;
            let mut every = tokio::time::interval(Duration::from_millis(50));
            while half.write_all(b"a").await.is_ok() {
                every.tick().await;
            }
        });
    }
    is_served(address).await;
}

#[tokio::test]
async fn silent_clients_lose_their_places() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let bounded = BoundedListener::with_bounds(listener, 2, Duration::from_secs(1), 60 * BOUND);
    let router = router(&[], Arc::new(filled()));
    tokio::spawn(async move { axum::serve(bounded, router).await });
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(address).await.expect("the backlog takes it"));
    }
    is_served(address).await;
}

// One client that opens connections and says nothing keeps nobody elsewhere from the dashboard.
#[tokio::test]
async fn a_crowd_of_one_gives_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let bounded = BoundedListener::with_bounds(listener, 4, 600 * BOUND, 600 * BOUND);
    let router = router(&[], Arc::new(filled()));
    tokio::spawn(async move { axum::serve(bounded, router).await });
    let mut crowd = Vec::new();
    for _ in 0..8 {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 2], 0).into()).expect("a port");
        crowd.push(socket.connect(address).await.expect("the backlog takes it"));
    }
    assert_eq!(get(address, "/livez").await.0, 200);
}

// A page from elsewhere whose name was made to lead here reads nothing; whoever has a name of ours reads all.
#[tokio::test]
async fn only_known_names_are_answered() {
    let address = start(filled()).await;
    let ask = async |target: &str, host: &str| {
        raw(address, &format!("GET {target} HTTP/1.1\r\n{host}Connection: close\r\n\r\n")).await
    };
    for path in ["/", "/api/v1/devices", "/metrics", "/device/x", "/livez"] {
        let answer = ask(path, "Host: evil.example:7780\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("names = ["), "{path}: {answer}");
        assert!(!answer.contains(SSL), "{path}");
    }
    let named =
        ["Host: 127.0.0.1:7780\r\n", "Host: [::1]:1\r\n", "Host: Hq.Example:80\r\n", "Host: localhost\r\n"];
    for host in named {
        let answer = ask("/api/v1/devices", host).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
    }
    for (target, host) in [
        ("/", "Host: localhost\r\nHost: evil.example\r\n"),
        ("http://evil.example/", "Host: localhost\r\n"),
        ("/", "Host: e vil\r\n"),
        ("/", "Host: \r\n"),
    ] {
        let answer = ask(target, host).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{target} {host}: {answer}");
    }
}
