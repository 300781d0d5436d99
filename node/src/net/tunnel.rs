//! Which way leads to an address: through a tunnel (most virtual private networks), whoever is there is on no LAN of ours.

use super::address::{self, Endpoint};
use libp2p::Multiaddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Whether what is sent to `address` leaves through a point-to-point interface. Names are not resolved for it: they lead
/// to services, not to neighbours.
pub(super) fn leads_to(address: &Multiaddr) -> bool {
    let Some(Endpoint::Socket(socket)) = address::endpoint(address) else { return false };
    let Some(own) = source_for(socket) else { return false };
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces.iter().any(|one| one.is_p2p() && one.ip() == own)
}

/// The own address from which the operating system would reach `remote`; nothing is sent.
fn source_for(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_oneself_leads_through_no_tunnel() {
        assert_eq!(source_for(([127, 0, 0, 1], 7_700).into()), Some(Ipv4Addr::LOCALHOST.into()));
        assert!(!leads_to(&"/ip4/127.0.0.1/tcp/7700".parse().expect("address")));
        assert!(!leads_to(&"/dns4/hq.example/tcp/7700".parse().expect("address")));
    }
}
