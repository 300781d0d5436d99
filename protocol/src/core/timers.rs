//! The core's timers: each is set to one moment or not at all.

use crate::time::Moment;
use std::collections::BTreeMap;

/// What the core waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// When to try again to reach a seed or an aggregator that is not connected.
    Redial,
    /// When to dial remembered peers again because there are few neighbours.
    Seek,
    /// When to dial more of the members that are heard of.
    Meet,
    /// When to store who is remembered.
    Remember,
    /// When to check in: ask the seed for newer metadata.
    CheckIn,
    /// When to tell the seed again that we are here, and ask who else is.
    Announce,
    /// When to tell the neighbours what is new here; a little later than the first change, so that changes gather.
    News,
    /// When to scan.
    Scan,
    /// When to send reports that nobody has acknowledged.
    Reports,
    /// When to report the bytes that moved since the last time.
    Transfers,
    /// When to tell the site that a seed is reached, unless somebody else does.
    Reached,
    /// When to look again at deployments that wait.
    Deployments,
}

/// The timers that are set.
#[derive(Debug, Default)]
pub(super) struct Timers {
    at: BTreeMap<Timer, Moment>,
}

impl Timers {
    /// Sets a timer, whatever it was set to.
    pub(super) fn set(&mut self, timer: Timer, at: Moment) {
        self.at.insert(timer, at);
    }

    /// Sets a timer unless it fires earlier anyway.
    pub(super) fn bring_forward(&mut self, timer: Timer, at: Moment) {
        let moment = self.at.entry(timer).or_insert(at);
        *moment = (*moment).min(at);
    }

    /// Sets a timer to no moment.
    pub(super) fn clear(&mut self, timer: Timer) {
        self.at.remove(&timer);
    }

    /// When the next one fires.
    pub(super) fn next(&self) -> Option<Moment> {
        self.at.values().copied().min()
    }

    /// Takes one timer that is due.
    pub(super) fn take_due(&mut self, now: Moment) -> Option<Timer> {
        let timer = self.at.iter().find(|(_, at)| **at <= now).map(|(timer, _)| *timer)?;
        self.at.remove(&timer);
        Some(timer)
    }
}
