//! The seed: what it is told and asked by the devices of the site, and what it answers, in messages of their real size.

use super::{Event, SEED, World};
use crate::rollout::device::number;
use crate::rollout::queue::{Nanos, SECOND};
use protocol::codec;
use protocol::crowd;
use protocol::fetch::Urgency;
use protocol::fetch::tracker::{Ask, Decision, Exchange, Line, Terms};
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::wire::{
    Announce, LeaseAnswer, LeaseRequest, LeasedLine, Request, Response, SiteMember, SiteView, Versions,
};
use std::time::Duration;

/// How often a device tells the seed that it is there.
const ANNOUNCE_EVERY: Nanos = 300 * SECOND;

impl World<'_> {
    pub(super) fn announce(&mut self, at: usize) {
        let life = self.devices[at].life;
        let announce = Announce {
            addresses: addresses(at),
            versions: Versions::default(),
            utc_offset_minutes: 0,
            members: u8::try_from(self.members_wanted(at)).unwrap_or(u8::MAX),
            metadata: None,
            alone: false,
        };
        let announced = announce.members;
        let bytes = codec::encode(&Request::Announce(announce)).len();
        let most = usize::from(announced);
        let there = self.wan.ask(self.now, bytes);
        self.schedule(there, Event::Announced(at, life, most));
        self.schedule(self.now + ANNOUNCE_EVERY, Event::Announce(at, life));
    }

    /// How many members a device wants to hear of.
    fn members_wanted(&self, at: usize) -> usize {
        let device = &self.devices[at];
        let (kin, knows) = (device.neighbours.len(), device.fetcher.knows_site());
        crowd::members_wanted(kin, knows, limits::MEMBERS_PER_ANSWER)
    }

    pub(super) fn announced(&mut self, at: usize, most: usize) {
        let (now, life) = (self.moment(), self.devices[at].life);
        let member = &self.devices[at].member;
        let members = self.tracker.announce(member, addresses(at), Exchange::Open, most, now);
        let view = SiteView { members, versions: Versions::default(), fetch_metadata: false, metadata: None };
        let there = self.wan.answer(self.now, codec::encode(&Response::Site(view)).len());
        self.schedule(there, Event::SiteKnown(at, life));
    }

    pub(super) fn site_known(&mut self, at: usize) {
        let (now, others) = (self.moment(), self.devices.len() - 1);
        self.devices[at].fetcher.heard_of_site(now, others.min(limits::MEMBERS_PER_ANSWER));
        self.advance(at);
    }

    /// A request for leases goes to the seed.
    pub(super) fn ask_lease(&mut self, at: usize, request: LeaseRequest) {
        let life = self.devices[at].life;
        let request = Request::Lease(request);
        let there = self.wan.ask(self.now, codec::encode(&request).len());
        if let Request::Lease(request) = request {
            self.schedule(there, Event::LeaseAsked(at, life, Box::new(request)));
        }
    }

    pub(super) fn lease_asked(&mut self, at: usize, request: &LeaseRequest) {
        let now = self.moment();
        let size = self.patch.content.size;
        let lines = request.lines.iter();
        let asks: Vec<Ask<'_>> = lines
            .map(|line| Ask { root: line.root, size, wanted: &line.wanted, priority: Urgency::Normal.into() })
            .collect();
        let round_trip = Duration::from_micros(request.round_trip_micros.into());
        let terms = Terms {
            unreachable: &request.unreachable,
            room_bytes: request.room_bytes,
            round_trip: (!round_trip.is_zero()).then_some(round_trip),
            bytes_per_second: request.bytes_per_second,
            fetchers: self.plan.wan_fetchers,
            exchange: if request.alone { Exchange::Cut } else { Exchange::Open },
        };
        let member = &self.devices[at].member;
        let decision = self.tracker.lease(member, &asks, &terms, now);
        let ended: Vec<usize> =
            decision.lines.iter().flat_map(|line| &line.ended).map(|device| number(*device)).collect();
        for device in ended.into_iter().chain([at]) {
            self.grant_leased(device);
        }
        let answer = self.lease_answer(at, request, decision);
        let (answer, life) = (Response::Lease(answer), self.devices[at].life);
        let there = self.wan.answer(self.now, codec::encode(&answer).len());
        if let Response::Lease(answer) = answer {
            self.schedule(there, Event::Leased(at, life, Box::new(answer)));
        }
    }

    /// The seed serves a device what it leased to it, and no more what it leased to another one since.
    fn grant_leased(&mut self, at: usize) {
        let device = &mut self.devices[at];
        let member = &device.member;
        device.granted = self.tracker.leased_to(&member.site, member.device, self.patch.content.root);
    }

    /// The answer as a seed puts it together.
    fn lease_answer(&self, at: usize, request: &LeaseRequest, decision: Decision) -> LeaseAnswer {
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut answer =
            LeaseAnswer { retry_milliseconds: micros(decision.retry) / 1_000, ..LeaseAnswer::default() };
        decision.advice.tell(&mut answer);
        let site = &self.devices[at].member.site;
        for (asked, Line { leased, holders, .. }) in request.lines.iter().zip(decision.lines) {
            let mut line = LeasedLine::nothing(asked.root);
            for device in holders {
                line.holders.extend(place(&mut answer.members, device, || self.tracker.member(site, device)));
            }
            if asked.need_tree && !leased.is_empty() {
                line.tree = Some(self.patch.tree.values().to_vec());
            }
            line.leased = leased;
            answer.lines.push(line);
        }
        answer
    }

    pub(super) fn leased(&mut self, at: usize, answer: LeaseAnswer) {
        let now = self.moment();
        let device = &mut self.devices[at];
        if let Some(effect) = device.asking.take() {
            device.fetcher.on_lease(now, SEED, effect, Some(Ok(answer)));
        }
        self.advance(at);
    }
}

/// The place of a device in an answer's list of members, where there is room for it.
fn place(
    members: &mut Vec<SiteMember>,
    device: DeviceId,
    member: impl FnOnce() -> Option<SiteMember>,
) -> Option<u8> {
    let known = members.iter().position(|member| member.device == device);
    let place = match known {
        Some(place) => place,
        None if members.len() < limits::MEMBERS_PER_ANSWER => {
            members.push(member()?);
            members.len() - 1
        }
        None => return None,
    };
    u8::try_from(place).ok()
}

/// Where a device listens: one address of each family, as most do.
fn addresses(at: usize) -> Vec<String> {
    let (high, low) = (at / 250, at % 250 + 1);
    vec![format!("/ip4/10.20.{high}.{low}/tcp/7117"), format!("/ip6/fd00:20::{high:x}:{low:x}/tcp/7117")]
}
