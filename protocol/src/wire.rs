//! Control messages between members: one request and one response on a stream of their own, bounded when decoded.

mod asking;

pub use asking::{GrantAnswer, GrantRequest, LeaseAnswer, LeaseLine, LeaseRequest, LeasedLine};

use crate::bitmap::PieceSet;
use crate::codec::{self, DecodeError};
use crate::conditions::Medium;
use crate::digest::Blake3Root;
use crate::identifier::{DeviceId, SiteName};
use crate::limits;
use crate::reason::Reason;
use crate::system::System;
use crate::trust::{self, Bundle, Trusted};
use serde::{Deserialize, Serialize};

/// The wire protocols that carry control messages; each is a versioned name under `/patchmesh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// `/patchmesh/hello/2`: acquaintance and news between neighbours.
    Hello,
    /// `/patchmesh/site/6`: the seed as tracker of a site.
    Site,
    /// `/patchmesh/neighbours/1`: a place among the neighbours, or others to go to.
    Neighbours,
    /// `/patchmesh/grant/1`: permission to fetch pieces from a neighbour.
    Grant,
    /// `/patchmesh/metadata/1`: signed metadata in bundles.
    Metadata,
    /// `/patchmesh/reports/1`: reports to an aggregator.
    Reports,
}

impl Channel {
    /// All of them.
    pub const ALL: [Channel; 6] = [
        Channel::Hello,
        Channel::Site,
        Channel::Neighbours,
        Channel::Grant,
        Channel::Metadata,
        Channel::Reports,
    ];

    /// The name on the wire, which ends in the version.
    pub const fn name(self) -> &'static str {
        match self {
            Channel::Hello => "/patchmesh/hello/2",
            Channel::Site => "/patchmesh/site/6",
            Channel::Neighbours => "/patchmesh/neighbours/1",
            Channel::Grant => "/patchmesh/grant/1",
            Channel::Metadata => "/patchmesh/metadata/1",
            Channel::Reports => "/patchmesh/reports/1",
        }
    }

    /// Largest request in bytes.
    pub const fn request_limit(self) -> usize {
        limits::MESSAGE_BYTES
    }

    /// Largest response in bytes.
    pub const fn response_limit(self) -> usize {
        match self {
            Channel::Metadata => limits::BUNDLE_MESSAGE_BYTES,
            _ => limits::MESSAGE_BYTES,
        }
    }
}

impl std::fmt::Display for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Versions of a node's trusted metadata; 0 before the first refresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of the root.
    pub root: u64,
    /// Of the timestamp.
    pub timestamp: u64,
    /// Of the snapshot.
    pub snapshot: u64,
}

impl Versions {
    /// Versions of `trusted`.
    pub fn of(trusted: &Trusted) -> Versions {
        Versions {
            root: trusted.root_version(),
            timestamp: trusted.timestamp_version(),
            snapshot: trusted.snapshot_version(),
        }
    }

    /// Whether `other` has anything newer.
    pub fn is_older_than(self, other: Versions) -> bool {
        self.root < other.root || self.timestamp < other.timestamp || self.snapshot < other.snapshot
    }
}

/// What one node knows that others may want to know: facts that only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// Versions of the trusted metadata.
    pub versions: Versions,
    /// What the node holds, for contents that it may share.
    pub holdings: Vec<Holding>,
}

/// The pieces of one content that a node holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The content.
    pub root: Blake3Root,
    /// The pieces.
    pub pieces: PieceSet,
}

impl Holding {
    /// At most so many bytes does it take up in a message: nine for each number.
    pub fn bytes(&self) -> usize {
        32 + 9 + 9 * self.pieces.words()
    }
}

/// The first message on a connection, in both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the product, for people.
    pub agent: String,
    /// What its bytes pass through: neighbours on a cable are asked before those in the air.
    pub medium: Medium,
    /// What the node knows.
    pub news: News,
}

/// A node tells the seed where its neighbours can reach it, and asks who they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// The node's own listening addresses, as multiaddresses.
    pub addresses: Vec<String>,
    /// Versions of its trusted metadata.
    pub versions: Versions,
    /// How much later it is at the node than in UTC, in minutes: business hours are those of the site.
    pub utc_offset_minutes: i16,
    /// How many other members it wants to hear of.
    pub members: u8,
    /// What it would ask for if it were its turn to fetch metadata; none when it knows of nothing newer.
    pub metadata: Option<trust::Request>,
    /// Whether it exchanges nothing with its site: it is away, or reaches nobody there. Nobody is to count on it.
    pub alone: bool,
}

/// What the seed knows of the asker's site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteView {
    /// Other members of the site that are there now, as many as the asker wants and at most [`limits::MEMBERS_PER_ANSWER`].
    pub members: Vec<SiteMember>,
    /// Versions of the seed's metadata.
    pub versions: Versions,
    /// Whether the asker is the one that fetches the newer metadata for the whole site.
    pub fetch_metadata: bool,
    /// That metadata, at most [`limits::BUNDLE_ALONG_BYTES`]: the asker's turn is over with it.
    pub metadata: Option<Bundle>,
}

/// One member of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteMember {
    /// The device.
    pub device: DeviceId,
    /// Its operating system, by which the asker chooses neighbours that can share with it.
    pub system: System,
    /// Its addresses.
    pub addresses: Vec<String>,
}

/// A member of the site wants to be a neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meet {
    /// Its own listening addresses, as multiaddresses: others are referred to them.
    pub addresses: Vec<String>,
    /// How many other neighbours it has.
    pub neighbours: u16,
    /// How many of those may share content with it.
    pub kin: u16,
}

/// The answer to a [`Meet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// Whether it may stay.
    pub welcome: bool,
    /// Members of the site to go to: when it may not stay, and when it has few neighbours of its own kind.
    pub members: Vec<SiteMember>,
}

/// A request from one member to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you and what do you have?
    Hello(Hello),
    /// Something changed since the hello.
    News(News),
    /// Who is in my site?
    Announce(Announce),
    /// May I fetch this over the WAN?
    Lease(LeaseRequest),
    /// May I fetch this from you?
    Grant(GrantRequest),
    /// What is newer than what I have?
    Metadata(trust::Request),
    /// Take these reports ([`crate::report`], encoded one by one).
    Reports(Vec<Vec<u8>>),
    /// May I be your neighbour?
    Meet(Meet),
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To `Hello`.
    Hello(Hello),
    /// To `News`.
    Noted,
    /// To `Announce`.
    Site(SiteView),
    /// To `Lease`.
    Lease(LeaseAnswer),
    /// To `Grant`.
    Grant(GrantAnswer),
    /// To `Metadata`; empty when there is nothing newer.
    Metadata(Bundle),
    /// To `Reports`.
    Watermark {
        /// The signed watermark, encoded.
        mark: Vec<u8>,
        /// The sequence that is expected next, when the batch left a gap.
        expected: Option<u64>,
    },
    /// The request was understood and refused.
    Refused {
        /// Why.
        reason: Reason,
        /// Metadata versions by which it was judged, so that a stale asker can catch up.
        versions: Versions,
    },
    /// To `Meet`.
    Met(Met),
}

impl Request {
    /// The protocol that carries this request.
    pub fn channel(&self) -> Channel {
        match self {
            Request::Hello(_) | Request::News(_) => Channel::Hello,
            Request::Announce(_) | Request::Lease(_) => Channel::Site,
            Request::Meet(_) => Channel::Neighbours,
            Request::Grant(_) => Channel::Grant,
            Request::Metadata(_) => Channel::Metadata,
            Request::Reports(_) => Channel::Reports,
        }
    }

    /// Decodes a request that arrived on `channel`.
    ///
    /// # Errors
    /// [`DecodeError`]; a request that belongs to another channel is malformed too.
    pub fn decode(channel: Channel, bytes: &[u8]) -> Result<Request, DecodeError> {
        let request: Request = codec::decode::<_, { limits::MESSAGE_BYTES }>(bytes)?;
        let lists_hold = match &request {
            Request::Hello(hello) => hello.news.is_bounded() && hello.agent.len() <= limits::NAME_BYTES,
            Request::News(news) => news.is_bounded(),
            Request::Announce(announce) => {
                let wanted = announce.metadata.as_ref().map_or(0, |request| request.wanted.len());
                are_bounded(&announce.addresses) && wanted <= limits::BUNDLE_FILES
            }
            Request::Meet(meet) => are_bounded(&meet.addresses),
            Request::Lease(lease) => {
                lease.unreachable.len() <= limits::MEMBERS_PER_ANSWER
                    && lease.lines.len() <= limits::LEASE_LINES
            }
            Request::Grant(_) => true,
            Request::Metadata(request) => request.wanted.len() <= limits::BUNDLE_FILES,
            Request::Reports(reports) => reports.len() <= limits::REPORTS_PER_BATCH,
        };
        if request.channel() != channel || !lists_hold {
            return Err(DecodeError::Malformed(
                "request does not belong on this protocol or is too long".to_owned(),
            ));
        }
        Ok(request)
    }
}

impl Response {
    /// Decodes the response to a request on `channel`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(channel: Channel, bytes: &[u8]) -> Result<Response, DecodeError> {
        let response: Response = match channel {
            Channel::Metadata => codec::decode::<_, { limits::BUNDLE_MESSAGE_BYTES }>(bytes)?,
            _ => codec::decode::<_, { limits::MESSAGE_BYTES }>(bytes)?,
        };
        let lists_hold = match &response {
            Response::Hello(hello) => hello.news.is_bounded() && hello.agent.len() <= limits::NAME_BYTES,
            Response::Site(view) => are_members_bounded(&view.members),
            Response::Lease(answer) => {
                are_members_bounded(&answer.members)
                    && answer.lines.len() <= limits::LEASE_LINES
                    && answer.lines.iter().all(LeasedLine::is_bounded)
            }
            Response::Met(met) => are_members_bounded(&met.members),
            _ => true,
        };
        if lists_hold { Ok(response) } else { Err(DecodeError::Malformed("a list is too long".to_owned())) }
    }
}

impl News {
    fn is_bounded(&self) -> bool {
        self.holdings.len() <= limits::ARTIFACTS_TRACKED
    }
}

fn are_bounded(addresses: &[String]) -> bool {
    addresses.len() <= limits::ADDRESSES_PER_DEVICE
        && addresses.iter().all(|address| address.len() <= limits::NAME_BYTES)
}

fn are_members_bounded(members: &[SiteMember]) -> bool {
    members.len() <= limits::MEMBERS_PER_ANSWER && members.iter().all(|member| are_bounded(&member.addresses))
}

/// A hint on the fleet's gossip topic; its loss is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hint {
    /// The sender has metadata of these versions.
    Metadata(Versions),
    /// The sender reaches no seed and reads at mirrors.
    Reads {
        /// Its site.
        site: SiteName,
        /// What it reads: of each root the first four bytes, as a number in little endian; at most [`limits::ROOTS_READ`].
        roots: Vec<u32>,
    },
    /// The sender is of this site and reaches a seed: nobody there need read at mirrors.
    Reached(SiteName),
}

impl Hint {
    /// Decodes a hint.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Hint, DecodeError> {
        let hint = codec::decode::<_, { limits::HINT_BYTES }>(bytes)?;
        match &hint {
            Hint::Reads { roots, .. } if roots.len() > limits::ROOTS_READ => {
                Err(DecodeError::Malformed("a list is too long".to_owned()))
            }
            _ => Ok(hint),
        }
    }
}

/// Whether a request was answered at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// No connection, or it ended: whether the request arrived is not known.
    #[error("the connection ended before an answer came")]
    Disconnected,
    /// No answer in time: whether the request arrived is not known.
    #[error("no answer came in time")]
    TimedOut,
    /// The other side does not speak this protocol or sent something that is not an answer.
    #[error("the answer was malformed")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identifier::ManifestDigest;
    use crate::piece::PieceIndex;
    use proptest::prelude::*;

    #[test]
    fn requests_round_trip_on_their_own_channel_only() {
        let line = LeaseLine {
            root: Blake3Root::of(b"x"),
            manifest: ManifestDigest::from_bytes([1; 32]),
            wanted: PieceSet::full(3),
            need_tree: true,
        };
        let request = Request::Lease(LeaseRequest {
            lines: vec![line],
            unreachable: vec![DeviceId::from_bytes([2; 32])],
            alone: false,
            room_bytes: 1,
            round_trip_micros: 2,
            bytes_per_second: 3,
        });
        let bytes = codec::encode(&request);
        assert_eq!(Request::decode(Channel::Site, &bytes), Ok(request));
        assert!(Request::decode(Channel::Hello, &bytes).is_err());
    }

    #[test]
    fn an_answer_with_too_many_leases_or_holders_is_refused() {
        let root = Blake3Root::of(b"x");
        let decoded = |leased: usize, holders: usize| {
            let leased = vec![(PieceIndex(0), Reason::Lease); leased];
            let line = LeasedLine { leased, holders: vec![0; holders], ..LeasedLine::nothing(root) };
            let answer = LeaseAnswer { lines: vec![line], ..LeaseAnswer::default() };
            Response::decode(Channel::Site, &codec::encode(&Response::Lease(answer)))
        };
        let (pieces, members) = (limits::LEASED_PIECES, limits::MEMBERS_PER_ANSWER);
        assert!(decoded(pieces, members).is_ok());
        assert!(decoded(pieces + 1, 0).is_err() && decoded(0, members + 1).is_err());
    }

    #[test]
    fn the_largest_bundle_travels() {
        let mut bundle = Bundle::default();
        let name = |number: usize| format!("targets/{}{number:03}.json", "a".repeat(120));
        let each = limits::BUNDLE_BYTES / limits::BUNDLE_FILES;
        for number in 0..limits::BUNDLE_FILES {
            bundle.insert(name(number), vec![1; each]).expect("it fits");
        }
        let bytes = codec::encode(&Response::Metadata(bundle));
        assert!((limits::BUNDLE_BYTES..=Channel::Metadata.response_limit()).contains(&bytes.len()));
        assert!(Response::decode(Channel::Metadata, &bytes).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            for channel in Channel::ALL {
                let _ = Request::decode(channel, &bytes);
                let _ = Response::decode(channel, &bytes);
            }
            let _ = Hint::decode(&bytes);
        }
    }
}
