//! Imports packages by name from the machine's own APT suites, with the whole chain verified before anything is believed.

use super::Imported;
use super::client::{Client, ClientError, IndexTarget};
use super::sources::{self, KeyringError};
use crate::verify::apt::{refusal_of, verify_apt};
use crate::verify::certificate::Certificate;
use crate::verify::contents::describe;
use crate::verify::index::{Compression, Stanza, for_each_package};
use crate::verify::openpgp::{self, Unproven};
use crate::verify::package_file::verify_package_file;
use crate::verify::release::Release;
use protocol::digest::Sha256;
use protocol::fleet::{KeyMaterial, Vendor, VendorKey, Vendors};
use protocol::identifier::{PatchId, VendorName};
use protocol::limits::{INDEX_BYTES, RELEASE_BYTES, TEXT_BYTES};
use protocol::manifest::{
    AptChain, Artifact, Content, Detection, Evidence, Installer, Kind, Manifest, Reboot, SCHEMA, Severity,
};
use protocol::system::{System, Target};
use protocol::time::WallTime;
use protocol::verify::Refusal;
use protocol::version::DebianVersion;
use std::io::Read as _;
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

/// Why an import failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// APT is not there or could not fetch.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The keys of a suite are not known.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// No such suite in the machine's sources.
    #[error("suite {suite} is not in the machine's APT sources, which have: {known}")]
    NoSuite {
        /// The suite asked for.
        suite: String,
        /// The suites there are.
        known: String,
    },
    /// No such package.
    #[error("package {package} is not in {suites}")]
    NoPackage {
        /// The package asked for.
        package: String,
        /// The suites searched.
        suites: String,
    },
    /// The release file is too old to be believed.
    #[error(
        "suite {suite} was valid until {valid_until} and it is {now} here; check the clock, or the mirror is out of date"
    )]
    Expired {
        /// The suite.
        suite: String,
        /// Its `Valid-Until`.
        valid_until: WallTime,
        /// The clock.
        now: WallTime,
    },
    /// The release file is younger than the clock.
    #[error("suite {suite} was made at {made} and it is {now} here; the clock of this machine is slow")]
    FromFuture {
        /// The suite.
        suite: String,
        /// When it was made.
        made: WallTime,
        /// The clock.
        now: WallTime,
    },
    /// What was fetched is not what the vendor signed.
    #[error("{what} is refused")]
    Refused {
        /// The file.
        what: String,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// A name or a file of the vendor cannot be used.
    #[error("{what} cannot be used: {why}")]
    Unusable {
        /// The thing.
        what: String,
        /// Why.
        why: String,
    },
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

/// A suite whose signature, dates and index digest were checked.
#[derive(Debug)]
struct Suite {
    target: IndexTarget,
    release: Release,
    release_content: Content,
    index_content: Content,
    /// The certificates that made a good signature.
    signers: Vec<Certificate>,
}

impl Suite {
    fn is_security(&self) -> bool {
        [&self.target.release, &self.release.suite, &self.release.codename]
            .iter()
            .any(|name| name.ends_with("-security") || name.ends_with("/updates"))
    }

    fn is_called(&self, name: &str) -> bool {
        [&self.target.release, &self.release.suite, &self.release.codename].iter().any(|own| *own == name)
    }
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
            match load_suite(&all.client, target, now) {
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
        let mut found = Vec::new();
        for (number, suite) in self.suites.iter().enumerate() {
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
        let available = self.available(&request.packages)?;
        let mut picked: Vec<&Available> = Vec::new();
        for package in &request.packages {
            let newest = available
                .iter()
                .rfind(|candidate| candidate.package == *package && suites.contains(&candidate.suite));
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

/// Verifies a fetched suite: a good signature by a pinned key, a name that is the one asked for, dates around now, and
/// the index that the release file lists.
fn load_suite(client: &Client, target: IndexTarget, now: WallTime) -> Result<Suite, ImportError> {
    let name = target.release.clone();
    let refused =
        |what: &str, refusal| ImportError::Refused { what: format!("{what} of suite {name}"), refusal };
    let certificates = sources::certificates(client, &target)?;
    let in_release = read_within(&target.in_release, RELEASE_BYTES)?;
    let vendor = VendorName::new("apt").expect("a simple name");
    let signed = openpgp::verify(&in_release, &certificates, now).map_err(|unproven| match unproven {
        Unproven::SignatureInFuture { created, .. } => {
            ImportError::FromFuture { suite: name.clone(), made: created, now }
        }
        other => refused("release file", refusal_of(&vendor, other)),
    })?;
    let release = Release::parse(signed.text())
        .map_err(|error| refused("release file", Refusal::Malformed(error.to_string())))?;
    if release.date > now {
        return Err(ImportError::FromFuture { suite: name, made: release.date, now });
    }
    if let Some(valid_until) = release.valid_until.filter(|until| *until <= now) {
        return Err(ImportError::Expired { suite: name, valid_until, now });
    }
    let index_content = describe(&target.index).map_err(|error| unusable(&target.index, &error))?;
    if release.find(&target.path) != Some((index_content.sha256, index_content.size)) {
        let text = format!("the release file lists no such {}", target.path);
        return Err(refused("package index", Refusal::EvidenceMismatch(text)));
    }
    let signs = |certificate: &Certificate| {
        openpgp::verify(&in_release, std::slice::from_ref(certificate), now).is_ok()
    };
    let signers = certificates.into_iter().filter(signs).collect();
    let suite = Suite { release_content: Content::of(&in_release), target, release, index_content, signers };
    // A mirror may serve another suite's genuine file under this one's address.
    if !suite.release.suite.eq(&suite.target.release) && !suite.release.codename.eq(&suite.target.release) {
        let stated = format!("it states {} ({})", suite.release.suite, suite.release.codename);
        let refusal = Refusal::SuiteMismatch(stated);
        return Err(ImportError::Refused { what: format!("release file of suite {name}"), refusal });
    }
    Ok(suite)
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
    let Available { package, version, architecture, .. } = available;
    let patch = PatchId::new(format!("{}/{package}={version}", request.vendor));
    let patch =
        patch.map_err(|error| ImportError::Unusable { what: package.clone(), why: error.to_string() })?;
    let chain = AptChain {
        release: suite.release_content,
        packages: suite.index_content,
        packages_path: suite.target.path.clone(),
        suite: suite.release.suite.clone(),
        codename: suite.release.codename.clone(),
    };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    Ok(Manifest {
        schema: SCHEMA,
        patch,
        title: shortened(&format!("{package} {version}: {}", available.title)),
        kind: if available.security { Kind::Security } else { Kind::Update },
        severity: Severity::Unknown,
        cves: Vec::new(),
        published: None,
        targets: vec![target_of(&request.system, architecture)],
        detection: Detection::DebianPackage {
            package: package.clone(),
            architecture: architecture.clone(),
            version: version.clone(),
        },
        requires: Vec::new(),
        supersedes: Vec::new(),
        artifacts: vec![Artifact { name: name.to_owned(), content, evidence: Evidence::Apt(chain) }],
        installer: Installer::Dpkg,
        reboot: Reboot::Never,
    })
}

/// What a package of that architecture is for, on machines like `system`.
pub(super) fn target_of(system: &System, architecture: &str) -> Target {
    Target {
        family: system.family,
        distribution: system.distribution.clone(),
        release: system.release.clone(),
        architecture: (architecture != "all").then(|| architecture.to_owned()),
    }
}

/// `text` cut to what a title may have.
pub(super) fn shortened(text: &str) -> String {
    let end = (0..=text.len().min(TEXT_BYTES)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

fn read_within(path: &Path, limit: usize) -> Result<Vec<u8>, ImportError> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| unusable(path, &error))?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|error| unusable(path, &error))?;
    if bytes.len() > limit {
        let refusal = Refusal::TooLarge(format!("more than {limit} bytes"));
        return Err(ImportError::Refused { what: path.display().to_string(), refusal });
    }
    Ok(bytes)
}

fn unusable(path: &Path, why: &impl std::fmt::Display) -> ImportError {
    ImportError::Unusable { what: path.display().to_string(), why: why.to_string() }
}
