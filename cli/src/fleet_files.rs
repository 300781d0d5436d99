//! The files of the fleet directory that the administrator's commands read and change: policy, catalogues, vendors, content.
//!
//! A change is staged in the fleet directory first and reaches the fleet with `fleet publish`.

use anyhow::{Context as _, Result};
use node::disk;
use node::fleet_directory::{FleetDirectory, Lock};
use protocol::fleet::{self, KeyMaterial, VENDORS_PATH, Vendor, VendorKey, Vendors};
use protocol::identifier::{PatchId, VendorName};
use protocol::manifest::{Catalogue, Content, Manifest, SCHEMA};
use protocol::policy::{FLEET_LAYER_PATH, HOLDS_PATH, Holds, Layer};
use protocol::system::System;
use protocol::trust::catalogue_path;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

/// Directory of the content files, each under its BLAKE3 root, that the next `fleet publish` hands to the seed.
const CONTENT: &str = "content";

/// The administrator's fleet directory.
#[derive(Clone, Debug)]
pub struct FleetFiles {
    fleet: FleetDirectory,
}

/// What an import changed in a catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// Patches that are new.
    pub added: usize,
    /// Patches whose manifest changed; an approval of the old one does not count any more.
    pub changed: usize,
    /// Patches that are as they were.
    pub unchanged: usize,
}

impl FleetFiles {
    /// The directory, which `fleet init` made.
    pub fn open(directory: &Path) -> Result<FleetFiles> {
        Ok(FleetFiles { fleet: FleetDirectory::open(directory)? })
    }

    /// The fleet directory itself.
    pub fn fleet(&self) -> &FleetDirectory {
        &self.fleet
    }

    /// Keeps other commands from changing the directory, from before the first read to after the last write. What changes one file
    /// in one call locks by itself.
    pub fn lock(&self) -> Result<Lock> {
        Ok(self.fleet.lock()?)
    }

    /// The policy layer of the whole fleet with its text; empty where none was written yet.
    pub fn layer(&self) -> Result<(Layer, String)> {
        let bytes = self.fleet.staged(FLEET_LAYER_PATH)?.unwrap_or_default();
        let layer = Layer::parse(FLEET_LAYER_PATH, &bytes)?;
        Ok((layer, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Replaces the policy layer of the whole fleet, read as `before`, once the new one has passed the check.
    pub fn write_layer(&self, before: &str, text: &str) -> Result<()> {
        self.replace(FLEET_LAYER_PATH, before, text)
    }

    /// The holds with their text, those that were released too.
    pub fn holds(&self) -> Result<(Holds, String)> {
        let bytes = self.fleet.staged(HOLDS_PATH)?.unwrap_or_default();
        let holds = fleet::parse_toml(HOLDS_PATH, &bytes)?;
        Ok((holds, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Replaces the list of holds, read as `before`, once the new one has passed the check.
    pub fn write_holds(&self, before: &str, text: &str) -> Result<()> {
        self.replace(HOLDS_PATH, before, text)
    }

    /// The lock keeps commands apart; an editor that saves meanwhile is noticed here.
    fn replace(&self, path: &str, before: &str, text: &str) -> Result<()> {
        let found = self.fleet.staged(path)?.unwrap_or_default();
        if String::from_utf8_lossy(&found) != before {
            let place = self.fleet.staged_path(path);
            anyhow::bail!(
                "{} was changed by something else just now; nothing is written, run it again",
                place.display()
            );
        }
        Ok(self.fleet.stage(path, text.as_bytes())?)
    }

    /// Every manifest of every catalogue, by patch: one for each operating system and architecture that it was imported for.
    pub fn manifests(&self) -> Result<BTreeMap<PatchId, Vec<Manifest>>> {
        let mut manifests: BTreeMap<PatchId, Vec<Manifest>> = BTreeMap::new();
        for (path, bytes) in self.fleet.all_staged()? {
            if path.starts_with("catalogue/") {
                let catalogue = Catalogue::parse(&bytes).with_context(|| format!("{path} is not usable"))?;
                for manifest in catalogue.manifests {
                    let of_patch = manifests.entry(manifest.patch.clone()).or_default();
                    // A file for several systems stands in the catalogue of each.
                    if !of_patch.contains(&manifest) {
                        of_patch.push(manifest);
                    }
                }
            }
        }
        Ok(manifests)
    }

    /// Adds manifests to the catalogues of their vendors for `system`, or for the architecture that a manifest names; one with
    /// the name of an older one takes its place there.
    pub fn merge(&self, manifests: Vec<Manifest>, system: &System) -> Result<Merged> {
        let _lock = self.lock()?;
        let mut merged = Merged::default();
        let mut catalogues: BTreeMap<(VendorName, String), Vec<Manifest>> = BTreeMap::new();
        for manifest in manifests {
            let vendor = manifest.patch.vendor();
            let named = manifest.targets.iter().find_map(|target| target.architecture.clone());
            let architecture = named.unwrap_or_else(|| system.architecture.clone());
            let path = catalogue_path(&vendor, &System { architecture, ..system.clone() });
            catalogues.entry((vendor, path)).or_default().push(manifest);
        }
        for ((vendor, path), new) in catalogues {
            let mut catalogue = match self.fleet.staged(&path)? {
                Some(bytes) => Catalogue::parse(&bytes).with_context(|| format!("{path} is not usable"))?,
                None => Catalogue { schema: SCHEMA, vendor, manifests: Vec::new() },
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
            self.fleet.stage(&path, &catalogue.to_bytes())?;
        }
        Ok(merged)
    }

    /// The vendors whose signatures the fleet accepts.
    pub fn vendors(&self) -> Result<Vendors> {
        match self.fleet.staged(VENDORS_PATH)? {
            Some(bytes) => Ok(fleet::parse_toml(VENDORS_PATH, &bytes)?),
            None => Ok(Vendors::default()),
        }
    }

    /// Makes the fleet accept a vendor and its keys, those of an OpenPGP certificate for further suites, too. Returns
    /// whether something is new.
    pub fn trust(&self, vendor: &Vendor) -> Result<bool> {
        let _lock = self.lock()?;
        let mut vendors = self.vendors()?;
        let before = vendors.clone();
        match vendors.vendors.iter_mut().find(|known| known.name == vendor.name) {
            Some(known) => vendor.keys.iter().for_each(|key| add_key(&mut known.keys, key)),
            None => vendors.vendors.push(vendor.clone()),
        }
        if vendors == before {
            return Ok(false);
        }
        self.fleet.stage(VENDORS_PATH, &fleet::to_toml(&vendors))?;
        Ok(true)
    }

    /// Where content files lie until `fleet publish` hands them to the seed.
    pub fn content_directory(&self) -> PathBuf {
        self.fleet.directory().join(CONTENT)
    }

    /// Copies a file of content under its root, unless it is there already with these bytes.
    pub fn add_content(&self, content: Content, from: &Path) -> Result<()> {
        let target = self.content_directory().join(content.root.to_string());
        let is_there = std::fs::metadata(&target).is_ok_and(|metadata| metadata.len() == content.size);
        if is_there && has_same_bytes(&target, from).unwrap_or(false) {
            return Ok(());
        }
        let directory = self.content_directory();
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        disk::replace_by_copy(&target, from)
            .with_context(|| format!("cannot copy {} to {}", from.display(), target.display()))
    }
}

/// A medium that is away for years may change what lies on it.
fn has_same_bytes(one: &Path, other: &Path) -> std::io::Result<bool> {
    let open = |path: &Path| Ok::<_, std::io::Error>(BufReader::new(File::open(path)?));
    let (mut one, mut other) = (open(one)?, open(other)?);
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if left[..length] != right[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(left.len() == right.len());
        }
        one.consume(length);
        other.consume(length);
    }
}

/// Adds a key, or the suites of one that is known.
fn add_key(known: &mut Vec<VendorKey>, new: &VendorKey) {
    if let KeyMaterial::OpenPgp { certificate, suites } = &new.material {
        let same = known.iter_mut().find_map(|key| match &mut key.material {
            KeyMaterial::OpenPgp { certificate: old, suites } if old == certificate => Some(suites),
            _ => None,
        });
        if let Some(old) = same {
            let missing: Vec<String> = suites.iter().filter(|suite| !old.contains(suite)).cloned().collect();
            old.extend(missing);
            return;
        }
    }
    if !known.iter().any(|key| key.material == new.material) {
        known.push(new.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors_content_and_policy_are_staged() {
        let directory = tempfile::tempdir().expect("directory");
        let files = crate::command::tests::fleet(directory.path());
        let acme = VendorName::new("acme").expect("vendor");
        let vendor = |suite: &str| {
            let material =
                KeyMaterial::OpenPgp { certificate: "c".to_owned(), suites: vec![suite.to_owned()] };
            let key = VendorKey { valid_from: None, valid_until: None, revoked: false, material };
            Vendor { name: acme.clone(), keys: vec![key] }
        };
        assert!(files.trust(&vendor("stable")).expect("trust"));
        assert!(!files.trust(&vendor("stable")).expect("trust"));
        assert!(files.trust(&vendor("security")).expect("trust"));
        let vendors = files.vendors().expect("vendors").vendors;
        assert_eq!((vendors.len(), vendors[0].keys.len()), (1, 1));
        let from = directory.path().join("file");
        std::fs::write(&from, "bytes").expect("write");
        let content = Content::of(b"bytes");
        files.add_content(content, &from).expect("copy");
        files.add_content(content, &from).expect("copy");
        let copied = files.content_directory().join(content.root.to_string());
        assert_eq!(std::fs::read(&copied).expect("copied"), b"bytes");
        std::fs::write(&copied, "bytez").expect("the medium rots");
        files.add_content(content, &from).expect("copy");
        assert_eq!(std::fs::read(&copied).expect("mended"), b"bytes");
        let (_, before) = files.layer().expect("layer");
        assert!(files.write_layer(&before, "[[policy]]\n").is_err());
        let edited =
            files.write_layer("as it was before an editor saved", "").expect_err("changed meanwhile");
        assert!(edited.to_string().contains("run it again"), "{edited}");
        assert!(files.layer().expect("as before").0.policies.is_empty());
        assert!(FleetFiles::open(&directory.path().join("gone")).is_err());
    }
}
