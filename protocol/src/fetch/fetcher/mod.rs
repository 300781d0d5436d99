//! The node's side of fetching: wants, sources, and the next thing to ask for.

mod action;
mod check;
mod choice;
mod company;
mod lease;
mod mirror;
mod moments;
mod want;

pub use action::{Action, Fetch, PieceFailure, Read};
pub use check::Inconsistent;
use company::Company;
use mirror::Mirrors;
pub use want::{Due, Priority, Rank, Urgency, Want};

use super::neighbours::Neighbours;
use super::offers::Grant;
use super::rendezvous;
use super::source::{Neighbour, Seed};
use super::transfer::{Origin, Transfer};
use super::window::Pace;
use crate::bitmap::PieceSet;
use crate::conditions::Medium;
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::identifier::{DeviceId, ManifestDigest, SiteName};
use crate::limits;
use crate::manifest::Content;
use crate::piece::{PieceIndex, PieceTree};
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::{GrantAnswer, Holding};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How long nothing is fetched after the disk took nothing.
const DISK_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Flight {
    root: Blake3Root,
    tree: Arc<PieceTree>,
    piece: PieceIndex,
    /// None for a mirror.
    from: Option<DeviceId>,
    origin: Origin,
    reason: Reason,
    since: Moment,
    length: u64,
}

/// One node's fetching.
#[derive(Debug)]
pub struct Fetcher {
    me: DeviceId,
    /// All of one site ask the same seed.
    site: SiteName,
    wants: BTreeMap<Blake3Root, Want>,
    /// The wants, the first one first.
    order: BTreeSet<(Rank, u64, Blake3Root)>,
    neighbours: Neighbours,
    seeds: BTreeMap<DeviceId, Seed>,
    /// Members that sent wrong bytes and went away: coming back does not make them trustworthy.
    corrupt: BTreeMap<DeviceId, Moment>,
    flights: BTreeMap<EffectId, Flight>,
    /// Bytes of pieces on their way from neighbours. What seeds bring is bounded by their windows.
    bytes_in_flight: u64,
    transfers: BTreeMap<Blake3Root, Transfer>,
    /// Bytes of pieces by source, since the start.
    sources: BTreeMap<DeviceId, u64>,
    /// Whether anybody told us who else is in the site: before that, nothing is fetched over the WAN.
    heard: bool,
    company: Company,
    mirrors: Mirrors,
    disk_blocked_until: Option<Moment>,
    /// Contents that may not come over the WAN now.
    held_over_wan: BTreeSet<Blake3Root>,
    actions: VecDeque<Action>,
    /// Something happened since the last decision that may lead to another.
    changed: bool,
    /// Something happened since `pause` was found that may change it.
    touched: bool,
    /// The first moment after `decided` at which a pause is over: of a source, of what it refused, or of the disk.
    pause: Option<Moment>,
    /// Pieces began or ended to be on their way since `wake` was found.
    flown: bool,
    /// That moment, or the one at which a piece is overdue.
    wake: Option<Moment>,
    /// When these were found.
    decided: Moment,
    /// A piece may be on its way from a neighbour that fell silent or went away.
    late: bool,
}

impl Fetcher {
    /// The fetcher of a device in its site; it wants nothing yet.
    pub fn new(me: DeviceId, site: SiteName) -> Fetcher {
        Fetcher {
            me,
            site,
            wants: BTreeMap::new(),
            order: BTreeSet::new(),
            neighbours: Neighbours::default(),
            seeds: BTreeMap::new(),
            corrupt: BTreeMap::new(),
            flights: BTreeMap::new(),
            bytes_in_flight: 0,
            transfers: BTreeMap::new(),
            sources: BTreeMap::new(),
            heard: false,
            company: Company::default(),
            mirrors: Mirrors::default(),
            disk_blocked_until: None,
            held_over_wan: BTreeSet::new(),
            actions: VecDeque::new(),
            changed: false,
            touched: false,
            pause: None,
            flown: false,
            wake: None,
            decided: Moment::START,
            late: false,
        }
    }

    /// Wants `content`, of which `have` is here already.
    pub fn want(&mut self, content: Content, manifest: ManifestDigest, priority: Priority, have: PieceSet) {
        let root = content.root;
        if let Some(want) = self.wants.get_mut(&root) {
            // A source that knows the newer manifest alone must still understand what we ask.
            self.order.remove(&want.place_in_order());
            self.changed |= want.priority != priority;
            (want.manifest, want.priority) = (manifest, priority);
            self.order.insert(want.place_in_order());
            return;
        }
        if self.wants.len() >= limits::ARTIFACTS_TRACKED {
            return;
        }
        self.touch();
        self.transfers.entry(root).or_insert_with(|| Transfer::new(content));
        let mut want = Want::new(self.me, content, manifest, priority, have);
        for held in self.neighbours.values().filter_map(|neighbour| neighbour.offers.held(root)) {
            for piece in held.iter() {
                want.appear(piece);
            }
        }
        // Wanted before, forgotten and wanted again: what is on its way still comes.
        for (effect, flight) in self.flights.iter().filter(|(_, flight)| flight.root == root) {
            want.tree.get_or_insert_with(|| Arc::clone(&flight.tree));
            if !want.have().contains(flight.piece) {
                want.start(flight.piece, *effect);
            }
        }
        self.order.insert(want.place_in_order());
        self.wants.insert(root, want);
    }

    /// The piece list of a content that is wanted is here.
    pub fn learn_tree(&mut self, tree: &Arc<PieceTree>) {
        if let Some(want) = self.wants.get_mut(&tree.root()).filter(|want| want.tree.is_none()) {
            want.tree = Some(Arc::clone(tree));
            self.touch();
        }
    }

    /// Wants `root` no more: it is complete, or no longer approved. Pieces on their way still count when they come.
    pub fn forget(&mut self, root: Blake3Root) {
        let Some(want) = self.wants.remove(&root) else { return };
        self.order.remove(&want.place_in_order());
        self.touch();
        self.mirrors.forget(root);
        for neighbour in self.neighbours.values_mut() {
            // The piece list goes with the want, and only the answer to a new request brings it again.
            if matches!(neighbour.offers.grant(root), Some(Grant::Given(_))) {
                neighbour.offers.note(root, None);
            }
        }
        for seed in self.seeds.values_mut() {
            seed.leases.remove(&root);
            seed.asked.remove(&root);
            seed.declined.remove(&root);
            seed.spoiled.retain(|(named, _), _| *named != root);
            seed.named.remove(&root);
        }
    }

    /// These contents come from neighbours alone until another word.
    pub fn hold_over_wan(&mut self, roots: BTreeSet<Blake3Root>) {
        self.changed |= roots != self.held_over_wan;
        self.held_over_wan = roots;
    }

    /// What is wanted and not complete.
    pub fn wants(&self) -> impl Iterator<Item = &Want> {
        self.wants.values()
    }

    /// Whether `root` is wanted.
    pub fn is_wanted(&self, root: Blake3Root) -> bool {
        self.wants.contains_key(&root)
    }

    /// Neighbours that have not said that they hold all of `holding` themselves.
    pub fn lacking(&self, holding: &Holding) -> impl Iterator<Item = DeviceId> {
        let beyond = |held: &PieceSet| holding.pieces.has_beyond(held);
        let lacks = move |(device, neighbour): (&DeviceId, &Neighbour)| {
            neighbour.offers.held(holding.root).is_none_or(beyond).then_some(*device)
        };
        self.neighbours.iter().filter_map(lacks)
    }

    /// Neighbours that say they hold all of a content of so many pieces.
    pub fn whole_at(&self, root: Blake3Root, pieces: u32) -> impl Iterator<Item = DeviceId> {
        let whole = move |held: &PieceSet| held.len() == pieces;
        let holds = move |(device, neighbour): (&DeviceId, &Neighbour)| {
            neighbour.offers.held(root).is_some_and(whole).then_some(*device)
        };
        self.neighbours.iter().filter_map(holds)
    }

    /// Bytes received so far, by content.
    pub fn transfers(&self) -> impl Iterator<Item = &Transfer> {
        self.transfers.values()
    }

    /// Bytes of pieces that came from `device` since the start.
    pub fn fetched_from(&self, device: DeviceId) -> u64 {
        self.sources.get(&device).copied().unwrap_or(0)
    }

    /// A member of the site is connected and may share with us.
    pub fn add_neighbour(&mut self, device: DeviceId) {
        self.touch();
        let flying = self.flying_from(device);
        let corrupt_until = self.corrupt.remove(&device);
        let neighbour = self.neighbours.get_or_insert_with(device, || Neighbour::with(flying));
        neighbour.load.corrupt_until = neighbour.load.corrupt_until.max(corrupt_until);
    }

    /// A seed is connected.
    pub fn add_seed(&mut self, device: DeviceId) {
        self.touch();
        let flying = self.flying_from(device);
        let weight = rendezvous::weight(self.site.as_str().as_bytes(), device);
        self.seeds.entry(device).or_insert_with(|| Seed::with(weight, flying));
    }

    /// Pieces, and bytes, that a source still owes us from an earlier connection count against it.
    fn flying_from(&self, device: DeviceId) -> (usize, u64) {
        let flights = self.flights.values().filter(|flight| flight.from == Some(device));
        flights.fold((0, 0), |(count, bytes), flight| (count + 1, bytes + flight.length))
    }

    /// A neighbour or seed is gone. Its flights complete on their own, with a failure.
    pub fn remove(&mut self, device: DeviceId) {
        self.touch();
        self.seeds.remove(&device);
        let Some(neighbour) = self.neighbours.remove(&device) else { return };
        self.late |= neighbour.load.in_flight > 0;
        for (root, held) in neighbour.offers.iter() {
            if let Some(want) = self.wants.get_mut(&root) {
                held.iter().for_each(|piece| want.vanish(piece));
            }
        }
        if let Some(until) = neighbour.load.corrupt_until {
            self.corrupt.insert(device, until);
            if self.corrupt.len() > limits::ARTIFACTS_TRACKED {
                self.corrupt.pop_first();
            }
        }
    }

    /// A neighbour says what its bytes pass through.
    pub fn on_medium(&mut self, device: DeviceId, medium: Medium) {
        if let Some(neighbour) = self.neighbours.get_mut(&device) {
            neighbour.medium = medium;
        }
    }

    /// What a neighbour's bytes pass through; `None` for who is none.
    pub fn medium_of(&self, device: DeviceId) -> Option<Medium> {
        self.neighbours.get(&device).map(|neighbour| neighbour.medium)
    }

    /// A neighbour says what it holds. Pieces only appear, and a later word may overtake an earlier one: what it said
    /// before still counts until it refuses a piece.
    pub fn on_holdings(&mut self, now: Moment, device: DeviceId, holdings: &[Holding]) {
        for Holding { root, pieces } in holdings {
            self.learn(now, device, *root, pieces);
        }
    }

    fn learn(&mut self, now: Moment, device: DeviceId, root: Blake3Root, pieces: &PieceSet) {
        let Some(neighbour) = self.neighbours.get_mut(&device) else { return };
        let mut want = self.wants.get_mut(&root);
        let (mut new, mut open) = (false, false);
        neighbour.offers.learn(root, pieces, |piece| {
            new = true;
            open |= want.as_mut().is_some_and(|want| want.appear(piece));
        });
        // Only what is new earns more patience: a word that says nothing could be repeated for ever.
        if !new {
            return;
        }
        // Most news are about what is here or on its way: they change nothing about what to ask for, and whom to ask for a
        // grant only while some open piece is offered.
        let may_ask = |want: &Want| want.count_offered() > 0 && neighbour.may_be_asked(root, now);
        self.changed |= want.is_some_and(|want| open || self.late || may_ask(want));
        for named in self.seeds.values_mut().filter_map(|seed| seed.named.get_mut(&root)) {
            named.appeared(device, now);
        }
        if open {
            self.note_appeared(now, root);
        }
    }

    /// Whether a neighbour said that it holds all of `holding` itself, so that it needs no word of it.
    pub fn knows_all(&self, device: DeviceId, holding: &Holding) -> bool {
        let theirs = self.neighbours.get(&device).and_then(|neighbour| neighbour.offers.held(holding.root));
        theirs.is_some_and(|theirs| !holding.pieces.has_beyond(theirs))
    }

    /// The answer to [`Action::AskGrant`]; `None` when none came.
    pub fn on_grant(
        &mut self,
        now: Moment,
        device: DeviceId,
        root: Blake3Root,
        answer: Option<Result<GrantAnswer, Reason>>,
    ) {
        self.touch();
        let Some(neighbour) = self.neighbours.get_mut(&device) else { return };
        match answer {
            Some(Ok(grant)) => {
                let until = now + Duration::from_secs(u64::from(grant.seconds.clamp(1, 3_600)));
                let Some(want) = self.wants.get_mut(&root) else {
                    // The piece list went with the want; wanted again, it is asked for again.
                    return neighbour.offers.note(root, None);
                };
                match prove(want, grant.tree) {
                    // Without the piece list nothing can be fetched under the grant.
                    Ok(()) if want.tree.is_none() => {
                        neighbour.offers.note(root, None);
                        neighbour.load.failed(now);
                    }
                    Ok(()) => {
                        neighbour.offers.note(root, Some(Grant::Given(until)));
                        self.learn(now, device, root, &grant.pieces);
                    }
                    Err(()) => {
                        neighbour.load.corrupt(now);
                        neighbour.offers.note(root, None);
                        self.actions.push_back(Action::Corrupt(Some(device), root, PieceIndex(0)));
                    }
                }
            }
            Some(Err(reason)) => neighbour.refused(root, reason, now),
            None => {
                neighbour.offers.note(root, None);
                neighbour.load.failed(now);
            }
        }
    }

    /// What an [`Action::FetchPiece`] or [`Action::ReadMirror`] in flight is about: the piece list and the piece.
    pub fn target(&self, effect: EffectId) -> Option<(Arc<PieceTree>, PieceIndex)> {
        let flight = self.flights.get(&effect)?;
        Some((Arc::clone(&flight.tree), flight.piece))
    }

    /// Whom an [`Action::FetchPiece`] in flight asked.
    pub fn source(&self, effect: EffectId) -> Option<DeviceId> {
        self.flights.get(&effect).and_then(|flight| flight.from)
    }

    /// How the connection to a seed goes, after a piece that came over it.
    pub fn on_pace(&mut self, seed: DeviceId, pace: Pace) {
        self.changed = true;
        if let Some(seed) = self.seeds.get_mut(&seed) {
            seed.pace = Some(pace);
        }
    }

    /// The outcome of [`Action::FetchPiece`] or [`Action::ReadMirror`]: the piece is verified and stored, or it did not come.
    pub fn on_piece(&mut self, now: Moment, effect: EffectId, outcome: Result<(), PieceFailure>) {
        let Some(flight) = self.flights.remove(&effect) else { return };
        (self.changed, self.flown) = (true, true);
        if flight.origin == Origin::Lan {
            self.bytes_in_flight = self.bytes_in_flight.saturating_sub(flight.length);
        }
        // What a neighbour sent well began no pause, and ended none where there was none.
        let well = |neighbour: &Neighbour| outcome.is_ok() && neighbour.load.blocked_until.is_none();
        self.touched |= !flight.from.and_then(|from| self.neighbours.get(&from)).is_some_and(well);
        self.land(now, &flight, outcome);
        if let Some(want) = self.wants.get_mut(&flight.root) {
            want.end(
                flight.piece,
                effect,
                outcome.is_ok() && !crate::mutant::mutated(crate::mutant::Mutant::FetchAgain),
            );
        }
        match outcome {
            Ok(()) => self.count(&flight),
            Err(PieceFailure::Corrupt) => {
                self.count(&flight);
                self.actions.push_back(Action::Corrupt(flight.from, flight.root, flight.piece));
            }
            Err(PieceFailure::Disk) => self.disk_blocked_until = Some(now + DISK_PAUSE),
            Err(PieceFailure::Refused(_) | PieceFailure::Lost) => {}
        }
    }

    fn count(&mut self, flight: &Flight) {
        if let Some(from) = flight.from {
            *self.sources.entry(from).or_default() += flight.length;
        }
        if let Some(transfer) = self.transfers.get_mut(&flight.root) {
            transfer.add(flight.origin, flight.reason, flight.length);
        }
    }

    /// Books the outcome with the source, and ends the lease that a WAN piece was fetched under.
    fn land(&mut self, now: Moment, flight: &Flight, outcome: Result<(), PieceFailure>) {
        let Some(from) = flight.from else { return self.land_from_mirror(now, flight, outcome) };
        self.land_from_seed(now, from, flight, outcome);
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return };
        neighbour.load.ended(flight.length);
        match outcome {
            Ok(()) => neighbour.load.succeeded(now.since(flight.since)),
            Err(PieceFailure::Corrupt) => neighbour.load.corrupt(now),
            Err(PieceFailure::Refused(Reason::NoPieces)) => {
                if neighbour.offers.unlearn(flight.root, flight.piece)
                    && let Some(want) = self.wants.get_mut(&flight.root)
                {
                    want.vanish(flight.piece);
                }
            }
            Err(PieceFailure::Refused(reason)) => neighbour.refused(flight.root, reason, now),
            Err(PieceFailure::Lost) => neighbour.load.failed(now),
            Err(PieceFailure::Disk) => {}
        }
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
