//! What a simulation plays: the branch office, its links, the patches, and what goes wrong; drawn from a seed.

use crate::random::Random;
use crate::vendor::{Proof, Shape, Standing};
use std::time::Duration;

const MEBIBYTE: u64 = 1 << 20;

/// The links of the branch office.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// From headquarters to the branch, in bits per second.
    pub wan_down: u64,
    /// From the branch to headquarters, in bits per second.
    pub wan_up: u64,
    /// Round trip over the WAN without queues.
    pub round_trip: Duration,
    /// Inside the branch, in bits per second.
    pub lan: u64,
    /// Most that a message is late beyond that.
    pub jitter: Duration,
}

/// How a device goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// `kill -9`: the operating system closes the connections at once.
    Killed,
    /// The power fails: nobody hears of it, connections just fall silent.
    PowerCut,
}

/// When a device goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// This device, so long after the start.
    At(usize, Duration),
    /// Whichever device receives the WAN piece of this number, a moment after its first byte.
    FetchingWanPiece(u64, Duration),
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A device goes down, and perhaps comes back.
    Dies {
        /// When, and which.
        when: When,
        /// How.
        death: Death,
        /// After which time it starts again.
        returns: Option<Duration>,
    },
    /// A device sends one wrong piece to a neighbour.
    Corrupts {
        /// Which device; the first piece that it serves is wrong.
        device: usize,
    },
}

/// One play.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Everything that is random follows from it.
    pub seed: u64,
    /// Devices of the branch.
    pub devices: usize,
    /// All devices start within this time.
    pub start_within: Duration,
    /// Links.
    pub links: Links,
    /// Patches.
    pub patches: Vec<Shape>,
    /// When the administrator approves the patches that are to be approved later.
    pub approves_after: Option<Duration>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Within this time every living device must have everything.
    pub patience: Duration,
}

impl Scenario {
    /// The scenario of a seed, with `devices` of them.
    pub fn drawn(seed: u64, devices: usize) -> Scenario {
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
        let patience = Duration::from_secs(1_200);
        let approves_after = random.chance(40).then(|| random.milliseconds(0, 15_000));
        if approves_after.is_some() {
            let size = random.choose(&[700, 200_000, 2_100_000, 5 * MEBIBYTE]);
            let proof = draw_proof(&mut random);
            let standing = Standing::ApprovedLater;
            patches.push(Shape { size, proof, standing, requires_previous: false });
        }
        Scenario { seed, devices, start_within, links, patches, approves_after, faults, patience }
    }

    /// A branch behind 10/2 Mbit/s and 40 ms whose devices start in the same second, without patches and faults.
    pub fn office(seed: u64, devices: usize) -> Scenario {
        Scenario {
            seed,
            devices,
            start_within: Duration::from_secs(1),
            links: Links {
                wan_down: 10_000_000,
                wan_up: 2_000_000,
                round_trip: Duration::from_millis(40),
                lan: 1_000_000_000,
                jitter: Duration::from_millis(1),
            },
            patches: Vec::new(),
            approves_after: None,
            faults: Vec::new(),
            patience: Duration::from_secs(1_200),
        }
    }

    /// The vendor publishes one more patch.
    #[must_use]
    pub fn patch(mut self, size: u64, proof: Proof, standing: Standing) -> Scenario {
        self.patches.push(Shape { size, proof, standing, requires_previous: false });
        self
    }

    /// A device goes down for good.
    #[must_use]
    pub fn goes_down(mut self, when: When, death: Death) -> Scenario {
        self.faults.push(Fault::Dies { when, death, returns: None });
        self
    }

    /// A device goes down and comes back after `returns`.
    #[must_use]
    pub fn restarts(mut self, when: When, death: Death, returns: Duration) -> Scenario {
        self.faults.push(Fault::Dies { when, death, returns: Some(returns) });
        self
    }

    /// The shape of `patchmesh demo`: three artifacts of 2, 0.2 and 2 MB that a signed index of 0.4 MB proves, one
    /// unapproved and one unsigned patch, for five devices.
    pub fn demonstration(seed: u64) -> Scenario {
        Scenario::office(seed, 5)
            .patch(2_000_000, Proof::Index, Standing::Approved)
            .patch(200_000, Proof::Index, Standing::Approved)
            .patch(2_000_000, Proof::Index, Standing::Approved)
            .patch(300_000, Proof::Index, Standing::Unapproved)
            .patch(100_000, Proof::Unsigned, Standing::Approved)
    }

    /// The words that play this scenario again.
    pub fn replay(&self) -> String {
        format!("simulate --seed {} --devices {}", self.seed, self.devices)
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
