//! Why metadata or a target was refused: one variant per reason, each with a stable code for reports (X4).

use super::RoleName;
use crate::digest::Sha256;
use crate::identifier::FleetId;
use crate::time::WallTime;

/// Why a refresh was refused. What the node trusted before stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The first root metadata is not the one that the fleet's identifier pins.
    #[error(
        "the root metadata belongs to fleet {found}, expected fleet {expected}; check the activation key"
    )]
    OtherFleet {
        /// The fleet that this node belongs to.
        expected: FleetId,
        /// SHA-256 of the file.
        found: FleetId,
    },
    /// Not the JSON that it should be.
    #[error("{path} is not well-formed metadata: {cause}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        cause: String,
    },
    /// Metadata of another major version of the specification.
    #[error("{path} follows version {found} of the TUF specification, this node understands 1.x")]
    OtherSpecification {
        /// The file.
        path: String,
        /// Its `spec_version`.
        found: String,
    },
    /// Metadata of another role than the file's name says.
    #[error("{path} holds metadata of type {found}, expected {expected}")]
    WrongType {
        /// The file.
        path: String,
        /// Type that belongs there.
        expected: &'static str,
        /// Its `_type`.
        found: String,
    },
    /// A file that must exist was not there.
    #[error("{0} is missing in what was offered")]
    Missing(String),
    /// A file over its limit.
    #[error("{path} has {found} bytes, the limit is {limit}")]
    TooLarge {
        /// The file.
        path: String,
        /// Bytes of it, or bytes that it was announced with.
        found: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A signature by an authorised key does not verify, and the others are not enough.
    #[error("a signature of {role} on {path} does not verify: the file was changed or is a forgery")]
    BadSignature {
        /// The role whose signature is needed.
        role: RoleName,
        /// The file.
        path: String,
    },
    /// Too few distinct authorised keys signed.
    #[error("{path} has {found} valid signatures of role {role}, {threshold} are needed")]
    TooFewSignatures {
        /// The role whose signatures are needed.
        role: RoleName,
        /// The file.
        path: String,
        /// Distinct keys whose signature verifies.
        found: usize,
        /// Needed.
        threshold: usize,
    },
    /// A root file whose version is not the next one (TUF 5.3.5).
    #[error("root metadata has version {found}, expected {expected}")]
    RootVersion {
        /// The version that must come next.
        expected: u64,
        /// The version found.
        found: u64,
    },
    /// More roots in a row than one refresh follows.
    #[error("more than {0} root rotations in one refresh")]
    TooManyRotations(u64),
    /// A timestamp older than one that this node has seen (TUF 5.4.3.1).
    #[error("timestamp version {found} is older than version {trusted}, which this node has seen")]
    TimestampRollback {
        /// Version seen before.
        trusted: u64,
        /// Version offered.
        found: u64,
    },
    /// A timestamp that names an older snapshot than before (TUF 5.4.3.2).
    #[error("snapshot version {found} is older than version {trusted}, which this node has seen")]
    SnapshotRollback {
        /// Version seen before.
        trusted: u64,
        /// Version offered.
        found: u64,
    },
    /// A snapshot that names an older version of a role than before (TUF 5.5.5).
    #[error("version {found} of role {role} is older than version {trusted}, which this node has seen")]
    TargetsRollback {
        /// The role.
        role: RoleName,
        /// Version seen before.
        trusted: u64,
        /// Version offered.
        found: u64,
    },
    /// A snapshot that no longer lists a role that it listed before (TUF 5.5.5).
    #[error("the new snapshot no longer lists role {0}")]
    RoleVanished(RoleName),
    /// A file from another snapshot than the rest (TUF 5.5.4, 5.6.4).
    #[error("{path} has version {found}, but the metadata that lists it says {listed}")]
    MixAndMatch {
        /// The file.
        path: String,
        /// Version that timestamp or snapshot list.
        listed: u64,
        /// Version found.
        found: u64,
    },
    /// A file that does not have the digest listed for it.
    #[error("{path} does not have the SHA-256 that signed metadata lists for it")]
    WrongHash {
        /// The file.
        path: String,
        /// Digest listed.
        listed: Sha256,
    },
    /// A file that does not have the length listed for it.
    #[error("{path} has {found} bytes, but signed metadata lists {listed}")]
    WrongLength {
        /// The file.
        path: String,
        /// Bytes listed.
        listed: u64,
        /// Bytes found.
        found: u64,
    },
    /// Metadata past its expiry (a freeze attack, a repository that nobody signs any more, or a wrong clock).
    #[error("{role} metadata expired at {since}; sign it again, or set this device's clock right")]
    Expired {
        /// The role.
        role: RoleName,
        /// When it expired.
        since: WallTime,
    },
    /// A delegated role that the snapshot does not list.
    #[error("role {0} is delegated to, but the snapshot does not list it")]
    NotInSnapshot(RoleName),
    /// A delegation graph larger than one search follows (TUF 5.6.7.1).
    #[error("the search for target {target} visited more than {limit} roles")]
    TooManyDelegations {
        /// The target.
        target: String,
        /// Roles visited.
        limit: usize,
    },
    /// A file that was not asked for.
    #[error("a file was provided that the refresh did not ask for")]
    NotAskedFor,
}

impl Refused {
    /// The stable reason code, for reports, counters and scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Refused::OtherFleet { .. } => "other-fleet",
            Refused::Malformed { .. } => "malformed",
            Refused::OtherSpecification { .. } => "other-specification",
            Refused::WrongType { .. } => "wrong-type",
            Refused::Missing(_) => "missing-file",
            Refused::TooLarge { .. } => "too-large",
            Refused::BadSignature { .. } => "bad-signature",
            Refused::TooFewSignatures { .. } => "too-few-signatures",
            Refused::RootVersion { .. } => "root-version",
            Refused::TooManyRotations(_) => "too-many-rotations",
            Refused::TimestampRollback { .. } => "timestamp-rollback",
            Refused::SnapshotRollback { .. } => "snapshot-rollback",
            Refused::TargetsRollback { .. } => "targets-rollback",
            Refused::RoleVanished(_) => "role-vanished",
            Refused::MixAndMatch { .. } => "mix-and-match",
            Refused::WrongHash { .. } => "wrong-hash",
            Refused::WrongLength { .. } => "wrong-length",
            Refused::Expired { .. } => "expired",
            Refused::NotInSnapshot(_) => "not-in-snapshot",
            Refused::TooManyDelegations { .. } => "too-many-delegations",
            Refused::NotAskedFor => "not-asked-for",
        }
    }
}
