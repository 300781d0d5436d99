//! A branch whose seed goes away: its devices read the rest at the mirror that policy names.

use super::flip;
use super::nginx::Mirror;
use anyhow::{Context as _, Result, ensure};
use patchmesh_tests::fleet::Fleet;
use patchmesh_tests::http;
use patchmesh_tests::package::Upgrade;
use patchmesh_tests::wait::{SOON, until};
use patchmesh_tests::wan::Speed;
use protocol::reason::Reason;
use std::fs;
use std::time::Duration;

/// The patience before a mirror is read, and what a busy machine takes on top.
const WITHOUT_SEED: Duration = Duration::from_secs(240);

/// Takes ten seconds to get from the seed.
const SIZE: usize = 20 << 20;
const SLOW: Speed = Speed { down: 16.0, up: 8.0 };

/// A branch that has a part of an upgrade when its seed goes away, and a mirror that has the whole.
fn cut_short(devices: usize) -> Result<(Fleet, Mirror, Upgrade)> {
    let mut fleet = Fleet::found(SLOW)?;
    let mirror = Mirror::start(fleet.path(), "")?;
    fleet.set_policy(&format!("mirrors = [\"acme={}/pool\"]", mirror.url()))?;
    let upgrade = fleet.vendor.upgrade("large", SIZE)?;
    fleet.add_devices(devices, &[&upgrade])?;
    let name = upgrade.newer.file_name().context("a file has a name")?;
    fs::create_dir_all(mirror.file("pool"))?;
    fs::copy(&upgrade.newer, mirror.file("pool").join(name))?;
    for device in &fleet.devices {
        device.keep_its_port()?;
    }
    fleet.publish(&[&upgrade])?;
    fleet.start_devices()?;
    fleet.are_neighbours()?;
    for device in &mut fleet.devices {
        device.is_fetching(&upgrade, 3)?;
    }
    fleet.headquarters.node.kill()?;
    Ok((fleet, mirror, upgrade))
}

/// The bytes of the file that were asked for, in order of their first.
fn ranges(mirror: &Mirror) -> Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    for line in mirror.requests()? {
        let range = line.split_once("bytes=").and_then(|(_, range)| range.trim().split_once('-'));
        let (first, last) = range.with_context(|| format!("no range: {line}"))?;
        ranges.push((first.parse()?, last.parse()?));
    }
    ranges.sort_unstable();
    Ok(ranges)
}

// proves X1, X4: nobody hands out pieces, and yet each crosses the WAN once; also where all start again besides
#[test]
fn a_branch_whose_seed_goes_away_reads_the_rest_at_the_mirror_once() -> Result<()> {
    let (mut fleet, mirror, upgrade) = cut_short(3)?;
    fleet.devices.iter_mut().try_for_each(|device| device.node.stop())?;
    fleet.start_devices()?;
    fleet.are_neighbours()?;
    for device in &mut fleet.devices {
        device.reaches(&upgrade, "installed", WITHOUT_SEED)?;
        device.installed_once(&upgrade)?;
    }
    let ranges = ranges(&mirror)?;
    let read: u64 = ranges.iter().map(|(first, last)| last - first + 1).sum();
    let (mut over_the_wan, mut mirrored) = (0, 0);
    for device in &mut fleet.devices {
        let transfer = device.transfer(&upgrade)?.context("it was fetched")?;
        over_the_wan += transfer.wan_bytes;
        mirrored += transfer.wan_reasons.get(&Reason::Mirror).copied().unwrap_or(0);
    }
    ensure!(mirrored > 0 && mirrored <= read, "{mirrored} bytes have the reason, {read} were read");
    // What two each may have begun to read before they heard of the third.
    let most = upgrade.size + (4 << 20);
    ensure!(over_the_wan <= most, "{over_the_wan} bytes came over the WAN, {most} would do: {ranges:?}");
    fleet.headquarters.start()?;
    fleet.is_all_told()
}

// proves X2, X7: what a mirror sends is checked piece by piece, and its owner hears of it
#[test]
fn a_mirror_with_other_bytes_is_found_out_and_nothing_of_it_is_installed() -> Result<()> {
    let (mut fleet, mirror, upgrade) = cut_short(1)?;
    let name = upgrade.newer.file_name().context("a file has a name")?;
    let file = mirror.file("pool").join(name);
    for piece in 0..upgrade.size >> 20 {
        flip(&file, piece << 20)?;
    }
    until("the mirror is read", WITHOUT_SEED, || Ok((!mirror.requests()?.is_empty()).then_some(())))?;
    until("a wrong piece is refused", SOON, || {
        let log = fs::read_to_string(fleet.path().join("branch-1/node.log"))?;
        Ok(log.contains("piece refused").then_some(()))
    })?;
    let deployment = fleet.devices[0].deployment(&upgrade.patch)?;
    ensure!(deployment.is_none_or(|deployment| deployment.state != "installed"), "with wrong bytes");
    fleet.headquarters.start()?;
    fleet.all_install(&upgrade)?;
    let address = fleet.headquarters.http;
    until("the incident is told", SOON, || {
        Ok(http::get(address, "/")?.contains("origin-corrupt").then_some(()))
    })
}
