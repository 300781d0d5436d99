//! Who may send next: sites in turn, whatever the number of their fetchers, and the devices of a site in turn, under caps.
//!
//! Fair queueing by start tags (Goyal, Vin and Cheng, 1996): who got the fewest bytes so far goes first. Deficit round
//! robin, which needs every queue to hold its next packet, would pass over a site with one fetcher, whose next bytes are
//! only there when those before have left.

use crate::identifier::{DeviceId, SiteName};
use crate::limits;
use crate::rate::{Bucket, Rate};
use crate::time::Moment;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Bytes that leave in one turn take this long at the rate that holds, so that they do not come in bursts.
const TURN: Duration = Duration::from_millis(8);
/// And within this time everybody who waits has had a turn, so that nobody takes a long queue for a dead peer.
const ROUND: Duration = Duration::from_secs(4);
/// A turn is not smaller: its header would be what fills the link.
const LEAST_BYTES: u64 = 256;
/// Whoever got less than others while it waited for its own cap catches up by no more than this.
const CATCH_UP: u64 = limits::BLOCK_BYTES as u64;

/// Names somebody who waits for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Caps under which this node serves pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ceilings {
    /// For all that it serves together.
    pub total: Option<Rate>,
    /// For what each site gets of it.
    pub sites: BTreeMap<SiteName, Rate>,
}

/// The turns of everybody to whom a node serves pieces.
#[derive(Debug, Default)]
pub struct Turns {
    ceilings: Ceilings,
    total: Option<Bucket>,
    sites: BTreeMap<SiteName, Queue<SiteQueue>>,
    /// Start tag of the turn before.
    virtual_time: u64,
    next_ticket: u64,
}

/// One side of a fair queue: what waits there, and how far its turns have come.
#[derive(Debug, Default)]
struct Queue<T> {
    /// Bytes that it got, on the scale of its siblings' virtual time.
    tag: u64,
    waiting: usize,
    inner: T,
}

#[derive(Debug, Default)]
struct SiteQueue {
    bucket: Option<Bucket>,
    virtual_time: u64,
    devices: BTreeMap<DeviceId, Queue<VecDeque<(Ticket, u64)>>>,
}

impl<T> Queue<T> {
    /// Where its next turn begins.
    fn start(&self, virtual_time: u64) -> u64 {
        self.tag.max(virtual_time.saturating_sub(CATCH_UP))
    }

    fn took(&mut self, virtual_time: &mut u64, bytes: u64) {
        let start = self.start(*virtual_time);
        *virtual_time = (*virtual_time).max(start);
        self.tag = start + bytes;
    }

    /// Whether forgetting it changes nothing.
    fn is_past(&self, virtual_time: u64) -> bool {
        self.waiting == 0 && self.tag <= virtual_time
    }
}

impl Turns {
    /// From now on these caps hold; what was owed stays owed.
    pub fn set_ceilings(&mut self, ceilings: Ceilings) {
        update(&mut self.total, ceilings.total);
        for (site, queue) in &mut self.sites {
            update(&mut queue.inner.bucket, ceilings.sites.get(site).copied());
        }
        self.ceilings = ceilings;
    }

    /// Whether anything that goes to `site` has to wait for turns at all.
    pub fn are_needed(&self, site: &SiteName) -> bool {
        self.total.is_some() || self.ceilings.sites.contains_key(site)
    }

    /// `device` wants to be sent so many bytes; [`Turns::poll`] gives the ticket back when some of them may go.
    pub fn ask(&mut self, now: Moment, site: &SiteName, device: DeviceId, bytes: u64) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        if !self.sites.contains_key(site) {
            let (virtual_time, paid) = (self.virtual_time, |bucket: &Bucket| bucket.is_ready(now));
            self.sites.retain(|_, queue| {
                !queue.is_past(virtual_time) || !queue.inner.bucket.as_ref().is_none_or(paid)
            });
            let bucket = self.ceilings.sites.get(site).copied().map(Bucket::new);
            let inner = SiteQueue { bucket, ..SiteQueue::default() };
            self.sites.insert(site.clone(), Queue { inner, ..Queue::default() });
        }
        if let Some(queue) = self.sites.get_mut(site) {
            queue.waiting += 1;
            let inner = &mut queue.inner;
            if !inner.devices.contains_key(&device) {
                let virtual_time = inner.virtual_time;
                inner.devices.retain(|_, lane| !lane.is_past(virtual_time));
            }
            let lane = inner.devices.entry(device).or_default();
            lane.waiting += 1;
            lane.inner.push_back((ticket, bytes));
        }
        ticket
    }

    /// Who may send now, and how many bytes of what was asked for; the rest needs another turn.
    pub fn poll(&mut self, now: Moment) -> Option<(Ticket, u64)> {
        if self.total.is_some_and(|total| !total.is_ready(now)) {
            return None;
        }
        let ready = |queue: &Queue<SiteQueue>| {
            queue.waiting > 0 && queue.inner.bucket.is_none_or(|bucket| bucket.is_ready(now))
        };
        let virtual_time = self.virtual_time;
        let waiting: usize = self.sites.values().map(|queue| queue.waiting).sum();
        let sites = self.sites.values_mut().filter(|queue| ready(queue));
        let site = sites.min_by_key(|queue| queue.start(virtual_time))?;
        let most = turn(self.total, waiting).min(turn(site.inner.bucket, site.waiting));
        let (ticket, bytes) = site.inner.next(most)?;
        site.waiting -= 1;
        site.took(&mut self.virtual_time, bytes);
        for bucket in self.total.iter_mut().chain(&mut site.inner.bucket) {
            bucket.take(now, bytes);
        }
        if waiting == 1 {
            // Nobody waits any more, so nobody is ahead of anybody.
            let furthest = self.sites.values().map(|queue| queue.tag).max();
            self.virtual_time = self.virtual_time.max(furthest.unwrap_or_default());
        }
        Some((ticket, bytes))
    }

    /// When to call [`Turns::poll`] again although nobody asked; `None` while nobody waits, or nothing may pass.
    pub fn next_wake(&self) -> Option<Moment> {
        let waiting = self.sites.values().filter(|queue| queue.waiting > 0);
        let ready = |bucket: Option<Bucket>| bucket.map_or(Some(Moment::START), |bucket| bucket.ready_at());
        let first = waiting.filter_map(|queue| ready(queue.inner.bucket)).min()?;
        Some(ready(self.total)?.max(first))
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.sites.values().map(|queue| queue.waiting).sum()
    }
}

impl SiteQueue {
    /// Takes the next one who waits, of the device whose turn it is, for at most so many bytes.
    fn next(&mut self, most: u64) -> Option<(Ticket, u64)> {
        let virtual_time = self.virtual_time;
        let lanes = self.devices.values_mut().filter(|lane| lane.waiting > 0);
        let lane = lanes.min_by_key(|lane| lane.start(virtual_time))?;
        let (ticket, wanted) = lane.inner.pop_front()?;
        let bytes = wanted.min(most);
        lane.waiting -= 1;
        lane.took(&mut self.virtual_time, bytes);
        if self.devices.values().all(|lane| lane.waiting == 0) {
            let furthest = self.devices.values().map(|lane| lane.tag).max();
            self.virtual_time = self.virtual_time.max(furthest.unwrap_or_default());
        }
        Some((ticket, bytes))
    }
}

/// Bytes of one turn at a bucket's rate, when so many wait for it.
fn turn(bucket: Option<Bucket>, waiting: usize) -> u64 {
    let Some(rate) = bucket.map(|bucket| bucket.rate()) else { return limits::BLOCK_BYTES as u64 };
    let each = rate.bytes_in(ROUND) / (waiting.max(1) as u64);
    rate.bytes_in(TURN).min(each).clamp(LEAST_BYTES, limits::BLOCK_BYTES as u64)
}

fn update(bucket: &mut Option<Bucket>, rate: Option<Rate>) {
    match (bucket.as_mut(), rate) {
        (Some(bucket), Some(rate)) => bucket.set_rate(rate),
        (_, rate) => *bucket = rate.map(Bucket::new),
    }
}

#[cfg(test)]
mod tests;
