//! A link whose bandwidth all running transfers share fairly (processor sharing), in whole numbers.

use protocol::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One unit of work is a millionth of a byte, so that rates in bytes per second and microseconds meet without fractions.
const PER_BYTE: u128 = 1_000_000;

/// Names a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransferId(pub u64);

/// One direction of a link.
#[derive(Debug)]
pub struct Link {
    bytes_per_second: u64,
    /// Work that every transfer which runs since the beginning would have got by now.
    served: u128,
    updated: Moment,
    ends: BTreeSet<(u128, TransferId)>,
    running: BTreeMap<TransferId, (u128, u64)>,
    /// Bytes that passed, those of cancelled transfers included.
    pub carried: u64,
}

impl Link {
    /// An idle link.
    pub fn new(bytes_per_second: u64) -> Link {
        Link {
            bytes_per_second: bytes_per_second.max(1),
            served: 0,
            updated: Moment::START,
            ends: BTreeSet::new(),
            running: BTreeMap::new(),
            carried: 0,
        }
    }

    fn advance(&mut self, now: Moment) {
        let micros = now.since(self.updated).as_micros();
        self.updated = self.updated.max(now);
        if !self.ends.is_empty() {
            self.served += u128::from(self.bytes_per_second) * micros / self.ends.len() as u128;
        }
    }

    /// Begins to carry `bytes`.
    pub fn start(&mut self, now: Moment, id: TransferId, bytes: u64) {
        self.advance(now);
        let end = self.served + u128::from(bytes) * PER_BYTE;
        self.ends.insert((end, id));
        self.running.insert(id, (end, bytes));
    }

    /// Ends a transfer before its time; returns the bytes that passed.
    pub fn cancel(&mut self, now: Moment, id: TransferId) -> u64 {
        self.advance(now);
        let Some((end, bytes)) = self.running.remove(&id) else { return 0 };
        self.ends.remove(&(end, id));
        let left = end.saturating_sub(self.served).div_ceil(PER_BYTE);
        let moved = bytes - u64::try_from(left).unwrap_or(bytes).min(bytes);
        self.carried += moved;
        moved
    }

    /// Takes the transfers that are through.
    pub fn take_finished(&mut self, now: Moment) -> Vec<TransferId> {
        self.advance(now);
        let mut finished = Vec::new();
        while let Some((end, id)) = self.ends.first().copied().filter(|(end, _)| *end <= self.served) {
            self.ends.remove(&(end, id));
            if let Some((_, bytes)) = self.running.remove(&id) {
                self.carried += bytes;
            }
            finished.push(id);
        }
        finished
    }

    /// When the next transfer is through, if nothing changes.
    pub fn next(&self) -> Option<Moment> {
        let (end, _) = self.ends.first()?;
        let work = end.saturating_sub(self.served) * self.ends.len() as u128;
        let micros = work.div_ceil(u128::from(self.bytes_per_second));
        Some(self.updated + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment::from_micros(milliseconds * 1_000)
    }

    #[test]
    fn transfers_share_fairly_and_a_cancelled_one_frees_its_share() {
        let mut link = Link::new(1_000);
        link.start(at(0), TransferId(1), 1_000);
        link.start(at(0), TransferId(2), 500);
        assert_eq!(link.next(), Some(at(1_000)));
        assert_eq!(link.take_finished(at(1_000)), [TransferId(2)]);
        assert_eq!(link.next(), Some(at(1_500)));
        link.start(at(1_250), TransferId(3), 250);
        assert_eq!(link.cancel(at(1_250), TransferId(1)), 750);
        assert_eq!(link.next(), Some(at(1_500)));
        assert_eq!(link.take_finished(at(1_500)), [TransferId(3)]);
        assert_eq!(link.carried, 1_500);
    }
}
