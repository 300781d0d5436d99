//! The headquarters of the demo and the WAN before it: made and started as an administrator would.

use super::children::Children;
use super::content::{Content, Upgrades};
use super::upgrade::VENDOR;
use super::wait::until;
use super::wan::Counters;
use crate::command::catalogue::{Keys, add, import_file};
use crate::command::fleet::{Addresses, Headquarters as Place, Made, init, publish};
use crate::command::patch::approve_patches;
use crate::command::policy::apply_policy;
use crate::exit::{Exit, Failure};
use crate::fleet_files::FleetFiles;
use anyhow::Context as _;
use node::control::Client;
use node::deploy::root;
use node::fleet_directory::Choices;
use node::import::file::Signing;
use protocol::identifier::{HostName, PatchId, SiteName, VendorName};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The branch office of the demo.
pub const SITE: &str = "utrecht";

/// How long a process may take to come up, on a machine that has much else to do.
pub const START: Duration = Duration::from_secs(60);

/// Ports for headquarters: above the well-known ones, and below those that Linux gives to outgoing connections (from
/// 32,768 on), so that no connection of anybody takes one of them before headquarters does.
const PORTS: Range<u16> = 12_000..32_000;

/// The policy of the demo: every device deploys what is approved.
const POLICY: &str = "\
[[policy]]
name = \"everyone\"
enabled = true
deploy = true
configurations = [\"install-approved\"]
assign = { everyone = true }

[[configuration]]
name = \"install-approved\"
deploy = true
";

/// A running headquarters.
#[derive(Debug)]
pub struct Headquarters {
    /// Its control socket.
    pub socket: PathBuf,
    /// Where API and dashboard are.
    pub http: SocketAddr,
    /// The emulator's counters.
    pub counters: PathBuf,
    fleet: PathBuf,
    place: Place,
}

/// What the administrator decided about the patches.
#[derive(Debug)]
pub struct Decided {
    /// Approved and signed.
    pub approved: Vec<PatchId>,
    /// Signed, and not approved.
    pub unapproved: PatchId,
    /// Not signed by its vendor.
    pub unsigned: PatchId,
}

/// Megabits per second of the WAN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// From headquarters to the branch.
    pub down: f64,
    /// From the branch to headquarters.
    pub up: f64,
}

impl Headquarters {
    /// Makes the fleet and starts the WAN and headquarters behind it.
    pub fn start(
        directory: &Path,
        content: &Content,
        speed: Speed,
        children: &Children,
    ) -> Result<(Headquarters, Made), Failure> {
        let [members, enrolment, http] = free_addresses()?;
        let counters = directory.join("wan.json");
        let wan = [
            ("--members", members.to_string()),
            ("--enrolment", enrolment.to_string()),
            ("--down", speed.down.to_string()),
            ("--up", speed.up.to_string()),
            ("--counters", counters.display().to_string()),
        ];
        let arguments = wan.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let arguments = std::iter::once("demo-wan".to_owned()).chain(arguments);
        children.start("the WAN emulator", arguments, &directory.join("wan.log"))?;
        let (wan_members, wan_enrolment) = until("the WAN emulator listens", START, children, || {
            let counters = Counters::read(&counters).ok();
            Ok(counters.and_then(|counters| Some((counters.members?, counters.enrolment?))))
        })?;
        let addresses = Addresses {
            members: multiaddress(wan_members),
            enrolment: multiaddress(wan_enrolment),
            listen: multiaddress(members),
            enrolment_listen: multiaddress(enrolment),
            http,
        };
        let (fleet, place) = (directory.join("fleet"), directory.join("headquarters"));
        let site = SiteName::new(SITE).map_err(|error| Failure::of(Exit::Failed, &error))?;
        let host = HostName::new("headquarters").map_err(|error| Failure::of(Exit::Failed, &error))?;
        let made = init(&fleet, &place, &addresses, host, &[site], &content.system)?;
        scan_an_empty_root(&place, &made.configuration, content)?;
        let socket = place.join("control.socket");
        start_node("headquarters", &made.configuration, &directory.join("headquarters.log"), children)?;
        let answering = until("headquarters answers", START, children, || Ok(Client::connect(&socket).ok()))?;
        drop(answering);
        let place = Place { repository: place.join("repository"), control_socket: socket.clone() };
        Ok((Headquarters { socket, http, counters, fleet, place }, made))
    }

    /// Imports everything, approves some, and publishes.
    pub fn publish(&self, content: Content) -> Result<Decided, Failure> {
        let files = FleetFiles::open(&self.fleet)?;
        let policy = self.fleet.with_extension("policy.toml");
        std::fs::write(&policy, POLICY).with_context(|| format!("cannot write {}", policy.display()))?;
        apply_policy(&files, &policy)?;
        let mut patches = import(&files, &content)?;
        let acme = vendor()?;
        let unsigned = import_file(&files, content.unsigned, acme, Signing::Unsigned, None, &content.system)?;
        let unsigned = first(unsigned.patches)?;
        // The smallest is left without approval: what is refused should not be most of the work.
        let manifests = files.manifests()?;
        patches.sort_by_key(|patch| manifests.get(patch).map_or(0, |of_patch| of_patch[0].size()));
        let unapproved = patches.remove(0);
        approve_patches(&files, &patches)?;
        let published = publish(&files, &self.place, &Choices::default())?;
        if !published.served {
            return Err(Failure::new(Exit::Failed, "headquarters does not run any more"));
        }
        Ok(Decided { approved: patches, unapproved, unsigned })
    }
}

/// Headquarters is a device too. It looks at an empty root directory, so that this machine is no part of the demo.
fn scan_an_empty_root(place: &Path, configuration: &Path, content: &Content) -> Result<(), Failure> {
    let root = place.join("root");
    std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    root::prepare(&root, &content.os_release).map_err(|error| Failure::of(Exit::Failed, &error))?;
    let read = std::fs::read_to_string(configuration);
    let text = read.with_context(|| format!("cannot read {}", configuration.display()))?;
    let text = text.replacen("[node]\n", "[node]\nroot = \"root\"\n", 1);
    let written = std::fs::write(configuration, text);
    Ok(written.with_context(|| format!("cannot write {}", configuration.display()))?)
}

fn import(files: &FleetFiles, content: &Content) -> Result<Vec<PatchId>, Failure> {
    match &content.upgrades {
        Upgrades::Real { imported, .. } => {
            Ok(add(files, imported.clone(), &content.system, Keys::Trust)?.patches)
        }
        Upgrades::Built { built, .. } => {
            let mut patches = Vec::new();
            for (path, signature) in built.newer.iter().zip(&built.signatures) {
                let signing = Signing::Detached(signature.clone());
                let key = Some(built.key);
                let report = import_file(files, path.clone(), vendor()?, signing, key, &content.system)?;
                patches.extend(report.patches);
            }
            Ok(patches)
        }
    }
}

fn vendor() -> Result<VendorName, Failure> {
    VendorName::new(VENDOR).map_err(|error| Failure::of(Exit::Failed, &error))
}

fn first(patches: Vec<PatchId>) -> Result<PatchId, Failure> {
    patches.into_iter().next().ok_or_else(|| Failure::new(Exit::Failed, "the import brought no patch"))
}

/// Starts a node with a configuration file.
pub fn start_node(name: &str, configuration: &Path, log: &Path, children: &Children) -> Result<(), Failure> {
    let arguments = ["node".as_ref(), "run".as_ref(), "--end-with-parent".as_ref(), "--config".as_ref()];
    let arguments = arguments.into_iter().chain([configuration.as_os_str()]);
    children.start(name, arguments, log)
}

/// Addresses on loopback that are free and differ. The search begins anywhere, so that two demos that start together
/// seldom try the same ones.
fn free_addresses() -> Result<[SocketAddr; 3], Failure> {
    let anywhere = getrandom::u32().context("no randomness from the operating system")?;
    let begin = anywhere as usize % PORTS.len();
    let ports = PORTS.cycle().skip(begin).take(PORTS.len());
    // Bound until all are found.
    let mut listeners = ports.filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    let mut next =
        || listeners.next().context("no free port from 12000 to 31999 on 127.0.0.1; close something");
    let found = [next()?, next()?, next()?];
    let [members, enrolment, http] = found.each_ref().map(TcpListener::local_addr);
    let read = "the system does not say where it listens";
    Ok([members.context(read)?, enrolment.context(read)?, http.context(read)?])
}

/// The address as libp2p writes it.
pub fn multiaddress(address: SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", address.ip(), address.port())
}
