//! Multiaddresses: what of them may stand in a log, and the host and port that they name.

use super::identity;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use protocol::identifier::DeviceId;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// An address as it may stand in a log: what kind it is and its port, not where it leads.
pub struct Redacted<'a>(pub &'a Multiaddr);

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0 {
            match part {
                Protocol::Ip4(ip) if ip.is_loopback() => f.write_str("/loopback")?,
                Protocol::Ip4(ip) if ip.is_private() => f.write_str("/private")?,
                Protocol::Ip4(_) => f.write_str("/ip4")?,
                Protocol::Ip6(_) => f.write_str("/ip6")?,
                Protocol::Tcp(port) => write!(f, "/tcp/{port}")?,
                other => write!(f, "/{}", other.tag())?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Host and port of an address over TCP, the host not yet resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A numeric address.
    Socket(SocketAddr),
    /// A name and a port.
    Name(String, u16),
}

/// Reads `/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT`, with or without a peer identity behind it.
pub(super) fn endpoint(address: &Multiaddr) -> Option<Endpoint> {
    let mut parts = address.iter();
    let host = parts.next()?;
    let Protocol::Tcp(port) = parts.next()? else { return None };
    if !matches!(parts.next(), None | Some(Protocol::P2p(_))) {
        return None;
    }
    match host {
        Protocol::Ip4(ip) => Some(Endpoint::Socket(SocketAddr::new(IpAddr::V4(ip), port))),
        Protocol::Ip6(ip) => Some(Endpoint::Socket(SocketAddr::new(IpAddr::V6(ip), port))),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => {
            Some(Endpoint::Name(name.into_owned(), port))
        }
        _ => None,
    }
}

/// The device that an address names at its end (`/p2p/` and a peer identity).
pub fn named_device(address: &str) -> Option<DeviceId> {
    let address: Multiaddr = address.parse().ok()?;
    match address.iter().last()? {
        Protocol::P2p(peer) => identity::device(&peer),
        _ => None,
    }
}

/// The numeric host of an address, without the port.
pub(super) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match endpoint(address)? {
        Endpoint::Socket(socket) => Some(socket.ip()),
        Endpoint::Name(..) => None,
    }
}

/// Of the addresses that a node listens on those that others can use, in the order in which they are worth a try: of the
/// interface that leads out, then the others; the machine's own only where there is no other.
pub fn announced(listening: &[Multiaddr]) -> Vec<String> {
    let leads_out: Vec<IpAddr> = [OUTSIDE, OUTSIDE_IPV6].into_iter().filter_map(source).collect();
    ordered(listening, &leads_out)
}

/// Addresses of documentation (RFC 5737, RFC 3849): nothing is sent to them.
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OUTSIDE_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The own address from which the kernel would send to `outside`; nothing is sent.
pub(super) fn source(outside: IpAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if outside.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((outside, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn ordered(listening: &[Multiaddr], leads_out: &[IpAddr]) -> Vec<String> {
    let rank = |address: &Multiaddr| match ip(address) {
        Some(ip) if leads_out.contains(&ip) => 0,
        Some(IpAddr::V4(ip)) if ip.is_loopback() || ip.is_link_local() => 2,
        // Without its interface nobody can dial one that is local to a link.
        Some(IpAddr::V6(ip)) if ip.is_loopback() || ip.is_unicast_link_local() => 2,
        _ => 1,
    };
    let best = listening.iter().map(rank).min().unwrap_or(0);
    let mut usable: Vec<&Multiaddr> =
        listening.iter().filter(|address| rank(address) < 2 || best == 2).collect();
    usable.sort_by_key(|address| rank(address));
    usable.into_iter().map(Multiaddr::to_string).collect()
}

/// The multiaddress of a socket address over TCP.
pub(super) fn of_socket(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_show_no_address() {
        let show = |text: &str| Redacted(&text.parse::<Multiaddr>().expect("address")).to_string();
        assert_eq!(show("/ip4/192.168.3.4/tcp/7700"), "/private/tcp/7700");
        assert_eq!(show("/ip4/9.9.9.9/tcp/7700"), "/ip4/tcp/7700");
        assert_eq!(show("/dns4/branch.example/tcp/7700"), "/dns4/tcp/7700");
    }

    #[test]
    fn what_others_cannot_use_is_not_announced_where_there_is_something_better() {
        let ordered = |listening: &[&str], leads_out: &str| {
            let listening: Vec<Multiaddr> =
                listening.iter().map(|text| text.parse().expect("address")).collect();
            ordered(&listening, &[leads_out.parse().expect("an address")])
        };
        let own = ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"];
        assert_eq!(ordered(&own, "10.0.0.5"), own);
        let containers = (0..9).map(|net| format!("/ip4/172.{}.0.1/tcp/1", 17 + net));
        let mut all: Vec<String> = own.into_iter().map(str::to_owned).chain(containers).collect();
        all.extend(["/ip6/fe80::1/tcp/1".to_owned(), "/ip4/10.0.0.5/tcp/1".to_owned()]);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let said = ordered(&all, "10.0.0.5");
        assert_eq!((said.len(), said[0].as_str()), (10, "/ip4/10.0.0.5/tcp/1"), "{said:?}");
    }

    #[test]
    fn an_address_names_its_device_at_the_end() {
        let device = protocol::signature::SigningKey::from_seed(&[1; 32]).device();
        let peer = identity::peer_id(device).expect("a device");
        assert_eq!(named_device(&format!("/ip4/10.0.0.1/tcp/7700/p2p/{peer}")), Some(device));
        assert_eq!(named_device("/ip4/10.0.0.1/tcp/7700"), None);
        assert_eq!(named_device("10.0.0.1:7700"), None);
    }

    #[test]
    fn endpoints_are_read() {
        let read = |text: &str| endpoint(&text.parse().expect("address"));
        assert_eq!(read("/ip4/127.0.0.1/tcp/1"), Some(Endpoint::Socket(([127, 0, 0, 1], 1).into())));
        assert_eq!(read("/dns/a.example/tcp/2"), Some(Endpoint::Name("a.example".to_owned(), 2)));
        assert_eq!(read("/ip4/127.0.0.1/udp/1"), None);
        assert_eq!(read("/ip4/127.0.0.1/tcp/1/ws"), None);
        assert_eq!(ip(&of_socket(([127, 0, 0, 1], 1).into())), Some(IpAddr::from([127, 0, 0, 1])));
    }
}
