//! One simulated machine: the process that a `kill -9` ends, and the disk that survives it.

use crate::fleet::{Fleet, HEADQUARTERS, START};
use crate::vendor::{NEW_VERSION, OLD_VERSION, Patch, system};
use protocol::bitmap::PieceSet;
use protocol::core::{Core, RestoreError, Roles, Setup};
use protocol::digest::Blake3Root;
use protocol::effect::EffectId;
use protocol::identifier::DeviceId;
use protocol::inventory::{Inventory, Package, PackageState};
use protocol::piece::{PieceIndex, PieceTree};
use protocol::time::{Moment, WallTime};
use protocol::version::DebianVersion;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What survives the death of the process.
#[derive(Debug, Default)]
pub struct Disk {
    /// Records of the core.
    pub records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Pieces by content.
    pub pieces: BTreeMap<Blake3Root, (Arc<PieceTree>, PieceSet)>,
    /// Packages with version and state.
    pub packages: BTreeMap<String, (&'static str, PackageState)>,
    /// Writes are done one after the other.
    pub busy_until: Moment,
}

impl Disk {
    /// Whether a piece is durable.
    pub fn holds(&self, root: Blake3Root, piece: PieceIndex) -> bool {
        self.pieces.get(&root).is_some_and(|(_, pieces)| pieces.contains(piece))
    }

    /// Whether no piece of a content is durable.
    pub fn holds_nothing(&self, root: Blake3Root) -> bool {
        self.pieces.get(&root).is_none_or(|(_, pieces)| pieces.is_empty())
    }

    /// Whether a content is durable as a whole.
    pub fn holds_all(&self, root: Blake3Root) -> bool {
        self.pieces.get(&root).is_some_and(|(tree, pieces)| pieces.len() == tree.pieces())
    }
}

/// Permission to read pieces that the core gave a peer.
#[derive(Debug)]
pub struct Grant {
    /// Which pieces; `None` for all that are held.
    pub pieces: Option<PieceSet>,
    /// Until when.
    pub until: Moment,
}

/// The running process.
#[derive(Debug)]
pub struct Process {
    /// The core.
    pub core: Core,
    /// Grants in force.
    pub grants: BTreeMap<(DeviceId, Blake3Root), Grant>,
    /// For when a wake-up is set.
    pub wake: Option<Moment>,
    /// The second that the core's wall clock shows.
    pub wall: WallTime,
    /// Full checks under way.
    pub checking: BTreeMap<EffectId, Blake3Root>,
    /// Contents whose full check passed.
    pub checked: BTreeSet<Blake3Root>,
    /// With whom it is connected, as far as it was told.
    pub connected: BTreeSet<DeviceId>,
}

/// A machine.
#[derive(Debug)]
pub struct Device {
    /// Counts its starts.
    pub life: u32,
    /// Its disk.
    pub disk: Disk,
    /// Its process, unless it is dead.
    pub process: Option<Process>,
    /// Whether it is switched off, so that nobody answers at its address.
    pub powered: bool,
    /// When everything that is approved was installed.
    pub finished: Option<Moment>,
    /// Whether it will not come back, or is expelled.
    pub gone: bool,
    /// The latest metadata that its core put in force.
    pub version: u64,
    /// Seconds that its wall clock is wrong.
    pub clock_off: i64,
    /// Asleep until then.
    pub asleep_until: Option<Moment>,
    /// What its monotonic clock lost in sleep.
    pub slept: Duration,
    /// Whether its disk takes no writes.
    pub disk_refuses: bool,
    /// Whether its disk loses something that it called durable when the power fails.
    pub loses_writes: bool,
}

impl Device {
    /// A machine with the old versions installed.
    pub fn new(patches: &[Patch]) -> Device {
        let installed = |patch: &Patch| (patch.package.clone(), (OLD_VERSION, PackageState::Installed));
        let packages = patches.iter().map(installed).collect();
        Device {
            life: 0,
            disk: Disk { packages, ..Disk::default() },
            process: None,
            powered: false,
            finished: None,
            gone: false,
            version: 0,
            clock_off: 0,
            asleep_until: None,
            slept: Duration::ZERO,
            disk_refuses: false,
            loses_writes: false,
        }
    }

    /// Starts the process from what the disk holds.
    ///
    /// # Errors
    /// What the core says about its records.
    pub fn start(&mut self, fleet: &Fleet, at: usize, now: Moment, seed: u64) -> Result<(), RestoreError> {
        let wall = self.wall(now);
        let headquarters = at == HEADQUARTERS;
        let setup = Setup {
            key: fleet.keys[at].clone(),
            member: fleet.members[at].clone(),
            fleet: fleet.id,
            root: fleet.root.clone(),
            services: fleet.services.clone(),
            roles: Roles { seed: headquarters, aggregator: headquarters },
            agent: "patchmesh 0.1.0".to_owned(),
            seed,
            wall,
            installs: !headquarters,
            keep_bytes: protocol::limits::KEEP_BYTES,
        };
        let records = self.disk.records.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let core = Core::restore(setup, records)?;
        self.life += 1;
        self.powered = true;
        self.process = Some(Process {
            core,
            grants: BTreeMap::new(),
            wake: None,
            wall,
            checking: BTreeMap::new(),
            checked: BTreeSet::new(),
            connected: BTreeSet::new(),
        });
        Ok(())
    }

    /// What a scan reads.
    ///
    /// # Panics
    /// Never: the two versions are well formed.
    pub fn inventory(&self, now: Moment) -> Inventory {
        let package = |(name, (version, state)): (&String, &(&'static str, PackageState))| {
            let version = DebianVersion::new(*version).expect("the constants are versions");
            let package =
                Package { name: name.clone(), architecture: "amd64".to_owned(), version, state: *state };
            ((name.clone(), "amd64".to_owned()), package)
        };
        Inventory {
            system: system(),
            packages: self.disk.packages.iter().map(package).collect(),
            taken: self.wall(now),
        }
    }

    /// What its wall clock shows.
    pub fn wall(&self, now: Moment) -> WallTime {
        let seconds = wall(now).unix_seconds();
        WallTime::from_unix_seconds(seconds.saturating_add_signed(self.clock_off))
    }

    /// What its monotonic clock shows.
    pub fn moment(&self, now: Moment) -> Moment {
        Moment::START + now.since(Moment::START).saturating_sub(self.slept)
    }

    /// Whether it sleeps.
    pub fn is_asleep(&self, now: Moment) -> bool {
        self.asleep_until.is_some_and(|until| now < until)
    }

    /// Whether the patch is installed.
    pub fn has(&self, patch: &Patch) -> bool {
        self.disk.packages.get(&patch.package) == Some(&(NEW_VERSION, PackageState::Installed))
    }
}

/// The wall clock at a moment.
pub fn wall(now: Moment) -> WallTime {
    START.plus_seconds(now.since(Moment::START).as_secs())
}

/// Seconds for people.
pub fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000.0).round() / 1_000.0
}
