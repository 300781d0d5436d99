//! A real server of S3 over plain files, in a process of its own that can be killed and started again.

use anyhow::{Context as _, Result, ensure};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use node::configuration::Bucket;
use patchmesh_tests::typed::free_port;
use patchmesh_tests::wait::{SOON, until};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const ROOT: &str = "PATCHMESH_S3_ROOT";
const PORT: &str = "PATCHMESH_S3_PORT";
const KEY: (&str, &str) = ("patchmesh-tests", "a-secret-of-the-tests");
/// The bucket.
pub const BUCKET: &str = "patches";

/// The server with one bucket.
pub struct Server {
    root: PathBuf,
    port: u16,
    running: Option<Child>,
}

impl Server {
    /// Starts it with its files in `directory`/s3, and writes the key to it to `directory`/credentials.
    pub fn start(directory: &Path) -> Result<Server> {
        let root = directory.join("s3");
        fs::create_dir_all(root.join(BUCKET))?;
        let credentials = directory.join("credentials");
        fs::write(
            &credentials,
            format!("aws_access_key_id = {}\naws_secret_access_key = {}\n", KEY.0, KEY.1),
        )?;
        fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600))?;
        let mut server = Server { root, port: free_port()?, running: None };
        server.start_again()?;
        Ok(server)
    }

    /// Starts it after it was killed, on the same port with the same files.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "it runs");
        let child = Command::new(std::env::current_exe()?)
            .args(["--exact", "origins::server::inside_the_process", "--nocapture"])
            .env(ROOT, &self.root)
            .env(PORT, self.port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.running = Some(child);
        until("the S3 server listens", SOON, || {
            let ended = self.running.as_mut().context("it runs")?.try_wait()?;
            ensure!(ended.is_none(), "the S3 server ended: {ended:?}");
            Ok(TcpStream::connect(("127.0.0.1", self.port)).ok())
        })?;
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.running.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The table `[bucket]` of a seed whose configuration lies one directory below the one of [`Server::start`].
    pub fn table(&self) -> String {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        format!(
            "\n[bucket]\nname = \"{BUCKET}\"\nendpoint = \"{endpoint}\"\nprefix = \"content\"\ncredentials = \"../credentials\"\n"
        )
    }

    /// The same, for whoever does not read a file of configuration.
    pub fn bucket(&self) -> Bucket {
        Bucket {
            name: BUCKET.to_owned(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            region: "us-east-1".to_owned(),
            prefix: "content".to_owned(),
            credentials: Some(self.root.with_file_name("credentials")),
        }
    }

    /// Its port, for what stands in its place or before it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file of an object.
    pub fn object(&self, name: &str) -> PathBuf {
        self.root.join(BUCKET).join("content").join(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.running.is_some() {
            let _ = self.kill();
        }
    }
}

/// Not a test of its own: the server, when a test has started this binary again for it.
#[test]
fn inside_the_process() {
    let (Some(root), Ok(port)) = (std::env::var_os(ROOT), std::env::var(PORT)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let files = FileSystem::new(PathBuf::from(root)).expect("its directory");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(KEY.0, KEY.1));
        let service = service.build();
        let address = ("127.0.0.1", port.parse::<u16>().expect("a port"));
        let listener = tokio::net::TcpListener::bind(address).await.expect("its port");
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            let service = service.clone();
            tokio::spawn(async move {
                let server = Builder::new(TokioExecutor::new());
                // A client that goes away is no failure.
                let _ = server.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
}
