//! Follows the interfaces of this machine: a link begins where one comes, or gets other addresses, and ends where one goes.

use super::link::{Family, Link, Place};
use super::subnet::Subnet;
use crate::net::address::{self, Endpoint};
use if_addrs::IfAddr;
use libp2p::Multiaddr;
use protocol::identifier::DeviceId;
use protocol::limits;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use super::link::Found;

/// How often the interfaces are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What discovery is told by the rest of the node.
pub(crate) struct Surroundings {
    /// This device.
    pub(crate) device: DeviceId,
    /// Where it listens.
    pub(crate) listening: watch::Receiver<Vec<Multiaddr>>,
    /// How many neighbours are connected.
    pub(crate) neighbours: watch::Receiver<usize>,
    /// Takes the devices that are found.
    pub(crate) found: mpsc::Sender<Found>,
}

/// Keeps a link on every usable interface until told to stop; goodbyes are said before it returns.
pub(crate) async fn follow(mut surroundings: Surroundings, stop: CancellationToken) {
    let mut links: BTreeMap<Place, CancellationToken> = BTreeMap::new();
    let mut refused: BTreeSet<Place> = BTreeSet::new();
    let tasks = TaskTracker::new();
    loop {
        let listening = surroundings.listening.borrow_and_update().clone();
        let places = places(&listening);
        refused.retain(|place| places.contains(place));
        links.retain(|place, stop| {
            let stays = places.contains(place);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for place in places {
            if links.contains_key(&place) || links.len() >= 2 * limits::DISCOVERY_LINKS {
                continue;
            }
            match begin(&surroundings, place.clone(), &stop, &tasks) {
                Ok(stop) => drop(links.insert(place, stop)),
                Err(error) => {
                    if refused.insert(place) {
                        tracing::warn!(%error, "no discovery by multicast on one of the interfaces");
                    }
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            Ok(()) = surroundings.listening.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    tasks.close();
    tasks.wait().await;
}

fn begin(
    surroundings: &Surroundings,
    place: Place,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> std::io::Result<CancellationToken> {
    let seed = getrandom::u64().map_err(std::io::Error::other)?;
    let stop = stop.child_token();
    let link = Link::open(place, surroundings.device, seed, surroundings.found.clone())?;
    tasks.spawn(link.run(surroundings.neighbours.clone(), stop.clone()));
    Ok(stop)
}

/// The interfaces on which this device listens and can hear multicast. Not the loopback, where nobody else is; and not the
/// end of a tunnel, which is how most virtual private networks look: whoever is behind it is not on this LAN.
fn places(listening: &[Multiaddr]) -> BTreeSet<Place> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let listening: Vec<SocketAddr> = listening
        .iter()
        .filter_map(|address| match address::endpoint(address) {
            Some(Endpoint::Socket(socket)) => Some(socket),
            _ => None,
        })
        .collect();
    let mut own: BTreeMap<u32, (BTreeSet<SocketAddr>, BTreeSet<Subnet>)> = BTreeMap::new();
    for interface in interfaces.iter().filter(|one| !one.is_loopback() && !one.is_p2p()) {
        let Some(index) = interface.index else { continue };
        let ip = interface.ip();
        // An address that holds on one link only cannot be dialled without naming the link.
        if matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            continue;
        }
        let here = listening.iter().filter(|socket| socket.ip() == ip);
        let bits = match &interface.addr {
            IfAddr::V4(address) => address.prefixlen,
            IfAddr::V6(address) => address.prefixlen,
        };
        let (addresses, subnets) = own.entry(index).or_default();
        addresses.extend(here);
        subnets.insert(Subnet::of(ip, bits));
    }
    let mut places = BTreeSet::new();
    for (interface, (addresses, subnets)) in own {
        let addresses: Vec<SocketAddr> = addresses.into_iter().take(limits::ADDRESSES_PER_DEVICE).collect();
        for (family, is) in
            [(Family::V4, SocketAddr::is_ipv4 as fn(&SocketAddr) -> bool), (Family::V6, SocketAddr::is_ipv6)]
        {
            if addresses.iter().any(is) {
                let (addresses, subnets) = (addresses.clone(), subnets.clone());
                places.insert(Place { family, interface, addresses, subnets });
            }
        }
    }
    places
}
