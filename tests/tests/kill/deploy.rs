//! Deaths while dpkg is at work.

use super::{all_is_well, installing};
use anyhow::{Result, ensure};
use patchmesh_tests::fleet::Fleet;
use patchmesh_tests::package::Upgrade;

/// It ended well, an interrupted start is no attempt of its own (N15), and nothing is left behind.
fn mended(fleet: &mut Fleet, upgrade: &Upgrade) -> Result<()> {
    all_is_well(fleet, &[upgrade])?;
    let deployment = fleet.devices[0].deployment(&upgrade.patch)?;
    ensure!(deployment.as_ref().is_some_and(|one| one.attempts <= 1), "{deployment:?}");
    ensure!(fleet.devices[0].installer().running().is_empty(), "a dpkg was left behind");
    Ok(())
}

// proves S11, N18
#[test]
fn dpkg_is_killed_in_the_middle() -> Result<()> {
    let (mut fleet, upgrade) = installing()?;
    let installer = fleet.devices[0].installer();
    let starts = installer.starts("gated", "2.0");
    installer.kill()?;
    fleet.devices[0].dpkg_starts_again(&upgrade, starts)?;
    fleet.devices[0].open_gate()?;
    mended(&mut fleet, &upgrade)
}

// proves S11, N18
#[test]
fn the_node_is_killed_while_dpkg_is_at_work() -> Result<()> {
    let (mut fleet, upgrade) = installing()?;
    let starts = fleet.devices[0].installer().starts("gated", "2.0");
    fleet.devices[0].node.kill()?;
    fleet.devices[0].start()?;
    fleet.devices[0].dpkg_starts_again(&upgrade, starts)?;
    fleet.devices[0].open_gate()?;
    mended(&mut fleet, &upgrade)
}

// proves S11: what is installed is not installed again
#[test]
fn the_node_is_killed_right_after_dpkg() -> Result<()> {
    let (mut fleet, upgrade) = installing()?;
    fleet.devices[0].open_gate()?;
    fleet.devices[0].node.kill()?;
    fleet.devices[0].start()?;
    mended(&mut fleet, &upgrade)
}
