//! What a branch does with devices that come late, and with a hold that comes in the middle.

use anyhow::{Result, ensure};
use node::control::answer;
use patchmesh_tests::fleet::Fleet;
use patchmesh_tests::package::Upgrade;
use patchmesh_tests::wait::{SOON, until};
use patchmesh_tests::wan::{FAST, Speed};
use protocol::digest::Blake3Root;
use std::time::{Duration, Instant};

/// A WAN that carried next to nothing for so long has nothing more to carry: many times what a piece takes.
const QUIET: Duration = Duration::from_secs(3);

// proves X1, N17: it runs at its next start, and the WAN does not notice
#[test]
fn a_device_that_was_off_catches_up_from_its_neighbours() -> Result<()> {
    let mut fleet = Fleet::found(FAST)?;
    let upgrade = fleet.vendor.upgrade("tool", 5 << 20)?;
    fleet.add_devices(3, &[&upgrade])?;
    fleet.start_devices()?;
    fleet.devices[2].node.stop()?;
    fleet.publish(&[&upgrade])?;
    for device in &mut fleet.devices[..2] {
        device.reaches(&upgrade, "installed", SOON)?;
    }
    let before = fleet.headquarters.wan.down_bytes()?;
    fleet.devices[2].start()?;
    fleet.all_install(&upgrade)?;
    let transfer = fleet.devices[2].transfer(&upgrade)?;
    ensure!(
        transfer.as_ref().is_some_and(|one| one.wan_bytes == 0 && one.lan_bytes >= upgrade.size),
        "{transfer:?}"
    );
    fleet.is_all_told()?;
    let carried = fleet.headquarters.wan.down_bytes()? - before;
    ensure!(carried < 500_000, "the late one cost {carried} bytes of the WAN");
    for device in &fleet.devices {
        device.installed_once(&upgrade)?;
    }
    Ok(())
}

// proves N8: share rule 3, a new hold ends running transfers
#[test]
fn a_hold_ends_transfers_that_are_under_way() -> Result<()> {
    // Half of it takes half a minute, so that the hold comes in the middle on a busy machine too.
    let mut fleet = Fleet::found(Speed { down: 4.0, up: 4.0 })?;
    let upgrade = fleet.vendor.upgrade("bad", 30 << 20)?;
    fleet.add_devices(2, &[&upgrade])?;
    fleet.publish(&[&upgrade])?;
    fleet.stage_hold(&upgrade)?;
    fleet.start_devices()?;
    for device in &mut fleet.devices {
        device.is_fetching(&upgrade, 1)?;
    }
    fleet.publish_staged()?;
    for device in &mut fleet.devices {
        device.reaches(&upgrade, "held", SOON)?;
    }
    // What was on its way ends; after that nothing moves.
    let mut quiet = (fleet.headquarters.wan.down_bytes()?, Instant::now());
    let settled = until("the WAN is quiet", SOON, || {
        let carried = fleet.headquarters.wan.down_bytes()?;
        if carried > quiet.0 + 10_000 {
            quiet = (carried, Instant::now());
        }
        Ok((quiet.1.elapsed() > QUIET).then_some(carried))
    })?;
    ensure!(settled < upgrade.size / 2, "{settled} bytes crossed the WAN in spite of the hold");
    for device in &mut fleet.devices {
        ensure!(device.pieces(&upgrade)? < 30, "{} fetched what is on hold", device.host);
        ensure!(device.installer().starts("bad", "2.0") == 0, "{} installed what is on hold", device.host);
    }
    fleet.is_all_told()
}

// proves X6: metadata that was accepted before and after a restart is all remembered, and nothing else
#[test]
fn a_device_and_headquarters_restart_between_publications() -> Result<()> {
    let mut fleet = Fleet::found(FAST)?;
    let upgrades = ["one", "two", "three"].map(|name| fleet.vendor.upgrade(name, 50_000));
    let upgrades = upgrades.into_iter().collect::<Result<Vec<_>>>()?;
    fleet.add_devices(1, &upgrades.iter().collect::<Vec<_>>())?;
    fleet.start_devices()?;
    for upgrade in &upgrades {
        fleet.publish(&[upgrade])?;
        fleet.all_install(upgrade)?;
        fleet.devices[0].node.stop()?;
        fleet.headquarters.node.stop()?;
        fleet.headquarters.start()?;
        fleet.devices[0].start()?;
    }
    fleet.is_all_told()
}

// proves X6: what one device has, the others get, although headquarters is away; their reports arrive later
#[test]
fn a_branch_that_is_cut_off_shares_what_it_has() -> Result<()> {
    let mut fleet = Fleet::found(Speed { down: 16.0, up: 8.0 })?;
    fleet.set_wan_fetchers(1)?;
    let upgrade = fleet.vendor.upgrade("tool", 5 << 20)?;
    fleet.add_devices(3, &[&upgrade])?;
    fleet.start_devices()?;
    fleet.are_neighbours()?;
    fleet.publish(&[&upgrade])?;
    until("one device has it all", SOON, || {
        let transfers = fleet.devices.iter_mut().map(|device| device.transfer(&upgrade));
        let transfers: Vec<_> = transfers.collect::<Result<_>>()?;
        let whole = transfers.iter().flatten().any(|one| one.pieces_held == one.pieces_total);
        Ok(whole.then_some(()))
    })?;
    fleet.headquarters.node.kill()?;
    fleet.all_install(&upgrade)?;
    for device in &mut fleet.devices {
        let outbox = device.status()?.outbox;
        ensure!(outbox.waiting > 0, "{} has nothing to report: {outbox:?}", device.host);
    }
    fleet.headquarters.start()?;
    fleet.is_all_told()
}

// proves X6: two devices that knew each other find each other again, with headquarters away and no multicast
#[test]
fn devices_that_knew_each_other_meet_again_without_headquarters() -> Result<()> {
    let mut fleet = Fleet::found(FAST)?;
    let upgrade = fleet.vendor.upgrade("tool", 5 << 20)?;
    fleet.add_devices(2, &[&upgrade])?;
    for device in &fleet.devices {
        device.keep_its_port()?;
    }
    fleet.start_devices()?;
    fleet.are_neighbours()?;
    fleet.devices[1].node.stop()?;
    fleet.publish(&[&upgrade])?;
    fleet.devices[0].reaches(&upgrade, "installed", SOON)?;
    fleet.devices[0].node.stop()?;
    fleet.headquarters.node.stop()?;
    for device in &mut fleet.devices {
        device.start()?;
    }
    fleet.all_install(&upgrade)?;
    let transfer = fleet.devices[1].transfer(&upgrade)?;
    ensure!(transfer.as_ref().is_some_and(|one| one.wan_bytes == 0), "{transfer:?}");
    let peers: Vec<answer::Peer> =
        fleet.devices.iter().map(|device| device.ask("peers")).collect::<Result<Vec<Vec<_>>>>()?.concat();
    let found: Vec<&str> =
        peers.iter().filter(|peer| peer.connected).map(|peer| peer.discovered.as_str()).collect();
    ensure!(found.contains(&"remembered"), "{found:?}");
    fleet.headquarters.start()?;
    fleet.is_all_told()
}

// proves N8, X2: content that rotted on the administrator's medium holds up what nobody has, and no hold on what the seed has
#[test]
fn a_hold_goes_out_although_a_file_rotted_and_a_rotten_patch_does_not() -> Result<()> {
    let mut fleet = Fleet::found(FAST)?;
    let [old, new] = ["old", "new"].map(|name| fleet.vendor.upgrade(name, 300_000));
    let (old, new) = (old?, new?);
    fleet.add_devices(1, &[&old])?;
    fleet.publish(&[&old])?;
    let rot = |upgrade: &Upgrade| -> Result<String> {
        let root = Blake3Root::of(&std::fs::read(&upgrade.newer)?).to_string();
        let path = fleet.path().join("fleet/content").join(&root);
        let mut bytes = std::fs::read(&path)?;
        // A changed byte in what the seed has whole would not even be read.
        bytes.pop();
        std::fs::write(&path, bytes)?;
        Ok(root)
    };
    let root = rot(&old)?;
    fleet.stage_hold(&old)?;
    let published = fleet.administer("published", &["fleet", "publish"])?;
    ensure!(published["served"] == true, "{published}");
    let damaged = published["damaged"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(
        damaged.len() == 1 && damaged[0].as_str().is_some_and(|path| path.ends_with(&root)),
        "{published}"
    );
    fleet.stage(&[&new])?;
    let root = rot(&new)?;
    let refused =
        fleet.administer("published", &["fleet", "publish"]).expect_err("nobody has it").to_string();
    ensure!(refused.contains(&root) && refused.contains("is damaged"), "{refused}");
    // An import writes both anew.
    fleet.stage(&[&old, &new])?;
    let published = fleet.administer("published", &["fleet", "publish"])?;
    ensure!(published["served"] == true && published["damaged"] == serde_json::json!([]), "{published}");
    Ok(())
}
