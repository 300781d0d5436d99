//! What no way of fetching can beat: max(F/u, F/d, N·F/(u+Σu)) with headers, with hours of operation, and with the air.

use super::lan::on_link;
use super::plan::Plan;
use super::queue::{Nanos, SECOND, bytes_per_second, lasting};
use super::site::{DAY, Hours, Place, Site};
use serde::Serialize;

/// Which of the bounds is the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// The site's link: F/u.
    Wan,
    /// The card of a device: F/d.
    Card,
    /// The air of an access point, which carries the patch once for each of its devices.
    Air,
    /// A device that is switched on late.
    Hours,
    /// All that can be sent: N·F/(u+Σu).
    Sending,
}

/// The bounds of one site.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Before this the site cannot have every piece.
    pub wan: Nanos,
    /// Before the number k of these moments, counted from 0, no k+1 devices can have everything.
    pub done: Vec<(Nanos, Limit)>,
}

/// The bounds of `site`, to which the patch is approved at `approved`.
pub fn bounds(plan: &Plan, site: &Site, approved: Nanos) -> Bounds {
    let bytes = on_link(plan.patch_bytes);
    let wan = shared(open(&site.devices), site, approved, bytes);
    let mut done = Vec::new();
    let mut on_air: Vec<Vec<Hours>> = vec![Vec::new(); site.access_points];
    let air = bytes_per_second(plan.air_megabits_per_second);
    let mut sending = site.down + air * site.access_points as f64;
    for (hours, place) in site.devices.iter().zip(&site.places) {
        match place {
            Place::Air(point) => on_air[*point].push(*hours),
            Place::Wired(rate) => {
                sending += rate;
                done.push(later(wan, approved, *hours, lasting(bytes, *rate), Limit::Card));
            }
        }
    }
    for mut devices in on_air {
        devices.sort_by_key(|hours| hours.next_on(approved));
        let whole = open(&devices);
        let mut passed = approved;
        for hours in devices {
            let begin = passed.max(hours.next_on(approved));
            passed = whole.after(begin, lasting(bytes, air));
            let limit =
                if begin > approved && begin == hours.next_on(approved) { Limit::Hours } else { Limit::Air };
            done.push((passed, limit).max((wan, Limit::Wan)));
        }
    }
    done.sort_by_key(|(at, _)| *at);
    let mut sent = 0;
    for bound in &mut done {
        sent += bytes;
        *bound = (*bound).max((approved + lasting(sent, sending), Limit::Sending));
    }
    Bounds { wan, done }
}

/// A device has everything `lasting` after it can begin, and not before the site has it.
fn later(wan: Nanos, approved: Nanos, hours: Hours, lasting: Nanos, limit: Limit) -> (Nanos, Limit) {
    let own = hours.after(approved, lasting);
    let limit = if hours.next_on(approved) > approved { Limit::Hours } else { limit };
    (own, limit).max((wan, Limit::Wan))
}

/// When the site's share of its link has brought `bytes`, hours in which nobody is on not counted.
fn shared(open: Hours, site: &Site, approved: Nanos, bytes: u64) -> Nanos {
    let (mut now, mut left) = (open.next_on(approved), bytes as f64);
    loop {
        let (rate, change) = site.share.at(now);
        let off = now / DAY * DAY + open.off;
        let until = change.map_or(off, |change| off.min(change));
        let can = (until - now) as f64 / SECOND as f64 * rate;
        if left <= can {
            return now + (left / rate * SECOND as f64) as Nanos;
        }
        left -= can;
        now = open.next_on(until);
    }
}

/// When any of these devices is on, or could be.
fn open(devices: &[Hours]) -> Hours {
    let on = devices.iter().map(|hours| hours.on).min().unwrap_or(0);
    let off = devices.iter().map(|hours| hours.off).max().unwrap_or(DAY);
    Hours { on, off }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::queue::Rates;

    fn site(places: Vec<Place>) -> Site {
        let always = Hours { on: 0, off: DAY };
        Site {
            number: 0,
            seed: 0,
            down: 1_000_000.0,
            share: Rates::new(1_000_000.0),
            up: 1.0,
            one_way: 0,
            devices: vec![always; places.len()],
            places,
            access_points: 1,
        }
    }

    fn seconds(bounds: &Bounds) -> Vec<(u64, Limit)> {
        bounds.done.iter().map(|(at, limit)| (at / SECOND, *limit)).collect()
    }

    #[test]
    fn each_bound_counts() {
        let plan = Plan { patch_bytes: 100_000_000, air_megabits_per_second: 8.0, ..Plan::default() };
        let wired = Place::Wired(125e6);
        // 103.8 MB with headers, at 1 MB/s.
        let fast = site(vec![wired; 3]);
        assert_eq!(seconds(&bounds(&plan, &fast, 0)), [(103, Limit::Wan); 3]);
        let slow = site(vec![wired, Place::Wired(5e5)]);
        assert_eq!(seconds(&bounds(&plan, &slow, 0)), [(103, Limit::Wan), (207, Limit::Card)]);
        let air = site(vec![Place::Air(0); 2]);
        assert_eq!(bounds(&plan, &air, 0).done.iter().map(|(_, limit)| *limit).next_back(), Some(Limit::Air));
        let mut late = site(vec![wired; 2]);
        late.devices[1].on = 3_600 * SECOND;
        assert_eq!(seconds(&bounds(&plan, &late, 0)), [(103, Limit::Wan), (3_600, Limit::Hours)]);
    }
}
