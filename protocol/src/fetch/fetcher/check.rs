//! The rules about a fetcher's own state, for simulations and tests.

use super::{Fetcher, Origin};
use crate::effect::EffectId;
use crate::identifier::DeviceId;
use crate::limits;
use std::collections::BTreeMap;

/// A rule about the fetcher's own state that does not hold: a mistake in this module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fetching is inconsistent: {0}")]
pub struct Inconsistent(String);

impl Fetcher {
    /// Checks the rules that always hold: a piece is in one state, and every count equals what it counts. For
    /// simulations and tests.
    ///
    /// # Errors
    /// [`Inconsistent`] with the first rule that is broken.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let broken = |rule: String| Err(Inconsistent(rule));
        for (root, want) in &self.wants {
            for (piece, effects) in want.active() {
                if want.open().any(|open| open == piece) {
                    return broken(format!("piece {} of {root} is both open and on its way", piece.0));
                }
                let brings = |effect: &EffectId| {
                    self.flights
                        .get(effect)
                        .is_some_and(|flight| (flight.root, flight.piece) == (*root, piece))
                };
                if effects.is_empty() || !effects.iter().all(brings) {
                    return broken(format!("piece {} of {root} is on its way and nobody brings it", piece.0));
                }
            }
            if want.open().any(|piece| !want.is_open(piece)) {
                return broken(format!("a piece of {root} is open and here at once"));
            }
            if !want.agrees() {
                return broken(format!("the open pieces of {root} are counted wrongly"));
            }
        }
        let mut pieces: BTreeMap<_, Vec<(Option<DeviceId>, Origin)>> = BTreeMap::new();
        for flight in self.flights.values() {
            pieces.entry((flight.root, flight.piece)).or_default().push((flight.from, flight.origin));
        }
        for ((root, piece), ways) in pieces {
            let [first, rest @ ..] = ways.as_slice() else { continue };
            let twice_over_the_wan = ways.iter().filter(|(_, origin)| *origin != Origin::Lan).count() > 1;
            if rest.len() > 1 || rest.contains(first) || twice_over_the_wan {
                return broken(format!("piece {} of {root} is on its way too often: {ways:?}", piece.0));
            }
        }
        let near = self.flights.values().filter(|flight| flight.origin == Origin::Lan);
        let bytes: u64 = near.map(|flight| flight.length).sum();
        if bytes != self.bytes_in_flight {
            return broken(format!(
                "{bytes} bytes come from neighbours, counted as {}",
                self.bytes_in_flight
            ));
        }
        if self.flights.len() > limits::PIECES_IN_FLIGHT {
            return broken(format!("{} pieces are on their way", self.flights.len()));
        }
        let pause = self.next_pause(self.decided);
        let (wake, soonest) = (self.wake, self.soonest(self.decided, pause));
        if !self.touched && (pause != self.pause || (!self.flown && wake != soonest)) {
            return broken(format!("something is waited for until {soonest:?}, noted as {wake:?}"));
        }
        let neighbours = self.neighbours.iter().map(|(device, neighbour)| (device, &neighbour.load));
        let seeds = self.seeds.iter().map(|(device, seed)| (device, &seed.load));
        for (device, load) in neighbours.chain(seeds) {
            let flying = self.flights.values().filter(|flight| flight.from == Some(*device)).count();
            if load.in_flight != flying {
                return broken(format!("{flying} pieces come from {device}, counted as {}", load.in_flight));
            }
        }
        Ok(())
    }
}
