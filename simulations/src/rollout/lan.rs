//! The network inside a site: network cards on a switch that is never full, and the air of each access point.

use super::queue::{Nanos, Passage, Queue};
use super::site::{Place, Site};

/// From one device to another, for a message that waits nowhere.
pub const LATENCY: Nanos = 300_000;
/// What a payload is on a link: frames, TCP and TLS around it (docs/lab.md).
pub const HEADERS: f64 = 1.038;

/// What a payload of so many bytes takes up on a link.
pub fn on_link(payload: u64) -> u64 {
    (payload as f64 * HEADERS) as u64
}

/// All links of a site.
#[derive(Debug)]
pub struct Lan {
    stations: Vec<Station>,
    air: Vec<Queue>,
}

/// What carries one device's traffic.
#[derive(Debug)]
enum Station {
    Wired { out: Queue, into: Queue },
    Air(usize),
}

impl Lan {
    /// The links of a site; `air` is the rate of each access point in bytes per second.
    pub fn new(site: &Site, air: f64) -> Lan {
        let station = |place: &Place| match place {
            Place::Wired(rate) => Station::Wired { out: Queue::new(*rate), into: Queue::new(*rate) },
            Place::Air(point) => Station::Air(*point),
        };
        let stations = site.places.iter().map(station).collect();
        Lan { stations, air: vec![Queue::new(air); site.access_points] }
    }

    /// A device sends a payload at `at`, behind what it sends already.
    pub fn send(&mut self, at: Nanos, from: usize, payload: u64) -> Passage {
        let bytes = on_link(payload);
        match &mut self.stations[from] {
            Station::Wired { out, .. } => out.pass(at, bytes),
            Station::Air(point) => self.air[*point].pass(at, bytes),
        }
    }

    /// The same payload reaches another device, which began to be sent now and is sent until `sent`; when all of it is
    /// there. The switch passes on what it has, and the slower link decides. From one device of an access point to
    /// another it passes the air twice.
    pub fn receive(&mut self, now: Nanos, sent: Nanos, to: usize, payload: u64) -> Nanos {
        let bytes = on_link(payload);
        let passage = match &mut self.stations[to] {
            Station::Wired { into, .. } => into.pass(now, bytes),
            Station::Air(point) => self.air[*point].pass(now, bytes),
        };
        passage.end.max(sent) + LATENCY
    }

    /// What came over the WAN until `at` reaches a device: on a wire at once, since the WAN is slower, and through the air
    /// behind what is there.
    pub fn deliver(&mut self, at: Nanos, to: usize, payload: u64) -> Nanos {
        match &mut self.stations[to] {
            Station::Wired { .. } => at,
            Station::Air(point) => self.air[*point].pass(at, on_link(payload)).end,
        }
    }
}
