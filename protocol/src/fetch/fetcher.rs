//! The node's side of fetching: wants, sources, and the next thing to ask for.

mod check;
mod choice;

pub use check::Inconsistent;

use super::source::{Grant, Neighbour, Seed};
use super::transfer::{Origin, Transfer};
use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::identifier::{DeviceId, ManifestDigest};
use crate::limits;
use crate::manifest::Content;
use crate::piece::{self, PieceIndex, PieceTree};
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::{GrantAnswer, GrantRequest, Holding, LeaseAnswer, LeaseRequest, SiteMember};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Pause after a seed refused or did not answer.
const SEED_PAUSE: Duration = Duration::from_secs(2);
/// Pause for one content after a seed sent wrong bytes of it: the seed's disk is damaged there, and the rest still good.
const SEED_CORRUPT_PAUSE: Duration = Duration::from_secs(60);
/// Pieces in flight from one seed: two keep the link busy, more would only widen what a dead fetcher loses.
const SEED_IN_FLIGHT: usize = 2;

/// What the fetcher asks the core to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a neighbour for a grant; the answer goes to [`Fetcher::on_grant`].
    AskGrant(EffectId, DeviceId, GrantRequest),
    /// Ask a seed for leases; the answer goes to [`Fetcher::on_lease`].
    AskLease(EffectId, DeviceId, LeaseRequest),
    /// Fetch one piece and check it against the tree; the outcome goes to [`Fetcher::on_piece`].
    FetchPiece(EffectId, DeviceId, Arc<PieceTree>, PieceIndex),
    /// Connect to a member of the site that holds what is wanted.
    Dial(SiteMember),
    /// A source sent a piece that does not match the root: an incident.
    Corrupt(DeviceId, Blake3Root, PieceIndex),
}

/// A content that the node wants, and how far it is.
#[derive(Debug)]
pub struct Want {
    /// The content.
    pub content: Content,
    /// The approved manifest for which it is wanted.
    pub manifest: ManifestDigest,
    /// Whether it is evidence: its WAN bytes carry that reason.
    pub evidence: bool,
    have: PieceSet,
    tree: Option<Arc<PieceTree>>,
    active: BTreeMap<PieceIndex, EffectId>,
}

impl Want {
    /// Pieces verified and stored.
    pub fn have(&self) -> &PieceSet {
        &self.have
    }

    fn pieces(&self) -> u32 {
        piece::count(self.content.size)
    }
}

/// Why a piece did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceFailure {
    /// The bytes do not match the root: the source's fault.
    Corrupt,
    /// The source refused, for this reason.
    Refused(Reason),
    /// The connection ended, or nothing came in time.
    Lost,
    /// Our own disk did not take it.
    Disk,
}

#[derive(Debug)]
struct Flight {
    root: Blake3Root,
    tree: Arc<PieceTree>,
    piece: PieceIndex,
    from: DeviceId,
    origin: Origin,
    reason: Reason,
}

/// One node's fetching.
#[derive(Debug)]
pub struct Fetcher {
    me: DeviceId,
    wants: BTreeMap<Blake3Root, Want>,
    neighbours: BTreeMap<DeviceId, Neighbour>,
    seeds: BTreeMap<DeviceId, Seed>,
    /// Members that sent wrong bytes and went away: coming back does not make them trustworthy.
    corrupt: BTreeMap<DeviceId, Moment>,
    flights: BTreeMap<EffectId, Flight>,
    transfers: BTreeMap<Blake3Root, Transfer>,
    /// Bytes of pieces by source, since the start.
    sources: BTreeMap<DeviceId, u64>,
    /// Whether anybody told us who else is in the site: before that, nothing is fetched over the WAN.
    heard: bool,
    disk_blocked_until: Option<Moment>,
    actions: VecDeque<Action>,
}

impl Fetcher {
    /// A fetcher that wants nothing yet.
    pub fn new(me: DeviceId) -> Fetcher {
        Fetcher {
            me,
            wants: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            seeds: BTreeMap::new(),
            corrupt: BTreeMap::new(),
            flights: BTreeMap::new(),
            transfers: BTreeMap::new(),
            sources: BTreeMap::new(),
            heard: false,
            disk_blocked_until: None,
            actions: VecDeque::new(),
        }
    }

    /// Wants `content`, of which `have` is here already.
    pub fn want(&mut self, content: Content, manifest: ManifestDigest, evidence: bool, have: PieceSet) {
        if let Some(want) = self.wants.get_mut(&content.root) {
            // A source that knows the newer manifest alone must still understand what we ask.
            (want.manifest, want.evidence) = (manifest, evidence);
            return;
        }
        if self.wants.len() >= limits::ARTIFACTS_TRACKED {
            return;
        }
        self.transfers.entry(content.root).or_insert_with(|| Transfer::new(content));
        // Wanted before, forgotten and wanted again: what is on its way still comes.
        let flights = self.flights.iter().filter(|(_, flight)| flight.root == content.root);
        let active = flights.clone().map(|(effect, flight)| (flight.piece, *effect)).collect();
        let known = flights.map(|(_, flight)| Arc::clone(&flight.tree)).next();
        let small = || PieceTree::prove(content.root, content.size, Vec::new()).ok().map(Arc::new);
        let tree = known.or_else(small);
        self.wants.insert(content.root, Want { content, manifest, evidence, have, tree, active });
    }

    /// Wants `root` no more: it is complete, or no longer approved. Pieces on their way still count when they come.
    pub fn forget(&mut self, root: Blake3Root) {
        self.wants.remove(&root);
        for neighbour in self.neighbours.values_mut() {
            // The piece list goes with the want, and only the answer to a new request brings it again.
            neighbour.grants.retain(|named, grant| *named != root || !matches!(grant, Grant::Given(_)));
        }
        for seed in self.seeds.values_mut() {
            seed.leases.remove(&root);
            seed.retry.remove(&root);
            seed.declined.remove(&root);
            seed.named.retain(|(named, _), _| *named != root);
        }
    }

    /// What is wanted and not complete.
    pub fn wants(&self) -> impl Iterator<Item = &Want> {
        self.wants.values()
    }

    /// Whether `root` is wanted.
    pub fn is_wanted(&self, root: Blake3Root) -> bool {
        self.wants.contains_key(&root)
    }

    /// Bytes received so far, by content.
    pub fn transfers(&self) -> impl Iterator<Item = &Transfer> {
        self.transfers.values()
    }

    /// Bytes of pieces that came from `device` since the start.
    pub fn fetched_from(&self, device: DeviceId) -> u64 {
        self.sources.get(&device).copied().unwrap_or(0)
    }

    /// Somebody told us who is in the site.
    pub fn heard_of_site(&mut self) {
        self.heard = true;
    }

    /// A member of the site is connected and may share with us.
    pub fn add_neighbour(&mut self, device: DeviceId) {
        let in_flight = self.flying_from(device);
        let corrupt_until = self.corrupt.remove(&device);
        let neighbour = self.neighbours.entry(device).or_insert_with(|| Neighbour::with(in_flight));
        neighbour.load.corrupt_until = neighbour.load.corrupt_until.max(corrupt_until);
    }

    /// A seed is connected.
    pub fn add_seed(&mut self, device: DeviceId) {
        let in_flight = self.flying_from(device);
        self.seeds.entry(device).or_insert_with(|| Seed::with(in_flight));
    }

    /// Pieces that a source still owes us from an earlier connection count against it.
    fn flying_from(&self, device: DeviceId) -> usize {
        self.flights.values().filter(|flight| flight.from == device).count()
    }

    /// A neighbour or seed is gone. Its flights complete on their own, with a failure.
    pub fn remove(&mut self, device: DeviceId) {
        self.seeds.remove(&device);
        let neighbour = self.neighbours.remove(&device);
        if let Some(until) = neighbour.and_then(|neighbour| neighbour.load.corrupt_until) {
            self.corrupt.insert(device, until);
            if self.corrupt.len() > limits::ARTIFACTS_TRACKED {
                self.corrupt.pop_first();
            }
        }
    }

    /// A neighbour says what it holds. Pieces only appear, and a later word may overtake an earlier one: what it said
    /// before still counts until it refuses a piece.
    pub fn on_holdings(&mut self, device: DeviceId, holdings: Vec<Holding>) {
        let Some(neighbour) = self.neighbours.get_mut(&device) else { return };
        for Holding { root, pieces } in holdings {
            // Only what is new earns more patience: a word that says nothing could be repeated for ever.
            if neighbour.learn(root, &pieces) {
                for seed in self.seeds.values_mut() {
                    seed.named.remove(&(root, device));
                }
            }
        }
    }

    /// Whether a neighbour said that it holds all of `holding` itself, so that it needs no word of it.
    pub fn knows_all(&self, device: DeviceId, holding: &Holding) -> bool {
        let theirs = self.neighbours.get(&device).and_then(|neighbour| neighbour.holds.get(&holding.root));
        theirs.is_some_and(|theirs| holding.pieces.iter().all(|piece| theirs.contains(piece)))
    }

    /// The answer to [`Action::AskGrant`]; `None` when none came.
    pub fn on_grant(
        &mut self,
        now: Moment,
        device: DeviceId,
        root: Blake3Root,
        answer: Option<Result<GrantAnswer, Reason>>,
    ) {
        let Some(neighbour) = self.neighbours.get_mut(&device) else { return };
        match answer {
            Some(Ok(grant)) => {
                let until = now + Duration::from_secs(u64::from(grant.seconds.clamp(1, 3_600)));
                let Some(want) = self.wants.get_mut(&root) else { return };
                match prove(want, grant.tree) {
                    // Without the piece list nothing can be fetched under the grant.
                    Ok(()) if want.tree.is_none() => {
                        neighbour.grants.remove(&root);
                        neighbour.load.failed(now);
                    }
                    Ok(()) => {
                        neighbour.grants.insert(root, Grant::Given(until));
                        neighbour.learn(root, &grant.pieces);
                    }
                    Err(()) => {
                        neighbour.load.corrupt(now);
                        neighbour.grants.remove(&root);
                        self.actions.push_back(Action::Corrupt(device, root, PieceIndex(0)));
                    }
                }
            }
            Some(Err(reason)) => neighbour.refused(root, reason, now),
            None => {
                neighbour.grants.remove(&root);
                neighbour.load.failed(now);
            }
        }
    }

    /// The answer to [`Action::AskLease`]; `None` when none came.
    pub fn on_lease(
        &mut self,
        now: Moment,
        device: DeviceId,
        root: Blake3Root,
        answer: Option<Result<LeaseAnswer, Reason>>,
    ) {
        let Some(seed) = self.seeds.get_mut(&device) else { return };
        seed.asking.remove(&root);
        let Some(want) = self.wants.get_mut(&root) else { return };
        let answer = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => {
                seed.declined.insert(root, now + SEED_PAUSE);
                return;
            }
            None => return seed.load.failed(now),
        };
        if prove(want, answer.tree).is_err() {
            seed.retry.insert(root, now + SEED_CORRUPT_PAUSE);
            self.actions.push_back(Action::Corrupt(device, root, PieceIndex(0)));
            return;
        }
        if want.tree.is_none() {
            return seed.load.failed(now);
        }
        let count = want.pieces();
        let mine = answer.leased.into_iter().filter(|(piece, _)| piece.0 < count);
        seed.leases.entry(root).or_default().extend(mine);
        let retry = Duration::from_millis(u64::from(answer.retry_milliseconds.clamp(100, 60_000)));
        seed.retry.insert(root, now + retry);
        for member in answer.holders {
            seed.named.entry((root, member.device)).or_insert(now);
            if member.device != self.me && !self.neighbours.contains_key(&member.device) {
                self.actions.push_back(Action::Dial(member));
            }
        }
    }

    /// What an [`Action::FetchPiece`] in flight is about: the piece list and the piece.
    pub fn target(&self, effect: EffectId) -> Option<(Arc<PieceTree>, PieceIndex)> {
        let flight = self.flights.get(&effect)?;
        Some((Arc::clone(&flight.tree), flight.piece))
    }

    /// Whom an [`Action::FetchPiece`] in flight asked.
    pub fn source(&self, effect: EffectId) -> Option<DeviceId> {
        self.flights.get(&effect).map(|flight| flight.from)
    }

    /// The outcome of [`Action::FetchPiece`]: the piece is verified and stored, or it did not come.
    pub fn on_piece(&mut self, now: Moment, effect: EffectId, outcome: Result<(), PieceFailure>) {
        let Some(flight) = self.flights.remove(&effect) else { return };
        self.land(now, &flight, outcome);
        if let Some(want) = self.wants.get_mut(&flight.root) {
            want.active.remove(&flight.piece);
            if outcome.is_ok() {
                want.have.insert(flight.piece);
            }
        }
        let length = flight.tree.extent(flight.piece).map_or(0, |(_, length)| length as u64);
        match outcome {
            Ok(()) => self.count(&flight, length),
            Err(PieceFailure::Corrupt) => {
                self.count(&flight, length);
                self.actions.push_back(Action::Corrupt(flight.from, flight.root, flight.piece));
            }
            Err(PieceFailure::Disk) => self.disk_blocked_until = Some(now + Duration::from_secs(10)),
            Err(PieceFailure::Refused(_) | PieceFailure::Lost) => {}
        }
    }

    fn count(&mut self, flight: &Flight, bytes: u64) {
        *self.sources.entry(flight.from).or_default() += bytes;
        if let Some(transfer) = self.transfers.get_mut(&flight.root) {
            transfer.add(flight.origin, flight.reason, bytes);
        }
    }

    /// Books the outcome with the source, and ends the lease that a WAN piece was fetched under.
    fn land(&mut self, now: Moment, flight: &Flight, outcome: Result<(), PieceFailure>) {
        if let Some(seed) = self.seeds.get_mut(&flight.from) {
            seed.load.in_flight = seed.load.in_flight.saturating_sub(1);
            let leases = seed.leases.entry(flight.root).or_default();
            leases.remove(&flight.piece);
            match outcome {
                Ok(()) => {
                    seed.load.succeeded();
                    // The next leases are asked for before the last of these is used up.
                    if leases.len() < SEED_IN_FLIGHT {
                        seed.retry.remove(&flight.root);
                    }
                }
                Err(PieceFailure::Corrupt) => drop(seed.retry.insert(flight.root, now + SEED_CORRUPT_PAUSE)),
                Err(PieceFailure::Refused(_) | PieceFailure::Lost) => seed.load.failed(now),
                Err(PieceFailure::Disk) => {}
            }
        }
        let Some(neighbour) = self.neighbours.get_mut(&flight.from) else { return };
        neighbour.load.in_flight = neighbour.load.in_flight.saturating_sub(1);
        match outcome {
            Ok(()) => neighbour.load.succeeded(),
            Err(PieceFailure::Corrupt) => neighbour.load.corrupt(now),
            Err(PieceFailure::Refused(Reason::NoPieces)) => {
                if let Some(pieces) = neighbour.holds.get_mut(&flight.root) {
                    pieces.remove(flight.piece);
                }
            }
            Err(PieceFailure::Refused(reason)) => neighbour.refused(flight.root, reason, now),
            Err(PieceFailure::Lost) => neighbour.load.failed(now),
            Err(PieceFailure::Disk) => {}
        }
    }

    /// When to call [`Fetcher::advance`] again although nothing happened.
    pub fn next_wake(&self, now: Moment) -> Option<Moment> {
        if self.wants.is_empty() {
            return None;
        }
        let retries = self.seeds.values().flat_map(|seed| {
            seed.retry.values().chain(seed.declined.values()).copied().chain(seed.load.blocked_until)
        });
        let refusals = self.neighbours.values().filter_map(|neighbour| neighbour.next_change(now));
        retries.chain(refusals).chain(self.disk_blocked_until).filter(|moment| *moment > now).min()
    }
}

/// Proves a piece list for a want that has none yet.
fn prove(want: &mut Want, values: Option<Vec<[u8; 32]>>) -> Result<(), ()> {
    if want.tree.is_some() {
        return Ok(());
    }
    let Some(values) = values else { return Ok(()) };
    let tree = PieceTree::prove(want.content.root, want.content.size, values).map_err(|_| ())?;
    want.tree = Some(Arc::new(tree));
    Ok(())
}

#[cfg(test)]
mod tests;
