//! What a simulation plays: the sites, their links, the patches, and what goes wrong.

use crate::vendor::{Proof, Shape, Standing};
use std::collections::BTreeMap;
use std::time::Duration;

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

/// A line that nothing passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// Between a site and headquarters: its WAN is down.
    Wan(usize),
    /// Between the devices of odd and of even number in a site.
    Inside(usize),
}

/// Something that goes wrong. Times count from the moment when the devices start.
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
    /// A device says that it holds everything, until all is healed.
    Lies {
        /// Which device.
        device: usize,
    },
    /// A device sleeps: nothing runs there, and whoever talks to it hears nothing.
    Sleeps {
        /// When, and which.
        when: When,
        /// How long.
        lasts: Duration,
        /// Whether its monotonic clock goes on meanwhile.
        clock_goes_on: bool,
    },
    /// A network is in two parts for a while.
    Cuts {
        /// Which.
        cut: Cut,
        /// When.
        after: Duration,
        /// How long.
        lasts: Duration,
    },
    /// Nobody can connect to a device, which can connect to others; until all is healed.
    Firewalled {
        /// Which device.
        device: usize,
    },
    /// The wall clock of a device jumps; at zero it is wrong from the start.
    ClockSteps {
        /// Which device.
        device: usize,
        /// When.
        after: Duration,
        /// How far, forwards or backwards.
        seconds: i64,
    },
    /// A disk takes no writes for a while.
    DiskRefuses {
        /// Which device.
        device: usize,
        /// When.
        after: Duration,
        /// How long.
        lasts: Duration,
    },
    /// A disk loses, when the power fails, a piece that it had said was durable.
    LosesWrites {
        /// Which device.
        device: usize,
    },
    /// Headquarters goes down and comes back.
    SeedRestarts {
        /// When.
        after: Duration,
        /// For how long it is away.
        lasts: Duration,
    },
    /// A part of all devices is switched off, and on again in the morning.
    Evening {
        /// When.
        after: Duration,
        /// How long the night is.
        lasts: Duration,
        /// How many of a hundred.
        percent: u64,
    },
    /// Somebody puts content on a device that nobody approved or signed.
    Sideloads {
        /// Which device.
        device: usize,
        /// When.
        after: Duration,
    },
    /// A device asks everybody, again and again, for what it may not have; until all is healed.
    Pries {
        /// Which device.
        device: usize,
    },
    /// The first installer on a device does not do what it should, whatever it says; a person mends that when all is healed.
    InstallerFails {
        /// Which device.
        device: usize,
    },
    /// A device gets leases and never gets the pieces, until all is healed.
    Hoards {
        /// Which device.
        device: usize,
    },
    /// Of several reports that a device sends at once the first is lost, until all is healed.
    Withholds {
        /// Which device.
        device: usize,
    },
}

/// What a vendor's mirror has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// Every file.
    Whole,
    /// Other bytes under the names of its files.
    Wrong,
    /// Nothing.
    Empty,
}

/// A branch office.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Its devices.
    pub devices: usize,
    /// Its links.
    pub links: Links,
    /// With Wi-Fi: the bits per second of the one medium that everything passes, between two devices twice.
    pub air: Option<u64>,
    /// Packets out of a thousand that the WAN loses.
    pub loss_permille: u64,
}

/// How a scenario was drawn, to be played again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// All options.
    World,
    /// One branch with so many devices, and no other faults than deaths and one wrong piece.
    Branch(usize),
}

/// One play.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Everything that is random follows from it.
    pub seed: u64,
    /// From which series it is.
    pub series: Series,
    /// The branches.
    pub sites: Vec<Site>,
    /// Devices with a thin link of their own, in bits per second.
    pub stragglers: BTreeMap<usize, u64>,
    /// All devices start within this time.
    pub start_within: Duration,
    /// Patches.
    pub patches: Vec<Shape>,
    /// When the administrator publishes again: approves what is to be approved later, and puts on hold what is to be held.
    pub approves_after: Option<Duration>,
    /// The device that this publication expels.
    pub expels: Option<usize>,
    /// The vendor's mirror that policy names, if it does.
    pub mirror: Option<Mirror>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// When everything that is wrong ends.
    pub heals_after: Option<Duration>,
    /// Within this time, after all is healed, every living device must have everything.
    pub patience: Duration,
}

impl Scenario {
    /// Devices of all branches.
    pub fn devices(&self) -> usize {
        self.sites.iter().map(|site| site.devices).sum()
    }

    /// The branch of a device; headquarters has none.
    pub fn site_of(&self, at: usize) -> Option<usize> {
        let mut last = 0;
        self.sites.iter().position(|site| {
            last += site.devices;
            at <= last && at > last - site.devices
        })
    }

    /// A branch behind 10/2 Mbit/s and 40 ms whose devices start in the same second, without patches and faults.
    pub fn office(seed: u64, devices: usize) -> Scenario {
        let links = Links {
            wan_down: 10_000_000,
            wan_up: 2_000_000,
            round_trip: Duration::from_millis(40),
            lan: 1_000_000_000,
            jitter: Duration::from_millis(1),
        };
        Scenario {
            seed,
            series: Series::Branch(devices),
            sites: vec![Site { devices, links, air: None, loss_permille: 0 }],
            stragglers: BTreeMap::new(),
            start_within: Duration::from_secs(1),
            patches: Vec::new(),
            approves_after: None,
            expels: None,
            mirror: None,
            faults: Vec::new(),
            heals_after: None,
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
        match self.series {
            Series::World => format!("simulate --seed {}", self.seed),
            Series::Branch(devices) => format!("simulate --seed {} --devices {devices}", self.seed),
        }
    }
}
