//! Whether this device has anybody to exchange pieces with: one that is away, or reaches nobody of its site, fetches for itself, and
//! nobody there waits for it.

use super::Fetcher;
use crate::fetch::rendezvous;
use crate::reason::Reason;
use crate::time::Moment;
use std::time::Duration;

/// How long a device that has no neighbour waits for those who are there.
const PATIENCE: Duration = Duration::from_secs(6);
/// How much longer than that, at most, for each of those.
const APART: Duration = Duration::from_millis(100);

/// What this device knows of the others of its site.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// How many others were named last.
    pub(super) others: usize,
    /// Since when others are there and none of them is a neighbour.
    since: Option<Moment>,
    /// Whether this device is away from its site.
    away: bool,
    /// Whether the seeds were told that it is on its own.
    told: bool,
}

impl Fetcher {
    /// A seed told us who is in the site: so many others.
    pub fn heard_of_site(&mut self, now: Moment, others: usize) {
        self.count_others(others.max(self.neighbours.iter().count()));
        self.note_company(now);
        self.changed |= !self.heard;
        self.heard = true;
    }

    /// A neighbour is connected: somebody is there.
    pub fn heard_of_neighbour(&mut self) {
        self.count_others(self.company.others.max(1));
        self.changed |= !self.heard;
        self.heard = true;
    }

    /// Whether anybody told us who is in the site.
    pub fn knows_site(&self) -> bool {
        self.heard
    }

    /// So many others were named.
    pub(super) fn heard_of(&mut self, now: Moment, others: usize) {
        self.count_others(self.company.others.max(others));
        self.note_company(now);
    }

    fn count_others(&mut self, others: usize) {
        if std::mem::replace(&mut self.company.others, others) != others {
            self.touch();
        }
    }

    /// Notes since when there is nobody to exchange pieces with.
    pub(super) fn note_company(&mut self, now: Moment) {
        let lacking = self.neighbours.is_empty() && self.company.others > 0;
        self.company.since = lacking.then(|| self.company.since.unwrap_or(now));
    }

    /// This device is on the LAN of another site, or is not.
    pub fn set_away(&mut self, away: bool) {
        if std::mem::replace(&mut self.company.away, away) != away {
            self.touch();
        }
    }

    /// This device has other addresses than before: whoever is there has time again to become a neighbour.
    pub fn moved(&mut self) {
        self.company.since = None;
        self.mirrors.begin_anew();
        self.touch();
    }

    /// Why this device exchanges nothing with its site, if it does not: it is away, or others are there and none of them became
    /// a neighbour in time.
    pub(super) fn alone(&self, now: Moment) -> Option<Reason> {
        if self.company.away {
            return Some(Reason::Away);
        }
        self.alone_from().is_some_and(|from| from <= now).then_some(Reason::Isolated)
    }

    /// When this device counts as on its own, unless a neighbour comes before. All of a site that keeps its devices apart would
    /// turn to the seed at once, so the more there are, the later may one of them.
    pub fn alone_from(&self) -> Option<Moment> {
        let parts = rendezvous::weight(self.site.as_str().as_bytes(), self.me) % 1_000;
        let others = u32::try_from(self.company.others).unwrap_or(u32::MAX);
        let apart = APART.saturating_mul(others).mul_f64(parts as f64 / 1e3);
        self.company.since.map(|since| since + PATIENCE + apart)
    }

    /// Whether this device is on its own now, which the seeds are being told.
    pub fn tell_alone(&mut self, now: Moment) -> bool {
        self.note_company(now);
        let alone = self.alone(now).is_some();
        if std::mem::replace(&mut self.company.told, alone) != alone {
            // What the seeds said of asking again was said under other terms.
            self.seeds.values_mut().for_each(|seed| seed.retry = None);
            self.touch();
        }
        alone
    }

    /// Whether the seeds believe otherwise.
    pub fn has_to_tell(&mut self, now: Moment) -> bool {
        self.note_company(now);
        self.company.told != self.alone(now).is_some()
    }
}
