//! One link: an interface and an address family, with its socket and its own machine of `protocol::discovery`.

use super::message;
use super::subnet::Subnet;
use protocol::discovery::{Discovery, Input, Output};
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::time::Moment;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// Address family of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// Where a link is: what of the machine it reaches, and what it says of itself there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) family: Family,
    pub(super) interface: u32,
    /// Where this device listens on the interface, at least once in this family.
    pub(super) addresses: Vec<SocketAddr>,
    /// The subnets of the interface, in both families.
    pub(super) subnets: BTreeSet<Subnet>,
}

impl Place {
    /// What of a message may be believed: anybody can send one, and who is on this link has its addresses there (RFC 6762,
    /// section 11). Others would have the whole site dial wherever a stranger wants.
    fn believable(&self, input: Input) -> Input {
        let Input::Heard(mut sighting) = input else { return input };
        sighting.addresses.retain(|at| self.subnets.iter().any(|subnet| subnet.contains(at.ip())));
        Input::Heard(sighting)
    }

    fn own_v4(&self) -> Ipv4Addr {
        let ips = self.addresses.iter().filter_map(|address| match address.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        ips.into_iter().next().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    fn group(&self) -> SocketAddr {
        match self.family {
            Family::V4 => SocketAddr::from((GROUP_V4, PORT)),
            Family::V6 => SocketAddrV6::new(GROUP_V6, PORT, 0, self.interface).into(),
        }
    }

    /// A socket that hears what is sent to the group on this interface and nothing else. Others on this machine may have
    /// their own on the same port, as the operating system's resolver does.
    fn bind(&self) -> io::Result<UdpSocket> {
        let domain = Domain::for_address(self.group());
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        // A socket that is bound to the group takes no datagrams that come from afar to the machine's own address.
        // Windows does not allow that.
        let mut at = self.group();
        if cfg!(windows) {
            at.set_ip(match self.family {
                Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            });
        }
        match self.family {
            Family::V4 => {
                #[cfg(target_os = "linux")]
                socket.set_multicast_all_v4(false)?;
                socket.set_multicast_if_v4(&self.own_v4())?;
                socket.set_multicast_ttl_v4(255)?;
                socket.bind(&at.into())?;
                socket.join_multicast_v4(&GROUP_V4, &self.own_v4())?;
            }
            Family::V6 => {
                socket.set_only_v6(true)?;
                #[cfg(target_os = "linux")]
                socket.set_multicast_all_v6(false)?;
                socket.set_multicast_if_v6(self.interface)?;
                socket.set_multicast_hops_v6(255)?;
                socket.bind(&at.into())?;
                socket.join_multicast_v6(&GROUP_V6, self.interface)?;
            }
        }
        UdpSocket::from_std(socket.into())
    }
}

/// A device that was found, and where it says it listens.
pub(crate) struct Found {
    pub(crate) device: DeviceId,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// A link at work.
pub(super) struct Link {
    place: Place,
    device: DeviceId,
    socket: UdpSocket,
    discovery: Discovery,
    began: Instant,
    found: mpsc::Sender<Found>,
    /// The second that is counted, and the messages read in it.
    second: u64,
    read: u32,
}

impl Link {
    /// Opens the sockets of a link.
    ///
    /// # Errors
    /// The operating system does not let us send or hear multicast there.
    pub(super) fn open(
        place: Place,
        device: DeviceId,
        seed: u64,
        found: mpsc::Sender<Found>,
    ) -> io::Result<Link> {
        let socket = place.bind()?;
        let discovery = Discovery::new(device, seed, Moment::START);
        Ok(Link { place, device, socket, discovery, began: Instant::now(), found, second: 0, read: 0 })
    }

    /// Runs until told to stop, and then says goodbye.
    pub(super) async fn run(mut self, mut neighbours: watch::Receiver<usize>, stop: CancellationToken) {
        neighbours.mark_changed();
        let mut buffer = vec![0; limits::MULTICAST_BYTES];
        loop {
            let wake = self.began + Duration::from_micros(self.discovery.next_wake().as_micros());
            tokio::select! {
                () = stop.cancelled() => break,
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, _)) => self.on_message(&buffer[..length]).await,
                    Err(error) => {
                        // The interface went away; whoever follows the interfaces ends this.
                        tracing::debug!(%error, "multicast cannot be heard");
                        tokio::select! {
                            () = stop.cancelled() => break,
                            () = tokio::time::sleep(Duration::from_secs(1)) => {}
                        }
                    }
                },
                Ok(()) = neighbours.changed() => {
                    let count = *neighbours.borrow_and_update();
                    self.handle(Input::Neighbours(count)).await;
                }
                () = tokio::time::sleep_until(wake) => self.handle(Input::Wake).await,
            }
        }
        if self.discovery.has_spoken() {
            self.send(&message::goodbye(self.device)).await;
        }
    }

    fn moment(&self) -> Moment {
        Moment::from_micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    async fn on_message(&mut self, bytes: &[u8]) {
        let second = self.began.elapsed().as_secs();
        if second != self.second {
            (self.second, self.read) = (second, 0);
        }
        self.read += 1;
        if self.read > limits::MULTICAST_PER_SECOND {
            return;
        }
        for input in message::read(bytes, self.device) {
            let input = self.place.believable(input);
            self.handle(input).await;
        }
    }

    async fn handle(&mut self, input: Input) {
        self.discovery.handle(self.moment(), input);
        while let Some(output) = self.discovery.poll() {
            match output {
                Output::Ask { known } => self.send(&message::question(&known)).await,
                Output::Tell => self.send(&message::answer(self.device, &self.place.addresses)).await,
                Output::Found { device, addresses } => {
                    // Nobody takes it only when the network has stopped.
                    let _ = self.found.send(Found { device, addresses }).await;
                }
            }
        }
    }

    async fn send(&self, bytes: &[u8]) {
        if let Err(error) = self.socket.send_to(bytes, self.place.group()).await {
            tracing::debug!(%error, "multicast cannot be sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::discovery::Sighting;

    #[test]
    fn addresses_elsewhere_are_not_believed() {
        let place = Place {
            family: Family::V4,
            interface: 1,
            addresses: Vec::new(),
            subnets: BTreeSet::from([Subnet::of(Ipv4Addr::new(10, 1, 2, 3).into(), 24)]),
        };
        let (near, far) =
            (SocketAddr::from(([10, 1, 2, 9], 7_700)), SocketAddr::from(([192, 0, 2, 1], 7_700)));
        let device = DeviceId::from_bytes([1; 32]);
        let sighting = Sighting { device, addresses: vec![far, near], lifetime: Duration::from_secs(1) };
        let believed = place.believable(Input::Heard(sighting.clone()));
        assert_eq!(believed, Input::Heard(Sighting { addresses: vec![near], ..sighting }));
    }
}
