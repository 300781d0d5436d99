//! The files of the fleet directory that the administrator's commands read and change: policy, catalogues, vendors, content.
//!
//! Each lies under the path of its target. A change is in the file first and reaches the fleet with `fleet publish`.

use anyhow::{Context as _, Result, bail};
use protocol::fleet::{self, KeyMaterial, VENDORS_PATH, Vendor, VendorKey, Vendors};
use protocol::identifier::{PatchId, VendorName};
use protocol::manifest::{Catalogue, Content, Manifest, SCHEMA};
use protocol::policy::{Approval, FLEET_LAYER_PATH, Layer};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Directory of the content files, each under its BLAKE3 root, that the next `fleet publish` hands to the seed.
const CONTENT: &str = "content";

/// The administrator's fleet directory.
#[derive(Clone, Debug)]
pub struct FleetFiles {
    directory: PathBuf,
}

/// What an import changed in a catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Patches that are new.
    pub added: usize,
    /// Patches whose manifest changed; an approval of the old one does not count any more.
    pub changed: usize,
    /// Patches that are as they were.
    pub unchanged: usize,
}

impl FleetFiles {
    /// The directory, which must exist.
    pub fn open(directory: &Path) -> Result<FleetFiles> {
        if !directory.is_dir() {
            bail!("there is no fleet directory {}", directory.display());
        }
        Ok(FleetFiles { directory: directory.to_owned() })
    }

    /// The policy layer of the whole fleet with its text; empty where none was written yet.
    pub fn layer(&self) -> Result<(Layer, String)> {
        let path = self.directory.join(FLEET_LAYER_PATH);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok((Layer::parse(FLEET_LAYER_PATH, text.as_bytes())?, text))
    }

    /// Replaces the policy layer of the whole fleet, once it has passed the check.
    pub fn write_layer(&self, text: &str) -> Result<()> {
        Layer::parse(FLEET_LAYER_PATH, text.as_bytes())?;
        self.write(Path::new(FLEET_LAYER_PATH), text.as_bytes())
    }

    /// Every manifest of every catalogue, by patch.
    pub fn manifests(&self) -> Result<BTreeMap<PatchId, Manifest>> {
        let mut manifests = BTreeMap::new();
        for vendor in entries(&self.directory.join("catalogue"))? {
            for file in entries(&vendor)? {
                if file.extension().is_some_and(|extension| extension == "json") {
                    let catalogue = read_catalogue(&file)?;
                    let named = catalogue.manifests.into_iter().map(|one| (one.patch.clone(), one));
                    manifests.extend(named);
                }
            }
        }
        Ok(manifests)
    }

    /// Adds manifests to the catalogues of their vendors; one with the name of an older one takes its place.
    pub fn merge(&self, manifests: Vec<Manifest>) -> Result<Merged> {
        let mut merged = Merged::default();
        let mut files: BTreeMap<PathBuf, (VendorName, Vec<Manifest>)> = BTreeMap::new();
        for manifest in manifests {
            let vendor = manifest.patch.vendor();
            let file = catalogue_path(&vendor, &manifest);
            files.entry(file).or_insert_with(|| (vendor, Vec::new())).1.push(manifest);
        }
        for (file, (vendor, new)) in files {
            let path = self.directory.join(&file);
            let mut catalogue = match path.exists() {
                true => read_catalogue(&path)?,
                false => Catalogue { schema: SCHEMA, vendor, manifests: Vec::new() },
            };
            for manifest in new {
                match catalogue.manifests.iter_mut().find(|old| old.patch == manifest.patch) {
                    Some(old) if *old == manifest => merged.unchanged += 1,
                    Some(old) => {
                        *old = manifest;
                        merged.changed += 1;
                    }
                    None => {
                        catalogue.manifests.push(manifest);
                        merged.added += 1;
                    }
                }
            }
            catalogue.manifests.sort_by(|left, right| left.patch.cmp(&right.patch));
            let bytes = catalogue.to_bytes();
            Catalogue::parse(&bytes)?;
            self.write(&file, &bytes)?;
        }
        Ok(merged)
    }

    /// The vendors whose signatures the fleet accepts.
    pub fn vendors(&self) -> Result<Vendors> {
        let path = self.directory.join(VENDORS_PATH);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(fleet::parse_toml(VENDORS_PATH, &bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vendors::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Makes the fleet accept a vendor's key. Returns whether it is new.
    pub fn trust(&self, name: &VendorName, material: KeyMaterial) -> Result<bool> {
        let mut vendors = self.vendors()?;
        if !vendors.vendors.iter().any(|vendor| vendor.name == *name) {
            vendors.vendors.push(Vendor { name: name.clone(), keys: Vec::new() });
        }
        let Some(vendor) = vendors.vendors.iter_mut().find(|vendor| vendor.name == *name) else {
            bail!("vendor {name} was not added");
        };
        if vendor.keys.iter().any(|key| key.material == material) {
            return Ok(false);
        }
        vendor.keys.push(VendorKey { valid_from: None, valid_until: None, revoked: false, material });
        self.write(Path::new(VENDORS_PATH), &fleet::to_toml(&vendors))?;
        Ok(true)
    }

    /// Where content files lie until `fleet publish` hands them to the seed.
    pub fn content_directory(&self) -> PathBuf {
        self.directory.join(CONTENT)
    }

    /// Copies a file of content under its root, unless it is there already.
    pub fn add_content(&self, content: Content, from: &Path) -> Result<()> {
        let target = self.content_directory().join(content.root.to_string());
        if std::fs::metadata(&target).is_ok_and(|metadata| metadata.len() == content.size) {
            return Ok(());
        }
        let directory = self.content_directory();
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let copy = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&directory)?;
            io::copy(&mut std::fs::File::open(from)?, &mut file)?;
            file.as_file().sync_all()?;
            file.persist(&target)?;
            std::fs::File::open(&directory)?.sync_all()
        };
        copy().with_context(|| format!("cannot copy {} to {}", from.display(), target.display()))
    }

    /// Data before record: a temporary file, fsync, rename, fsync of the directory.
    fn write(&self, target: &Path, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(target);
        let directory = path.parent().unwrap_or(&self.directory);
        let replace = || -> io::Result<()> {
            std::fs::create_dir_all(directory)?;
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            std::fs::File::open(directory)?.sync_all()
        };
        replace().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The entries of a directory in order; none when it is not there.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = match std::fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", directory.display())),
    };
    let paths: io::Result<Vec<PathBuf>> = listed.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.with_context(|| format!("cannot list {}", directory.display()))?;
    paths.sort();
    Ok(paths)
}

fn read_catalogue(path: &Path) -> Result<Catalogue> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Catalogue::parse(&bytes).with_context(|| format!("{} is not usable", path.display()))
}

/// `catalogue/<vendor>/<os>.json` of a manifest, by the first operating system that it is for.
fn catalogue_path(vendor: &VendorName, manifest: &Manifest) -> PathBuf {
    let system = manifest
        .targets
        .first()
        .map_or_else(|| "any".to_owned(), |target| format!("{}-{}", target.distribution, target.release));
    let plain = |byte: char| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, '-' | '.');
    let system: String = system.chars().map(|byte| if plain(byte) { byte } else { '-' }).collect();
    Path::new("catalogue").join(vendor.as_str()).join(format!("{system}.json"))
}

/// The text of a layer with more approvals, comments and order kept: new ones go to the end, one whose manifest
/// changed gets the new digest and time in its place.
pub fn approve(layer: &Layer, text: &str, new: &[Approval]) -> String {
    let mut wanted = layer.clone();
    let mut text = text.to_owned();
    for approval in new {
        match wanted.approvals.iter_mut().find(|old| old.patch == approval.patch) {
            Some(old) => {
                text = text.replacen(&old.manifest.to_string(), &approval.manifest.to_string(), 1);
                *old = Approval { approved: old.approved, ..approval.clone() };
            }
            None => {
                let gap = if text.is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
                let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
                let _ = write!(
                    text,
                    "{end}{gap}[[approval]]\npatch = \"{}\"\nmanifest = \"{}\"\napproved = \"{}\"\n",
                    approval.patch, approval.manifest, approval.approved
                );
                wanted.approvals.push(approval.clone());
            }
        }
    }
    let kept = Layer::parse(FLEET_LAYER_PATH, text.as_bytes()).is_ok_and(|layer| layer == wanted);
    if kept { text } else { String::from_utf8_lossy(&fleet::to_toml(&wanted)).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::identifier::ManifestDigest;
    use protocol::time::WallTime;

    fn approval(name: &str, digest: u8) -> Approval {
        Approval {
            patch: PatchId::new(name).expect("patch"),
            manifest: ManifestDigest::from_bytes([digest; 32]),
            approved: WallTime::from_unix_seconds(1_800_000_000),
        }
    }

    #[test]
    fn approvals_keep_what_a_person_wrote() {
        let text = "# ours\n[[policy]]\nname = \"all\"\nenabled = true\nassign = { everyone = true }";
        let parse = |text: &str| Layer::parse("x", text.as_bytes()).expect("layer");
        let once = approve(&parse(text), text, &[approval("debian/a=1", 1), approval("debian/b=1", 2)]);
        assert!(once.starts_with("# ours\n"), "{once}");
        assert_eq!(parse(&once).approvals.len(), 2);
        let again = approve(&parse(&once), &once, &[approval("debian/a=1", 3)]);
        assert!(again.starts_with("# ours\n"));
        let approvals = parse(&again).approvals;
        assert_eq!(approvals.len(), 2);
        assert_eq!(approvals[0].manifest, ManifestDigest::from_bytes([3; 32]));
        assert_eq!(parse(&approve(&Layer::default(), "", &[approval("debian/a=1", 1)])).approvals.len(), 1);
    }

    #[test]
    fn vendors_content_and_policy_are_replaced_in_one_step() {
        let directory = tempfile::tempdir().expect("directory");
        let files = FleetFiles::open(directory.path()).expect("open");
        let acme = VendorName::new("acme").expect("vendor");
        let key = || KeyMaterial::Ed25519 { public: protocol::signature::PublicKey::from_bytes([1; 32]) };
        assert!(files.trust(&acme, key()).expect("trust"));
        assert!(!files.trust(&acme, key()).expect("trust"));
        assert_eq!(files.vendors().expect("vendors").vendors.len(), 1);
        let from = directory.path().join("file");
        std::fs::write(&from, "bytes").expect("write");
        let content = Content::of(b"bytes");
        files.add_content(content, &from).expect("copy");
        files.add_content(content, &from).expect("copy");
        let copied = files.content_directory().join(content.root.to_string());
        assert_eq!(std::fs::read(copied).expect("copied"), b"bytes");
        assert!(files.write_layer("[[policy]]\n").is_err());
        assert_eq!(files.layer().expect("still none").1, "");
        assert!(FleetFiles::open(&directory.path().join("gone")).is_err());
    }
}
