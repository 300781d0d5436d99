//! A mirror: nginx over a directory, as an administrator would have one.

use anyhow::{Context as _, Result, ensure};
use patchmesh_tests::typed::free_port;
use patchmesh_tests::wait::{SOON, until};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The mirror.
pub struct Mirror {
    directory: PathBuf,
    port: u16,
    running: Child,
}

impl Mirror {
    /// Starts it over `directory`/mirror/files; `more` are directives of its server.
    pub fn start(directory: &Path, more: &str) -> Result<Mirror> {
        let directory = directory.join("mirror");
        fs::create_dir_all(directory.join("files"))?;
        let port = free_port()?;
        let at = directory.display();
        let configuration = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
             events {{}}
             http {{
                 log_format ranges '$request_method $uri $status $http_range';
                 access_log {at}/access.log ranges;
                 client_body_temp_path {at}/1; proxy_temp_path {at}/2; fastcgi_temp_path {at}/3;
                 uwsgi_temp_path {at}/4; scgi_temp_path {at}/5;
                 server {{ listen 127.0.0.1:{port}; root {at}/files; {more} }}
             }}"
        );
        fs::write(directory.join("nginx.conf"), configuration)?;
        // Not on the path of every user.
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists());
        let program =
            program.context("nginx is missing; run `make test-tools`, which installs nginx-light")?;
        let log = fs::File::create(directory.join("said"))?;
        let running = Command::new(program)
            .arg("-c")
            .arg(directory.join("nginx.conf"))
            .arg("-p")
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut mirror = Mirror { directory, port, running };
        until("nginx listens", SOON, || {
            let ended = mirror.running.try_wait()?;
            ensure!(ended.is_none(), "nginx ended: {:?}", fs::read_to_string(mirror.directory.join("said")));
            Ok(TcpStream::connect(("127.0.0.1", mirror.port)).ok())
        })?;
        Ok(mirror)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The file that it has under this path.
    pub fn file(&self, path: &str) -> PathBuf {
        self.directory.join("files").join(path)
    }

    /// What was asked of it, a line for each request: method, path, status, range.
    pub fn requests(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(self.directory.join("access.log"))?;
        Ok(log.lines().map(str::to_owned).collect())
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.running.kill();
        let _ = self.running.wait();
    }
}
