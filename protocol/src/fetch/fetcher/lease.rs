//! The seed's leases: when to ask for more, of which pieces, and what its answer means.

use super::{Action, Fetcher, Flight, PieceFailure, Urgency, Want, prove};
use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::effect::{EffectId, EffectIds};
use crate::fetch::offers::Grant;
use crate::fetch::source::{Neighbour, Seed};
use crate::fetch::transfer::Origin;
use crate::fetch::window::Advice;
use crate::identifier::DeviceId;
use crate::limits;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::{GrantRequest, LeaseAnswer, LeaseLine, LeaseRequest, LeasedLine, SiteMember};
use std::collections::BTreeSet;
use std::time::Duration;

/// Pause after a seed refused or did not answer.
const SEED_PAUSE: Duration = Duration::from_secs(2);
/// Pause for one piece, or the piece list, after a seed sent a wrong one: its disk is damaged there, and the rest still good.
const SEED_CORRUPT_PAUSE: Duration = Duration::from_secs(60);
/// A member that the seed named as holder, and that we have no connection to, counts as unreachable when nothing new of the
/// content appeared among the neighbours for this long.
const NAMED_PATIENCE: Duration = Duration::from_secs(6);
/// A neighbour that the seed named, and that never says it holds anything of the content, is passed over after this long.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(60);
/// Before that, after this long, it is asked itself, and so long after that again.
const QUESTION: Duration = Duration::from_secs(30);

impl Fetcher {
    /// Asks a seed for leases on what no neighbour offers: the most urgent contents, and as many pieces as keep the
    /// connection busy.
    pub(super) fn ask_seeds(&mut self, now: Moment, ids: &mut EffectIds) {
        if !self.heard || self.wants.is_empty() {
            return;
        }
        let Some(device) = self.seed_to_ask(now) else { return };
        let Some(seed) = self.seeds.get(&device) else { return };
        let waits = seed.retry.is_some_and(|retry| now < retry);
        let room_bytes = seed.ahead_bytes();
        let mut lines = Vec::new();
        for want in self.order.iter().filter_map(|(_, _, root)| self.wants.get(root)) {
            let root = want.content.root;
            let known = seed.asked.contains(&root);
            let declined = seed.declined.get(&root).is_some_and(|until| now < *until);
            if declined || (waits && known) || self.held_over_wan.contains(&root) {
                continue;
            }
            let wanted = self.to_ask_for(now, want, seed);
            if !wanted.is_empty() {
                let need_tree = want.tree.is_none();
                lines.push(LeaseLine { root, manifest: want.manifest, wanted, need_tree });
            }
            if lines.len() >= limits::LEASE_LINES {
                break;
            }
        }
        if lines.is_empty() {
            return;
        }
        let roots: Vec<Blake3Root> = lines.iter().map(|line| line.root).collect();
        let unreachable = self.unreachable(now, &roots);
        let round_trip = seed.pace.and_then(|pace| pace.round_trip);
        let request = LeaseRequest {
            lines,
            unreachable,
            alone: self.alone(now).is_some(),
            room_bytes,
            round_trip_micros: round_trip.map_or(0, micros),
            bytes_per_second: seed.pace.map_or(0, |pace| pace.bytes_per_second),
        };
        self.ask_named(now, &request.lines, ids);
        let effect = ids.fresh();
        if let Some(seed) = self.seeds.get_mut(&device) {
            seed.asked.extend(&roots);
            seed.asking = Some((effect, roots));
        }
        self.actions.push_back(Action::AskLease(effect, device, request));
    }

    /// Asks neighbours that hold what we lack, as a seed says, and of which we hear nothing: they may believe that we hold it
    /// ourselves, or their word was lost. Their grant says what they hold.
    fn ask_named(&mut self, now: Moment, lines: &[LeaseLine], ids: &mut EffectIds) {
        let Fetcher { seeds, neighbours, actions, .. } = self;
        for LeaseLine { root, manifest, need_tree, .. } in lines {
            let may_be_asked = |device: DeviceId| {
                neighbours.get(&device).is_some_and(|neighbour| {
                    let asking = matches!(neighbour.offers.grant(*root), Some(Grant::Asking));
                    neighbour.is_usable(*root, now) && !asking
                })
            };
            let named = seeds.values_mut().filter_map(|seed| seed.named.get_mut(root));
            let silent: BTreeSet<DeviceId> =
                named.flat_map(|named| named.take_silent(now, QUESTION, may_be_asked)).collect();
            for device in silent {
                let request = GrantRequest { root: *root, manifest: *manifest, need_tree: *need_tree };
                if let Some(neighbour) = neighbours.get_mut(&device) {
                    neighbour.offers.note(*root, Some(Grant::Asking));
                }
                actions.push_back(Action::AskGrant(ids.fresh(), device, request));
            }
        }
    }

    /// Everybody in the site asks the same seed for whatever it wants, or two seeds would lease the same piece twice; another one
    /// only when it fails or refuses what is most urgent. None while it is being asked, or while enough is leased.
    fn seed_to_ask(&self, now: Moment) -> Option<DeviceId> {
        let (_, _, first) = self
            .order
            .iter()
            .filter(|(_, _, root)| !self.held_over_wan.contains(root))
            .find(|(_, _, root)| self.wants.get(root).is_some_and(|want| !want.lacking().is_empty()))?;
        let able = self.seeds.iter().filter(|(_, seed)| {
            !seed.load.is_blocked(now) && seed.declined.get(first).is_none_or(|until| *until <= now)
        });
        let (device, seed) = able.max_by_key(|(_, seed)| seed.weight)?;
        let waiting: u64 = seed
            .leases
            .iter()
            .filter_map(|(root, leases)| Some((self.wants.get(root)?, leases)))
            .flat_map(|(want, leases)| {
                leases.keys().filter(|piece| want.is_open(**piece)).map(|piece| want.length(*piece))
            })
            .sum();
        // Not for every small piece that came, and before the last large one is used up.
        let enough = seed.load.bytes_in_flight + waiting > seed.ahead_bytes() - limits::PIECE_BYTES / 2;
        (seed.asking.is_none() && !enough).then_some(*device)
    }

    /// Open pieces of a want that no neighbour offers.
    pub(super) fn unoffered(&self, now: Moment, want: &Want) -> PieceSet {
        let root = want.content.root;
        let mut open = want.lacking().clone();
        for neighbour in self.neighbours.values().filter(|neighbour| neighbour.is_usable(root, now)) {
            if let Some(held) = neighbour.offers.held(root) {
                open.subtract(held);
            }
        }
        open
    }

    /// Those of them that are not leased to us.
    fn to_ask_for(&self, now: Moment, want: &Want, seed: &Seed) -> PieceSet {
        let root = want.content.root;
        let mut open = self.unoffered(now, want);
        let leased = seed.leases.get(&root).into_iter().flat_map(|leased| leased.keys());
        let spoiled = seed.spoiled.range((root, PieceIndex(0))..=(root, PieceIndex(u32::MAX)));
        let spoiled = spoiled.filter(|(_, until)| now < **until).map(|((_, piece), _)| piece);
        leased.chain(spoiled).for_each(|piece| open.remove(*piece));
        open
    }

    /// The answer to [`Action::AskLease`]; `None` when none came. One to a question of an earlier connection says nothing.
    pub fn on_lease(
        &mut self,
        now: Moment,
        device: DeviceId,
        effect: EffectId,
        answer: Option<Result<LeaseAnswer, Reason>>,
    ) {
        self.touch();
        let Some(seed) = self.seeds.get_mut(&device) else { return };
        let Some((_, asked)) = seed.asking.take_if(|(asking, _)| *asking == effect) else { return };
        let answer = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => {
                seed.declined.extend(asked.into_iter().map(|root| (root, now + SEED_PAUSE)));
                return;
            }
            None => return seed.load.failed(now),
        };
        let retry = Duration::from_millis(u64::from(answer.retry_milliseconds.clamp(50, 150_000)));
        seed.retry = Some(now + retry);
        let advice = Advice::of(&answer);
        seed.advice =
            Advice { round_trip: advice.round_trip.or(seed.advice.round_trip), drain: None, ..advice };
        seed.drain = advice.drain.map(|drain| now + drain);
        self.heard_of(now, answer.members.len());
        let mut named = BTreeSet::new();
        for line in answer.lines.into_iter().filter(|line| asked.contains(&line.root)) {
            named.extend(self.take_line(now, device, line, &answer.members));
        }
        // Whoever holds several contents is dialled once.
        for member in answer.members.into_iter().filter(|member| named.remove(&member.device)) {
            if member.device != self.me && !self.neighbours.contains_key(&member.device) {
                self.actions.push_back(Action::Dial(member));
            }
        }
    }

    /// Takes what was leased of one content; returns who holds the rest.
    fn take_line(
        &mut self,
        now: Moment,
        device: DeviceId,
        line: LeasedLine,
        members: &[SiteMember],
    ) -> Vec<DeviceId> {
        let root = line.root;
        let (Some(seed), Some(want)) = (self.seeds.get_mut(&device), self.wants.get_mut(&root)) else {
            return Vec::new();
        };
        if line.refused.is_some() {
            seed.declined.insert(root, now + SEED_PAUSE);
            return Vec::new();
        }
        if prove(want, line.tree).is_err() {
            seed.declined.insert(root, now + SEED_CORRUPT_PAUSE);
            self.actions.push_back(Action::Corrupt(Some(device), root, PieceIndex(0)));
            return Vec::new();
        }
        let count = want.pieces();
        let mine = line.leased.into_iter().filter(|(piece, _)| piece.0 < count);
        seed.leases.entry(root).or_default().extend(mine);
        let holders = line.holders.iter().filter_map(|place| members.get(usize::from(*place)));
        let holders: Vec<DeviceId> = holders.map(|member| member.device).collect();
        let named = seed.named.entry(root).or_default();
        holders.iter().for_each(|holder| named.name(*holder, now));
        holders
    }

    /// The outcome of a piece that was asked of a seed: its lease ends.
    pub(super) fn land_from_seed(
        &mut self,
        now: Moment,
        from: DeviceId,
        flight: &Flight,
        outcome: Result<(), PieceFailure>,
    ) {
        let Some(seed) = self.seeds.get_mut(&from) else { return };
        seed.load.ended(flight.length);
        if let Some(leases) = seed.leases.get_mut(&flight.root) {
            leases.remove(&flight.piece);
        }
        match outcome {
            Ok(()) => {
                seed.load.succeeded(now.since(flight.since));
                // Whoever fetches asks for more at once, not when others would ask again.
                seed.retry = None;
            }
            Err(PieceFailure::Corrupt) => {
                seed.spoiled.insert((flight.root, flight.piece), now + SEED_CORRUPT_PAUSE);
            }
            // The leases ended while we did nothing with them, or the seed started again: it is asked for others.
            Err(PieceFailure::Refused(Reason::NoGrant)) => drop(seed.leases.remove(&flight.root)),
            Err(PieceFailure::Refused(_) | PieceFailure::Lost) => seed.load.failed(now),
            Err(PieceFailure::Disk) => {}
        }
    }

    /// Whether anything is on its way over the WAN, or leased to this device.
    pub fn fetches_over_wan(&self) -> bool {
        let leased = |seed: &Seed| seed.leases.values().any(|leases| !leases.is_empty());
        self.flights.values().any(|flight| flight.origin != Origin::Lan) || self.seeds.values().any(leased)
    }

    /// Why a piece comes over the WAN, by what the seed said and how we stand.
    pub(super) fn wan_reason(
        &self,
        want: &Want,
        piece: PieceIndex,
        leased: Reason,
        alone: Option<Reason>,
    ) -> Reason {
        let root = want.content.root;
        let holds =
            |neighbour: &Neighbour| neighbour.offers.held(root).is_some_and(|pieces| pieces.contains(piece));
        match leased {
            Reason::Lease if want.priority.urgency == Urgency::Evidence => Reason::Evidence,
            Reason::Lease | Reason::Takeover if alone.is_some() => alone.unwrap_or(leased),
            Reason::Lease if self.neighbours.is_empty() && self.company.others == 0 => Reason::LoneDevice,
            Reason::Lease if self.neighbours.values().any(holds) => Reason::Duplicate,
            other => other,
        }
    }

    /// Members that the seed named for these contents and that did not come forward in time, or that refused us all that
    /// time. A neighbour whose piece is overdue is not among them: it may be slow, and the seed knows best whether it is gone.
    pub(super) fn unreachable(&self, now: Moment, roots: &[Blake3Root]) -> Vec<DeviceId> {
        let named = self.seeds.values().flat_map(|seed| &seed.named).filter(|(root, _)| roots.contains(root));
        let waiting = named
            .flat_map(|(root, named)| named.waiting().map(move |(device, since)| (*root, device, since)));
        let late = waiting.filter(|(root, device, since)| {
            // One that refuses us now may serve others meanwhile, who then serve us.
            let waits =
                self.neighbours.get(device).is_some_and(|neighbour| neighbour.may_serve_later(*root, now));
            let patience = if waits { NEIGHBOUR_PATIENCE } else { NAMED_PATIENCE };
            // What is on its way from it still comes, or fails when nothing moves any more.
            let slow = waits && self.neighbours.get(device).is_some_and(|neighbour| neighbour.load.silent);
            now.since(*since) >= patience && !slow
        });
        let devices: BTreeSet<DeviceId> = late.map(|(_, device, _)| device).collect();
        devices.into_iter().take(limits::MEMBERS_PER_ANSWER).collect()
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
