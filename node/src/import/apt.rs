//! Imports packages by name from the machine's own APT suites, with the whole chain verified before anything is believed.

use super::Imported;
use super::client::{Client, ClientError, IndexTarget};
use super::entry;
pub use super::suite::ImportError;
use super::suite::{self, Suite, read_within, unusable};
use crate::verify::apt::verify_apt;
use crate::verify::contents::describe;
use crate::verify::index::{Compression, Stanza, for_each_package};
use crate::verify::package_file::{PackageFile, verify_package_file};
use protocol::digest::Sha256;
use protocol::fleet::{KeyMaterial, Vendor, VendorKey, Vendors};
use protocol::identifier::VendorName;
use protocol::limits::{INDEX_BYTES, RELEASE_BYTES};
use protocol::manifest::{AptChain, Content, Evidence, Kind, Manifest};
use protocol::system::System;
use protocol::time::WallTime;
use protocol::verify::Refusal;
use protocol::version::DebianVersion;
use std::path::{Path, PathBuf};

/// What to import.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// The vendor's name in this fleet, for example `debian`.
    pub vendor: VendorName,
    /// Packages by name.
    pub packages: Vec<String>,
    /// Suite or codename to take them from; `None` takes the newest version of all suites.
    pub suite: Option<String>,
    /// The operating system that the patches are for: that of this machine.
    pub system: System,
}

/// One version of a package in one verified suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    /// The package.
    pub package: String,
    /// Its version.
    pub version: DebianVersion,
    /// Its architecture, the machine's own or `all`.
    pub architecture: String,
    /// One line for people.
    pub title: String,
    /// Codename of the suite.
    pub codename: String,
    /// Whether the suite is one of security fixes.
    pub security: bool,
    /// Digest of the package file.
    pub sha256: Sha256,
    /// Size of the package file in bytes.
    pub size: u64,
    suite: usize,
    path: String,
}

/// The machine's APT suites, fetched and verified.
#[derive(Debug)]
pub struct Suites {
    client: Client,
    suites: Vec<Suite>,
    skipped: Vec<(String, ImportError)>,
    now: WallTime,
}

impl Suites {
    /// Fetches the release files and package indexes of all suites that the machine's sources name into `directory`, and
    /// verifies each with the keys that its entry pins. A suite that fails is left out; asking for it by name gives its
    /// error. Blocking, and needs the network.
    ///
    /// # Errors
    /// [`ImportError::Client`] when APT is not there or nothing could be fetched; the first suite's error when every
    /// suite fails.
    pub fn fetch(directory: &Path, now: WallTime) -> Result<Suites, ImportError> {
        let client = Client::open(directory)?;
        let targets = client.update()?;
        Suites::load(client, targets, now)
    }

    /// Verifies what an earlier [`Suites::fetch`] left in `directory`, without the network. Blocking.
    ///
    /// # Errors
    /// As [`Suites::fetch`]; [`ClientError::Unreachable`] when nothing is there.
    pub fn open(directory: &Path, now: WallTime) -> Result<Suites, ImportError> {
        let client = Client::open(directory)?;
        let targets = client.targets()?;
        if targets.is_empty() {
            return Err(ClientError::Unreachable("nothing was fetched before".to_owned()).into());
        }
        Suites::load(client, targets, now)
    }

    fn load(client: Client, targets: Vec<IndexTarget>, now: WallTime) -> Result<Suites, ImportError> {
        let mut all = Suites { client, suites: Vec::new(), skipped: Vec::new(), now };
        for target in targets {
            let name = target.release.clone();
            match suite::load(&all.client, target, now) {
                Ok(suite) => all.suites.push(suite),
                Err(error) => all.skipped.push((name, error)),
            }
        }
        match all.skipped.pop() {
            Some((_, error)) if all.suites.is_empty() => return Err(error),
            Some(last) => all.skipped.push(last),
            None => {}
        }
        Ok(all)
    }

    /// Suites that were left out, each with its error.
    pub fn skipped(&self) -> &[(String, ImportError)] {
        &self.skipped
    }

    /// Every version of `packages` in every verified suite, oldest first for each package; of equal versions the one
    /// from a security suite stands last. Reads each index once. Blocking.
    ///
    /// # Errors
    /// [`ImportError::Refused`] when an index does not read.
    pub fn available(&self, packages: &[String]) -> Result<Vec<Available>, ImportError> {
        self.available_in(&self.chosen(None)?, packages)
    }

    fn available_in(&self, chosen: &[usize], packages: &[String]) -> Result<Vec<Available>, ImportError> {
        let mut found = Vec::new();
        for (number, suite) in chosen.iter().map(|number| (*number, &self.suites[*number])) {
            let refused = |refusal| ImportError::Refused { what: suite.target.path.clone(), refusal };
            let bytes = read_within(&suite.target.index, INDEX_BYTES)?;
            let compression = Compression::of_path(&suite.target.path)
                .ok_or_else(|| refused(Refusal::Malformed("an index of no known format".to_owned())))?;
            let wanted = |name: &str| packages.iter().any(|package| package == name);
            let walked = for_each_package(&bytes, compression, wanted, |stanza| {
                found.extend(read_stanza(stanza, number, suite));
            });
            walked.map_err(|fault| refused(Refusal::Malformed(fault.to_string())))?;
        }
        found.sort_by(|one: &Available, other| {
            (&one.package, &one.version, one.security).cmp(&(&other.package, &other.version, other.security))
        });
        Ok(found)
    }

    /// For each of `packages` whose newest version comes from a security suite: the newest older version from another
    /// suite, and that newest one. Packages without such a pair are left out. Blocking.
    ///
    /// # Errors
    /// As [`Suites::available`].
    pub fn upgrades(&self, packages: &[String]) -> Result<Vec<(Available, Available)>, ImportError> {
        let available = self.available(packages)?;
        let pair = |versions: &[Available]| {
            let newest = versions.last().filter(|newest| newest.security)?;
            let older = versions.iter().rfind(|one| !one.security && one.version < newest.version)?;
            Some((older.clone(), newest.clone()))
        };
        Ok(available.chunk_by(|one, other| one.package == other.package).filter_map(pair).collect())
    }

    /// Fetches the package file and checks its SHA-256 and size against the verified index. Blocking.
    ///
    /// # Errors
    /// [`ImportError::Client`] when it does not arrive, [`ImportError::Refused`] when it is another file.
    pub fn fetch_deb(&self, available: &Available) -> Result<(Content, PathBuf), ImportError> {
        let repository = &self.suites[available.suite].target.repository;
        let path = self.client.fetch(repository, &available.path, &available.sha256)?;
        let content = describe(&path).map_err(|error| unusable(&path, &error))?;
        if (content.sha256, content.size) == (available.sha256, available.size) {
            return Ok((content, path));
        }
        let refusal = Refusal::EvidenceMismatch("the index lists another digest or size".to_owned());
        Err(ImportError::Refused { what: path.display().to_string(), refusal })
    }

    /// Imports the newest version of each package: fetches it, writes its manifest, and verifies the whole chain just as
    /// a node will. Blocking, and needs the network.
    ///
    /// # Errors
    /// [`ImportError`]; one bad package refuses the whole import.
    pub fn import(&self, request: &ImportRequest) -> Result<Imported, ImportError> {
        let suites = self.chosen(request.suite.as_deref())?;
        let available = self.available_in(&suites, &request.packages)?;
        let mut picked: Vec<&Available> = Vec::new();
        for package in &request.packages {
            let newest = available.iter().rfind(|candidate| candidate.package == *package);
            let names = || suites.iter().map(|at| self.suites[*at].target.release.as_str());
            picked.push(newest.ok_or_else(|| ImportError::NoPackage {
                package: package.clone(),
                suites: names().collect::<Vec<_>>().join(", "),
            })?);
        }
        picked.sort_by(|one, other| one.package.cmp(&other.package));
        picked.dedup();
        let vendor = self.vendor(request, &picked)?;
        let vendors = Vendors { vendors: vec![vendor.clone()] };
        let (mut manifests, mut files) = (Vec::new(), Vec::new());
        for available in picked {
            let suite = &self.suites[available.suite];
            let (content, path) = self.fetch_deb(available)?;
            let manifest = manifest_of(request, available, suite, content, &path)?;
            self.verify(&manifest, suite, &path, &vendors)?;
            files.push((content, path));
            files.push((suite.release_content, suite.target.in_release.clone()));
            files.push((suite.index_content, suite.target.index.clone()));
            manifests.push(manifest);
        }
        files.sort();
        files.dedup_by_key(|(content, _)| *content);
        let warnings = self.skipped.iter().map(|(name, error)| format!("suite {name} was left out: {error}"));
        Ok(Imported { manifests, files, vendor: Some(vendor), warnings: warnings.collect() })
    }

    /// Indexes of the suites that bear the name, or of all.
    fn chosen(&self, name: Option<&str>) -> Result<Vec<usize>, ImportError> {
        let all = self.suites.iter().enumerate();
        let chosen: Vec<usize> = all
            .filter(|(_, suite)| name.is_none_or(|name| suite.is_called(name)))
            .map(|(at, _)| at)
            .collect();
        match name {
            Some(name) if chosen.is_empty() => {
                let names = self.suites.iter().map(|suite| suite.target.release.as_str());
                let skipped = self.skipped.iter().map(|(name, error)| format!("{name} (left out: {error})"));
                let known: Vec<String> = names.map(str::to_owned).chain(skipped).collect();
                Err(ImportError::NoSuite { suite: name.to_owned(), known: known.join(", ") })
            }
            _ => Ok(chosen),
        }
    }

    /// The vendor with every certificate that signed one of the suites in use, each for those suites alone.
    fn vendor(&self, request: &ImportRequest, picked: &[&Available]) -> Result<Vendor, ImportError> {
        let mut keys: Vec<(String, VendorKey)> = Vec::new();
        let mut used: Vec<usize> = picked.iter().map(|available| available.suite).collect();
        used.sort_unstable();
        used.dedup();
        for suite in used.into_iter().map(|at| &self.suites[at]) {
            for signer in &suite.signers {
                let fingerprint = signer.fingerprint();
                let codename = suite.release.codename.clone();
                let known = keys.iter_mut().find(|(other, _)| *other == fingerprint);
                match known.map(|(_, key)| &mut key.material) {
                    Some(KeyMaterial::OpenPgp { suites, .. }) if suites.contains(&codename) => {}
                    Some(KeyMaterial::OpenPgp { suites, .. }) => suites.push(codename),
                    _ => {
                        let certificate = signer.to_armoured();
                        let certificate = certificate.map_err(|error| ImportError::Unusable {
                            what: format!("OpenPGP key {fingerprint}"),
                            why: error.to_string(),
                        })?;
                        let material = KeyMaterial::OpenPgp { certificate, suites: vec![codename] };
                        let key = VendorKey { material, valid_from: None, valid_until: None, revoked: false };
                        keys.push((fingerprint, key));
                    }
                }
            }
        }
        let keys = keys.into_iter().map(|(_, key)| key).collect();
        Ok(Vendor { name: request.vendor.clone(), keys })
    }

    fn verify(
        &self,
        manifest: &Manifest,
        suite: &Suite,
        path: &Path,
        vendors: &Vendors,
    ) -> Result<(), ImportError> {
        let refused = |refusal| ImportError::Refused { what: manifest.patch.to_string(), refusal };
        manifest.check().map_err(|invalid| refused(Refusal::Malformed(invalid.to_string())))?;
        let release = read_within(&suite.target.in_release, RELEASE_BYTES)?;
        let packages = read_within(&suite.target.index, INDEX_BYTES)?;
        let artifact = &manifest.artifacts[0];
        verify_apt(manifest, artifact, &release, &packages, vendors, self.now).map_err(refused)?;
        verify_package_file(path, manifest).map_err(refused)
    }
}

fn read_stanza(stanza: &Stanza<'_>, number: usize, suite: &Suite) -> Option<Available> {
    let (sha256, size) = stanza.file()?;
    let text = |name: &str| stanza.field(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let package = text("Package")?;
    let version = DebianVersion::new(text("Version")?).ok()?;
    Some(Available {
        title: text("Description").unwrap_or_else(|| package.clone()),
        package,
        version,
        architecture: text("Architecture")?,
        codename: suite.release.codename.clone(),
        security: suite.is_security(),
        sha256,
        size,
        suite: number,
        path: text("Filename")?,
    })
}

fn manifest_of(
    request: &ImportRequest,
    available: &Available,
    suite: &Suite,
    content: Content,
    path: &Path,
) -> Result<Manifest, ImportError> {
    let Available { package, version, architecture, title, security, .. } = available;
    let chain = AptChain {
        release: suite.release_content,
        packages: suite.index_content,
        packages_path: suite.target.path.clone(),
        suite: suite.release.suite.clone(),
        codename: suite.release.codename.clone(),
    };
    let package_file = PackageFile {
        package: package.clone(),
        version: version.clone(),
        architecture: architecture.clone(),
    };
    let kind = if *security { Kind::Security } else { Kind::Update };
    let title = format!("{package} {version}: {title}");
    let manifest = entry::write(&request.vendor, &request.system, package_file, kind, &title, path, content);
    let mut manifest =
        manifest.map_err(|error| ImportError::Unusable { what: package.clone(), why: error.to_string() })?;
    manifest.artifacts[0].evidence = Evidence::Apt(chain);
    Ok(manifest)
}
