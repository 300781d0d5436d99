//! `patchmesh fleet init`: the fleet directory of the administrator, and a headquarters that serves it.

use super::Headquarters;
use crate::command::catalogue::this_system;
use crate::command::join;
use crate::command::token::now;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Printer, pairs};
use anyhow::Context as _;
use clap::Args;
use node::configuration::parse_address;
use node::disk::{self, Readers, Unfinished};
use node::fleet_directory::{FleetDirectory, FleetError, Initial, NewFleet};
use node::key_file;
use node::membership::Files;
use protocol::fleet::{Aggregator, EnrolmentKey, Service, Services, Site, Sites};
use protocol::identifier::{DeviceId, FleetId, HostName, SiteName};
use protocol::membership::{CERTIFICATE_DAYS, Certificate, Class, EnrolGrant, Member};
use protocol::signature::SigningKey;
use protocol::system::System;
use protocol::time::WallTime;
use serde::Serialize;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// File of a headquarters whose fleet directory has not got its name yet: it holds that name.
const UNFINISHED: &str = ".patchmesh-unfinished";

/// All that a new headquarters has in its directory.
const MADE: [&str; 5] = [UNFINISHED, CONFIGURATION, "keys", "repository", "state"];

/// Its configuration.
const CONFIGURATION: &str = "patchmesh.toml";

/// Make a fleet: its keys, its first metadata, and its headquarters
#[derive(Args, Debug)]
#[command(after_help = "\
The fleet directory holds the keys that decide everything: keep it offline, and keys/root-recovery.json in a safe. \
The headquarters directory goes to the machine that serves the fleet as seed, registrar and aggregator. It is the \
first member of the fleet already, so it does not join; start it with `patchmesh node run --config HEADQUARTERS/patchmesh.toml`.

Example:
  patchmesh fleet init fleet --headquarters hq --address /dns4/hq.example/tcp/7700 \\
      --enrolment-address /dns4/hq.example/tcp/7701 --site utrecht --site lyon")]
pub struct Init {
    /// The fleet directory to make
    fleet: PathBuf,
    /// The headquarters directory to make
    #[arg(long, value_name = "DIRECTORY")]
    headquarters: PathBuf,
    /// Multiaddress at which branch offices reach headquarters
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    address: String,
    /// Multiaddress at which new devices reach the registrar
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    enrolment_address: String,
    /// Multiaddress that headquarters listens on for members
    #[arg(long, value_name = "ADDRESS", value_parser = listened, default_value = "/ip4/0.0.0.0/tcp/7700")]
    listen: String,
    /// Multiaddress that headquarters listens on for new devices
    #[arg(long, value_name = "ADDRESS", value_parser = listened, default_value = "/ip4/0.0.0.0/tcp/7701")]
    enrolment_listen: String,
    /// Address of API and dashboard
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7780")]
    http: SocketAddr,
    /// Host name of headquarters; without it, that of this machine
    #[arg(long, value_name = "NAME")]
    host: Option<HostName>,
    /// A branch office; may be given several times
    #[arg(long = "site", value_name = "SITE")]
    sites: Vec<SiteName>,
}

/// As the configuration that is written reads it.
fn address(text: &str) -> Result<String, String> {
    parse_address(text, false).map(|address| address.to_string())
}

fn listened(text: &str) -> Result<String, String> {
    parse_address(text, true).map(|address| address.to_string())
}

/// Where headquarters listens, and where it is reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Where members reach it.
    pub members: String,
    /// Where new devices reach it.
    pub enrolment: String,
    /// Where it listens for members.
    pub listen: String,
    /// Where it listens for new devices.
    pub enrolment_listen: String,
    /// API and dashboard.
    pub http: SocketAddr,
}

/// What was made.
#[derive(Debug, Serialize)]
pub struct Made {
    /// The fleet.
    pub fleet: FleetId,
    /// Headquarters' device.
    pub device: DeviceId,
    /// The fleet directory.
    pub directory: PathBuf,
    /// Headquarters' configuration.
    pub configuration: PathBuf,
}

impl Init {
    pub fn run(self, printer: Printer) -> Outcome {
        let host = match self.host {
            Some(host) => host,
            None => join::machine_host()?,
        };
        let addresses = Addresses {
            members: self.address,
            enrolment: self.enrolment_address,
            listen: self.listen,
            enrolment_listen: self.enrolment_listen,
            http: self.http,
        };
        let system = this_system()?;
        let made = init(&self.fleet, &self.headquarters, &addresses, host, &self.sites, &system)?;
        printer.data("fleet", &made, render)?;
        printer.message(&format!(
            "Put {} into a safe, and start headquarters with `patchmesh node run --config {}`.",
            made.directory.join("keys/root-recovery.json").display(),
            made.configuration.display()
        ));
        Ok(Exit::Done)
    }
}

/// Makes a fleet and its headquarters, and publishes the first version.
pub fn init(
    fleet: &Path,
    headquarters: &Path,
    addresses: &Addresses,
    host: HostName,
    sites: &[SiteName],
    system: &System,
) -> Result<Made, Failure> {
    let headquarters = std::path::absolute(headquarters).context("cannot name the directory")?;
    let name = std::path::absolute(fleet).context("cannot name the directory")?;
    remove_unfinished(&headquarters, &name)?;
    if headquarters.exists() && !is_empty(&headquarters) {
        let shown = headquarters.display();
        return Err(Failure::new(Exit::Failed, format!("{shown} exists and is not empty"))
            .with_hint("choose another directory: a headquarters is never overwritten"));
    }
    let making = || format!("cannot make {}", headquarters.display());
    let new = Unfinished::beside(&headquarters, "headquarters").with_context(making)?;
    let (new_fleet, device) = begin(fleet, new.path(), addresses, host, sites, system)?;
    let (repository, control_socket) = (headquarters.join("repository"), headquarters.join("control.socket"));
    Headquarters { repository, control_socket }.write(new_fleet.fleet().directory())?;
    let mark = headquarters.join(UNFINISHED);
    disk::create(&new.path().join(UNFINISHED), name.as_os_str().as_bytes(), Readers::Owner)
        .with_context(making)?;
    new.finish(&headquarters).with_context(making)?;
    let made = new_fleet.finish().map_err(|error| {
        // Headquarters of a fleet that never was.
        let _ = std::fs::remove_dir_all(&headquarters);
        of_fleet(error)
    })?;
    disk::remove_if_there(&mark).with_context(|| format!("cannot remove {}", mark.display()))?;
    Ok(Made {
        fleet: made.fleet(),
        device,
        directory: fleet.to_owned(),
        configuration: headquarters.join(CONFIGURATION),
    })
}

/// Removes a headquarters whose fleet directory did not come to be, because the command was interrupted between the two. Where it
/// did, only the mark had stayed; and one that ever ran is never removed. Nor is anything that this call would not make, or whose
/// fleet may lie on a medium that is not here: it stays, and the directory is not empty.
fn remove_unfinished(headquarters: &Path, fleet: &Path) -> Result<(), Failure> {
    let mark = headquarters.join(UNFINISHED);
    if std::fs::read(&mark).ok().as_deref() != Some(fleet.as_os_str().as_bytes()) {
        return Ok(());
    }
    let removed = if FleetDirectory::open(fleet).is_ok() || headquarters.join("state/store").exists() {
        disk::remove_if_there(&mark)
    } else if is_missing(fleet) && has_only_what_is_made(headquarters) {
        std::fs::remove_dir_all(headquarters)
    } else {
        Ok(())
    };
    let removing = || format!("cannot remove what an interrupted command left in {}", headquarters.display());
    Ok(removed.with_context(removing)?)
}

/// Whether the directory it would be in is there, and it is not.
fn is_missing(fleet: &Path) -> bool {
    fleet.parent().is_some_and(Path::is_dir) && std::fs::symlink_metadata(fleet).is_err_and(is_not_found)
}

fn is_not_found(error: std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

fn has_only_what_is_made(headquarters: &Path) -> bool {
    let is_made = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| MADE.iter().any(|name| entry.file_name() == *name))
    };
    headquarters.join(CONFIGURATION).is_file()
        && std::fs::read_dir(headquarters).is_ok_and(|mut entries| entries.all(is_made))
}

/// Makes fleet directory and headquarters, both in places that nobody knows yet.
fn begin(
    fleet: &Path,
    headquarters: &Path,
    addresses: &Addresses,
    host: HostName,
    sites: &[SiteName],
    system: &System,
) -> Result<(NewFleet, DeviceId), Failure> {
    let now = now()?;
    let files = Files::new(&headquarters.join("state"));
    let identity = files.identity().map_err(join::failed)?;
    let enrolment = key_file::create(&headquarters.join("keys/enrolment.key")).map_err(of_key)?;
    let watermark = key_file::create(&headquarters.join("keys/watermark.key")).map_err(of_key)?;
    let services = services(identity.device(), &enrolment, &watermark, addresses);
    let sites = sites.iter().map(|name| Site { name: name.clone(), addresses: Vec::new() });
    let initial =
        Initial { services: services.clone(), sites: Sites { sites: sites.collect() }, ..Initial::default() };
    let new = NewFleet::begin(fleet, &initial, now).map_err(of_fleet)?;
    let directory = new.fleet();
    copy_keys(&directory.online_keys_directory(), &headquarters.join("keys/online"))?;
    let published = directory.publish(&headquarters.join("repository"), now);
    published.map_err(|error| Failure::of(Exit::Failed, &error))?;
    // Headquarters is the first member: nobody could enrol it before its registrar runs.
    let member = member(directory, identity.device(), host, system, now)?;
    let certificate = Certificate::issue(&member, &enrolment);
    let grant = EnrolGrant { certificate, root: directory.first_root().to_vec(), services };
    files.keep(&grant, &identity, directory.fleet(), now).map_err(join::failed)?;
    let configuration = headquarters.join(CONFIGURATION);
    let written = std::fs::write(&configuration, configuration_text(addresses));
    written.with_context(|| format!("cannot write {}", configuration.display()))?;
    Ok((new, identity.device()))
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

fn of_key(error: key_file::KeyFileError) -> Failure {
    Failure::of(Exit::Failed, &error)
}

fn of_fleet(error: FleetError) -> Failure {
    Failure::of(Exit::Failed, &error)
}

fn services(
    device: DeviceId,
    enrolment: &SigningKey,
    watermark: &SigningKey,
    addresses: &Addresses,
) -> Services {
    let reached = vec![addresses.members.clone()];
    Services {
        seeds: vec![Service { device, addresses: reached.clone() }],
        aggregators: vec![Aggregator { device, addresses: reached, watermark_key: watermark.public() }],
        enrolment_keys: vec![EnrolmentKey { public: enrolment.public(), valid_until: None }],
    }
}

fn member(
    directory: &FleetDirectory,
    device: DeviceId,
    host: HostName,
    system: &System,
    now: WallTime,
) -> Result<Member, Failure> {
    let site = SiteName::new("headquarters").map_err(|error| Failure::of(Exit::Failed, &error))?;
    Ok(Member {
        fleet: directory.fleet(),
        device,
        site,
        class: Class::Server,
        system: system.clone(),
        host,
        issued: now,
        expires: now.plus_days(CERTIFICATE_DAYS),
    })
}

/// The seed signs snapshots and timestamps by itself: it gets those two keys and no others.
fn copy_keys(from: &Path, to: &Path) -> Result<(), Failure> {
    let copy = || -> std::io::Result<()> {
        disk::make_private_directory(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            disk::replace_by_copy(&to.join(entry.file_name()), &entry.path())?;
        }
        Ok(())
    };
    Ok(copy().with_context(|| format!("cannot copy the seed's keys to {}", to.display()))?)
}

fn configuration_text(addresses: &Addresses) -> String {
    let Addresses { members, enrolment, listen, enrolment_listen, http } = addresses;
    format!(
        "\
# Headquarters: seed, registrar and aggregator in one node.
[node]
directory = \"state\"
listen = [\"{listen}\"]
external = [\"{members}\"]
control-socket = \"control.socket\"

[seed]
repository = \"repository\"
keys = \"keys/online\"

[registrar]
listen = [\"{enrolment_listen}\"]
external = [\"{enrolment}\"]
key = \"keys/enrolment.key\"

[aggregator]
http = \"{http}\"
watermark-key = \"keys/watermark.key\"
"
    )
}

fn render(made: &Made) -> String {
    pairs(&[
        ("Fleet", made.fleet.to_string()),
        ("Fleet directory", made.directory.display().to_string()),
        ("Headquarters", made.device.to_string()),
        ("Configuration", made.configuration.display().to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::status;
    use node::configuration::Configuration;
    use node::repository::Repository;

    fn addresses() -> Addresses {
        Addresses {
            members: "/dns4/hq.example/tcp/7700".to_owned(),
            enrolment: "/dns4/hq.example/tcp/7701".to_owned(),
            listen: "/ip4/127.0.0.1/tcp/7700".to_owned(),
            enrolment_listen: "/ip4/127.0.0.1/tcp/7701".to_owned(),
            http: SocketAddr::from(([127, 0, 0, 1], 7780)),
        }
    }

    #[test]
    fn a_new_headquarters_is_a_member_with_a_configuration_that_loads() {
        let directory = tempfile::tempdir().expect("directory");
        let (fleet, headquarters) = (directory.path().join("fleet"), directory.path().join("hq"));
        let host = || HostName::new("hq").expect("host");
        let utrecht = SiteName::new("utrecht").expect("site");
        let made =
            init(&fleet, &headquarters, &addresses(), host(), &[utrecht], &status().system).expect("init");
        let configuration = Configuration::load(Some(&made.configuration), [], &[]).expect("loads");
        let joined = Files::new(&configuration.node.directory).load().expect("joined");
        assert_eq!((joined.member.device, joined.member.fleet), (made.device, made.fleet));
        let seed = configuration.seed.expect("seed");
        assert_eq!(
            Repository::open(&seed.repository).expect("published").fleet().expect("fleet"),
            made.fleet
        );
        let key = key_file::read(&configuration.registrar.expect("registrar").key).expect("key");
        assert_eq!(key.public(), joined.services.enrolment_keys[0].public);
        let names: Vec<_> = std::fs::read_dir(&seed.keys).expect("keys").collect();
        assert_eq!(names.len(), 2, "snapshot and timestamp, no other key leaves the fleet directory");
        assert!(
            init(&fleet, &headquarters, &addresses(), host(), &[], &status().system).is_err(),
            "never overwritten"
        );
        let second = directory.path().join("second");
        assert!(init(&fleet, &second, &addresses(), host(), &[], &status().system).is_err());
        let left = || std::fs::read_dir(directory.path()).expect("directory").count();
        assert_eq!(left(), 2, "what failed leaves nothing behind");
        // Killed before headquarters had its name, and then between the two.
        for leftover in [".patchmesh-unfinished-headquarters-abc123", ".patchmesh-unfinished-fleet-abc123"] {
            std::fs::create_dir(directory.path().join(leftover)).expect("leftover");
        }
        let (fleet, headquarters) = (directory.path().join("next"), directory.path().join("next-hq"));
        std::fs::create_dir(&headquarters).expect("leftover");
        std::fs::write(headquarters.join(UNFINISHED), fleet.as_os_str().as_bytes()).expect("leftover");
        std::fs::write(headquarters.join(CONFIGURATION), "").expect("leftover");
        init(&fleet, &headquarters, &addresses(), host(), &[], &status().system).expect("a second attempt");
        assert_eq!(left(), 4, "what was interrupted is gone");
        assert!(!headquarters.join(UNFINISHED).exists() && headquarters.join("patchmesh.toml").exists());
        // Killed at the very end: only the mark is left, and nothing is made again.
        std::fs::write(headquarters.join(UNFINISHED), fleet.as_os_str().as_bytes()).expect("leftover");
        let again = init(&fleet, &headquarters, &addresses(), host(), &[], &status().system);
        assert!(again.is_err() && headquarters.join("patchmesh.toml").exists());
        assert!(!headquarters.join(UNFINISHED).exists());
    }

    #[test]
    fn only_what_an_interrupted_call_of_the_same_kind_left_is_removed() {
        let directory = tempfile::tempdir().expect("directory");
        let headquarters = directory.path().join("hq");
        let (fleet, away) = (directory.path().join("fleet"), directory.path().join("medium/fleet"));
        let init = |fleet: &Path| {
            let host = HostName::new("hq").expect("host");
            init(fleet, &headquarters, &addresses(), host, &[], &status().system)
        };
        let leave = |files: &[(&str, &Path)]| {
            let _ = std::fs::remove_dir_all(&headquarters);
            std::fs::create_dir(&headquarters).expect("directory");
            for (name, text) in files {
                std::fs::write(headquarters.join(name), text.as_os_str().as_bytes()).expect("file");
            }
        };
        let empty = Path::new("");
        let cases: [(&[(&str, &Path)], &Path); 5] = [
            // Somebody's note.
            (&[("unfinished", &fleet), (CONFIGURATION, empty)], &fleet),
            // Of another fleet.
            (&[(UNFINISHED, &away), (CONFIGURATION, empty)], &fleet),
            // Its fleet may be whole, on a medium that is not here.
            (&[(UNFINISHED, &away), (CONFIGURATION, empty)], &away),
            // Something else is there too.
            (&[(UNFINISHED, &fleet), (CONFIGURATION, empty), ("thesis.odt", empty)], &fleet),
            // No headquarters.
            (&[(UNFINISHED, &fleet)], &fleet),
        ];
        for (files, called) in cases {
            leave(files);
            let refused = init(called).expect_err("not empty");
            assert!(refused.message.ends_with("is not empty"), "{refused:?}");
            assert!(files.iter().all(|(name, _)| headquarters.join(name).exists()), "{files:?}");
        }
        leave(&[(UNFINISHED, &fleet), (CONFIGURATION, empty)]);
        init(&fleet).expect("made anew");
    }

    #[test]
    fn addresses_have_a_form() {
        assert!(address("/ip4/10.0.0.2/tcp/7700").is_ok());
        for bad in [
            "10.0.0.2:7700",
            "/ip4/10.0.0.2",
            "/ip4/10.0.0.2/udp/7700",
            "/ip4//tcp/1",
            "/ip4/10.0.0.300/tcp/1",
            "/ip6/10.0.0.1/tcp/1",
            "/ip4/1/tcp/99999",
            "/dns4/a\"b/tcp/1",
            "/dns4/a b/tcp/1",
        ] {
            assert!(address(bad).is_err() && listened(bad).is_err(), "{bad}");
        }
        assert!(address("/dns4/hq.example/tcp/7700").is_ok());
        assert!(listened("/ip6/::/tcp/7700").is_ok() && listened("/dns4/hq.example/tcp/7700").is_err());
    }
}
