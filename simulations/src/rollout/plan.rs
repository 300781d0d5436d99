//! What a rollout is made of: the plan, as its file says it.

use serde::{Deserialize, Serialize};

/// A plan; what its file does not name stands as [`Plan::default`] says. Each site and device is drawn from the ranges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// The seed from which everything is drawn.
    pub seed: u64,
    /// Sites.
    pub sites: u32,
    /// Devices in each.
    pub devices: u32,
    /// Size of the patch.
    pub patch_bytes: u64,
    /// The rate of a site's link downwards, from and to, log-uniform.
    pub link_megabits_per_second: [f64; 2],
    /// What part of it there is upwards.
    pub upload_part: f64,
    /// The round trip to the seed, from and to.
    pub round_trip_milliseconds: [u64; 2],
    /// The rate of the seed's own uplink, of which each site has its share.
    pub seed_megabits_per_second: f64,
    /// The hour of the first day at which the patch is approved.
    pub approved_hour: f64,
    /// When a device is switched on, from and to, in hours of the day.
    pub on_hours: [f64; 2],
    /// When it is switched off.
    pub off_hours: [f64; 2],
    /// The rate of a wired device.
    pub wired_megabits_per_second: f64,
    /// How many of a hundred devices have an old network card, and its rate.
    pub old_percent: u64,
    /// See `old_percent`.
    pub old_megabits_per_second: f64,
    /// How many of a hundred devices are on the air.
    pub air_percent: u64,
    /// Devices that share one access point.
    pub devices_per_access_point: u32,
    /// What the air of one access point carries, both directions together.
    pub air_megabits_per_second: f64,
    /// How many devices of a site may fetch over the WAN at once.
    pub wan_fetchers: u8,
    /// Days after which a device that is not done counts as a failure.
    pub days: u64,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            seed: 1,
            sites: 400,
            devices: 750,
            patch_bytes: 400_000_000,
            link_megabits_per_second: [2.0, 100.0],
            upload_part: 0.25,
            round_trip_milliseconds: [10, 150],
            seed_megabits_per_second: 10_000.0,
            approved_hour: 9.0,
            on_hours: [7.5, 9.25],
            off_hours: [16.5, 18.0],
            wired_megabits_per_second: 1_000.0,
            old_percent: 5,
            old_megabits_per_second: 100.0,
            air_percent: 20,
            devices_per_access_point: 10,
            air_megabits_per_second: 400.0,
            wan_fetchers: 4,
            days: 3,
        }
    }
}

/// Why a plan cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum BadPlan {
    /// Not the form of a plan.
    #[error("the plan is not one: {0}")]
    Form(#[from] toml::de::Error),
    /// A value without a sense.
    #[error("the plan says {what}; {expected}")]
    Value {
        /// What stands there.
        what: String,
        /// What should.
        expected: &'static str,
    },
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// [`BadPlan`]: a line that is no part of a plan, or a value that makes no sense.
    pub fn from_toml(text: &str) -> Result<Plan, BadPlan> {
        let plan: Plan = toml::from_str(text)?;
        plan.check()?;
        Ok(plan)
    }

    /// Looks for values without a sense.
    ///
    /// # Errors
    /// [`BadPlan::Value`] names the first.
    pub fn check(&self) -> Result<(), BadPlan> {
        let rates = [
            ("link_megabits_per_second", self.link_megabits_per_second[0]),
            ("seed_megabits_per_second", self.seed_megabits_per_second),
            ("wired_megabits_per_second", self.wired_megabits_per_second),
            ("old_megabits_per_second", self.old_megabits_per_second),
            ("air_megabits_per_second", self.air_megabits_per_second),
        ];
        for (name, rate) in rates {
            expect((0.1..=1e6).contains(&rate), || format!("{name} = {rate}"), "0.1 to 1000000 is expected")?;
        }
        let ranges = [
            ("link_megabits_per_second", self.link_megabits_per_second),
            ("round_trip_milliseconds", self.round_trip_milliseconds.map(|milliseconds| milliseconds as f64)),
            ("on_hours", self.on_hours),
            ("off_hours", self.off_hours),
        ];
        for (name, [from, to]) in ranges {
            expect(
                from <= to && to <= 1e6,
                || format!("{name} = [{from}, {to}]"),
                "from and to are expected",
            )?;
        }
        let hours = [self.on_hours[0], self.on_hours[1], self.off_hours[0], self.off_hours[1]];
        let one_day = hours.is_sorted() && hours[0] >= 0.0 && hours[3] <= 24.0 && hours[1] < hours[2];
        expect(
            one_day,
            || format!("on_hours and off_hours {hours:?}"),
            "a device is switched on and then off within one day",
        )?;
        expect(
            (0.0..24.0).contains(&self.approved_hour),
            || format!("approved_hour = {}", self.approved_hour),
            "an hour of the first day is expected",
        )?;
        expect(
            self.upload_part > 0.0 && self.upload_part <= 10.0,
            || format!("upload_part = {}", self.upload_part),
            "a part of the rate downwards is expected, such as 0.25",
        )?;
        expect(
            (1..=100_000).contains(&self.sites) && (1..=10_000).contains(&self.devices),
            || format!("{} sites of {} devices", self.sites, self.devices),
            "1 to 100000 sites of 1 to 10000 devices are expected",
        )?;
        expect(
            (1..=8 << 30).contains(&self.patch_bytes),
            || format!("patch_bytes = {}", self.patch_bytes),
            "1 byte to 8 GiB is expected",
        )?;
        expect(
            self.devices_per_access_point > 0 && self.wan_fetchers > 0 && self.days > 0,
            || "0 devices_per_access_point, wan_fetchers or days".to_owned(),
            "at least 1 is expected",
        )
    }
}

fn expect(holds: bool, what: impl FnOnce() -> String, expected: &'static str) -> Result<(), BadPlan> {
    if holds { Ok(()) } else { Err(BadPlan::Value { what: what(), expected }) }
}
