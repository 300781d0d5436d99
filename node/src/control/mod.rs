//! The local control socket: how the command line talks to the node of this machine.
//!
//! Newline-delimited JSON over a Unix socket: a [`Request`] on one line, a [`Response`] on one line, as often as the
//! client likes. The server lets in root, the node's user and the node's group, and nobody else.

pub mod answer;
mod client;
mod server;

pub use client::{Client, ClientError};
pub use server::{Query, ServeError, Server, serve};

use protocol::identifier::{PatchId, SiteName};
use protocol::membership::Class;
use protocol::time::WallTime;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the command line asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What the node is and how it is: [`Response::Status`].
    Status,
    /// The members that it knows: [`Response::Peers`].
    Peers,
    /// Scan now: [`Response::Scan`] when the scan has ended.
    Scan,
    /// The current plan: [`Response::Plan`].
    Plan,
    /// Deploy one approved patch, or all that the plan names, now: [`Response::Deploying`] as soon as it has begun.
    Deploy {
        /// The patch, or `None` for all.
        patch: Option<PatchId>,
    },
    /// Reports of this device, newest last: [`Response::Reports`].
    Reports {
        /// Only later ones than this sequence number; 0 for all that are still there.
        after: u64,
        /// At most so many, the newest ones.
        limit: u32,
    },
    /// Why a patch is in its state here: [`Response::Explanation`].
    Explain {
        /// The patch.
        patch: PatchId,
    },
    /// The policy in force here: [`Response::Policy`].
    PolicyShow,
    /// The catalogue as this device sees it: [`Response::Patches`].
    PatchList,
    /// Registrar: make an activation key: [`Response::TokenCreated`].
    TokenCreate {
        /// Site of the devices that it enrols.
        site: SiteName,
        /// Class of the devices that it enrols.
        class: Class,
        /// How many devices, at most.
        uses: u32,
        /// Not accepted from then on.
        expires: WallTime,
    },
    /// Registrar: the activation keys that still count: [`Response::Tokens`].
    TokenList,
    /// Registrar: end an activation key, for example one that got lost: [`Response::TokenRevoked`].
    TokenRevoke {
        /// Its id, as the list shows it.
        id: String,
    },
    /// Seed: the repository directory has a new version: [`Response::RepositoryLoaded`].
    RepositoryChanged,
    /// Seed: take these files into the content store: [`Response::ContentAdded`]. Absolute paths.
    AddContent {
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// How far content has come: [`Response::Transfers`].
    Transfers,
    /// Whom the node reaches and whom not: [`Response::Surroundings`].
    Surroundings,
    /// Stop at a safe point: [`Response::Stopping`].
    Shutdown,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "data", rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<answer::Status>),
    /// To [`Request::Peers`].
    Peers(Vec<answer::Peer>),
    /// To [`Request::Scan`].
    Scan(answer::Scan),
    /// To [`Request::Plan`].
    Plan(answer::Plan),
    /// To [`Request::Deploy`].
    Deploying(answer::Deploying),
    /// To [`Request::Reports`].
    Reports(Vec<answer::Report>),
    /// To [`Request::Explain`].
    Explanation(answer::Explanation),
    /// To [`Request::PolicyShow`].
    Policy(answer::Policy),
    /// To [`Request::PatchList`].
    Patches(Vec<answer::Patch>),
    /// To [`Request::TokenCreate`].
    TokenCreated(answer::NewToken),
    /// To [`Request::TokenList`].
    Tokens(Vec<answer::Token>),
    /// To [`Request::TokenRevoke`]: what it was.
    TokenRevoked(answer::Token),
    /// To [`Request::RepositoryChanged`].
    RepositoryLoaded(answer::RepositoryLoaded),
    /// To [`Request::AddContent`].
    ContentAdded(Vec<answer::ContentAdded>),
    /// To [`Request::Transfers`].
    Transfers(Vec<answer::Transfer>),
    /// To [`Request::Surroundings`].
    Surroundings(answer::Surroundings),
    /// To [`Request::Shutdown`]: the node has begun to stop.
    Stopping,
    /// To any request: it was not done.
    Failure(Failure),
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Which decision it asks of the caller.
    pub kind: FailureKind,
    /// Stable code in kebab case, for example `not-approved`.
    pub code: String,
    /// What happened, in one sentence.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Kinds of failure; each has its exit code on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// It was tried and failed: exit code 1.
    Failed,
    /// The request makes no sense for this node or names something unknown: exit code 2.
    Usage,
    /// Not approved, or refused by a rule: exit code 3.
    Refused,
    /// Another machine could not be reached: exit code 4.
    Unreachable,
}

impl Failure {
    /// A failure without a remedy.
    pub fn new(kind: FailureKind, code: &str, message: impl Into<String>) -> Failure {
        Failure { kind, code: code.to_owned(), message: message.into(), remedy: None }
    }

    /// The same with a remedy.
    pub fn with_remedy(self, remedy: impl Into<String>) -> Failure {
        Failure { remedy: Some(remedy.into()), ..self }
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Response {
        Response::Failure(failure)
    }
}
