//! What policy and configuration let pass, by real processes: fast at most so much, and in turn.

use anyhow::{Context as _, Result, ensure};
use patchmesh_tests::fleet::Fleet;
use patchmesh_tests::headquarters::OTHER_SITE;
use patchmesh_tests::package::Upgrade;
use patchmesh_tests::wait::{SOON, until};
use patchmesh_tests::wan::FAST;
use std::time::Instant;

/// Bytes that devices fetched over the WAN of an upgrade, by site.
fn fetched(fleet: &mut Fleet, upgrade: &Upgrade, devices: std::ops::Range<usize>) -> Result<u64> {
    let mut bytes = 0;
    for device in &mut fleet.devices[devices] {
        bytes += device.transfer(upgrade)?.map_or(0, |transfer| transfer.wan_bytes);
    }
    Ok(bytes)
}

// proves X3: the seed holds a whole site to the cap of its policy, whoever of it fetches
#[test]
fn a_site_gets_no_more_than_policy_says() -> Result<()> {
    let mut fleet = Fleet::found(FAST)?;
    fleet.set_caps("site-download = \"8 Mbit/s\"")?;
    let upgrade = fleet.vendor.upgrade("tool", 6 << 20)?;
    fleet.add_devices(3, &[&upgrade])?;
    fleet.start_devices()?;
    fleet.are_neighbours()?;
    let began = Instant::now();
    fleet.publish(&[&upgrade])?;
    fleet.all_install(&upgrade)?;
    let seconds = began.elapsed().as_secs_f64();
    let least = upgrade.size as f64 * 8.0 / 8e6;
    ensure!(seconds >= 0.95 * least, "{} bytes came within {seconds:.1} s", upgrade.size);
    let sites = fleet.headquarters.status()?.caps.sites;
    let cap = sites.values().next().and_then(|site| site.cap.clone());
    ensure!(cap.as_deref() == Some("8 Mbit/s"), "the seed says {sites:?}");
    fleet.is_all_told()
}

// proves X3: sites in turn, not connections, at the seed's own cap
#[test]
fn a_site_with_more_fetchers_gets_no_more() -> Result<()> {
    let mut fleet = Fleet::found(FAST)?;
    fleet.headquarters.limits_its_upload("16 Mbit/s")?;
    let upgrade = fleet.vendor.upgrade("tool", 12 << 20)?;
    fleet.add_devices(4, &[&upgrade])?;
    fleet.add_devices_at(OTHER_SITE, 1, &[&upgrade])?;
    fleet.start_devices()?;
    fleet.publish(&[&upgrade])?;
    until("both sites are in the middle", SOON, || {
        let bytes = (fetched(&mut fleet, &upgrade, 0..4)?, fetched(&mut fleet, &upgrade, 4..5)?);
        Ok((bytes.0.min(bytes.1) > 0).then_some(()))
    })?;
    let before = (fetched(&mut fleet, &upgrade, 0..4)?, fetched(&mut fleet, &upgrade, 4..5)?);
    let (many, one) = until("one of the sites has it all", SOON, || {
        let many = fetched(&mut fleet, &upgrade, 0..4)? - before.0;
        let one = fetched(&mut fleet, &upgrade, 4..5)? - before.1;
        let most = (many + before.0).max(one + before.1);
        Ok((most >= upgrade.size - (2 << 20)).then_some((many as f64, one as f64)))
    })?;
    // Pieces are counted when they are whole: four of them are on their way to the one site, and two to the other.
    let open = 4.0 * 1_048_576.0;
    ensure!((many - one).abs() <= open, "{many} bytes went to four devices, {one} to one");
    ensure!(
        fleet.headquarters.status()?.caps.upload.cap.as_deref() == Some("16 Mbit/s"),
        "status does not say so"
    );
    fleet.all_install(&upgrade)
}

// proves X3, X4: nothing but what is critical in business hours, and the device says why
#[test]
fn in_business_hours_nothing_passes_and_explain_says_so() -> Result<()> {
    let mut fleet = Fleet::found(FAST)?;
    let always = "[policy.caps.business-hours]\ndays = [\"monday\", \"tuesday\", \"wednesday\", \"thursday\", \"friday\", \"saturday\", \"sunday\"]\nfrom = \"00:00\"\nuntil = \"00:00\"\nsite-download = \"nothing\"\n";
    fleet.set_caps(always)?;
    let upgrade = fleet.vendor.upgrade("tool", 2 << 20)?;
    fleet.add_devices(1, &[&upgrade])?;
    fleet.start_devices()?;
    fleet.publish(&[&upgrade])?;
    until("the device says why it waits", SOON, || {
        let command = format!("explain {}", upgrade.patch);
        // Before the catalogue arrives it knows no such patch.
        let Ok(explanation) = fleet.devices[0].ask_words::<serde_json::Value>(&command) else {
            return Ok(None);
        };
        let chain = explanation["chain"].as_array().context("a chain")?;
        Ok(chain.iter().any(|link| link["code"] == "business-hours").then_some(()))
    })?;
    ensure!(fleet.devices[0].pieces(&upgrade)? == 0, "pieces came all the same");
    let caps = fleet.devices[0].status()?.caps;
    ensure!(caps.download.passing == "critical", "status says {caps:?}");
    // The rules change, and it comes.
    fleet.set_caps("site-download = \"100 Mbit/s\"")?;
    fleet.publish_staged()?;
    fleet.all_install(&upgrade)
}

// proves X3, X4: on a metered link a device takes nothing, from nobody, until policy says so
#[test]
fn a_device_on_a_metered_link_waits() -> Result<()> {
    let mut fleet = Fleet::found(FAST)?;
    let upgrade = fleet.vendor.upgrade("tool", 2 << 20)?;
    fleet.add_devices(2, &[&upgrade])?;
    fleet.devices[1].configure("link = \"metered\"\n")?;
    fleet.start_devices()?;
    fleet.are_neighbours()?;
    fleet.publish(&[&upgrade])?;
    fleet.devices[0].reaches(&upgrade, "installed", SOON)?;
    until("the metered device says why it waits", SOON, || {
        let command = format!("explain {}", upgrade.patch);
        // Before the catalogue arrives it knows no such patch.
        let Ok(explanation) = fleet.devices[1].ask_words::<serde_json::Value>(&command) else {
            return Ok(None);
        };
        let chain = explanation["chain"].as_array().context("a chain")?;
        Ok(chain.iter().any(|link| link["code"] == "metered-link").then_some(()))
    })?;
    ensure!(fleet.devices[1].pieces(&upgrade)? == 0, "pieces came all the same");
    fleet.set_caps("on-metered = \"all\"")?;
    fleet.publish_staged()?;
    fleet.all_install(&upgrade)
}
