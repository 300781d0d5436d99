//! Discovery by multicast on one link: when to ask, when to answer, when to keep silent, whom one has heard.
//!
//! The rules are those of multicast DNS (RFC 6762, whose sections are named below), and one of our own: an answer is given
//! with a probability that falls with the number of devices heard, so that a question costs a site of any size about as
//! much. Nothing heard is trusted; the core dials some of it, and the membership check decides.

use crate::identifier::DeviceId;
use crate::limits;
use crate::random::Random;
use crate::time::Moment;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// Connected neighbours with which a device asks no more.
const ENOUGH_NEIGHBOURS: usize = 8;
/// Devices heard with which it does not ask either, as long as it is new on the link: it may take a while to connect.
const ENOUGH_HEARD: usize = 24;
/// Answers that a question should get, however many devices hear it.
const WANTED_ANSWERS: usize = 16;
/// Before the first question of a device, in milliseconds (section 5.2).
const FIRST_QUESTION: (u64, u64) = (20, 120);
/// Before an answer that others give too, in milliseconds (section 6).
const ANSWER_DELAY: (u64, u64) = (20, 120);
/// Instead of that, when the question says that more of what is known follows (section 7.2).
const MORE_DELAY: (u64, u64) = (400, 500);
/// Before the first announcement, in milliseconds.
const FIRST_ANNOUNCEMENT: (u64, u64) = (20, 250);
/// From the first announcement to the second, in milliseconds (section 8.3: at least one second).
const SECOND_ANNOUNCEMENT: (u64, u64) = (1_000, 2_000);
/// The same record goes to a link no more often than this (section 6).
const SAME_RECORD: Duration = Duration::from_secs(1);
/// First pause between two questions; it doubles (section 5.2).
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Longest such pause.
const PAUSE_MOST: Duration = Duration::from_secs(3_600);
/// With pauses shorter than this, a device counts as new on the link.
const PAUSE_NEW: Duration = Duration::from_secs(8);
/// Before a device asks again that lost its neighbours, in milliseconds: many lose them together.
const LOST_DELAY: (u64, u64) = (1_000, 5_000);
/// A device that answers again is told of again after this long: it may have been unreachable.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// How often devices are looked for whose time is over.
const SWEEP: Duration = Duration::from_secs(60);

/// How long what a device says of itself holds (section 10: 75 minutes).
pub const LIFETIME: Duration = Duration::from_secs(75 * 60);

/// One fact about the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Somebody asks which devices there are.
    Asked {
        /// Those that it knows already.
        known: BTreeSet<DeviceId>,
        /// Whether more of those follow in another message.
        more_follow: bool,
    },
    /// More of what the one knows who asked just now.
    Knows(BTreeSet<DeviceId>),
    /// Somebody asks for this very device.
    AskedForUs,
    /// A device says where it is.
    Heard(Sighting),
    /// How many neighbours are connected.
    Neighbours(usize),
    /// The time has come that [`Discovery::next_wake`] named.
    Wake,
}

/// What a device says of itself, or somebody in its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The device.
    pub device: DeviceId,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// For how long it says so; zero when it leaves.
    pub lifetime: Duration,
}

/// What to do on the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask everybody which devices there are.
    Ask {
        /// Devices that need not answer.
        known: Vec<DeviceId>,
    },
    /// Tell everybody where this device listens.
    Tell,
    /// A device was found, or it moved, or it is there again.
    Found {
        /// The device.
        device: DeviceId,
        /// Where it says it listens.
        addresses: Vec<SocketAddr>,
    },
}

/// A device that was heard.
#[derive(Debug)]
struct Heard {
    addresses: Vec<SocketAddr>,
    since: Moment,
    until: Moment,
    told: Moment,
}

/// An answer that waits for its moment.
#[derive(Debug)]
struct Answer {
    at: Moment,
    /// Devices that answered since the question came.
    others: usize,
    /// Whether the question was for this device alone.
    ours: bool,
}

/// Discovery on one link, for one device.
#[derive(Debug)]
pub struct Discovery {
    device: DeviceId,
    random: Random,
    heard: BTreeMap<DeviceId, Heard>,
    neighbours: usize,
    /// When to ask next, and the pause after that.
    question: Moment,
    pause: Duration,
    /// Announcements still to be made, and when the next is due.
    announcements: u8,
    announcement: Moment,
    answer: Option<Answer>,
    /// When this device last said where it is.
    spoke: Option<Moment>,
    sweep: Moment,
    outputs: VecDeque<Output>,
}

impl Discovery {
    /// Discovery for `device`, which is on the link from `now` on. All randomness follows from `seed`.
    pub fn new(device: DeviceId, seed: u64, now: Moment) -> Discovery {
        let mut discovery = Discovery {
            device,
            random: Random::new(seed),
            heard: BTreeMap::new(),
            neighbours: 0,
            question: now,
            pause: PAUSE_FIRST,
            announcements: 2,
            announcement: now,
            answer: None,
            spoke: None,
            sweep: now + SWEEP,
            outputs: VecDeque::new(),
        };
        discovery.question = now + discovery.draw(FIRST_QUESTION);
        discovery.announcement = now + discovery.draw(FIRST_ANNOUNCEMENT);
        discovery
    }

    /// Takes one fact. Afterwards [`Discovery::poll`] has what follows from it.
    pub fn handle(&mut self, now: Moment, input: Input) {
        match input {
            Input::Asked { known, more_follow } => self.on_asked(now, &known, more_follow),
            Input::Knows(known) => self.on_known(&known),
            Input::AskedForUs => self.on_asked_for_us(now),
            Input::Heard(sighting) => self.on_heard(now, sighting),
            Input::Neighbours(count) => self.on_neighbours(now, count),
            Input::Wake => {}
        }
        self.settle(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Discovery::handle`] although nothing was heard.
    pub fn next_wake(&self) -> Moment {
        let announcement = (self.announcements > 0).then_some(self.announcement);
        let answer = self.answer.as_ref().map(|answer| answer.at);
        let timers = [Some(self.question), Some(self.sweep), announcement, answer];
        timers.into_iter().flatten().min().unwrap_or(self.sweep)
    }

    /// Whether anybody was told of this device, and is to be told when it leaves.
    pub fn has_spoken(&self) -> bool {
        self.spoke.is_some()
    }

    /// Devices heard that are there as far as one knows.
    pub fn heard(&self) -> usize {
        self.heard.len()
    }

    fn on_asked(&mut self, now: Moment, known: &BTreeSet<DeviceId>, more_follow: bool) {
        // The answers to it are for everybody: whoever would ask the same needs not (section 7.3). One device will not
        // answer: the one that asks. Where there are few, it may be the one that matters.
        let covers = self.heard.len() >= ENOUGH_NEIGHBOURS
            && known.iter().all(|device| *device == self.device || self.heard.contains_key(device));
        if covers && self.question <= now + PAUSE_FIRST {
            self.ask_later(now);
        }
        if known.contains(&self.device) || !self.answers() || self.answer.is_some() {
            return;
        }
        let delay = self.draw(if more_follow { MORE_DELAY } else { ANSWER_DELAY });
        self.answer = Some(Answer { at: self.not_again_before(now + delay), others: 0, ours: false });
    }

    fn on_known(&mut self, known: &BTreeSet<DeviceId>) {
        if known.contains(&self.device) {
            self.answer.take_if(|answer| !answer.ours);
        }
    }

    fn on_asked_for_us(&mut self, now: Moment) {
        self.answer = Some(Answer { at: self.not_again_before(now), others: 0, ours: true });
    }

    /// Whether to answer a question to all: about as many do as are wanted.
    fn answers(&mut self) -> bool {
        let devices = self.heard.len() + 1;
        devices <= WANTED_ANSWERS || self.random() % (devices as u64) < WANTED_ANSWERS as u64
    }

    fn on_heard(&mut self, now: Moment, sighting: Sighting) {
        let Sighting { device, mut addresses, lifetime } = sighting;
        if device == self.device {
            return;
        }
        if lifetime.is_zero() {
            self.heard.remove(&device);
            return;
        }
        if let Some(answer) = &mut self.answer {
            answer.others += 1;
        }
        self.answer.take_if(|answer| !answer.ours && answer.others >= WANTED_ANSWERS);
        addresses.truncate(limits::ADDRESSES_PER_DEVICE);
        let until = now + lifetime.min(LIFETIME);
        let before = self.heard.get(&device);
        let is_news =
            before.is_none_or(|before| before.addresses != addresses || now.since(before.told) >= TELL_AGAIN);
        let told = before.filter(|_| !is_news).map_or(now, |before| before.told);
        if before.is_none() && self.heard.len() >= limits::DEVICES_HEARD {
            return;
        }
        self.heard.insert(device, Heard { addresses: addresses.clone(), since: now, until, told });
        if is_news && !addresses.is_empty() {
            self.outputs.push_back(Output::Found { device, addresses });
        }
    }

    fn on_neighbours(&mut self, now: Moment, count: usize) {
        let before = std::mem::replace(&mut self.neighbours, count);
        let too_few = before >= ENOUGH_NEIGHBOURS && count < ENOUGH_NEIGHBOURS;
        // A small site never had enough.
        if too_few || (before > 0 && count == 0) {
            self.pause = PAUSE_FIRST;
            self.question = now + self.draw(LOST_DELAY);
        }
    }

    fn settle(&mut self, now: Moment) {
        if self.sweep <= now {
            self.heard.retain(|_, heard| heard.until > now);
            self.sweep = now + SWEEP;
        }
        if self.question <= now {
            if self.wants_more() {
                let known = self.known(now);
                self.outputs.push_back(Output::Ask { known });
            }
            self.ask_later(now);
        }
        if self.announcements > 0 && self.announcement <= now {
            self.announcement = self.not_again_before(self.announcement);
            if self.announcement <= now {
                self.announcements -= 1;
                self.announcement = now + self.draw(SECOND_ANNOUNCEMENT);
                self.tell(now);
            }
        }
        if self.answer.as_ref().is_some_and(|answer| answer.at <= now) {
            self.tell(now);
        }
    }

    /// Says where this device is. That answers everybody who asked until now.
    fn tell(&mut self, now: Moment) {
        self.answer = None;
        self.spoke = Some(now);
        self.outputs.push_back(Output::Tell);
    }

    fn wants_more(&self) -> bool {
        let is_new = self.pause < PAUSE_NEW;
        self.neighbours < ENOUGH_NEIGHBOURS && !(is_new && self.heard.len() >= ENOUGH_HEARD)
    }

    fn ask_later(&mut self, now: Moment) {
        // Whoever began together does not go on together.
        let jitter = self.draw((0, 20 + u64::try_from(self.pause.as_millis()).unwrap_or(0) / 8));
        self.question = now + self.pause + jitter;
        self.pause = self.pause.saturating_mul(2).min(PAUSE_MOST);
    }

    /// Some of the devices of which enough is known for half of their time at least (section 7.1).
    fn known(&mut self, now: Moment) -> Vec<DeviceId> {
        let is_fresh = |heard: &Heard| heard.until.since(now) > now.since(heard.since);
        let mut fresh: Vec<DeviceId> =
            self.heard.iter().filter(|(_, heard)| is_fresh(heard)).map(|(device, _)| *device).collect();
        let mut known = Vec::new();
        while known.len() < limits::KNOWN_ANSWERS && !fresh.is_empty() {
            let at = usize::try_from(self.random() % fresh.len() as u64).unwrap_or(0);
            known.push(fresh.swap_remove(at));
        }
        known
    }

    fn not_again_before(&self, at: Moment) -> Moment {
        self.spoke.map_or(at, |spoke| at.max(spoke + SAME_RECORD))
    }

    fn draw(&mut self, (from, to): (u64, u64)) -> Duration {
        Duration::from_micros(from * 1_000 + self.random() % ((to - from) * 1_000 + 1))
    }

    /// A number that follows from the seed alone.
    fn random(&mut self) -> u64 {
        self.random.draw()
    }
}

#[cfg(test)]
mod tests;
