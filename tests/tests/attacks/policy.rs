//! Policy at a running node: without one of its four conditions nothing installs; without peer download nothing passes.

use super::fleet::{Fleet, SITE, system};
use super::hostile::Hostile;
use super::peers::{hello, news};
use super::until;
use patchmesh_tests::fleet::DEPLOYS;
use protocol::wire::{Announce, Request, Response, Versions};

// proves N5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_one_of_the_four_conditions_nothing_installs() {
    let mut fleet = Fleet::new();
    let patch = fleet.build("alpha", 50_000, true, &system("debian"));
    fleet.list(&patch.manifest);
    fleet.approve(&patch.manifest);
    let conditions = [
        ("not-assigned", String::new()),
        ("not-assigned", DEPLOYS.replace("everyone = true", "sites = [\"lyon\"]")),
        ("policy-disabled", DEPLOYS.replace("enabled = true", "enabled = false")),
        ("no-capability", DEPLOYS.replacen("deploy = true", "deploy = false", 1)),
        ("no-configuration", DEPLOYS.replace("[\"install-approved\"]", "[]")),
        ("configuration-inert", {
            let at = DEPLOYS.rfind("deploy = true").expect("the configuration");
            format!("{}deploy = false\n", &DEPLOYS[..at])
        }),
    ];
    fleet.set_policy(&conditions[0].1);
    fleet.publish();
    let hq = fleet.headquarters().await;
    fleet.serve(&hq, &[&patch]).await;
    let node = fleet.branch(1, SITE, &[&patch]).await;
    for (code, policy) in &conditions {
        fleet.set_policy(policy);
        fleet.publish();
        hq.ask(|client| client.repository_changed()).await;
        let newest = hq.timestamp().await;
        node.metadata(newest).await;
        until(&format!("the plan says {code}"), async || {
            node.left_out(&patch.id()).await.as_deref() == Some(*code) || planned_ahead(&node, code).await
        })
        .await;
        // An order of a person at the device does not replace the policy.
        let id = patch.id();
        let _ = node.try_ask(move |client| client.deploy(Some(id))).await;
        assert_eq!(node.installed("alpha").as_deref(), Some("1.0"), "{code}");
        let state = node.state_of(&patch.id()).await;
        assert!(!matches!(state.as_deref(), Some("installing" | "installed")), "{code}: {state:?}");
    }
    // With all four it installs: nothing else stood in the way.
    fleet.set_policy(DEPLOYS);
    fleet.publish();
    hq.ask(|client| client.repository_changed()).await;
    node.deployment(&patch.id(), "installed").await;
    assert_eq!(node.installed("alpha").as_deref(), Some("2.0"));
    node.stop().await;
    hq.stop().await;
}

/// Whether the plan has the patch and does not deploy it, for this reason.
async fn planned_ahead(node: &super::fleet::Node, code: &str) -> bool {
    let plan = node.ask(|client| client.plan()).await;
    format!("{plan:?}").contains(&format!("\"{code}\""))
}

// proves N7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_peer_download_off_nothing_passes_between_peers_and_reports_go_straight() {
    let mut fleet = Fleet::new();
    let debian = system("debian");
    let [first, second] = ["alpha", "beta"].map(|name| fleet.build(name, 50_000, true, &debian));
    for patch in [&first, &second] {
        fleet.list(&patch.manifest);
    }
    fleet.approve(&first.manifest);
    let off = DEPLOYS.replacen("deploy = true", "deploy = true\npeer-download = false", 1);
    fleet.set_policy(&off);
    fleet.publish();
    let hq = fleet.headquarters().await;
    fleet.serve(&hq, &[&first, &second]).await;
    let node = fleet.branch(1, SITE, &[&first, &second]).await;
    node.deployment(&first.id(), "installed").await;

    let mallory = Hostile::join(&fleet, 99, SITE, &debian).await;
    mallory.serves(&second.bytes());
    let root = second.manifest.artifacts[0].content.root;
    let newest = Versions { root: 1, timestamp: 1_000, snapshot: 1_000 };
    mallory.answers(move |request| match request {
        Request::Hello(_) => Some(hello(news(root, 1, newest))),
        _ => None,
    });
    mallory.dial(&node).await;
    node.sees_refusal("peer-download-off", mallory.device).await;
    until("the node ends the connection", async || !mallory.is_connected(&node)).await;
    // The seed tells nobody of such a device, and it of nobody.
    mallory.connect(&hq).await;
    let here = Announce {
        addresses: mallory.net.listen_addresses().iter().map(ToString::to_string).collect(),
        versions: Versions::default(),
        utc_offset_minutes: 0,
        members: 64,
        metadata: None,
        alone: false,
    };
    match mallory.ask(&hq, &Request::Announce(here)).await {
        Response::Site(view) => assert!(view.members.is_empty(), "{view:?}"),
        other => panic!("{other:?}"),
    }
    // What comes next comes from the seed, although a peer has it.
    fleet.approve(&second.manifest);
    fleet.publish();
    hq.ask(|client| client.repository_changed()).await;
    node.deployment(&second.id(), "installed").await;
    assert_eq!(mallory.asked_by(&node, |_| true), 0, "the node asks no peer for anything");
    assert_eq!(mallory.pieces_asked(), 0);
    let transfers = node.ask(|client| client.transfers()).await;
    assert!(transfers.iter().all(|transfer| transfer.lan_bytes == 0 && transfer.served_bytes == 0));
    until("all reports are at the aggregator", async || {
        let outbox = node.status().await.outbox;
        outbox.waiting == 0 && outbox.watermark > 0
    })
    .await;
    node.stop().await;
    hq.stop().await;
}
