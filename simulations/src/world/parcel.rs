//! Something on its way from one device to another, and what can carry it.

use protocol::digest::Blake3Root;
use protocol::effect::EffectId;
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use protocol::wire::Channel;

/// Something that carries, by site or by device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    /// From headquarters to a site.
    WanDown(usize),
    /// From a site to headquarters.
    WanUp(usize),
    /// The wires of a site.
    Lan(usize),
    /// The Wi-Fi of a site.
    Air(usize),
    /// The thin link of a straggler.
    Own(usize),
}

impl Path {
    pub(super) fn is_wan(self) -> bool {
        matches!(self, Path::WanDown(_) | Path::WanUp(_))
    }
}

/// What is on its way.
#[derive(Clone, Debug)]
pub(super) enum Freight {
    Request {
        effect: EffectId,
        channel: Channel,
        bytes: Vec<u8>,
    },
    Response {
        effect: EffectId,
        channel: Channel,
        bytes: Vec<u8>,
    },
    Hint(Vec<u8>),
    PieceRequest {
        effect: EffectId,
        root: Blake3Root,
        piece: PieceIndex,
    },
    PieceBytes {
        effect: EffectId,
        root: Blake3Root,
        piece: PieceIndex,
        corrupt: bool,
    },
    PieceRefused {
        effect: EffectId,
        reason: Reason,
    },
    /// What a mirror sends to the process of this life.
    MirrorBytes {
        effect: EffectId,
        root: Blake3Root,
        piece: PieceIndex,
        life: u32,
    },
}

impl Freight {
    /// The piece whose bytes these are.
    pub(super) fn piece(&self) -> Option<(Blake3Root, PieceIndex)> {
        match self {
            Freight::PieceBytes { root, piece, .. } | Freight::MirrorBytes { root, piece, .. } => {
                Some((*root, *piece))
            }
            _ => None,
        }
    }
}

/// Something on its way from one device to another.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub from: usize,
    pub to: usize,
    pub connection: u64,
    /// What carries it now.
    pub path: Path,
    /// What carries it afterwards, the last first.
    pub route: Vec<Path>,
    /// Whether it has crossed the WAN towards a site.
    pub crossed: bool,
    pub bytes: u64,
    /// What its bytes are for.
    pub label: &'static str,
    pub freight: Freight,
}
