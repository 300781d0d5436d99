//! What can be looked at without the node: its files, this machine's clock, ports, disk and package database.

use super::Check;
use crate::command::token::now;
use crate::exit::{Exit, Failure};
use node::configuration::Configuration;
use node::disk;
use node::membership::{Files, IDENTITY_FILE, Joined, MembershipError};
use node::net;
use node::origin;
use node::scan::{self, SYSTEM_PATH};
use node::units::bytes;
use protocol::inventory::PackageState;
use protocol::time::WallTime;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

/// From so many days before the end of a certificate on, somebody is told.
const CERTIFICATE_WARNING_DAYS: u32 = 30;
/// Less free space than this, and the next patch may not find room.
const SPACE_WARNING: u64 = 2 << 30;
/// Less than this, and the store itself stops.
const SPACE_PROBLEM: u64 = 100 << 20;

/// All checks of this machine; `running` says whether a node answers, which then holds the ports.
pub(super) fn checks(configuration: &Configuration, running: bool) -> Vec<Check> {
    let node = &configuration.node;
    let mut checks = vec![Check::ok(
        "configuration",
        format!("good; the node's directory is {}", node.directory.display()),
    )];
    let joined = Files::new(&node.directory).load();
    match now() {
        Ok(now) => checks.push(membership(&joined, &node.directory, now)),
        Err(failure) => checks.push(Check::of("clock", &failure)),
    }
    checks.push(permissions(&node.directory));
    checks.push(socket(&node.control_socket));
    checks.push(space(configuration));
    if !running {
        checks.push(ports(configuration));
    }
    checks.push(packages(&node.root));
    checks.extend(origins(configuration));
    if node.root == Path::new("/") && !node.allow_deploy_on_host {
        checks.push(Check::warning(
            "deploy",
            "this node only scans and shares: it may not install on the running system",
            "set node.allow-deploy-on-host = true where it should install",
        ));
    }
    checks
}

fn membership(joined: &Result<Joined, MembershipError>, directory: &Path, now: WallTime) -> Check {
    let about = "membership";
    let member = match joined {
        Ok(joined) => &joined.member,
        Err(error) if is_denied(error) => {
            let says = format!("this user may not read {}", directory.display());
            return Check::warning(about, says, "run `patchmesh doctor` as root, or as the node's user");
        }
        Err(error) => return Check::of(about, &Failure::of(Exit::Failed, error)),
    };
    let who = format!("{} ({}) of site {}", member.host, member.device.short(), member.site);
    let again =
        format!("stop the node, remove {}, and run `patchmesh join KEY` with a new key", directory.display());
    if now < member.issued {
        let says = format!("the clock says {now}, before the certificate was issued ({})", member.issued);
        return Check::problem("clock", says, "set the clock and switch time synchronisation on");
    }
    if member.expires <= now {
        let says = format!("{who}; its certificate expired at {}, and no peer talks to it", member.expires);
        return Check::problem(about, says, format!("check the clock ({now}); if it is right, {again}"));
    }
    if member.expires <= now.plus_days(CERTIFICATE_WARNING_DAYS) {
        return Check::warning(about, format!("{who}; its certificate expires at {}", member.expires), again);
    }
    Check::ok(about, format!("{who}, until {}", member.expires))
}

fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// The node's directory holds its key: nobody else may write there, or read the key.
fn permissions(directory: &Path) -> Check {
    let about = "permissions";
    let shown = directory.display();
    let metadata = match std::fs::metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::problem(
                about,
                format!("{shown} does not exist"),
                "run `patchmesh join KEY` first",
            );
        }
        Err(error) => {
            let failure = Failure::of(Exit::Failed, &error);
            let says = format!("{shown} cannot be looked at: {}", failure.message);
            return Check::problem(
                about,
                says,
                failure.hint.unwrap_or_else(|| "check its file system".to_owned()),
            );
        }
    };
    if metadata.permissions().mode() & 0o022 != 0 {
        let says = format!("{shown} can be written by other users");
        return Check::problem(about, says, format!("run `chmod go-w {shown}`"));
    }
    let key = directory.join(IDENTITY_FILE);
    match std::fs::metadata(&key) {
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            let says = format!("{} can be read by other users", key.display());
            Check::problem(
                about,
                says,
                format!("run `chmod 600 {}`, and let the device join anew", key.display()),
            )
        }
        Ok(found) if found.uid() != metadata.uid() => {
            let says = format!("{} belongs to another user than {shown}", key.display());
            Check::problem(about, says, format!("run `chown --reference {shown} {}`", key.display()))
        }
        _ => Check::ok(about, format!("{shown} is the node's alone")),
    }
}

fn socket(path: &Path) -> Check {
    let about = "control socket";
    let shown = path.display();
    let directory = path.parent().unwrap_or(Path::new("/"));
    if let Ok(metadata) = std::fs::metadata(directory)
        && metadata.mode() & 0o022 != 0
        && metadata.mode() & 0o1000 == 0
    {
        let says = format!("the directory of {shown} can be written by other users");
        return Check::problem(about, says, format!("run `chmod go-w {}`", directory.display()));
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.mode() & 0o007 != 0 => {
            let says = format!("every user may use {shown}");
            Check::problem(about, says, format!("run `chmod 660 {shown}`"))
        }
        Ok(_) => Check::ok(about, format!("{shown} is for root, the node's user and its group")),
        Err(_) => Check::ok(about, format!("{shown} will be made when the node starts")),
    }
}

fn space(configuration: &Configuration) -> Check {
    let about = "disk";
    let directory = configuration.node.directory.as_path();
    let place = directory.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"));
    let free = match disk::free_bytes(place) {
        Ok(free) => free,
        Err(error) => return Check::of(about, &Failure::of(Exit::Failed, &error)),
    };
    let kept = kept_bytes(&directory.join("content"));
    // As `status` says it: a seed keeps what was published.
    let most = match configuration.seed {
        Some(_) => String::new(),
        None => format!("; beyond {} what is not needed here goes", bytes(configuration.node.keep_bytes)),
    };
    let says = format!("{} free in {}; content takes {}{most}", bytes(free), place.display(), bytes(kept));
    match free {
        0..SPACE_PROBLEM => Check::problem(about, says, "make room on that disk, then restart the node"),
        SPACE_PROBLEM..SPACE_WARNING => Check::warning(about, says, "make room on that disk"),
        _ => Check::ok(about, says),
    }
}

/// Bytes that the content files take on the disk; they are sparse.
fn kept_bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

/// Whether the bucket and the mirrors of a seed answer.
fn origins(configuration: &Configuration) -> Vec<Check> {
    let about = "storage";
    if configuration.seed.is_none() {
        return Vec::new();
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Check::of(about, &Failure::of(Exit::Failed, &error))],
    };
    let check = |origin::Probe { name, outcome }: origin::Probe| match outcome {
        origin::Outcome::Works => Check::ok(about, format!("{name} answers")),
        origin::Outcome::Unclear(why) => {
            let remedy = "look into the log of the node, which says when it cannot read there";
            Check::warning(about, format!("it is not known whether {name} can be read: {why}"), remedy)
        }
        origin::Outcome::Fails(error) => Check::of(about, &Failure::of(Exit::Failed, &*error)),
    };
    runtime.block_on(origin::probe(configuration)).into_iter().map(check).collect()
}

/// Whether the node would get its ports.
fn ports(configuration: &Configuration) -> Check {
    let about = "ports";
    let listen = net::listened(&configuration.node.listen);
    let node = listen.filter_map(|address| in_setting("node.listen", &address.to_string()));
    let registrar = configuration.registrar.iter().flat_map(|registrar| &registrar.listen);
    let registrar = registrar.filter_map(|address| in_setting("registrar.listen", &address.to_string()));
    let http = configuration.aggregator.iter().map(|aggregator| aggregator.http);
    let http = http.map(|http| ("aggregator.http", http.ip(), http.port()));
    let mut free = Vec::new();
    for (setting, host, port) in node.chain(registrar).chain(http) {
        match TcpListener::bind((host, port)) {
            Ok(_) => free.push(port.to_string()),
            Err(error) => {
                let says = format!("port {port} of {host} cannot be had: {error}");
                let remedy = match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        "stop the program that uses it (`ss -ltnp` names it), or choose another port"
                            .to_owned()
                    }
                    io::ErrorKind::AddrNotAvailable => {
                        format!("name an address of this machine in {setting}")
                    }
                    _ => "choose a port above 1023, or run the node as root".to_owned(),
                };
                return Check::problem(about, says, remedy);
            }
        }
    }
    Check::ok(about, format!("{} free for the node", free.join(", ")))
}

fn in_setting(setting: &'static str, address: &str) -> Option<(&'static str, IpAddr, u16)> {
    host_and_port(address).map(|(host, port)| (setting, host, port))
}

fn host_and_port(address: &str) -> Option<(IpAddr, u16)> {
    let mut parts = address.split('/').skip(2);
    let host = parts.next()?.parse().ok()?;
    Some((host, parts.nth(1)?.parse().ok()?))
}

/// The package manager: there, not interrupted, its database readable.
fn packages(root: &Path) -> Check {
    let about = "dpkg";
    if !SYSTEM_PATH.split(':').any(|place| Path::new(place).join("dpkg").exists()) {
        let says = format!("there is no dpkg in {SYSTEM_PATH}");
        return Check::problem(about, says, "this version patches Debian systems; run it on one");
    }
    let inventory = match now().map(|now| scan::take(root, now)) {
        Ok(Ok(inventory)) => inventory,
        Ok(Err(error)) => return Check::of(about, &Failure::of(Exit::Failed, &error)),
        Err(failure) => return Check::of("clock", &failure),
    };
    let broken = inventory.packages.values().filter(|package| package.state == PackageState::Broken);
    let broken: Vec<&str> = broken.map(|package| package.name.as_str()).take(5).collect();
    let shown = root.display();
    if let Some(holder) = scan::database::lock_holder(root) {
        let says = format!("process {holder} works on the packages of {shown} right now");
        return Check::ok(about, says);
    }
    if broken.is_empty() {
        return Check::ok(about, format!("{} records in {shown}, none half-way", inventory.packages.len()));
    }
    let says = format!("an installation in {shown} was interrupted: {}", broken.join(", "));
    // dpkg cannot configure what it has to unpack anew.
    let remedy = format!(
        "run `dpkg --root={shown} --configure -a`; a package that is broken after that has to be installed again, by \
         `patchmesh deploy PATCH` or `dpkg --root={shown} -i FILE`"
    );
    Check::problem(about, says, remedy)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::command::tests::{NOW, status};
    use node::key_file;
    use protocol::membership::Member;
    use protocol::signature::SigningKey;

    fn joined(issued: WallTime, expires: WallTime) -> Result<Joined, MembershipError> {
        let status = status();
        let identity = SigningKey::from_seed(&[1; 32]);
        let member = Member {
            fleet: status.fleet,
            device: identity.device(),
            site: status.site,
            class: status.class,
            system: status.system,
            host: status.host,
            issued,
            expires,
        };
        let certificate = protocol::membership::Certificate::issue(&member, &identity);
        let services = protocol::fleet::Services::default();
        Ok(Joined { identity, member, certificate, root: Vec::new(), services })
    }

    #[test]
    fn a_certificate_is_told_apart_by_its_time() {
        let check = |issued, expires| membership(&joined(issued, expires), Path::new("state"), NOW);
        assert_eq!(check(NOW, NOW.plus_days(300)).verdict, Verdict::Ok);
        assert_eq!(check(NOW, NOW.plus_days(10)).verdict, Verdict::Warning);
        let expired = check(WallTime::from_unix_seconds(0), NOW);
        assert!(expired.verdict == Verdict::Problem && expired.remedy.expect("remedy").contains("join"));
        assert_eq!(check(NOW.plus_days(2), NOW.plus_days(300)).about, "clock");
        let missing = Err(MembershipError::NotJoined("state".into()));
        let missing = membership(&missing, Path::new("state"), NOW);
        assert!(
            missing.verdict == Verdict::Problem && missing.remedy.expect("remedy").contains("patchmesh join")
        );
    }

    #[test]
    fn an_address_of_another_machine_is_named_with_its_setting() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("patchmesh.toml");
        for key in ["enrolment.key", "watermark.key"] {
            key_file::create(&directory.path().join(key)).expect("key");
        }
        let remedy = |text: &str| {
            std::fs::write(&file, text).expect("write");
            let configuration = Configuration::load(Some(&file), [], &[]).expect("loads");
            (ports(&configuration).remedy, space(&configuration).says)
        };
        let (node, space) = remedy("[node]\nlisten = [\"/ip4/192.0.2.1/tcp/7700\"]\nkeep-gibibytes = 3\n");
        assert_eq!(node.expect("remedy"), "name an address of this machine in node.listen");
        assert!(space.contains("; beyond 3.22 GB what is not needed here goes"), "{space}");
        let mine = "[node]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n";
        let (registrar, _) = remedy(&format!(
            "{mine}[registrar]\nkey = \"enrolment.key\"\nlisten = [\"/ip4/192.0.2.1/tcp/7701\"]\n"
        ));
        assert_eq!(registrar.expect("remedy"), "name an address of this machine in registrar.listen");
        let (http, _) = remedy(&format!(
            "{mine}[aggregator]\nwatermark-key = \"watermark.key\"\nhttp = \"192.0.2.1:7780\"\n"
        ));
        assert_eq!(http.expect("remedy"), "name an address of this machine in aggregator.http");
    }

    #[test]
    fn a_taken_port_and_an_open_directory_are_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("bound").port();
        assert_eq!(host_and_port(&format!("/ip4/127.0.0.1/tcp/{port}")), Some(([127, 0, 0, 1].into(), port)));
        let directory = tempfile::tempdir().expect("directory");
        assert_eq!(permissions(directory.path()).verdict, Verdict::Ok);
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
        let open = permissions(directory.path());
        assert!(
            open.verdict == Verdict::Problem && open.remedy.expect("remedy").starts_with("run `chmod go-w")
        );
    }
}
