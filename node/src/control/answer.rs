//! What a node answers on its control socket: plain data, made for people and for programs that read JSON. Most of it is the core's
//! own view; here is what only a registrar or a seed says.

pub use protocol::core::view::*;

use protocol::identifier::{DeviceId, SiteName};
use protocol::manifest::Content;
use protocol::membership::Class;
use protocol::time::WallTime;
use protocol::trust::RoleName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A new activation key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// The key: shown once, the registrar keeps the hash of its secret only.
    pub activation_key: String,
    /// What the registrar keeps.
    pub token: Token,
}

/// An activation key as the registrar knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// First eight hexadecimal digits of the secret's hash.
    pub id: String,
    /// Site of the devices that it enrols.
    pub site: SiteName,
    /// Class of the devices that it enrols.
    pub class: Class,
    /// Uses left.
    pub uses_left: u32,
    /// Not accepted from then on.
    pub expires: WallTime,
}

/// What a seed took over from its repository directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryLoaded {
    /// Version of the timestamp file that the seed serves now.
    pub timestamp: u64,
    /// Patches in its catalogues.
    pub patches: u32,
    /// Versions of the roles that administrators sign, as they are in force.
    pub roles: BTreeMap<RoleName, u64>,
    /// The directory that it reads, as it sees it.
    pub repository: PathBuf,
}

/// Content that a seed holds now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentAdded {
    /// The file that was read.
    pub path: String,
    /// What it is.
    pub content: Content,
}

/// What a running node knows of its surroundings, for `patchmesh doctor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// Whether configuration and policy let the node look for neighbours with mDNS.
    pub mdns: bool,
    /// How many devices it heard on the LAN, however those that are connected were found.
    #[serde(default)]
    pub heard: usize,
    /// Whether policy lets members of a site exchange anything.
    pub peer_download: bool,
    /// Days that accepted metadata stays in force without news.
    pub offline_days: u32,
    /// The other site on whose LAN this device is, as far as members there have shown; it has no peers then.
    #[serde(default)]
    pub roaming_at: Option<SiteName>,
    /// Addresses that `fleet/sites.toml` names for this site.
    pub site_addresses: Vec<String>,
    /// Seeds and aggregators of the fleet other than this node.
    pub services: Vec<ServiceContact>,
    /// Devices that could not be reached since they were last connected.
    pub unreached: Vec<Unreached>,
}

/// A seed or an aggregator, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceContact {
    /// The device.
    pub device: DeviceId,
    /// `seed`, `aggregator` or both.
    pub roles: Vec<String>,
    /// Where it can be reached.
    pub addresses: Vec<String>,
    /// Whether it is connected now.
    pub connected: bool,
}

/// A device that could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    /// The device.
    pub device: DeviceId,
    /// Rung of the discovery ladder on which it was found.
    pub discovered: String,
    /// Why not, in one sentence.
    pub cause: String,
    /// The last time that it was tried.
    pub last: WallTime,
}
