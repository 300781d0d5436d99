//! What everybody has: nginx over TLS, curl into a file, and then a program that says the file's SHA-256.

use crate::transfer::{Measured, settle};
use crate::usage;
use anyhow::{Context as _, Result, ensure};
use patchmesh_tests::typed::free_port;
use patchmesh_tests::wait::{SOON, until};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Where that file lies, in the server's directory.
const OFFERED: &str = "files/patch";

/// A web server that offers one file.
pub struct Web {
    directory: PathBuf,
    port: u16,
    running: Child,
}

impl Web {
    /// Starts it in `directory` with a link to `file`.
    pub fn start(directory: &Path, file: &Path) -> Result<Web> {
        let directory = directory.join("web");
        fs::create_dir_all(directory.join("files"))?;
        fs::hard_link(file, directory.join(OFFERED))?;
        let (key, certificate) = (directory.join("key.pem"), directory.join("certificate.pem"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]);
        run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
        let port = free_port()?;
        let at = directory.display();
        let configuration = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
             events {{}}
             http {{
                 access_log off; sendfile on;
                 client_body_temp_path {at}/1; proxy_temp_path {at}/2; fastcgi_temp_path {at}/3;
                 uwsgi_temp_path {at}/4; scgi_temp_path {at}/5;
                 server {{
                     listen 127.0.0.1:{port} ssl; root {at}/files;
                     ssl_protocols TLSv1.3; ssl_certificate {at}/certificate.pem; ssl_certificate_key {at}/key.pem;
                 }}
             }}"
        );
        fs::write(directory.join("nginx.conf"), configuration)?;
        // Not on the path of every user.
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists());
        let program = program.context("nginx is missing; run `tests/tools loopback-packages.txt`")?;
        let log = fs::File::create(directory.join("said"))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(directory.join("nginx.conf")).arg("-p").arg(&directory);
        let running = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut web = Web { directory, port, running };
        until("nginx listens", SOON, || {
            let ended = web.running.try_wait()?;
            ensure!(ended.is_none(), "nginx ended: {:?}", fs::read_to_string(web.directory.join("said")));
            Ok(TcpStream::connect(("127.0.0.1", web.port)).ok())
        })?;
        Ok(web)
    }

    /// Fetches the file with curl and has `hash` (a program and its arguments) read it.
    pub fn fetch(&self, hash: &[&str]) -> Result<Measured> {
        let (file, certificate) = (self.directory.join("fetched"), self.directory.join("certificate.pem"));
        settle(&self.directory, fs::metadata(self.directory.join(OFFERED))?.len())?;
        let before = usage::processor_time(self.running.id())? + usage::of_children()?;
        let began = Instant::now();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(certificate);
        run(curl.arg("--output").arg(&file).arg(format!("https://127.0.0.1:{}/patch", self.port)))?;
        let (program, arguments) = hash.split_first().context("a program")?;
        run(Command::new(program).args(arguments).arg(&file))?;
        let took = began.elapsed();
        let processor = usage::processor_time(self.running.id())? + usage::of_children()? - before;
        let bytes = fs::metadata(&file)?.len();
        fs::remove_file(file)?;
        Ok(Measured { bytes, took, processor })
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{command:?} does not start"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Drop for Web {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.running.kill();
        let _ = self.running.wait();
    }
}
