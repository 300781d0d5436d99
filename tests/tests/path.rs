//! The whole path of a patch, as the first command of the README shows it, and what it must hold.

use anyhow::{Context as _, Result, ensure};
use patchmesh_tests::fleet::Fleet;
use patchmesh_tests::program;
use patchmesh_tests::sockets;
use patchmesh_tests::wait::{SOON, until};
use patchmesh_tests::wan::FAST;
use serde_json::Value;

fn rows<'a>(document: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    document[name].as_array().with_context(|| format!("the demo printed no {name}"))
}

// proves X1, P6, N8, N18, S11: the branch has its five devices and nothing else, and headquarters is behind the WAN
#[test]
fn the_demo_carries_real_patches_once_and_installs_them_everywhere() -> Result<()> {
    let ended = program::run(["demo", "--exit"])?;
    ensure!(ended.code == Some(0), "the demo ended with {:?}: {}", ended.code, ended.messages);
    let document = &ended.document;
    let (approved, devices) = (rows(document, "approved")?, rows(document, "devices")?);
    ensure!(approved.len() >= 2 && devices.len() == 5, "{document:#}");
    for device in devices {
        let states = device["patches"].as_object().context("states")?;
        let installed: Vec<&String> =
            states.iter().filter(|(_, state)| *state == "installed").map(|(patch, _)| patch).collect();
        ensure!(
            installed.len() == approved.len()
                && approved.iter().all(|patch| installed.iter().any(|one| patch == one.as_str())),
            "{device:#}"
        );
        ensure!(states.values().any(|state| state == "unsigned"), "{device:#}");
        ensure!(states.values().any(|state| state == "unapproved"), "{device:#}");
    }
    let artifacts = rows(document, "artifacts")?;
    ensure!(artifacts.len() == approved.len(), "{artifacts:?}");
    for artifact in artifacts {
        let amplification = artifact["wan_amplification"].as_f64().context("amplification")?;
        ensure!((1.0..=1.1).contains(&amplification), "{artifact:#}");
        ensure!(artifact["verified_devices"] == 5, "{artifact:#}");
    }
    for code in ["unsigned", "unapproved"] {
        let refused = rows(document, "refusals")?.iter().find(|refusal| refusal["code"] == code);
        ensure!(refused.is_some_and(|refusal| refusal["devices"] == 5), "{code}: {refused:?}");
    }
    let wan = &document["wan"];
    ensure!(wan["difference_percent"].as_f64().is_some_and(|percent| percent <= 5.0), "{wan:#}");
    ensure!(document["aggregator_devices"] == 5, "{document:#}");
    Ok(())
}

// proves X1: nothing goes around the WAN
#[test]
fn no_device_has_a_connection_to_headquarters_but_through_the_wan() -> Result<()> {
    let mut fleet = Fleet::found(FAST)?;
    let upgrade = fleet.vendor.upgrade("tool", 3 << 20)?;
    fleet.add_devices(5, &[&upgrade])?;
    fleet.publish(&[&upgrade])?;
    fleet.start_devices()?;
    let wan = fleet.headquarters.wan.members;
    let headquarters = fleet.headquarters.members;
    let mut through_the_wan = 0;
    let mut looks = 0;
    until("every device has installed it", SOON, || {
        looks += 1;
        let mut installed = true;
        for device in &mut fleet.devices {
            let pid = device.node.pid().context("it runs")?;
            let ends = sockets::remote_ends(pid)?;
            through_the_wan += usize::from(ends.contains(&v4(wan)?));
            ensure!(!ends.contains(&v4(headquarters)?), "{} goes around the WAN: {ends:?}", device.host);
            installed &= device.deployment(&upgrade.patch)?.is_some_and(|one| one.state == "installed");
        }
        Ok(installed.then_some(()))
    })?;
    ensure!(through_the_wan >= fleet.devices.len(), "only {through_the_wan} seen in {looks} looks");
    for device in &mut fleet.devices {
        let peers: Vec<node::control::answer::Peer> = device.ask("peers")?;
        let seeds = peers.iter().filter(|peer| peer.roles.iter().any(|role| role == "seed"));
        for address in seeds.filter_map(|seed| seed.address.clone()) {
            ensure!(
                !address.contains(&format!("/tcp/{}", headquarters.port())),
                "{address} is headquarters' own"
            );
        }
    }
    fleet.is_all_told()
}

fn v4(address: std::net::SocketAddr) -> Result<std::net::SocketAddrV4> {
    match address {
        std::net::SocketAddr::V4(address) => Ok(address),
        other => anyhow::bail!("{other} is not on the loopback of IPv4"),
    }
}
