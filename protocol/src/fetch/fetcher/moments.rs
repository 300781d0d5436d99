//! The moments that a fetcher waits for, looked up only when one may have changed: pauses seldom do, pieces on their way always.

use super::{Fetcher, Flight};
use crate::time::Moment;

impl Fetcher {
    /// Something happened that may lead to another decision, at once or at another moment.
    pub(super) fn touch(&mut self) {
        (self.changed, self.touched) = (true, true);
    }

    /// When to call [`Fetcher::advance`] again although nothing happened.
    pub fn next_wake(&self, now: Moment) -> Option<Moment> {
        if self.wants.is_empty() {
            return None;
        }
        let over = self.touched || self.flown || self.wake.is_some_and(|wake| wake <= now);
        if over { self.soonest(now, self.next_pause(now)) } else { self.wake }
    }

    /// Finds the moments that things are waited for until, as far as they may have changed.
    pub(super) fn note_wake(&mut self, now: Moment) {
        if self.touched || self.pause.is_some_and(|pause| pause <= now) {
            self.pause = self.next_pause(now);
        }
        self.wake = self.soonest(now, self.pause);
        (self.touched, self.flown, self.decided) = (false, false, now);
    }

    /// The first moment after `now` at which a pause is over.
    pub(super) fn next_pause(&self, now: Moment) -> Option<Moment> {
        let seeds = self.seeds.values().flat_map(|seed| {
            let pauses = seed.declined.values().chain(seed.spoiled.values()).copied();
            seed.retry.into_iter().chain(pauses).chain(seed.load.blocked_until)
        });
        let refusals = self.neighbours.values().filter_map(|neighbour| neighbour.next_change(now));
        let all = seeds.chain(refusals).chain(self.disk_blocked_until).chain(self.mirror_moments());
        all.filter(|moment| *moment > now).min()
    }

    /// The first moment after `now` at which a piece is overdue or a pause is over, where the first `pause` is known.
    pub(super) fn soonest(&self, now: Moment, pause: Option<Moment>) -> Option<Moment> {
        let overdue = self.flights.values().filter_map(|flight| self.overdue_at(flight));
        overdue.filter(|moment| *moment > now).chain(pause).min()
    }

    /// When a piece from a neighbour that still counts on it is overdue.
    pub(super) fn overdue_at(&self, flight: &Flight) -> Option<Moment> {
        let load = &self.neighbours.get(&flight.from?)?.load;
        (!load.silent).then(|| flight.since + load.patience())
    }
}
