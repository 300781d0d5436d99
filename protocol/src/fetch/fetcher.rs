//! The node's side of fetching: wants, sources, and the next thing to ask for.

use super::rendezvous;
use super::source::{Grant, Neighbour, Seed};
use super::transfer::{Origin, Transfer};
use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::effect::{EffectId, EffectIds};
use crate::identifier::{DeviceId, ManifestDigest};
use crate::limits;
use crate::manifest::Content;
use crate::piece::{self, PieceIndex, PieceTree};
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::{GrantAnswer, GrantRequest, Holding, LeaseAnswer, LeaseRequest, SiteMember};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A member that the seed named as holder, and that we have no connection to, counts as unreachable after this long.
const NAMED_PATIENCE: Duration = Duration::from_secs(6);
/// A neighbour that the seed named, and that never says it holds anything of the content, is passed over after this long.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(60);
/// Pause after a seed refused or did not answer.
const SEED_PAUSE: Duration = Duration::from_secs(2);
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

/// A rule about the fetcher's own state that does not hold: a mistake in this module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fetching is inconsistent: {0}")]
pub struct Inconsistent(String);

/// One node's fetching.
#[derive(Debug)]
pub struct Fetcher {
    me: DeviceId,
    wants: BTreeMap<Blake3Root, Want>,
    neighbours: BTreeMap<DeviceId, Neighbour>,
    seeds: BTreeMap<DeviceId, Seed>,
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
        if self.wants.len() >= limits::ARTIFACTS_TRACKED && !self.wants.contains_key(&content.root) {
            return;
        }
        if let Some(want) = self.wants.get_mut(&content.root) {
            // A source that knows the newer manifest alone must still understand what we ask.
            (want.manifest, want.evidence) = (manifest, evidence);
            return;
        }
        self.transfers.entry(content.root).or_insert_with(|| Transfer::new(content));
        // What was forgotten while pieces were on their way goes on with them.
        let flying = self.flights.iter().filter(|(_, flight)| flight.root == content.root);
        let active: BTreeMap<PieceIndex, EffectId> =
            flying.clone().map(|(effect, flight)| (flight.piece, *effect)).collect();
        let known = flying.map(|(_, flight)| Arc::clone(&flight.tree)).next();
        let tree =
            known.or_else(|| PieceTree::prove(content.root, content.size, Vec::new()).ok().map(Arc::new));
        self.wants.insert(content.root, Want { content, manifest, evidence, have, tree, active });
    }

    /// Wants `root` no more: it is complete, or no longer approved. Pieces on their way still land and are counted.
    pub fn forget(&mut self, root: Blake3Root) {
        self.wants.remove(&root);
        for seed in self.seeds.values_mut() {
            seed.leases.remove(&root);
            seed.retry.remove(&root);
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
        self.neighbours.entry(device).or_insert_with(|| Neighbour::with(in_flight));
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
        self.neighbours.remove(&device);
        self.seeds.remove(&device);
    }

    /// A neighbour says what it holds. Pieces only appear, and a later word may overtake an earlier one: what it said
    /// before still counts until it refuses a piece.
    pub fn on_holdings(&mut self, device: DeviceId, holdings: Vec<Holding>) {
        let Some(neighbour) = self.neighbours.get_mut(&device) else { return };
        for Holding { root, pieces } in holdings {
            if neighbour.holds.len() < limits::ARTIFACTS_TRACKED || neighbour.holds.contains_key(&root) {
                neighbour.holds.entry(root).or_default().merge(&pieces);
            }
            for seed in self.seeds.values_mut() {
                seed.named.remove(&(root, device));
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
                    Ok(()) => {
                        neighbour.grants.insert(root, Grant::Given(until));
                        neighbour.holds.entry(root).or_default().merge(&grant.pieces);
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
        let Some(Ok(answer)) = answer else {
            seed.retry.insert(root, now + SEED_PAUSE);
            return;
        };
        if prove(want, answer.tree).is_err() {
            seed.load.corrupt(now);
            self.actions.push_back(Action::Corrupt(device, root, PieceIndex(0)));
            return;
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
        let length = flight.tree.extent(flight.piece).map_or(0, |(_, length)| length as u64);
        if let Some(want) = self.wants.get_mut(&flight.root) {
            want.active.remove(&flight.piece);
            if outcome.is_ok() {
                want.have.insert(flight.piece);
            }
        }
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
                Err(PieceFailure::Corrupt) => seed.load.corrupt(now),
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

    /// Decides what to ask for now, and returns everything that is to be done.
    pub fn advance(&mut self, now: Moment, ids: &mut EffectIds) -> Vec<Action> {
        let disk_blocked = self.disk_blocked_until.is_some_and(|until| now < until);
        // Small contents first: evidence opens the gate for the artifact that it proves.
        let mut order: Vec<(bool, u64, Blake3Root)> =
            self.wants.values().map(|want| (!want.evidence, want.content.size, want.content.root)).collect();
        order.sort_unstable();
        for (_, _, root) in order {
            if disk_blocked {
                break;
            }
            self.ask_neighbours(now, root, ids);
            self.fetch_pieces(now, root, ids);
            self.ask_seeds(now, root, ids);
        }
        self.actions.drain(..).collect()
    }

    /// Asks every neighbour that holds something we lack for its grant.
    fn ask_neighbours(&mut self, now: Moment, root: Blake3Root, ids: &mut EffectIds) {
        let Some(want) = self.wants.get(&root) else { return };
        for (device, neighbour) in &mut self.neighbours {
            let useful = neighbour
                .holds
                .get(&root)
                .is_some_and(|pieces| pieces.iter().any(|piece| !want.have.contains(piece)));
            let pending = match neighbour.grants.get(&root) {
                Some(Grant::Asking) => true,
                Some(Grant::Given(until) | Grant::Refused(until)) => now < *until,
                None => false,
            };
            if !useful || pending || neighbour.load.is_blocked(now) {
                continue;
            }
            let effect = ids.fresh();
            neighbour.grants.insert(root, Grant::Asking);
            let request = GrantRequest { root, manifest: want.manifest, need_tree: want.tree.is_none() };
            self.actions.push_back(Action::AskGrant(effect, *device, request));
        }
    }

    /// Starts pieces: the rarest first, each from the least loaded source; from a seed only under a lease.
    fn fetch_pieces(&mut self, now: Moment, root: Blake3Root, ids: &mut EffectIds) {
        let Some(want) = self.wants.get(&root) else { return };
        let Some(tree) = want.tree.clone() else { return };
        let mut candidates: Vec<(usize, u64, PieceIndex)> = want
            .have
            .missing(want.pieces())
            .filter(|piece| !want.active.contains_key(piece))
            .map(|piece| {
                let holders =
                    self.neighbours.values().filter(|neighbour| neighbour.offers(root, piece, now)).count();
                let key = [root.as_bytes().as_slice(), &piece.0.to_le_bytes()].concat();
                (holders, rendezvous::weight(&key, self.me), piece)
            })
            .collect();
        candidates.sort_unstable();
        for (_, _, piece) in candidates {
            if self.flights.len() >= limits::PIECES_IN_FLIGHT {
                return;
            }
            let Some((from, origin, reason)) = self.choose(now, root, piece) else { continue };
            let effect = ids.fresh();
            let tree = Arc::clone(&tree);
            self.flights
                .insert(effect, Flight { root, tree: Arc::clone(&tree), piece, from, origin, reason });
            if let Some(want) = self.wants.get_mut(&root) {
                want.active.insert(piece, effect);
            }
            self.actions.push_back(Action::FetchPiece(effect, from, tree, piece));
        }
    }

    /// The least loaded neighbour that offers the piece under a grant, else a seed that leased it to us.
    fn choose(
        &mut self,
        now: Moment,
        root: Blake3Root,
        piece: PieceIndex,
    ) -> Option<(DeviceId, Origin, Reason)> {
        let granted = |neighbour: &Neighbour| matches!(neighbour.grants.get(&root), Some(Grant::Given(until)) if now < *until);
        let nearest = self
            .neighbours
            .iter_mut()
            .filter(|(_, neighbour)| neighbour.offers(root, piece, now) && granted(neighbour))
            .filter(|(_, neighbour)| neighbour.load.in_flight < limits::PIECES_IN_FLIGHT_PER_SOURCE)
            .min_by_key(|(device, neighbour)| (neighbour.load.in_flight, **device));
        if let Some((device, neighbour)) = nearest {
            neighbour.load.in_flight += 1;
            return Some((*device, Origin::Lan, Reason::Neighbour));
        }
        let evidence = self.wants.get(&root)?.evidence;
        let alone = self.neighbours.is_empty();
        let (device, seed, reason) = self.seeds.iter_mut().find_map(|(device, seed)| {
            let reason = *seed.leases.get(&root)?.get(&piece)?;
            let free = seed.load.in_flight < SEED_IN_FLIGHT && !seed.load.is_blocked(now);
            free.then_some((*device, seed, reason))
        })?;
        seed.load.in_flight += 1;
        let reason = match reason {
            Reason::Lease if evidence => Reason::Evidence,
            Reason::Lease if alone => Reason::LoneDevice,
            other => other,
        };
        Some((device, Origin::Wan, reason))
    }

    /// Asks a seed for leases on what no neighbour offers.
    fn ask_seeds(&mut self, now: Moment, root: Blake3Root, ids: &mut EffectIds) {
        if !self.heard {
            return;
        }
        let Some(want) = self.wants.get(&root) else { return };
        let offered = |piece| self.neighbours.values().any(|neighbour| neighbour.offers(root, piece, now));
        let leased = |piece: &PieceIndex| {
            self.seeds
                .values()
                .any(|seed| seed.leases.get(&root).is_some_and(|leases| leases.contains_key(piece)))
        };
        let wanted: PieceSet = want
            .have
            .missing(want.pieces())
            .filter(|piece| !want.active.contains_key(piece) && !leased(piece) && !offered(*piece))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let unreachable = self.unreachable(now, root);
        let ready = self.seeds.iter_mut().find(|(_, seed)| {
            !seed.asking.contains_key(&root)
                && seed.retry.get(&root).is_none_or(|retry| *retry <= now)
                && !seed.load.is_blocked(now)
        });
        let Some((device, seed)) = ready else { return };
        let effect = ids.fresh();
        seed.asking.insert(root, effect);
        let request = LeaseRequest {
            root,
            manifest: want.manifest,
            wanted,
            unreachable,
            need_tree: want.tree.is_none(),
        };
        self.actions.push_back(Action::AskLease(effect, *device, request));
    }

    /// Members that the seed named and that did not come forward in time, or that refused us all that time.
    fn unreachable(&self, now: Moment, root: Blake3Root) -> Vec<DeviceId> {
        let named = self.seeds.values().flat_map(|seed| &seed.named);
        let devices: BTreeSet<DeviceId> = named
            .filter(|((named, device), since)| {
                // One that refuses us now may serve others meanwhile, who then serve us.
                let waits =
                    self.neighbours.get(device).is_some_and(|neighbour| neighbour.is_usable(root, now));
                let patience = if waits { NEIGHBOUR_PATIENCE } else { NAMED_PATIENCE };
                *named == root && now.since(**since) >= patience
            })
            .map(|((_, device), _)| *device)
            .collect();
        devices.into_iter().take(limits::MEMBERS_PER_ANSWER).collect()
    }

    /// Checks the rules that always hold: a piece is in one state, and every count equals what it counts. For
    /// simulations and tests.
    ///
    /// # Errors
    /// [`Inconsistent`] with the first rule that is broken.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let broken = |rule: String| Err(Inconsistent(rule));
        for (root, want) in &self.wants {
            for (piece, effect) in &want.active {
                if want.have.contains(*piece) {
                    return broken(format!("piece {} of {root} is both here and on its way", piece.0));
                }
                if self
                    .flights
                    .get(effect)
                    .is_none_or(|flight| (flight.root, flight.piece) != (*root, *piece))
                {
                    return broken(format!("piece {} of {root} is on its way and nobody brings it", piece.0));
                }
            }
        }
        let mut pieces = BTreeSet::new();
        for flight in self.flights.values() {
            if !pieces.insert((flight.root, flight.piece)) {
                return broken(format!("piece {} of {} is on its way twice", flight.piece.0, flight.root));
            }
        }
        if self.flights.len() > limits::PIECES_IN_FLIGHT {
            return broken(format!("{} pieces are on their way", self.flights.len()));
        }
        let neighbours = self.neighbours.iter().map(|(device, neighbour)| (device, &neighbour.load));
        let seeds = self.seeds.iter().map(|(device, seed)| (device, &seed.load));
        for (device, load) in neighbours.chain(seeds) {
            let flying = self.flights.values().filter(|flight| flight.from == *device).count();
            if load.in_flight != flying {
                return broken(format!("{flying} pieces come from {device}, counted as {}", load.in_flight));
            }
        }
        Ok(())
    }

    /// When to call [`Fetcher::advance`] again although nothing happened.
    pub fn next_wake(&self, now: Moment) -> Option<Moment> {
        if self.wants.is_empty() {
            return None;
        }
        let retries =
            self.seeds.values().flat_map(|seed| seed.retry.values().copied().chain(seed.load.blocked_until));
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
