//! The figures add up, and the JSON has stable names.

use super::*;
use crate::command::tests::{NOW, patch, reason, status};
use node::control::answer;
use std::collections::BTreeMap;

fn transfer(name: &str, of: Option<&str>, wan_bytes: u64, lan_bytes: u64) -> Transfer {
    Transfer {
        root: Blake3Root::of(name.as_bytes()),
        kind: if of.is_some() { "artifact" } else { "evidence" }.to_owned(),
        patch: of.map(patch),
        name: name.to_owned(),
        size: 2_000_000,
        pieces_held: 2,
        pieces_total: 2,
        verified: true,
        wan_bytes,
        lan_bytes,
        served_bytes: 0,
        wan_reasons: BTreeMap::new(),
    }
}

fn told(wan_bytes: u64, lan_bytes: u64) -> Told {
    let mut status = status();
    status.traffic.wan = Bytes { received: wan_bytes + 30_000, sent: 10_000 };
    status.traffic.wan_metadata = Bytes { received: 20_000, sent: 1_000 };
    let libssl = "debian/libssl3=3.0.17-1";
    Told {
        status,
        plan: answer::Plan {
            generation: 1,
            made: NOW,
            inert: None,
            steps: Vec::new(),
            left_out: vec![answer::LeftOut {
                patch: patch("debian/liblzma5=5.4.1-1"),
                reason: reason("not-approved", "nobody approved it for this fleet"),
            }],
        },
        transfers: vec![
            transfer("libssl3_3.0.17-1_amd64.deb", Some(libssl), wan_bytes, lan_bytes),
            transfer("Packages.xz", None, 0, 0),
        ],
    }
}

/// A branch of two, one of which fetched over the WAN.
pub fn example() -> Figures {
    let told = [("branch-1".to_owned(), told(2_000_000, 0)), ("branch-2".to_owned(), told(0, 2_000_000))];
    let decided = Decided {
        approved: vec![patch("debian/libssl3=3.0.17-1")],
        unapproved: patch("debian/liblzma5=5.4.1-1"),
        unsigned: patch("acme/acme-tool=2.0"),
    };
    let before = Counters { up_bytes: 5_000, down_bytes: 15_000, ..Counters::default() };
    let line = Counters { up_bytes: 26_000, down_bytes: 2_085_000, ..Counters::default() };
    let dashboard = SocketAddr::from(([127, 0, 0, 1], 7780));
    Figures::new(&told, &decided, &line, &before, 2, Duration::from_millis(12_340), dashboard)
}

#[test]
fn each_byte_is_counted_once() {
    let figures = example();
    assert_eq!(figures.wan_amplification, 1.0);
    assert_eq!((figures.artifacts.len(), figures.evidence.len()), (1, 1));
    assert_eq!(figures.artifacts[0].lan_bytes, 2_000_000);
    assert_eq!(figures.wan.nodes_received_bytes, 2_060_000);
    assert!(figures.wan.difference_percent < 1.0, "{}", figures.wan.difference_percent);
    let refused = &figures.refusals[1];
    assert_eq!((refused.code.as_str(), refused.devices), ("not-approved", 2));
    assert_eq!(figures.exit(), Exit::Done);
    let wasteful = Figures {
        artifacts: vec![Carried {
            wan_amplification: 1.2,
            ..carried(&[("a".to_owned(), told(1, 1))]).remove(0)
        }],
        ..figures
    };
    assert_eq!(wasteful.exit(), Exit::Partly);
}

#[test]
fn the_object_has_stable_names() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&example().to_object()).expect("JSON"));
}

#[test]
fn rows_are_read_from_the_aggregator() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let server = std::thread::spawn(move || {
        for answer in
            ["HTTP/1.0 200 OK\r\n\r\n{\"rows\":[{\"site\":\"utrecht\"}]}", "HTTP/1.0 503 Busy\r\n\r\n"]
        {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request).expect("read");
            stream.write_all(answer.as_bytes()).expect("write");
        }
    });
    let rows = http_rows(address, "/api/v1/devices").expect("rows");
    assert_eq!(rows[0]["site"], "utrecht");
    assert!(http_rows(address, "/api/v1/devices").expect_err("busy").message.contains("503"));
    server.join().expect("served");
}
