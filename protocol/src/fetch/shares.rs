//! Which sites are ahead in what the seed sends, so that they leave more of a full uplink to the others.
//!
//! Sites behind one full uplink divide it by what their fetchers' windows know of its empty queue: one that knows it wrong
//! by a few milliseconds would get half as much again as the others, and one that came when the queue stood takes it for the
//! way itself and leaves nothing to those before it. So all slow down together for a moment after somebody came, and
//! see the way without a queue; and whoever is still ahead aims at a shorter queue, so that the others' windows grow. Nobody
//! is held back by a rate: where there is room, everybody gets it.

use super::brought::Brought;
use super::window::TARGET;
use crate::identifier::SiteName;
use crate::time::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// A site that got nothing for this long fetches no more, or has to wait for others: nobody leaves anything to it.
const FETCHES: Duration = Duration::from_secs(3);
/// A lead up to this, as time at an equal share, comes from the size of pieces.
const EVEN: f64 = 0.25;
/// And this much of it counts at most: a site whose own link is thin falls behind without end.
const MOST: f64 = 1.5;
/// All hear of a drain so long before it: fetchers ask for leases every second or two.
const NOTICE: Duration = Duration::from_secs(4);
/// Between two of them.
const APART: Duration = Duration::from_secs(10);
/// When sites stay uneven, the next drain comes after this time, and each time after twice as much: where their own links are
/// what limits them, it helps nobody.
const AGAIN: Duration = Duration::from_secs(15);
const AGAIN_MOST: Duration = Duration::from_secs(240);
/// The queue that a site aims at whose lead is that long: 7 ms still fill a link.
const LEAST_TARGET: f64 = 0.35;

/// What the sites got that fetch now.
#[derive(Debug, Default)]
pub(in crate::fetch) struct Shares {
    sites: BTreeMap<SiteName, Share>,
    /// What went to all of them.
    total: Option<Brought>,
    /// When all slow down.
    drain: Option<Moment>,
    /// Whether somebody came too late for that.
    came: bool,
    /// How long after the last one the next is due while sites are uneven.
    again: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Share {
    /// Bytes that it got beyond an equal share, or was short of it.
    ahead: f64,
    last: Moment,
}

impl Shares {
    /// So many bytes went to `site`.
    pub(in crate::fetch) fn note(&mut self, site: &SiteName, bytes: u64, now: Moment) {
        self.sites.retain(|_, share| now.since(share.last) < FETCHES);
        if self.sites.is_empty() {
            self.total = None;
        }
        if !self.sites.contains_key(site) {
            (self.came, self.again) = (!self.sites.is_empty(), AGAIN);
            self.sites.insert(site.clone(), Share { ahead: 0.0, last: now });
        }
        self.total = Some(Brought::note(self.total, bytes, now, now));
        let each = bytes as f64 / self.sites.len() as f64;
        let most = MOST * self.share();
        for (name, share) in &mut self.sites {
            let got = if name == site { bytes as f64 } else { 0.0 };
            share.ahead = (share.ahead + got - each).clamp(-most, most);
            share.last = if name == site { now } else { share.last };
        }
        self.plan_drain(now);
    }

    fn plan_drain(&mut self, now: Moment) {
        let most = MOST * self.share();
        let uneven = || self.sites.values().any(|share| share.ahead.abs() >= most * 0.9);
        let due = match self.drain {
            _ if self.sites.len() < 2 => false,
            None => self.came,
            Some(drain) if self.came => now >= drain + (APART - NOTICE),
            Some(drain) => now >= drain + self.again && uneven(),
        };
        if due {
            if !std::mem::take(&mut self.came) {
                self.again = (self.again * 2).min(AGAIN_MOST);
            }
            self.drain = Some(now + NOTICE);
        }
    }

    /// When all are to slow down, seen from `now`; `None` while nothing is planned.
    pub(in crate::fetch) fn drain(&self, now: Moment) -> Option<Duration> {
        self.drain.filter(|drain| *drain > now).map(|drain| drain.since(now))
    }

    /// The queue that the fetchers of `site` are to aim at; `None` where it is not ahead.
    pub(in crate::fetch) fn target(&self, site: &SiteName, now: Moment) -> Option<Duration> {
        let fetching = || self.sites.values().filter(|share| now.since(share.last) < FETCHES);
        let own = self.sites.get(site).filter(|own| now.since(own.last) < FETCHES)?;
        let mean = fetching().map(|share| share.ahead).sum::<f64>() / fetching().count() as f64;
        let lead = (own.ahead - mean) / self.share();
        let part = ((lead - EVEN) / (MOST - EVEN)).min(1.0);
        (part > 0.0).then(|| TARGET.mul_f64(1.0 - part * (1.0 - LEAST_TARGET)))
    }

    /// Bytes per second of an equal share.
    fn share(&self) -> f64 {
        let rate = self.total.map_or(0, Brought::rate);
        (rate as f64 / self.sites.len().max(1) as f64).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each site is told after so many seconds in which these bytes went to it in each tenth of one.
    fn told(rates: &[(&str, u64)], seconds: u64) -> Vec<Option<Duration>> {
        let mut shares = Shares::default();
        let names: Vec<SiteName> = rates.iter().map(|(name, _)| name.parse().expect("a name")).collect();
        let mut now = Moment::START;
        for _ in 0..seconds * 10 {
            now = now + Duration::from_millis(100);
            for (name, (_, bytes)) in names.iter().zip(rates) {
                shares.note(name, *bytes, now);
            }
        }
        names.iter().map(|name| shares.target(name, now)).collect()
    }

    #[test]
    fn a_site_alone_and_sites_that_get_the_same_aim_at_the_usual_queue() {
        assert_eq!(told(&[("a", 100_000)], 20), [None]);
        assert_eq!(told(&[("a", 100_000), ("b", 100_000), ("c", 100_000)], 20), [None, None, None]);
    }

    #[test]
    fn a_site_that_is_ahead_aims_at_a_shorter_queue_the_further_the_shorter() {
        let soon = told(&[("a", 150_000), ("b", 100_000)], 2);
        let late = told(&[("a", 150_000), ("b", 100_000)], 8);
        let (soon, late) = (soon[0].expect("ahead"), late[0].expect("ahead"));
        assert!(late < soon && soon < TARGET, "{soon:?} {late:?}");
        assert!(late >= TARGET.mul_f64(LEAST_TARGET) && late < TARGET / 2, "{late:?}");
        assert_eq!(told(&[("a", 150_000), ("b", 100_000)], 8)[1], None);
    }

    #[test]
    fn a_site_that_ended_leaves_nobody_behind() {
        let mut shares = Shares::default();
        let [one, two] = ["a", "b"].map(|name| name.parse::<SiteName>().expect("a name"));
        let mut now = Moment::START;
        for step in 0..100 {
            now = now + Duration::from_millis(100);
            shares.note(&one, 150_000, now);
            if step < 50 {
                shares.note(&two, 100_000, now);
            }
        }
        assert_eq!(shares.target(&one, now), None);
        assert_eq!(shares.target(&two, now), None);
    }

    /// The seconds in which all slow down, when these sites get so many bytes in each tenth of a second from these seconds on.
    fn drains(rates: &[(&str, u64, u64)], seconds: u64) -> Vec<u64> {
        let (mut shares, mut drains) = (Shares::default(), Vec::new());
        for tenth in 0..seconds * 10 {
            let now = Moment::START + Duration::from_millis(tenth * 100);
            for (name, bytes, _) in rates.iter().filter(|(_, _, from)| tenth >= from * 10) {
                shares.note(&name.parse().expect("a name"), *bytes, now);
            }
            let drain = shares.drain(now).map(|drain| (now + drain).since(Moment::START).as_secs());
            drains.extend(drain.filter(|drain| drains.last() != Some(drain)));
        }
        drains
    }

    #[test]
    fn all_slow_down_after_somebody_came_and_ever_more_seldom_while_they_stay_uneven() {
        assert_eq!(drains(&[("a", 100_000, 0)], 60), Vec::<u64>::new());
        assert_eq!(drains(&[("a", 100_000, 0), ("b", 100_000, 10)], 100), [14]);
        let both = [("a", 100_000, 0), ("b", 100_000, 0), ("c", 100_000, 3)];
        assert_eq!(drains(&both, 100), [4, 14], "not for each of them at once");
        let uneven = drains(&[("a", 200_000, 0), ("b", 20_000, 0)], 300);
        assert_eq!(uneven, [4, 23, 57, 121, 245]);
    }
}
