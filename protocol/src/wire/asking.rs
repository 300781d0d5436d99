//! Asking for pieces: leases from a seed, grants from a neighbour.

use super::{SiteMember, Versions};
use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::identifier::{DeviceId, ManifestDigest};
use crate::limits;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use serde::{Deserialize, Serialize};

/// Asks a seed for the right to fetch pieces over the WAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// What is wanted, the most urgent first; at most [`limits::LEASE_LINES`] contents.
    pub lines: Vec<LeaseLine>,
    /// Members that the asker cannot get the pieces from; a list of [`limits::MEMBERS_PER_ANSWER`] stands for everybody.
    pub unreachable: Vec<DeviceId>,
    /// Whether the asker exchanges nothing with its site: it is away, or reaches nobody there. It fetches for itself.
    pub alone: bool,
    /// Bytes that the asker wants to hold leases on, those that it holds already included.
    pub room_bytes: u64,
    /// The smallest round trip to the seed that the asker has seen, in microseconds; 0 when it has seen none.
    pub round_trip_micros: u32,
    /// What the asker fetches over the WAN, in bytes per second; 0 when it has not fetched.
    pub bytes_per_second: u32,
}

/// One content of a [`LeaseRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseLine {
    /// The content.
    pub root: Blake3Root,
    /// An approved manifest that names it.
    pub manifest: ManifestDigest,
    /// Pieces that the asker lacks and can get from no neighbour.
    pub wanted: PieceSet,
    /// Whether the asker still needs the piece list.
    pub need_tree: bool,
}

/// The seed's answer to a [`LeaseRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// The answer for each content that was asked for.
    pub lines: Vec<LeasedLine>,
    /// Members of the site that hold or are fetching what others lease; lines name them by their place.
    pub members: Vec<SiteMember>,
    /// Metadata versions by which it was judged, so that a stale asker can catch up.
    pub versions: Versions,
    /// When to ask again for what was not leased, in milliseconds.
    pub retry_milliseconds: u32,
    /// The smallest round trip to the seed that anybody in the site has seen, in microseconds; 0 when nobody has.
    pub round_trip_micros: u32,
    /// The queue that the site's fetchers are to aim at, in microseconds: shorter than usual where the site is ahead of
    /// others in what the seed sends; 0 when it is not.
    pub target_micros: u32,
    /// In how many microseconds all sites are to slow down for a moment, so that each sees its way without a queue; 0 for no time.
    pub drain_micros: u32,
}

/// The answer for one content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasedLine {
    /// The content.
    pub root: Blake3Root,
    /// Why the seed gives nothing of it; then the rest is empty.
    pub refused: Option<Reason>,
    /// Pieces that the asker, and nobody else of its site, may fetch now; each with the reason for its bytes.
    pub leased: Vec<(PieceIndex, Reason)>,
    /// Who holds or is fetching the other pieces that were asked for, by their place in the list of members.
    pub holders: Vec<u8>,
    /// Chaining values of the pieces, when they were asked for.
    pub tree: Option<Vec<[u8; 32]>>,
}

impl LeasedLine {
    /// Nothing of a content, and no word about it.
    pub fn nothing(root: Blake3Root) -> LeasedLine {
        LeasedLine { root, refused: None, leased: Vec::new(), holders: Vec::new(), tree: None }
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.leased.len() <= limits::LEASED_PIECES && self.holders.len() <= limits::MEMBERS_PER_ANSWER
    }
}

/// Asks a neighbour for permission to fetch pieces of a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRequest {
    /// The content.
    pub root: Blake3Root,
    /// An approved manifest that names it.
    pub manifest: ManifestDigest,
    /// Whether the asker still needs the piece list.
    pub need_tree: bool,
}

/// A neighbour's permission: its share gate let the asker through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantAnswer {
    /// Pieces that it holds.
    pub pieces: PieceSet,
    /// Chaining values of the pieces, when they were asked for.
    pub tree: Option<Vec<[u8; 32]>>,
    /// How long the grant holds, in seconds, unless it is taken back.
    pub seconds: u32,
}
