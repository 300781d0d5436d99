//! Whole fleets whose seeds read from a bucket or a mirror: real nodes, from publication to installation.

use super::flip;
use super::nginx::Mirror;
use super::server::Server;
use anyhow::{Context as _, Result, ensure};
use patchmesh_tests::device::Device;
use patchmesh_tests::fleet::Fleet;
use patchmesh_tests::package::Upgrade;
use patchmesh_tests::typed::free_port;
use patchmesh_tests::wait::{SOON, until};
use patchmesh_tests::wan::FAST;
use patchmesh_tests::{http, program};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Requests that were refused come again after pauses that double, up to a minute.
const AFTER_PAUSES: Duration = Duration::from_secs(180);

fn append(file: &Path, text: &str) -> Result<()> {
    Ok(fs::OpenOptions::new().append(true).open(file)?.write_all(text.as_bytes())?)
}

/// Headquarters starts again with more in its configuration.
fn reconfigure(fleet: &mut Fleet, table: &str, line: &str) -> Result<()> {
    fleet.headquarters.node.stop()?;
    let file = fleet.path().join("headquarters/patchmesh.toml");
    let text = fs::read_to_string(&file)?;
    let text = text.replacen("[seed]\n", &format!("[seed]\n{line}\n"), 1);
    fs::write(&file, text + table)?;
    fleet.headquarters.start()
}

/// A second seed at headquarters with a bucket and nothing of its own; it does not run yet.
fn second_seed(fleet: &Fleet, server: &Server, upgrade: &Upgrade) -> Result<Device> {
    let targets = fleet.path().join("fleet/targets/fleet");
    append(&targets.join("sites.toml"), "\n[[site]]\nname = \"headquarters\"\n")?;
    fleet.publish_staged()?;
    let socket = fleet.path().join("headquarters/control.socket").display().to_string();
    let token = ["token", "create", "--site", "headquarters", "--socket", &socket];
    let token: serde_json::Value = program::ask("token", token)?;
    let seed = Device::prepare(fleet.path(), "seed-2", &[upgrade])?;
    seed.join(token["activation_key"].as_str().context("no activation key")?)?;
    let (port, file) = (free_port()?, fleet.path().join("seed-2/patchmesh.toml"));
    let text = fs::read_to_string(&file)?.replace("/tcp/0", &format!("/tcp/{port}"));
    // No copy outlives its check and its use: what is served comes from the bucket.
    let tables = "\n[seed]\nkeep-gibibytes = 0\nrepository = \"../headquarters/repository\"\nkeys = \"../headquarters/keys/online\"\n";
    fs::write(&file, text + tables + &server.table())?;
    let device = node::membership::Files::new(&fleet.path().join("seed-2/state")).load()?.member.device;
    let service = format!("\n[[seed]]\ndevice = \"{device}\"\naddresses = [\"/ip4/127.0.0.1/tcp/{port}\"]\n");
    append(&targets.join("services.toml"), &service)?;
    fleet.publish_staged()?;
    Ok(seed)
}

/// The object of an upgrade in the bucket.
fn object(server: &Server, upgrade: &Upgrade) -> Result<PathBuf> {
    let root = protocol::digest::Blake3Root::of(&fs::read(&upgrade.newer)?);
    Ok(server.object(&root.to_string()))
}

/// A fleet of two seeds that share a bucket, in which an upgrade was published, and headquarters is gone.
fn two_seeds(bytes: usize) -> Result<(Fleet, Server, Device, Upgrade)> {
    let mut fleet = Fleet::found(FAST)?;
    let server = Server::start(fleet.path())?;
    reconfigure(&mut fleet, &server.table(), "")?;
    let upgrade = fleet.vendor.upgrade("tool", bytes)?;
    let second = second_seed(&fleet, &server, &upgrade)?;
    fleet.add_devices(2, &[&upgrade])?;
    fleet.publish(&[&upgrade])?;
    ensure!(fs::read(object(&server, &upgrade)?)? == fs::read(&upgrade.newer)?, "it was put into the bucket");
    fleet.headquarters.node.kill()?;
    Ok((fleet, server, second, upgrade))
}

fn doctor(fleet: &Fleet) -> Result<program::Ended> {
    let configuration = fleet.path().join("seed-2/patchmesh.toml").display().to_string();
    program::run(["doctor", "--config", &configuration])
}

// proves X1, X6
#[test]
fn a_second_seed_serves_from_the_bucket_what_headquarters_published() -> Result<()> {
    let (mut fleet, mut server, mut second, upgrade) = two_seeds(12 << 20)?;
    server.kill()?;
    second.start()?;
    let sick = doctor(&fleet)?;
    ensure!(sick.code == Some(1), "{:#}", sick.document);
    ensure!(sick.document.to_string().contains("bucket patches does not answer"), "{:#}", sick.document);
    fleet.start_devices()?;
    fleet.devices[0].reaches(&upgrade, "fetching", SOON)?;
    ensure!(fleet.devices[0].pieces(&upgrade)? == 0, "there is nowhere to have it from");
    server.start_again()?;
    for device in &mut fleet.devices {
        device.reaches(&upgrade, "installed", AFTER_PAUSES)?;
    }
    // The seed is a device too, and reads what it installs from the bucket.
    second.reaches(&upgrade, "installed", AFTER_PAUSES)?;
    let well = doctor(&fleet)?;
    ensure!(well.document.to_string().contains("bucket patches answers"), "{:#}", well.document);
    Ok(())
}

// proves X2, X7
#[test]
fn a_byte_that_was_flipped_in_the_bucket_reaches_nobody_and_is_reported() -> Result<()> {
    let (mut fleet, server, mut second, upgrade) = two_seeds(5 << 20)?;
    let object = object(&server, &upgrade)?;
    second.start()?;
    second.reaches(&upgrade, "installed", AFTER_PAUSES)?;
    let copy = object.file_name().context("an object has a name")?;
    let copy = fleet.path().join("seed-2/state/content").join(copy);
    until("the second seed keeps no copy", SOON, || Ok((!copy.exists()).then_some(())))?;
    // What was checked stays in its memory, which a byte in the bucket does not change.
    second.node.stop()?;
    flip(&object, 3 << 20)?;
    second.start()?;
    fleet.start_devices()?;
    for device in &mut fleet.devices {
        let all_but_one = u32::try_from(upgrade.size.div_ceil(1 << 20) - 1)?;
        until(&format!("{} has all but one piece", device.host), AFTER_PAUSES, || {
            Ok((device.pieces(&upgrade)? == all_but_one).then_some(()))
        })?;
    }
    fleet.headquarters.start()?;
    // Headquarters has a good copy of its own, and its aggregator hears of the bad one.
    let address = fleet.headquarters.http;
    until("the incident is told", AFTER_PAUSES, || {
        Ok(http::get(address, "/")?.contains("bucket patches").then_some(()))
    })?;
    flip(&object, 3 << 20)?;
    for device in &mut fleet.devices {
        device.reaches(&upgrade, "installed", AFTER_PAUSES)?;
    }
    Ok(())
}

#[test]
fn a_mirror_stands_in_for_content_that_nobody_handed_to_the_seed() -> Result<()> {
    let mut fleet = Fleet::found(FAST)?;
    let mirror = Mirror::start(fleet.path(), "")?;
    reconfigure(&mut fleet, "", &format!("mirrors = [\"acme={}/pool\"]", mirror.url()))?;
    let upgrade = fleet.vendor.upgrade("tool", 4 << 20)?;
    fleet.add_devices(2, &[&upgrade])?;
    fleet.stage(&[&upgrade])?;
    let content = fs::read(&upgrade.newer)?;
    let root = protocol::digest::Blake3Root::of(&content);
    fs::remove_file(fleet.path().join("fleet/content").join(root.to_string()))?;
    let name = upgrade.newer.file_name().context("a file has a name")?.to_string_lossy().into_owned();
    fs::create_dir_all(mirror.file("pool"))?;
    fs::write(mirror.file(&format!("pool/{name}")), &content)?;
    fleet.publish_staged()?;
    fleet.start_devices()?;
    fleet.all_install(&upgrade)?;
    let asked = mirror.requests()?;
    ensure!(asked.iter().any(|line| line.contains(&name) && line.contains(" 200 ")), "{asked:#?}");
    Ok(())
}
