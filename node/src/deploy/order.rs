//! What an installation starts from and ends with: signed facts, open files, a target, an outcome.

use super::sandbox::{Helper, Privilege};
use protocol::manifest::Manifest;
use protocol::version::DebianVersion;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One patch to install: its manifest, whose signature the caller has checked, and the content as open files.
#[derive(Debug)]
pub struct Order {
    /// What to install.
    pub manifest: Manifest,
    /// One open file for each artifact of the manifest, in its order. They are copied and verified before use.
    pub files: Vec<File>,
}

/// How an installation into a root directory is kept inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// In namespaces of its own; see [`super::sandbox`].
    Namespaces {
        /// How to start the helper.
        helper: Helper,
        /// Whether a user namespace is needed.
        privilege: Privilege,
    },
    /// This machine offers no namespaces: dpkg runs as it is, and a hook in the machine's dpkg configuration stops the
    /// deployment.
    None {
        /// Why, for people.
        reason: String,
    },
}

/// Where to install.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) place: Place,
    pub(super) work: PathBuf,
    pub(super) timeout: Duration,
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    Machine,
    Directory { root: PathBuf, isolation: Isolation },
}

/// A target that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NotATarget {
    /// A directory that cannot be used.
    #[error("cannot use directory {path}; create it and let patchmesh write to it")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The machine's own root was given as a sandbox.
    #[error("{0} is the root of this machine; deploying to it must be enabled by policy, not by a path")]
    Machine(PathBuf),
}

impl Target {
    /// A root directory apart from the machine's own. `work` must exist, belong to the installer and lie outside
    /// `root`; an installation that takes longer than `timeout` is killed.
    ///
    /// # Errors
    /// [`NotATarget`].
    pub fn directory(
        root: &Path,
        work: &Path,
        isolation: Isolation,
        timeout: Duration,
    ) -> Result<Target, NotATarget> {
        let root = resolve(root)?;
        if root == Path::new("/") {
            return Err(NotATarget::Machine(root));
        }
        Ok(Target { place: Place::Directory { root, isolation }, work: resolve(work)?, timeout })
    }

    /// The machine itself: only for a caller whose policy enabled deployment on this device.
    ///
    /// # Errors
    /// [`NotATarget`].
    pub fn machine(work: &Path, timeout: Duration) -> Result<Target, NotATarget> {
        Ok(Target { place: Place::Machine, work: resolve(work)?, timeout })
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        match &self.place {
            Place::Machine => Path::new("/"),
            Place::Directory { root, .. } => root,
        }
    }
}

fn resolve(path: &Path) -> Result<PathBuf, NotATarget> {
    std::fs::canonicalize(path).map_err(|source| NotATarget::Directory { path: path.to_owned(), source })
}

/// How an installation ended. It says what the installer did; whether the patch is installed is the rescan's word.
#[derive(Debug)]
pub enum Outcome {
    /// dpkg ended by itself.
    Exited {
        /// 0 done, 1 some package failed, 2 dpkg could not work (dpkg(1)).
        code: i32,
        /// The end of what it wrote.
        log: String,
    },
    /// dpkg was killed by a signal, not by us.
    Killed {
        /// The signal.
        signal: i32,
        /// The end of what it wrote.
        log: String,
    },
    /// dpkg took too long and was killed, with all that it had started.
    TimedOut {
        /// The end of what it wrote.
        log: String,
    },
    /// Every package is there in this version already; dpkg was not started.
    AlreadyInstalled,
    /// The caller did not let dpkg start, after all checks had passed; nothing was changed.
    CalledOff,
    /// Somebody else uses the package database. Wait for it; this is not an attempt that failed.
    LockBusy {
        /// Process that holds the lock, where it can be told.
        holder: Option<u32>,
    },
    /// A disk is full. Make room and repeat.
    DiskFull {
        /// What could not be written, or the end of what dpkg wrote.
        log: String,
    },
    /// The order breaks a rule; nothing was changed. Repeating the same order does not help.
    Refused(Refusal),
    /// Something that the installer needs is missing or broken; nothing was changed.
    Failed(Failure),
}

impl Outcome {
    /// One word for reports and counters.
    pub fn code(&self) -> &'static str {
        match self {
            Outcome::Exited { code: 0, .. } => "exited",
            Outcome::Exited { .. } => "exited-with-error",
            Outcome::Killed { .. } => "killed",
            Outcome::TimedOut { .. } => "timed-out",
            Outcome::AlreadyInstalled => "already-installed",
            Outcome::CalledOff => "called-off",
            Outcome::LockBusy { .. } => "lock-busy",
            Outcome::DiskFull { .. } => "disk-full",
            Outcome::Refused(refusal) => refusal.code(),
            Outcome::Failed(_) => "installer-failed",
        }
    }

    /// Whether dpkg was started: only then did an attempt happen that counts.
    pub fn started(&self) -> bool {
        matches!(self, Outcome::Exited { .. } | Outcome::Killed { .. } | Outcome::TimedOut { .. })
    }
}

/// A rule that an order breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not one file for each artifact, or a manifest that breaks the rules of its format.
    #[error("the order for {patch} is not complete: {problem}")]
    Order {
        /// The patch.
        patch: String,
        /// What is wrong.
        problem: String,
    },
    /// The patch is for another operating system.
    #[error("{patch} is not for {system}")]
    OtherSystem {
        /// The patch.
        patch: String,
        /// What the root directory holds.
        system: String,
    },
    /// The copy does not have the size or the digests of the manifest.
    #[error("artifact {artifact} has another {differs} than its manifest says")]
    Content {
        /// Name of the artifact.
        artifact: String,
        /// `size`, `SHA-256` or `BLAKE3 root`.
        differs: &'static str,
    },
    /// The package is not the one of the manifest, although its digests are right: the manifest is wrong.
    #[error("artifact {artifact} holds {found}, which its manifest does not name")]
    OtherPackage {
        /// Name of the artifact.
        artifact: String,
        /// What the file says of itself.
        found: String,
    },
    /// A newer version is installed.
    #[error("{package} is installed in version {installed}, newer than {offered}")]
    Downgrade {
        /// The package.
        package: String,
        /// Its version in the root directory.
        installed: DebianVersion,
        /// The version of the order.
        offered: DebianVersion,
    },
    /// Without namespaces, a symbolic link in the root directory would let dpkg write outside it.
    #[error(
        "{path} in the root directory leads to {leads_to}, outside it; this machine offers no namespaces to keep \
             dpkg inside: replace the link by a relative one, run as root, or allow user namespaces"
    )]
    LeadsOutside {
        /// Path inside the root directory.
        path: String,
        /// Where it leads.
        leads_to: String,
    },
    /// Without namespaces, a hook in the machine's dpkg configuration would run outside the root directory.
    #[error(
        "{file} line {line} sets \"{option}\", which would act outside the root directory; this machine offers no \
         namespaces to keep it out: remove that line, run as root, or allow user namespaces"
    )]
    HostHook {
        /// The configuration file.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// The option.
        option: String,
    },
}

impl Refusal {
    /// The reason code for reports.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Order { .. } => "order-incomplete",
            Refusal::OtherSystem { .. } => "other-system",
            Refusal::Content { .. } => "content-mismatch",
            Refusal::OtherPackage { .. } => "other-package",
            Refusal::Downgrade { .. } => "downgrade",
            Refusal::LeadsOutside { .. } => "leads-outside",
            Refusal::HostHook { .. } => "host-hook",
        }
    }
}

/// Something that the installer needs and does not have.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A file or directory of the installer's own, or of the order.
    #[error("cannot {action}")]
    File {
        /// What was tried, with the path.
        action: String,
        /// Cause.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}; is it installed?")]
    Program {
        /// Name or path.
        program: String,
        /// Cause.
        source: io::Error,
    },
    /// dpkg-deb could not read the package.
    #[error("dpkg-deb cannot read {artifact}: {message}")]
    Package {
        /// Name of the artifact.
        artifact: String,
        /// What dpkg-deb said.
        message: String,
    },
    /// The sandbox could not be made.
    #[error("cannot enter the installer's sandbox: {message}")]
    Sandbox {
        /// What the helper said.
        message: String,
    },
    /// The root directory could not be scanned.
    #[error("cannot scan the root directory before installing")]
    Scan(#[from] crate::scan::Error),
}
