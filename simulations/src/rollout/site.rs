//! One site as it is drawn: its link, and the hours and the place in the network of each device.

use super::plan::Plan;
use super::queue::{Nanos, Rates, SECOND, bytes_per_second};
use crate::random::Random;

/// A day.
pub const DAY: Nanos = 86_400 * SECOND;

/// A site.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its number, from 0.
    pub number: u32,
    /// What the seed of the plan and the number come to: all randomness of the site follows from it.
    pub seed: u64,
    /// Its link downwards, in bytes per second.
    pub down: f64,
    /// What of it the seed can fill.
    pub share: Rates,
    /// Upwards.
    pub up: f64,
    /// From the seed to the site.
    pub one_way: Nanos,
    /// Its devices.
    pub devices: Vec<Hours>,
    /// What carries each device's traffic.
    pub places: Vec<Place>,
    /// Access points.
    pub access_points: usize,
}

/// When a device is on, each day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Since midnight.
    pub on: Nanos,
    /// Since midnight.
    pub off: Nanos,
}

/// Where a device is in the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// On a switch, with a card of this rate in each direction.
    Wired(f64),
    /// At the access point of this number.
    Air(usize),
}

impl Hours {
    /// The first moment from `at` on at which the device is on.
    pub fn next_on(self, at: Nanos) -> Nanos {
        let (day, since) = (at / DAY * DAY, at % DAY);
        match since {
            since if since < self.on => day + self.on,
            since if since < self.off => at,
            _ => day + DAY + self.on,
        }
    }

    /// When the device has been on for `lasting` from `at` on, times at which it is off not counted.
    pub fn after(self, at: Nanos, mut lasting: Nanos) -> Nanos {
        let mut now = self.next_on(at);
        loop {
            let end = now / DAY * DAY + self.off;
            if now + lasting <= end {
                return now + lasting;
            }
            lasting -= end - now;
            now = self.next_on(end);
        }
    }
}

impl Site {
    /// The rate of a site's link downwards alone.
    pub fn draw_rate(plan: &Plan, number: u32) -> f64 {
        Site::draw(&Plan { devices: 0, ..plan.clone() }, number).down
    }

    /// The site of this number in a plan, with its whole link to itself.
    pub fn draw(plan: &Plan, number: u32) -> Site {
        let mut mixed = Random::new(plan.seed ^ 0xf1ee_7000);
        let seed = mixed.draw() ^ Random::new(u64::from(number)).draw();
        let mut random = Random::new(seed);
        let [least, most] = plan.link_megabits_per_second;
        let down = bytes_per_second(least * (most / least).powf(part(&mut random)));
        let [soonest, latest] = plan.round_trip_milliseconds;
        let one_way = random.between(soonest * 500_000, latest * 500_000);
        let hour = |[from, to]: [f64; 2], random: &mut Random| {
            ((from + (to - from) * part(random)) * 3_600.0 * SECOND as f64) as Nanos
        };
        let mut devices = Vec::new();
        let mut places = Vec::new();
        let mut on_air = 0;
        for _ in 0..plan.devices {
            let on = hour(plan.on_hours, &mut random);
            devices.push(Hours { on, off: hour(plan.off_hours, &mut random) });
            places.push(if random.chance(plan.air_percent) {
                on_air += 1;
                Place::Air((on_air - 1) / plan.devices_per_access_point as usize)
            } else if random.chance(plan.old_percent) {
                Place::Wired(bytes_per_second(plan.old_megabits_per_second))
            } else {
                Place::Wired(bytes_per_second(plan.wired_megabits_per_second))
            });
        }
        let access_points = on_air.div_ceil(plan.devices_per_access_point as usize);
        Site {
            number,
            seed,
            down,
            share: Rates::new(down),
            up: down * plan.upload_part,
            one_way,
            devices,
            places,
            access_points,
        }
    }

    /// Its link in megabits per second.
    pub fn megabits(&self) -> f64 {
        self.down / 125_000.0
    }
}

/// A number from 0 to 1.
fn part(random: &mut Random) -> f64 {
    (random.draw() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_of_operation() {
        let hours = Hours { on: 8, off: 10 };
        assert_eq!([0, 8, 9, 10].map(|at| hours.next_on(at)), [8, 8, 9, DAY + 8]);
        assert_eq!(hours.after(9, 1), 10);
        assert_eq!(hours.after(9, 2), DAY + 9);
        assert_eq!(hours.after(0, 5), 2 * DAY + 9);
    }

    #[test]
    fn links_are_log_uniform() {
        let plan = Plan { devices: 1, ..Plan::default() };
        let mut rates: Vec<f64> = (0..1_000).map(|number| Site::draw(&plan, number).megabits()).collect();
        rates.sort_by(f64::total_cmp);
        assert!(rates[0] >= 2.0 && rates[999] <= 100.0);
        // Half of them are below the geometric mean.
        assert!((12.0..17.0).contains(&rates[500]), "{}", rates[500]);
    }
}
