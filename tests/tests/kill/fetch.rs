//! Deaths while content is on its way.

use super::{LARGE, SLOW, all_is_well, fetched_once};
use anyhow::{Result, ensure};
use patchmesh_tests::fleet::Fleet;
use patchmesh_tests::package::Upgrade;
use patchmesh_tests::wait::{SOON, until};

/// A branch that begins to fetch a large upgrade, with so many fetchers over the WAN at a time.
fn fetching(devices: usize, wan_fetchers: u8) -> Result<(Fleet, Upgrade)> {
    let mut fleet = Fleet::found(SLOW)?;
    fleet.set_wan_fetchers(wan_fetchers)?;
    let upgrade = fleet.vendor.upgrade("large", LARGE)?;
    fleet.add_devices(devices, &[&upgrade])?;
    fleet.publish(&[&upgrade])?;
    fleet.start_devices()?;
    Ok((fleet, upgrade))
}

/// The device that fetches over the WAN, once it has got `count` pieces.
fn wan_fetcher(fleet: &mut Fleet, upgrade: &Upgrade, count: u64) -> Result<usize> {
    until("somebody fetches over the WAN", SOON, || {
        for (number, device) in fleet.devices.iter_mut().enumerate() {
            let transfer = device.transfer(upgrade)?;
            if transfer.is_some_and(|transfer| transfer.wan_bytes >= count << 20) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    })
}

// proves X1, X2: what was verified is never fetched again
#[test]
fn a_node_that_is_killed_in_the_middle_of_a_fetch_goes_on_where_it_was() -> Result<()> {
    let (mut fleet, upgrade) = fetching(1, 4)?;
    let mut held = 0;
    for _ in 0..3 {
        held = fleet.devices[0].is_fetching(&upgrade, held + 2)?;
        fleet.devices[0].node.kill()?;
        fleet.devices[0].start()?;
        let resumed = until("the node knows what it wants", SOON, || fleet.devices[0].transfer(&upgrade))?;
        ensure!(resumed.pieces_held >= held, "{held} pieces were verified, {} are left", resumed.pieces_held);
    }
    all_is_well(&mut fleet, &[&upgrade])?;
    fetched_once(&mut fleet, &upgrade, 3)
}

// proves X1
#[test]
fn a_wan_fetcher_that_is_killed_is_replaced_and_comes_back() -> Result<()> {
    let (mut fleet, upgrade) = fetching(3, 1)?;
    let fetcher = wan_fetcher(&mut fleet, &upgrade, 3)?;
    let held = fleet.devices[fetcher].is_fetching(&upgrade, 3)?;
    fleet.devices[fetcher].node.kill()?;
    // The others take over while it is away.
    let other = (fetcher + 1) % fleet.devices.len();
    let pieces = fleet.devices[other].pieces(&upgrade)?.max(held);
    fleet.devices[other].is_fetching(&upgrade, pieces + 1)?;
    fleet.devices[fetcher].start()?;
    all_is_well(&mut fleet, &[&upgrade])?;
    fetched_once(&mut fleet, &upgrade, 1)
}

#[test]
fn a_neighbour_that_is_killed_costs_the_wan_nothing() -> Result<()> {
    let (mut fleet, upgrade) = fetching(3, 1)?;
    let fetcher = wan_fetcher(&mut fleet, &upgrade, 2)?;
    let neighbour = (fetcher + 1) % fleet.devices.len();
    fleet.devices[neighbour].is_fetching(&upgrade, 2)?;
    fleet.devices[neighbour].node.kill()?;
    fleet.devices[neighbour].start()?;
    all_is_well(&mut fleet, &[&upgrade])?;
    fetched_once(&mut fleet, &upgrade, 0)
}

#[test]
fn headquarters_is_killed_in_the_middle_of_a_fetch() -> Result<()> {
    let (mut fleet, upgrade) = fetching(2, 4)?;
    for pieces in [3, 8] {
        wan_fetcher(&mut fleet, &upgrade, pieces)?;
        fleet.headquarters.node.kill()?;
        fleet.headquarters.start()?;
    }
    all_is_well(&mut fleet, &[&upgrade])?;
    fetched_once(&mut fleet, &upgrade, 2)
}

// proves X1: the power of a whole branch fails
#[test]
fn a_whole_branch_is_killed_in_the_middle_of_a_fetch() -> Result<()> {
    let (mut fleet, upgrade) = fetching(3, 4)?;
    wan_fetcher(&mut fleet, &upgrade, 4)?;
    fleet.devices.iter_mut().try_for_each(|device| device.node.kill())?;
    fleet.start_devices()?;
    all_is_well(&mut fleet, &[&upgrade])?;
    fetched_once(&mut fleet, &upgrade, 3)
}
