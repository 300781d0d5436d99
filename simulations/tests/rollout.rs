//! One patch for a fleet: the same outcome at any number of threads, and what the fetcher owes a large site.

use simulations::rollout::{Plan, Rollout, run};

fn played(plan: &Plan, threads: usize) -> Rollout {
    run(plan, threads, |_| {}).expect("every device gets everything")
}

/// A fleet small enough for a debug build.
fn small() -> Plan {
    Plan { sites: 4, devices: 40, patch_bytes: 24 << 20, ..Plan::default() }
}

/// All devices are switched on in the same second and know nobody.
fn cold(devices: u32) -> Plan {
    Plan {
        sites: 1,
        devices,
        patch_bytes: 64 << 20,
        link_megabits_per_second: [20.0, 20.0],
        round_trip_milliseconds: [40, 40],
        on_hours: [9.0, 9.0],
        air_percent: 0,
        old_percent: 0,
        ..Plan::default()
    }
}

// proves X1
#[test]
fn the_outcome_does_not_depend_on_threads() {
    let plan = small();
    let (one, three) = (played(&plan, 1), played(&plan, 3));
    assert_eq!(one.fleet, three.fleet);
    assert_eq!(one.sites, three.sites);
    let other = played(&Plan { seed: 2, ..plan }, 2);
    assert_ne!(one.fleet.digest, other.fleet.digest);
}

// proves X1, X5: the last device is done within a tenth of the bound; docs/simulations.md and docs/lab.md have the figures
#[test]
fn each_piece_crosses_the_wan_once_when_all_start_in_the_same_second() {
    for devices in [8, 50, 750] {
        let played = played(&cold(devices), 1);
        let (fleet, site) = (&played.fleet, &played.sites[0]);
        assert!(fleet.amplification <= 1.01, "{devices} devices: {}", fleet.amplification);
        assert!(site.up_bytes_until_first < 1_000_000, "{devices} devices: {site:?}");
        assert!(site.distance[3] <= 1.1, "{devices} devices: {site:?}");
    }
}

// Eight sites of 20 Mbit/s behind an uplink of 80: each has half of its link, and the bound counts that.
#[test]
fn sites_share_the_uplink_of_the_seed() {
    let plan = Plan { sites: 8, seed_megabits_per_second: 80.0, ..cold(4) };
    let played = played(&plan, 2);
    for site in &played.sites {
        assert!((site.share_megabits_per_second - 10.0).abs() < 1e-6, "{site:?}");
        assert!((53.0..60.0).contains(&site.seconds[3]), "{site:?}");
        assert!(site.distance[3] <= 1.05, "{site:?}");
    }
}

#[test]
fn devices_that_are_switched_off_in_the_evening_go_on_in_the_morning() {
    let plan = Plan {
        sites: 2,
        devices: 12,
        patch_bytes: 100 << 20,
        link_megabits_per_second: [2.0, 2.0],
        approved_hour: 16.75,
        off_hours: [16.8, 16.9],
        ..Plan::default()
    };
    let played = played(&plan, 2);
    for site in &played.sites {
        // The next morning is fourteen hours later.
        assert!(site.seconds[3] > 14.0 * 3_600.0, "{:?}", site.seconds);
        // The bound of the site's link counts its hours; that of a single device does not count when it is on.
        assert!(site.wan_distance < 1.2, "{site:?}");
    }
}

#[test]
fn a_plan_that_makes_no_sense_is_refused_by_name() {
    for (text, named) in [
        ("sites = 0", "0 sites"),
        ("link_megabits_per_second = [5.0, 2.0]", "link_megabits_per_second"),
        ("on_hours = [8.0, 17.0]", "on_hours"),
        ("no_such_thing = 1", "no_such_thing"),
    ] {
        let refused = Plan::from_toml(text).expect_err("refused").to_string();
        assert!(refused.contains(named), "{refused}");
    }
    assert_eq!(Plan::from_toml("").expect("the default"), Plan::default());
}
