//! Every bound of the protocol in one place, each with the harm that it prevents.

/// Bytes of one piece, the unit that is verified and shared (1 MiB; the last piece of an artifact may be shorter).
/// A larger piece would be a larger amount of memory that an unverified byte can hold.
pub const PIECE_BYTES: u64 = 1 << 20;

/// Bytes of one block, the unit of pacing. A larger block would queue longer on a thin link than the politeness target.
pub const BLOCK_BYTES: usize = 64 << 10;

/// Largest artifact that a manifest may name (64 GiB): bounds the piece list that a peer can make us hold (2 MiB).
pub const ARTIFACT_BYTES: u64 = 64 << 30;

/// Artifacts in one manifest: bounds the work that one approval can cause.
pub const ARTIFACTS_PER_MANIFEST: usize = 64;

/// Manifests in one catalogue: bounds memory for what an import host, which is online, can publish.
pub const MANIFESTS_PER_CATALOGUE: usize = 50_000;

/// Operating-system targets, requirements, supersessions or CVEs in one manifest: bounds a hostile catalogue entry.
pub const LIST_ENTRIES: usize = 1_024;

/// Longest identifier (patch, site, vendor, host name): bounds log lines and database keys.
pub const NAME_BYTES: usize = 200;

/// Longest free text (a title, a reason): bounds what a signer can make us store and show.
pub const TEXT_BYTES: usize = 1_000;

/// One control message between members, encoded. Larger ones would let a member fill our memory before we look at them.
pub const MESSAGE_BYTES: usize = 4 << 20;

/// The first message of a stranger on the enrolment address: strangers get little memory.
pub const ENROL_MESSAGE_BYTES: usize = 16 << 10;

/// A membership certificate, encoded: it is read from strangers before anything is proven.
pub const CERTIFICATE_BYTES: usize = 4 << 10;

/// One file of signed metadata (root, timestamp, snapshot, targets and delegations).
pub const METADATA_BYTES: usize = 2 << 20;

/// A timestamp file: it is fetched without a length from elsewhere, so it must be small (TUF 5.3.1).
pub const TIMESTAMP_BYTES: usize = 16 << 10;

/// Root versions that one refresh walks through (TUF 5.3.3): a hostile mirror could otherwise feed them for ever.
pub const ROOT_ROTATIONS: u64 = 256;

/// Delegated roles visited in search of one target (TUF 5.6.7.1): bounds a delegation graph made to be walked for ever.
pub const DELEGATIONS_VISITED: usize = 32;

/// Keys and signatures in one metadata file: each costs a signature check.
pub const SIGNATURES_PER_FILE: usize = 64;

/// One file that metadata describes and every node reads (policy, sites, catalogue).
pub const TARGET_BYTES: usize = 16 << 20;

/// All files of one metadata bundle together: bounds what a neighbour can make us hold before it is checked.
pub const BUNDLE_BYTES: usize = 32 << 20;

/// Files in one metadata bundle.
pub const BUNDLE_FILES: usize = 512;

/// Time a stranger has to prove membership on a new connection, in seconds: idle strangers would use up connections.
pub const STRANGER_SECONDS: u64 = 5;

/// Connections of one node, strangers included: bounds file descriptors and memory.
pub const CONNECTIONS: u32 = 512;

/// Connections to one peer: a second one is a reconnect, more are a mistake or an attack.
pub const CONNECTIONS_PER_PEER: u32 = 2;

/// Neighbours that a node asks for content: more cost state exchange and bring nothing (8 to 24 in the design).
pub const NEIGHBOURS: usize = 24;

/// Members in one answer of the tracker: bounds the answer for a site of any size.
pub const MEMBERS_PER_ANSWER: usize = 64;

/// Addresses that one device may announce: each is a connection that somebody else will try.
pub const ADDRESSES_PER_DEVICE: usize = 8;

/// Pieces that a node fetches at the same time: bounds memory (this many pieces of 1 MiB) and buffers on the way.
pub const PIECES_IN_FLIGHT: usize = 16;

/// Pieces in flight to one source: keeps the link busy without making one source a bottleneck.
pub const PIECES_IN_FLIGHT_PER_SOURCE: usize = 4;

/// Pieces leased to one fetcher at a time: what is lost, at worst, when the fetcher dies.
pub const LEASED_PIECES: usize = 4;

/// Artifacts that a node tracks at once, of its own or of a neighbour: bounds the state that a peer can create.
pub const ARTIFACTS_TRACKED: usize = 4_096;

/// Streams that one peer may have open towards us: each costs a buffer and a task.
pub const STREAMS_PER_PEER: usize = 32;

/// Reports in one batch to an aggregator.
pub const REPORTS_PER_BATCH: usize = 64;

/// One report, encoded: a full scan of the largest catalogue fits.
pub const REPORT_BYTES: usize = 1 << 20;

/// Reports waiting for a watermark before the outbox compacts to the latest state: bounds the disk while cut off.
pub const OUTBOX_REPORTS: usize = 10_000;

/// Inputs waiting for the driver: senders wait when it is full, so a flood slows its sender and not the node.
pub const DRIVER_QUEUE: usize = 1_024;

/// One line on the control socket.
pub const CONTROL_BYTES: usize = 64 << 20;

/// Uses of one activation key: a leaked one cannot enrol a fleet of its own.
pub const TOKEN_USES: u32 = 100_000;

/// Days that accepted metadata stays in force when nothing newer can be had, unless policy says otherwise (X6).
pub const OFFLINE_DAYS: u32 = 30;

/// Seconds between two refreshes of the signed metadata (the check-in): 4 hours.
pub const CHECK_IN_SECONDS: u64 = 4 * 3600;

/// Packages in one inventory: bounds the memory that a package database, or a report about one, can take.
pub const PACKAGES_PER_INVENTORY: usize = 200_000;

/// One file of a package database: a larger one is damaged, and reading it would take all memory.
pub const PACKAGE_DATABASE_BYTES: u64 = 256 << 20;

/// Files in the journal of a package database (dpkg merges its own after 250): bounds the work of one scan.
pub const PACKAGE_JOURNAL_FILES: usize = 300;

/// One file of that journal, which holds one package: a larger one is damaged.
pub const PACKAGE_JOURNAL_FILE_BYTES: u64 = 1 << 20;

/// The end of an installer's output that goes into outcome and report: bounds what a talkative script can make us keep.
pub const INSTALLER_LOG_BYTES: u64 = 16 << 10;
