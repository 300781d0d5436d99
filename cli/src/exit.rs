//! How a command ends: its exit code, and what it says on standard error when it did not do its work.

use node::configuration::Bad;
use node::control::{ClientError, Failure as Refused, FailureKind};
use std::io;
use std::process::ExitCode;

/// Exit codes, the same for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The work is done.
    Done = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Not approved, or refused by a rule.
    Refused = 3,
    /// Another machine, or the node of this one, could not be reached.
    Unreachable = 4,
    /// A part is done and a part failed.
    Partly = 5,
    /// The configuration is bad (`EX_CONFIG` of sysexits.h).
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// What a command hands back to `main`.
pub type Outcome = Result<Exit, Failure>;

/// Why a command did not do its work.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, in one sentence.
    pub message: String,
    /// The causes below it, outermost first.
    pub causes: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without causes or hint.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// An error of a library with the causes in its `source()` chain.
    pub fn of(exit: Exit, error: &(dyn std::error::Error + 'static)) -> Failure {
        let causes = std::iter::successors(error.source(), |error| error.source());
        let system = std::iter::successors(Some(error), |error| error.source());
        let system = system.filter_map(|error| error.downcast_ref::<io::Error>()).next();
        Failure {
            exit,
            message: error.to_string(),
            causes: causes.map(ToString::to_string).collect(),
            hint: system.and_then(|error| remedy(error.kind())).map(str::to_owned),
        }
    }

    /// The same with a hint.
    pub fn with_hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }
}

/// What to do when the operating system refused.
fn remedy(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::NotFound => Some("check the name, or make it first"),
        io::ErrorKind::PermissionDenied => {
            Some("run it as root, or as the user that owns what is named above")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("make room on that disk, then run it again")
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("choose a place on a disk that may be written"),
        io::ErrorKind::IsADirectory => Some("name a file, not a directory"),
        io::ErrorKind::NotADirectory => Some("name a directory, not a file"),
        _ => None,
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::of(Exit::Failed, error.as_ref())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let exit = match &error {
            ClientError::NotRunning(_) | ClientError::Timeout(_) | ClientError::Closed => Exit::Unreachable,
            ClientError::Permission(_) => Exit::Refused,
            ClientError::Failure(failure) => exit_of(failure),
            ClientError::Answer(_) | ClientError::Io { .. } => Exit::Failed,
        };
        let remedy = error.remedy();
        let failure = Failure::of(exit, &error);
        Failure { hint: remedy.or(failure.hint), ..failure }
    }
}

fn exit_of(failure: &Refused) -> Exit {
    match failure.kind {
        FailureKind::Failed => Exit::Failed,
        FailureKind::Usage => Exit::Usage,
        FailureKind::Refused => Exit::Refused,
        FailureKind::Unreachable => Exit::Unreachable,
    }
}

impl From<Bad> for Failure {
    fn from(error: Bad) -> Failure {
        Failure::of(Exit::Configuration, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_code() {
        let not_running = Failure::from(ClientError::NotRunning("/run/x".into()));
        assert_eq!(not_running.exit, Exit::Unreachable);
        assert!(not_running.hint.expect("hint").contains("patchmesh node run"));
        let refused =
            Refused::new(FailureKind::Refused, "not-approved", "not approved").with_remedy("approve it");
        let refused = Failure::from(ClientError::Failure(refused));
        assert_eq!((refused.exit, refused.message.as_str()), (Exit::Refused, "not approved"));
        assert_eq!(refused.hint.as_deref(), Some("approve it"));
        let bad = node::configuration::Configuration::load(Some("/nowhere/x.toml".as_ref()), [], &[]);
        let failure = Failure::from(bad.expect_err("no such file"));
        assert_eq!((failure.exit, failure.causes.len()), (Exit::Configuration, 1));
    }
}
