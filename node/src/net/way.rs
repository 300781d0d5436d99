//! The way to a peer as the kernel sees it, and the congestion control that suits it: BBR while a long way is being filled and
//! where packets are lost, what the system has elsewhere.
//!
//! The kernel tells through its socket diagnostics (`sock_diag(7)`, `linux/inet_diag.h`): one question and one answer of fixed
//! layout, which the libraries of the tree have no types for (decision 0025).

use kernel::Socket;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A connection is looked at first when so many bytes were handed to the kernel: some of them have been acknowledged.
const FIRST_BYTES: u64 = 16 << 10;
/// Later no more often than this,
const LOOK: Duration = Duration::from_millis(500);
/// and when so many bytes were sent since.
const LOOK_BYTES: u64 = 128 << 10;
/// On a way of this length CUBIC stops doubling long before our window does, and then grows slowly.
const LONG_WAY: Duration = Duration::from_millis(100);
/// BBR has filled it after this time, and stops sending for a while ten seconds after its beginning.
const FILLED: Duration = Duration::from_secs(7);
/// Where a busy machine began late what is sent rises still: then after this time at the latest.
const FILLED_AT_LAST: Duration = Duration::from_secs(30);
/// What is sent is counted over this time,
const COUNTING: Duration = Duration::from_secs(1);
/// and rises when it is so many times that of the time before.
const RISING: f64 = 1.25;
/// After a pause like this the kernel has forgotten what the way carries (RFC 2861).
const PAUSE: Duration = Duration::from_secs(2);
/// On a shorter way a lost packet costs no time, and pacing each packet costs more.
const SHORT_WAY: Duration = Duration::from_millis(5);
/// A way loses packets when this many were sent again,
const LEAST_AGAIN: u32 = 3;
/// and this part of all: what one full queue drops is less.
const ONE_IN: u32 = 300;
/// Segments after which the count begins anew: a way can change.
const COUNTED: u32 = 20_000;

/// Who decides how much is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// What the system has.
    System,
    /// BBR, which paces what it sends by what arrives, whatever is lost.
    Bbr,
}

/// What the kernel counted on one connection (`tcp_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Segments sent, those sent again included.
    sent: u32,
    /// Segments sent again.
    again: u32,
    round_trip: Duration,
}

/// Asks the kernel; clones share one socket.
#[derive(Clone)]
pub(super) struct Ways(Option<Arc<Mutex<Socket>>>);

impl Ways {
    /// One that knows nothing where the kernel does not let us ask.
    pub(super) fn new() -> Ways {
        let socket = kernel::open().inspect_err(|error| tracing::debug!(%error, "no socket diagnostics"));
        Ways(socket.ok().map(|socket| Arc::new(Mutex::new(socket))))
    }

    /// A watch over the connection between these two ends.
    pub(super) fn watch(&self, local: SocketAddr, remote: SocketAddr) -> Option<Watch> {
        let socket = self.0.clone()?;
        let choice = Choice::Unknown;
        Some(Watch { socket, question: question(local, remote), sent: 0, looked: None, last: None, choice })
    }
}

/// Looks at one connection now and then.
pub(super) struct Watch {
    socket: Arc<Mutex<Socket>>,
    question: [u8; QUESTION_BYTES],
    /// Bytes since the last look, and when that was.
    sent: u64,
    looked: Option<Instant>,
    /// When bytes were sent last.
    last: Option<Instant>,
    choice: Choice,
}

/// What is in use on a connection, and since when.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Choice {
    Unknown,
    /// BBR fills a long way.
    Filling(Filling),
    /// What the system has; what was counted when the count began.
    System(Counts),
    /// BBR, until the end: packets are lost.
    Lossy,
}

/// How BBR fills a way.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Filling {
    since: Instant,
    /// When the counting of what is sent began anew, and the segments until then.
    counted: (Instant, u32),
    /// Segments in a second in the time before.
    rate: f64,
    rising: bool,
}

impl Filling {
    fn begin(now: Instant, counts: Counts) -> Filling {
        Filling { since: now, counted: (now, counts.sent), rate: 0.0, rising: true }
    }

    fn count(self, now: Instant, counts: Counts) -> Filling {
        let (began, sent) = self.counted;
        let took = now.duration_since(began);
        if took < COUNTING {
            return self;
        }
        let rate = f64::from(counts.sent.wrapping_sub(sent)) / took.as_secs_f64();
        Filling { counted: (now, counts.sent), rate, rising: rate >= RISING * self.rate, ..self }
    }

    fn is_over(&self, now: Instant) -> bool {
        let took = now.duration_since(self.since);
        took >= if self.rising { FILLED_AT_LAST } else { FILLED }
    }
}

impl Watch {
    /// Notes that so many bytes were handed to the kernel; what is to be in use from now on, when it is to change.
    pub(super) fn sent(&mut self, bytes: usize) -> Option<Control> {
        let now = Instant::now();
        self.sent += bytes as u64;
        let paused = self.last.replace(now).is_some_and(|last| now.duration_since(last) >= PAUSE);
        let due = match self.looked {
            None => self.sent >= FIRST_BYTES,
            Some(looked) => paused || (self.sent >= LOOK_BYTES && now.duration_since(looked) >= LOOK),
        };
        if !due || self.choice == Choice::Lossy {
            return None;
        }
        (self.sent, self.looked) = (0, Some(now));
        let (choice, control) = self.choice.next(self.look()?, paused, now);
        self.choice = choice;
        control
    }

    fn look(&self) -> Option<Counts> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = [0; ANSWER_BYTES];
        let count = kernel::ask(&socket, &self.question, &mut answer).ok()?;
        counts(answer.get(..count)?)
    }
}

impl Choice {
    /// What follows when the kernel counted so much, and how to bring it about.
    fn next(self, counts: Counts, paused: bool, now: Instant) -> (Choice, Option<Control>) {
        let long = counts.round_trip >= LONG_WAY;
        match self {
            Choice::Unknown if long => (Choice::Filling(Filling::begin(now, counts)), Some(Control::Bbr)),
            Choice::Unknown => (Choice::System(counts), None),
            Choice::Filling(_) if counts.loses_since(Counts::default()) => (Choice::Lossy, None),
            // It has to begin anew.
            Choice::Filling(_) if paused => (Choice::Filling(Filling::begin(now, counts)), None),
            Choice::Filling(filling) => match filling.count(now, counts) {
                filling if filling.is_over(now) => (Choice::System(counts), Some(Control::System)),
                filling => (Choice::Filling(filling), None),
            },
            Choice::System(since) if counts.loses_since(since) => (Choice::Lossy, Some(Control::Bbr)),
            Choice::System(_) if long && paused => {
                (Choice::Filling(Filling::begin(now, counts)), Some(Control::Bbr))
            }
            Choice::System(since) if counts.sent.wrapping_sub(since.sent) >= COUNTED => {
                (Choice::System(counts), None)
            }
            other => (other, None),
        }
    }
}

impl Counts {
    fn loses_since(self, before: Counts) -> bool {
        let (sent, again) = (self.sent.wrapping_sub(before.sent), self.again.wrapping_sub(before.again));
        again >= LEAST_AGAIN && again >= sent / ONE_IN && self.round_trip >= SHORT_WAY
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
        // An answer that nobody took must not be taken for that of another connection.
        while rustix::net::recv(socket, &mut *answer, RecvFlags::DONTWAIT).is_ok() {}
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
fn counts(answer: &[u8]) -> Option<Counts> {
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
            return Some(Counts {
                sent: word(DATA_SEGS_OUT_AT)?,
                again: word(TOTAL_RETRANS_AT)?,
                // All ones while it is unknown.
                round_trip: Duration::from_micros(
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
        let ways = Ways::new();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (one, two) = used(address, 1 << 20);
            let ends = |stream: &TcpStream| {
                (stream.local_addr().expect("an address"), stream.peer_addr().expect("an address"))
            };
            let look = |(local, remote)| ways.watch(local, remote).and_then(|watch| watch.look());
            let sender = look(ends(&one)).expect("the kernel answers");
            assert!(
                sender.sent >= 16 && sender.again == 0 && sender.round_trip > Duration::ZERO,
                "{address} {sender:?}"
            );
            assert_eq!(look(ends(&two)).map(|receiver| receiver.sent), Some(0), "{address}");
            // No such connection.
            let (local, mut remote) = ends(&one);
            remote.set_port(1);
            assert_eq!(look((local, remote)), None);
        }
    }

    /// The choice after each of these looks: seconds, segments sent and sent again, milliseconds of round trip. Between two that
    /// are more than 20 s apart nothing was sent.
    fn choices(looks: &[(u64, u32, u32, u64)]) -> Vec<Option<Control>> {
        let (begin, mut choice, mut before) = (Instant::now(), Choice::Unknown, 0);
        let next = |(seconds, sent, again, milliseconds): &(u64, u32, u32, u64)| {
            let counts =
                Counts { sent: *sent, again: *again, round_trip: Duration::from_millis(*milliseconds) };
            let paused = seconds - std::mem::replace(&mut before, *seconds) > 20;
            let now = begin + Duration::from_secs(*seconds);
            let (next, control) = choice.next(counts, paused, now);
            choice = next;
            control
        };
        looks.iter().map(next).collect()
    }

    #[test]
    fn a_long_way_is_filled_by_bbr_also_after_a_pause() {
        let looks =
            [(0, 10, 0, 300), (1, 400, 0, 300), (8, 3_000, 0, 300), (9, 3_400, 0, 300), (60, 3_450, 0, 300)];
        let chosen = choices(&looks);
        assert_eq!(chosen, [Some(Control::Bbr), None, Some(Control::System), None, Some(Control::Bbr)]);
    }

    #[test]
    fn bbr_goes_on_while_what_is_sent_rises() {
        // Twice as much in each second, from the fourth on; from the tenth on as much as before.
        let sent = |second: u64| match second {
            0..4 => 10,
            4..10 => 10 << (second - 3),
            _ => 640 * (second as u32 - 8),
        };
        let looks: Vec<_> = (0..13).map(|second| (second, sent(second), 0, 300)).collect();
        let chosen = choices(&looks);
        let changes: Vec<_> =
            chosen.iter().zip(0..).filter_map(|(control, at)| Some(((*control)?, at))).collect();
        assert_eq!(changes, [(Control::Bbr, 0), (Control::System, 11)]);
        // Not for ever.
        let looks: Vec<_> =
            (0..40).map(|second| (second, 1.3_f64.powi(second as i32 + 8) as u32, 0, 300)).collect();
        let last = choices(&looks).iter().rposition(Option::is_some);
        assert_eq!(last, Some(30));
    }

    #[test]
    fn a_way_that_loses_packets_gets_bbr_where_they_cost_time() {
        let lossy = Some(Control::Bbr);
        assert_eq!(choices(&[(0, 10, 0, 40), (1, 300, 2, 40), (2, 600, 6, 40)]), [None, None, lossy]);
        assert_eq!(choices(&[(0, 10, 0, 40), (1, 30_000, 50, 40)]), [None, None], "one full queue");
        assert_eq!(choices(&[(0, 10, 0, 1), (1, 300, 30, 1)]), [None, None], "the LAN");
        // After a long time without losses these count as well.
        let late = choices(&[(0, 10, 0, 40), (1, 900_000, 0, 40), (2, 900_600, 6, 40)]);
        assert_eq!(late, [None, None, lossy]);
        // One that is long and loses keeps it.
        assert_eq!(choices(&[(0, 10, 0, 150), (1, 600, 6, 150), (9, 6_000, 60, 150)]), [lossy, None, None]);
    }

    #[test]
    fn answers_that_are_cut_off_say_nothing() {
        let (one, _two) = used("127.0.0.1:0", 100);
        let question = question(one.local_addr().expect("one"), one.peer_addr().expect("one"));
        let Ways(Some(socket)) = Ways::new() else { panic!("no socket diagnostics") };
        let mut answer = [0; ANSWER_BYTES];
        let count = kernel::ask(&socket.lock().expect("free"), &question, &mut answer).expect("answers");
        assert!(counts(&answer[..count]).is_some());
        for cut in 0..count {
            // Later kernels have longer structures: what is needed may be whole.
            let _ = counts(&answer[..cut]);
        }
        assert_eq!(counts(&answer[..ATTRIBUTES_AT]), None);
        assert_eq!(counts(&[]), None);
    }
}
