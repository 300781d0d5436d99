//! Branch offices in virtual time: whatever goes wrong, all who live finish, and each piece crosses the WAN once.

use simulations::random::Random;
use simulations::scenario::{Death, Fault, Mirror, Scenario, When};
use simulations::vendor::{Proof, Standing};
use simulations::world::Keep;
use simulations::{Summary, run};
use std::ops::Range;
use std::time::Duration;

const MEBIBYTE: u64 = 1 << 20;

/// Seeds that broke a rule once; each stays with what it showed.
const REGRESSIONS: [(u64, &str); 6] = [
    (3, "a neighbour was asked for catalogues that it did not have itself yet"),
    (
        4,
        "a holder that sent one wrong piece was passed over at once, for pieces that others were about to have",
    ),
    (29, "every publication of metadata ended all running transfers"),
    (88, "a device that started again unnoticed had forgotten its grants, and nobody asked for new ones"),
    (295, "a report reached the aggregator before it was durable at its device, which then died"),
    (361, "two devices died one after the other"),
];

fn played(scenario: &Scenario) -> Summary {
    match run(scenario, Keep::Digest) {
        Ok(played) => played.summary,
        Err(failure) => panic!("{failure}"),
    }
}

fn seeds(range: Range<u64>) {
    let failures: Vec<String> = range
        .filter_map(|seed| run(&Scenario::branch(seed, 5), Keep::Digest).err())
        .map(|failure| failure.to_string())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn one_branch_seeds_0_to_49() {
    seeds(0..50);
}

#[test]
fn what_broke_once_holds() {
    for (seed, what) in REGRESSIONS {
        if let Err(failure) = run(&Scenario::branch(seed, 5), Keep::Digest) {
            panic!("again, {what}: {failure}");
        }
    }
}

#[test]
fn offices_of_other_sizes() {
    for (devices, seeds) in [(1, 0..10), (2, 0..10), (12, 0..4)] {
        for seed in seeds {
            played(&Scenario::branch(seed, devices));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 88, 361] {
        let scenario = Scenario::branch(seed, 5);
        assert_eq!(played(&scenario), played(&scenario));
    }
    assert_ne!(played(&Scenario::branch(1, 5)).digest, played(&Scenario::branch(2, 5)).digest);
}

// proves X1, X4: while no seed is there, the mirror that policy names is read once for the whole site
#[test]
fn an_office_whose_seed_goes_away_reads_the_rest_at_the_mirror_once() {
    for seed in 0..10 {
        let devices = [2, 5, 8][seed as usize % 3];
        let away = Fault::SeedRestarts { after: Duration::from_secs(10), lasts: Duration::from_secs(1_000) };
        let mut office =
            Scenario::office(seed, devices).patch(32 * MEBIBYTE, Proof::Detached, Standing::Approved);
        office.faults.push(away);
        office.mirror = Some(Mirror::Whole);
        let summary = played(&office);
        let mirrored = summary.wan_piece_bytes_by_reason["mirror"];
        assert!(mirrored > 16 * MEBIBYTE, "{summary:?}");
        let came: u64 = summary.wan_piece_bytes_by_reason.values().sum();
        assert_eq!(came, 32 * MEBIBYTE, "{summary:?}");
        // A minute of patience, a step for each device before, and what is left at 10 Mbit/s.
        assert!(summary.finished_seconds.values().all(|seconds| *seconds < 130.0), "{summary:?}");
    }
}

// proves X1
#[test]
fn five_devices_in_the_same_second_fetch_everything_once() {
    for seed in 0..10 {
        let summary = played(&Scenario::demonstration(seed));
        assert!(summary.amplification.values().all(|amplification| *amplification == 1.0), "{summary:?}");
        // 4.65 MB need 3.7 s at 10 Mbit/s; the rest is installing one after the other, and being told.
        assert!(summary.finished_seconds.values().all(|seconds| *seconds < 14.0), "{summary:?}");
    }
}

// proves X1: in a large branch most fetchers are nobody's neighbour, and their pieces come by way of others.
#[test]
fn branches_of_more_devices_than_one_has_neighbours_fetch_everything_once() {
    for (seed, devices, wan_down, size) in [
        (1, 40, 40_000_000, 64 * MEBIBYTE),
        // A piece takes longer than a holder counts as within reach without news.
        (3, 40, 1_000_000, 4 * MEBIBYTE),
    ] {
        let mut branch = Scenario::office(seed, devices).patch(size, Proof::Detached, Standing::Approved);
        branch.sites[0].links.wan_down = wan_down;
        let summary = played(&branch);
        assert!(summary.amplification.values().all(|amplification| *amplification == 1.0), "{summary:?}");
    }
}

// proves X1: one device dies at a random moment, and the WAN carries less than a tenth more than the size.
#[test]
fn one_device_dies_at_a_random_moment() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let when = match seed % 2 {
            0 => When::At(random.between(1, 5) as usize, random.milliseconds(0, 22_000)),
            _ => When::FetchingWanPiece(random.between(0, 23), random.milliseconds(0, 800)),
        };
        let death = random.choose(&[Death::Killed, Death::PowerCut]);
        let office = Scenario::office(seed, 5).patch(24 * MEBIBYTE, Proof::Detached, Standing::Approved);
        let summary = played(&office.goes_down(when, death));
        assert!(summary.amplification_overall < 1.1, "{summary:?}");
    }
}

#[test]
fn a_device_that_is_killed_in_every_second_still_finishes() {
    let mut office = Scenario::office(5, 3).patch(5 * MEBIBYTE, Proof::Index, Standing::Approved);
    // More would fall on the installer, which is given up after five interruptions: another rule, with its own test.
    for second in 0..9 {
        let when = When::At(1, Duration::from_secs(second));
        office = office.restarts(when, Death::Killed, Duration::from_millis(100));
    }
    let summary = played(&office);
    assert_eq!(summary.finished_seconds.len(), 3);
}
