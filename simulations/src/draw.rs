//! What the seed draws: small worlds above all, each with a few things that go wrong.

use crate::random::Random;
use crate::scenario::{Cut, Death, Fault, Links, Mirror, Scenario, Series, Site, When};
use crate::vendor::{Proof, Shape, Standing};
use std::collections::BTreeMap;
use std::time::Duration;

const MEBIBYTE: u64 = 1 << 20;

impl Scenario {
    /// One branch with `devices` of them; devices die, and one sends a wrong piece.
    pub fn branch(seed: u64, devices: usize) -> Scenario {
        let mut random = Random::new(seed ^ 0x5ce9_a110);
        let mut patches = draw_patches(&mut random);
        let links = Links {
            wan_down: random.choose(&[4_000_000, 10_000_000, 50_000_000]),
            wan_up: random.choose(&[1_000_000, 2_000_000, 10_000_000]),
            round_trip: Duration::from_millis(random.choose(&[2, 40, 40, 300])),
            lan: 1_000_000_000,
            jitter: Duration::from_millis(random.choose(&[0, 1, 20])),
        };
        let start_within = Duration::from_millis(random.choose(&[0, 1_000, 1_000, 20_000]));
        let faults = draw_faults(&mut random, devices);
        let approves_after = random.chance(40).then(|| random.milliseconds(0, 15_000));
        if approves_after.is_some() {
            patches.push(draw_later(&mut random, Standing::ApprovedLater));
        }
        Scenario {
            sites: vec![Site { devices, links, air: None, loss_permille: 0 }],
            start_within,
            patches,
            approves_after,
            faults,
            ..Scenario::office(seed, devices)
        }
    }

    /// The world of a seed, with all options.
    pub fn drawn(seed: u64) -> Scenario {
        let mut random = Random::new(seed ^ 0x0b5e_55ed_f1ee_7000);
        let count = random.choose(&[1, 1, 1, 2, 2, 3]);
        let sites: Vec<Site> = (0..count).map(|_| draw_site(&mut random, count)).collect();
        let devices: usize = sites.iter().map(|site| site.devices).sum();
        let mut patches = draw_patches(&mut random);
        let mut stragglers = BTreeMap::new();
        if random.chance(25) {
            let device = random.between(1, devices as u64) as usize;
            stragglers.insert(device, random.choose(&[500_000, 2_000_000, 5_000_000]));
        }
        let approves_after = random.chance(50).then(|| random.milliseconds(0, 20_000));
        let mut expels = None;
        if approves_after.is_some() {
            patches.push(draw_later(&mut random, Standing::ApprovedLater));
            if random.chance(50) {
                patches.push(draw_later(&mut random, Standing::HeldLater));
            }
            if devices > 1 && random.chance(30) {
                expels = Some(random.between(1, devices as u64) as usize);
            }
        }
        // From a sequence of its own, as in `draw_more`.
        let mut withdrawn = Random::new(seed ^ 0x77d1_da3b_21f0_0c55);
        if approves_after.is_some() && withdrawn.chance(40) {
            patches.push(draw_later(&mut withdrawn, Standing::WithdrawnLater));
        }
        let mut faults = Vec::new();
        for _ in 0..random.choose(&[0, 1, 1, 2, 2, 3]) {
            draw_fault(&mut random, &sites, devices, &mut faults);
        }
        let mut heals_after = faults.iter().map(ends).max().map(|last| last + random.milliseconds(0, 20_000));
        draw_more(seed, devices, &mut faults, &mut heals_after);
        let mirror = draw_mirror(seed, &mut faults, &mut heals_after);
        Scenario {
            series: Series::World,
            sites,
            stragglers,
            start_within: Duration::from_millis(random.choose(&[0, 1_000, 1_000, 20_000])),
            patches,
            approves_after,
            expels,
            mirror,
            faults,
            heals_after,
            // One straggler in a thin office can hold up a large patch for long.
            patience: Duration::from_secs(3_600),
            ..Scenario::office(seed, devices)
        }
    }
}

fn draw_site(random: &mut Random, sites: u64) -> Site {
    let devices = match sites {
        1 => random.choose(&[1, 2, 2, 3, 3, 4, 5, 6, 8]),
        _ => random.choose(&[1, 1, 2, 2, 3]),
    };
    let megabits = |random: &mut Random| random.choose(&[1, 2, 4, 10, 10, 50, 50, 200, 1_000]) * 1_000_000;
    let wan_down = megabits(random);
    let wan_up = if random.chance(50) { wan_down } else { (wan_down / 5).max(500_000) };
    let links = Links {
        wan_down,
        wan_up,
        round_trip: Duration::from_millis(random.choose(&[1, 5, 10, 40, 40, 150, 300])),
        lan: random.choose(&[100, 1_000, 1_000]) * 1_000_000,
        jitter: Duration::from_millis(random.choose(&[0, 1, 1, 20])),
    };
    let air = random.chance(25).then(|| random.choose(&[20, 60, 300]) * 1_000_000);
    let loss_permille = if random.chance(30) { random.choose(&[1, 10, 20, 50]) } else { 0 };
    Site { devices: devices as usize, links, air, loss_permille }
}

fn draw_later(random: &mut Random, standing: Standing) -> Shape {
    let size = random.choose(&[700, 200_000, 2_100_000, 5 * MEBIBYTE]);
    Shape { size, proof: draw_proof(random), standing, requires_previous: false }
}

/// One more thing that goes wrong.
fn draw_fault(random: &mut Random, sites: &[Site], devices: usize, faults: &mut Vec<Fault>) {
    let device = random.between(1, devices as u64) as usize;
    let site = random.between(0, sites.len() as u64 - 1) as usize;
    let after = random.milliseconds(0, 20_000);
    let lasts = random.milliseconds(500, 40_000);
    let fault = match random.between(0, 15) {
        0 | 1 => {
            let returns = random.chance(70).then_some(lasts);
            Fault::Dies { when: draw_when(random, device, after), death: draw_death(random), returns }
        }
        2 => {
            // Churn: down and up again and again.
            for round in 0..random.between(1, 2) {
                let after = after + Duration::from_secs(25) * (1 + round as u32);
                let (when, death) = (When::At(device, after), draw_death(random));
                faults.push(Fault::Dies { when, death, returns: Some(Duration::from_secs(5)) });
            }
            let returns = Some(Duration::from_secs(5));
            Fault::Dies { when: When::At(device, after), death: draw_death(random), returns }
        }
        3 => Fault::Corrupts { device },
        4 => Fault::Lies { device },
        5 | 6 => {
            Fault::Sleeps { when: draw_when(random, device, after), lasts, clock_goes_on: random.chance(50) }
        }
        7 => Fault::Cuts { cut: Cut::Wan(site), after, lasts },
        8 => Fault::Cuts { cut: Cut::Inside(site), after, lasts },
        9 => Fault::Firewalled { device },
        10 => {
            let seconds = random.choose(&[-90, 200, -3_600, 7_200, 86_400 * 2, -86_400 * 3, 86_400 * 45]);
            let after = if random.chance(50) { Duration::ZERO } else { after };
            Fault::ClockSteps { device, after, seconds }
        }
        11 => Fault::DiskRefuses { device, after, lasts },
        12 => {
            faults.push(Fault::LosesWrites { device });
            let when = When::At(device, Duration::from_secs(4) + after);
            Fault::Dies { when, death: Death::PowerCut, returns: Some(lasts) }
        }
        13 => Fault::SeedRestarts { after, lasts },
        14 => {
            let lasts = if random.chance(50) { lasts } else { Duration::from_secs(3_600 * 10) };
            Fault::Evening { after, lasts, percent: random.choose(&[30, 70, 100]) }
        }
        _ if random.chance(50) => Fault::Sideloads { device, after },
        _ => Fault::Pries { device },
    };
    faults.push(fault);
}

/// Faults from a sequence of their own: a world keeps everything else that its seed drew before there were these.
fn draw_more(seed: u64, devices: usize, faults: &mut Vec<Fault>, heals_after: &mut Option<Duration>) {
    let mut random = Random::new(seed ^ 0x1a57_e2f0_3ba1_15ed);
    let count = faults.len();
    if random.chance(12) {
        faults.push(Fault::InstallerFails { device: random.between(1, devices as u64) as usize });
    }
    if random.chance(12) {
        faults.push(Fault::Withholds { device: random.between(1, devices as u64) as usize });
    }
    if devices > 1 && random.chance(8) {
        faults.push(Fault::Hoards { device: random.between(1, devices as u64) as usize });
    }
    if let Some(last) = faults[count..].iter().map(ends).max() {
        *heals_after = Some(heals_after.unwrap_or_default().max(last + random.milliseconds(0, 20_000)));
    }
}

/// A vendor's mirror, and a seed that is away for so long that it is read.
fn draw_mirror(seed: u64, faults: &mut Vec<Fault>, heals_after: &mut Option<Duration>) -> Option<Mirror> {
    let mut random = Random::new(seed ^ 0x3a99_01d7_c0de_5eed);
    if !random.chance(12) {
        return None;
    }
    let fault = Fault::SeedRestarts {
        after: random.milliseconds(0, 12_000),
        lasts: random.milliseconds(80_000, 400_000),
    };
    *heals_after = Some(heals_after.unwrap_or_default().max(ends(&fault) + random.milliseconds(0, 20_000)));
    faults.push(fault);
    Some(random.choose(&[Mirror::Whole, Mirror::Whole, Mirror::Whole, Mirror::Wrong, Mirror::Empty]))
}

fn draw_death(random: &mut Random) -> Death {
    if random.chance(50) { Death::Killed } else { Death::PowerCut }
}

fn draw_when(random: &mut Random, device: usize, after: Duration) -> When {
    match random.chance(50) {
        true => When::FetchingWanPiece(random.between(0, 6), random.milliseconds(0, 600)),
        false => When::At(device, after),
    }
}

/// When a fault is over by itself, at the latest; those that last until all is healed count a minute.
fn ends(fault: &Fault) -> Duration {
    let minute = Duration::from_secs(60);
    match fault {
        Fault::Dies { when, returns, .. } => starts(*when) + returns.unwrap_or_default(),
        Fault::Sleeps { when, lasts, .. } => starts(*when) + *lasts,
        Fault::Cuts { after, lasts, .. }
        | Fault::DiskRefuses { after, lasts, .. }
        | Fault::SeedRestarts { after, lasts }
        | Fault::Evening { after, lasts, .. } => *after + *lasts,
        // So long that the others of its site could not wait for it.
        Fault::Hoards { .. } => minute * 7,
        Fault::ClockSteps { after, .. } | Fault::Sideloads { after, .. } => *after + minute,
        Fault::Corrupts { .. }
        | Fault::Lies { .. }
        | Fault::Firewalled { .. }
        | Fault::LosesWrites { .. }
        | Fault::InstallerFails { .. }
        | Fault::Withholds { .. }
        | Fault::Pries { .. } => minute,
    }
}

fn starts(when: When) -> Duration {
    match when {
        When::At(_, after) => after,
        When::FetchingWanPiece(..) => Duration::from_secs(30),
    }
}

/// Small sizes above all; one of many pieces in every third scenario.
fn draw_patches(random: &mut Random) -> Vec<Shape> {
    let sizes = [
        1,
        700,
        30_000,
        200_000,
        MEBIBYTE - 1,
        MEBIBYTE,
        MEBIBYTE + 1,
        2_100_000,
        3 * MEBIBYTE,
        5 * MEBIBYTE,
    ];
    let count = random.between(1, 4);
    let mut patches: Vec<Shape> = (0..count)
        .map(|number| Shape {
            size: random.choose(&sizes),
            proof: draw_proof(random),
            standing: Standing::Approved,
            requires_previous: number > 0 && random.chance(25),
        })
        .collect();
    if random.chance(35) {
        let size = random.choose(&[11, 12, 20]) * MEBIBYTE + random.choose(&[0, 1, 77_777]);
        let proof = draw_proof(random);
        patches.push(Shape { size, proof, standing: Standing::Approved, requires_previous: false });
    }
    let size = random.choose(&[700, 2_100_000]);
    let refused = |proof, standing| Shape { size, proof, standing, requires_previous: false };
    patches.push(refused(Proof::Unsigned, Standing::Approved));
    patches.push(refused(Proof::Detached, Standing::Unapproved));
    patches
}

fn draw_proof(random: &mut Random) -> Proof {
    if random.chance(40) { Proof::Index } else { Proof::Detached }
}

fn draw_faults(random: &mut Random, devices: usize) -> Vec<Fault> {
    let death = |random: &mut Random| if random.chance(70) { Death::Killed } else { Death::PowerCut };
    let returns = |random: &mut Random| {
        let back = random.milliseconds(50, 30_000);
        random.chance(60).then_some(back)
    };
    let device = |random: &mut Random| random.between(1, devices as u64) as usize;
    match random.between(0, 5) {
        0 => Vec::new(),
        1 => vec![Fault::Corrupts { device: device(random) }],
        2 | 3 => {
            let when = When::At(device(random), random.milliseconds(0, 15_000));
            vec![Fault::Dies { when, death: death(random), returns: returns(random) }]
        }
        4 => {
            let when = When::FetchingWanPiece(random.between(0, 8), random.milliseconds(0, 900));
            vec![Fault::Dies { when, death: death(random), returns: returns(random) }]
        }
        _ => {
            let one = When::At(device(random), random.milliseconds(0, 15_000));
            let other = When::FetchingWanPiece(random.between(0, 5), random.milliseconds(0, 500));
            [one, other]
                .into_iter()
                .map(|when| Fault::Dies { when, death: death(random), returns: returns(random) })
                .collect()
        }
    }
}
