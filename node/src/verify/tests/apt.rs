//! The APT chain over a small suite of our own: good, and broken at each link.

use super::*;
use crate::verify::apt::verify_apt;
use crate::verify::artifact::{ChainFiles, verify_artifact};
use protocol::digest::Sha256;
use protocol::fleet::{KeyMaterial, Vendor, VendorKey, Vendors};
use protocol::identifier::{PatchId, VendorName};
use protocol::manifest::{
    AptChain, Artifact, Content, Detection, Evidence, Installer, Kind, Manifest, Reboot, SCHEMA, Severity,
};
use protocol::system::{Family, Target};
use protocol::verify::Verdict;
use protocol::version::DebianVersion;
use std::io::Read as _;

const PATH: &str = "main/binary-amd64/Packages.xz";

/// A suite with one package, as a node holds it.
#[derive(Clone)]
struct Held {
    manifest: Manifest,
    release: Vec<u8>,
    packages: Vec<u8>,
    vendors: Vendors,
}

fn xz(text: &str) -> Vec<u8> {
    let mut packed = Vec::new();
    liblzma::read::XzEncoder::new(text.as_bytes(), 1).read_to_end(&mut packed).expect("packs");
    packed
}

fn stanza(version: &str, file: &[u8]) -> String {
    let (sha256, size) = (Sha256::of(file), file.len());
    format!("Package: tool\nVersion: {version}\nArchitecture: amd64\nSize: {size}\nSHA256: {sha256}\n\n")
}

impl Held {
    /// The suite whose index is `index` and whose release file states `suite`.
    fn new(keys: &Keys, suite: &str, index: &str) -> Held {
        let packages = xz(index);
        let release = keys.message(&release_text(suite, &packages));
        Held::of(keys, release.into_bytes(), packages)
    }

    fn of(keys: &Keys, release: Vec<u8>, packages: Vec<u8>) -> Held {
        let chain = AptChain {
            release: Content::of(&release),
            packages: Content::of(&packages),
            packages_path: PATH.to_owned(),
            suite: "stable".to_owned(),
            codename: "bookworm".to_owned(),
        };
        let certificate = keys.certificate.to_armoured().expect("armour");
        let material = KeyMaterial::OpenPgp { certificate, suites: vec!["bookworm".to_owned()] };
        let key = VendorKey { material, valid_from: None, valid_until: None, revoked: false };
        let name = VendorName::new("debian").expect("name");
        let vendors = Vendors { vendors: vec![Vendor { name, keys: vec![key] }] };
        Held { manifest: manifest(chain), release, packages, vendors }
    }

    fn answer(&self) -> &'static str {
        let artifact = &self.manifest.artifacts[0];
        verify_apt(&self.manifest, artifact, &self.release, &self.packages, &self.vendors, now())
            .map_or_else(|refusal| refusal.code(), |_| "good")
    }

    /// The manifest names whatever bytes are held, as a hostile catalogue would.
    fn renamed(mut self) -> Held {
        let contents = (Content::of(&self.release), Content::of(&self.packages));
        if let Evidence::Apt(chain) = &mut self.manifest.artifacts[0].evidence {
            (chain.release, chain.packages) = contents;
        }
        self
    }
}

fn release_text(suite: &str, packages: &[u8]) -> String {
    format!(
        "Suite: {suite}\nCodename: bookworm\nDate: Sat, 21 Oct 2023 00:53:02 UTC\nSHA256:\n {} {} {PATH}",
        Sha256::of(packages),
        packages.len()
    )
}

fn manifest(chain: AptChain) -> Manifest {
    let target = Target {
        family: Family::Linux,
        distribution: "debian".to_owned(),
        release: "12".to_owned(),
        architecture: Some("amd64".to_owned()),
    };
    Manifest {
        schema: SCHEMA,
        patch: PatchId::new("debian/tool=1.0").expect("patch"),
        title: "tool".to_owned(),
        kind: Kind::Security,
        severity: Severity::Unknown,
        cves: Vec::new(),
        published: None,
        targets: vec![target],
        detection: Detection::DebianPackage {
            package: "tool".to_owned(),
            architecture: "amd64".to_owned(),
            version: DebianVersion::new("1.0").expect("version"),
        },
        requires: Vec::new(),
        supersedes: Vec::new(),
        artifacts: vec![Artifact {
            name: "tool.deb".to_owned(),
            content: Content::of(b"package"),
            evidence: Evidence::Apt(chain),
        }],
        installer: Installer::Dpkg,
        reboot: Reboot::Never,
    }
}

// proves X2, N8
#[test]
fn the_whole_chain_gives_a_verdict() {
    let keys = Recipe::default().make();
    let mut held = Held::new(&keys, "stable", &(stanza("0.9", b"old") + &stanza("1.0", b"package")));
    held.vendors.vendors[0].keys[0].valid_until = Some(now().plus_days(3));
    let artifact = &held.manifest.artifacts[0];
    let proof = verify_apt(&held.manifest, artifact, &held.release, &held.packages, &held.vendors, now());
    let verdict = Verdict::of(proof.expect("good"));
    assert_eq!(verdict.content(), artifact.content);
    assert_eq!(verdict.manifest(), held.manifest.digest());
    assert_eq!(verdict.holds_until(), Some(now().plus_days(3)));
    assert!(verdict.signer().to_string().contains(&keys.certificate.fingerprint()));
}

// proves N8
#[test]
fn each_broken_link_has_its_own_code() {
    let keys = Recipe::default().make();
    let good = Held::new(&keys, "stable", &stanza("1.0", b"package"));
    assert_eq!(good.answer(), "good");
    assert_eq!(Held::new(&keys, "testing", &stanza("1.0", b"package")).answer(), "suite-mismatch");
    for index in
        [stanza("1.1", b"package"), stanza("1.0", b"other"), stanza("1.0", b"packagf"), String::new()]
    {
        assert_eq!(Held::new(&keys, "stable", &index).answer(), "evidence-mismatch", "{index}");
    }
    let other_path = |held: &mut Held| {
        if let Evidence::Apt(chain) = &mut held.manifest.artifacts[0].evidence {
            chain.packages_path = "main/binary-arm64/Packages.xz".to_owned();
        }
    };
    let mut elsewhere = good.clone();
    other_path(&mut elsewhere);
    assert_eq!(elsewhere.answer(), "evidence-mismatch");
    let mut unsigned = good.clone();
    unsigned.manifest.artifacts[0].evidence = Evidence::None {};
    assert_eq!(unsigned.answer(), "unsigned");
    let asked = |held: &Held, files| {
        let artifact = &held.manifest.artifacts[0];
        verify_artifact(&held.manifest, artifact, files, &held.vendors, now())
            .map_err(|refusal| refusal.code())
    };
    let files = ChainFiles { release: &good.release, packages: &good.packages };
    assert!(asked(&good, Some(files)).is_ok_and(|verdict| verdict.holds(now())));
    assert_eq!(asked(&good, None), Err("missing-evidence"));
    assert_eq!(asked(&unsigned, Some(files)), Err("unsigned"));
    let damaged = b"not xz".to_vec();
    let release = keys.message(&release_text("stable", &damaged)).into_bytes();
    assert_eq!(Held::of(&keys, release, damaged).answer(), "malformed-evidence");
}

fn set_certificate(key: &mut VendorKey, text: &str) {
    if let KeyMaterial::OpenPgp { certificate, .. } = &mut key.material {
        *certificate = text.to_owned();
    }
}

// proves N8
#[test]
fn the_organisation_decides_whose_keys_count() {
    let keys = Recipe::default().make();
    let good = Held::new(&keys, "stable", &stanza("1.0", b"package"));
    let with = |change: &dyn Fn(&mut VendorKey)| {
        let mut held = good.clone();
        change(&mut held.vendors.vendors[0].keys[0]);
        held.answer()
    };
    assert_eq!(with(&|key| key.revoked = true), "key-revoked");
    assert_eq!(with(&|key| key.valid_until = Some(now())), "key-expired");
    assert_eq!(with(&|key| key.valid_from = Some(now().plus_days(1))), "key-expired");
    let other_suites = |key: &mut VendorKey| {
        if let KeyMaterial::OpenPgp { suites, .. } = &mut key.material {
            *suites = vec!["trixie".to_owned()];
        }
    };
    assert_eq!(with(&other_suites), "untrusted-key");
    assert_eq!(
        with(&|key| set_certificate(key, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n")),
        "malformed-evidence"
    );
    let mut one_unreadable = good.clone();
    let mut second = one_unreadable.vendors.vendors[0].keys[0].clone();
    set_certificate(&mut second, "of a newer kind");
    one_unreadable.vendors.vendors[0].keys.insert(0, second);
    assert_eq!(one_unreadable.answer(), "good");
    let mut nobody = good.clone();
    nobody.vendors.vendors.clear();
    assert_eq!(nobody.answer(), "unknown-vendor");
    let revoked = Recipe { revoke_primary: true, ..Recipe::default() }.make();
    assert_eq!(Held::new(&revoked, "stable", &stanza("1.0", b"package")).answer(), "key-revoked");
    let stranger = Recipe { seed: 9, ..Recipe::default() }.make();
    let forged = stranger.message(&release_text("stable", &good.packages)).into_bytes();
    assert_eq!(Held::of(&keys, forged, good.packages.clone()).answer(), "untrusted-key");
}

// proves X2, N8
#[test]
fn one_flipped_byte_anywhere_is_refused() {
    let keys = Recipe::default().make();
    let good = Held::new(&keys, "stable", &stanza("1.0", b"package"));
    let mut release = good.clone();
    release.release[80] ^= 1;
    assert_eq!(release.answer(), "evidence-mismatch");
    let text = release.renamed();
    assert_eq!(text.answer(), "bad-vendor-signature");
    for at in 0..good.packages.len() {
        let mut packages = good.clone();
        packages.packages[at] ^= 1;
        assert_eq!(packages.answer(), "evidence-mismatch");
        assert_eq!(packages.renamed().answer(), "evidence-mismatch");
    }
    let mut artifact = good.clone();
    artifact.manifest.artifacts[0].content.sha256 = Sha256::of(b"packagf");
    assert_eq!(artifact.answer(), "evidence-mismatch");
}

/// Only the checkers may attest that a vendor signed something; and the simulation, which has no vendors.
#[test]
fn nobody_else_attests() {
    fn walk(directory: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).expect("sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if std::fs::read_to_string(&path).is_ok_and(|text| text.contains("Evidenced::attest(")) {
                found.push(
                    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
                );
            }
        }
    }
    let node = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for part in ["src", "../protocol/src", "../cli/src"] {
        walk(&node.join(part), &mut found);
    }
    found.sort();
    assert_eq!(found, ["apt.rs", "apt.rs", "verify.rs"], "the second is this test");
}
