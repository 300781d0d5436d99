//! A real Debian root directory, made by debootstrap from the machine's own package mirror.

use anyhow::{Context as _, Result, bail, ensure};
use node::import::client::{Client, IndexTarget};
use node::import::sources;
use node::scan::system::os_release_value;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Makes a minimal system of the machine's own release in `directory`, out of its main suite alone, so that it is older
/// than the suite of security fixes. Address, keys and proxy are those of the machine's APT sources; `lists` is where
/// [`node::import::apt::Suites::fetch`] put the indexes.
///
/// # Errors
/// A tool is missing, this is not root, or the machine's sources do not name the main suite.
pub fn bootstrap(directory: &Path, lists: &Path) -> Result<PathBuf> {
    let client = Client::open(lists)?;
    let main = main_suite(&client)?;
    let keyring = directory.join("keyring.gpg");
    write_keyring(&client, &main, &keyring)?;
    let root = directory.join("bootstrapped");
    let mut command = Command::new("unshare");
    // What debootstrap mounts goes with its own mount namespace, also when it fails.
    command.args(["--mount", "debootstrap", "--variant=minbase"]);
    command.arg(format!("--keyring={}", keyring.display())).arg(&main.release).arg(&root);
    command.arg(main.repository.trim_end_matches('/')).stdin(Stdio::null());
    for (scheme, variable) in [("http", "http_proxy"), ("https", "https_proxy")] {
        let proxy = client.setting(&format!("Acquire::{scheme}::Proxy"))?;
        if !proxy.is_empty() {
            command.env(variable, proxy);
        }
    }
    let output = command.output().context("this test needs unshare: run `make test-tools`")?;
    if output.status.success() {
        return Ok(root);
    }
    let log = fs::read_to_string(root.join("debootstrap/debootstrap.log")).unwrap_or_default();
    let log: Vec<&str> = log.lines().rev().take(10).collect();
    bail!(
        "debootstrap failed; it needs root, the machine's package mirror, and `make test-tools`: {}{}{log:?}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The suite of the machine's sources that is named as the machine's own release.
fn main_suite(client: &Client) -> Result<IndexTarget> {
    let system = fs::read_to_string("/etc/os-release")?;
    let codename =
        os_release_value(&system, "VERSION_CODENAME").context("/etc/os-release has no codename")?;
    let targets = client.targets()?;
    let main = targets
        .into_iter()
        .find(|target| target.release == codename && target.path.starts_with("main/"))
        .with_context(|| format!("the machine's APT sources have no suite {codename}; add it to them"))?;
    Ok(main)
}

/// Writes the certificates that may sign `suite` as gpgv reads them.
fn write_keyring(client: &Client, suite: &IndexTarget, keyring: &Path) -> Result<()> {
    let home = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir()?;
    let mut bytes = Vec::new();
    for certificate in sources::certificates(client, suite)? {
        let mut gpg = Command::new("gpg")
            .args(["--batch", "--quiet", "--dearmor", "--homedir"])
            .arg(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("this test needs gpg: run `make test-tools`")?;
        let armoured = certificate.to_armoured()?;
        gpg.stdin.take().context("gpg reads from a pipe")?.write_all(armoured.as_bytes())?;
        let output = gpg.wait_with_output()?;
        ensure!(output.status.success(), "gpg does not take the key of suite {}", suite.release);
        bytes.extend(output.stdout);
    }
    Ok(fs::write(keyring, bytes)?)
}

/// Copies a root directory as it is.
///
/// # Errors
/// No space.
pub fn copy(root: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("--archive").args([root, to]).status()?;
    ensure!(copied.success(), "{} cannot be copied", root.display());
    Ok(())
}
