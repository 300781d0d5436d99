//! What one patch is, and the catalogue that lists the patches of one vendor for one operating system.

use crate::codec::canonical_json;
use crate::digest::{Blake3Root, Sha256};
use crate::identifier::{Cve, ManifestDigest, PatchId, VendorName};
use crate::limits;
use crate::signature::{PublicKey, Signature};
use crate::system::{System, Target};
use crate::text;
use crate::time::WallTime;
use crate::version::DebianVersion;
use serde::{Deserialize, Serialize};

/// Version of the manifest and catalogue format that this build writes and reads.
pub const SCHEMA: u32 = 1;

/// What identifies one file of content: the same bytes under two digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// BLAKE3 root, the identity under which peers share it.
    pub root: Blake3Root,
    /// SHA-256, the digest that vendors sign.
    pub sha256: Sha256,
    /// Size in bytes.
    pub size: u64,
}

impl Content {
    /// Describes `bytes`.
    pub fn of(bytes: &[u8]) -> Content {
        Content { root: Blake3Root::of(bytes), sha256: Sha256::of(bytes), size: bytes.len() as u64 }
    }
}

/// One file of a patch: what it is and who says that the vendor made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// File name for people and for installers that want one; no path separators.
    pub name: String,
    /// Identity of the bytes.
    pub content: Content,
    /// The vendor's signature.
    pub evidence: Evidence,
}

/// Evidence that the vendor signed an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Evidence {
    /// The vendor did not sign it. Never shared; refused unless policy says `direct-only`.
    None {},
    /// A detached ed25519 signature over the artifact's SHA-256.
    Ed25519 {
        /// The vendor's key, which `fleet/vendors.toml` must list.
        key: PublicKey,
        /// Signature for [`crate::signature::Purpose::Artifact`] over the 32 bytes of the SHA-256.
        signature: Signature,
    },
    /// The APT chain: a clear-signed `InRelease`, the `Packages` index that it lists, the package that the index lists.
    Apt(AptChain),
}

impl Evidence {
    /// Its name for lists: `none`, `ed25519` or `apt`.
    pub const fn code(&self) -> &'static str {
        match self {
            Evidence::None {} => "none",
            Evidence::Ed25519 { .. } => "ed25519",
            Evidence::Apt(_) => "apt",
        }
    }
}

/// Where in a signed APT suite a package stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AptChain {
    /// The clear-signed release file.
    pub release: Content,
    /// The index, as compressed as the vendor serves it.
    pub packages: Content,
    /// Path of the index inside the release file, for example `main/binary-amd64/Packages.xz`.
    pub packages_path: String,
    /// `Suite` that the release file must state.
    pub suite: String,
    /// `Codename` that the release file must state.
    pub codename: String,
}

/// What kind of patch it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Mends a security hole.
    Security,
    /// Mends something else.
    Update,
    /// A collection of earlier patches.
    ServicePack,
}

/// The vendor's severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The vendor gives none.
    Unknown,
    /// Low.
    Low,
    /// Moderate.
    Moderate,
    /// Important.
    Important,
    /// Critical.
    Critical,
}

/// How a scan tells whether the patch is applicable, missing or installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Detection {
    /// Applicable where the package is installed; installed where its version is at least this one.
    DebianPackage {
        /// Package name.
        package: String,
        /// Package architecture (`amd64`, `all`).
        architecture: String,
        /// The version that brings the patch.
        version: DebianVersion,
    },
}

/// Which installer takes the artifacts, with enumerated options only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Installer {
    /// `dpkg -i`.
    Dpkg,
}

/// Whether the patch needs a restart of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reboot {
    /// No restart.
    Never,
    /// Takes effect at the next restart.
    Needed,
    /// Restarts the machine by itself.
    Forced,
}

/// One patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Manifest {
    /// Format version, [`SCHEMA`].
    pub schema: u32,
    /// Identity.
    pub patch: PatchId,
    /// One line for people.
    pub title: String,
    /// Kind.
    pub kind: Kind,
    /// The vendor's severity.
    pub severity: Severity,
    /// CVEs that it mends.
    pub cves: Vec<Cve>,
    /// When the vendor published it, as far as known.
    pub published: Option<WallTime>,
    /// Operating systems that it is for.
    pub targets: Vec<Target>,
    /// How to detect it.
    pub detection: Detection,
    /// Patches that must be installed before.
    pub requires: Vec<PatchId>,
    /// Patches that it replaces.
    pub supersedes: Vec<PatchId>,
    /// Files to install, in order.
    pub artifacts: Vec<Artifact>,
    /// How to install them.
    pub installer: Installer,
    /// Restart.
    pub reboot: Reboot,
}

/// A manifest or a catalogue that breaks a rule of the format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not the JSON of a catalogue.
    #[error("not a catalogue: {0}")]
    Json(String),
    /// A format version that this build does not read.
    #[error("catalogue format {0} is not supported; update patchmesh")]
    Schema(u32),
    /// A manifest breaks a rule.
    #[error("manifest of {patch}: {rule}")]
    Manifest {
        /// The patch.
        patch: PatchId,
        /// The rule, as a sentence part.
        rule: &'static str,
    },
    /// Two manifests of one patch.
    #[error("patch {0} is listed twice")]
    Twice(PatchId),
    /// More manifests than allowed.
    #[error("{0} manifests are more than the limit")]
    TooMany(usize),
}

impl Manifest {
    /// SHA-256 of the canonical JSON: what an approval binds.
    pub fn digest(&self) -> ManifestDigest {
        let json = canonical_json(self).expect("a manifest has no fractions");
        ManifestDigest::from_bytes(*Sha256::of(&json).as_bytes())
    }

    /// Whether it is for this operating system and architecture.
    pub fn is_for(&self, system: &System) -> bool {
        self.targets.iter().any(|target| target.matches(system))
    }

    /// Every file that travels for this patch: artifacts and the evidence that is itself large, each once.
    pub fn contents(&self) -> Vec<Content> {
        let mut contents = Vec::new();
        for artifact in &self.artifacts {
            if let Evidence::Apt(chain) = &artifact.evidence {
                contents.extend([chain.release, chain.packages]);
            }
            contents.push(artifact.content);
        }
        contents.sort();
        contents.dedup();
        contents
    }

    /// Total size of the artifacts in bytes, without evidence.
    pub fn size(&self) -> u64 {
        self.artifacts.iter().map(|artifact| artifact.content.size).sum()
    }

    /// Name of the weakest evidence among the artifacts: one that is unsigned makes the whole patch unsigned.
    pub fn weakest_evidence(&self) -> &'static str {
        let strength = |evidence: &&Evidence| match evidence {
            Evidence::None {} => 0,
            Evidence::Ed25519 { .. } => 1,
            Evidence::Apt(_) => 2,
        };
        let weakest = self.artifacts.iter().map(|artifact| &artifact.evidence).min_by_key(strength);
        weakest.map_or("none", Evidence::code)
    }

    /// Checks the rules that the types cannot state.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn check(&self) -> Result<(), Invalid> {
        let lists = [self.cves.len(), self.targets.len(), self.requires.len(), self.supersedes.len()];
        let names_hold = self.artifacts.iter().all(|artifact| {
            let name = &artifact.name;
            !name.is_empty()
                && name.len() <= limits::NAME_BYTES
                && !name.starts_with(['.', '-'])
                && is_file_name(name)
        });
        let rules = [
            (self.schema == SCHEMA, "has a format version that this build does not read"),
            (!self.artifacts.is_empty(), "names no artifact"),
            (self.artifacts.len() <= limits::ARTIFACTS_PER_MANIFEST, "names too many artifacts"),
            (lists.into_iter().all(|length| length <= limits::LIST_ENTRIES), "has a list that is too long"),
            (!self.targets.is_empty(), "names no operating system"),
            (self.title.len() <= limits::TEXT_BYTES, "has a title that is too long"),
            (text::is_plain(&self.title), "has a title with control characters or turned directions"),
            (self.targets.iter().all(is_plain_target), "names an operating system that is not plain text"),
            (names_hold, "has an artifact with a file name that is not plain"),
            (
                self.contents().iter().all(|content| content.size <= limits::ARTIFACT_BYTES),
                "has too large an artifact",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Invalid::Manifest { patch: self.patch.clone(), rule }),
            None => Ok(()),
        }
    }
}

fn is_plain_target(target: &Target) -> bool {
    [Some(&target.distribution), Some(&target.release), target.architecture.as_ref()]
        .into_iter()
        .flatten()
        .all(|word| text::is_plain(word))
}

fn is_file_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\\"'".contains(&byte))
}

/// The patches of one vendor for one operating system; the target `catalogue/<vendor>/<os>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Catalogue {
    /// Format version, [`SCHEMA`].
    pub schema: u32,
    /// The vendor.
    pub vendor: VendorName,
    /// The patches.
    pub manifests: Vec<Manifest>,
}

impl Catalogue {
    /// Reads a catalogue from the bytes of its target file and checks every manifest.
    ///
    /// # Errors
    /// [`Invalid`]; one bad manifest refuses the whole catalogue, since its signer made a mistake.
    pub fn parse(bytes: &[u8]) -> Result<Catalogue, Invalid> {
        let catalogue: Catalogue =
            serde_json::from_slice(bytes).map_err(|error| Invalid::Json(error.to_string()))?;
        if catalogue.schema != SCHEMA {
            return Err(Invalid::Schema(catalogue.schema));
        }
        if catalogue.manifests.len() > limits::MANIFESTS_PER_CATALOGUE {
            return Err(Invalid::TooMany(catalogue.manifests.len()));
        }
        let mut seen = std::collections::BTreeSet::new();
        for manifest in &catalogue.manifests {
            manifest.check()?;
            if manifest.patch.vendor() != catalogue.vendor {
                let rule = "belongs to another vendor's catalogue";
                return Err(Invalid::Manifest { patch: manifest.patch.clone(), rule });
            }
            if !seen.insert(&manifest.patch) {
                return Err(Invalid::Twice(manifest.patch.clone()));
            }
        }
        Ok(catalogue)
    }

    /// The bytes of the target file: indented JSON, so that a person can read the difference of two versions.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a catalogue serialises into memory")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::system::Family;

    pub(crate) fn example(name: &str) -> Manifest {
        Manifest {
            schema: SCHEMA,
            patch: PatchId::new(format!("debian/{name}=1.0-2")).expect("patch"),
            title: name.to_owned(),
            kind: Kind::Security,
            severity: Severity::Important,
            cves: vec![Cve::new("CVE-2026-1234").expect("CVE")],
            published: None,
            targets: vec![Target {
                family: Family::Linux,
                distribution: "debian".to_owned(),
                release: "12".to_owned(),
                architecture: Some("amd64".to_owned()),
            }],
            detection: Detection::DebianPackage {
                package: name.to_owned(),
                architecture: "amd64".to_owned(),
                version: DebianVersion::new("1.0-2").expect("version"),
            },
            requires: Vec::new(),
            supersedes: Vec::new(),
            artifacts: vec![Artifact {
                name: format!("{name}_1.0-2_amd64.deb"),
                content: Content::of(name.as_bytes()),
                evidence: Evidence::None {},
            }],
            installer: Installer::Dpkg,
            reboot: Reboot::Never,
        }
    }

    fn catalogue(manifests: Vec<Manifest>) -> Catalogue {
        Catalogue { schema: SCHEMA, vendor: VendorName::new("debian").expect("vendor"), manifests }
    }

    #[test]
    fn catalogue_round_trips() {
        let catalogue = catalogue(vec![example("libone"), example("libtwo")]);
        assert_eq!(Catalogue::parse(&catalogue.to_bytes()), Ok(catalogue));
    }

    #[test]
    fn broken_rules_are_named() {
        let twice = catalogue(vec![example("libone"), example("libone")]);
        assert!(matches!(Catalogue::parse(&twice.to_bytes()), Err(Invalid::Twice(_))));
        let mut path = example("libone");
        path.artifacts[0].name = "../../etc/passwd".to_owned();
        assert!(matches!(Catalogue::parse(&catalogue(vec![path]).to_bytes()), Err(Invalid::Manifest { .. })));
        for title in ["good\u{1b}[1A", "two\nlines", "txt\u{202e}exe"] {
            let steering = Manifest { title: title.to_owned(), ..example("libone") };
            assert!(Catalogue::parse(&catalogue(vec![steering]).to_bytes()).is_err(), "{title:?}");
        }
        let mut system = example("libone");
        system.targets[0].release = "12\u{9b}2J".to_owned();
        assert!(Catalogue::parse(&catalogue(vec![system]).to_bytes()).is_err());
        let mut foreign = catalogue(vec![example("libone")]);
        foreign.vendor = VendorName::new("acme").expect("vendor");
        assert!(Catalogue::parse(&foreign.to_bytes()).is_err());
        assert!(matches!(Catalogue::parse(b"{"), Err(Invalid::Json(_))));
        let unknown = String::from_utf8(catalogue(vec![example("libone")]).to_bytes())
            .expect("text")
            .replace("\"title\"", "\"titel\"");
        assert!(Catalogue::parse(unknown.as_bytes()).is_err());
    }

    // proves N8
    #[test]
    fn one_unsigned_artifact_makes_a_patch_unsigned() {
        let mut manifest = example("libone");
        let content = manifest.artifacts[0].content;
        let chain = AptChain {
            release: content,
            packages: content,
            packages_path: "main/binary-amd64/Packages.xz".to_owned(),
            suite: "stable-security".to_owned(),
            codename: "bookworm-security".to_owned(),
        };
        manifest.artifacts[0].evidence = Evidence::Apt(chain);
        assert_eq!(manifest.weakest_evidence(), "apt");
        manifest.artifacts.extend(example("libtwo").artifacts);
        assert_eq!(manifest.weakest_evidence(), "none");
    }

    #[test]
    fn a_changed_manifest_has_another_digest() {
        let manifest = example("libone");
        let changed = Manifest { severity: Severity::Low, ..manifest.clone() };
        assert_ne!(manifest.digest(), changed.digest());
    }
}
