//! `patchmesh join`: makes this device a member of a fleet.

use super::{node::Settings, token::now};
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Printer, pairs};
use clap::Args;
use node::membership::{Files, Joined, MembershipError};
use node::net::{EnrolError, enrol, install_crypto_provider};
use node::scan::system;
use protocol::identifier::{DeviceId, FleetId, HostName, SiteName};
use protocol::membership::{ActivationKey, Class, EnrolRequest};
use protocol::time::WallTime;
use serde::Serialize;
use std::io::BufRead;
use std::path::Path;

/// Clocks that differ by more than this are told about: the aggregator's bound too.
const CLOCK_SECONDS: u64 = 300;

/// Longest activation key that is read: with many long addresses it has some thousand characters.
const KEY_BYTES: u64 = 16 << 10;

/// Make this device a member of a fleet
#[derive(Args, Debug)]
#[command(after_help = "\
The activation key comes from `patchmesh token create`; \"-\" reads it from standard input, where other users of the \
machine cannot see it.

Example:
  patchmesh join patchmesh1-mfra2yt...
  patchmesh join - < key.txt")]
pub struct Join {
    /// The activation key, or - for standard input
    key: String,
    /// Host name in the lists of the fleet; without it, that of the machine
    #[arg(long, value_name = "NAME")]
    host: Option<HostName>,
    #[command(flatten)]
    settings: Settings,
}

/// What became of the device.
#[derive(Debug, Serialize)]
pub struct Membership {
    device: DeviceId,
    fleet: FleetId,
    site: SiteName,
    class: Class,
    host: HostName,
    expires: WallTime,
}

impl Join {
    pub fn run(self, printer: Printer) -> Outcome {
        let configuration = self.settings.configuration(&[])?;
        let key = match self.key.as_str() {
            "-" => from_input(std::io::stdin().lock())?,
            _ => self.key,
        };
        let key = ActivationKey::parse(&key).map_err(|error| Failure::of(Exit::Usage, &error))?;
        let host = match self.host {
            Some(host) => host,
            None => machine_host()?,
        };
        let joined = join(&configuration.node.directory, &configuration.node.root, host, &key)?;
        let member = joined.member;
        let clock = clock_off(now()?, member.issued);
        let membership = Membership {
            device: member.device,
            fleet: member.fleet,
            site: member.site,
            class: member.class,
            host: member.host,
            expires: member.expires,
        };
        printer.data("membership", &membership, render)?;
        if let Some(clock) = clock {
            printer.message(&format!("warning: {clock}"));
        }
        printer.message("Start the node with `patchmesh node run`, and the same configuration.");
        Ok(Exit::Done)
    }
}

/// The first line of the input, which may never end.
fn from_input(input: impl BufRead) -> Result<String, Failure> {
    let mut line = Vec::new();
    let read = input.take(KEY_BYTES + 1).read_until(b'\n', &mut line);
    read.map_err(|error| Failure::of(Exit::Failed, &error))?;
    match String::from_utf8(line) {
        Ok(line) if line.len() as u64 <= KEY_BYTES => Ok(line),
        _ => Err(Failure::new(Exit::Usage, "standard input has no activation key in its first line")
            .with_hint("hand in what `patchmesh token create` prints")),
    }
}

/// Enrols the device whose node directory is `directory` and whose system lies in `root`.
pub fn join(directory: &Path, root: &Path, host: HostName, key: &ActivationKey) -> Result<Joined, Failure> {
    let files = Files::new(directory);
    files.refuse_joined().map_err(failed)?;
    let system = system::read(root).map_err(|error| Failure::of(Exit::Failed, &error))?;
    let identity = files.identity().map_err(failed)?;
    let request = EnrolRequest { secret: key.secret, host, system };
    install_crypto_provider();
    let grant = crate::process::runtime()?.block_on(enrol(&identity, key, &request)).map_err(|error| {
        let exit = match error {
            EnrolError::Refused(_) | EnrolError::OtherRegistrar { .. } => Exit::Refused,
            EnrolError::Unreachable { .. } | EnrolError::TimedOut(_) | EnrolError::TurnedAway { .. } => {
                Exit::Unreachable
            }
            _ => Exit::Failed,
        };
        Failure::of(exit, &error)
    })?;
    let now = now()?;
    let issued = grant.certificate.claims().map(|member| member.issued);
    files.keep(&grant, &identity, key.fleet, now).map_err(|error| {
        // A certificate that was made just now is refused by its time, or that of the key that signed it.
        let clock = issued.ok().and_then(|issued| clock_off(now, issued));
        let failure = failed(error);
        match clock {
            Some(clock) => failure.with_hint(clock),
            None => failure,
        }
    })
}

/// What to say when the clock of this device and the registrar's, which dates certificates, differ too much.
fn clock_off(now: WallTime, issued: WallTime) -> Option<String> {
    let (word, seconds) = match now >= issued {
        true => ("ahead of", now.seconds_since(issued)),
        false => ("behind", issued.seconds_since(now)),
    };
    (seconds > CLOCK_SECONDS).then(|| {
        format!(
            "the clock of this device says {now} and is {} minutes {word} the registrar's: set it and switch time synchronisation on",
            seconds / 60
        )
    })
}

/// An error of the membership files with its exit code.
pub fn failed(error: MembershipError) -> Failure {
    let exit = match error {
        MembershipError::JoinedAlready { .. }
        | MembershipError::OtherRoot(_)
        | MembershipError::Certificate(_) => Exit::Refused,
        _ => Exit::Failed,
    };
    Failure::of(exit, &error)
}

/// The machine's own host name, as far as it is one that lists can show.
pub fn machine_host() -> Result<HostName, Failure> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    HostName::new(name).map_err(|error| {
        Failure::of(Exit::Usage, &error).with_hint("give the device another name with --host")
    })
}

fn render(membership: &Membership) -> String {
    pairs(&[
        ("Joined fleet", membership.fleet.to_string()),
        ("Device", format!("{} ({})", membership.host, membership.device)),
        ("Site", format!("{}, {}", membership.site, membership.class)),
        ("Until", membership.expires.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::NOW;

    fn key(address: &str) -> ActivationKey {
        ActivationKey {
            fleet: FleetId::from_bytes([1; 32]),
            registrar: DeviceId::from_bytes([2; 32]),
            addresses: vec![address.to_owned()],
            secret: [3; 16],
        }
    }

    // proves N2
    #[test]
    fn a_registrar_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().expect("directory");
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("root");
        std::fs::write(root.join("etc/os-release"), "ID=debian\nVERSION_ID=\"12\"\n").expect("write");
        std::fs::create_dir_all(root.join("var/lib/dpkg")).expect("root");
        std::fs::write(root.join("var/lib/dpkg/arch"), "amd64\n").expect("write");
        std::fs::write(root.join("var/lib/dpkg/status"), "").expect("write");
        // Bound and not listening: nobody answers there, and nobody else gets the port meanwhile.
        let silent = tokio::net::TcpSocket::new_v4().expect("socket");
        silent.bind(([127, 0, 0, 1], 0).into()).expect("bind");
        let address = format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().expect("address").port());
        let host = HostName::new("desk").expect("host");
        let failure =
            join(&directory.path().join("node"), &root, host, &key(&address)).expect_err("nobody there");
        assert_eq!(failure.exit, Exit::Unreachable, "{failure:?}");
        assert!(failure.message.contains(&address), "{failure:?}");
    }

    #[test]
    fn a_membership_is_read_at_a_glance() {
        let membership = Membership {
            device: DeviceId::from_bytes([0xab; 32]),
            fleet: FleetId::from_bytes([1; 32]),
            site: SiteName::new("utrecht").expect("site"),
            class: Class::Workstation,
            host: HostName::new("desk-7").expect("host"),
            expires: NOW,
        };
        insta::assert_snapshot!(render(&membership));
    }
}
