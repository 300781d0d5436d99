//! Places for connections of strangers, of which no network can keep all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// For so long a connection gives way to nobody whose network has no fewer: an honest crowd, all of an office behind a thin uplink,
/// would keep itself from ever getting through.
const GRACE: Duration = Duration::from_secs(3);

/// So many places. When all are taken, the network with the most of them gives one up, the oldest, to a network with fewer; among
/// equals the oldest goes when it has had its time.
#[derive(Clone, Debug)]
pub struct Places {
    taken: Arc<Mutex<Taken>>,
    number: usize,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// By age, the oldest first.
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    network: IpAddr,
    since: Instant,
    settled: bool,
    gone: CancellationToken,
}

/// A place of one connection, free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    taken: Arc<Mutex<Taken>>,
    key: u64,
    gone: CancellationToken,
}

impl Places {
    /// So many.
    pub fn new(number: usize) -> Places {
        Places { taken: Arc::default(), number }
    }

    /// A place for one more connection `from` there, at the cost of another one if it must be; `None` when it has to go itself.
    pub fn take(&self, from: IpAddr) -> Option<Place> {
        self.take_at(from, Instant::now())
    }

    fn take_at(&self, from: IpAddr, now: Instant) -> Option<Place> {
        let network = network_of(from);
        let mut taken = lock(&self.taken);
        if taken.connections.len() >= self.number {
            let leaves = taken.who_leaves_for(network, now)?;
            let left = taken.connections.remove(&leaves)?;
            left.gone.cancel();
        }
        let key = taken.next;
        taken.next += 1;
        let gone = CancellationToken::new();
        let connection = Connection { network, since: now, settled: false, gone: gone.clone() };
        taken.connections.insert(key, connection);
        Some(Place { taken: self.taken.clone(), key, gone })
    }
}

impl Taken {
    fn who_leaves_for(&self, network: IpAddr, now: Instant) -> Option<u64> {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for connection in self.connections.values() {
            *counts.entry(connection.network).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let own = counts.get(&network).copied().unwrap_or_default();
        let of_the_most =
            self.connections.iter().filter(|(_, other)| counts.get(&other.network) == Some(&most));
        // One more of its own and one less there must not only turn the tables.
        let fairer = own + 1 < most;
        let mut may_leave = of_the_most.filter(|(_, other)| {
            fairer || !other.settled && now.saturating_duration_since(other.since) >= GRACE
        });
        may_leave.next().map(|(key, _)| *key)
    }
}

impl Place {
    /// Completes when the place was given to another connection: this one has to end.
    pub fn gone(&self) -> WaitForCancellationFutureOwned {
        self.gone.clone().cancelled_owned()
    }

    /// What the connection wants is known and being done: among equals it gives way to nobody any more.
    pub fn settle(&self) {
        if let Some(connection) = lock(&self.taken).connections.get_mut(&self.key) {
            connection.settled = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.taken).connections.remove(&self.key);
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever has one address of IPv6 has the whole network of 64 bits.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn is_gone(place: &Place) -> bool {
        place.gone.is_cancelled()
    }

    #[test]
    fn a_network_that_has_most_gives_way_to_one_that_has_fewer() {
        let (places, now) = (Places::new(8), Instant::now());
        let take = |address: &str| places.take_at(from(address), now);
        let crowd: Vec<Place> = (0..8).filter_map(|_| take("192.0.2.1")).collect();
        assert_eq!(crowd.len(), 8, "who is alone may have all");
        assert!(
            take("192.0.2.1").is_none() && take("::ffff:192.0.2.1").is_none(),
            "nobody pushes itself out"
        );
        let member = take("192.0.2.2").expect("the crowd gives way");
        assert_eq!(
            crowd.iter().map(is_gone).collect::<Vec<_>>(),
            [true, false, false, false, false, false, false, false]
        );
        let more: Vec<Place> = (0..3).filter_map(|_| take("192.0.2.2")).collect();
        assert!(more.len() == 3 && take("192.0.2.2").is_none(), "as far as both have the same");
        assert!(!is_gone(&member));
        drop(crowd);
        assert_eq!(lock(&places.taken).connections.len(), 4);
    }

    #[test]
    fn a_network_of_ipv6_is_one() {
        let (places, now) = (Places::new(4), Instant::now());
        let crowd: Vec<Place> =
            (0..4).filter_map(|number| places.take_at(from(&format!("2001:db8::{number:x}")), now)).collect();
        assert!(crowd.len() == 4 && places.take_at(from("2001:db8::ffff"), now).is_none());
        assert!(places.take_at(from("2001:db8:0:1::1"), now).is_some());
    }

    #[test]
    fn among_equals_the_oldest_has_its_time() {
        let (places, now) = (Places::new(4), Instant::now());
        let first: Vec<Place> =
            (0..4).filter_map(|number| places.take_at(IpAddr::from([192, 0, 2, number]), now)).collect();
        assert!(places.take_at(from("198.51.100.1"), now).is_none());
        first[0].settle();
        let later = now + GRACE;
        let _kept = places.take_at(from("198.51.100.1"), later).expect("their time is over");
        assert_eq!(first.iter().map(is_gone).collect::<Vec<_>>(), [false, true, false, false]);
        let _own = places.take_at(from("192.0.2.2"), later).expect("the next one");
        assert_eq!(first.iter().map(is_gone).collect::<Vec<_>>(), [false, true, true, false]);
    }
}
