//! One death after the other, at moments that have nothing to do with what is going on.

use super::all_is_well;
use anyhow::{Context as _, Result, ensure};
use patchmesh_tests::fleet::Fleet;
use patchmesh_tests::wait::{SOON, until};
use patchmesh_tests::wan::Speed;

/// Deaths.
const ROUNDS: usize = 16;

const PATCHES: usize = 4;

/// Kills one process after the other while the fleet works, the next whenever the WAN has carried some more, and says
/// how many.
fn storm(fleet: &mut Fleet, seed: u64) -> Result<usize> {
    let mut state = seed;
    // A linear congruential generator (Knuth, MMIX): any scatter will do.
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..ROUNDS {
        let next = fleet.headquarters.wan.down_bytes()? + 20_000 + random(600_000);
        let mut seen = Vec::new();
        let moved = until("something moves, or all is done", SOON, || {
            let installed = fleet.devices.iter_mut().map(|device| {
                let deployments = device.status()?.deployments;
                let states = deployments
                    .iter()
                    .map(|one| format!("{} {} {}: {:?}", device.host, one.patch, one.state, one.reason));
                seen.extend(states);
                Ok(deployments.iter().filter(|one| one.state == "installed").count())
            });
            let installed: Vec<usize> = installed.collect::<Result<_>>()?;
            let carried = fleet.headquarters.wan.down_bytes()?;
            seen.drain(..seen.len().saturating_sub(fleet.devices.len() * PATCHES));
            let done = installed.iter().all(|installed| *installed == PATCHES);
            Ok((done || carried >= next).then_some(!done))
        });
        let moved = moved.with_context(|| seen.join("\n"))?;
        if !moved {
            return Ok(round);
        }
        let count = fleet.devices.len();
        match usize::try_from(random(count as u64 + 1))? {
            victim if victim < count => {
                fleet.devices[victim].node.kill()?;
                fleet.devices[victim].start()?;
            }
            _ => {
                fleet.headquarters.node.kill()?;
                fleet.headquarters.start()?;
            }
        }
    }
    Ok(ROUNDS)
}

fn weather(seed: u64) -> Result<()> {
    // So slow that a busy machine brings the dead back long before everything is fetched.
    let mut fleet = Fleet::found(Speed { down: 8.0, up: 6.0 })?;
    let sizes: [(&str, usize); PATCHES] =
        [("large", 6 << 20), ("small", 30_000), ("middle", 1_500_000), ("empty", 0)];
    let upgrades = sizes.map(|(name, bytes)| fleet.vendor.upgrade(name, bytes));
    let upgrades = upgrades.into_iter().collect::<Result<Vec<_>>>()?;
    fleet.add_devices(3, &upgrades.iter().collect::<Vec<_>>())?;
    fleet.start_devices()?;
    fleet.publish(&upgrades.iter().collect::<Vec<_>>())?;
    let deaths = storm(&mut fleet, seed)?;
    ensure!(deaths >= 6, "only {deaths} died before all was done");
    all_is_well(&mut fleet, &upgrades.iter().collect::<Vec<_>>())?;
    for device in &mut fleet.devices {
        let status = device.status()?;
        let attempts: Vec<u32> = status.deployments.iter().map(|one| one.attempts).collect();
        ensure!(attempts.len() == PATCHES && attempts.iter().all(|attempts| *attempts <= 1), "{status:?}");
    }
    Ok(())
}

// proves X1, X2, X8, N18: whatever dies, everything ends well
#[test]
fn everything_ends_well_after_a_storm() -> Result<()> {
    weather(1)
}

// proves X1, X2, X8, N18
#[test]
fn everything_ends_well_after_another_storm() -> Result<()> {
    weather(2)
}
