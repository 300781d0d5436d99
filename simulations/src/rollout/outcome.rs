//! What a rollout came to: figures of each site, and of the fleet.

use super::bound::{Limit, bounds};
use super::plan::Plan;
use super::queue::{Nanos, SECOND};
use super::site::Site;
use super::world::World;
use protocol::fetch::Origin;
use serde::Serialize;
use std::collections::BTreeMap;

/// How many of a hundred devices are done.
pub const PERCENT: [usize; 4] = [50, 90, 99, 100];
/// Transfers that cannot take longer than this are shown apart: connecting is a large part of them.
const SHORT_SECONDS: f64 = 60.0;

/// One site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteOutcome {
    /// Its number.
    pub site: u32,
    /// Its link.
    pub megabits_per_second: f64,
    /// Its round trip to the seed.
    pub round_trip_milliseconds: f64,
    /// Seconds from the approval until 50, 90, 99 and 100 % of the devices had everything.
    pub seconds: [f64; 4],
    /// Seconds that no way of fetching can beat.
    pub bound_seconds: [f64; 4],
    /// The one divided by the other.
    pub distance: [f64; 4],
    /// What sets the bound for the last device.
    pub limit: Limit,
    /// Seconds until every piece was in the site.
    pub wan_seconds: f64,
    /// The same divided by its bound.
    pub wan_distance: f64,
    /// Payload over the WAN divided by the size of the patch.
    pub amplification: f64,
    /// All that came down the link, headers and control messages included, divided by the size.
    pub link_amplification: f64,
    /// All that went up.
    pub up_bytes: u64,
    /// The same until every device had its first piece, requests for blocks apart.
    pub up_bytes_until_first: u64,
    /// The lowest share of its link that the seed left to it, in megabits per second.
    pub share_megabits_per_second: f64,
    /// Payload over the WAN, by reason.
    pub wan_bytes_by_reason: BTreeMap<String, u64>,
    /// Payload from neighbours.
    pub lan_bytes: u64,
    /// Events that were played.
    pub events: u64,
    /// BLAKE3 over what came when, and over these figures.
    pub digest: String,
}

/// All sites.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FleetOutcome {
    /// Seconds until 50, 90, 99 and 100 % of all devices had everything.
    pub seconds: [f64; 4],
    /// The same for 0 to 100 %.
    pub curve: Vec<f64>,
    /// Payload over the WAN divided by sites times size.
    pub amplification: f64,
    /// The same of the worst site.
    pub worst_amplification: f64,
    /// All that came down the links.
    pub link_amplification: f64,
    /// Distances to the bound of the sites whose link needs a minute or more for the patch.
    pub long: Distances,
    /// Of the others.
    pub short: Distances,
    /// How many sites have which limit for their last device.
    pub limits: BTreeMap<Limit, usize>,
    /// Payload over the WAN, by reason.
    pub wan_bytes_by_reason: BTreeMap<String, u64>,
    /// Events that were played.
    pub events: u64,
    /// BLAKE3 over the digests of the sites.
    pub digest: String,
}

/// Distances to the bound of some sites.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Distances {
    /// How many sites.
    pub sites: usize,
    /// Median and 99th percentile, for 50, 90, 99 and 100 % of the devices.
    pub devices: [[f64; 2]; 4],
    /// Of the site as a whole: every piece is there.
    pub wan: [f64; 2],
}

impl SiteOutcome {
    /// The figures of a site that was played; and when its devices were done, in seconds and in order.
    pub fn of(plan: &Plan, site: &Site, world: &World<'_>) -> (SiteOutcome, Vec<f64>) {
        let approved = world.approved();
        let since = |at: Nanos| at.saturating_sub(approved) as f64 / SECOND as f64;
        let bounds = bounds(plan, site, approved);
        let mut done: Vec<f64> = world.devices.iter().filter_map(|device| device.done).map(since).collect();
        done.sort_by(f64::total_cmp);
        let seconds = PERCENT.map(|percent| quantile(&done, percent));
        let bound: Vec<f64> = bounds.done.iter().map(|(at, _)| since(*at)).collect();
        let bound_seconds = PERCENT.map(|percent| quantile(&bound, percent));
        let mut distance = [0.0; 4];
        for (at, distance) in distance.iter_mut().enumerate() {
            *distance = seconds[at] / bound_seconds[at];
        }
        let wan_seconds = world.counts.first.last().copied().map_or(0.0, since);
        let size = plan.patch_bytes as f64;
        let bytes = |origin| {
            let bytes = world.counts.bytes.iter().filter(move |((way, _), _)| *way == origin);
            bytes.map(|((_, reason), bytes)| (reason.to_string(), *bytes)).collect()
        };
        let wan: BTreeMap<String, u64> = bytes(Origin::Wan);
        let lan: BTreeMap<String, u64> = bytes(Origin::Lan);
        let mut outcome = SiteOutcome {
            site: site.number,
            megabits_per_second: site.megabits(),
            round_trip_milliseconds: site.one_way as f64 / 500_000.0,
            seconds,
            bound_seconds,
            distance,
            limit: bounds.done.last().map_or(Limit::Wan, |(_, limit)| *limit),
            wan_seconds,
            wan_distance: wan_seconds / since(bounds.wan),
            amplification: wan.values().sum::<u64>() as f64 / size,
            link_amplification: world.wan.down.carried as f64 / size,
            up_bytes: world.wan.up.carried,
            up_bytes_until_first: world.counts.up_until_first,
            share_megabits_per_second: site.share.least() / 125_000.0,
            wan_bytes_by_reason: wan,
            lan_bytes: lan.values().sum(),
            events: world.counts.events,
            digest: String::new(),
        };
        let text = format!("{:016x} {outcome:?}", world.counts.digest);
        outcome.digest = blake3::hash(text.as_bytes()).to_hex()[..16].to_owned();
        (outcome, done)
    }

    /// Whether anything was faster than it can be: then the model is wrong.
    pub fn is_impossible(&self) -> bool {
        self.distance.iter().chain([&self.wan_distance]).any(|distance| *distance < 1.0 - 1e-6)
    }
}

impl FleetOutcome {
    /// What all sites came to; `done` are the seconds of all devices.
    pub fn of(plan: &Plan, sites: &[SiteOutcome], mut done: Vec<f64>) -> FleetOutcome {
        done.sort_by(f64::total_cmp);
        let size = plan.patch_bytes as f64 * sites.len() as f64;
        let mut outcome = FleetOutcome {
            seconds: PERCENT.map(|percent| quantile(&done, percent)),
            curve: (0..=100).map(|percent| quantile(&done, percent)).collect(),
            link_amplification: mean(sites, |site| site.link_amplification),
            worst_amplification: sites.iter().map(|site| site.amplification).fold(0.0, f64::max),
            ..FleetOutcome::default()
        };
        let mut digest = blake3::Hasher::new();
        for site in sites {
            digest.update(site.digest.as_bytes());
            outcome.events += site.events;
            *outcome.limits.entry(site.limit).or_default() += 1;
            for (reason, bytes) in &site.wan_bytes_by_reason {
                *outcome.wan_bytes_by_reason.entry(reason.clone()).or_default() += bytes;
            }
        }
        outcome.amplification = outcome.wan_bytes_by_reason.values().sum::<u64>() as f64 / size;
        let (short, long): (Vec<&SiteOutcome>, Vec<&SiteOutcome>) =
            // By what the link needs for the patch: the last device of most sites is bound by its hours.
            sites.iter().partition(|site| site.wan_seconds / site.wan_distance < SHORT_SECONDS);
        (outcome.long, outcome.short) = (Distances::of(&long), Distances::of(&short));
        outcome.digest = digest.finalize().to_hex()[..16].to_owned();
        outcome
    }
}

impl Distances {
    fn of(sites: &[&SiteOutcome]) -> Distances {
        let pair = |of: &dyn Fn(&SiteOutcome) -> f64| {
            let mut values: Vec<f64> = sites.iter().map(|site| of(site)).collect();
            values.sort_by(f64::total_cmp);
            [quantile(&values, 50), quantile(&values, 99)]
        };
        Distances {
            sites: sites.len(),
            devices: [0, 1, 2, 3].map(|at| pair(&|site| site.distance[at])),
            wan: pair(&|site| site.wan_distance),
        }
    }
}

fn mean(sites: &[SiteOutcome], of: impl Fn(&SiteOutcome) -> f64) -> f64 {
    sites.iter().map(of).sum::<f64>() / sites.len().max(1) as f64
}

/// The value below or at which `percent` of the sorted ones are; 0 where there are none.
pub fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0.0)
}
