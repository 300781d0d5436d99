//! Vendor evidence against the real world: the machine's own Debian suites, and `gpgv` as oracle.

mod file;
mod gpgv;

use anyhow::{Context as _, Result, ensure};
use node::import::apt::{ImportError, ImportRequest, Suites};
use node::verify::apt::verify_apt;
use protocol::fleet::{KeyMaterial, VENDORS_PATH, Vendors, parse_toml, to_toml};
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
    let names = ["liblzma5", "libssl3", "linux-libc-dev"].map(str::to_owned);
    let upgrades = suites.upgrades(&names)?;
    let (older, newest) = upgrades.iter().min_by_key(|(_, newest)| newest.size).context("no upgrade")?;
    ensure!(newest.security && !older.security && older.version < newest.version);
    let package = newest.package.clone();
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
        ensure!(node::verify::contents::describe(path)? == content);
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

    let listed = to_toml(&held.vendors);
    ensure!(parse_toml::<Vendors>(VENDORS_PATH, &listed)? == held.vendors);
    ensure!(listed.len() < 24 << 10, "the list of vendors goes to every device: {} bytes", listed.len());
    println!("list of vendors: {} bytes", listed.len());

    // A byte changed on the way is refused, wherever it is; so is a key that the fleet trusts for another suite only.
    held.release[200] ^= 1;
    assert_eq!(held.answer(now), "evidence-mismatch");
    held.release[200] ^= 1;
    let middle = held.packages.len() / 2;
    held.packages[middle] ^= 1;
    assert_eq!(held.answer(now), "evidence-mismatch");
    held.packages[middle] ^= 1;
    assert_eq!(held.answer(now), "good");
    for key in &mut held.vendors.vendors[0].keys {
        let KeyMaterial::OpenPgp { suites, .. } = &mut key.material else { anyhow::bail!("an OpenPGP key") };
        ensure!(*suites == [newest.codename.clone()], "{suites:?}");
    }
    assert_eq!(held.answer(WallTime::from_unix_seconds(1_000_000_000)), "key-expired");
    assert_eq!(held.answer(now.plus_days(40 * 365)), "key-expired");
    for key in &mut held.vendors.vendors[0].keys {
        if let KeyMaterial::OpenPgp { suites, .. } = &mut key.material {
            *suites = vec!["another-suite".to_owned()];
        }
    }
    assert_eq!(held.answer(now), "untrusted-key");
    let old = ImportRequest { suite: Some(newest.codename.clone()), ..request.clone() };
    let wrong_suite = ImportRequest { suite: Some("no-such-suite".to_owned()), ..request.clone() };
    ensure!(matches!(suites.import(&wrong_suite), Err(ImportError::NoSuite { .. })));
    let wrong_package = ImportRequest { packages: vec!["no-such-package".to_owned()], ..request };
    ensure!(matches!(suites.import(&wrong_package), Err(ImportError::NoPackage { .. })));

    // The clock: a year ahead, and as slow as before the release was made. The lists are there, so nothing is fetched.
    let late = Suites::open(directory.path(), now.plus_days(365))?;
    let expired = |error: &ImportError| matches!(error, ImportError::Expired { .. });
    ensure!(late.skipped().iter().any(|(_, error)| expired(error)), "{:?}", late.skipped());
    ensure!(late.import(&old).is_err_and(|error| error.to_string().contains("check the clock")));
    let early =
        Suites::open(directory.path(), WallTime::from_unix_seconds(now.unix_seconds() - 400 * 86_400));
    let Err(ImportError::FromFuture { .. }) = early else { anyhow::bail!("{early:?}") };
    Ok(())
}
