//! The serving side: a socket in a safe directory, callers checked by the kernel's word, one task per connection.

use super::{Failure, FailureKind, Request, Response};
use crate::listening::Refusals;
use protocol::limits;
use protocol::text::shown;
use rustix::process::{getegid, geteuid};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream, unix::UCred};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A connection on which no whole request comes for so long, or nobody reads the answer, is closed: its place is for others.
pub(super) const IDLE: Duration = Duration::from_secs(15);

/// A request on its way to the driver and where its answer goes.
pub type Query = (Request, oneshot::Sender<Response>);

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another node answers there.
    #[error(
        "another node already answers on the control socket {0}; stop it, or set another node.control-socket"
    )]
    InUse(PathBuf),
    /// Something that is not a socket lies there.
    #[error("{0} exists and is not a socket; move it away, or set another node.control-socket")]
    NotASocket(PathBuf),
    /// Others could put their own socket in the place of ours.
    #[error("the directory {0} of the control socket can be written by other users; run `chmod go-w` on it")]
    UnsafeDirectory(PathBuf),
    /// Somebody else could, too.
    #[error(
        "the directory {0} of the control socket belongs to another user; give it to the node's user with `chown`, or set \
         another node.control-socket"
    )]
    ForeignDirectory(PathBuf),
    /// The operating system refused.
    #[error("cannot open the control socket {path}; check its directory, or set another node.control-socket")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An open control socket that nobody answers on yet.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    idle: Duration,
}

/// Opens the control socket at `path` and answers on it until `stop` is cancelled; then the socket is removed.
///
/// # Errors
/// [`ServeError`], before anything is answered.
pub async fn serve(
    path: &Path,
    queries: mpsc::Sender<Query>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    Server::bind(path)?.run(queries, stop).await;
    Ok(())
}

impl Server {
    /// Opens the socket with permissions 0660 in a directory that only this user and root can write; makes the
    /// directory (0750) where it is missing, and takes the place of a socket that a dead node left behind.
    ///
    /// # Errors
    /// [`ServeError`]; the message names the remedy.
    pub fn bind(path: &Path) -> Result<Server, ServeError> {
        let failed = |source| ServeError::Io { path: path.to_owned(), source };
        prepare_directory(path)?;
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o660)).map_err(failed)?;
        Ok(Server { listener, path: path.to_owned(), idle: IDLE })
    }

    /// Answers until `stop` is cancelled or the driver is gone. Requests that wait at that moment are dropped.
    pub async fn run(self, queries: mpsc::Sender<Query>, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(limits::CONTROL_CONNECTIONS));
        let mut refusals = Refusals::of("control socket");
        let mut connections = JoinSet::new();
        loop {
            let (stream, place) = tokio::select! {
                () = stop.cancelled() => break,
                () = queries.closed() => break,
                accepted = accept(&self.listener, &places, &mut refusals) => accepted,
            };
            while connections.try_join_next().is_some() {}
            let (queries, idle) = (queries.clone(), self.idle);
            connections.spawn(async move {
                if let Err(error) = connection(stream, &queries, idle).await {
                    tracing::debug!(%error, "control connection ended");
                }
                drop(place);
            });
        }
        connections.shutdown().await;
    }
}

/// No socket stays behind, neither of a node that stopped nor of one that did not get as far as answering.
impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "control socket was already gone");
        }
    }
}

async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
    refusals: &mut Refusals,
) -> (UnixStream, Option<OwnedSemaphorePermit>) {
    // There is an end to places only when the semaphore is closed, which nobody does.
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => refusals.wait(&error).await,
        }
    }
}

fn prepare_directory(path: &Path) -> Result<(), ServeError> {
    let failed = |source| ServeError::Io { path: path.to_owned(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.exists() {
        std::fs::create_dir_all(directory).map_err(failed)?;
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o750)).map_err(failed)?;
    }
    let metadata = std::fs::metadata(directory).map_err(failed)?;
    judge_directory(directory, metadata.uid(), metadata.mode(), geteuid().as_raw())
}

fn judge_directory(directory: &Path, owner: u32, mode: u32, user: u32) -> Result<(), ServeError> {
    let others_write = mode & 0o022 != 0;
    let sticky = mode & 0o1000 != 0;
    if owner != 0 && owner != user {
        return Err(ServeError::ForeignDirectory(directory.to_owned()));
    }
    match others_write && !sticky {
        true => Err(ServeError::UnsafeDirectory(directory.to_owned())),
        false => Ok(()),
    }
}

fn clear_stale(path: &Path) -> Result<(), ServeError> {
    let failed = |source| ServeError::Io { path: path.to_owned(), source };
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(ServeError::NotASocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ServeError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

async fn connection(stream: UnixStream, queries: &mpsc::Sender<Query>, idle: Duration) -> io::Result<()> {
    let caller = stream.peer_cred()?;
    let (reader, mut writer) = stream.into_split();
    if !is_let_in(&caller, geteuid().as_raw(), getegid().as_raw()) {
        let uid = caller.uid();
        tracing::warn!(uid, "control socket refused a caller");
        let refused = Failure::new(FailureKind::Refused, "caller", "this user may not control the node")
            .with_remedy("run the command as root or as a member of the node's group");
        return write_line(&mut writer, &refused.into(), idle).await;
    }
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = limits::CONTROL_REQUEST_BYTES as u64;
        let mut request = (&mut reader).take(limit);
        let read = timeout(idle, request.read_until(b'\n', &mut line)).await??;
        if read == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && read as u64 == limit {
            let long = Failure::new(FailureKind::Usage, "too-long", "the request is longer than the limit");
            return write_line(&mut writer, &long.into(), idle).await;
        }
        let response = answer(&line, queries).await;
        write_line(&mut writer, &response, idle).await?;
    }
}

async fn answer(line: &[u8], queries: &mpsc::Sender<Query>) -> Response {
    let request = match parse(line) {
        Ok(request) => request,
        Err(error) => {
            let message = format!("the node does not understand the request: {error}");
            return Failure::new(FailureKind::Usage, "unknown-request", message)
                .with_remedy("use the command and the node of the same version")
                .into();
        }
    };
    let (sender, receiver) = oneshot::channel();
    if queries.send((request, sender)).await.is_err() {
        return stopping();
    }
    receiver.await.unwrap_or_else(|_| stopping())
}

/// Reads a request of which every field is known. For requests without fields serde leaves others alone.
fn parse(line: &[u8]) -> Result<Request, serde_json::Error> {
    let request: Request = serde_json::from_slice(line)?;
    let known = serde_json::to_value(&request)?;
    let given: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line)?;
    match given.keys().find(|field| known.get(field).is_none()) {
        Some(field) => Err(serde::de::Error::custom(format!("unknown field `{}`", shown(field)))),
        None => Ok(request),
    }
}

fn stopping() -> Response {
    Failure::new(FailureKind::Failed, "stopping", "the node stopped before it could answer")
        .with_remedy("start it again with `patchmesh node run`")
        .into()
}

async fn write_line(
    writer: &mut (impl AsyncWriteExt + Unpin),
    response: &Response,
    idle: Duration,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(response).map_err(io::Error::other)?;
    line.push(b'\n');
    let mut rest = &line[..];
    while !rest.is_empty() {
        let written = timeout(idle, writer.write(rest)).await??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = &rest[written..];
    }
    Ok(())
}

/// Root, the node's user, and members of the node's group. The kernel tells user, primary group and process; the
/// other groups stand in that process's status file, and the permissions of the socket have asked for one already.
fn is_let_in(caller: &UCred, user: u32, group: u32) -> bool {
    let by_name = caller.uid() == 0 || caller.uid() == user || caller.gid() == group;
    by_name || caller.pid().is_some_and(|process| supplementary_groups(process).contains(&group))
}

fn supplementary_groups(process: i32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Client, ClientError, answer::RepositoryLoaded};
    use super::*;
    use std::collections::BTreeMap;
    use std::io::{Read, Write};

    struct Running {
        directory: tempfile::TempDir,
        stop: CancellationToken,
        server: tokio::task::JoinHandle<()>,
    }

    /// A node that answers one request in earnest and refuses the rest.
    fn start() -> Running {
        start_with(IDLE)
    }

    /// So short that a test can wait for it, and longer than a busy machine takes from one line of a test to the next.
    const SHORT: Duration = Duration::from_secs(3);

    fn start_with(idle: Duration) -> Running {
        let directory = tempfile::tempdir().expect("directory");
        let mut server = Server::bind(&directory.path().join("control.socket")).expect("bind");
        server.idle = idle;
        let (sender, mut receiver) = mpsc::channel::<Query>(4);
        let stop = CancellationToken::new();
        let server = tokio::spawn(server.run(sender, stop.clone()));
        tokio::spawn(async move {
            while let Some((request, answer)) = receiver.recv().await {
                let response = match request {
                    Request::RepositoryChanged => Response::RepositoryLoaded(RepositoryLoaded {
                        timestamp: 7,
                        patches: 4,
                        roles: BTreeMap::new(),
                        repository: "repository".into(),
                    }),
                    Request::Shutdown => continue,
                    _ => Failure::new(FailureKind::Refused, "not-approved", "not approved").into(),
                };
                answer.send(response).expect("the connection waits");
            }
        });
        Running { directory, stop, server }
    }

    impl Running {
        fn path(&self) -> PathBuf {
            self.directory.path().join("control.socket")
        }

        async fn with<T: Send + 'static>(&self, work: impl FnOnce(&Path) -> T + Send + 'static) -> T {
            let path = self.path();
            tokio::task::spawn_blocking(move || work(&path)).await.expect("no panic")
        }
    }

    #[tokio::test]
    async fn answers_requests_and_passes_failures_on() {
        let running = start();
        running
            .with(|path| {
                let mut client = Client::connect(path).expect("connect");
                assert_eq!(client.repository_changed().expect("answer").timestamp, 7);
                let refused = client.status().expect_err("refused");
                assert!(
                    matches!(refused, ClientError::Failure(failure) if failure.kind == FailureKind::Refused)
                );
                assert!(matches!(client.shutdown(), Err(ClientError::Failure(f)) if f.code == "stopping"));
            })
            .await;
        let mode = std::fs::metadata(running.path()).expect("socket").mode();
        assert_eq!(mode & 0o777, 0o660);
        running.stop.cancel();
        running.server.await.expect("ends");
        assert!(!running.directory.path().join("control.socket").exists());
    }

    #[tokio::test]
    async fn hostile_lines_get_an_answer() {
        let running = start();
        let answers = running
            .with(|path| {
                let mut stream = std::os::unix::net::UnixStream::connect(path).expect("connect");
                stream
                    .write_all(b"{\"request\":\"format-disk\"}\n\xff\xfe\n{\"request\":\"status\",\"x\":1}\n")
                    .expect("write");
                stream.shutdown(std::net::Shutdown::Write).expect("half-close");
                let mut text = String::new();
                stream.read_to_string(&mut text).expect("read");
                text
            })
            .await;
        assert_eq!(answers.lines().count(), 3);
        assert_eq!(answers.matches("unknown-request").count(), 3, "{answers}");
        assert!(answers.contains("unknown field `x`"), "{answers}");
        let long = running
            .with(|path| {
                let mut stream = std::os::unix::net::UnixStream::connect(path).expect("connect");
                let _ = stream.write_all(&vec![b'x'; limits::CONTROL_REQUEST_BYTES]);
                let mut text = String::new();
                stream.read_to_string(&mut text).expect("read");
                text
            })
            .await;
        assert!(long.contains("too-long"), "{long}");
    }

    #[tokio::test]
    async fn who_asks_nothing_keeps_nobody_from_asking() {
        let running = start_with(SHORT);
        let answered = running
            .with(|path| {
                let idle = |number: usize| {
                    let mut stream = std::os::unix::net::UnixStream::connect(path).expect("connect");
                    // Half of them begin a request and never end it.
                    stream.write_all(&b"{\"request\""[..number % 2]).expect("write");
                    stream
                };
                let _idle: Vec<_> = (0..limits::CONTROL_CONNECTIONS + 8).map(idle).collect();
                Client::connect(path).expect("connect").repository_changed().map(|loaded| loaded.timestamp)
            })
            .await;
        assert_eq!(answered.expect("an answer"), 7);
    }

    #[tokio::test]
    async fn a_command_that_did_something_else_meanwhile_is_answered() {
        let running = start_with(SHORT);
        running
            .with(|path| {
                let mut client = Client::connect(path).expect("connect");
                assert_eq!(client.repository_changed().expect("answer").timestamp, 7);
                // Until the node has closed the connection.
                client.wait_until_closed();
                assert_eq!(client.repository_changed().expect("answer").timestamp, 7);
            })
            .await;
    }

    #[tokio::test]
    async fn takes_over_from_the_dead_and_not_from_the_living() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("run").join("control.socket");
        drop(Server::bind(&path).expect("makes the directory"));
        assert!(!path.exists(), "who stops leaves nothing behind");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("one that is killed leaves its socket"));
        let living = Server::bind(&path).expect("takes its place");
        assert!(matches!(Server::bind(&path), Err(ServeError::InUse(_))));
        drop(living);
        std::fs::write(&path, "precious").expect("write");
        assert!(matches!(Server::bind(&path), Err(ServeError::NotASocket(_))));
        std::fs::remove_file(&path).expect("remove");
        let run = directory.path().join("run");
        std::fs::set_permissions(&run, PermissionsExt::from_mode(0o777)).expect("chmod");
        assert!(matches!(Server::bind(&path), Err(ServeError::UnsafeDirectory(_))));
    }

    #[test]
    fn whose_directory_it_is_decides_what_to_do() {
        let judge = |owner, mode| judge_directory(Path::new("run"), owner, mode, 7);
        assert!(judge(7, 0o40_750).is_ok() && judge(0, 0o40_755).is_ok() && judge(0, 0o41_777).is_ok());
        assert!(matches!(judge(7, 0o40_770), Err(ServeError::UnsafeDirectory(_))));
        assert!(matches!(judge(8, 0o40_750), Err(ServeError::ForeignDirectory(_))));
    }

    #[test]
    fn own_groups_are_read_from_the_kernel() {
        let mine = supplementary_groups(i32::try_from(std::process::id()).expect("process number"));
        let expected = rustix::process::getgroups().expect("groups");
        assert_eq!(mine.len(), expected.len());
    }
}
