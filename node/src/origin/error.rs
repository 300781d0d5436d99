//! Why an origin did not do what a seed wanted of it, and who can mend it.

use crate::content;
use protocol::digest::Blake3Root;
use protocol::fetch::PieceFailure;
use protocol::piece::PieceIndex;
use protocol::reason::Reason;

/// Why content could not be read from an origin, or not be put there.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// It does not answer, or not in time, or says that it cannot just now. Trying again helps.
    #[error("{origin} does not answer ({cause}); check that it runs and that this machine reaches it")]
    Unreachable {
        /// The origin.
        origin: String,
        /// What happened.
        cause: String,
    },
    /// It answers, and does not let us.
    #[error(
        "{origin} refuses the credentials ({cause}); they need the rights to get and list objects, and to put them where you publish"
    )]
    Denied {
        /// The origin.
        origin: String,
        /// What it says.
        cause: String,
    },
    /// It answers, and does not let anybody have this one file; storage behind a delivery network says that of a file that was
    /// deleted.
    #[error(
        "{origin} refuses {what} ({cause}); check that the file is there, and that this machine may read it"
    )]
    Withheld {
        /// The origin.
        origin: String,
        /// Which file.
        what: String,
        /// What it says.
        cause: String,
    },
    /// It answers, and has no such content.
    #[error("{origin} does not have {what}; publish it again, or wait until the mirror has it")]
    Missing {
        /// The origin.
        origin: String,
        /// Which content.
        what: String,
    },
    /// It sends whole files only.
    #[error("{origin} ignores byte ranges; a seed copies content whole to its disk, a device leaves it")]
    NoRanges {
        /// The origin.
        origin: String,
    },
    /// It sent other bytes than those of the root. Nobody gets them.
    #[error(
        "{origin} has other bytes than those of {root} ({what}); remove them there, at a bucket publish again"
    )]
    Wrong {
        /// The origin.
        origin: String,
        /// What should be there.
        root: Blake3Root,
        /// What is wrong.
        what: String,
    },
    /// A piece did not come, for a reason that was told when it was asked for.
    #[error("piece {} of {root} did not come: {}", .piece.0, .reason.explain())]
    Piece {
        /// The content.
        root: Blake3Root,
        /// The piece.
        piece: PieceIndex,
        /// Why.
        reason: Reason,
    },
    /// It cannot be used as it is configured.
    #[error("{origin} cannot be used: {cause}")]
    Setup {
        /// The origin.
        origin: String,
        /// What is wrong and what was expected.
        cause: String,
    },
    /// The disk of this seed.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// A temporary file on the disk of this seed.
    #[error("cannot write a temporary file beside the content; check space and permissions")]
    Disk(#[from] std::io::Error),
    /// The seed stops.
    #[error("this seed is stopping; it goes on after its next start")]
    Stopping,
}

impl OriginError {
    /// Nothing that is configured has the content.
    pub(super) fn nowhere(root: Blake3Root) -> OriginError {
        OriginError::Missing { origin: "no origin of this seed".to_owned(), what: root.to_string() }
    }

    /// No mirror that is configured can have the content.
    pub(super) fn at_no_mirror(root: Blake3Root) -> OriginError {
        OriginError::Missing { origin: "whatever mirror is configured".to_owned(), what: root.to_string() }
    }

    /// What the core is told of a piece that this device wanted from mirrors itself.
    pub(crate) fn of_piece(&self) -> PieceFailure {
        match self {
            // What is wrong by its head has no bytes to be judged: the file is another one, or is being replaced.
            OriginError::Missing { .. }
            | OriginError::Withheld { .. }
            | OriginError::NoRanges { .. }
            | OriginError::Setup { .. }
            | OriginError::Wrong { .. } => PieceFailure::Refused(Reason::NoPieces),
            _ => PieceFailure::Lost,
        }
    }

    /// What a device is told that asked for a piece.
    pub(super) fn reason(&self) -> Reason {
        match self {
            OriginError::Wrong { .. } => Reason::OriginCorrupt,
            OriginError::Missing { .. } => Reason::NoPieces,
            OriginError::Piece { reason, .. } => *reason,
            _ => Reason::OriginUnreachable,
        }
    }

    /// Whether the origin as a whole is of no use for the moment.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, OriginError::Unreachable { .. } | OriginError::Denied { .. })
    }
}
