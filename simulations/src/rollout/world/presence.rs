//! Who is there: devices that are switched on and off, find neighbours and the seed, and hear of the patch.

use super::{Event, SEED, Stuck, World, count};
use crate::rollout::device::Device;
use crate::rollout::queue::{Nanos, SECOND};
use crate::rollout::site::DAY;
use crate::rollout::wan::Connection;
use protocol::crowd;
use protocol::limits;
use protocol::wire::Holding;

/// Neighbours that a device looks for (docs/decisions/0036).
const WANTED: usize = 8;
/// From being switched on to having found neighbours, in milliseconds.
const MEETING: (u64, u64) = (100, 600);
/// From being switched on to the first word on the LAN (protocol::discovery), in milliseconds.
const FIRST_WORD: (u64, u64) = (20, 250);
/// After neighbours are gone (docs/decisions/0036), in milliseconds.
const MEETING_AGAIN: (u64, u64) = (1_000, 3_000);
/// Within this time of the approval all devices that are on have the new metadata, in milliseconds.
const HEARING: (u64, u64) = (0, 1_000);
/// A device that is switched on later has it after this time.
const HEARING_LATER: Nanos = 2 * SECOND;
/// What went on longer before the approval makes no difference and is not played.
const BEFORE: Nanos = 300 * SECOND;

impl World<'_> {
    /// Schedules the first day of every device.
    pub(super) fn begin(&mut self) {
        for at in 0..self.devices.len() {
            let hours = self.site.devices[at];
            let on = hours.next_on(self.approved.saturating_sub(BEFORE));
            // Those that are on for longer announce themselves at different times.
            let on = if on < self.approved && hours.on != on {
                self.random.between(on, self.approved)
            } else {
                on
            };
            self.schedule(on, Event::On(at));
        }
    }

    pub(super) fn switch_on(&mut self, at: usize) {
        let now = self.now;
        let device = &mut self.devices[at];
        device.restart();
        (device.on, device.since) = (true, now);
        let life = device.life;
        let listening = nanos(crowd::listening(self.random.draw()));
        self.schedule(now + listening, Event::Dial(at, life));
        let speaks = now + self.milliseconds(FIRST_WORD.0, FIRST_WORD.1);
        self.devices[at].speaks = speaks;
        let meeting = self.milliseconds(MEETING.0, MEETING.1);
        self.schedule(now + meeting, Event::Meet(at, life));
        let hearing = self.milliseconds(HEARING.0, HEARING.1);
        let hears = if now <= self.approved { self.approved + hearing } else { now + HEARING_LATER };
        self.schedule(hears, Event::Hear(at, life));
        let off = now / DAY * DAY + self.site.devices[at].off;
        self.schedule(off, Event::Off(at));
    }

    pub(super) fn switch_off(&mut self, at: usize) -> Result<(), Stuck> {
        self.devices[at].fetcher.check().map_err(|broken| Stuck::Inconsistent(at, broken))?;
        count(&mut self.counts, &self.devices[at].fetcher);
        let identity = self.devices[at].member.device;
        let neighbours = std::mem::take(&mut self.devices[at].neighbours);
        self.devices[at].restart();
        self.devices[at].on = false;
        self.tracker.disconnected(&self.devices[at].member.site, identity);
        for other in neighbours.into_iter().map(|other| other as usize) {
            let neighbour = &mut self.devices[other];
            neighbour.neighbours.retain(|one| *one as usize != at);
            neighbour.fetcher.remove(identity);
            let life = neighbour.life;
            if neighbour.neighbours.len() < WANTED {
                let meeting = self.milliseconds(MEETING_AGAIN.0, MEETING_AGAIN.1);
                self.schedule(self.now + meeting, Event::Meet(other, life));
            }
            self.advance(other);
        }
        let on = self.site.devices[at].next_on(self.now);
        self.schedule(on, Event::On(at));
        Ok(())
    }

    /// Dials the seed, at once or when others have done so (docs/decisions/0051).
    pub(super) fn dial(&mut self, at: usize) {
        let (now, since) = (self.now, self.devices[at].since);
        let until = match self.devices[at].crowd {
            Some(until) => until,
            None => {
                let heard = |other: &Device| other.on && (since..=now).contains(&other.speaks);
                let heard = self.devices.iter().filter(|other| heard(other)).count();
                let pause = crowd::pause(heard.min(limits::CANDIDATES), self.random.draw());
                *self.devices[at].crowd.insert(now + nanos(pause))
            }
        };
        let alone = since + nanos(crowd::ALONE);
        let is_alone = now >= alone && self.devices[at].neighbours.is_empty();
        let life = self.devices[at].life;
        if now < until && !is_alone {
            let again = if now < alone { until.min(alone) } else { until };
            return self.schedule(again, Event::Dial(at, life));
        }
        let connected = self.wan.connect(now);
        self.schedule(connected, Event::Connected(at, life));
    }

    /// The connection to the seed stands.
    pub(super) fn connected(&mut self, at: usize) {
        let moment = self.moment();
        let device = &mut self.devices[at];
        device.connection = Some(Connection::new(moment));
        device.fetcher.add_seed(SEED);
        self.announce(at);
        self.advance(at);
    }

    /// Finds neighbours at random, as many as are wanted.
    pub(super) fn meet(&mut self, at: usize) {
        let count = self.devices.len() as u64;
        // With few others around, most draws are in vain.
        for _ in 0..64 {
            if self.devices[at].neighbours.len() >= WANTED {
                break;
            }
            let other = (self.random.draw() % count) as usize;
            self.met(at, other);
        }
    }

    /// Connects two devices that are on and not full.
    pub(super) fn met(&mut self, at: usize, other: usize) {
        let full = |at: usize| self.devices[at].neighbours.len() >= limits::NEIGHBOURS;
        let known = self.devices[at].neighbours.contains(&(other as u32));
        if at == other || known || !self.devices[at].on || !self.devices[other].on || full(at) || full(other)
        {
            return;
        }
        let now = self.moment();
        for (one, two) in [(at, other), (other, at)] {
            let identity = self.devices[two].member.device;
            let held = self.devices[two].held.clone();
            let device = &mut self.devices[one];
            device.neighbours.push(two as u32);
            device.fetcher.add_neighbour(identity);
            device.fetcher.heard_of_neighbour();
            if !held.is_empty() {
                let holding = Holding { root: self.patch.content.root, pieces: held };
                device.fetcher.on_holdings(now, identity, &[holding]);
            }
        }
        self.advance(at);
        self.advance(other);
    }
}

fn nanos(duration: std::time::Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
