//! Effects: each runs in a task of its own and ends with exactly one input for the core.

use super::aggregator::Aggregator;
use crate::content::{self, CheckError, ContentStore};
use crate::deploy::{self, Order, Outcome, Target};
use crate::net::{Handle, RequestFailure};
use crate::origin::{Check, Origins, Pin, Reader};
use crate::verify::package_file::{self, NotAPackage};
use crate::{disk, scan, verify};
use protocol::bitmap::PieceSet;
use protocol::core::{Input, InstallEnd, StoreFailure};
use protocol::digest::Blake3Root;
use protocol::effect::EffectId;
use protocol::fleet::Vendors;
use protocol::identifier::DeviceId;
use protocol::inventory::Inventory;
use protocol::limits;
use protocol::manifest::{Artifact, Content, Evidence, Manifest};
use protocol::reason::Reason;
use protocol::time::WallTime;
use protocol::verify::Verdict;
use protocol::wire::{Channel, Request, Response, Unanswered};
use std::cell::Cell;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::spawn_blocking;

/// Longest that an installation waits for contents that have to come from an origin first.
const BRING: Duration = Duration::from_secs(600);

/// Pause of a full check while the operating system is short of descriptors or memory.
const SHORTAGE: Duration = Duration::from_secs(10);

/// What effects work with.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) net: Handle,
    pub(super) content: Arc<ContentStore>,
    /// Where else the content of a seed lies.
    pub(super) origins: Option<Arc<Origins>>,
    /// Reads at mirrors where no seed is reached.
    pub(super) reader: Arc<Reader>,
    pub(super) root: PathBuf,
    pub(super) target: Option<Arc<Target>>,
    pub(super) aggregator: Option<Aggregator>,
    pub(super) reports: Arc<ReportBytes>,
}

/// Bytes of reports that were sent, and of watermarks that came back, since the start.
#[derive(Debug, Default)]
pub(super) struct ReportBytes {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// Asks a member and decodes its answer.
pub(super) async fn request(means: Means, to: DeviceId, request: Request) -> Result<Response, Unanswered> {
    let Means { net, reports, .. } = means;
    let channel = request.channel();
    let bytes = protocol::codec::encode(&request);
    if channel == Channel::Reports {
        reports.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    let answer = net.request(to, channel, bytes).await.map_err(|failure| match failure {
        RequestFailure::TimedOut(_) => Unanswered::TimedOut,
        RequestFailure::NotConnected(_) | RequestFailure::Disconnected(_) => Unanswered::Disconnected,
        other => {
            tracing::warn!(peer = to.short(), error = %other, "request without an answer");
            Unanswered::Malformed
        }
    })?;
    if channel == Channel::Reports {
        reports.received.fetch_add(answer.len() as u64, Ordering::Relaxed);
    }
    Response::decode(channel, &answer).map_err(|error| {
        tracing::warn!(peer = to.short(), %error, "answer cannot be decoded");
        Unanswered::Malformed
    })
}

/// Checks the evidence of every artifact of a manifest with the contents that are here or come from an origin, however long
/// that takes; `None` when the node stops before.
pub(super) async fn check_evidence(
    means: Means,
    manifest: Arc<Manifest>,
    vendors: Arc<Vendors>,
    now: WallTime,
) -> Option<Result<Vec<Verdict>, Reason>> {
    let content = Arc::clone(&means.content);
    let files = manifest.artifacts.iter().flat_map(|artifact| match &artifact.evidence {
        Evidence::Apt(chain) => vec![chain.release, chain.packages],
        Evidence::Ed25519 { .. } | Evidence::None {} => Vec::new(),
    });
    let _pins = bring(&means, files.collect()).await?;
    let checked = spawn_blocking(move || {
        let artifacts = manifest.artifacts.iter();
        artifacts.map(|artifact| check_artifact(&content, &manifest, artifact, &vendors, now)).collect()
    });
    Some(checked.await.unwrap_or(Err(Reason::MissingEvidence)))
}

fn check_artifact(
    content: &ContentStore,
    manifest: &Manifest,
    artifact: &Artifact,
    vendors: &Vendors,
    now: WallTime,
) -> Result<Verdict, Reason> {
    let files = match &artifact.evidence {
        Evidence::Apt(chain) => Some((
            read(content, &chain.release, limits::RELEASE_BYTES)?,
            read(content, &chain.packages, limits::INDEX_BYTES)?,
        )),
        Evidence::Ed25519 { .. } | Evidence::None {} => None,
    };
    let files = files.as_ref().map(|(release, packages)| verify::artifact::ChainFiles { release, packages });
    verify::artifact::verify_artifact(manifest, artifact, files, vendors, now).map_err(|refusal| {
        tracing::warn!(patch = %manifest.patch, artifact = artifact.name, %refusal, "evidence refused");
        Reason::from(&refusal)
    })
}

fn read(content: &ContentStore, file: &Content, limit: usize) -> Result<Vec<u8>, Reason> {
    if file.size > limit as u64 {
        return Err(Reason::TooLarge);
    }
    let opened = content.open_complete(file.root).map_err(|error| {
        tracing::warn!(root = %file.root, %error, "evidence cannot be read");
        Reason::MissingEvidence
    })?;
    let mut bytes = Vec::new();
    opened.take(limit as u64).read_to_end(&mut bytes).map_err(|_| Reason::MissingEvidence)?;
    Ok(bytes)
}

/// Takes a content off the disk that the core dropped, wherever else it lies.
pub(super) async fn discard(means: Means, root: Blake3Root) {
    let content = means.content;
    let discarded = spawn_blocking(move || content.discard(root)).await;
    if let Ok(Err(error)) = discarded {
        tracing::error!(%root, error = chain(&error), "content cannot be discarded");
    }
    if let Some(origins) = means.origins {
        origins.dropped(root).await;
    }
}

/// Why a full check did not pass.
enum Spoiled {
    Refused(Reason),
    /// The disk changed these pieces.
    Changed(PieceSet),
    /// Somebody discarded it meanwhile, all or a part.
    Gone,
}

/// Checks the whole of a content, and of an artifact what its format says about itself; gives the input that ends `effect`.
/// What lies at an origin is copied here first, however long that takes; `None` when the node stops before.
pub(super) async fn full_check(
    effect: EffectId,
    means: Means,
    file: Content,
    artifact: Option<(Arc<Manifest>, Artifact)>,
) -> Option<Input> {
    let check =
        Check { sha256: file.sha256, manifest: artifact.as_ref().map(|(manifest, _)| manifest.digest()) };
    let content = &means.content;
    let Some(origins) = means.origins.filter(|origins| origins.has(file.root)) else {
        return Some(ended(effect, check_here(content, file, artifact).await));
    };
    let mut checked = Ok(());
    // What is here is checked at each start. What is not is proven piece by piece whenever it comes.
    if origins.is_here(file.root) || !origins.passed(file.root, &check) {
        for _ in 0..2 {
            let _pin = origins.make_local(file.root).await.ok()?;
            checked = check_here(content, file, artifact.clone()).await;
            match &checked {
                Ok(()) => origins.pass(file.root, check).await,
                // The origin still has what this disk did not keep.
                Err(Spoiled::Changed(_) | Spoiled::Gone) => continue,
                Err(Spoiled::Refused(_)) => {}
            }
            break;
        }
    } else {
        // A part of it, which would be served before the origin is asked.
        let (origins, root) = (Arc::clone(&origins), file.root);
        let evicted = spawn_blocking(move || origins.evict(root)).await;
        if let Ok(Err(error)) = evicted {
            tracing::warn!(root = %file.root, %error, "a part of a copy cannot be discarded");
        }
    }
    origins.trim().await;
    Some(match checked {
        Err(Spoiled::Changed(_) | Spoiled::Gone) => {
            Input::FullChecked { effect, result: Err(Reason::DiskDamaged) }
        }
        checked => ended(effect, checked),
    })
}

fn ended(effect: EffectId, checked: Result<(), Spoiled>) -> Input {
    match checked {
        Ok(()) => Input::FullChecked { effect, result: Ok(()) },
        Err(Spoiled::Refused(reason)) => Input::FullChecked { effect, result: Err(reason) },
        Err(Spoiled::Gone) => Input::FullChecked { effect, result: Err(Reason::PieceCorrupt) },
        Err(Spoiled::Changed(pieces)) => Input::Damaged { effect, pieces },
    }
}

/// Waits until contents that may lie elsewhere are on this disk and checked; they stay while the pins live. `None` when the
/// node stops before.
async fn bring(means: &Means, files: Vec<Content>) -> Option<Vec<Pin>> {
    let mut pins = Vec::new();
    let Some(origins) = &means.origins else { return Some(pins) };
    for file in files.into_iter().filter(|file| origins.has(file.root)) {
        // A copy that this disk does not keep is made again once.
        for _ in 0..2 {
            pins.push(origins.make_local(file.root).await.ok()?);
            let content = Arc::clone(&means.content);
            // A copy that came anew opens as complete only after its own check.
            let checked = spawn_blocking(move || match content.open_complete(file.root) {
                Ok(_) => Ok(()),
                Err(_) => content.full_check(file.root, file.sha256),
            });
            match checked.await {
                Ok(Err(error)) => {
                    tracing::error!(root = %file.root, %error, "a copy from an origin did not pass its check");
                }
                _ => break,
            }
        }
    }
    Some(pins)
}

/// The full check of a content that lies here.
async fn check_here(
    content: &Arc<ContentStore>,
    file: Content,
    artifact: Option<(Arc<Manifest>, Artifact)>,
) -> Result<(), Spoiled> {
    let mut said = false;
    loop {
        let (content, artifact) = (Arc::clone(content), artifact.clone());
        let checked = spawn_blocking(move || check(&content, file, artifact)).await;
        let error = match checked.unwrap_or(Ok(Err(Spoiled::Refused(Reason::PieceCorrupt)))) {
            Ok(checked) => return checked,
            Err(error) => error,
        };
        if !std::mem::replace(&mut said, true) {
            tracing::warn!(root = %file.root, %error, "content cannot be checked now; it is tried again");
        }
        tokio::time::sleep(SHORTAGE).await;
    }
}

/// Blocking. The error says that the operating system is short of descriptors or memory, which says nothing about the content.
fn check(
    content: &ContentStore,
    file: Content,
    artifact: Option<(Arc<Manifest>, Artifact)>,
) -> Result<Result<(), Spoiled>, std::io::Error> {
    if let Err(error) = content.full_check(file.root, file.sha256) {
        let error = error.into_shortage()?;
        tracing::error!(root = %file.root, %error, "full check failed");
        return Ok(Err(match error {
            CheckError::Digest { .. } => Spoiled::Refused(Reason::FullCheckFailed),
            CheckError::Changed { pieces, .. } => Spoiled::Changed(pieces.into_iter().collect()),
            CheckError::Content(content::Error::Unknown(_) | content::Error::Incomplete { .. }) => {
                Spoiled::Gone
            }
            CheckError::Content(_) => Spoiled::Refused(Reason::PieceCorrupt),
        }));
    }
    let Some((manifest, _)) = artifact else { return Ok(Ok(())) };
    let Ok(path) = content.complete_path(file.root) else {
        return Ok(Err(Spoiled::Refused(Reason::PieceCorrupt)));
    };
    let found = match package_file::read(&path) {
        Err(NotAPackage::Run(error)) if disk::is_shortage(&error) => return Err(error),
        found => found,
    };
    Ok(package_file::judge(found, &manifest).map_err(|refusal| {
        tracing::error!(patch = %manifest.patch, %refusal, "artifact is not what the manifest says");
        Spoiled::Refused(Reason::from(&refusal))
    }))
}

/// Reads what is installed.
pub(super) async fn take_inventory(root: PathBuf, now: WallTime) -> Result<Inventory, String> {
    let taken = spawn_blocking(move || scan::take(&root, now).map_err(|error| chain(&error)));
    taken.await.unwrap_or_else(|error| Err(format!("the scan was interrupted: {error}")))
}

/// Installs a patch from open files of its artifacts. `may_start` is asked right before the installer starts and blocks.
pub(super) async fn install(
    means: Means,
    manifest: Arc<Manifest>,
    may_start: impl Fn() -> Result<(), Reason> + Send + 'static,
) -> InstallEnd {
    let Some(target) = means.target.clone() else {
        return InstallEnd::NotStarted(Reason::NoInstaller, "this node is not allowed to install".to_owned());
    };
    let files = manifest.artifacts.iter().map(|artifact| artifact.content).collect();
    let Ok(Some(pins)) = tokio::time::timeout(BRING, bring(&means, files)).await else {
        let cause = "its artifacts cannot be read from where this seed's content lies".to_owned();
        return InstallEnd::NotStarted(Reason::OriginUnreachable, cause);
    };
    let (content, origins) = (means.content, means.origins);
    let ended = spawn_blocking(move || {
        let files: Result<Vec<_>, _> =
            manifest.artifacts.iter().map(|artifact| content.open_complete(artifact.content.root)).collect();
        match files {
            Ok(files) => {
                let order = Order { manifest: (*manifest).clone(), files };
                let called_off = Cell::new(Reason::InstallerInterrupted);
                let ask = || may_start().map_err(|reason| called_off.set(reason)).is_ok();
                match deploy::install_when(&target, &[order], &ask) {
                    Outcome::CalledOff => InstallEnd::NotStarted(called_off.get(), String::new()),
                    outcome => end_of(outcome),
                }
            }
            Err(error) => InstallEnd::NotStarted(Reason::InstallerRefused, chain(&error)),
        }
    });
    let end = ended.await;
    drop(pins);
    if let Some(origins) = origins {
        origins.trim().await;
    }
    end.unwrap_or_else(|error| InstallEnd::NotStarted(Reason::InstallerInterrupted, error.to_string()))
}

fn end_of(outcome: Outcome) -> InstallEnd {
    match outcome {
        Outcome::Exited { code, log } => InstallEnd::Exited { code: Some(code), log },
        Outcome::Killed { signal, log } => {
            InstallEnd::Killed { log: format!("killed by signal {signal}; {log}") }
        }
        Outcome::TimedOut { log } => InstallEnd::Exited { code: None, log: format!("took too long; {log}") },
        Outcome::CalledOff => InstallEnd::NotStarted(Reason::InstallerInterrupted, String::new()),
        Outcome::AlreadyInstalled => InstallEnd::NotStarted(
            Reason::AlreadyInstalled,
            "every package is there in this version already".to_owned(),
        ),
        Outcome::LockBusy { holder } => {
            let detail =
                holder.map_or_else(String::new, |process| format!("process {process} holds the lock"));
            InstallEnd::NotStarted(Reason::LockBusy, detail)
        }
        Outcome::DiskFull { log } => InstallEnd::NotStarted(Reason::DiskFull, log),
        Outcome::Refused(refusal) => InstallEnd::NotStarted(Reason::InstallerRefused, refusal.to_string()),
        Outcome::Failed(failure) => InstallEnd::NotStarted(Reason::InstallerRefused, chain(&failure)),
    }
}

/// What the store says about a batch, for the core.
pub(super) fn stored(result: Result<(), crate::store::Error>) -> Result<(), StoreFailure> {
    result.map_err(|error| StoreFailure(chain(&error)))
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
