//! The link on which this device stands, by `/sys/class/net` and the routes: cable or air, how fast, mobile or not.

use protocol::conditions::Link;
use protocol::rate::Rate;
use std::fs;
use std::path::{Path, PathBuf};

/// What the interfaces that carry the node are.
pub(super) fn kind(sys: &Path, proc: &Path) -> Link {
    let links = carrying(sys, proc);
    if links.iter().any(|link| is_wireless(link)) {
        return Link::Wireless;
    }
    if links.is_empty() {
        Link::Unknown
    } else {
        Link::Wired(links.iter().filter_map(|link| speed(link)).min())
    }
}

/// Whether one of them is a mobile network, which costs what it carries.
pub(super) fn is_mobile(sys: &Path, proc: &Path) -> bool {
    carrying(sys, proc).iter().any(|link| {
        let facts = fs::read_to_string(link.join("uevent")).unwrap_or_default();
        facts.lines().any(|line| line == "DEVTYPE=wwan")
    })
}

/// Where the default route with the lowest metric leads, all of them where several have that one; without any default
/// route, all that are up and no loopback, tunnel or bridge of virtual machines.
fn carrying(sys: &Path, proc: &Path) -> Vec<PathBuf> {
    let net = sys.join("class/net");
    let routes = fs::read_to_string(proc.join("net/route")).unwrap_or_default();
    let default = routes.lines().filter_map(default_route);
    let default =
        default.map(|(name, metric)| (net.join(name), metric)).filter(|(link, _)| !is_virtual(link));
    let default: Vec<(PathBuf, u32)> = default.collect();
    if let Some(lowest) = default.iter().map(|(_, metric)| *metric).min() {
        let first = default.into_iter().filter(|(_, metric)| *metric == lowest);
        return first.map(|(link, _)| link).collect();
    }
    let Ok(all) = fs::read_dir(&net) else { return Vec::new() };
    let up = |link: &PathBuf| read(link, "operstate").is_some_and(|state| state == "up");
    let paths = all.flatten().map(|entry| entry.path());
    paths.filter(|link| up(link) && !is_virtual(link) && !link.join("bridge").exists()).collect()
}

/// The interface and the metric of a line of `/proc/net/route` that is a default route. Its fields (`fib_route_seq_show` in
/// the kernel): interface, destination, gateway, flags, references, use, metric (decimal), mask.
fn default_route(line: &str) -> Option<(&str, u32)> {
    let mut fields = line.split_whitespace();
    let (name, destination) = (fields.next()?, fields.next()?);
    let metric = fields.nth(4).and_then(|metric| metric.parse().ok()).unwrap_or(0);
    (destination == "00000000").then_some((name, metric))
}

/// Loopback and tunnels: ARP types 772 and 65534 (`if_arp.h`), and what has no hardware type at all.
fn is_virtual(link: &Path) -> bool {
    read(link, "type").is_some_and(|kind| ["772", "65534", "768", "776", "778"].contains(&kind.as_str()))
}

fn is_wireless(link: &Path) -> bool {
    link.join("wireless").exists() || link.join("phy80211").exists()
}

/// What a cable carries; drivers that do not know say nothing, or -1.
fn speed(link: &Path) -> Option<Rate> {
    let megabits: u64 = read(link, "speed")?.parse().ok()?;
    (1..=1_000_000).contains(&megabits).then_some(Rate::megabits(megabits))
}

fn read(link: &Path, name: &str) -> Option<String> {
    Some(fs::read_to_string(link.join(name)).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(routes: &str) -> Machine {
            let root = tempfile::tempdir().expect("directory");
            fs::create_dir_all(root.path().join("net")).expect("directory");
            fs::write(root.path().join("net/route"), format!("Iface\tDestination\tGateway\n{routes}"))
                .expect("file");
            Machine(root)
        }

        fn with(self, name: &str, files: &[(&str, &str)]) -> Machine {
            let place = self.0.path().join("class/net").join(name);
            fs::create_dir_all(&place).expect("directory");
            for (file, text) in files {
                match text.is_empty() {
                    true => fs::create_dir(place.join(file)).expect("directory"),
                    false => fs::write(place.join(file), format!("{text}\n")).expect("file"),
                }
            }
            self
        }

        fn kind(&self) -> Link {
            kind(self.0.path(), self.0.path())
        }
    }

    #[test]
    fn the_link_is_that_of_the_default_route() {
        let cable = [("type", "1"), ("operstate", "up"), ("speed", "1000")];
        let air = [("type", "1"), ("operstate", "up"), ("wireless", "")];
        let both = |routes: &str| Machine::new(routes).with("eth0", &cable).with("wlan0", &air).kind();
        let gigabit = Link::Wired(Some(Rate::megabits(1_000)));
        assert_eq!(both("eth0\t00000000\t0102A8C0\n"), gigabit);
        assert_eq!(both("wlan0\t00000000\t0102A8C0\neth0\t0002A8C0\t0\n"), Link::Wireless);
        // Where both lead out, bytes may take either.
        assert_eq!(both("eth0\t00000000\t0\nwlan0\t00000000\t0\n"), Link::Wireless);
    }

    #[test]
    fn of_several_default_routes_the_one_with_the_lowest_metric_counts() {
        let route = |name: &str, metric: u32| {
            format!("{name}\t00000000\t0102A8C0\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0\n")
        };
        let machine = |routes: &str| {
            let wired = |speed| [("type", "1"), ("operstate", "up"), ("speed", speed)];
            let machine = Machine::new(routes).with("eth0", &wired("1000")).with("eth1", &wired("100"));
            let tunnel = machine.with("tun0", &[("type", "65534"), ("operstate", "up"), ("speed", "10")]);
            tunnel.with(
                "wlan0",
                &[("type", "1"), ("operstate", "up"), ("wireless", ""), ("uevent", "DEVTYPE=wwan")],
            )
        };
        let docked = machine(&[route("wlan0", 600), route("eth0", 100)].concat());
        assert_eq!(docked.kind(), Link::Wired(Some(Rate::megabits(1_000))));
        assert!(!is_mobile(docked.0.path(), docked.0.path()));
        let undocked = machine(&[route("eth0", 20_100), route("wlan0", 600)].concat());
        assert_eq!(undocked.kind(), Link::Wireless);
        assert!(is_mobile(undocked.0.path(), undocked.0.path()));
        let two = machine(&[route("wlan0", 600), route("eth0", 100), route("eth1", 100)].concat());
        assert_eq!(two.kind(), Link::Wired(Some(Rate::megabits(100))), "of equal metrics the slowest");
        let tunnel = machine(&[route("tun0", 50), route("wlan0", 600), route("eth0", 100)].concat());
        assert_eq!(
            tunnel.kind(),
            Link::Wired(Some(Rate::megabits(1_000))),
            "a tunnel leads over what lies below"
        );
    }

    #[test]
    fn without_a_default_route_all_that_are_up_count() {
        let up = |speed| [("type", "1"), ("operstate", "up"), ("speed", speed)];
        let machine = Machine::new("").with("eth0", &up("1000")).with("eth1", &up("100"));
        let loopback = machine.with("lo", &[("type", "772"), ("operstate", "up"), ("speed", "10")]);
        let all =
            loopback.with("docker0", &[("type", "1"), ("operstate", "up"), ("speed", "10"), ("bridge", "")]);
        let all = all.with("tun0", &[("type", "65534"), ("operstate", "up"), ("speed", "10")]);
        let all = all.with("eth2", &[("type", "1"), ("operstate", "down"), ("speed", "10")]);
        assert_eq!(all.kind(), Link::Wired(Some(Rate::megabits(100))));
        assert_eq!(Machine::new("").with("eth0", &up("-1")).kind(), Link::Wired(None));
        assert_eq!(Machine::new("").kind(), Link::Unknown);
    }

    #[test]
    fn a_mobile_network_is_known_by_its_kind() {
        let route = "wwan0\t00000000\t0\n";
        let wwan =
            Machine::new(route).with("wwan0", &[("type", "1"), ("uevent", "DEVTYPE=wwan\nINTERFACE=wwan0")]);
        assert!(is_mobile(wwan.0.path(), wwan.0.path()));
        let cable =
            Machine::new("eth0\t00000000\t0\n").with("eth0", &[("type", "1"), ("uevent", "INTERFACE=eth0")]);
        assert!(!is_mobile(cable.0.path(), cable.0.path()));
    }
}
