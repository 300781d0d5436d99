//! Why a piece crosses a WAN although somebody of the site has it: a trouble that excuses those holders to that asker.

use super::Happening;
use super::World;
use super::faults::crosses;
use super::ledger::{AT_MIRROR, NO_CAUSE};
use super::parcel::Parcel;
use crate::scenario::Cut;
use protocol::digest::Blake3Root;
use protocol::piece::PieceIndex;
use protocol::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// For so long after a trouble is over it may still be the reason: silent connections end, and who was left alone is dialled
/// again.
const LATELY: Duration = Duration::from_secs(30);
/// Within this time whoever got a piece has told its neighbours.
const NEWS: Duration = Duration::from_secs(5);

/// What can be wrong with one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// It was down, or asleep.
    Away,
    /// Nobody could connect to it.
    Firewalled,
    /// Its clock was wrong.
    Clock,
    /// Its disk took nothing.
    Disk,
}

/// Troubles that are over.
#[derive(Debug, Default)]
pub(super) struct Past {
    devices: BTreeMap<(usize, Trouble), Moment>,
    cuts: BTreeMap<Cut, Moment>,
    /// Who sent wrong bytes, and to whom.
    wrong: BTreeSet<(usize, usize)>,
    /// When headquarters started again.
    seed: Option<Moment>,
}

impl Past {
    /// A trouble of a device ends at `end`.
    pub(super) fn ends(&mut self, at: usize, trouble: Trouble, end: Moment) {
        self.devices.insert((at, trouble), end);
    }

    pub(super) fn cut_ends(&mut self, cut: Cut, end: Moment) {
        self.cuts.insert(cut, end);
    }

    pub(super) fn sent_wrong(&mut self, from: usize, to: usize) {
        self.wrong.insert((from, to));
    }

    pub(super) fn seed_starts(&mut self, now: Moment) {
        self.seed = Some(now);
    }

    fn lately(&self, at: usize, trouble: Trouble, now: Moment) -> bool {
        self.devices.get(&(at, trouble)).is_some_and(|end| now.since(*end) < LATELY)
    }
}

impl World<'_> {
    /// A piece is about to cross the WAN of the asker's site: if somebody else there has it already, why?
    pub(super) fn note_duplicate(&mut self, asker: usize, root: Blake3Root, piece: PieceIndex) {
        let Some(site) = self.scenario.site_of(asker) else { return };
        let others = (1..self.devices.len())
            .filter(|at| *at != asker && self.scenario.site_of(*at) == Some(site))
            .filter(|at| self.devices[*at].disk.holds(root, piece) || self.is_receiving(*at, root, piece));
        let holders: Vec<usize> = others.collect();
        if !holders.is_empty() {
            // A seed that came back learns from what the readers announce.
            let mirrored = self.ledger.mirrored(site, root, piece);
            let lately = mirrored.is_some_and(|moment| self.now.since(moment) < NEWS);
            let cause = match lately || self.is_read_at_mirror(asker, root, piece) {
                true => AT_MIRROR,
                false => self.cause(site, asker, (root, piece), &holders),
            };
            let length = self.length(root, piece);
            self.trace.note(self.now, asker, format_args!("fetches {} of {root} again: {cause}", piece.0));
            self.ledger.note_again(site, root, length, cause);
        }
    }

    /// Whether a piece is on its way to a device that comes to it for certain, as far as one can see now.
    fn is_receiving(&self, at: usize, root: Blake3Root, piece: PieceIndex) -> bool {
        let brings = |parcel: &Parcel| {
            let same = parcel.freight.piece() == Some((root, piece));
            same && parcel.to == at && self.stands(parcel)
        };
        let waits = |happening: &Happening| match happening {
            Happening::Arrives(parcel) => brings(parcel),
            Happening::PieceStored(to, life, _, r, p) => {
                (*to, *r, *p) == (at, root, piece) && self.is_alive(at, *life)
            }
            _ => false,
        };
        self.parcels.values().any(brings) || self.happenings.values().any(waits)
    }

    fn cause(
        &self,
        site: usize,
        asker: usize,
        (root, piece): (Blake3Root, PieceIndex),
        holders: &[usize],
    ) -> &'static str {
        let excuses: Vec<&'static str> = holders.iter().filter_map(|at| self.excuse(asker, *at)).collect();
        if excuses.len() == holders.len() {
            return excuses[0];
        }
        let came = self.ledger.came_to(site, root, piece);
        let fetcher = came.map(|(at, _)| at).filter(|at| *at != asker);
        if fetcher.is_some_and(|at| self.excuse(asker, at).is_some())
            && holders.iter().all(|at| self.excuse(asker, *at).is_some() || self.got_lately(*at, root, piece))
        {
            return "its fetcher cannot be reached, and others have it since just now";
        }
        let cut = Cut::Wan(site);
        if self.cuts.contains(&cut) || self.was_cut(cut) {
            return "partition from headquarters";
        }
        match (self.past.seed, came) {
            (Some(seed), Some((_, moment))) if moment <= seed => "the seed started again",
            _ => self.trouble_in(site).unwrap_or(NO_CAUSE),
        }
    }

    /// What is or was wrong in a site just now, though not between the asker and those that have the piece.
    fn trouble_in(&self, site: usize) -> Option<&'static str> {
        let any = |is: &dyn Fn(usize) -> bool| {
            (1..self.devices.len()).any(|at| self.scenario.site_of(at) == Some(site) && is(at))
        };
        let lately = |trouble| move |at: usize| self.past.lately(at, trouble, self.now);
        let away = |at: usize| self.devices[at].process.is_none() || self.devices[at].is_asleep(self.now);
        Some(match () {
            () if any(&|at| self.past.wrong.iter().any(|(from, _)| *from == at)) => "wrong bytes in the site",
            () if any(&|at| self.liars.contains(&at)) => "a lying peer in the site",
            () if any(&|at| self.expelled.contains(&at)) => "somebody of the site was expelled",
            () if any(&|at| away(at) || lately(Trouble::Away)(at)) => "somebody of the site is or was away",
            () if any(&|at| self.firewalled.contains(&at) || lately(Trouble::Firewalled)(at)) => {
                "one-way reachability in the site"
            }
            () if self.cuts.contains(&Cut::Inside(site)) || self.was_cut(Cut::Inside(site)) => {
                "a partition of the site"
            }
            () if any(&|at| self.devices[at].clock_off != 0 || lately(Trouble::Clock)(at)) => {
                "a wrong clock in the site"
            }
            () if any(&|at| self.devices[at].disk_refuses || lately(Trouble::Disk)(at)) => {
                "a full disk in the site"
            }
            () => return None,
        })
    }

    /// Why `at` may be of no use to `asker`, or the seed may think so.
    fn excuse(&self, asker: usize, at: usize) -> Option<&'static str> {
        let either = |is: &dyn Fn(usize) -> bool| is(asker) || is(at);
        let both = |is: &dyn Fn(usize) -> bool| is(asker) && is(at);
        let lately = |trouble| move |at: usize| self.past.lately(at, trouble, self.now);
        let cut_lately =
            self.past.cuts.keys().any(|cut| self.was_cut(*cut) && crosses(self.scenario, *cut, asker, at));
        Some(match () {
            () if either(&|at| self.expelled.contains(&at)) => "expelled",
            () if self.devices[at].process.is_none() => "its holder is down",
            () if self.devices[at].is_asleep(self.now) => "its holder sleeps",
            () if self.is_cut(asker, at) => "partition",
            () if both(&|at| self.firewalled.contains(&at)) => "one-way reachability",
            () if self.scenario.stragglers.contains_key(&at) => "its holder is slow",
            () if self.past.wrong.contains(&(at, asker)) => "its holder sent wrong bytes",
            () if lately(Trouble::Away)(at) => "its holder was away",
            () if cut_lately => "partition before",
            () if both(&lately(Trouble::Firewalled)) => "one-way reachability before",
            () if either(&|at| self.devices[at].clock_off != 0 || lately(Trouble::Clock)(at)) => {
                "a wrong clock"
            }
            () if either(&|at| self.devices[at].disk_refuses || lately(Trouble::Disk)(at)) => "a full disk",
            () => return None,
        })
    }

    fn was_cut(&self, cut: Cut) -> bool {
        self.past.cuts.get(&cut).is_some_and(|end| self.now.since(*end) < LATELY)
    }

    fn got_lately(&self, at: usize, root: Blake3Root, piece: PieceIndex) -> bool {
        self.ledger.stored(at, root, piece).is_none_or(|moment| self.now.since(moment) < NEWS)
    }
}
