//! Vendor evidence against the real world: the machine's own Debian suites, and `gpgv` as oracle.

use anyhow::{Context as _, Result, ensure};
use node::import::apt::{ImportRequest, Suites};
use node::verify::apt::verify_apt;
use protocol::fleet::Vendors;
use protocol::identifier::VendorName;
use protocol::manifest::{Content, Evidence, Manifest};
use protocol::system::{Family, System};
use protocol::time::WallTime;
use protocol::verify::Verdict;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

fn now() -> Result<WallTime> {
    Ok(WallTime::from_unix_seconds(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()))
}

fn this_machine() -> Result<System> {
    let text = std::fs::read_to_string("/etc/os-release")?;
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value
            .map(|value| value.trim_matches('"').to_owned())
            .with_context(|| format!("no {name} in os-release"))
    };
    let architecture = std::process::Command::new("dpkg").arg("--print-architecture").output()?.stdout;
    Ok(System {
        family: Family::Linux,
        distribution: field("ID")?,
        release: field("VERSION_ID")?,
        architecture: String::from_utf8(architecture)?.trim().to_owned(),
    })
}

/// The evidence of a manifest's only artifact, as a node would hold it.
struct Held {
    manifest: Manifest,
    release: Vec<u8>,
    packages: Vec<u8>,
    vendors: Vendors,
}

impl Held {
    fn answer(&self, now: WallTime) -> &'static str {
        let artifact = &self.manifest.artifacts[0];
        verify_apt(&self.manifest, artifact, &self.release, &self.packages, &self.vendors, now)
            .map_or_else(|refusal| refusal.code(), |_| "good")
    }
}

// proves X2, N8
#[test]
fn a_real_security_update_with_its_whole_chain() -> Result<()> {
    let (directory, now, system) = (tempfile::tempdir()?, now()?, this_machine()?);
    let suites = Suites::fetch(directory.path(), now)?;
    let package = "liblzma5".to_owned();
    let available = suites.available(std::slice::from_ref(&package))?;
    let newest = available.last().context("the package is in no suite")?;
    ensure!(newest.security, "the newest version does not come from a security suite: {available:#?}");
    let older = available
        .iter()
        .find(|one| !one.security && one.version < newest.version)
        .context("the main suite has no older version")?;
    let (older_content, older_path) = suites.fetch_deb(older)?;
    ensure!(older_content.sha256 == older.sha256 && older_path.is_file());

    let vendor = VendorName::new("debian")?;
    let request = ImportRequest { vendor, packages: vec![package], suite: None, system: system.clone() };
    let imported = suites.import(&request)?;
    let [manifest] = imported.manifests.as_slice() else { anyhow::bail!("one manifest is expected") };
    ensure!(manifest.targets[0].matches(&system) && manifest.size() == newest.size);
    let files: BTreeMap<Content, PathBuf> = imported.files.into_iter().collect();
    for content in manifest.contents() {
        let path = files.get(&content).context("a content of the manifest has no file")?;
        node::verify::contents::verify_contents(path, &content)?;
    }
    let Evidence::Apt(chain) = &manifest.artifacts[0].evidence else { anyhow::bail!("no APT chain") };
    let mut held = Held {
        release: std::fs::read(&files[&chain.release])?,
        packages: std::fs::read(&files[&chain.packages])?,
        vendors: Vendors { vendors: vec![imported.vendor.context("no vendor")?] },
        manifest: manifest.clone(),
    };
    let artifact = &held.manifest.artifacts[0];
    let proof = verify_apt(&held.manifest, artifact, &held.release, &held.packages, &held.vendors, now)?;
    let verdict = Verdict::of(proof);
    ensure!(verdict.holds(now) && verdict.holds_until().is_some_and(|until| until > now));
    ensure!(held.packages.len() < 2 << 20, "the security index is small");
    println!("{} signed by {} until {:?}", held.manifest.patch, verdict.signer(), verdict.holds_until());

    // A byte changed on the way is refused, wherever it is; so is a key that the fleet trusts for another suite only.
    held.release[200] ^= 1;
    assert_eq!(held.answer(now), "evidence-mismatch");
    held.release[200] ^= 1;
    let middle = held.packages.len() / 2;
    held.packages[middle] ^= 1;
    assert_eq!(held.answer(now), "evidence-mismatch");
    held.packages[middle] ^= 1;
    assert_eq!(held.answer(now), "good");
    assert_eq!(held.answer(WallTime::from_unix_seconds(1_000_000_000)), "key-expired");
    assert_eq!(held.answer(now.plus_days(40 * 365)), "key-expired");
    Ok(())
}
