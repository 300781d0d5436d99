//! Everything the core asks to be done; each effect completes exactly once, with the input that names it.

use super::input::RequestToken;
use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::fetch::turns::Ceilings;
use crate::fetch::{Fetch, Read};
use crate::fleet::Vendors;
use crate::identifier::{DeviceId, PatchId};
use crate::manifest::{Artifact, Content, Manifest};
use crate::membership::{Member, Verifier};
use crate::piece::PieceIndex;
use crate::policy::mirror::Mirror;
use crate::rate::Rate;
use crate::reason::Reason;
use crate::wire::{Hint, Request, Response};
use std::sync::Arc;
use std::time::Duration;

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Connect to a device. Completes with `Connected` or `DialFailed`, unless it is connected already.
    Dial {
        /// The device.
        device: DeviceId,
        /// Its addresses, as multiaddresses; unproven.
        addresses: Vec<String>,
        /// How it was found.
        rung: Rung,
    },
    /// Connect to whoever is named at the end of these multiaddresses, which stand in `fleet/sites.toml`. Completes as
    /// `Dial` does, for each.
    DialWritten(Vec<String>),
    /// End every connection to a device, for this reason.
    Disconnect(DeviceId, Reason),
    /// Ask a member something. Completes with `Answered`.
    Request {
        /// The effect.
        effect: EffectId,
        /// Whom.
        to: DeviceId,
        /// What.
        request: Request,
    },
    /// Answer a request of a member.
    Respond {
        /// The token of the request.
        token: RequestToken,
        /// The answer.
        response: Response,
    },
    /// Tell the fleet's gossip topic.
    Publish(Hint),
    /// Fetch one piece, check it against the tree, store it. Completes with `Piece`.
    FetchPiece(Fetch),
    /// Read one piece at a mirror, check it against the tree, store it. Completes with `Piece`.
    ReadMirror {
        /// What to read.
        read: Read,
        /// A manifest that names the content.
        manifest: Arc<Manifest>,
        /// Mirrors of its vendor.
        mirrors: Vec<Mirror>,
    },
    /// From now on `peer` may read these pieces of `root`; replaces an earlier grant for the two.
    Grant {
        /// The peer.
        peer: DeviceId,
        /// The content.
        root: Blake3Root,
        /// Which pieces; `None` means all that are held.
        pieces: Option<PieceSet>,
        /// For how long.
        lasting: Duration,
    },
    /// Takes grants back at once, running transfers included.
    Revoke {
        /// The peer, or everybody.
        peer: Option<DeviceId>,
        /// The content.
        root: Blake3Root,
    },
    /// From now on no more passes than this.
    Caps {
        /// What is served to others.
        serving: Ceilings,
        /// What is fetched over the WAN.
        download: Option<Rate>,
    },
    /// Delete a content: its full check failed, or nobody wants it any more.
    Discard(Blake3Root),
    /// Check the evidence of a manifest's artifacts with the contents that are here. Completes with `EvidenceChecked`.
    CheckEvidence {
        /// The effect.
        effect: EffectId,
        /// The manifest.
        manifest: Arc<Manifest>,
        /// Whose keys count.
        vendors: Arc<Vendors>,
    },
    /// Check the whole of a complete content: SHA-256, and for an artifact what its format says about itself.
    /// Completes with `FullChecked`.
    FullCheck {
        /// The effect.
        effect: EffectId,
        /// The content.
        content: Content,
        /// The manifest and the artifact, when the content is an artifact and not evidence.
        artifact: Option<(Arc<Manifest>, Artifact)>,
    },
    /// Read what is installed. Completes with `Scanned`.
    Scan {
        /// The effect.
        effect: EffectId,
    },
    /// Install a patch whose artifacts are complete and checked. Completes with `Installed`.
    Install {
        /// The effect.
        effect: EffectId,
        /// What.
        manifest: Arc<Manifest>,
        /// The plan by which it happens.
        generation: u64,
    },
    /// Answers `InstallerReady`: the start of the installer is recorded, or must not happen for this reason.
    StartInstaller {
        /// The effect of `Install`.
        effect: EffectId,
        /// Whether to start it.
        go: Result<(), Reason>,
    },
    /// Make records durable, all or none. Completes with `Stored`.
    Store {
        /// The effect.
        effect: EffectId,
        /// The records.
        records: Vec<Record>,
    },
    /// Apply reports of a member to the aggregate state, durably, and sign a watermark. Completes with `Aggregated`.
    Aggregate {
        /// The effect.
        effect: EffectId,
        /// Who sent them.
        member: Member,
        /// The reports, encoded.
        reports: Vec<Vec<u8>>,
    },
    /// Membership is checked by this from now on.
    TrustChanged(Verifier),
    /// Something happened that logs, counters and people may want to know.
    Event(Event),
}

/// The rung of the ladder of discovery on which a device was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Multicast on the LAN.
    Lan,
    /// It was connected before.
    Remembered,
    /// The seed named it, as tracker of the site.
    Tracker,
    /// A neighbour named it.
    Referred,
    /// It came by itself.
    Incoming,
    /// Its address stands in `fleet/sites.toml`.
    Written,
    /// It is a seed or an aggregator of `fleet/services.toml`.
    Services,
}

impl Rung {
    /// Its name, for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Rung::Lan => "mdns",
            Rung::Remembered => "remembered",
            Rung::Tracker => "tracker",
            Rung::Referred => "referred",
            Rung::Incoming => "incoming",
            Rung::Written => "sites",
            Rung::Services => "services",
        }
    }
}

/// One record of the node's store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value; `None` deletes it.
    pub value: Option<Vec<u8>>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A content that is not needed here was let go, for room or because nobody asked for it in a long time.
    LetGo {
        /// The content.
        root: Blake3Root,
        /// Its size.
        bytes: u64,
        /// Whether nobody else in the site is known to have it.
        last: bool,
    },
    /// Newer metadata is in force.
    MetadataAccepted {
        /// Version of the timestamp.
        timestamp: u64,
    },
    /// Metadata was refused; what was trusted before stays in force.
    MetadataRefused {
        /// Stable code.
        code: &'static str,
        /// What was wrong.
        message: String,
    },
    /// This node did not let somebody have something.
    ShareRefused {
        /// The asker.
        peer: DeviceId,
        /// The content.
        root: Blake3Root,
        /// Why.
        reason: Reason,
    },
    /// A request or an answer of a peer was refused as a whole.
    PeerRefused {
        /// The peer.
        peer: DeviceId,
        /// Why.
        reason: Reason,
    },
    /// This node does not take what a peer offers.
    OfferRefused {
        /// Who offers it.
        peer: DeviceId,
        /// The content.
        root: Blake3Root,
        /// Why not.
        reason: Reason,
    },
    /// Somebody did not let this node have something.
    FetchRefused {
        /// Who.
        peer: DeviceId,
        /// The content.
        root: Blake3Root,
        /// Why.
        reason: Reason,
    },
    /// A peer sent bytes that do not match the root.
    PieceCorrupt {
        /// The peer.
        peer: DeviceId,
        /// The content.
        root: Blake3Root,
        /// The piece.
        piece: PieceIndex,
    },
    /// The storage or mirror of this seed has other bytes than those of a content; nobody gets them.
    OriginWrong {
        /// The content.
        root: Blake3Root,
        /// Where, and what is wrong, in one sentence.
        detail: String,
    },
    /// A content is here whole, and what its check needs is not on this device.
    Unchecked {
        /// The content.
        root: Blake3Root,
    },
    /// A content is here, whole and checked.
    ContentComplete {
        /// The content.
        content: Content,
    },
    /// The evidence of a patch was refused: it is neither shared nor installed.
    EvidenceRefused {
        /// The patch.
        patch: PatchId,
        /// Why.
        reason: Reason,
    },
    /// A deployment changed its state.
    Deployment {
        /// The patch.
        patch: PatchId,
        /// The new state, in words.
        state: String,
    },
    /// The scan failed.
    ScanFailed(String),
    /// The store failed: nothing that depends on the records happens.
    StoreFailed(String),
    /// How far this device's clock is ahead of the aggregator's (behind it when negative), by its signed word; 0 when they
    /// agree.
    ClockDiffers {
        /// Seconds.
        seconds: i64,
    },
    /// The aggregator knows other reports under this device's identity although a new history was begun not long ago: another
    /// device has the same key, and the reports of this one wait.
    OtherHistory {
        /// Whether it is so; otherwise it is over.
        stands: bool,
    },
    /// The disk of this device changed content that was verified before.
    DiskDamaged {
        /// The content.
        root: Blake3Root,
        /// How it is mended.
        mending: Mending,
    },
    /// Another problem that a person should know of.
    Problem(String),
}

/// How a content comes back that the disk of this device changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mending {
    /// The damaged pieces are fetched again.
    Fetched,
    /// This is a seed, where nothing is fetched: somebody has to hand the file in again.
    HandedIn,
    /// Nothing here needs it any more: nobody fetches it.
    NotNeeded,
    /// It was fetched again so often that the disk has to be looked at first.
    GivenUp,
}
