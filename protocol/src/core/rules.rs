//! What the trusted metadata says, read once when it is accepted: rules for everything else in the core.

use super::input::Named;
use crate::digest::Blake3Root;
use crate::fleet::{self, Malformed, Revoked, Services, Sites, Vendors, parse_toml};
use crate::identifier::{DeviceId, FleetId, ManifestDigest, SiteName};
use crate::manifest::{Artifact, Catalogue, Evidence, Invalid, Manifest};
use crate::membership::{Member, Verifier};
use crate::policy::caps::Caps;
use crate::policy::{self, Effective, Holds, Inconsistent, Layer};
use crate::share::Part;
use crate::trust::{Trusted, catalogue_path};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How the catalogues are chosen that a node reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Catalogues {
    /// Those of the node's own operating system.
    Own,
    /// All: a seed serves every operating system.
    All,
}

/// Signed files that do not say what they should: whoever signed them made a mistake, and what was in force stays.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A file of `fleet/` or `hold/`.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The policy.
    #[error("policy is inconsistent: {0}")]
    Policy(#[from] Inconsistent),
    /// A catalogue.
    #[error("{path}: {cause}")]
    Catalogue {
        /// Its target path.
        path: String,
        /// What is wrong.
        cause: Invalid,
    },
}

/// The trusted metadata in the form that decisions need.
#[derive(Debug)]
pub struct Rules {
    pub vendors: Arc<Vendors>,
    pub services: Services,
    pub effective: Effective,
    pub catalogues: Vec<Catalogue>,
    pub verifier: Verifier,
    revoked: Revoked,
    sites: Sites,
    layer: Layer,
    holds: Holds,
    manifests: BTreeMap<ManifestDigest, Arc<Manifest>>,
    named_by: BTreeMap<Blake3Root, Vec<ManifestDigest>>,
}

impl Rules {
    /// Reads the files of `trusted`. Before the first services file arrives, `bootstrap` stands in for it.
    ///
    /// # Errors
    /// [`Unreadable`] with the first file that is wrong; nothing of `trusted` is in force then.
    pub fn read(
        trusted: &Trusted,
        fleet: FleetId,
        bootstrap: &Services,
        member: &Member,
        which: Catalogues,
    ) -> Result<Rules, Unreadable> {
        let vendors: Vendors = read_toml(trusted, fleet::VENDORS_PATH)?.unwrap_or_default();
        let services: Services =
            read_toml(trusted, fleet::SERVICES_PATH)?.unwrap_or_else(|| bootstrap.clone());
        let sites: Sites = read_toml(trusted, fleet::SITES_PATH)?.unwrap_or_default();
        let holds: Holds = read_toml(trusted, policy::HOLDS_PATH)?.unwrap_or_default();
        let revoked: Revoked = match trusted.target(fleet::REVOKED_PATH) {
            Some(bytes) => {
                serde_json::from_slice(bytes).map_err(|error| Malformed::new(fleet::REVOKED_PATH, error))?
            }
            None => Revoked::default(),
        };
        let layer = match trusted.target(policy::FLEET_LAYER_PATH) {
            Some(bytes) => Layer::parse(policy::FLEET_LAYER_PATH, bytes)?,
            None => Layer::default(),
        };
        let catalogues = read_catalogues(trusted, &vendors, member, which)?;
        let manifests: BTreeMap<ManifestDigest, Arc<Manifest>> = catalogues
            .iter()
            .flat_map(|catalogue| &catalogue.manifests)
            .map(|manifest| (manifest.digest(), Arc::new(manifest.clone())))
            .collect();
        let mut named_by: BTreeMap<Blake3Root, Vec<ManifestDigest>> = BTreeMap::new();
        for (digest, manifest) in &manifests {
            for content in manifest.contents() {
                named_by.entry(content.root).or_default().push(*digest);
            }
        }
        let effective = Effective::of(&layer, &holds, member);
        let verifier = Verifier::new(fleet, &services, &revoked);
        let vendors = Arc::new(vendors);
        Ok(Rules {
            vendors,
            services,
            effective,
            catalogues,
            verifier,
            revoked,
            sites,
            layer,
            holds,
            manifests,
            named_by,
        })
    }

    /// The policy of another member.
    pub fn effective_for(&self, member: &Member) -> Effective {
        Effective::of(&self.layer, &self.holds, member)
    }

    /// The caps that apply to a site as a whole.
    pub fn caps_of_site<'a>(&'a self, site: &'a SiteName) -> impl Iterator<Item = &'a Caps> {
        self.layer.caps_of_site(site)
    }

    /// Whether `device` was revoked.
    pub fn is_revoked(&self, device: DeviceId) -> bool {
        self.revoked.contains(device)
    }

    /// Addresses that the organisation wrote down for a site.
    pub fn site_addresses(&self, name: &SiteName) -> &[String] {
        let site = self.sites.sites.iter().find(|site| site.name == *name);
        site.map_or(&[], |site| site.addresses.as_slice())
    }

    /// The manifest of that digest, if a catalogue lists it.
    pub fn manifest(&self, digest: ManifestDigest) -> Option<&Arc<Manifest>> {
        self.manifests.get(&digest)
    }

    /// Every manifest of the catalogues.
    pub fn manifests(&self) -> impl Iterator<Item = (ManifestDigest, &Arc<Manifest>)> {
        self.manifests.iter().map(|(digest, manifest)| (*digest, manifest))
    }

    /// The manifests that name a content, and what it is to each.
    pub fn named_by(&self, root: Blake3Root) -> impl Iterator<Item = (ManifestDigest, &Arc<Manifest>, Part)> {
        self.named_by.get(&root).into_iter().flatten().filter_map(move |digest| {
            let manifest = self.manifests.get(digest)?;
            let part = if artifact_of(manifest, root).is_some() { Part::Artifact } else { Part::Evidence };
            Some((*digest, manifest, part))
        })
    }
}

/// The artifact of `manifest` with this root.
pub fn artifact_of(manifest: &Manifest, root: Blake3Root) -> Option<&Artifact> {
    manifest.artifacts.iter().find(|artifact| artifact.content.root == root)
}

/// The files that prove the artifacts of a manifest, each once.
pub fn evidence_of(digest: ManifestDigest, manifest: &Manifest) -> Vec<Named> {
    let mut contents: Vec<Named> = Vec::new();
    for artifact in &manifest.artifacts {
        let Evidence::Apt(chain) = &artifact.evidence else { continue };
        for content in [chain.release, chain.packages] {
            if contents.iter().all(|named| named.content != content) {
                contents.push(Named { content, manifest: digest });
            }
        }
    }
    contents
}

fn read_toml<T: serde::de::DeserializeOwned>(trusted: &Trusted, path: &str) -> Result<Option<T>, Malformed> {
    trusted.target(path).map(|bytes| parse_toml(path, bytes)).transpose()
}

fn read_catalogues(
    trusted: &Trusted,
    vendors: &Vendors,
    member: &Member,
    which: Catalogues,
) -> Result<Vec<Catalogue>, Unreadable> {
    let paths: Vec<String> = match which {
        Catalogues::Own => {
            vendors.vendors.iter().map(|vendor| catalogue_path(&vendor.name, &member.system)).collect()
        }
        Catalogues::All => {
            trusted.target_paths().filter(|path| path.starts_with("catalogue/")).map(str::to_owned).collect()
        }
    };
    let mut catalogues = Vec::new();
    for path in paths {
        let Some(bytes) = trusted.target(&path) else { continue };
        let catalogue =
            Catalogue::parse(bytes).map_err(|cause| Unreadable::Catalogue { path: path.clone(), cause })?;
        if !path.starts_with(&format!("catalogue/{}/", catalogue.vendor)) {
            return Err(Malformed::new(&path, "it is the catalogue of another vendor").into());
        }
        catalogues.push(catalogue);
    }
    Ok(catalogues)
}
