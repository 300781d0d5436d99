//! What the running node says of itself, its metadata, headquarters and neighbours.

use super::Check;
use crate::command::token::now;
use node::control::{Client, ClientError, answer};
use protocol::time::WallTime;

/// How long a device that could not be reached says something of the walls around it: later it may just be switched off.
const FRESH_SECONDS: u64 = 600;
/// One device that cannot be reached may be ill itself; it takes this many to speak of a wall.
const WALLED: usize = 2;

/// What a running node answered.
pub(super) struct Known {
    status: answer::Status,
    peers: Vec<answer::Peer>,
    surroundings: answer::Surroundings,
}

/// Asks a running node for all that the checks need.
///
/// # Errors
/// It does not answer.
pub(super) fn ask(client: &mut Client) -> Result<Known, ClientError> {
    Ok(Known { status: client.status()?, peers: client.peers()?, surroundings: client.surroundings()? })
}

/// All checks of what the node knows.
pub(super) fn checks(known: &Known) -> Vec<Check> {
    let Known { status, .. } = known;
    let mut checks =
        vec![Check::ok("node", format!("version {}, since {}", status.software, status.started))];
    checks.push(match status.listening.is_empty() {
        true => Check::problem("ports", "the node listens nowhere", "set node.listen and restart the node"),
        false => Check::ok("ports", format!("listens on {}", status.listening.join(", "))),
    });
    let now = now().ok();
    checks.extend(now.map(|now| metadata(known, now)));
    checks.extend(services(known));
    checks.extend(ladder(known, now.unwrap_or_default()));
    checks.push(reports(status));
    let about = |code: &str| if code == "clock" { "clock" } else { "attention" };
    if !status.problems.iter().any(|problem| problem.reason.code == "clock") {
        checks.push(Check::ok("clock", "no aggregator has found it wrong"));
    }
    for problem in &status.problems {
        let remedy = problem.remedy.clone().unwrap_or_else(|| "look at the node's log".to_owned());
        checks.push(Check::problem(about(&problem.reason.code), problem.reason.sentence.clone(), remedy));
    }
    checks
}

fn metadata(known: &Known, now: WallTime) -> Check {
    let about = "metadata";
    let metadata = &known.status.metadata;
    let version = metadata.versions.get("timestamp").copied().unwrap_or_default();
    let Some(expires) = metadata.expires.filter(|_| version > 0) else {
        return Check::problem(
            about,
            "the node never had any signed metadata",
            "see what is said of the seed below",
        );
    };
    let days = known.surroundings.offline_days;
    let until = expires.plus_days(days);
    let says = format!("version {version}, expires {expires}");
    if now >= until {
        let says = format!(
            "{says}, and without news for {days} days it is in force no more: the node only scans and reports"
        );
        return Check::problem(
            about,
            says,
            "check the clock, then that headquarters runs and can be reached",
        );
    }
    if now >= expires {
        let says = format!("{says}; without news it stays in force until {until}");
        return Check::warning(
            about,
            says,
            "check the clock, then that headquarters runs and can be reached",
        );
    }
    let checked = metadata.checked.map_or("never".to_owned(), |at| at.to_string());
    Check::ok(about, format!("{says}; last checked {checked}"))
}

/// Seeds and aggregators: connected, or why not. Where there is one of a kind, the others may be away.
fn services(known: &Known) -> Vec<Check> {
    let Known { status, surroundings, .. } = known;
    let mut checks = Vec::new();
    for role in ["seed", "aggregator"] {
        if status.roles.iter().any(|own| own == role) {
            checks.push(Check::ok(role, "this node is one"));
            continue;
        }
        let all: Vec<_> = surroundings
            .services
            .iter()
            .filter(|service| service.roles.iter().any(|one| one == role))
            .collect();
        let connected: Vec<String> =
            all.iter().filter(|service| service.connected).map(|service| service.device.short()).collect();
        if !connected.is_empty() {
            checks.push(Check::ok(role, format!("connected to {}", connected.join(", "))));
        } else if all.is_empty() {
            let says = format!("the node knows of no {role}");
            checks.push(Check::problem(
                role,
                says,
                "fleet/services.toml has to name one; join anew if it does",
            ));
        }
        for service in all.into_iter().filter(|_| connected.is_empty()) {
            let failure = surroundings.unreached.iter().find(|entry| entry.device == service.device);
            let why = match failure {
                Some(entry) => format!("{} (last tried {})", entry.cause, entry.last),
                None => "not tried yet, or the connection just ended".to_owned(),
            };
            let says = format!("{} is not connected: {why}", service.device.short());
            let remedy = match status.problems.iter().any(|problem| problem.reason.code == "clock") {
                true => "mend the clock first, as is said of it".to_owned(),
                false => format!("check that {} can be reached from here", service.addresses.join(", ")),
            };
            // Most devices of a site get along without headquarters; one that has neighbours is not ill.
            checks.push(match status.connections.neighbours {
                0 => Check::problem(role, says, remedy),
                _ => Check::warning(role, says, remedy),
            });
        }
    }
    checks
}

/// The rungs of discovery: how many neighbours each found, and why it found none.
fn ladder(known: &Known, now: WallTime) -> Vec<Check> {
    let Known { status, peers, surroundings } = known;
    let about = "neighbours";
    if !surroundings.peer_download {
        return vec![Check::ok(about, "none wanted: policy switches peer download off for this device")];
    }
    let neighbours: Vec<&answer::Peer> = peers
        .iter()
        .filter(|peer| peer.site == status.site && !peer.roles.iter().any(|role| role == "seed"))
        .collect();
    let rungs = [
        ("mdns", "the LAN (mDNS)"),
        ("remembered", "memory"),
        ("tracker", "the seed"),
        ("referred", "other neighbours"),
        ("sites", "fleet/sites.toml"),
        ("incoming", "their own call"),
    ];
    let mut found = Vec::new();
    let mut silent = Vec::new();
    for (rung, name) in rungs {
        let count = neighbours.iter().filter(|peer| peer.discovered == rung).count();
        if count > 0 {
            found.push(format!("{count} by {name}"));
        } else if let Some(why) = silence(rung, known) {
            silent.push(format!("{name}: {why}"));
        }
    }
    let silent = silent.join("; ");
    if let Some(site) = &surroundings.roaming_at {
        let says = format!(
            "this device is on the LAN of {site} and belongs to {}: while it is away it has none",
            status.site
        );
        return vec![Check::ok(about, says)];
    }
    if let Some(check) = isolation(&neighbours, known, now) {
        return vec![check];
    }
    if neighbours.is_empty() {
        if !status.roles.is_empty() {
            return vec![Check::ok(about, "none, as is usual at headquarters")];
        }
        let says = format!("none is connected ({silent})");
        let remedy = "nothing to do where this is the site's only device; otherwise let TCP of node.listen and UDP 5353 through \
                      the firewalls of the site";
        return vec![Check::warning(about, says, remedy)];
    }
    let mut says = format!("{} connected: {}", neighbours.len(), found.join(", "));
    if !silent.is_empty() {
        says = format!("{says} ({silent})");
    }
    vec![Check::ok(about, says)]
}

/// Members of the site are there, and none of those that were tried lets itself be reached: something stands between.
fn isolation(neighbours: &[&answer::Peer], known: &Known, now: WallTime) -> Option<Check> {
    let dialled = neighbours.iter().any(|peer| peer.discovered != "incoming");
    let rungs = ["mdns", "tracker", "referred"];
    let failed: Vec<_> = (known.surroundings.unreached.iter())
        .filter(|entry| rungs.contains(&entry.discovered.as_str()))
        .filter(|entry| now.unix_seconds() < entry.last.unix_seconds() + FRESH_SECONDS)
        .collect();
    let latest = failed.iter().max_by_key(|entry| entry.last)?;
    if dialled || failed.len() < WALLED {
        return None;
    }
    let heard = failed.iter().any(|entry| entry.discovered == "mdns");
    let (seen, remedy) = match heard {
        true => (
            "heard on the LAN",
            "let TCP of node.listen (7700 unless set) through the firewalls of the devices of this site",
        ),
        false => (
            "known to the seed",
            "switch client isolation of the wireless network off, or let TCP of node.listen (7700 unless set) \
             through the firewalls between the subnets of this site",
        ),
    };
    let says = format!(
        "{} {seen}, and none of them can be reached; the last one because {}",
        failed.len(),
        latest.cause
    );
    Some(Check::warning("neighbours", says, remedy))
}

/// Why a rung of discovery found nobody who is connected; `None` where there is nothing to say. Who was heard may have called
/// first, or may not be wanted yet. A seed or an aggregator looks for nobody.
fn silence(rung: &str, known: &Known) -> Option<String> {
    let Known { status, surroundings, .. } = known;
    if status.roles.iter().any(|role| role == "seed" || role == "aggregator") {
        return None;
    }
    let failed = surroundings.unreached.iter().filter(|entry| entry.discovered == rung);
    let latest = failed.clone().max_by_key(|entry| entry.last);
    if let Some(entry) = latest {
        let count = failed.count();
        return Some(format!("{count} found and not reached, the last one because {}", entry.cause));
    }
    match rung {
        "mdns" if !surroundings.mdns => Some("switched off by node.mdns".to_owned()),
        "mdns" if surroundings.heard > 0 => Some(format!("{} heard there", surroundings.heard)),
        "mdns" => Some("nobody was heard there".to_owned()),
        "tracker" if !status.connections.seed => Some("no seed is connected".to_owned()),
        "tracker" => Some("it named nobody who was not found already".to_owned()),
        "sites" if surroundings.site_addresses.is_empty() => Some("no address for this site".to_owned()),
        _ => None,
    }
}

fn reports(status: &answer::Status) -> Check {
    let outbox = &status.outbox;
    Check::ok("reports", format!("{} written, {} waiting for an aggregator", outbox.last, outbox.waiting))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::command::tests::{NOW, status};
    use protocol::identifier::{DeviceId, SiteName};

    fn known() -> Known {
        let headquarters = DeviceId::from_bytes([9; 32]);
        let surroundings = answer::Surroundings {
            mdns: true,
            peer_download: true,
            offline_days: 30,
            services: vec![answer::ServiceContact {
                device: headquarters,
                roles: vec!["seed".to_owned(), "aggregator".to_owned()],
                addresses: vec!["/ip4/10.0.0.9/tcp/7700".to_owned()],
                connected: false,
            }],
            unreached: vec![answer::Unreached {
                device: headquarters,
                discovered: "services".to_owned(),
                cause: "nobody answers there: connection refused".to_owned(),
                last: NOW,
            }],
            ..answer::Surroundings::default()
        };
        let mut status = status();
        status.connections = answer::Connections::default();
        status.problems.clear();
        Known { status, peers: Vec::new(), surroundings }
    }

    fn peer(known: &Known, discovered: &str) -> answer::Peer {
        answer::Peer {
            device: DeviceId::from_bytes([3; 32]),
            host: known.status.host.clone(),
            site: known.status.site.clone(),
            system: known.status.system.clone(),
            roles: Vec::new(),
            address: None,
            discovered: discovered.to_owned(),
            medium: String::new(),
            connected: true,
            pieces: answer::Bytes::default(),
            raw: answer::Bytes::default(),
        }
    }

    #[test]
    fn a_lone_device_without_headquarters_is_told_why() {
        let known = known();
        let said: Vec<Check> = services(&known).into_iter().chain(ladder(&known, NOW)).collect();
        let lines: Vec<String> =
            said.iter().map(|check| format!("{:?} {}: {}", check.verdict, check.about, check.says)).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn with_neighbours_headquarters_may_be_away() {
        let mut known = known();
        known.status.connections.neighbours = 1;
        known.peers = ["mdns", "mdns", "tracker"].map(|rung| peer(&known, rung)).to_vec();
        assert!(services(&known).iter().all(|check| check.verdict == Verdict::Warning));
        let said = ladder(&known, NOW);
        assert_eq!(said[0].verdict, Verdict::Ok);
        assert!(
            said[0].says.starts_with("3 connected: 2 by the LAN (mDNS), 1 by the seed"),
            "{}",
            said[0].says
        );
    }

    #[test]
    fn who_called_first_may_have_been_heard_as_well() {
        let mut known = known();
        known.peers = vec![peer(&known, "incoming"), peer(&known, "incoming")];
        let says = |known: &Known| ladder(known, NOW)[0].says.clone();
        let called = "2 connected: 2 by their own call";
        let rest = "; the seed: no seed is connected; fleet/sites.toml: no address for this site)";
        assert_eq!(says(&known), format!("{called} (the LAN (mDNS): nobody was heard there{rest}"));
        known.surroundings.heard = 2;
        assert_eq!(says(&known), format!("{called} (the LAN (mDNS): 2 heard there{rest}"));
        known.status.roles = vec!["aggregator".to_owned()];
        assert_eq!(says(&known), called, "it does not look for any");
    }

    #[test]
    fn walls_between_the_devices_of_a_site_are_recognised() {
        let mut known = known();
        let unreached = |number: u8, discovered: &str| answer::Unreached {
            device: DeviceId::from_bytes([number; 32]),
            discovered: discovered.to_owned(),
            cause: "nobody answers there: Timeout has been reached".to_owned(),
            last: NOW,
        };
        known.surroundings.unreached = vec![unreached(1, "mdns"), unreached(2, "mdns")];
        let firewalled = ladder(&known, NOW);
        known.surroundings.unreached = vec![unreached(1, "tracker"), unreached(2, "tracker")];
        let isolated = ladder(&known, NOW);
        let remedy = |said: &[Check]| said[0].remedy.clone().unwrap_or_default();
        assert!(!remedy(&ladder(&known, NOW.plus_days(1))).contains("isolation"), "they may be switched off");
        let mut one = Known { peers: Vec::new(), ..known };
        let second = one.surroundings.unreached.pop().expect("two");
        assert!(!remedy(&ladder(&one, NOW)).contains("isolation"), "one of them may be ill");
        one.surroundings.unreached.push(second);
        one.surroundings.roaming_at = Some(SiteName::new("lyon").expect("site"));
        let roaming = ladder(&one, NOW);
        let lines: Vec<String> = [firewalled, isolated, roaming]
            .into_iter()
            .flatten()
            .map(|check| {
                let remedy = check.remedy.unwrap_or_default();
                format!("{:?} {}: {}\n  {remedy}", check.verdict, check.about, check.says)
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn metadata_ages() {
        let known = known();
        let expires = known.status.metadata.expires.expect("an expiry");
        let verdict = |days| metadata(&known, expires.plus_days(days)).verdict;
        assert_eq!(metadata(&known, NOW).verdict, Verdict::Ok);
        assert_eq!(
            (verdict(0), verdict(29), verdict(30)),
            (Verdict::Warning, Verdict::Warning, Verdict::Problem)
        );
        let mut never = known;
        never.status.metadata = answer::Metadata::default();
        assert_eq!(metadata(&never, NOW).verdict, Verdict::Problem);
    }
}
