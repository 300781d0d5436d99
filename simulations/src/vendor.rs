//! The vendor of a simulation: contents of many sizes, their signatures, and the patches made of them.

use protocol::digest::Blake3Root;
use protocol::digest::Sha256;
use protocol::identifier::{ManifestDigest, PatchId};
use protocol::manifest::{
    AptChain, Artifact, Content, Detection, Evidence, Installer, Kind, Manifest, Reboot, SCHEMA, Severity,
};
use protocol::piece::{PieceTree, TreeBuilder};
use protocol::policy::mirror::Mirror;
use protocol::signature::{Purpose, SigningKey};
use protocol::system::{Family, System, Target};
use protocol::version::DebianVersion;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Name of the vendor.
pub const VENDOR: &str = "debian";
/// What every device has before.
pub const OLD_VERSION: &str = "1.0-1";
/// What the patches bring.
pub const NEW_VERSION: &str = "1.0-2";

/// Where the vendor's files lie.
///
/// # Panics
/// Never: the address is well formed.
pub fn mirror() -> Mirror {
    format!("{VENDOR}=http://mirror.example/{VENDOR}").parse().expect("a mirror")
}

/// How the vendor vouches for a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A detached ed25519 signature in the manifest.
    Detached,
    /// A signed index that is content of its own, shared by all patches of this proof.
    Index,
    /// None: nobody may fetch, share or install it.
    Unsigned,
}

/// What the organisation thinks of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Approved by name.
    Approved,
    /// Nobody approved it.
    Unapproved,
    /// Nobody approved it yet; an administrator will while all run.
    ApprovedLater,
    /// Approved, until an operator puts it on hold while all run.
    HeldLater,
    /// On hold.
    Held,
    /// Approved, until an administrator takes the approval back while all run.
    WithdrawnLater,
    /// Its approval was taken back.
    Withdrawn,
}

/// One patch to be made.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Size of its one artifact in bytes.
    pub size: u64,
    /// Evidence.
    pub proof: Proof,
    /// Approval.
    pub standing: Standing,
    /// Whether it requires the patch before it in the list.
    pub requires_previous: bool,
}

/// One patch of the vendor.
#[derive(Clone, Debug)]
pub struct Patch {
    /// What it is.
    pub manifest: Manifest,
    /// Digest of the manifest.
    pub digest: ManifestDigest,
    /// The package it brings to its new version.
    pub package: String,
    /// How it is proven.
    pub proof: Proof,
    /// Whether it is approved.
    pub standing: Standing,
}

impl Patch {
    /// Whether devices are to have it in the end.
    pub fn is_wanted(&self) -> bool {
        self.proof != Proof::Unsigned && self.standing == Standing::Approved
    }
}

impl Patch {
    /// Whether nobody may ever have it: it is unsigned, or nobody will approve it.
    pub fn is_never_wanted(&self) -> bool {
        self.proof == Proof::Unsigned || self.standing == Standing::Unapproved
    }

    /// Whether a device that knows metadata of this version may have it.
    pub fn is_allowed(&self, version: u64) -> bool {
        let allowed = match self.standing {
            Standing::Approved | Standing::HeldLater | Standing::WithdrawnLater => true,
            Standing::Held | Standing::Withdrawn => version < 2,
            Standing::Unapproved | Standing::ApprovedLater => false,
        };
        allowed && self.proof != Proof::Unsigned
    }
}

/// Everything that the vendor published.
#[derive(Clone, Debug)]
pub struct Published {
    /// The patches.
    pub patches: Vec<Patch>,
    /// The piece lists of all contents, evidence included.
    pub trees: BTreeMap<Blake3Root, Arc<PieceTree>>,
    /// The vendor's key.
    pub key: SigningKey,
}

/// The operating system of every device.
pub fn system() -> System {
    System {
        family: Family::Linux,
        distribution: "debian".to_owned(),
        release: "12".to_owned(),
        architecture: "amd64".to_owned(),
    }
}

/// Content `number` of `size` bytes and its piece list; hashed once in the life of the process.
fn content(number: usize, size: u64) -> (Content, Arc<PieceTree>) {
    type Made = BTreeMap<(usize, u64), (Content, Arc<PieceTree>)>;
    static MADE: OnceLock<Mutex<Made>> = OnceLock::new();
    let mut made = MADE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let (content, tree) = made.entry((number, size)).or_insert_with(|| {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        blake3::Hasher::new().update(&(number as u64).to_le_bytes()).finalize_xof().fill(&mut bytes);
        let mut builder = TreeBuilder::default();
        builder.update(&bytes);
        let tree = builder.finish();
        (Content { root: tree.root(), sha256: Sha256::of(&bytes), size }, Arc::new(tree))
    });
    (*content, Arc::clone(tree))
}

/// Makes and signs the patches.
///
/// # Panics
/// Never: all names are well formed.
pub fn publish(shapes: &[Shape]) -> Published {
    let key = SigningKey::from_seed(&[200; 32]);
    let mut trees = BTreeMap::new();
    let (release, release_tree) = content(1_000, 48_000);
    let (packages, packages_tree) = content(1_001, 400_000);
    if shapes.iter().any(|shape| shape.proof == Proof::Index) {
        trees.insert(release.root, release_tree);
        trees.insert(packages.root, packages_tree);
    }
    let mut patches: Vec<Patch> = Vec::new();
    for (number, shape) in shapes.iter().enumerate() {
        let (content, tree) = content(number, shape.size);
        trees.insert(content.root, tree);
        let evidence = match shape.proof {
            Proof::Unsigned => Evidence::None {},
            Proof::Detached => Evidence::Ed25519 {
                key: key.public(),
                signature: key.sign(Purpose::Artifact, content.sha256.as_bytes()),
            },
            Proof::Index => Evidence::Apt(AptChain {
                release,
                packages,
                packages_path: "main/binary-amd64/Packages.xz".to_owned(),
                suite: "stable-security".to_owned(),
                codename: "bookworm-security".to_owned(),
            }),
        };
        let requires = if shape.requires_previous { patches.last() } else { None };
        let package = format!("lib{number}");
        let manifest = manifest(&package, content, evidence, requires);
        let digest = manifest.digest();
        patches.push(Patch { manifest, digest, package, proof: shape.proof, standing: shape.standing });
    }
    Published { patches, trees, key }
}

fn manifest(package: &str, content: Content, evidence: Evidence, requires: Option<&Patch>) -> Manifest {
    let version = DebianVersion::new(NEW_VERSION).expect("the constant is a version");
    Manifest {
        schema: SCHEMA,
        patch: PatchId::new(format!("{VENDOR}/{package}={NEW_VERSION}")).expect("the parts are plain"),
        title: package.to_owned(),
        kind: Kind::Security,
        severity: Severity::Important,
        cves: Vec::new(),
        published: None,
        targets: vec![Target {
            family: Family::Linux,
            distribution: "debian".to_owned(),
            release: "12".to_owned(),
            architecture: Some("amd64".to_owned()),
        }],
        detection: Detection::DebianPackage {
            package: package.to_owned(),
            architecture: "amd64".to_owned(),
            version,
        },
        requires: requires.map(|patch| patch.manifest.patch.clone()).into_iter().collect(),
        supersedes: Vec::new(),
        artifacts: vec![Artifact { name: format!("{package}.deb"), content, evidence }],
        installer: Installer::Dpkg,
        reboot: Reboot::Never,
    }
}
