//! Everything that reaches the core: facts from the network, the disk, the installer and the clock.

use super::reporting::Aggregated;
use crate::bitmap::PieceSet;
use crate::conditions::Conditions;
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::fetch::{Pace, PieceFailure};
use crate::identifier::{DeviceId, PatchId};
use crate::inventory::Inventory;
use crate::manifest::Content;
use crate::membership::Member;
use crate::piece::{PieceIndex, PieceTree};
use crate::reason::Reason;
use crate::time::WallTime;
use crate::trust::Bundle;
use crate::verify::Verdict;
use crate::wire::{Hint, Request, Response, Unanswered};
use std::sync::Arc;

/// Names a request of a peer until it is answered; made by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestToken(pub u64);

/// One fact for the core.
#[derive(Clone, Debug)]
pub enum Input {
    /// The time has come that [`super::Core::next_wake`] named, or the caller just asks.
    Wake,
    /// What the wall clock says.
    WallClock(WallTime),
    /// What the device stands on: power, link, the clock on its wall.
    Conditions(Conditions),
    /// The addresses on which this node listens, as multiaddresses.
    Listening(Vec<String>),
    /// A connection to a verified member stands.
    Connected(Member),
    /// A member that is connected was reached under an address that was dialled.
    Reached {
        /// The member.
        device: DeviceId,
        /// The address, as a multiaddress.
        address: String,
    },
    /// A member that is connected is on no LAN of ours: the way there leads through a tunnel.
    Distant(DeviceId),
    /// The last connection to a member ended.
    Disconnected(DeviceId),
    /// A connection that was asked for did not come about.
    DialFailed(DeviceId),
    /// The LAN shows a device; nothing about it is proven.
    Discovered {
        /// The device that claims to be there.
        device: DeviceId,
        /// Its addresses.
        addresses: Vec<String>,
    },
    /// A member asks something; answered with [`super::Output::Respond`].
    Request {
        /// Under which token to answer.
        token: RequestToken,
        /// Who asks.
        from: DeviceId,
        /// What.
        request: Request,
    },
    /// Completes [`super::Output::Request`].
    Answered {
        /// The effect.
        effect: EffectId,
        /// The answer, or why there is none.
        result: Result<Response, Unanswered>,
    },
    /// A hint by gossip.
    Hint {
        /// Who signed it; nobody checked that it is a member.
        from: DeviceId,
        /// What it says.
        hint: Hint,
    },
    /// Completes [`super::Output::FetchPiece`] or [`super::Output::ReadMirror`]: verified and on disk, or not.
    Piece {
        /// The effect.
        effect: EffectId,
        /// How it ended.
        result: Result<(), PieceFailure>,
    },
    /// How the connection to a seed goes over which a piece came.
    Paced(DeviceId, Pace),
    /// Bytes of a piece went to a peer.
    Served {
        /// The peer.
        peer: DeviceId,
        /// The content.
        root: Blake3Root,
        /// The piece.
        piece: PieceIndex,
        /// How many bytes, those that went twice included.
        bytes: u64,
        /// Whether the piece is there from its first byte to its last.
        whole: bool,
    },
    /// Blocks go to a peer; a few times a second for each.
    Serving {
        /// To whom.
        peer: DeviceId,
        /// Their bytes since the last time.
        bytes: u64,
    },
    /// What the disk holds of a content: after a start, and when content was added from outside.
    Held {
        /// The piece list with root and size.
        tree: Arc<PieceTree>,
        /// Pieces that are verified and durable.
        pieces: PieceSet,
    },
    /// The storage or mirror from which this seed reads has other bytes than those of a content; nobody got them.
    OriginWrong {
        /// The content.
        root: Blake3Root,
        /// Where, and what is wrong, in one sentence.
        detail: String,
    },
    /// This seed cannot read a content where it lies, or can again.
    Unreadable {
        /// The content.
        root: Blake3Root,
        /// What devices are told; `None` when it can be read again.
        reason: Option<Reason>,
    },
    /// There is no room for a content that is wanted.
    NoRoom {
        /// The content.
        root: Blake3Root,
        /// How much is needed and how much is free, in one sentence with the remedy.
        says: String,
    },
    /// The repository of this seed has new metadata.
    Repository {
        /// Everything that is newer than [`super::Core::trusted`] has.
        bundle: Bundle,
        /// Every target that the repository vouches for.
        targets: Vec<String>,
    },
    /// Completes [`super::Output::CheckEvidence`]: one verdict for each artifact, or why there is none.
    EvidenceChecked {
        /// The effect.
        effect: EffectId,
        /// The verdicts.
        result: Result<Vec<Verdict>, Reason>,
    },
    /// Completes [`super::Output::FullCheck`].
    FullChecked {
        /// The effect.
        effect: EffectId,
        /// Whether SHA-256 and the vendor's rule hold over the whole content.
        result: Result<(), Reason>,
    },
    /// Completes [`super::Output::FullCheck`] too: the disk changed these pieces since they were verified, and they are
    /// out of its record.
    Damaged {
        /// The effect.
        effect: EffectId,
        /// The pieces.
        pieces: PieceSet,
    },
    /// Completes [`super::Output::Scan`].
    Scanned {
        /// The effect.
        effect: EffectId,
        /// What is installed, or why that cannot be told.
        result: Result<Inventory, String>,
    },
    /// All checks of the installer passed and it waits for [`super::Output::StartInstaller`]; `Installed` still follows.
    InstallerReady {
        /// The effect of [`super::Output::Install`].
        effect: EffectId,
    },
    /// Completes [`super::Output::Install`].
    Installed {
        /// The effect.
        effect: EffectId,
        /// How the installer ended; the rescan decides what it means.
        result: InstallEnd,
    },
    /// Completes [`super::Output::Store`].
    Stored {
        /// The effect.
        effect: EffectId,
        /// Whether the records are durable.
        result: Result<(), StoreFailure>,
    },
    /// Completes [`super::Output::Aggregate`].
    Aggregated {
        /// The effect.
        effect: EffectId,
        /// The signed watermark, or why the reports were refused.
        result: Result<Aggregated, Reason>,
    },
    /// A person at this device asks for something.
    Command(Command),
    /// The node is about to stop: the last records to store come out now.
    Stopping,
}

/// What a person at this device can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Scan now.
    Scan,
    /// Check in now: fetch newer metadata.
    CheckIn,
    /// Deploy now, within policy: one patch, or all that are planned.
    Deploy(Option<PatchId>),
}

/// How an installer run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstallEnd {
    /// The installer started and exited.
    Exited {
        /// Its exit code; `None` when it was ended for taking too long.
        code: Option<i32>,
        /// The end of what it said, bounded.
        log: String,
    },
    /// The installer started, and somebody else ended it: an interruption, which is no verdict on the patch.
    Killed {
        /// By what, and the end of what it said, bounded.
        log: String,
    },
    /// Nothing was started: not a retry.
    NotStarted(Reason, String),
}

/// Why records could not be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's store did not take the records: {0}")]
pub struct StoreFailure(pub String);

/// A content and an approved manifest that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The content.
    pub content: Content,
    /// The manifest.
    pub manifest: crate::identifier::ManifestDigest,
}
