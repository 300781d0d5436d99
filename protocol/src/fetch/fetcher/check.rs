//! The rules about a fetcher's own state, for simulations and tests.

use super::Fetcher;
use crate::limits;
use std::collections::BTreeSet;

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
}
