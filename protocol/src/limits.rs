//! Every bound of the protocol in one place, each with the harm that it prevents.

/// Bytes of one piece, the unit that is verified and shared (1 MiB; the last piece of an artifact may be shorter).
/// A larger piece would be a larger amount of memory that an unverified byte can hold.
pub const PIECE_BYTES: u64 = 1 << 20;

/// Bytes of one block, the unit of pacing. A larger block would queue longer on a thin link than the politeness target.
pub const BLOCK_BYTES: usize = 64 << 10;

/// Bytes that one node asks of a seed ahead of their arrival: bounds the memory of pieces that are not whole yet.
pub const WINDOW_BYTES: usize = 16 << 20;

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

/// The largest metadata bundle that comes along with the seed's answer to an announcement; a larger one is asked for by
/// itself, so that the names of the neighbours do not wait behind it.
pub const BUNDLE_ALONG_BYTES: usize = 256 << 10;

/// Files in one metadata bundle.
pub const BUNDLE_FILES: usize = 512;

/// A metadata bundle as it travels: its bytes and the names of its files; less would stop the largest one that may be made.
pub const BUNDLE_MESSAGE_BYTES: usize = BUNDLE_BYTES + BUNDLE_FILES * (TARGET_PATH_BYTES + 80) + 64;

/// Time a stranger has to prove membership on a new connection, in seconds: idle strangers would use up connections.
pub const STRANGER_SECONDS: u64 = 5;

/// Connections of one node, strangers included: bounds file descriptors and memory.
pub const CONNECTIONS: u32 = 512;

/// Connections to one peer: a second one is a reconnect, more are a mistake or an attack.
pub const CONNECTIONS_PER_PEER: u32 = 2;

/// Neighbours that a node asks for content: more cost state exchange and bring nothing (8 to 24 in the design).
pub const NEIGHBOURS: usize = 24;

/// Members of the site that a node may dial, and keeps for that: bounds what the LAN, neighbours and the seed can name.
pub const CANDIDATES: usize = 256;

/// Devices that are dialled at the same time: multicast can name any number of devices that do not exist.
pub const DIALLING: usize = 128;

/// Devices that a node keeps of those it hears on one link: anybody there can name devices that do not exist.
pub const DEVICES_HEARD: usize = 1_024;

/// One message of multicast DNS (RFC 6762, section 17): anybody on the link can send it, and it is read whole.
pub const MULTICAST_BYTES: usize = 9_000;

/// Devices that are read from one such message: each costs a look-up, and an honest message names one.
pub const DEVICES_PER_MULTICAST: usize = 64;

/// Records of an answer that are read: an honest one has a dozen, and anybody may send them by the hundred.
pub const RECORDS_PER_MULTICAST: usize = 256;

/// Messages of multicast DNS that a node reads from one link in a second: a flood must not take the processor. All
/// devices of a large site say hello within one second, twice.
pub const MULTICAST_PER_SECOND: u32 = 4_000;

/// Devices that a question names as known, so that it fits into one packet of any link.
pub const KNOWN_ANSWERS: usize = 16;

/// Interfaces with discovery: each costs two sockets and two tasks.
pub const DISCOVERY_LINKS: usize = 32;

/// Members in one answer of the tracker: bounds the answer for a site of any size.
pub const MEMBERS_PER_ANSWER: usize = 64;

/// Addresses that one device may announce: each is a connection that somebody else will try.
pub const ADDRESSES_PER_DEVICE: usize = 8;

/// Members of its site that a node remembers from before: enough to find the others through, in a site of any size.
pub const PEERS_REMEMBERED: usize = 64;

/// Addresses that are remembered of each: what moved around for long must not make every search longer.
pub const ADDRESSES_REMEMBERED: usize = 4;

/// Days after which a member is forgotten that was not seen again: devices that are gone would be dialled for ever.
pub const DAYS_REMEMBERED: u32 = 60;

/// Pieces that a node fetches at the same time: each is a task.
pub const PIECES_IN_FLIGHT: usize = 64;

/// Bytes of pieces that a node fetches from neighbours at the same time: they are in memory until they are checked.
pub const BYTES_IN_FLIGHT: u64 = 16 << 20;

/// Buffers of pieces that are kept for the next ones while something is fetched, as many as are in flight: bounds the memory of a
/// node that fetched. With fewer, pieces that wait for the disk cost the kernel a new page for each 4 KiB.
pub const PIECE_BUFFERS: usize = 16;

/// Pieces in flight to one source: keeps the link busy without making one source a bottleneck.
pub const PIECES_IN_FLIGHT_PER_SOURCE: usize = 4;

/// Pieces leased to one fetcher at a time: what others have to wait for, at worst, when the fetcher dies.
pub const LEASED_PIECES: usize = 256;

/// Bytes of them: what a hostile member can keep from its site until its leases end.
pub const LEASED_BYTES: u64 = 32 << 20;

/// Contents in one request for leases: bounds its size, which crosses the WAN.
pub const LEASE_LINES: usize = 32;

/// Artifacts that a node tracks at once, of its own or of a neighbour: bounds the state that a peer can create.
pub const ARTIFACTS_TRACKED: usize = 4_096;

/// Bytes of holdings in one hello or news, encoded: a quarter of a message. The rest follows, so that a node that holds
/// much is neither cut off for a message that is too long nor makes its neighbours wait for metadata behind it.
pub const HOLDINGS_BYTES: usize = MESSAGE_BYTES / 4;

/// Words of 64 pieces that are remembered of what one neighbour says it holds (512 KiB, or 4 TiB of content): a member
/// could otherwise make every neighbour keep a set of the largest size for every content that there could be.
pub const HOLDINGS_WORDS: usize = 64 << 10;

/// Streams that one peer may have open towards us: each costs a buffer and a task.
pub const STREAMS_PER_PEER: usize = 32;

/// Reports in one batch to an aggregator.
pub const REPORTS_PER_BATCH: usize = 64;

/// One report, encoded: a full scan of the largest catalogue fits.
pub const REPORT_BYTES: usize = 1 << 20;

/// Findings in one report: so many with the longest names fit into [`REPORT_BYTES`].
pub const FINDINGS_PER_REPORT: usize = 3_072;

/// Deployments in one report: so many with the longest texts fit into [`REPORT_BYTES`].
pub const DEPLOYMENTS_PER_REPORT: usize = 512;

/// Contents, and peers, in one transfer summary: bounds the work of applying one report.
pub const TRANSFERS_PER_REPORT: usize = 1_024;

/// Reasons in the transfer of one content: keeps the largest summary within [`REPORT_BYTES`].
pub const REASONS_PER_TRANSFER: usize = 32;

/// Contents, and peers, whose transfers an aggregator keeps of one device: a device could make up new ones for ever.
pub const TRANSFERS_PER_DEVICE: usize = 8_192;

/// Patches whose deployments are kept of one device: a device could make up new ones for ever.
pub const DEPLOYMENTS_PER_DEVICE: usize = 8_192;

/// Latest incidents that are kept of one device: a hostile peer can cause incidents as fast as it can connect.
pub const INCIDENTS_PER_DEVICE: usize = 32;

/// Latest deployments, in order of time, that an aggregator keeps of one device to show its history.
pub const HISTORY_PER_DEVICE: usize = 32;

/// Latest incidents of the whole fleet that an aggregator lists: bounds its memory whatever the fleet reports.
pub const INCIDENTS_LISTED: usize = 2_000;

/// Bytes of reports waiting for a watermark before the outbox compacts (64 MiB): bounds memory while cut off.
pub const OUTBOX_BYTES: usize = 64 << 20;

/// Rows on one page of a listing: bounds the work and the memory of one request.
pub const PAGE_ROWS: usize = 500;

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

/// Most of these days that policy may say: a device that is kept from news would deploy by old rules for as long.
pub const OFFLINE_DAYS_MOST: u32 = 365;

/// Seconds between two refreshes of the signed metadata (the check-in): 4 hours.
pub const CHECK_IN_SECONDS: u64 = 4 * 3600;

/// One key of the node's database: keys stay in memory with their pages.
pub const STORE_KEY_BYTES: usize = 512;

/// One value of the node's database: a whole metadata bundle fits, a runaway record does not fill the disk.
pub const STORE_VALUE_BYTES: usize = BUNDLE_BYTES;

/// Changes in one atomic batch of the database: all of them are in memory until they are durable.
pub const STORE_BATCH_CHANGES: usize = 16_384;

/// Records that one scan of the database brings into memory; longer ranges are read in pages.
pub const STORE_SCAN_RECORDS: usize = 65_536;

/// Free space in bytes that a node leaves on the disk: the embedded database stops for good when a write of its own
/// finds the disk full, and the operating system needs some to install.
pub const DISK_RESERVE_BYTES: u64 = 32 << 20;
/// One request on the control socket, which is small: a caller cannot make the node hold more before it is read.
pub const CONTROL_REQUEST_BYTES: usize = 1 << 20;

/// Connections to the control socket at the same time: a forgotten script cannot use up the node's files.
pub const CONTROL_CONNECTIONS: usize = 32;

/// Packages in one inventory: bounds the memory that a package database, or a report about one, can take.
pub const PACKAGES_PER_INVENTORY: usize = 200_000;

/// One file of a package database: a larger one is damaged, and reading it would take all memory.
pub const PACKAGE_DATABASE_BYTES: u64 = 256 << 20;

/// Files in the journal of a package database (dpkg merges its own after 250): bounds the work of one scan.
pub const PACKAGE_JOURNAL_FILES: usize = 300;

/// One file of that journal, which holds one package: a larger one is damaged.
pub const PACKAGE_JOURNAL_FILE_BYTES: u64 = 1 << 20;

/// Times that one installation is repeated after a crash before it counts as failed: an installer that brings the
/// machine down would otherwise do so for ever.
pub const INTERRUPTIONS_PER_ATTEMPT: u32 = 5;
/// A signed release file of a vendor (`InRelease`): it is read whole before its signature is checked.
pub const RELEASE_BYTES: usize = 4 << 20;

/// A package index of a vendor as it is served, compressed: it is held in memory while it is read.
pub const INDEX_BYTES: usize = 64 << 20;

/// A package index after decompression: a small bomb would otherwise be read for ever (Debian's main index has 60 MB).
pub const INDEX_PLAIN_BYTES: u64 = 512 << 20;

/// Memory that decompression of an index may take: the header of the file decides it, so a hostile one could ask for
/// 4 GiB (`xz -9` needs 65 MiB).
pub const DECOMPRESSOR_BYTES: u64 = 100 << 20;

/// One stanza of a package index: it is held in memory as a whole.
pub const STANZA_BYTES: usize = 1 << 20;

/// An OpenPGP certificate or keyring, armoured: each signature inside costs a check.
pub const KEYRING_BYTES: usize = 4 << 20;

/// OpenPGP signatures on one message: each costs a check for each key that it names.
pub const OPENPGP_SIGNATURES: usize = 16;

/// Packets in one OpenPGP certificate: a certificate flooded with signatures would cost a check for each.
pub const OPENPGP_PACKETS: usize = 2_048;

/// Connections that have not yet proven membership, in each direction: strangers must not use up the descriptors of members. When
/// more come in, the network with most gives way.
pub const PENDING_CONNECTIONS: u32 = 128;

/// Connections on the enrolment address at the same time: whoever knows the address is still a stranger. When more come, the
/// network with most gives way; whoever is turned away asks again.
pub const ENROL_CONNECTIONS: usize = 64;

/// Requests that we have open towards one peer: half of what it accepts, so that it never has to turn one away.
pub const REQUESTS_PER_PEER: usize = 16;

/// Requests of all peers that are read or answered at the same time: bounds the memory for their messages.
pub const REQUESTS_SERVED: usize = 64;

/// Inbound streams waiting to be looked at, and events waiting for their reader, before senders wait or are turned away.
pub const NET_QUEUE: usize = 256;

/// Requests for pieces or parts of them that are on the way to one peer before the next must wait.
pub const PIECE_REQUESTS_PER_STREAM: usize = 64;

/// Reads of content that run at the same time for all peers: bounds threads and buffers of the serving side.
pub const PIECE_READS: usize = 8;

/// One gossip message: gossip carries hints, which are small, and every member forwards it.
pub const GOSSIP_BYTES: usize = 16 << 10;

/// Gossip topics that we remember for one peer: bounds what its subscriptions can make us hold.
pub const GOSSIP_TOPICS: usize = 64;

/// Devices whose traffic is counted one by one: bounds memory at headquarters.
pub const TRAFFIC_DEVICES: usize = 200_000;

/// Addresses of strangers whose traffic is counted one by one: an attacker could invent any number of them.
pub const TRAFFIC_STRANGERS: usize = 1_024;

/// Share of the machine's memory that the process may use before it accepts no more connections, in percent.
pub const MEMORY_PERCENT: u32 = 80;

/// The end of an installer's output that goes into outcome and report: bounds what a talkative script can make us keep.
pub const INSTALLER_LOG_BYTES: u64 = 16 << 10;
/// Requirements followed to see whether a patch needs the one that it replaces: bounds what a catalogue made for it
/// could make every plan cost. Beyond it both are installed, which is slower and not wrong.
pub const REQUIREMENTS_FOLLOWED: usize = 1_024;

/// Bytes of content that a device keeps for its neighbours unless it is told otherwise (16 GiB): people need their disks.
pub const KEEP_BYTES: u64 = 16 << 30;

/// Days after which a content goes that nobody asked for and others in the site have.
pub const DAYS_KEPT: u32 = 30;

/// Bytes of content that a node keeps: beyond it fetching stops with a message instead of filling the disk (512 GiB).
pub const CACHE_BYTES: u64 = 512 << 30;
/// Longest path of a target: bounds file names that a delegated role can make us create.
pub const TARGET_PATH_BYTES: usize = 400;

/// One key file: bounds what a wrong path makes us load.
pub const KEY_FILE_BYTES: u64 = 4 << 10;

/// Directories in directories among the files that an administrator stages: a mistaken directory must end.
pub const STAGING_DEPTH: usize = 4;

/// Connections to the aggregator's web server: each costs a file descriptor and a buffer. When more come, the network with most
/// gives way.
pub const HTTP_CONNECTIONS: usize = 128;

/// Seconds that one connection to the web server lasts at most: a slow client would hold its place for ever.
pub const HTTP_CONNECTION_SECONDS: u64 = 60;

/// Seconds in which a request to the web server has to come in whole: half a request would hold its place for much longer.
pub const HTTP_REQUEST_SECONDS: u64 = 10;

/// Bytes that the web server reads from one connection (256 KiB): it answers requests without bodies only.
pub const HTTP_REQUEST_BYTES: usize = 256 << 10;

/// Bytes of checked pieces of a bucket or a mirror that a seed keeps in memory (64 MiB): so that devices that ask for the
/// same piece one after the other, or for its blocks, do not each cause a request there.
pub const ORIGIN_CACHE_BYTES: usize = 64 << 20;

/// Pieces that a seed gets from one bucket or mirror at the same time: bounds memory, sockets, and the load there, and one
/// that hangs keeps nobody waiting for the others.
pub const ORIGIN_READS: usize = 16;

/// Pieces that a seed gets from an origin ahead of the one that was asked for: more would push out what others need.
pub const ORIGIN_READ_AHEAD: u32 = 2;

/// Contents that a seed copies whole from an origin, or puts there, at the same time: bounds files and sockets.
pub const ORIGIN_COPIES: usize = 4;

/// Parts of contents that are on their way into a bucket at the same time, of all contents: each is up to 16 MiB in memory,
/// and on a thin uplink each of more would take longer than storage waits.
pub const ORIGIN_PARTS: usize = 4;

/// Bytes in a second, at least, of a file from a mirror and of a part on its way into a bucket: a slower one would hold one
/// of few places for days.
pub const ORIGIN_BYTES_PER_SECOND: u64 = 64 << 10;

/// Seconds after which an origin that does not send a whole piece counts as unreachable: requesters wait behind it.
pub const ORIGIN_SECONDS: u64 = 15;

/// Piece lists of contents at an origin that are read from the store at once: each is up to 2 MiB, and more would take the
/// memory of a small machine for what has not proven itself yet.
pub const ORIGIN_RECORDS: usize = 64;

/// Redirects that a mirror may answer with, one after the other: a loop must end.
pub const MIRROR_REDIRECTS: usize = 5;

/// Requests for blocks that a device without a seed has at one mirror at the same time: each is a connection there.
pub const MIRROR_REQUESTS: usize = 8;

/// Mirrors that such a device keeps a client for: bounds idle connections and their memory.
pub const MIRRORS_READ: usize = 16;

/// Bytes in a second, at least, of a piece from a mirror that a device without a seed reads: it gives way to all others on its
/// link, so that they may be few; a mirror that sends still fewer would hold the place of one that works.
pub const MIRROR_BYTES_PER_SECOND: u64 = 8 << 10;

/// Address of a mirror in policy: bounds what a signer can make us store and show.
pub const URL_BYTES: usize = 400;

/// Contents that one node says it reads at mirrors, and that it remembers of another: bounds the hint.
pub const ROOTS_READ: usize = 256;

/// One hint: a site, and the contents that are read.
pub const HINT_BYTES: usize = 2_048;

/// Members of a site that one node counts as reading at mirrors: one member must not fill its memory with names.
pub const READERS: usize = 64;

/// Content that is small: on the thinnest line it delays what waits behind it by minutes, not by hours.
pub const SMALL_BYTES: u64 = 16 << 20;
