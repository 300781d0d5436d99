//! Plays all sites of a plan over several threads: the outcome stands in the order of the sites, whatever their number.

use super::outcome::{FleetOutcome, SiteOutcome};
use super::plan::Plan;
use super::queue::Rates;
use super::site::Site;
use super::uplink;
use super::world::{Patch, World};
use protocol::digest::Sha256;
use protocol::limits;
use protocol::manifest::Content;
use protocol::piece::TreeBuilder;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

/// What a rollout came to.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// The fleet.
    pub fleet: FleetOutcome,
    /// Its sites.
    pub sites: Vec<SiteOutcome>,
}

/// A site that did not come to its end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("site {site} of seed {seed}: {what}")]
pub struct Failure {
    /// Which.
    pub site: u32,
    /// The seed of the plan.
    pub seed: u64,
    /// What was wrong.
    pub what: String,
}

/// The patch of a plan: zeros, since nobody but the piece list looks at them.
fn patch(plan: &Plan) -> Patch {
    let mut builder = TreeBuilder::default();
    let zeros = vec![0; limits::PIECE_BYTES as usize];
    let mut left = plan.patch_bytes;
    while left > 0 {
        let bytes = left.min(limits::PIECE_BYTES);
        builder.update(&zeros[..bytes as usize]);
        left -= bytes;
    }
    let tree = Arc::new(builder.finish());
    let content = Content { root: tree.root(), sha256: Sha256::of(b"zeros"), size: tree.size() };
    Patch { content, tree }
}

/// Plays one site, which has this share of its link.
///
/// # Errors
/// [`Failure`]: devices that have not got everything, a fetcher that contradicts itself, or a site that was faster than it
/// can be.
fn play(plan: &Plan, patch: &Patch, number: u32, share: Rates) -> Result<(SiteOutcome, Vec<f64>), Failure> {
    let mut site = Site::draw(plan, number);
    site.share = share;
    let mut world = World::new(plan, &site, patch);
    let failed = |what: String| Failure { site: number, seed: plan.seed, what };
    world.play().map_err(|stuck| failed(stuck.to_string()))?;
    let (outcome, done) = SiteOutcome::of(plan, &site, &world);
    if outcome.is_impossible() {
        return Err(failed(format!("faster than its bound: {:?}", outcome.distance)));
    }
    Ok((outcome, done))
}

/// Plays one site of a plan, all others of which fetch at the same time.
///
/// # Errors
/// As [`run`] has.
pub fn play_one(plan: &Plan, number: u32) -> Result<SiteOutcome, Failure> {
    let share = uplink::shares(plan).into_iter().nth(number as usize);
    let share = share.unwrap_or_else(|| Site::draw(plan, number).share);
    play(plan, &patch(plan), number, share).map(|(site, _)| site)
}

/// Plays all sites of `plan` over `threads` threads. `each` hears how many are done.
///
/// # Errors
/// The [`Failure`] of the first site, in their order, that had one.
pub fn run(plan: &Plan, threads: usize, mut each: impl FnMut(usize)) -> Result<Rollout, Failure> {
    let (patch, shares) = (patch(plan), uplink::shares(plan));
    let next = AtomicU32::new(0);
    let (sender, receiver) = mpsc::sync_channel(64);
    let mut played = BTreeMap::new();
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (sender, next, patch, shares) = (sender.clone(), &next, &patch, &shares);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(share) = shares.get(number as usize) else { return };
                    if sender.send((number, play(plan, patch, number, share.clone()))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (number, outcome) in receiver {
            if outcome.is_err() {
                // Sites before this one may still fail; those after it are not begun.
                next.store(plan.sites, Ordering::Relaxed);
            }
            played.insert(number, outcome);
            each(played.len());
        }
    });
    let (mut sites, mut done) = (Vec::new(), Vec::new());
    for outcome in played.into_values() {
        let (site, seconds) = outcome?;
        sites.push(site);
        done.extend(seconds);
    }
    Ok(Rollout { fleet: FleetOutcome::of(plan, &sites, done), sites })
}
