//! What plans say and leave out, for devices and policies of every kind.

use super::*;
use crate::codec::{decode, encode};
use crate::identifier::RuleName;
use crate::identifier::VendorName;
use crate::manifest::tests::example;
use crate::manifest::{AptChain, SCHEMA, Severity};
use crate::policy::tests::member;
use crate::policy::{Approval, FLEET_LAYER_PATH, Hold, Holds, Layer};
use proptest::prelude::*;

/// A policy of `site` under which every device deploys.
const DEPLOYS: &str = r#"
    [[policy]]
    name = "branches"
    enabled = true
    deploy = true
    configurations = ["approved"]
    assign = { sites = ["utrecht"] }

    [[configuration]]
    name = "approved"
    deploy = true
"#;

fn patch(name: &str) -> PatchId {
    PatchId::new(format!("debian/{name}=1.0-2")).expect("patch")
}

/// A signed patch that requires and replaces others.
fn manifest(name: &str, requires: &[&str], supersedes: &[&str]) -> Manifest {
    let mut manifest = example(name);
    manifest.artifacts[0].evidence = Evidence::Apt(AptChain {
        release: Content::of(b"InRelease"),
        packages: Content::of(b"Packages.xz"),
        packages_path: "main/binary-amd64/Packages.xz".to_owned(),
        suite: "oldstable-security".to_owned(),
        codename: "bookworm-security".to_owned(),
    });
    manifest.requires = requires.iter().map(|name| patch(name)).collect();
    manifest.supersedes = supersedes.iter().map(|name| patch(name)).collect();
    manifest
}

/// A device whose catalogue has these patches, all of them missing and approved; change what the test is about.
struct Device {
    catalogues: Vec<Catalogue>,
    findings: Findings,
    layer: Layer,
    holds: Holds,
    evidence: BTreeMap<ManifestDigest, Result<(), Reason>>,
    given_up: BTreeMap<ManifestDigest, Reason>,
    metadata: Result<(), Reason>,
    site: &'static str,
}

impl Device {
    fn missing(manifests: Vec<Manifest>) -> Device {
        let digests: Vec<(PatchId, ManifestDigest)> =
            manifests.iter().map(|manifest| (manifest.patch.clone(), manifest.digest())).collect();
        let mut layer = Layer::parse(FLEET_LAYER_PATH, DEPLOYS.as_bytes()).expect("layer");
        layer.approvals = digests
            .iter()
            .map(|(patch, manifest)| Approval {
                patch: patch.clone(),
                manifest: *manifest,
                approved: WallTime::default(),
            })
            .collect();
        let by_patch =
            digests.into_iter().map(|(patch, digest)| (patch, (digest, Finding::Missing))).collect();
        let vendor = VendorName::new("debian").expect("vendor");
        Device {
            catalogues: vec![Catalogue { schema: SCHEMA, vendor, manifests }],
            findings: Findings { by_patch, taken: WallTime::default() },
            layer,
            holds: Holds::default(),
            evidence: BTreeMap::new(),
            given_up: BTreeMap::new(),
            metadata: Ok(()),
            site: "utrecht",
        }
    }

    fn plan(&self) -> Plan {
        let effective = Effective::of(&self.layer, &self.holds, &member(self.site));
        make(&Facts {
            generation: 7,
            findings: &self.findings,
            catalogues: &self.catalogues,
            effective: &effective,
            evidence: &self.evidence,
            given_up: &self.given_up,
            metadata: self.metadata,
            now: WallTime::from_unix_seconds(9),
        })
    }

    fn find(&mut self, name: &str, finding: Finding) {
        self.findings.by_patch.get_mut(&patch(name)).expect("in the catalogue").1 = finding;
    }

    fn unapprove(&mut self, name: &str) {
        self.layer.approvals.retain(|approval| approval.patch != patch(name));
    }

    fn digest(&self, name: &str) -> ManifestDigest {
        self.findings.by_patch[&patch(name)].0
    }
}

// proves N9: headquarters reads the catalogues of every system
#[test]
fn a_manifest_for_another_system_leaves_the_own_one_in_the_plan() {
    let own = manifest("libone", &[], &[]);
    let mut device = Device::missing(vec![own.clone()]);
    let mut other = own.clone();
    other.targets[0].architecture = Some("arm64".to_owned());
    let vendor = VendorName::new("debian").expect("vendor");
    let catalogue = Catalogue { schema: SCHEMA, vendor, manifests: vec![other] };
    for at in [0, device.catalogues.len()] {
        let mut catalogues = device.catalogues.clone();
        catalogues.insert(at, catalogue.clone());
        let kept = std::mem::replace(&mut device.catalogues, catalogues);
        assert_eq!(line(&device.plan()), "libone | ");
        device.catalogues = kept;
    }
}

/// The plan in one line: steps in order, then what was left out with reason and names.
fn line(plan: &Plan) -> String {
    let name = |patch: &PatchId| patch.as_str()["debian/".len()..].replace("=1.0-2", "");
    let steps: Vec<String> = plan.steps.iter().map(|step| name(&step.patch)).collect();
    let left_out: Vec<String> = plan
        .left_out
        .iter()
        .map(|(patch, why)| {
            let others: Vec<String> = why.others.iter().map(name).collect();
            format!("{}: {} {}", name(patch), why.reason, others.join("+")).trim_end().to_owned()
        })
        .collect();
    format!("{} | {}", steps.join(" "), left_out.join(", "))
}

#[test]
fn a_step_says_all_that_its_executor_needs() {
    let device = Device::missing(vec![manifest("a", &["b"], &[]), manifest("b", &[], &[])]);
    let plan = device.plan();
    assert_eq!((plan.generation, line(&plan).as_str()), (7, "b a | "));
    let step = plan.step(&patch("a")).expect("planned");
    assert_eq!(step.purpose, Purpose::Deploy);
    assert_eq!(step.after, [patch("b")]);
    assert_eq!(step.artifacts, [Content::of(b"a")]);
    assert_eq!(step.evidence.len(), 2);
    assert_eq!(decode::<Plan, 65_536>(&encode(&plan)), Ok(plan.clone()));
    let newer = Plan { generation: 8, ..plan.clone() };
    assert!(newer.supersedes(&plan) && !plan.supersedes(&newer) && !plan.supersedes(&plan));
    assert!(newer.same_as(&plan));
}

// proves N8, N10, S5, X4
#[test]
fn what_may_not_be_is_left_out_with_its_reason() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let mut manifests: Vec<Manifest> = names.iter().map(|name| manifest(name, &[], &[])).collect();
    manifests[0].artifacts[0].evidence = Evidence::None {};
    let mut device = Device::missing(manifests);
    device.unapprove("b");
    device.layer.approvals.iter_mut().filter(|approval| approval.patch == patch("c")).for_each(|approval| {
        approval.manifest = ManifestDigest::from_bytes([9; 32]);
    });
    let id = RuleName::new("stop").expect("name");
    device.holds.holds.push(Hold { id, patch: patch("d"), reason: "breaks printing".to_owned() });
    device.evidence =
        BTreeMap::from([(device.digest("e"), Err(Reason::KeyRevoked)), (device.digest("g"), Ok(()))]);
    device.given_up = BTreeMap::from([(device.digest("f"), Reason::RetriesExhausted)]);
    assert_eq!(
        line(&device.plan()),
        "g | a: unsigned, b: unapproved, c: approved-other-manifest, d: held, e: key-revoked, f: retries-exhausted"
    );
    device.metadata = Err(Reason::OfflineTooLong);
    assert!(line(&device.plan()).ends_with("f: offline-too-long, g: offline-too-long"));
}

#[test]
fn only_what_is_missing_is_planned_and_only_as_it_was_assessed() {
    let names = ["a", "b", "c", "d"];
    let mut device = Device::missing(names.map(|name| manifest(name, &[], &[])).to_vec());
    device.find("a", Finding::Installed);
    device.find("b", Finding::NotApplicable);
    device.find("c", Finding::NotAssessed);
    device.catalogues[0].manifests[3].title = "changed since the scan".to_owned();
    assert_eq!(line(&device.plan()), " | d: not-assessed");
}

// proves N4, N5, M8
#[test]
fn without_a_policy_nothing_is_fetched_and_without_deployment_nothing_is_installed() {
    let mut device = Device::missing(vec![manifest("a", &[], &[])]);
    device.site = "delft";
    assert_eq!(line(&device.plan()), " | a: not-assigned");
    device.site = "utrecht";
    device.layer.policies[0].enabled = false;
    assert_eq!(line(&device.plan()), " | a: policy-disabled");
    device.layer.policies[0].enabled = true;
    assert_eq!(device.plan().steps[0].purpose, Purpose::Deploy);
    device.layer.configurations[0].deploy = false;
    assert_eq!(device.plan().steps[0].purpose, Purpose::FetchAhead(Reason::ConfigurationInert));
    device.layer.policies[0].configurations.clear();
    assert_eq!(device.plan().steps[0].purpose, Purpose::FetchAhead(Reason::NoConfiguration));
    device.layer.policies[0].deploy = false;
    assert_eq!(device.plan().steps[0].purpose, Purpose::FetchAhead(Reason::NoCapability));
}

#[test]
fn the_most_severe_goes_first_and_takes_its_requirements_along() {
    let mut manifests = vec![
        manifest("a", &[], &[]),
        manifest("critical", &["z"], &[]),
        manifest("low", &[], &[]),
        manifest("z", &[], &[]),
    ];
    manifests[1].severity = Severity::Critical;
    manifests[2].severity = Severity::Low;
    manifests[3].severity = Severity::Unknown;
    assert_eq!(line(&Device::missing(manifests).plan()), "z critical a low | ");
}

#[test]
fn requirements_that_are_missing_or_circular_are_named() {
    let mut device = Device::missing(vec![
        manifest("a", &["b"], &[]),
        manifest("b", &["unapproved"], &[]),
        manifest("unapproved", &[], &[]),
        manifest("unknown", &["elsewhere"], &[]),
        manifest("x", &["y"], &[]),
        manifest("y", &["x"], &[]),
        manifest("behind", &["x"], &[]),
        manifest("itself", &["itself"], &[]),
        manifest("fine", &["there"], &[]),
        manifest("there", &[], &[]),
    ]);
    device.unapprove("unapproved");
    device.find("there", Finding::Installed);
    assert_eq!(
        line(&device.plan()),
        "fine | a: requirement-missing b, b: requirement-missing unapproved, behind: requirement-missing x, \
         itself: requirement-cycle itself, unapproved: unapproved, unknown: requirement-missing elsewhere, \
         x: requirement-cycle y, y: requirement-cycle x"
    );
}

// proves M14
#[test]
fn a_replaced_patch_is_left_out_when_the_one_that_replaces_it_is_there() {
    let device = || {
        Device::missing(vec![
            manifest("new", &[], &["old"]),
            manifest("old", &[], &[]),
            manifest("user", &["old"], &[]),
        ])
    };
    assert_eq!(line(&device().plan()), "new user | old: superseded new");
    let mut unapproved = device();
    unapproved.unapprove("new");
    assert_eq!(line(&unapproved.plan()), "old user | new: unapproved");
    let mut installed = device();
    installed.find("new", Finding::Installed);
    assert_eq!(line(&installed.plan()), "user | old: superseded new");
}

#[test]
fn an_upgrade_path_keeps_the_patch_that_its_replacement_needs() {
    let path = Device::missing(vec![
        manifest("new", &["step"], &["old"]),
        manifest("step", &["old"], &[]),
        manifest("old", &[], &[]),
    ]);
    assert_eq!(line(&path.plan()), "old step new | ");
    let each_other = Device::missing(vec![manifest("a", &[], &["b"]), manifest("b", &[], &["a"])]);
    assert_eq!(line(&each_other.plan()), "a | b: superseded a");
    let crossed = Device::missing(vec![
        manifest("q1", &["r1"], &["p1"]),
        manifest("q2", &["r2"], &["p2"]),
        manifest("r1", &["p2"], &[]),
        manifest("r2", &["p1"], &[]),
        manifest("p1", &[], &[]),
        manifest("p2", &[], &[]),
    ]);
    assert_eq!(line(&crossed.plan()), "p2 r1 q1 r2 q2 | p1: superseded q1");
}

// A catalogue made to cost much: chains and circles over thousands of patches, the ends of which are missing.
#[test]
fn long_chains_and_large_circles_stay_cheap() {
    let name = |number: usize| format!("p{number:05}");
    let chain = |end: &str, length: usize| -> Vec<Manifest> {
        (0..length)
            .map(|number| {
                let next = if number + 1 < length { name(number + 1) } else { end.to_owned() };
                manifest(&name(number), &[&next], &[])
            })
            .collect()
    };
    for (end, reason) in [("nowhere", Reason::RequirementMissing), (&name(0), Reason::RequirementCycle)] {
        let plan = Device::missing(chain(end, 1_200)).plan();
        assert_eq!((plan.steps.len(), plan.left_out.len()), (0, 1_200));
        assert!(plan.left_out.values().all(|why| why.reason == reason && why.others.len() == 1));
    }
    let mut replacing = chain("p01199", 1_199);
    replacing.push(manifest("p01199", &[], &[]));
    for (number, manifest) in replacing.iter_mut().enumerate() {
        manifest.supersedes = vec![patch(&name(number + 1))];
    }
    assert_eq!(Device::missing(replacing).plan().steps.len(), 1_200, "each needs the one that it replaces");

    // Too far to follow: taken to be needed, so both are installed.
    let mut far = chain("p01199", 1_199);
    far.extend([
        manifest("p01199", &[], &[]),
        manifest("new", &[&name(0)], &["old"]),
        manifest("old", &[], &[]),
    ]);
    assert!(Device::missing(far).plan().left_out.is_empty());
}

fn any_catalogue() -> impl Strategy<Value = Vec<(u8, Vec<u8>, Vec<u8>, u8)>> {
    let links = || prop::collection::vec(0..10u8, 0..3);
    prop::collection::vec((0..5u8, links(), links(), 0..6u8), 1..9)
}

proptest! {
    // proves X4
    #[test]
    fn every_missing_patch_is_a_step_or_left_out_and_requirements_stand_first(catalogue in any_catalogue()) {
        let severities =
            [Severity::Unknown, Severity::Low, Severity::Moderate, Severity::Important, Severity::Critical];
        let names: Vec<String> = (0..10).map(|number| format!("p{number}")).collect();
        let pick = |links: &[u8]| links.iter().map(|link| names[usize::from(*link)].as_str()).collect::<Vec<_>>();
        let manifests = catalogue.iter().zip(&names).map(|((severity, requires, supersedes, _), name)| Manifest {
            severity: severities[usize::from(*severity)],
            ..manifest(name, &pick(requires), &pick(supersedes))
        });
        let mut device = Device::missing(manifests.collect());
        for ((.., state), name) in catalogue.iter().zip(&names) {
            match state {
                0 => device.unapprove(name),
                1 => device.find(name, Finding::Installed),
                _ => {}
            }
        }
        let plan = device.plan();
        prop_assert_eq!(&plan, &device.plan());
        let place = |patch: &PatchId| plan.steps.iter().position(|step| step.patch == *patch);
        let installed = |patch: &PatchId| matches!(device.findings.by_patch.get(patch), Some((_, Finding::Installed)));
        for manifest in &device.catalogues[0].manifests {
            let (step, out) = (place(&manifest.patch), plan.left_out.get(&manifest.patch));
            let missing = !installed(&manifest.patch);
            prop_assert_eq!(usize::from(missing), usize::from(step.is_some()) + usize::from(out.is_some()));
            let Some(step) = step else { continue };
            for earlier in &plan.steps[step].after {
                prop_assert!(place(earlier).is_some_and(|place| place < step));
            }
            // Each requirement is met: installed or earlier in the plan, itself or what replaces it, at any remove.
            for requirement in &manifest.requires {
                let mut met = vec![requirement.clone()];
                for _ in 0..10 {
                    let more: Vec<PatchId> = device.catalogues[0].manifests.iter()
                        .filter(|newer| newer.supersedes.iter().any(|older| met.contains(older)))
                        .map(|newer| newer.patch.clone()).collect();
                    met.extend(more.into_iter().filter(|newer| !met.contains(newer)).collect::<Vec<_>>());
                }
                prop_assert!(met.iter().any(|patch| installed(patch) || place(patch).is_some_and(|place| place < step)));
            }
        }
        for (patch, out) in &plan.left_out {
            if out.reason == Reason::Superseded {
                let mut newest = &out.others[0];
                while let Some(LeftOut { reason: Reason::Superseded, others }) = plan.left_out.get(newest) {
                    newest = &others[0];
                }
                prop_assert!(installed(newest) || place(newest).is_some(), "{} by {}", patch, newest);
            }
        }
    }
}
