//! Headquarters: seed, registrar and aggregator in one node, made by `fleet init`, behind the WAN.

use crate::http;
use crate::process::Process;
use crate::program;
use crate::typed::free_port;
use crate::wait::{SOON, until};
use crate::wan::{Speed, Wan};
use anyhow::{Context as _, Result};
use node::control::{Client, answer};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The branch office.
pub const SITE: &str = "utrecht";
/// Another one, where a test wants two.
pub const OTHER_SITE: &str = "delft";

/// A headquarters.
#[derive(Debug)]
pub struct Headquarters {
    /// Its node.
    pub node: Process,
    /// The WAN before it.
    pub wan: Wan,
    /// Its own address for members, which only the WAN may use.
    pub members: SocketAddr,
    /// Where API and dashboard are.
    pub http: SocketAddr,
    socket: PathBuf,
}

impl Headquarters {
    /// Makes the fleet in `directory`/fleet and starts its headquarters.
    ///
    /// # Errors
    /// Something does not come up.
    pub fn found(directory: &Path, speed: Speed) -> Result<Headquarters> {
        let (members, enrolment, http) = (free_address()?, free_address()?, free_address()?);
        let wan = Wan::start(directory, members, enrolment, speed)?;
        let place = directory.join("headquarters");
        let flags = [
            ("--headquarters", place.display().to_string()),
            ("--address", multiaddress(wan.members)),
            ("--enrolment-address", multiaddress(wan.enrolment)),
            ("--listen", multiaddress(members)),
            ("--enrolment-listen", multiaddress(enrolment)),
            ("--http", http.to_string()),
            ("--host", "headquarters".to_owned()),
            ("--site", SITE.to_owned()),
            ("--site", OTHER_SITE.to_owned()),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let fleet = directory.join("fleet").display().to_string();
        let command = ["fleet".to_owned(), "init".to_owned(), fleet].into_iter().chain(flags);
        let _: serde_json::Value = program::ask("fleet", command)?;
        let configuration = place.join("patchmesh.toml");
        let arguments = ["node".as_ref(), "run".as_ref(), "--config".as_ref(), configuration.as_os_str()];
        let node = Process::new("headquarters", arguments, &directory.join("headquarters.log"));
        let socket = place.join("control.socket");
        let mut headquarters = Headquarters { node, wan, members, http, socket };
        headquarters.start()?;
        Ok(headquarters)
    }

    /// Starts the node and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&mut self) -> Result<()> {
        self.node.start()?;
        until("headquarters answers", SOON, || {
            self.node.check()?;
            let answers = Client::connect(&self.socket).and_then(|mut client| client.status()).is_ok();
            Ok((answers && http::get(self.http, "/readyz").is_ok()).then_some(()))
        })
    }

    /// What its node says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<answer::Status> {
        Ok(Client::connect(&self.socket)?.status()?)
    }

    /// Starts it again with a cap on what it serves as a seed.
    ///
    /// # Errors
    /// It does not come up.
    pub fn limits_its_upload(&mut self, rate: &str) -> Result<()> {
        self.node.stop()?;
        let file = self.socket.with_file_name("patchmesh.toml");
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, text.replacen("[seed]\n", &format!("[seed]\nupload-limit = \"{rate}\"\n"), 1))?;
        self.start()
    }

    /// An activation key for `uses` devices of a site.
    ///
    /// # Errors
    /// Headquarters does not answer.
    pub fn activation_key(&self, site: &str, uses: usize) -> Result<String> {
        let (socket, uses) = (self.socket.display().to_string(), uses.to_string());
        let arguments = ["token", "create", "--site", site, "--uses", &uses, "--socket", &socket];
        let token: serde_json::Value = program::ask("token", arguments)?;
        Ok(token["activation_key"].as_str().context("no activation key")?.to_owned())
    }

    /// All rows of a listing of the aggregator; `query` begins with `?`, or is empty.
    ///
    /// # Errors
    /// The aggregator does not answer.
    pub fn rows(&self, listing: &str, query: &str) -> Result<Vec<serde_json::Value>> {
        http::rows(self.http, listing, query)
    }
}

/// An address on loopback that nobody else has.
fn free_address() -> Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, free_port()?).into())
}

fn multiaddress(address: SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", address.ip(), address.port())
}
