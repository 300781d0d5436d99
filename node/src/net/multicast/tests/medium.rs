//! A modelled medium: whatever one device sends, all others hear a moment later; every packet is counted once.

use super::*;
use std::cmp::Reverse;

/// Ethernet with preamble and gap (38), IPv6 (40) and UDP (8): what a packet costs beside its message. IPv4 costs 20 less.
const HEADERS: usize = 38 + 40 + 8;
/// From one device to the others, in microseconds.
const LATENCY: Duration = Duration::from_micros(300);

/// What happens next.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Start(usize),
    Wake(usize),
    /// The message with this number reaches everybody.
    Arrive(usize),
}

/// One device: its machine while it is on, and whom it found.
struct Station {
    device: DeviceId,
    began: Moment,
    discovery: Option<Discovery>,
    /// The wake-up that is in the queue.
    wake: Option<Moment>,
    found: BTreeSet<DeviceId>,
    /// When it had found as many as it needs.
    content: Option<Moment>,
}

/// Many devices on one link.
struct Medium {
    now: Moment,
    next: BinaryHeap<Reverse<(Moment, u64, Next)>>,
    order: u64,
    stations: Vec<Station>,
    messages: Vec<(usize, Vec<u8>)>,
    /// Messages that get lost, out of a hundred, for each that could hear them.
    loss: u64,
    random: u64,
    needs: usize,
    /// Whether those that are found get connected.
    connects: bool,
    packets: usize,
    bytes: usize,
}

impl Medium {
    /// Devices that start at random within `spread`; each needs to find `needs` others.
    fn new(devices: usize, spread: Duration, needs: usize, seed: u64) -> Medium {
        let mut medium = Medium {
            now: Moment::START,
            next: BinaryHeap::new(),
            order: 0,
            stations: Vec::new(),
            messages: Vec::new(),
            loss: 0,
            random: seed,
            needs,
            connects: true,
            packets: 0,
            bytes: 0,
        };
        for number in 0..devices {
            let spread = u64::try_from(spread.as_micros()).expect("short");
            let began = Moment::from_micros(medium.draw() % (spread + 1));
            let device = device(u32::try_from(number).expect("few"));
            medium.stations.push(Station {
                device,
                began,
                discovery: None,
                wake: None,
                found: BTreeSet::new(),
                content: None,
            });
            medium.push(began, Next::Start(number));
        }
        medium
    }

    fn draw(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    fn push(&mut self, at: Moment, next: Next) {
        self.order += 1;
        self.next.push(Reverse((at, self.order, next)));
    }

    fn run(&mut self, until: Moment) {
        while let Some(Reverse((at, _, _))) = self.next.peek()
            && *at <= until
        {
            let Some(Reverse((at, _, next))) = self.next.pop() else { return };
            self.now = at;
            match next {
                Next::Start(number) => {
                    let seed = self.draw();
                    let station = &mut self.stations[number];
                    station.discovery = Some(Discovery::new(station.device, seed, at));
                    self.handle(number, Input::Wake);
                }
                Next::Wake(number) => {
                    let due = self.stations[number].discovery.as_ref().map(Discovery::next_wake);
                    if due.is_some_and(|due| due <= at) {
                        self.handle(number, Input::Wake);
                    }
                }
                Next::Arrive(message) => self.arrive(message),
            }
        }
    }

    fn arrive(&mut self, message: usize) {
        let (from, bytes) = self.messages[message].clone();
        // Only a question for the very device reads differently for each of them, and nobody asks one here.
        let inputs = message::read(&bytes, self.stations[from].device);
        assert!(!inputs.is_empty(), "what we send can be read");
        for number in (0..self.stations.len()).filter(|number| *number != from) {
            if self.stations[number].discovery.is_none() || self.draw() % 100 < self.loss {
                continue;
            }
            for input in &inputs {
                self.handle(number, input.clone());
            }
        }
    }

    fn handle(&mut self, number: usize, input: Input) {
        let (now, needs, connects) = (self.now, self.needs, self.connects);
        let station = &mut self.stations[number];
        let Some(discovery) = &mut station.discovery else { return };
        discovery.handle(now, input);
        let mut sent = Vec::new();
        let mut news = false;
        while let Some(output) = discovery.poll() {
            match output {
                Output::Ask { known } => sent.push(message::question(&known)),
                Output::Tell => sent.push(message::answer(station.device, &addresses())),
                Output::Found { device, .. } => news |= station.found.insert(device),
            }
        }
        if news && station.content.is_none() && station.found.len() >= needs {
            station.content = Some(now);
        }
        if news && connects {
            discovery.handle(now, Input::Neighbours(station.found.len().min(8)));
        }
        let wake = discovery.next_wake();
        if station.wake.replace(wake) != Some(wake) {
            self.push(wake, Next::Wake(number));
        }
        for bytes in sent {
            self.packets += 1;
            self.bytes += bytes.len() + HEADERS;
            self.messages.push((number, bytes));
            self.push(now + LATENCY, Next::Arrive(self.messages.len() - 1));
        }
    }

    /// How long the slowest device took from its own start, or the number of those that did not get there.
    fn slowest(&self) -> Result<Duration, usize> {
        let took: Vec<Duration> = (self.stations.iter())
            .filter_map(|station| station.content.map(|at| at.since(station.began)))
            .collect();
        match self.stations.len() - took.len() {
            0 => Ok(took.into_iter().max().unwrap_or_default()),
            missing => Err(missing),
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Moment {
    Moment::START + Duration::from_secs(seconds)
}

fn report(what: &str, medium: &Medium) {
    println!(
        "{what}: {} packets, {} bytes in {} s, slowest {:?}",
        medium.packets,
        medium.bytes,
        medium.now.as_micros() / 1_000_000,
        medium.slowest()
    );
}

// 20 MB would be allowed for both families, each of which has packets of its own.
const BUDGET: usize = 1_500_000;

#[test]
fn seven_hundred_and_fifty_devices_start_in_the_same_second() {
    let mut medium = Medium::new(750, SECOND, 8, 1);
    medium.run(at(60));
    report("750 devices", &medium);
    assert!(medium.bytes <= BUDGET, "{} bytes", medium.bytes);
    assert!(
        medium.slowest().is_ok_and(|slowest| slowest <= Duration::from_secs(5)),
        "{:?}",
        medium.slowest()
    );
    // Later on hardly anything is said.
    let before = medium.bytes;
    medium.run(at(3_600));
    assert!(medium.bytes - before <= BUDGET / 10, "{} bytes in an hour", medium.bytes - before);
}

#[test]
fn nobody_can_be_reached_and_a_fifth_of_all_packets_is_lost() {
    let mut medium = Medium::new(750, SECOND, 8, 2);
    (medium.loss, medium.connects) = (20, false);
    medium.run(at(60));
    report("750 devices, none reachable, 20 % lost", &medium);
    assert!(medium.bytes <= BUDGET, "{} bytes", medium.bytes);
    assert!(
        medium.slowest().is_ok_and(|slowest| slowest <= Duration::from_secs(5)),
        "{:?}",
        medium.slowest()
    );
}

#[test]
fn small_sites_know_each_other_within_a_second() {
    for devices in [2, 3, 8, 50] {
        for seed in 0..20 {
            for spread in [Duration::ZERO, SECOND, 60 * SECOND] {
                let mut medium = Medium::new(devices, spread, (devices - 1).min(8), seed);
                medium.run(at(120));
                let late = medium.stations.iter().filter(|one| {
                    // Whoever waits for the second device to start is not late.
                    let last = medium.stations.iter().map(|other| other.began).max();
                    let ready = last.unwrap_or(one.began).max(one.began);
                    one.content.is_none_or(|content| content.since(ready) > 1_300 * Duration::from_millis(1))
                });
                assert_eq!(late.count(), 0, "{devices} devices within {spread:?}, seed {seed}");
                assert!(medium.bytes <= 1_000 * devices * devices.min(30) + 4_000, "{} bytes", medium.bytes);
            }
        }
    }
}

#[test]
fn one_more_device_in_a_large_site_costs_little() {
    for seed in 0..5 {
        let mut medium = Medium::new(300, SECOND, 8, seed);
        medium.run(at(30));
        let (before, number) = (medium.bytes, medium.stations.len());
        let device = device(9_000);
        medium.stations.push(Station {
            device,
            began: at(30),
            discovery: None,
            wake: None,
            found: BTreeSet::new(),
            content: None,
        });
        medium.push(at(30), Next::Start(number));
        medium.run(at(40));
        report("one more in 300", &medium);
        let took = medium.stations[number].content.map(|content| content.since(at(30)));
        assert!(took.is_some_and(|took| took <= Duration::from_secs(3)), "{took:?}");
        assert!(medium.bytes - before <= 20_000, "{} bytes", medium.bytes - before);
    }
}
