//! What this device stands on, as its system says: power, link, cost of the link, time zone. Whatever cannot be read counts
//! as not there: a device in doubt goes on.

mod bus;
mod link;
mod power;

use crate::configuration::{Configuration, LinkCost};
use crate::net::Multiaddr;
use libp2p::multiaddr::Protocol;
use protocol::conditions::{Charge, Conditions, Link};
use protocol::rate::Rate;
use std::path::PathBuf;

/// Where to look, and what the configuration says already.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Where the kernel shows devices, `/sys`.
    sys: PathBuf,
    /// Where it shows routes, `/proc`.
    proc: PathBuf,
    /// The socket of the system's message bus.
    bus: PathBuf,
    /// Whether the node listens where others can reach it at all.
    on_a_lan: bool,
    cost: Option<LinkCost>,
    download: Option<Rate>,
    upload: Option<Rate>,
}

impl Sources {
    /// The places of a running system, with what `configuration` says.
    pub fn of(configuration: &Configuration) -> Sources {
        let node = &configuration.node;
        let seed = configuration.seed.as_ref().and_then(|seed| seed.upload_limit);
        Sources {
            sys: "/sys".into(),
            proc: "/proc".into(),
            bus: "/run/dbus/system_bus_socket".into(),
            on_a_lan: !node.listen.iter().all(is_loopback),
            cost: node.link,
            download: node.download_limit,
            upload: node.upload_limit.into_iter().chain(seed).min(),
        }
    }

    /// Looks. Blocks for a short time.
    pub fn look(&self) -> Conditions {
        let metered = || bus::network_manager_says_metered(&self.bus).unwrap_or(false);
        let charge = match self.cost {
            Some(LinkCost::Metered) => Charge::Metered,
            Some(LinkCost::Unmetered) => Charge::Unmetered,
            // A node that nobody reaches over a link has none that could cost anything.
            None if self.on_a_lan && (link::is_mobile(&self.sys, &self.proc) || metered()) => Charge::Metered,
            None => Charge::Unmetered,
        };
        Conditions {
            power: power::source(&self.sys),
            charge,
            link: if self.on_a_lan { link::kind(&self.sys, &self.proc) } else { Link::Unknown },
            utc_offset_minutes: offset_minutes(),
            download: self.download,
            upload: self.upload,
        }
    }
}

fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// How much later it is here than in UTC.
fn offset_minutes() -> i16 {
    let offset = jiff::tz::TimeZone::system().to_offset(jiff::Timestamp::now());
    i16::try_from(offset.seconds() / 60).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_on_loopback_stands_on_no_link() {
        let address = |text: &str| text.parse::<Multiaddr>().expect("an address");
        assert!(is_loopback(&address("/ip4/127.0.0.1/tcp/0")) && is_loopback(&address("/ip6/::1/tcp/0")));
        assert!(
            !is_loopback(&address("/ip4/0.0.0.0/tcp/7700")) && !is_loopback(&address("/ip6/::/tcp/7700"))
        );
    }

    #[test]
    fn what_the_configuration_says_of_the_cost_counts() {
        let nowhere = PathBuf::from("/does/not/exist");
        let look = |cost| {
            let (sys, proc, bus) = (nowhere.clone(), nowhere.clone(), nowhere.clone());
            let sources = Sources { sys, proc, bus, on_a_lan: true, cost, download: None, upload: None };
            sources.look().charge
        };
        assert_eq!(look(Some(LinkCost::Metered)), Charge::Metered);
        assert_eq!(look(None), Charge::Unmetered);
    }
}
