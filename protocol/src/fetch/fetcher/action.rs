//! What a fetcher asks for.

use super::super::transfer::Origin;
use super::super::window::Advice;
#[cfg(doc)]
use super::Fetcher;
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::identifier::DeviceId;
use crate::piece::{PieceIndex, PieceTree};
use crate::reason::Reason;
use crate::wire::{GrantRequest, LeaseRequest, SiteMember};
use std::sync::Arc;

/// What the fetcher asks the core to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a neighbour for a grant; the answer goes to [`Fetcher::on_grant`].
    AskGrant(EffectId, DeviceId, GrantRequest),
    /// Ask a seed for leases; the answer goes to [`Fetcher::on_lease`].
    AskLease(EffectId, DeviceId, LeaseRequest),
    /// Fetch one piece and check it against the tree; the outcome goes to [`Fetcher::on_piece`].
    FetchPiece(Fetch),
    /// Read one piece at a mirror and check it against the tree; the outcome goes to [`Fetcher::on_piece`].
    ReadMirror(Read),
    /// Tell the site that this device reads at mirrors.
    SayReads,
    /// Connect to a member of the site that holds what is wanted.
    Dial(SiteMember),
    /// A source, or else a mirror, sent a piece that does not match the root: an incident.
    Corrupt(Option<DeviceId>, Blake3Root, PieceIndex),
}

/// One piece to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The effect.
    pub effect: EffectId,
    /// From whom.
    pub from: DeviceId,
    /// The proven piece list of the content.
    pub tree: Arc<PieceTree>,
    /// Which piece.
    pub piece: PieceIndex,
    /// Which way it comes: over the WAN the connection's window paces it.
    pub origin: Origin,
    /// Over the WAN, what the seed said of the way.
    pub advice: Advice,
}

/// One piece to read at a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The effect.
    pub effect: EffectId,
    /// The proven piece list of the content.
    pub tree: Arc<PieceTree>,
    /// Which piece.
    pub piece: PieceIndex,
}

/// Why a piece did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceFailure {
    /// The bytes do not match the root: the source's fault.
    Corrupt,
    /// The source refused, for this reason.
    Refused(Reason),
    /// The connection ended, or nothing came in time.
    Lost,
    /// Our own disk did not take it.
    Disk,
}
