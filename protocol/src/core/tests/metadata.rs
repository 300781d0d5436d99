//! Metadata that comes and goes while something is under way.

use super::*;
use crate::bitmap::PieceSet;
use crate::manifest::AptChain;
use crate::reason::Reason;

/// A piece list of its own for a small file.
fn small(bytes: &[u8]) -> Arc<PieceTree> {
    let mut builder = TreeBuilder::default();
    builder.update(bytes);
    Arc::new(builder.finish())
}

fn questions(node: &mut Node) -> Vec<EffectId> {
    let question = |output: &Output| match output {
        Output::CheckEvidence { effect, .. } => Some(*effect),
        _ => None,
    };
    node.take().iter().filter_map(question).collect()
}

/// A fleet whose patch is proven by an index, and a node that asked for the check of that index.
fn by_index() -> (Fleet, Node, EffectId) {
    let mut fleet = Fleet::new();
    fleet.manifest.artifacts[0].evidence = Evidence::Apt(AptChain {
        release: Content::of(b"release"),
        packages: Content::of(b"packages"),
        packages_path: "main/binary-amd64/Packages.xz".to_owned(),
        suite: "stable-security".to_owned(),
        codename: "bookworm-security".to_owned(),
    });
    fleet.layer.approvals[0].manifest = fleet.manifest.digest();
    fleet.publish();
    let mut node = fleet.member_node(1);
    for bytes in [&b"release"[..], b"packages"] {
        node.handle(Input::Held { tree: small(bytes), pieces: PieceSet::full(1) });
    }
    node.check_content();
    let asked = questions(&mut node);
    assert_eq!(asked.len(), 1);
    (fleet, node, asked[0])
}

// proves N8
#[test]
fn an_answer_that_rests_on_keys_of_before_is_not_taken() {
    let (mut fleet, mut node, old) = by_index();
    fleet.vendors.vendors[0].keys[0].revoked = true;
    fleet.publish();
    node.refresh(&fleet);
    let new = questions(&mut node);
    assert_eq!(new.len(), 1);
    // The old answer says something, the new one something else: the new one counts, whichever comes first.
    node.handle(Input::EvidenceChecked { effect: old, result: Err(Reason::BadVendorSignature) });
    assert_eq!(node.core.contents.verdict(fleet.manifest.digest(), NOW), None);
    node.handle(Input::EvidenceChecked { effect: new[0], result: Err(Reason::KeyRevoked) });
    let verdict = node.core.contents.verdict(fleet.manifest.digest(), NOW);
    assert_eq!(verdict, Some(Err(Reason::KeyRevoked)));
}

#[test]
fn a_verdict_outlives_metadata_that_says_nothing_about_vendors() {
    let mut fleet = Fleet::new();
    let mut node = fleet.holder(1);
    node.connect(fleet.member(2));
    fleet.layer.offline_days = Some(20);
    fleet.publish();
    node.take();
    node.refresh(&fleet);
    let torn = |output: &Output| matches!(output, Output::Revoke { .. });
    assert!(!node.outputs.iter().any(torn));
    assert_eq!(node.core.contents.verdict(fleet.manifest.digest(), NOW), Some(Ok(())));
    fleet.vendors.vendors[0].keys[0].revoked = true;
    fleet.publish();
    node.refresh(&fleet);
    let verdict = node.core.contents.verdict(fleet.manifest.digest(), NOW);
    assert_eq!(verdict, Some(Err(Reason::KeyRevoked)));
}
