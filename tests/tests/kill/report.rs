//! Deaths while reports are on their way.

use super::{all_is_well, installing};
use anyhow::{Result, ensure};
use patchmesh_tests::device::Device;
use patchmesh_tests::fleet::Fleet;
use patchmesh_tests::wait::{SOON, until};
use patchmesh_tests::wan::Speed;

// proves X8, N18
#[test]
fn the_aggregator_is_killed_while_reports_arrive() -> Result<()> {
    let mut fleet = Fleet::found(Speed { down: 100.0, up: 1.0 })?;
    let upgrades = ["one", "two", "three", "four"].map(|name| fleet.vendor.gated_upgrade(name, 50_000));
    let upgrades = upgrades.into_iter().collect::<Result<Vec<_>>>()?;
    fleet.add_devices(3, &upgrades.iter().collect::<Vec<_>>())?;
    fleet.start_devices()?;
    for (round, upgrade) in upgrades.iter().enumerate() {
        fleet.devices.iter().try_for_each(Device::close_gate)?;
        fleet.publish(&[upgrade])?;
        fleet.devices.iter_mut().try_for_each(Device::stands_at_the_gate)?;
        // While the aggregator stands still, no report is acknowledged: those of the installations are on their way.
        fleet.headquarters.node.pause()?;
        fleet.devices.iter().try_for_each(Device::open_gate)?;
        let mut acknowledged = Vec::new();
        for device in &mut fleet.devices {
            device.reaches(upgrade, "installed", SOON)?;
            acknowledged.push(until("a report is on its way", SOON, || {
                let outbox = device.status()?.outbox;
                Ok((outbox.last > outbox.watermark).then_some(outbox.watermark))
            })?);
        }
        fleet.headquarters.node.resume()?;
        if round % 2 == 1 {
            // Some of them have arrived when it dies; in the other rounds it dies at the first.
            until("a report has arrived", SOON, || {
                for (device, before) in fleet.devices.iter_mut().zip(&acknowledged) {
                    if device.status()?.outbox.watermark > *before {
                        return Ok(Some(()));
                    }
                }
                Ok(None)
            })?;
        }
        fleet.headquarters.node.kill()?;
        fleet.headquarters.start()?;
    }
    all_is_well(&mut fleet, &upgrades.iter().collect::<Vec<_>>())
}

// proves X6, X8: a branch that is cut off deploys what it has, and its reports arrive later, all of them, once
#[test]
fn a_device_dies_with_reports_while_headquarters_is_away() -> Result<()> {
    let (mut fleet, upgrade) = installing()?;
    fleet.headquarters.node.kill()?;
    fleet.devices[0].open_gate()?;
    fleet.devices[0].reaches(&upgrade, "installed", SOON)?;
    let before = until("a report on the device's disk waits", SOON, || {
        let outbox = fleet.devices[0].status()?.outbox;
        Ok((outbox.last > outbox.watermark).then_some(outbox))
    })?;
    fleet.devices[0].node.kill()?;
    fleet.devices[0].start()?;
    let after = fleet.devices[0].status()?.outbox;
    ensure!(after.last >= before.last && after.watermark == before.watermark, "{before:?} became {after:?}");
    fleet.headquarters.start()?;
    all_is_well(&mut fleet, &[&upgrade])?;
    let rows = fleet.headquarters.rows("deployments", "")?;
    ensure!(rows.len() == 1 && rows[0]["state"] == "installed", "{rows:?}");
    Ok(())
}
