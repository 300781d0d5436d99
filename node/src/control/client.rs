//! The asking side, for the command line: blocking, since a command has nothing else to do meanwhile.

use super::{Failure, Request, Response, answer};
use protocol::identifier::{PatchId, SiteName};
use protocol::limits;
use protocol::membership::Class;
use protocol::time::WallTime;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for an answer: a scan of a slow disk ends within it, and a node that hangs is noticed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for content that a seed hashes and puts into its bucket, which may lie behind a thin link.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(6 * 3_600);

/// Why there is no answer from the node.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No node answers on the socket.
    #[error("no node is running on this device (nothing answers on {0})")]
    NotRunning(PathBuf),
    /// This user is not let in.
    #[error("this user may not control the node (permission denied on {0})")]
    Permission(PathBuf),
    /// The node accepted the request and did not answer in time; it may still carry it out.
    #[error("the node did not answer within {} seconds; whether it still does what was asked is not known", .0.as_secs())]
    Timeout(Duration),
    /// The node went away before it answered.
    #[error("the node stopped before it answered")]
    Closed,
    /// An answer that is not one of this version's.
    #[error("the answer of the node is not understood; use the command and the node of the same version")]
    Answer(#[source] Option<serde_json::Error>),
    /// The node answered that it did not do it.
    #[error("{0}")]
    Failure(Failure),
    /// The operating system refused.
    #[error("cannot talk to the node on {path}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ClientError {
    /// What to do about it, in one sentence.
    pub fn remedy(&self) -> Option<String> {
        match self {
            ClientError::NotRunning(_) => Some(
                "start it with `patchmesh node run`, or name the socket of a running one with --socket"
                    .to_owned(),
            ),
            ClientError::Permission(_) => {
                Some("run the command as root, as the node's user, or as a member of its group".to_owned())
            }
            ClientError::Timeout(_) => Some("look at the node's log".to_owned()),
            ClientError::Closed => Some("start it again with `patchmesh node run`".to_owned()),
            ClientError::Failure(failure) => failure.remedy.clone(),
            ClientError::Answer(_) | ClientError::Io { .. } => None,
        }
    }
}

/// A connection to the node of this machine.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] and [`ClientError::Permission`] say what to do.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let owned = || path.to_owned();
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(owned()),
            io::ErrorKind::PermissionDenied => ClientError::Permission(owned()),
            _ => ClientError::Io { path: owned(), source },
        })?;
        let timeout = stream.set_write_timeout(Some(ANSWER_TIMEOUT));
        timeout.map_err(|source| ClientError::Io { path: owned(), source })?;
        Ok(Client { stream: BufReader::new(stream), path: owned() })
    }

    /// A node closes connections on which nothing was asked for a while.
    fn renew(&mut self) -> Result<(), ClientError> {
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let looked = rustix::net::recv(self.stream.get_ref(), &mut byte[..], flags);
        let closed = match looked {
            Ok((_, read)) => read == 0,
            Err(error) => !matches!(error, Errno::AGAIN | Errno::INTR),
        };
        if closed {
            *self = Client::connect(&self.path)?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn wait_until_closed(&mut self) {
        let ended = self.stream.read(&mut [0]).expect("the end");
        assert_eq!(ended, 0);
    }

    /// Sends one request and waits for its answer; a [`Response::Failure`] becomes an error.
    ///
    /// # Errors
    /// [`ClientError`]; after [`ClientError::Timeout`] the connection is of no more use.
    pub fn ask(&mut self, request: &Request) -> Result<Response, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|error| ClientError::Answer(Some(error)))?;
        line.push(b'\n');
        let patience = match request {
            Request::AddContent { .. } => CONTENT_TIMEOUT,
            _ => ANSWER_TIMEOUT,
        };
        self.renew()?;
        let stream = self.stream.get_mut();
        let written = stream.set_read_timeout(Some(patience)).and_then(|()| stream.write_all(&line));
        written.map_err(|error| self.failed(ANSWER_TIMEOUT, error))?;
        let mut line = Vec::new();
        let limit = limits::CONTROL_BYTES as u64;
        let read = (&mut self.stream).take(limit).read_until(b'\n', &mut line);
        if read.map_err(|error| self.failed(patience, error))? == 0 {
            return Err(ClientError::Closed);
        }
        match serde_json::from_slice(&line) {
            Ok(Response::Failure(failure)) => Err(ClientError::Failure(failure)),
            Ok(response) => Ok(response),
            Err(error) => Err(ClientError::Answer(Some(error))),
        }
    }

    fn failed(&self, patience: Duration, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout(patience),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Closed,
            _ => ClientError::Io { path: self.path.clone(), source },
        }
    }
}

/// One method per request, with the answer that belongs to it.
macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) $request:expr, $answer:pat => $value:expr, $out:ty;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`ClientError`].
                pub fn $name(&mut self $(, $argument: $type)*) -> Result<$out, ClientError> {
                    match self.ask(&$request)? {
                        $answer => Ok($value),
                        _ => Err(ClientError::Answer(None)),
                    }
                }
            )*
        }
    };
}

requests! {
    /// What the node is and how it is.
    status() Request::Status, Response::Status(status) => *status, answer::Status;
    /// The members that it knows.
    peers() Request::Peers, Response::Peers(peers) => peers, Vec<answer::Peer>;
    /// Scans now.
    scan() Request::Scan, Response::Scan(scan) => scan, answer::Scan;
    /// The current plan.
    plan() Request::Plan, Response::Plan(plan) => plan, answer::Plan;
    /// Deploys one approved patch, or all that the plan names.
    deploy(patch: Option<PatchId>) Request::Deploy { patch }, Response::Deploying(begun) => begun, answer::Deploying;
    /// Reports of this device later than `after`, at most `limit`.
    reports(after: u64, limit: u32)
        Request::Reports { after, limit }, Response::Reports(reports) => reports, Vec<answer::Report>;
    /// Why a patch is in its state here.
    explain(patch: PatchId)
        Request::Explain { patch }, Response::Explanation(explanation) => explanation, answer::Explanation;
    /// The policy in force here.
    policy() Request::PolicyShow, Response::Policy(policy) => policy, answer::Policy;
    /// The catalogue as this device sees it.
    patches() Request::PatchList, Response::Patches(patches) => patches, Vec<answer::Patch>;
    /// Makes an activation key.
    create_token(site: SiteName, class: Class, uses: u32, expires: WallTime)
        Request::TokenCreate { site, class, uses, expires }, Response::TokenCreated(token) => token, answer::NewToken;
    /// The activation keys that still count.
    tokens() Request::TokenList, Response::Tokens(tokens) => tokens, Vec<answer::Token>;
    /// Ends an activation key, and returns what it was.
    revoke_token(id: String) Request::TokenRevoke { id }, Response::TokenRevoked(token) => token, answer::Token;
    /// Makes a seed read its repository directory again.
    repository_changed()
        Request::RepositoryChanged, Response::RepositoryLoaded(loaded) => loaded, answer::RepositoryLoaded;
    /// Makes a seed take files into its content store.
    add_content(paths: Vec<PathBuf>)
        Request::AddContent { paths }, Response::ContentAdded(added) => added, Vec<answer::ContentAdded>;
    /// How far content has come.
    transfers() Request::Transfers, Response::Transfers(transfers) => transfers, Vec<answer::Transfer>;
    /// Whom the node reaches and whom not.
    surroundings()
        Request::Surroundings, Response::Surroundings(surroundings) => surroundings, answer::Surroundings;
    /// Stops the node at a safe point.
    shutdown() Request::Shutdown, Response::Stopping => (), ();
}
