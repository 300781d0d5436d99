//! Pieces on `/patchmesh/pieces/1`: what is asked, what is answered, and why not.
//!
//! On the wire, a request is 44 bytes: the root (32), the piece, the first byte within it, and the number of bytes (u32 each,
//! little endian). Answers follow in the order of the requests: one status byte; after 0 the number of bytes (u32), the
//! server's clock (u64, microseconds, of its own epoch), and the bytes. After any other status, which is a reason, nothing follows.

pub(super) mod buffers;
pub(crate) mod cap;
pub(super) mod fetch;
pub(super) mod paced;
mod queue;
pub(super) mod serve;

use futures::future::BoxFuture;
use libp2p::StreamProtocol;
use protocol::digest::Blake3Root;
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::piece::{CheckedPiece, PieceIndex};
use protocol::reason::Reason;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/patchmesh/pieces/1");
pub(super) const REQUEST_BYTES: usize = 44;
const SERVED: u8 = 0;

/// What a node serves: consulted for every request, on a thread that may block.
pub trait PieceSource: Send + Sync {
    /// The bytes of one piece, if `peer` may have them now (it consults the grants).
    ///
    /// # Errors
    /// [`Reason`], which goes to the peer.
    fn open(&self, peer: DeviceId, root: Blake3Root, index: PieceIndex) -> Result<Opened, Reason>;

    /// Whether so many more bytes of a piece may go; asked before every step of it, so that a grant that was taken back ends
    /// a running transfer.
    fn still_granted(&self, _peer: DeviceId, _root: Blake3Root, _index: PieceIndex, _bytes: u64) -> bool {
        true
    }

    /// How many of so many bytes may go to `peer`, at once or when its turn comes.
    fn pass(&self, _peer: DeviceId, bytes: usize) -> Pass {
        Pass::Now(bytes)
    }

    /// `bytes` of a piece were handed to the connection; with them the `whole` of it, or they are all that was asked for.
    fn served(&self, _peer: DeviceId, _root: Blake3Root, _index: PieceIndex, _bytes: u64, _whole: bool) {}
}

/// When bytes may go to a peer.
pub enum Pass {
    /// So many of them now.
    Now(usize),
    /// Later: so many of them when it is done.
    Wait(BoxFuture<'static, usize>),
}

/// What a source has of a piece.
pub enum Opened {
    /// It is here.
    Here(PieceReader),
    /// It lies elsewhere and is on its way: the bytes, verified, or why they do not come. Waiting for it holds no thread.
    Coming(BoxFuture<'static, Result<PieceReader, Reason>>),
}

/// Where the bytes of a piece lie.
#[derive(Clone, Debug)]
pub enum PieceReader {
    /// In a file.
    File {
        /// The content file.
        file: Arc<File>,
        /// Offset of the piece in the file, in bytes.
        offset: u64,
        /// Length of the piece in bytes, at most one piece.
        length: u32,
    },
    /// In memory.
    Memory(Arc<CheckedPiece>),
}

impl PieceReader {
    /// Length of the piece in bytes.
    pub(super) fn length(&self) -> u32 {
        match self {
            PieceReader::File { length, .. } => *length,
            PieceReader::Memory(piece) => u32::try_from(piece.bytes().len()).unwrap_or(u32::MAX),
        }
    }

    /// Tells the operating system that the piece will be read, so that it fetches what it does not have in memory.
    pub(super) fn announce(&self) {
        if let PieceReader::File { file, offset, length } = self {
            // It is advice: where it is not taken, reading waits a little longer.
            let length = std::num::NonZeroU64::new((*length).into());
            let _ = rustix::fs::fadvise(file, *offset, length, rustix::fs::Advice::WillNeed);
        }
    }

    /// Fills `buffer` as [`PieceReader::read_exact_at`] does if that is possible without waiting for a disk; whether it was.
    pub(super) fn read_at_once(&self, buffer: &mut [u8], from: u64) -> bool {
        match self {
            PieceReader::File { file, offset, .. } => {
                let length = buffer.len();
                let mut buffers = [io::IoSliceMut::new(buffer)];
                let flags = rustix::io::ReadWriteFlags::NOWAIT;
                rustix::io::preadv2(file, &mut buffers, offset + from, flags) == Ok(length)
            }
            PieceReader::Memory(_) => self.read_exact_at(buffer, from).is_ok(),
        }
    }

    /// Fills `buffer` with the bytes from `from` of the piece on; blocks where they lie in a file.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], from: u64) -> io::Result<()> {
        match self {
            PieceReader::File { file, offset, .. } => file.read_exact_at(buffer, offset + from),
            PieceReader::Memory(piece) => {
                let range = usize::try_from(from)
                    .ok()
                    .and_then(|from| piece.bytes().get(from..)?.get(..buffer.len()));
                let bytes = range.ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// The status byte that says why a piece is not served: the place of the reason in its list, which only grows, from 1.
fn status_of(reason: Reason) -> u8 {
    let place = Reason::ALL.iter().position(|known| *known == reason).map(|place| place + 1);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
}

/// The reason of a status byte other than 0; `None` for one that this build does not know.
fn reason_of(status: u8) -> Option<Reason> {
    Reason::ALL.get(usize::from(status).checked_sub(1)?).copied()
}

/// Bytes as a peer sent them. Nothing is known about them before `PieceTree::check` (X2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerBytes(pub Vec<u8>);

/// A part of a piece, and when it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The bytes.
    pub bytes: PeerBytes,
    /// The server's clock when it began to send, in microseconds of its own epoch: only differences mean something.
    pub sent_micros: u64,
}

/// Why a piece did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PieceFailure {
    /// The peer refused.
    #[error("the peer refused: {}", .0.explain())]
    Refused(Reason),
    /// The peer refused for a reason of a later version.
    #[error("the peer refused with code {0}, which this version does not know")]
    RefusedOtherwise(u8),
    /// No connection, or it ended on the way.
    #[error("the connection to the peer ended")]
    Disconnected,
    /// Nothing arrived for the configured time.
    #[error("the peer sent nothing for {0} seconds")]
    TimedOut(u64),
    /// The peer's answer is not one to this request.
    #[error("the peer's answer is malformed: {0}")]
    Malformed(&'static str),
}

impl PieceFailure {
    /// Whether the stream is of no use any more; after a refusal it goes on.
    fn ends_stream(&self) -> bool {
        !matches!(self, PieceFailure::Refused(_) | PieceFailure::RefusedOtherwise(_))
    }
}

impl From<PieceFailure> for protocol::fetch::PieceFailure {
    fn from(failure: PieceFailure) -> Self {
        match failure {
            PieceFailure::Refused(reason) => Self::Refused(reason),
            PieceFailure::RefusedOtherwise(_)
            | PieceFailure::Disconnected
            | PieceFailure::TimedOut(_)
            | PieceFailure::Malformed(_) => Self::Lost,
        }
    }
}

/// One request on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) root: Blake3Root,
    pub(super) index: PieceIndex,
    pub(super) from: u32,
    pub(super) length: u32,
}

impl Wanted {
    pub(super) fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..32].copy_from_slice(self.root.as_bytes());
        for (at, number) in [self.index.0, self.from, self.length].into_iter().enumerate() {
            bytes[32 + 4 * at..36 + 4 * at].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Any 44 bytes are a request; whether it makes sense is for [`Wanted::is_sensible`].
    pub(super) fn decode(bytes: &[u8; REQUEST_BYTES]) -> Wanted {
        let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[32 + 4 * at + byte]));
        Wanted {
            root: Blake3Root::from_bytes(std::array::from_fn(|byte| bytes[byte])),
            index: PieceIndex(number(0)),
            from: number(1),
            length: number(2),
        }
    }

    /// Whether the part lies within a piece of the largest size.
    pub(super) fn is_sensible(&self) -> bool {
        u64::from(self.from) + u64::from(self.length) <= limits::PIECE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_44_bytes_are_a_request(low: [u8; 22], high: [u8; 22]) {
            let bytes = std::array::from_fn(|at| if at < 22 { low[at] } else { high[at - 22] });
            prop_assert_eq!(Wanted::decode(&bytes).encode(), bytes);
        }
    }

    #[test]
    fn every_reason_has_a_status_of_its_own() {
        for reason in Reason::ALL {
            assert_eq!(reason_of(status_of(*reason)), Some(*reason));
        }
        assert_eq!((reason_of(SERVED), reason_of(u8::MAX)), (None, None));
    }

    #[test]
    fn only_parts_of_one_piece_make_sense() {
        let wanted = |from, length| {
            Wanted { root: Blake3Root::from_bytes([1; 32]), index: PieceIndex(0), from, length }.is_sensible()
        };
        assert!(wanted(0, 1 << 20) && wanted(1 << 20, 0) && wanted(5, 0));
        assert!(!wanted(1, 1 << 20) && !wanted(u32::MAX, u32::MAX));
    }
}
