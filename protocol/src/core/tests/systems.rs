//! A patch for several systems, at a seed, which reads the catalogues of all.

use super::*;

// proves N9, N31
#[test]
fn a_seed_tells_the_manifests_of_a_patch_apart_and_judges_itself_by_its_own() {
    let mut fleet = Fleet::new();
    let mut other = fleet.manifest.clone();
    other.targets[0].architecture = Some("arm64".to_owned());
    other.title = "for the others".to_owned();
    let vendor = VendorName::new("debian").expect("a plain name");
    let catalogue = Catalogue { schema: SCHEMA, vendor, manifests: vec![other.clone()] };
    let path = CATALOGUE.replace("amd64", "arm64");
    fleet.repository.staged.insert(path, catalogue.to_bytes());
    fleet.repository.publish(NOW);
    let mut seed = fleet.node(0);
    seed.refresh(&fleet);
    seed.pass(Duration::from_secs(1));
    seed.scanned(&fleet, "1.0-1");

    let patches = seed.core.patches();
    let shown = |manifest: &Manifest| {
        let patch = patches.iter().find(|patch| patch.manifest == manifest.digest()).expect("it is listed");
        (patch.approved.as_str(), patch.finding.as_deref())
    };
    assert_eq!(patches.len(), 2);
    assert_eq!(shown(&fleet.manifest), ("yes", Some("missing")));
    assert_eq!(shown(&other), ("other-manifest", Some("not-applicable")));
    let scan = seed.core.last_scan();
    assert_eq!(scan.findings.iter().map(|finding| finding.state.as_str()).collect::<Vec<_>>(), ["missing"]);
    let explained = seed.core.explain(&fleet.patch()).expect("it is listed");
    assert_eq!(explained.chain[1].sentence, "Policy approves this very manifest.");
    let listings = seed.core.listings();
    assert_eq!(listings.len(), 1);
    assert!(listings[&fleet.patch()].approved, "any of them is");
}
