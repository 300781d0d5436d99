//! The members that are connected, and the contents that pass between them.

use super::status::Bytes;
use crate::conditions::Medium;
use crate::core::Core;
use crate::core::rules::artifact_of;
use crate::digest::Blake3Root;
use crate::identifier::{DeviceId, HostName, PatchId, SiteName};
use crate::manifest::{Content, Evidence, Manifest};
use crate::reason::Reason;
use crate::report::{self, Source};
use crate::system::System;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One member that this node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The device.
    pub device: DeviceId,
    /// Its host name.
    pub host: HostName,
    /// Its site.
    pub site: SiteName,
    /// Its operating system.
    pub system: System,
    /// `seed`, `registrar`, `aggregator`; empty for an endpoint.
    pub roles: Vec<String>,
    /// Multiaddress of the connection, or the one to try.
    pub address: Option<String>,
    /// Rung of the discovery ladder: `mdns`, `remembered`, `tracker`, `referred`, `sites`, `incoming`.
    pub discovered: String,
    /// `air` when it says that its bytes pass through the air; otherwise `cable`, and empty for who is no neighbour.
    #[serde(default)]
    pub medium: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// Bytes of pieces to and from it.
    pub pieces: Bytes,
    /// All bytes to and from it.
    pub raw: Bytes,
}

/// How far one content has come on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The content.
    pub root: Blake3Root,
    /// `artifact` for what is installed, `evidence` for what proves it.
    pub kind: String,
    /// The patch, when it is an artifact.
    pub patch: Option<PatchId>,
    /// File name, for people.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Pieces held.
    pub pieces_held: u32,
    /// Pieces in all.
    pub pieces_total: u32,
    /// Whether it passed the full check.
    pub verified: bool,
    /// Bytes of its pieces received over the WAN, duplicates and refused pieces included.
    pub wan_bytes: u64,
    /// The same by the reason for which each came over the WAN.
    pub wan_reasons: BTreeMap<Reason, u64>,
    /// Bytes of its pieces received from members of the site, duplicates and refused pieces included.
    pub lan_bytes: u64,
    /// Bytes of its pieces sent to others.
    pub served_bytes: u64,
}

impl Core {
    /// How many devices were heard on the LAN of now, connected or not, no more than candidates are kept. None at a seed or an
    /// aggregator, which looks for nobody.
    pub fn heard(&self) -> usize {
        self.heard_on_lan()
    }

    /// The connected members, without what only the network knows: address, how they were found, and all their bytes.
    pub fn peers(&self) -> Vec<Peer> {
        let view = |peer: &crate::core::neighbours::Peer| {
            let device = peer.member.device;
            let services = &self.rules.services;
            let roles =
                [("seed", services.is_seed(device)), ("aggregator", services.aggregator(device).is_some())];
            Peer {
                device,
                host: peer.member.host.clone(),
                site: peer.member.site.clone(),
                system: peer.member.system.clone(),
                roles: roles.into_iter().filter(|(_, has)| *has).map(|(role, _)| role.to_owned()).collect(),
                address: None,
                discovered: String::new(),
                medium: match self.fetcher.medium_of(device) {
                    None => "",
                    Some(Medium::Cable) => "cable",
                    Some(Medium::Air) => "air",
                }
                .to_owned(),
                connected: true,
                pieces: Bytes { received: self.fetcher.fetched_from(device), sent: peer.served },
                raw: Bytes::default(),
            }
        };
        self.peers.values().map(view).collect()
    }

    /// Every content that the catalogues name and this node holds or wants.
    pub fn contents(&self) -> Vec<Transfer> {
        let totals: BTreeMap<Blake3Root, report::Transfer> =
            self.transfers().into_iter().map(|transfer| (transfer.root, transfer)).collect();
        let mut views: BTreeMap<Blake3Root, Transfer> = BTreeMap::new();
        for (_, manifest) in self.rules.manifests() {
            for content in manifest.contents() {
                let held = self.contents.get(content.root);
                if held.is_none() && !self.fetcher.is_wanted(content.root) {
                    continue;
                }
                let artifact = artifact_of(manifest, content.root);
                let name = artifact
                    .map_or_else(|| evidence_name(manifest, &content), |artifact| artifact.name.clone());
                let total = totals.get(&content.root);
                let from = |source| total.map_or(0, |transfer| transfer.from(source));
                views.entry(content.root).or_insert(Transfer {
                    root: content.root,
                    kind: if artifact.is_some() { "artifact" } else { "evidence" }.to_owned(),
                    patch: artifact.map(|_| manifest.patch.clone()),
                    name,
                    size: content.size,
                    pieces_held: held.map_or(0, |held| held.pieces.len()),
                    pieces_total: crate::piece::count(content.size),
                    verified: self.contents.is_checked(&content),
                    wan_bytes: from(Source::Wan),
                    wan_reasons: total.map(report::Transfer::wan_reasons).unwrap_or_default(),
                    lan_bytes: from(Source::Lan),
                    served_bytes: total.map_or(0, |transfer| transfer.served),
                });
            }
        }
        views.into_values().collect()
    }
}

/// A name for a file of evidence, for people.
fn evidence_name(manifest: &Manifest, content: &Content) -> String {
    let chains = manifest.artifacts.iter().filter_map(|artifact| match &artifact.evidence {
        Evidence::Apt(chain) => Some(chain),
        Evidence::None {} | Evidence::Ed25519 { .. } => None,
    });
    let named = chains.filter_map(|chain| match content {
        content if *content == chain.release => Some(format!("{} InRelease", chain.suite)),
        content if *content == chain.packages => Some(format!("{} {}", chain.suite, chain.packages_path)),
        _ => None,
    });
    named.into_iter().next().unwrap_or_default()
}
