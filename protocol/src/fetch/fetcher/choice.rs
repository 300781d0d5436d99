//! What to ask for next: of neighbours first, of a seed only what none of them offers.

use super::{Action, Fetch, Fetcher, Flight, Read};
use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::effect::{EffectId, EffectIds};
use crate::fetch::offers::Grant;
use crate::fetch::transfer::Origin;
use crate::fetch::window::Advice;
use crate::identifier::DeviceId;
use crate::limits;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::GrantRequest;
use std::sync::Arc;

/// Neighbours whose grant is asked for one content at least; a content of many pieces takes more.
const GRANTS_PER_CONTENT: usize = 3;
/// Open pieces for which one more grant is worth its question.
const PIECES_PER_GRANT: usize = 8;

impl Fetcher {
    /// Decides what to ask for now, and returns everything that is to be done.
    pub fn advance(&mut self, now: Moment, ids: &mut EffectIds) -> Vec<Action> {
        let due = self.touched || self.flown || self.wake.is_some_and(|wake| wake <= now);
        self.note_company(now);
        self.note_seeds(now);
        if due {
            self.note_overdue(now);
        }
        if !std::mem::take(&mut self.changed) && !due {
            return self.actions.drain(..).collect();
        }
        if self.disk_blocked_until.is_none_or(|until| until <= now) {
            let order = std::mem::take(&mut self.order);
            for (_, _, root) in &order {
                self.ask_neighbours(now, *root, ids);
                self.fetch_from_neighbours(now, *root, ids);
                self.fetch_from_seeds(now, *root, ids);
            }
            self.order = order;
            self.fetch_from_mirrors(now, ids);
            self.fetch_overdue(now, ids);
            self.ask_seeds(now, ids);
        }
        if due || self.touched || self.flown {
            self.note_wake(now);
        }
        self.actions.drain(..).collect()
    }

    /// Asks neighbours that hold something we lack for their grants: a few, the least loaded first, and those on a
    /// cable before those in the air.
    fn ask_neighbours(&mut self, now: Moment, root: Blake3Root, ids: &mut EffectIds) {
        let Some(want) = self.wants.get(&root) else { return };
        let open = want.count_offered().min(1_024);
        if open == 0 {
            return;
        }
        let enough = GRANTS_PER_CONTENT + open / PIECES_PER_GRANT;
        let mut candidates = Vec::new();
        let mut standing = 0;
        for (device, neighbour) in self.neighbours.iter() {
            if standing >= enough {
                return;
            }
            let Some((held, grant)) = neighbour.offers.both(root) else { continue };
            match grant {
                Some(Grant::Asking) => standing += 1,
                Some(Grant::Given(until)) if now < *until => {
                    standing += usize::from(!neighbour.load.is_blocked(now) && held.has_beyond(want.have()));
                }
                Some(Grant::Refused(until) | Grant::NotYet(until)) if now < *until => {}
                _ if neighbour.load.is_blocked(now) || !held.has_beyond(want.have()) => {}
                _ => candidates.push((neighbour.burden(), *device)),
            }
        }
        candidates.sort_unstable();
        let request = GrantRequest { root, manifest: want.manifest, need_tree: want.tree.is_none() };
        for (_, device) in candidates.into_iter().take(enough.saturating_sub(standing)) {
            let Some(neighbour) = self.neighbours.get_mut(&device) else { continue };
            neighbour.offers.note(root, Some(Grant::Asking));
            self.actions.push_back(Action::AskGrant(ids.fresh(), device, request.clone()));
        }
    }

    fn has_room(&self) -> bool {
        self.flights.len() < limits::PIECES_IN_FLIGHT && self.bytes_in_flight < limits::BYTES_IN_FLIGHT
    }

    /// Starts pieces that neighbours offer under a grant: the rarest first, each from the least loaded.
    fn fetch_from_neighbours(&mut self, now: Moment, root: Blake3Root, ids: &mut EffectIds) {
        let Some(want) = self.wants.get(&root) else { return };
        if want.tree.is_none() || want.count_offered() == 0 || !self.has_room() {
            return;
        }
        let neighbours = self.neighbours.iter().filter(|(_, neighbour)| neighbour.is_ready(root, now));
        let mut ready: Vec<(usize, DeviceId, usize, &PieceSet)> = neighbours
            .filter_map(|(device, neighbour)| {
                let held = neighbour.offers.held(root).filter(|held| held.meets(want.lacking()))?;
                Some((neighbour.burden(), *device, neighbour.burden_limit(), held))
            })
            .collect();
        if ready.is_empty() {
            return;
        }
        let (mut chosen, mut room) = (Vec::new(), limits::PIECES_IN_FLIGHT - self.flights.len());
        let mut bytes = limits::BYTES_IN_FLIGHT - self.bytes_in_flight;
        for piece in want.offered() {
            let holding = ready.iter_mut().filter(|(_, _, _, held)| held.contains(piece));
            let Some(least) = holding.min_by_key(|(burden, device, _, _)| (*burden, *device)) else {
                continue;
            };
            chosen.push((piece, least.1));
            least.0 += 1;
            ready.retain(|(burden, _, limit, _)| burden < limit);
            (room, bytes) = (room - 1, bytes.saturating_sub(want.length(piece)));
            if ready.is_empty() || room == 0 || bytes == 0 {
                break;
            }
        }
        for (piece, from) in chosen {
            self.start(now, root, piece, Some(from), Origin::Lan, Reason::Neighbour, ids.fresh());
        }
    }

    /// Starts pieces that a seed leased to us, as many as keep the connection busy.
    fn fetch_from_seeds(&mut self, now: Moment, root: Blake3Root, ids: &mut EffectIds) {
        if self.held_over_wan.contains(&root) {
            return;
        }
        let Some(want) = self.wants.get(&root).filter(|want| want.tree.is_some()) else { return };
        let (mut chosen, mut count) = (Vec::new(), self.flights.len());
        let alone = self.alone(now);
        for (device, seed) in &self.seeds {
            let Some(leases) = seed.leases.get(&root).filter(|_| !seed.load.is_blocked(now)) else {
                continue;
            };
            let mut ahead = seed.load.bytes_in_flight;
            for (piece, reason) in leases.iter().filter(|(piece, _)| want.is_open(**piece)) {
                if ahead >= seed.ahead_bytes() || count >= limits::PIECES_IN_FLIGHT {
                    break;
                }
                ahead += want.length(*piece);
                count += 1;
                chosen.push((*piece, *device, self.wan_reason(want, *piece, *reason, alone)));
            }
        }
        for (piece, from, reason) in chosen {
            if self.wants.get(&root).is_some_and(|want| want.is_open(piece)) {
                self.start(now, root, piece, Some(from), Origin::Wan, reason, ids.fresh());
            }
        }
    }

    /// Marks neighbours whose pieces are overdue as silent: nothing more is asked of them until something comes.
    fn note_overdue(&mut self, now: Moment) {
        let late = self.flights.values().filter(|flight| self.overdue_at(flight).is_some_and(|at| at <= now));
        let silent: Vec<DeviceId> = late.filter_map(|flight| flight.from).collect();
        for device in &silent {
            if let Some(neighbour) = self.neighbours.get_mut(device) {
                neighbour.load.silent = true;
            }
        }
        self.late |= !silent.is_empty();
    }

    /// Asks another neighbour for a piece whose source fell silent: the second one will most likely be done sooner.
    fn fetch_overdue(&mut self, now: Moment, ids: &mut EffectIds) {
        if !self.late {
            return;
        }
        let silent = |device: Option<DeviceId>| {
            let neighbour = device.and_then(|device| self.neighbours.get(&device));
            neighbour.is_none_or(|neighbour| neighbour.load.silent)
        };
        let late: Vec<(Blake3Root, PieceIndex)> = self
            .flights
            .values()
            .filter(|flight| flight.origin == Origin::Lan && silent(flight.from))
            .map(|flight| (flight.root, flight.piece))
            .collect();
        self.late = !late.is_empty();
        for (root, piece) in late {
            // Its twin may have come meanwhile.
            let Some(want) = self.wants.get(&root).filter(|want| !want.have().contains(piece)) else {
                continue;
            };
            let twice = want.active().any(|(active, effects)| active == piece && effects.len() > 1);
            let others = self
                .neighbours
                .iter()
                .filter(|(_, neighbour)| neighbour.is_ready(root, now) && neighbour.offers(root, piece, now));
            let other = others.min_by_key(|(device, neighbour)| (neighbour.burden(), **device));
            let Some(from) = other.map(|(device, _)| *device).filter(|_| !twice && self.has_room()) else {
                continue;
            };
            self.start(now, root, piece, Some(from), Origin::Lan, Reason::Neighbour, ids.fresh());
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what a flight is made of; a struct would repeat Flight")]
    pub(super) fn start(
        &mut self,
        now: Moment,
        root: Blake3Root,
        piece: PieceIndex,
        from: Option<DeviceId>,
        origin: Origin,
        reason: Reason,
        effect: EffectId,
    ) {
        let Some(want) = self.wants.get_mut(&root) else { return };
        let Some(tree) = want.tree.clone() else { return };
        self.flown = true;
        want.start(piece, effect);
        let length = want.length(piece);
        if origin == Origin::Lan {
            self.bytes_in_flight += length;
        }
        let list = Arc::clone(&tree);
        self.flights
            .insert(effect, Flight { root, tree: list, piece, from, origin, reason, since: now, length });
        let Some(from) = from else {
            return self.actions.push_back(Action::ReadMirror(Read { effect, tree, piece }));
        };
        let mut seed = self.seeds.get_mut(&from).filter(|_| origin == Origin::Wan);
        let advice = seed.as_mut().map_or_else(Advice::default, |seed| seed.advise(now));
        let load = match seed {
            Some(seed) => Some(&mut seed.load),
            None => self.neighbours.get_mut(&from).map(|neighbour| &mut neighbour.load),
        };
        if let Some(load) = load {
            load.started(length);
        }
        self.actions.push_back(Action::FetchPiece(Fetch { effect, from, tree, piece, origin, advice }));
    }
}
