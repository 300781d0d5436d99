//! What goes wrong: devices that die or sleep, networks in two parts, wrong clocks, disks that lose or refuse.

use super::causes::Trouble;
use super::parcel::Freight;
use super::{Broken, Happening, World};
use crate::fleet::HEADQUARTERS;
use crate::scenario::{Cut, Death, Fault, Scenario, When};
use crate::vendor::{NEW_VERSION, OLD_VERSION};
use protocol::bitmap::PieceSet;
use protocol::core::{Command, Input};
use protocol::inventory::PackageState;
use protocol::piece::PieceIndex;
use std::time::Duration;

/// After this silence a connection counts as ended.
const SILENCE: Duration = Duration::from_secs(10);
/// Devices begin to start at this moment; the times of faults count from it.
const BEGINNING: Duration = Duration::from_secs(2);

/// Whether a cut lies between two devices.
pub(super) fn crosses(scenario: &Scenario, cut: Cut, one: usize, other: usize) -> bool {
    let (here, there) = (scenario.site_of(one), scenario.site_of(other));
    match cut {
        Cut::Wan(site) => (here == Some(site)) != (there == Some(site)),
        Cut::Inside(site) => here == Some(site) && here == there && one % 2 != other % 2,
    }
}

impl World<'_> {
    /// Every fault gets its moment; those that last until all is healed begin at once.
    pub(super) fn prepare_faults(&mut self) {
        for fault in self.scenario.faults.clone() {
            let after = match fault {
                Fault::Corrupts { device } => {
                    self.corrupting.insert(device);
                    continue;
                }
                Fault::Lies { device } => {
                    self.liars.insert(device);
                    continue;
                }
                Fault::Firewalled { device } => {
                    self.firewalled.insert(device);
                    continue;
                }
                Fault::InstallerFails { device } => {
                    self.failing.insert(device);
                    continue;
                }
                Fault::Withholds { device } => {
                    self.withholding.insert(device);
                    continue;
                }
                Fault::Hoards { device } => {
                    self.hoarding.insert(device);
                    continue;
                }
                Fault::LosesWrites { device } => {
                    self.devices[device].loses_writes = true;
                    continue;
                }
                Fault::ClockSteps { device, after: Duration::ZERO, seconds } => {
                    self.devices[device].clock_off = seconds;
                    self.ledger.fire("clock skew");
                    continue;
                }
                Fault::Pries { device } => {
                    self.prying.insert(device);
                    self.later(BEGINNING + Duration::from_secs(3), Happening::Pries(device));
                    continue;
                }
                Fault::Dies { when: When::At(device, after), death, returns } => {
                    self.outstanding += 1;
                    self.later(BEGINNING + after, Happening::Dies(device, death, returns));
                    continue;
                }
                Fault::Sleeps { when: When::At(device, after), lasts, clock_goes_on } => {
                    self.outstanding += 1;
                    self.later(BEGINNING + after, Happening::Sleeps(device, lasts, clock_goes_on));
                    continue;
                }
                // They wait for a piece to be fetched.
                Fault::Dies { .. } | Fault::Sleeps { .. } => continue,
                Fault::Cuts { after, .. }
                | Fault::ClockSteps { after, .. }
                | Fault::DiskRefuses { after, .. }
                | Fault::SeedRestarts { after, .. }
                | Fault::Evening { after, .. }
                | Fault::Sideloads { after, .. } => after,
            };
            self.outstanding += 1;
            self.later(BEGINNING + after, Happening::Begins(fault));
        }
        if let Some(after) = self.scenario.heals_after {
            self.outstanding += 1;
            self.later(BEGINNING + after, Happening::Heals);
        }
    }

    /// A fault begins.
    pub(super) fn begin(&mut self, fault: Fault) -> Result<(), Broken> {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.trace.note(self.now, HEADQUARTERS, format_args!("begins: {fault:?}"));
        let lasts = match fault {
            Fault::Cuts { cut, lasts, .. } => {
                let scenario = self.scenario;
                let between = |one, other| crosses(scenario, cut, one, other);
                self.cuts.insert(cut);
                self.ledger.fire(match cut {
                    Cut::Wan(_) => "partition from headquarters",
                    Cut::Inside(_) => "partition inside a site",
                });
                self.lose_transfers(between);
                self.fall_silent(between, SILENCE);
                lasts
            }
            Fault::DiskRefuses { device, lasts, .. } => {
                self.devices[device].disk_refuses = true;
                lasts
            }
            Fault::SeedRestarts { lasts, .. } => {
                self.ledger.fire("seed restart");
                self.lose_transfers(|one, other| one == HEADQUARTERS || other == HEADQUARTERS);
                self.devices[HEADQUARTERS].process = None;
                self.cut_off(HEADQUARTERS, Duration::ZERO);
                lasts
            }
            Fault::Evening { lasts, percent, .. } => return self.switch_off(lasts, percent),
            Fault::ClockSteps { device, seconds, .. } => {
                self.ledger.fire("clock step");
                self.devices[device].clock_off += seconds;
                return self.feed(device, Input::Wake);
            }
            Fault::Sideloads { device, .. } => return self.sideload(device),
            _ => return Ok(()),
        };
        self.outstanding += 1;
        self.later(lasts, Happening::Ends(fault));
        Ok(())
    }

    /// A fault ends.
    pub(super) fn end(&mut self, fault: Fault) -> Result<(), Broken> {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.trace.note(self.now, HEADQUARTERS, format_args!("ends: {fault:?}"));
        match fault {
            Fault::Cuts { cut, .. } => {
                self.cuts.remove(&cut);
                self.past.cut_ends(cut, self.now);
            }
            Fault::DiskRefuses { device, .. } => {
                self.devices[device].disk_refuses = false;
                self.past.ends(device, Trouble::Disk, self.now);
            }
            Fault::SeedRestarts { .. } if self.devices[HEADQUARTERS].process.is_none() => {
                return self.start(HEADQUARTERS);
            }
            _ => {}
        }
        Ok(())
    }

    /// Everything that is wrong ends: from now on the fleet has to come to its goal.
    pub(super) fn heal(&mut self) -> Result<(), Broken> {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.trace.note(self.now, HEADQUARTERS, format_args!("all is healed"));
        self.healed = Some(self.now);
        for cut in std::mem::take(&mut self.cuts) {
            self.past.cut_ends(cut, self.now);
        }
        for at in std::mem::take(&mut self.firewalled) {
            self.past.ends(at, Trouble::Firewalled, self.now);
        }
        self.liars.clear();
        self.corrupting.clear();
        self.prying.clear();
        self.withholding.clear();
        self.hoarding.clear();
        self.failing.clear();
        self.mend_installations()?;
        for at in 1..self.devices.len() {
            let device = &mut self.devices[at];
            device.loses_writes = false;
            if std::mem::take(&mut device.disk_refuses) {
                self.past.ends(at, Trouble::Disk, self.now);
            }
            if std::mem::take(&mut self.devices[at].clock_off) != 0 {
                self.past.ends(at, Trouble::Clock, self.now);
                self.feed(at, Input::Wake)?;
            }
        }
        Ok(())
    }

    /// What an installer leaves, and its exit code: one that fails says what it likes.
    pub(super) fn left_by_installer(
        &mut self,
        at: usize,
        package: &str,
    ) -> ((&'static str, PackageState), i32) {
        if self.healed.is_some() || !self.botched.contains(&(at, package.to_owned())) {
            return ((NEW_VERSION, PackageState::Installed), 0);
        }
        self.ledger.fire("installer fails");
        self.random.choose(&[
            ((OLD_VERSION, PackageState::Installed), 0),
            ((OLD_VERSION, PackageState::Installed), 1),
            ((NEW_VERSION, PackageState::Broken), 0),
            ((NEW_VERSION, PackageState::Broken), 1),
        ])
    }

    /// A person installs by hand what installers did not, and lets the device scan.
    fn mend_installations(&mut self) -> Result<(), Broken> {
        for (at, package) in self.botched.clone() {
            if self.installing.get(&at) == Some(&package) {
                continue;
            }
            self.devices[at].disk.packages.insert(package, (NEW_VERSION, PackageState::Installed));
            self.note_finished(at);
            self.feed(at, Input::Command(Command::Scan))?;
        }
        Ok(())
    }

    fn switch_off(&mut self, lasts: Duration, percent: u64) -> Result<(), Broken> {
        for at in 1..self.devices.len() {
            if self.devices[at].process.is_some() && self.random.chance(percent) {
                self.ledger.fire("switched off in the evening");
                self.feed(at, Input::Stopping)?;
                let morning = lasts + self.random.milliseconds(0, 5_000);
                self.outstanding += 1;
                self.later(Duration::from_millis(200), Happening::Dies(at, Death::PowerCut, Some(morning)));
            }
        }
        Ok(())
    }

    fn sideload(&mut self, at: usize) -> Result<(), Broken> {
        let patches = self.fleet.vendor.patches.iter().filter(|patch| patch.is_never_wanted());
        let Some(root) =
            patches.flat_map(|patch| &patch.manifest.artifacts).map(|file| file.content.root).next()
        else {
            return Ok(());
        };
        let Some(tree) = self.fleet.vendor.trees.get(&root).cloned() else { return Ok(()) };
        self.ledger.fire("sideload");
        self.sideloaded.insert((at, root));
        let pieces = PieceSet::full(tree.pieces());
        self.devices[at].disk.pieces.insert(root, (tree.clone(), pieces.clone()));
        self.feed(at, Input::Held { tree, pieces })
    }

    /// A device falls asleep.
    pub(super) fn sleep(&mut self, at: usize, lasts: Duration, clock_goes_on: bool) {
        let device = &self.devices[at];
        if at == HEADQUARTERS || device.process.is_none() || device.is_asleep(self.now) {
            return;
        }
        self.trace.note(self.now, at, format_args!("sleeps for {} ms", lasts.as_millis()));
        let fetches = self.parcels.values().any(|parcel| {
            parcel.to == at
                && parcel.from == HEADQUARTERS
                && matches!(parcel.freight, Freight::PieceBytes { .. })
        });
        self.ledger.fire(if fetches { "sleep in a lease" } else { "sleep" });
        if lasts > SILENCE {
            self.lose_transfers(|one, other| one == at || other == at);
            self.fall_silent(|one, other| one == at || other == at, SILENCE);
        }
        let device = &mut self.devices[at];
        device.asleep_until = Some(self.now + lasts);
        self.past.ends(at, Trouble::Away, self.now + lasts);
        if !clock_goes_on {
            device.slept += lasts;
        }
    }

    /// A device goes down. Its process is gone at once; its disk keeps what was durable.
    pub(super) fn die(&mut self, at: usize, death: Death, returns: Option<Duration>) {
        if at == HEADQUARTERS || self.devices[at].process.is_none() {
            return;
        }
        self.trace.note(self.now, at, format_args!("dies: {death:?}"));
        self.ledger.fire(match death {
            Death::Killed => "killed",
            Death::PowerCut => "power cut",
        });
        self.note_loss(at);
        if death == Death::PowerCut {
            self.lose_power(at);
        }
        self.devices[at].process = None;
        self.devices[at].asleep_until = None;
        self.devices[at].powered = death == Death::Killed;
        let after = if death == Death::Killed { Duration::ZERO } else { SILENCE };
        self.cut_off(at, after);
        if let Some(package) = self.installing.remove(&at) {
            let left = [
                (NEW_VERSION, PackageState::Broken),
                (OLD_VERSION, PackageState::Installed),
                (NEW_VERSION, PackageState::Installed),
            ];
            let state = self.random.choose(&left);
            self.devices[at].disk.packages.insert(package, state);
            self.note_finished(at);
        }
        match returns {
            Some(after) => {
                self.outstanding += 1;
                self.later(after, Happening::Returns(at));
            }
            None => self.devices[at].gone = true,
        }
    }

    /// What was being written when the power failed is there or is not, and nobody was told.
    fn lose_power(&mut self, at: usize) {
        let life = self.devices[at].life;
        let (mut records, mut pieces) = (Vec::new(), Vec::new());
        for happening in self.happenings.values() {
            match happening {
                Happening::Stored(device, of, _, batch) if (*device, *of) == (at, life) => {
                    records.push(batch.clone());
                }
                Happening::PieceStored(device, of, _, root, piece) if (*device, *of) == (at, life) => {
                    pieces.push((*root, *piece));
                }
                _ => {}
            }
        }
        // Batches reach the disk in order: a later one never without those before it.
        for batch in records {
            if self.random.chance(50) {
                self.ledger.fire("torn write");
                break;
            }
            self.write(at, batch);
        }
        for (root, piece) in pieces {
            // A torn one does not match its root when it is hashed again at the next start.
            if self.random.chance(50) {
                self.write_piece(at, root, piece);
            } else {
                self.ledger.fire("torn write");
            }
        }
        if self.devices[at].loses_writes {
            self.lose_write(at);
        }
    }

    /// The disk lied: one piece that it called durable is not there.
    fn lose_write(&mut self, at: usize) {
        let held = self.devices[at].disk.pieces.iter();
        let all: Vec<_> =
            held.flat_map(|(root, (_, pieces))| pieces.iter().map(move |piece| (*root, piece))).collect();
        if all.is_empty() {
            return;
        }
        let (root, piece): (_, PieceIndex) = self.random.choose(&all);
        self.ledger.fire("lost write");
        if let Some((_, pieces)) = self.devices[at].disk.pieces.get_mut(&root) {
            pieces.remove(piece);
        }
    }

    /// What the branch loses with a device: WAN bytes on their way to it, and pieces that nobody else there holds.
    fn note_loss(&mut self, at: usize) {
        self.ledger.deaths += 1;
        self.lose_transfers(|one, other| one == at || other == at);
        let Some(site) = self.scenario.site_of(at) else { return };
        // Pieces that nobody else who lives holds durably are lost, with the process or with the whole machine.
        for (root, piece, to) in self.ledger.fetched(site) {
            let elsewhere = (1..self.devices.len()).any(|other| {
                let device = &self.devices[other];
                other != at
                    && self.scenario.site_of(other) == Some(site)
                    && device.process.is_some()
                    && device.disk.holds(root, piece)
            });
            let here = to == at || self.devices[at].disk.holds(root, piece);
            if here && !elsewhere {
                let length = self.length(root, piece);
                self.ledger.lose_piece(site, root, piece, length);
            }
        }
    }

    /// A WAN piece began to flow to a device: perhaps that is its end.
    pub(super) fn wan_piece_started(&mut self, to: usize) {
        let number = self.wan_pieces;
        self.wan_pieces += 1;
        if self.healed.is_some() && self.scenario.heals_after.is_some() {
            return;
        }
        for fault in self.scenario.faults.clone() {
            let (piece, after, happening) = match fault {
                Fault::Dies { when: When::FetchingWanPiece(piece, after), death, returns } => {
                    (piece, after, Happening::Dies(to, death, returns))
                }
                Fault::Sleeps { when: When::FetchingWanPiece(piece, after), lasts, clock_goes_on } => {
                    (piece, after, Happening::Sleeps(to, lasts, clock_goes_on))
                }
                _ => continue,
            };
            if piece == number {
                self.ledger.fire("the WAN fetcher of the moment");
                self.outstanding += 1;
                self.later(after, happening);
            }
        }
    }
}
