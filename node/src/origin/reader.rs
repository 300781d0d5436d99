//! Reads pieces at vendors' mirrors for a device that reaches no seed: in blocks, each a range over HTTP, politely and under the
//! cap of the node.
//!
//! One window for each mirror holds what is outstanding, the same as towards a seed (decision 0025). A mirror does not say when it
//! sent a block, so what the window takes for its delay is a round trip: from asking to the head of the answer. It therefore
//! cannot see
//!
//! - on which way a queue stands: a full upload looks like a full download, and the reader gives way to both;
//! - what the mirror itself waits for: a disk, a place of its own further up, or the next server of a redirect look like a queue,
//!   and so does the making of a connection, in the first block that it carries;
//! - a queue that stood before the first block and never went away: nobody in the site tells a smaller round trip, and
//!   nobody says when all slow down together. Only the doubt that a window has of its own base is left.
//!
//! The first two err on the polite side; the third does not, so that two readers may share a queue of theirs for minutes.

mod way;

use super::mirror::{self, Mirror};
use super::wanted::{self, MirrorPath, VendorFile};
use super::{OriginError, Wanted};
use crate::configuration;
use crate::content::ContentStore;
use crate::net::Cap;
use protocol::digest::Blake3Root;
use protocol::fetch::PieceFailure;
use protocol::identifier::VendorName;
use protocol::limits;
use protocol::manifest::{Content, Evidence, Manifest};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use way::{Patience, Way};

const PATIENCE: Patience = Patience {
    silence: mirror::SILENCE,
    longest: |bytes| Duration::from_secs(limits::ORIGIN_SECONDS + bytes / limits::MIRROR_BYTES_PER_SECOND),
};

/// Reads pieces at mirrors for a device that reaches no seed.
pub(crate) struct Reader {
    content: Arc<ContentStore>,
    cap: Arc<Cap>,
    patience: Patience,
    /// Paths that indexes named, by the index and the content; none where one named none that is of use. Held while an index is
    /// read, so that one at a time is in memory.
    paths: tokio::sync::Mutex<BTreeMap<(Blake3Root, Blake3Root), Option<String>>>,
    /// The one that worked last comes first.
    ways: Mutex<Vec<Arc<Way>>>,
}

impl Reader {
    /// A reader that finds vendors' indexes in this store and keeps to this cap.
    pub(crate) fn new(content: Arc<ContentStore>, cap: Arc<Cap>) -> Reader {
        Reader {
            content,
            cap,
            patience: PATIENCE,
            paths: tokio::sync::Mutex::default(),
            ways: Mutex::default(),
        }
    }

    /// One piece of an artifact, at the first of these mirrors that has it, beginning with the one that worked last: unchecked bytes,
    /// exactly as many as the range has.
    ///
    /// # Errors
    /// [`OriginError`] of the mirror that is most likely to have it another time; [`OriginError::Content`] when the index that
    /// names the file is not here whole.
    pub(crate) async fn read(
        &self,
        mirrors: &[configuration::Mirror],
        manifest: &Manifest,
        root: Blake3Root,
        range: Range<u64>,
    ) -> Result<Vec<u8>, OriginError> {
        let wanted = self.find(manifest, root).await?;
        let length = range.end.saturating_sub(range.start);
        if range.end > wanted.content.size || length > limits::PIECE_BYTES {
            return Err(OriginError::at_no_mirror(root));
        }
        let mut failure: Option<OriginError> = None;
        for way in self.ways(mirrors, &manifest.patch.vendor()) {
            let read = async {
                let way = way?;
                let bytes = way.read(&self.cap, &wanted, range.clone()).await?;
                tracing::debug!(mirror = way.name(), %root, from = range.start, "piece from a mirror");
                self.prefer(&way);
                Ok::<_, OriginError>(bytes)
            };
            let error = match read.await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            tracing::debug!(%root, from = range.start, %error, "no piece from a mirror");
            if failure.as_ref().is_none_or(|before| hope(&error) >= hope(before)) {
                failure = Some(error);
            }
        }
        Err(failure.unwrap_or_else(|| OriginError::at_no_mirror(root)))
    }

    /// An artifact of a manifest, with the paths that mirrors have it at.
    async fn find(&self, manifest: &Manifest, root: Blake3Root) -> Result<Wanted, OriginError> {
        let Wanted { content, files } =
            wanted::of_artifact(manifest, root).ok_or_else(|| OriginError::at_no_mirror(root))?;
        let mut found = Vec::new();
        for VendorFile { vendor, path } in files {
            let path = match path {
                MirrorPath::Known(path) => Some(path),
                MirrorPath::Indexed { packages, packages_path } => {
                    self.look_up(manifest, root, packages.root, &packages_path).await?
                }
            };
            found.extend(path.map(|path| VendorFile { vendor, path: MirrorPath::Known(path) }));
        }
        match found.is_empty() {
            true => Err(OriginError::at_no_mirror(root)),
            false => Ok(Wanted { content, files: found }),
        }
    }

    /// The path of a content by an index. All contents of the manifest that the same index names are looked up with it.
    async fn look_up(
        &self,
        manifest: &Manifest,
        root: Blake3Root,
        index: Blake3Root,
        packages_path: &str,
    ) -> Result<Option<String>, OriginError> {
        let mut paths = self.paths.lock().await;
        if let Some(path) = paths.get(&(index, root)) {
            return Ok(path.clone());
        }
        let named = manifest.artifacts.iter().filter(
            |artifact| matches!(&artifact.evidence, Evidence::Apt(chain) if chain.packages.root == index),
        );
        let contents: Vec<Content> = named.map(|artifact| artifact.content).collect();
        let found = wanted::look_up(&self.content, index, packages_path, contents).await?;
        if paths.len() + found.len() > limits::ARTIFACTS_TRACKED {
            paths.clear();
        }
        paths.extend(found.into_iter().map(|(root, path)| ((index, root), path)));
        Ok(paths.get(&(index, root)).cloned().flatten())
    }

    /// The ways to a vendor's mirrors. Those that are not configured any more are closed, and unused ones to other vendors' when
    /// there are too many.
    fn ways(
        &self,
        mirrors: &[configuration::Mirror],
        vendor: &VendorName,
    ) -> Vec<Result<Arc<Way>, OriginError>> {
        let mut named = Mirror::named(mirrors);
        named.retain(|(_, mirror)| mirror.vendor == *vendor);
        named.truncate(limits::MIRRORS_READ);
        let mut open = self.open();
        open.retain(|way| {
            way.vendor() != vendor || named.iter().any(|(name, mirror)| way.leads_to(name, mirror))
        });
        let mut failed = Vec::new();
        for (name, mirror) in named {
            if open.iter().any(|way| way.leads_to(&name, mirror)) {
                continue;
            }
            match Way::open(mirror, name, self.patience) {
                Ok(way) => open.push(Arc::new(way)),
                Err(error) => failed.push(Err(error)),
            }
        }
        while open.len() > limits::MIRRORS_READ
            && let Some(unused) = open.iter().rposition(|way| way.vendor() != vendor)
        {
            open.remove(unused);
        }
        let ours = open.iter().filter(|way| way.vendor() == vendor);
        ours.map(|way| Ok(Arc::clone(way))).chain(failed).collect()
    }

    /// This one worked last.
    fn prefer(&self, way: &Arc<Way>) {
        let mut open = self.open();
        if let Some(at) = open.iter().position(|other| Arc::ptr_eq(other, way)) {
            open[..=at].rotate_right(1);
        }
    }

    /// The bytes that came last from a vendor's mirrors were wrong: the mirror is asked after the others.
    pub(crate) fn was_wrong(&self, vendor: &VendorName) {
        let mut open = self.open();
        if let Some(at) = open.iter().position(|way| way.vendor() == vendor) {
            open[at..].rotate_left(1);
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Arc<Way>>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the mirror may have it another time: of several failures such a one is told.
fn hope(error: &OriginError) -> bool {
    !matches!(error.of_piece(), PieceFailure::Refused(_))
}

#[cfg(test)]
mod tests;
