//! `kill -9` of any process at the worst moment: what was under way is resumed, nothing is installed twice or fetched
//! twice, and no report is lost.

mod fetch;
mod deploy;
mod report;
mod storm;

use anyhow::{Result, ensure};
use patchmesh_tests::fleet::Fleet;
use patchmesh_tests::package::Upgrade;
use patchmesh_tests::wan::{FAST, Speed};

const MEBIBYTE: u64 = 1 << 20;

/// A content of this size takes ten seconds over [`SLOW`]: long enough that a busy machine sees the middle of it.
const LARGE: usize = 20 << 20;

const SLOW: Speed = Speed { down: 16.0, up: 8.0 };

/// What is lost when a WAN fetcher dies: the two pieces that were on their way, and one that was not recorded yet.
const LOST_BY_A_DEATH: u64 = 3 * MEBIBYTE;

/// Metadata, reports, handshakes and frames, in all.
const OVERHEAD: u64 = MEBIBYTE;

/// A device on which dpkg is in the middle of an installation.
fn installing() -> Result<(Fleet, Upgrade)> {
    let mut fleet = Fleet::found(FAST)?;
    let upgrade = fleet.vendor.gated_upgrade("gated", 100_000)?;
    fleet.add_devices(1, &[&upgrade])?;
    fleet.devices[0].close_gate()?;
    fleet.publish(&[&upgrade])?;
    fleet.start_devices()?;
    fleet.devices[0].stands_at_the_gate()?;
    Ok((fleet, upgrade))
}

/// That the WAN carried an upgrade once, but for what `deaths` lost.
fn fetched_once(fleet: &mut Fleet, upgrade: &Upgrade, deaths: u64) -> Result<()> {
    let carried = fleet.headquarters.wan.down_bytes()?;
    let most = upgrade.size + deaths * LOST_BY_A_DEATH + OVERHEAD;
    ensure!(carried >= upgrade.size, "the WAN carried {carried} bytes of {}", upgrade.size);
    let mut by_device = Vec::new();
    for device in &mut fleet.devices {
        by_device
            .push((device.host.clone(), device.transfer(upgrade)?.map(|one| (one.wan_bytes, one.lan_bytes))));
    }
    ensure!(
        carried <= most,
        "the WAN carried {carried} bytes, {most} would do after {deaths} deaths: {by_device:?}"
    );
    Ok(())
}

/// The end of every story here: installed everywhere, once, and all of it told.
fn all_is_well(fleet: &mut Fleet, upgrades: &[&Upgrade]) -> Result<()> {
    for upgrade in upgrades {
        fleet.all_install(upgrade)?;
    }
    for device in &fleet.devices {
        upgrades.iter().try_for_each(|upgrade| device.installed_once(upgrade))?;
    }
    fleet.is_all_told()
}
