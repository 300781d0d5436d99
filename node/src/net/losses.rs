//! Losses on the way to a peer, as the kernel counts them: a connection that loses packets gets a congestion control that does
//! not take each lost one for a full link.
//!
//! The kernel tells through its socket diagnostics (`sock_diag(7)`, `linux/inet_diag.h`): one question and one answer of fixed
//! layout, which the libraries of the tree have no types for (decision 0025).

use kernel::Socket;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A connection is looked at no more often than this,
const LOOK: Duration = Duration::from_millis(500);
/// and when so many bytes were sent since.
const LOOK_BYTES: u64 = 128 << 10;
/// A way of this length at least: on a shorter one a lost packet costs no time, and what it costs to pace each packet is
/// more.
const WAY: Duration = Duration::from_millis(5);
/// This many were sent again at least, and this part of all: what one full queue drops is less.
const LEAST_AGAIN: u32 = 3;
const ONE_IN: u32 = 300;

/// What the kernel counted on one connection (`tcp_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    /// Segments sent, those sent again included.
    sent: u32,
    /// Segments sent again.
    again: u32,
    smallest_round_trip: Duration,
}

impl Counted {
    fn loses(self) -> bool {
        let often = self.again >= LEAST_AGAIN && self.again >= self.sent / ONE_IN;
        often && self.smallest_round_trip >= WAY
    }
}

/// Asks the kernel; clones share one socket.
#[derive(Clone)]
pub(super) struct Losses(Option<Arc<Mutex<Socket>>>);

impl Losses {
    /// One that answers nothing where the kernel does not let us ask.
    pub(super) fn new() -> Losses {
        let socket = kernel::open().inspect_err(|error| tracing::debug!(%error, "no socket diagnostics"));
        Losses(socket.ok().map(|socket| Arc::new(Mutex::new(socket))))
    }

    /// A watch over the connection between these two ends.
    pub(super) fn watch(&self, local: SocketAddr, remote: SocketAddr) -> Option<Watch> {
        let socket = self.0.clone()?;
        Some(Watch { socket, question: question(local, remote), sent: 0, looked: Instant::now() })
    }
}

/// Looks at one connection now and then.
pub(super) struct Watch {
    socket: Arc<Mutex<Socket>>,
    question: [u8; QUESTION_BYTES],
    /// Bytes since the last look.
    sent: u64,
    looked: Instant,
}

impl Watch {
    /// Notes that so many bytes were handed to the kernel; whether the connection turns out to lose packets.
    pub(super) fn sent(&mut self, bytes: usize) -> bool {
        self.sent += bytes as u64;
        if self.sent < LOOK_BYTES || self.looked.elapsed() < LOOK {
            return false;
        }
        (self.sent, self.looked) = (0, Instant::now());
        self.look().is_some_and(Counted::loses)
    }

    fn look(&self) -> Option<Counted> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = [0; ANSWER_BYTES];
        let count = kernel::ask(&socket, &self.question, &mut answer).ok()?;
        counted(answer.get(..count)?)
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    use std::io;
    use std::os::fd::OwnedFd;

    pub(super) type Socket = OwnedFd;

    pub(super) fn open() -> io::Result<Socket> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::DGRAM);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
        // The kernel's address.
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(socket)
    }

    pub(super) fn ask(socket: &Socket, question: &[u8], answer: &mut [u8]) -> io::Result<usize> {
        rustix::net::send(socket, question, SendFlags::empty())?;
        // The answer is there when the question is sent: nothing is waited for.
        let (count, _) = rustix::net::recv(socket, answer, RecvFlags::DONTWAIT)?;
        Ok(count)
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    use std::io;

    pub(super) enum Socket {}

    pub(super) fn open() -> io::Result<Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn ask(socket: &Socket, _: &[u8], _: &mut [u8]) -> io::Result<usize> {
        match *socket {}
    }
}

const QUESTION_BYTES: usize = 72;
/// Larger than any: the rest is cut off.
const ANSWER_BYTES: usize = 1_024;
/// `struct nlmsghdr` and `struct inet_diag_msg`, which attributes follow.
const ATTRIBUTES_AT: usize = 16 + 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const INET_DIAG_INFO: u8 = 2;
/// Places in `struct tcp_info`.
const TOTAL_RETRANS_AT: usize = 100;
const MIN_RTT_AT: usize = 148;
const DATA_SEGS_OUT_AT: usize = 156;

/// `struct inet_diag_req_v2` for one connection, behind `struct nlmsghdr`.
fn question(local: SocketAddr, remote: SocketAddr) -> [u8; QUESTION_BYTES] {
    let mut bytes = [0; QUESTION_BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &(QUESTION_BYTES as u32).to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &NLM_F_REQUEST.to_ne_bytes());
    put(16, &[if local.is_ipv4() { AF_INET } else { AF_INET6 }, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1)]);
    // In any state.
    put(20, &u32::MAX.to_ne_bytes());
    for (at, end) in [(24, local), (26, remote)] {
        put(at, &end.port().to_be_bytes());
    }
    for (at, end) in [(28, local), (44, remote)] {
        match end.ip() {
            IpAddr::V4(ip) => put(at, &ip.octets()),
            IpAddr::V6(ip) => put(at, &ip.octets()),
        }
    }
    if let SocketAddr::V6(local) = local {
        put(60, &local.scope_id().to_ne_bytes());
    }
    // No cookie: `INET_DIAG_NOCOOKIE`.
    put(64, &u64::MAX.to_ne_bytes());
    bytes
}

/// Finds `struct tcp_info` among the attributes of the answer; `None` for an error, or a kernel that tells less.
fn counted(answer: &[u8]) -> Option<Counted> {
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if half(4)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let mut at = ATTRIBUTES_AT;
    loop {
        let length = usize::from(half(at)?);
        if half(at + 2)? == u16::from(INET_DIAG_INFO) {
            let info = answer.get(at + 4..at + length)?;
            let word = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
            return Some(Counted {
                sent: word(DATA_SEGS_OUT_AT)?,
                again: word(TOTAL_RETRANS_AT)?,
                // All ones while it is unknown.
                smallest_round_trip: Duration::from_micros(
                    Some(word(MIN_RTT_AT)?).filter(|micros| *micros != u32::MAX).unwrap_or(0).into(),
                ),
            });
        }
        at += length.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    /// Two ends of a connection over which so many bytes went from the first to the second.
    fn used(address: &str, bytes: usize) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).expect("a port");
        let mut one = TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
        let (mut two, _) = listener.accept().expect("comes");
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; bytes];
            two.read_exact(&mut all).expect("comes");
            two
        });
        one.write_all(&vec![7; bytes]).expect("goes");
        (one, reader.join().expect("reads"))
    }

    #[test]
    fn the_kernel_tells_of_each_connection_what_it_sent() {
        let losses = Losses::new();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (one, two) = used(address, 1 << 20);
            let ends = |stream: &TcpStream| {
                (stream.local_addr().expect("an address"), stream.peer_addr().expect("an address"))
            };
            let look = |(local, remote)| losses.watch(local, remote).and_then(|watch| watch.look());
            let sender = look(ends(&one)).expect("the kernel answers");
            assert!(sender.sent >= 16 && sender.again == 0 && !sender.loses(), "{address} {sender:?}");
            assert_eq!(look(ends(&two)).map(|receiver| receiver.sent), Some(0), "{address}");
            // No such connection.
            let (local, mut remote) = ends(&one);
            remote.set_port(1);
            assert_eq!(look((local, remote)), None);
        }
    }

    #[test]
    fn losses_count_where_they_cost_time() {
        let counted = |sent, again, milliseconds| Counted {
            sent,
            again,
            smallest_round_trip: Duration::from_millis(milliseconds),
        };
        assert!(counted(300, 3, 40).loses());
        assert!(!counted(300, 2, 40).loses(), "may be chance");
        assert!(!counted(30_000, 50, 40).loses(), "one full queue");
        assert!(!counted(300, 30, 1).loses(), "the LAN");
    }

    #[test]
    fn answers_that_are_cut_off_say_nothing() {
        let (one, _two) = used("127.0.0.1:0", 100);
        let question = question(one.local_addr().expect("one"), one.peer_addr().expect("one"));
        let Losses(Some(socket)) = Losses::new() else { panic!("no socket diagnostics") };
        let mut answer = [0; ANSWER_BYTES];
        let count = kernel::ask(&socket.lock().expect("free"), &question, &mut answer).expect("answers");
        assert!(counted(&answer[..count]).is_some());
        for cut in 0..count {
            // Later kernels have longer structures: what is needed may be whole.
            let _ = counted(&answer[..cut]);
        }
        assert_eq!(counted(&answer[..ATTRIBUTES_AT]), None);
        assert_eq!(counted(&[]), None);
    }
}
