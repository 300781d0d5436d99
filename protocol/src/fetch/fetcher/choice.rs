//! What to ask for next: of neighbours first, of a seed only what none of them offers.

use super::{Action, Fetcher, Flight, SEED_IN_FLIGHT};
use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::effect::EffectIds;
use crate::fetch::rendezvous;
use crate::fetch::source::{Grant, Neighbour};
use crate::fetch::transfer::Origin;
use crate::identifier::DeviceId;
use crate::limits;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::{GrantRequest, LeaseRequest};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A member that the seed named as holder, and that we have no connection to, counts as unreachable after this long.
const NAMED_PATIENCE: Duration = Duration::from_secs(6);
/// A neighbour that the seed named, and that never says it holds anything of the content, is passed over after this long.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(60);

impl Fetcher {
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
            let flight = Flight { root, tree: Arc::clone(&tree), piece, from, origin, reason };
            self.flights.insert(effect, flight);
            if let Some(want) = self.wants.get_mut(&root) {
                want.active.insert(piece, effect);
            }
            self.actions.push_back(Action::FetchPiece(effect, from, tree.clone(), piece));
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
        // Everybody asks the same seed, or two seeds would lease the same piece twice; another one only when it fails.
        let able = self.seeds.iter_mut().filter(|(_, seed)| {
            !seed.load.is_blocked(now) && seed.declined.get(&root).is_none_or(|until| *until <= now)
        });
        let first = able.max_by_key(|(device, _)| rendezvous::weight(root.as_bytes(), **device));
        let Some((device, seed)) = first else { return };
        if seed.asking.contains_key(&root) || seed.retry.get(&root).is_some_and(|retry| *retry > now) {
            return;
        }
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
    pub(super) fn unreachable(&self, now: Moment, root: Blake3Root) -> Vec<DeviceId> {
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
}
