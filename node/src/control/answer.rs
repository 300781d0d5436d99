//! What a node answers on its control socket: plain data, made for people and for programs that read JSON. Most of it is the core's
//! own view; here is what only a registrar or a seed says.

pub use protocol::core::view::*;

use protocol::identifier::SiteName;
use protocol::manifest::Content;
use protocol::membership::Class;
use protocol::time::WallTime;
use serde::{Deserialize, Serialize};

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
}

/// Content that a seed holds now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentAdded {
    /// The file that was read.
    pub path: String,
    /// What it is.
    pub content: Content,
}
