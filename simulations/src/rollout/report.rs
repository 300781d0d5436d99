//! A rollout in words and in CSV.

use super::outcome::{Distances, FleetOutcome, PERCENT, SiteOutcome};
use std::fmt::Write as _;

/// The fleet's figures as text.
pub fn text(fleet: &FleetOutcome) -> String {
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        let written = out.write_fmt(text);
        debug_assert!(written.is_ok(), "text takes text");
        out.push('\n');
    };
    let times: Vec<String> = PERCENT
        .iter()
        .zip(fleet.seconds)
        .map(|(percent, seconds)| format!("{percent} % {seconds:.0} s"))
        .collect();
    line(format_args!("devices of the fleet done: {}", times.join(", ")));
    line(format_args!(
        "WAN amplification: payload {:.4} (worst site {:.4}), all bytes {:.4}",
        fleet.amplification, fleet.worst_amplification, fleet.link_amplification
    ));
    for (reason, bytes) in &fleet.wan_bytes_by_reason {
        line(format_args!("{bytes:>16}  bytes over the WAN: {reason}"));
    }
    line(format_args!("distance to the bound, median and 99th percentile of the sites:"));
    line(format_args!(
        "{:<24}{:>7}{:>16}{:>16}{:>16}{:>16}{:>16}",
        "", "sites", "50 % done", "90 %", "99 %", "100 %", "site has it"
    ));
    for (name, distances) in [("a minute or more", &fleet.long), ("less than a minute", &fleet.short)] {
        line(format_args!("{name:<24}{}", row(distances)));
    }
    let limits: Vec<String> =
        fleet.limits.iter().map(|(limit, sites)| format!("{limit:?} {sites}").to_lowercase()).collect();
    line(format_args!("what bounds the last device: {}", limits.join(", ")));
    line(format_args!("{} events, digest {}", fleet.events, fleet.digest));
    out
}

fn row(distances: &Distances) -> String {
    let pair = |[median, high]: [f64; 2]| format!("{:>16}", format!("{median:.3} {high:.3}"));
    let devices: String = distances.devices.iter().map(|values| pair(*values)).collect();
    format!("{:>7}{devices}{}", distances.sites, pair(distances.wan))
}

/// One line for each site.
pub fn csv(sites: &[SiteOutcome]) -> String {
    let mut out = String::from("site,megabits_per_second,round_trip_milliseconds");
    for name in ["seconds", "bound_seconds", "distance"] {
        for percent in PERCENT {
            out += &format!(",{name}_{percent}");
        }
    }
    out += ",limit,wan_seconds,wan_distance,amplification,link_amplification,up_bytes,up_bytes_until_first,share_megabits_per_second,lan_bytes,events,digest\n";
    for site in sites {
        out += &format!("{},{:.3},{:.3}", site.site, site.megabits_per_second, site.round_trip_milliseconds);
        for value in site.seconds.iter().chain(&site.bound_seconds) {
            out += &format!(",{value:.3}");
        }
        for value in site.distance {
            out += &format!(",{value:.4}");
        }
        let limit = format!("{:?}", site.limit).to_lowercase();
        out += &format!(
            ",{limit},{:.3},{:.4},{:.5},{:.5},{},{},{:.3},{},{},{}\n",
            site.wan_seconds,
            site.wan_distance,
            site.amplification,
            site.link_amplification,
            site.up_bytes,
            site.up_bytes_until_first,
            site.share_megabits_per_second,
            site.lan_bytes,
            site.events,
            site.digest
        );
    }
    out
}
