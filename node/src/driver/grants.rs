//! The grant table: what each peer may read now, asked for every piece without a question to the driver.

use super::turnstile::Turnstile;
use crate::content::ContentStore;
use crate::net::{Opened, Pass, PieceReader, PieceSource};
use crate::origin::Origins;
use protocol::bitmap::PieceSet;
use protocol::digest::Blake3Root;
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A peer that hears nothing for ten seconds gives the stream up; it is told before that.
const ORIGIN_PATIENCE: Duration = Duration::from_secs(8);

struct Grant {
    pieces: Option<PieceSet>,
    until: Instant,
}

/// Bytes of one piece that went to a peer, and whether the whole of it did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    pub(super) peer: DeviceId,
    pub(super) root: Blake3Root,
    pub(super) piece: PieceIndex,
    pub(super) bytes: u64,
    pub(super) whole: bool,
}

/// How often the driver hears that blocks go to a peer: often enough for leases, and not for each block.
const SERVING: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Notices {
    served: Vec<Served>,
    serving: BTreeMap<DeviceId, Serving>,
}

/// Blocks that go to one peer.
struct Serving {
    /// Bytes since the driver was told last, and when that was.
    bytes: u64,
    told: Instant,
    /// Whether it has to hear of them.
    due: bool,
}

impl Notices {
    /// Notes that so many bytes go to `peer`; whether the driver has to hear of it now.
    fn note(&mut self, peer: DeviceId, bytes: u64) -> bool {
        let now = Instant::now();
        if let Some(serving) = self.serving.get_mut(&peer) {
            serving.bytes += bytes;
            let due = !serving.due && now.duration_since(serving.told) >= SERVING;
            serving.due |= due;
            return due;
        }
        if self.serving.len() >= limits::CONNECTIONS as usize {
            self.serving.retain(|_, one| one.due || now.duration_since(one.told) < SERVING);
        }
        self.serving.insert(peer, Serving { bytes, told: now, due: true });
        true
    }

    /// Takes the bytes of those of whom the driver has to hear.
    fn take_serving(&mut self) -> Vec<(DeviceId, u64)> {
        let now = Instant::now();
        let due = self.serving.iter_mut().filter(|(_, one)| one.due);
        due.map(|(peer, one)| {
            (one.told, one.due) = (now, false);
            (*peer, std::mem::take(&mut one.bytes))
        })
        .collect()
    }
}

/// What this node serves: the content store behind the grants that the core issued.
pub(super) struct Grants {
    content: Arc<ContentStore>,
    origins: Option<Arc<Origins>>,
    pub(super) turnstile: Turnstile,
    table: RwLock<BTreeMap<(DeviceId, Blake3Root), Grant>>,
    notices: Mutex<Notices>,
    changed: Notify,
}

impl Grants {
    pub(super) fn new(
        content: Arc<ContentStore>,
        origins: Option<Arc<Origins>>,
        turnstile: Turnstile,
    ) -> Grants {
        Grants {
            content,
            origins,
            turnstile,
            table: RwLock::default(),
            notices: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// From now on `peer` may read these pieces of `root`; replaces an earlier grant.
    pub(super) fn give(&self, peer: DeviceId, root: Blake3Root, pieces: Option<PieceSet>, lasting: Duration) {
        let now = Instant::now();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, grant| grant.until > now);
        table.insert((peer, root), Grant { pieces, until: now + lasting });
    }

    /// Takes back the grants of one peer, or of all, for `root`.
    pub(super) fn take_back(&self, peer: Option<DeviceId>, root: Blake3Root) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|(to, content), _| *content != root || peer.is_some_and(|peer| peer != *to));
    }

    /// Waits until something was served.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes what was served since the last call: pieces, and the bytes that went to each peer.
    pub(super) fn take(&self) -> (Vec<Served>, Vec<(DeviceId, u64)>) {
        let mut notices = self.notices();
        (std::mem::take(&mut notices.served), notices.take_serving())
    }

    fn notices(&self) -> MutexGuard<'_, Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allows(&self, peer: DeviceId, root: Blake3Root, index: PieceIndex) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&(peer, root)).is_some_and(|grant| {
            grant.until > Instant::now() && grant.pieces.as_ref().is_none_or(|pieces| pieces.contains(index))
        })
    }
}

impl PieceSource for Grants {
    fn open(&self, peer: DeviceId, root: Blake3Root, index: PieceIndex) -> Result<Opened, Reason> {
        if !self.allows(peer, root, index) {
            return Err(Reason::NoGrant);
        }
        let piece = match (self.content.open_piece(root, index), &self.origins) {
            (Ok(piece), origins) => {
                origins.iter().for_each(|origins| origins.touch(root));
                piece
            }
            (Err(_), Some(origins)) if origins.has(root) => {
                let coming = origins.piece(root, index).ok_or(Reason::NoPieces)?;
                return Ok(Opened::Coming(Box::pin(async move {
                    let come = tokio::time::timeout(ORIGIN_PATIENCE, coming).await;
                    come.unwrap_or(Err(Reason::OriginUnreachable)).map(PieceReader::Memory)
                })));
            }
            (Err(error), _) => {
                tracing::debug!(%root, piece = index.0, %error, "piece cannot be served");
                return Err(Reason::NoPieces);
            }
        };
        let length = u32::try_from(piece.length).map_err(|_| Reason::NoPieces)?;
        Ok(Opened::Here(PieceReader::File { file: Arc::new(piece.file), offset: piece.offset, length }))
    }

    fn still_granted(&self, peer: DeviceId, root: Blake3Root, index: PieceIndex, bytes: u64) -> bool {
        if self.notices().note(peer, bytes) {
            self.changed.notify_one();
        }
        self.allows(peer, root, index)
    }

    fn pass(&self, peer: DeviceId, bytes: usize) -> Pass {
        self.turnstile.pass(peer, bytes)
    }

    fn served(&self, peer: DeviceId, root: Blake3Root, piece: PieceIndex, bytes: u64, whole: bool) {
        self.notices().served.push(Served { peer, root, piece, bytes, whole });
        self.changed.notify_one();
    }
}
