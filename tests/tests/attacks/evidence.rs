//! Vendor evidence at running nodes: APT chains of a real OpenPGP key, broken at each link after the catalogue was made.

use super::fleet::{Fleet, Patch, SITE, system};
use super::hostile::Hostile;
use super::peers::{hello, lease};
use protocol::bitmap::PieceSet;
use protocol::digest::Sha256;
use protocol::fleet::{KeyMaterial, VENDORS_PATH, VendorKey, Vendors, parse_toml, to_toml};
use protocol::manifest::{AptChain, Content, Evidence};
use protocol::wire::{GrantAnswer, Holding, News, Request, Response, Versions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SUITE: &str = "bookworm";
const INDEX: &str = "main/binary-all/Packages";

/// A GnuPG home; its agent ends with it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        let home = Home(tempfile::Builder::new().prefix("gpg").tempdir().expect("directory"));
        std::fs::set_permissions(home.0.path(), std::fs::Permissions::from_mode(0o700)).expect("mode");
        home.gpg(&["--quick-gen-key", "Acme <acme@vendor.example>", "ed25519", "sign", "never"], "");
        home
    }

    fn gpg(&self, arguments: &[&str], input: &str) -> String {
        let mut child = Command::new("gpg")
            .arg("--homedir")
            .arg(self.0.path())
            .args(["--batch", "--yes", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs gpg");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("gpg reads");
        let output = child.wait_with_output().expect("gpg");
        assert!(output.status.success(), "gpg {arguments:?}");
        String::from_utf8(output.stdout).expect("armour")
    }

    fn certificate(&self) -> String {
        self.gpg(&["--armor", "--export"], "")
    }

    /// A release file that lists `index`.
    fn release(&self, index: &[u8]) -> String {
        let text = format!(
            "Origin: Acme\nSuite: {SUITE}\nCodename: {SUITE}\nDate: Sat, 21 Oct 2023 00:53:02 UTC\nSHA256:\n {} {} {INDEX}\n",
            Sha256::of(index),
            index.len()
        );
        self.gpg(&["--clear-sign", "--output", "-"], &text)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let mut stop = Command::new("gpgconf");
        let _ = stop.arg("--homedir").arg(self.0.path()).args(["--kill", "gpg-agent"]).status();
    }
}

fn index_of(patch: &Patch, name: &str) -> String {
    let content = patch.manifest.artifacts[0].content;
    format!(
        "Package: {name}\nVersion: 2.0\nArchitecture: all\nSize: {}\nSHA256: {}\n\n",
        content.size, content.sha256
    )
}

/// Puts the chain into the manifest and returns its files.
fn chain(patch: &mut Patch, place: &Path, release: &[u8], packages: &[u8]) -> Vec<PathBuf> {
    patch.manifest.artifacts[0].evidence = Evidence::Apt(AptChain {
        release: Content::of(release),
        packages: Content::of(packages),
        packages_path: INDEX.to_owned(),
        suite: SUITE.to_owned(),
        codename: SUITE.to_owned(),
    });
    let write = |bytes: &[u8]| {
        let path = place.join(Sha256::of(bytes).to_string());
        std::fs::write(&path, bytes).expect("written");
        path
    };
    vec![write(release), write(packages)]
}

fn trust(fleet: &Fleet, home: &Home) {
    let bytes = fleet.directory.staged(VENDORS_PATH).expect("staged").expect("vendors");
    let mut vendors: Vendors = parse_toml(VENDORS_PATH, &bytes).expect("vendors");
    let material = KeyMaterial::OpenPgp { certificate: home.certificate(), suites: vec![SUITE.to_owned()] };
    let key = VendorKey { valid_from: None, valid_until: None, revoked: false, material };
    vendors.vendors[0].keys.push(key);
    fleet.directory.stage(VENDORS_PATH, &to_toml(&vendors)).expect("staged");
}

// proves N8, X2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_broken_link_of_a_chain_is_refused_by_seed_and_device() {
    let mut fleet = Fleet::new();
    let (vendor, stranger) = (Home::new(), Home::new());
    trust(&fleet, &vendor);
    let debian = system("debian");
    let names = ["alpha", "beta", "gamma", "delta", "epsilon"];
    let mut patches = names.map(|name| fleet.build(name, 60_000, true, &debian));
    let place = fleet.place.path().to_owned();
    let mut files = Vec::new();
    for (patch, name) in patches.iter_mut().zip(names) {
        let mut index = index_of(patch, name).into_bytes();
        let mut release = vendor.release(&index).into_bytes();
        match name {
            // A byte of the signed text, and one of the index.
            "beta" => {
                release = String::from_utf8(release).expect("text").replace("Acme", "Acmf").into_bytes()
            }
            "gamma" => index[9] ^= 1,
            // Signed well, by somebody whom the fleet does not trust; and a chain that proves another file.
            "delta" => release = stranger.release(&index).into_bytes(),
            "epsilon" => {
                let digest = patch.manifest.artifacts[0].content.sha256.to_string();
                let other = Sha256::of(b"another package").to_string();
                index = String::from_utf8(index).expect("text").replace(&digest, &other).into_bytes();
                release = vendor.release(&index).into_bytes();
            }
            _ => {}
        }
        files.extend(chain(patch, &place, &release, &index));
        fleet.list(&patch.manifest);
    }
    fleet.publish();
    let hq = fleet.headquarters().await;
    let all: Vec<&Patch> = patches.iter().collect();
    let node = fleet.branch(1, SITE, &all).await;
    node.metadata(1).await;
    // The seed does not hand out such evidence; a neighbour does, and packages with it.
    let mallory = Hostile::join(&fleet, 99, SITE, &debian).await;
    let evidence = files.iter().map(|path| std::fs::read(path).expect("evidence"));
    let packages = patches.iter().map(Patch::bytes);
    let holdings: Vec<Holding> = evidence
        .chain(packages)
        .map(|bytes| Holding { root: mallory.has(&bytes), pieces: PieceSet::full(1) })
        .collect();
    mallory.answers(move |request| match request {
        Request::Hello(_) => Some(hello(News { versions: Versions::default(), holdings: holdings.clone() })),
        Request::Grant(_) => {
            Some(Response::Grant(GrantAnswer { pieces: PieceSet::full(1), tree: None, seconds: 600 }))
        }
        _ => None,
    });
    mallory.connect(&node).await;
    mallory.connect(&hq).await;
    patches.iter().for_each(|patch| fleet.approve(&patch.manifest));
    hq.ask(move |client| client.add_content(files)).await;
    fleet.serve(&hq, &all).await;
    node.deployment(&patches[0].id(), "installed").await;
    let codes = ["bad-vendor-signature", "evidence-mismatch", "untrusted-key", "evidence-mismatch"];
    for ((patch, code), name) in patches[1..].iter().zip(codes).zip(&names[1..]) {
        super::until(&format!("{name} is left out for {code}"), async || {
            eprintln!(
                "XX {name} {:?} {:?}",
                node.left_out(&patch.id()).await,
                node.state_of(&patch.id()).await
            );
            node.left_out(&patch.id()).await.as_deref() == Some(code)
        })
        .await;
        assert_eq!(mallory.refusal(&hq, &lease(&patch.manifest)).await.code(), code, "{name}");
        assert_eq!(node.installed(name).as_deref(), Some("1.0"), "{name}");
        let refusals = node.status().await.refusals;
        let listed = |refusal: &node::control::answer::Refusal| {
            refusal.reason.code == code && refusal.subject == patch.id().to_string()
        };
        assert!(refusals.iter().any(listed), "{name}: {refusals:?}");
    }
    node.stop().await;
    hq.stop().await;
}
