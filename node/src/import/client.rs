//! Runs APT's own client on a private state directory: the machine's sources and proxies, none of its locks or hooks.

use protocol::digest::Sha256;
use protocol::limits::NAME_BYTES;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Most bytes of an answer of apt that are read.
const ANSWER_BYTES: u64 = 16 << 20;

/// Why APT could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No APT on this machine.
    #[error("{0} is not installed; importing from APT suites needs a Debian or Ubuntu machine")]
    NoApt(&'static str),
    /// No index arrived.
    #[error("no package index could be fetched; check the network and /etc/apt/sources.list.d: {0}")]
    Unreachable(String),
    /// A file did not arrive.
    #[error("cannot fetch {what}: {complaint}")]
    Fetch {
        /// The file.
        what: String,
        /// What apt said.
        complaint: String,
    },
    /// apt refused.
    #[error("{program} failed: {complaint}")]
    Failed {
        /// The program.
        program: &'static str,
        /// What it said.
        complaint: String,
    },
    /// A file or a program cannot be used.
    #[error("cannot use {what}")]
    Io {
        /// The file or program.
        what: String,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

/// One package index that APT knows, as `apt-get indextargets` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexTarget {
    /// The suite's name in the sources, for example `bookworm-security`.
    pub release: String,
    /// `Suite` in the release file.
    pub suite: String,
    /// `Codename` in the release file.
    pub codename: String,
    /// Architecture of the packages.
    pub architecture: String,
    /// Path of the index inside the release file as the vendor serves it, for example `main/binary-amd64/Packages.xz`.
    pub path: String,
    /// The vendor's own index file, as fetched.
    pub index: PathBuf,
    /// The release file, as fetched.
    pub in_release: PathBuf,
    /// Root of the repository, ending in `/`.
    pub repository: String,
    /// The entry of the sources: file, and number of the stanza or line in it, counted from 1.
    pub entry: (PathBuf, usize),
}

/// APT's client, on a state directory of its own.
#[derive(Debug)]
pub struct Client {
    directory: PathBuf,
    configuration: PathBuf,
}

impl Client {
    /// Prepares `directory` (made when it is not there) for APT. Needs no root rights.
    ///
    /// # Errors
    /// [`ClientError::NoApt`] when this machine has none, [`ClientError::Io`] when the directory cannot be used.
    pub fn open(directory: &Path) -> Result<Client, ClientError> {
        let used = |path: &Path| {
            let what = path.display().to_string();
            move |cause| ClientError::Io { what, cause }
        };
        let directory = std::path::absolute(directory).map_err(used(directory))?;
        for part in ["lists/partial", "cache/archives/partial", "packages"] {
            let part = directory.join(part);
            std::fs::create_dir_all(&part).map_err(used(&part))?;
        }
        let status = directory.join("status");
        std::fs::write(&status, b"").map_err(used(&status))?;
        let configuration = directory.join("apt.conf");
        std::fs::write(&configuration, configuration_text(&directory)).map_err(used(&configuration))?;
        let client = Client { directory, configuration };
        client.ask("apt-get", &["--version"])?;
        Ok(client)
    }

    /// Fetches release files and package indexes of all configured suites, and returns those that arrived.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when none did; some may be missing without an error when a source is down.
    pub fn update(&self) -> Result<Vec<IndexTarget>, ClientError> {
        // The package cache is built once, by the question that follows.
        let arguments = ["update", "-q", "-o", "pkgCacheFile::Generate=false"];
        let complaint = match self.run("apt-get", &arguments) {
            Ok((_, complaint)) => complaint,
            Err(ClientError::Failed { complaint, .. }) => complaint,
            Err(other) => return Err(other),
        };
        let targets = self.targets()?;
        if targets.is_empty() { Err(ClientError::Unreachable(complaint)) } else { Ok(targets) }
    }

    /// Package indexes of this machine's architecture that the last [`Client::update`] brought.
    ///
    /// # Errors
    /// [`ClientError`] when apt cannot be asked.
    pub fn targets(&self) -> Result<Vec<IndexTarget>, ClientError> {
        let answer = self.ask("apt-get", &["indextargets", "Identifier: Packages"])?;
        let architecture = self.setting("APT::Architecture")?;
        Ok(answer
            .split("\n\n")
            .filter_map(parse_target)
            .filter(|target| target.architecture == architecture && target.in_release.is_file())
            .collect())
    }

    /// One setting of APT's configuration, empty when it is not set. A name that ends in `/d` or `/f` asks for the whole
    /// path of a directory or file.
    ///
    /// # Errors
    /// [`ClientError`] when apt cannot be asked.
    pub fn setting(&self, name: &str) -> Result<String, ClientError> {
        let answer = self.ask("apt-config", &["shell", "ANSWER", name])?;
        let value = answer.trim().strip_prefix("ANSWER='").and_then(|rest| rest.strip_suffix('\''));
        Ok(value.unwrap_or_default().to_owned())
    }

    /// Fetches one package file of a repository; apt checks its SHA-256, and so must the caller.
    ///
    /// # Errors
    /// [`ClientError::Fetch`] when it does not arrive as `sha256` says.
    pub fn fetch(&self, repository: &str, path: &str, sha256: &Sha256) -> Result<PathBuf, ClientError> {
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_plain = !name.is_empty()
            && name.len() <= NAME_BYTES
            && !name.starts_with(['.', '-'])
            && path.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_plain {
            let complaint = "its name in the index is not that of a package file".to_owned();
            return Err(ClientError::Fetch { what: path.escape_debug().to_string(), complaint });
        }
        let file = self.directory.join("packages").join(name);
        let arguments = [
            "download-file".to_owned(),
            format!("{repository}{path}"),
            file.display().to_string(),
            format!("SHA256:{sha256}"),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match self.run("/usr/lib/apt/apt-helper", &arguments) {
            Ok(_) => Ok(file),
            Err(ClientError::Failed { complaint, .. }) => {
                Err(ClientError::Fetch { what: name.to_owned(), complaint })
            }
            Err(other) => Err(other),
        }
    }

    fn ask(&self, program: &'static str, arguments: &[&str]) -> Result<String, ClientError> {
        self.run(program, arguments).map(|(answer, _)| answer)
    }

    /// Runs one of apt's programs to its end: answer and complaints. The environment is the caller's, since proxies may
    /// stand there.
    fn run(&self, program: &'static str, arguments: &[&str]) -> Result<(String, String), ClientError> {
        let failed = |cause: io::Error| match cause.kind() {
            io::ErrorKind::NotFound => ClientError::NoApt(program),
            _ => ClientError::Io { what: program.to_owned(), cause },
        };
        let complaints = tempfile::tempfile_in(&self.directory).map_err(failed)?;
        let mut child = Command::new(program)
            .arg("-c")
            .arg(&self.configuration)
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let mut answer = String::new();
        let read = child.stdout.take().map(|pipe| pipe.take(ANSWER_BYTES).read_to_string(&mut answer));
        let status = child.wait().map_err(failed)?;
        read.transpose().map_err(failed)?;
        let complaint = read_complaints(complaints).map_err(failed)?;
        if status.success() {
            Ok((answer, complaint))
        } else {
            Err(ClientError::Failed { program, complaint })
        }
    }
}

/// The last words of what a program wrote to standard error, on one line.
fn read_complaints(mut file: std::fs::File) -> io::Result<String> {
    use std::io::Seek as _;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(64 << 10).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Ok(lines[lines.len().saturating_sub(4)..].join("; "))
}

/// Our own settings, read after the machine's. Its hooks are cleared, because they act on the machine; of all index
/// targets the packages are left, kept exactly as the vendor compressed them, since that file is the evidence. Dates are
/// judged by the import itself, which can say what is wrong with them.
fn configuration_text(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "Dir::State \"{directory}\";\nDir::State::lists \"{directory}/lists\";\n\
         Dir::State::status \"{directory}/status\";\nDir::Cache \"{directory}/cache\";\n\
         Dir::Cache::pkgcache \"pkgcache.bin\";\nDir::Cache::srcpkgcache \"\";\n\
         #clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n#clear APT::Update::Auth-Failure;\n#clear AptCli::Hooks;\n\
         #clear Acquire::IndexTargets;\n\
         Acquire::IndexTargets::deb::Packages {{\n\
         MetaKey \"$(COMPONENT)/binary-$(ARCHITECTURE)/Packages\";\nflatMetaKey \"Packages\";\n\
         ShortDescription \"Packages\";\nDescription \"$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Packages\";\n\
         flatDescription \"$(RELEASE) Packages\";\nOptional \"false\";\n\
         KeepCompressed \"true\";\nKeepCompressedAs \"xz uncompressed\";\n}};\n\
         #clear Acquire::CompressionTypes::Order;\nAcquire::CompressionTypes::Order {{ \"xz\"; }};\n\
         Acquire::GzipIndexes \"true\";\nAcquire::PDiffs \"false\";\nAcquire::Languages \"none\";\n\
         Acquire::AllowInsecureRepositories \"false\";\nAcquire::Check-Valid-Until \"false\";\n\
         Acquire::Check-Date \"false\";\nAcquire::Retries \"2\";\nAcquire::http::Timeout \"30\";\n\
         Acquire::https::Timeout \"30\";\n"
    )
}

fn parse_target(stanza: &str) -> Option<IndexTarget> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
    };
    let index = PathBuf::from(field("Filename")?);
    let meta_key = field("MetaKey")?;
    // apt names a list file by its address with the slashes written as underscores, so the release file's name is the
    // index's name with another end.
    let file_name = index.file_name()?.to_str()?;
    let (plain, suffix) = match file_name.strip_suffix(".xz") {
        Some(plain) => (plain, ".xz"),
        None => (file_name, ""),
    };
    let release = plain.strip_suffix(&meta_key.replace('_', "%5f").replace('/', "_"))?;
    let in_release = index.with_file_name(format!("{release}InRelease"));
    let (file, number) = field("Sourcesentry")?.rsplit_once(':')?;
    let repository = field("Repo-URI")?;
    Some(IndexTarget {
        release: field("Release")?.to_owned(),
        suite: field("Suite").unwrap_or_default().to_owned(),
        codename: field("Codename").unwrap_or_default().to_owned(),
        architecture: field("Architecture")?.to_owned(),
        path: format!("{meta_key}{suffix}"),
        in_release,
        repository: format!("{}/", repository.trim_end_matches('/')),
        entry: (PathBuf::from(file), number.parse().ok()?),
        index,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_apt_is_named() {
        let directory = tempfile::tempdir().expect("directory");
        let client = Client {
            directory: directory.path().to_owned(),
            configuration: directory.path().join("apt.conf"),
        };
        let absent = client.ask("patchmesh-no-such-program", &[]);
        assert!(matches!(absent, Err(ClientError::NoApt(_))), "{absent:?}");
        let failing = client.ask("false", &[]);
        assert!(matches!(failing, Err(ClientError::Failed { .. })), "{failing:?}");
        for path in ["", "pool/", "pool/..", "pool/.hidden", "pool/-option", "pool/a b.deb"] {
            let refused = client.fetch("http://mirror.example/", path, &Sha256::of(b""));
            assert!(matches!(refused, Err(ClientError::Fetch { .. })), "{path}");
        }
    }

    #[test]
    fn index_targets_are_read_as_apt_writes_them() {
        let stanza = "MetaKey: main/binary-amd64/Packages\nFilename: /s/lists/mirror.example_debian_dists_\
            stable_main_binary-amd64_Packages.xz\nCodename: bookworm\nSuite: stable\nArchitecture: amd64\n\
            Release: bookworm\nRepo-URI: http://mirror.example/debian/\nSourcesentry: /etc/a.sources:2\n";
        let target = parse_target(stanza).expect("target");
        assert_eq!(target.path, "main/binary-amd64/Packages.xz");
        let in_release = "/s/lists/mirror.example_debian_dists_stable_InRelease";
        assert_eq!(target.in_release, PathBuf::from(in_release));
        assert_eq!(target.entry, (PathBuf::from("/etc/a.sources"), 2));
        assert_eq!(parse_target(""), None);
        assert_eq!(parse_target(&stanza.replace("MetaKey: main", "MetaKey: other")), None);
    }
}
