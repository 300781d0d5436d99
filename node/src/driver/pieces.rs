//! Effects that bring a piece: from a neighbour, a seed or a mirror, over the tree that checks it, to the disk.

use super::effects::{Means, chain};
use crate::content::{self, ContentStore};
use crate::disk;
use crate::net::PieceFailure as NetFailure;
use protocol::core::Input;
use protocol::fetch::{Fetch, Origin, PieceFailure, Read};
use protocol::manifest::Manifest;
use protocol::piece::{PieceIndex, PieceTree};
use protocol::policy::mirror::Mirror;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Fetches a piece, checks it against the tree, and writes it. What else the core has to hear comes first: that there is no room
/// for the content, or how the connection over the WAN goes.
pub(super) async fn fetch_piece(
    means: Means,
    fetch: Fetch,
    told: &mut Vec<Input>,
) -> Result<(), PieceFailure> {
    let Fetch { from, tree, piece, origin, advice, .. } = fetch;
    let (_, length) = tree.extent(piece).ok_or(PieceFailure::Lost)?;
    let length = u32::try_from(length).map_err(|_| PieceFailure::Lost)?;
    if let Err(says) = find_room(&means, &tree, u64::from(length)).await {
        told.push(Input::NoRoom { root: tree.root(), says });
        return Err(PieceFailure::Disk);
    }
    let fetched = match origin {
        Origin::Lan => means.net.fetch_piece(from, tree.root(), piece, length).await,
        Origin::Wan | Origin::Mirror => {
            means.net.fetch_paced(from, tree.root(), piece, length, advice).await.map(|(bytes, pace)| {
                told.push(Input::Paced(from, pace));
                bytes
            })
        }
    };
    let bytes = fetched.map_err(|failure| match failure {
        NetFailure::Refused(reason) => PieceFailure::Refused(reason),
        other => {
            tracing::debug!(peer = from.short(), root = %tree.root(), piece = piece.0, error = %other, "piece did not come");
            PieceFailure::Lost
        }
    })?;
    keep(means, tree, piece, from.short(), bytes.0).await
}

/// Reads a piece of an artifact at one of these mirrors, checks it against the tree, and writes it. That there is no room for the
/// content comes first.
pub(super) async fn read_mirror(
    means: Means,
    read: Read,
    manifest: Arc<Manifest>,
    mirrors: Vec<Mirror>,
    told: &mut Vec<Input>,
) -> Result<(), PieceFailure> {
    let Read { tree, piece, .. } = read;
    let (from, length) = tree.extent(piece).ok_or(PieceFailure::Lost)?;
    let length = length as u64;
    if let Err(says) = find_room(&means, &tree, length).await {
        told.push(Input::NoRoom { root: tree.root(), says });
        return Err(PieceFailure::Disk);
    }
    let mut kept = Err(PieceFailure::Lost);
    // One that sends wrong bytes is asked after the others.
    for _ in 0..mirrors.len().max(1) {
        let read = means.reader.read(&mirrors, &manifest, tree.root(), from..from + length).await;
        let bytes = read.map_err(|error| {
            tracing::warn!(root = %tree.root(), piece = piece.0, %error, "piece did not come from a mirror");
            error.of_piece()
        })?;
        kept = keep(means.clone(), Arc::clone(&tree), piece, "a mirror".to_owned(), bytes).await;
        if kept != Err(PieceFailure::Corrupt) {
            break;
        }
        means.reader.was_wrong(&manifest.patch.vendor());
    }
    kept
}

/// Looks for room on the disk before a byte crosses the WAN that nobody could keep; the error is for people.
async fn find_room(means: &Means, tree: &Arc<PieceTree>, length: u64) -> Result<(), String> {
    let (content, tree) = (Arc::clone(&means.content), Arc::clone(tree));
    let room = spawn_blocking(move || {
        content.begin(&tree).and_then(|_| content.check_space(length)).map_err(|error| {
            tracing::error!(root = %tree.root(), %error, "there is no room for the content");
            no_room(&error)
        })
    });
    room.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Checks bytes of a piece against the tree, and writes them; `from` is told when they are wrong.
async fn keep(
    means: Means,
    tree: Arc<PieceTree>,
    piece: PieceIndex,
    from: String,
    bytes: Vec<u8>,
) -> Result<(), PieceFailure> {
    let Means { content, net, .. } = means;
    let stored = spawn_blocking(move || {
        let checked = tree.check(piece, bytes).map_err(|error| {
            tracing::warn!(peer = from, root = %tree.root(), piece = piece.0, %error, "piece refused");
            PieceFailure::Corrupt
        })?;
        store_piece(&content, &tree, &checked).map_err(|error| {
            tracing::error!(root = %tree.root(), %error, "piece could not be stored");
            PieceFailure::Disk
        })?;
        net.reuse(checked.into_bytes());
        Ok(())
    });
    stored.await.unwrap_or(Err(PieceFailure::Disk))
}

/// Why a content cannot begin here, for people: how much it needs, how much there is, and what helps.
fn no_room(error: &content::Error) -> String {
    match error {
        content::Error::DiskFull { path, needed } => {
            let free = disk::free_bytes(path).map_or_else(|error| error.to_string(), |free| free.to_string());
            let path = path.display();
            format!(
                "It waits for room on the disk: {needed} bytes must be free in {path}, and {free} are; make room there, then it \
                 goes on by itself."
            )
        }
        content::Error::Quota { needed, used, quota } => {
            let free = quota.saturating_sub(*used);
            format!(
                "It waits for room in the content quota: {needed} bytes are needed, and {free} of {quota} are free; stop \
                 the node, remove files that are not needed from its directory content, and start it again."
            )
        }
        error => format!("It waits, since the node cannot write its content: {}.", chain(error)),
    }
}

/// The bytes are on the disk; that they outlive a power cut, and are recorded, follows for many pieces at once
/// ([`sync_contents`]). After a kill they are found again by their hashes.
fn store_piece(
    content: &ContentStore,
    tree: &PieceTree,
    piece: &protocol::piece::CheckedPiece,
) -> Result<(), content::Error> {
    content.begin(tree)?;
    content.write(piece)
}

/// Makes all pieces that were written durable, and then their records; and begins the full check of what is still arriving.
pub(super) async fn sync_contents(content: Arc<ContentStore>) {
    let synced = spawn_blocking(move || {
        for (root, _) in content.sync_all()? {
            content.hash_ahead(root)?;
        }
        Ok::<(), content::Error>(())
    });
    if let Ok(Err(error)) = synced.await {
        tracing::error!(
            error = chain(&error),
            "pieces could not be made durable; they are hashed again at the next start"
        );
    }
}
