//! Connections: who is there, as what, and what they say they have.

use super::timers::Timer;
use super::{Core, Event, Output, Pending, Rung};
use crate::bitmap::PieceSet;
use crate::crowd;
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::identifier::DeviceId;
use crate::limits;
use crate::membership::Member;
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::{Hello, Holding, LeaseAnswer, News, Request, Response, Unanswered, Versions};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The neighbours hear of changes no more often than this.
const NEWS_DELAY: Duration = Duration::from_millis(100);
/// First pause before a seed or an aggregator is dialled again.
const REDIAL_FIRST: Duration = Duration::from_millis(500);
/// Longest such pause.
const REDIAL_MOST: Duration = Duration::from_secs(60);
/// A connection to a service that lasted so long was a good one.
const SETTLED: Duration = Duration::from_secs(30);
/// How soon a lost neighbour is looked for, if there are few others: it may come back by itself.
const NEIGHBOUR_LOST: Duration = Duration::from_secs(2);
/// How soon another member is dialled when one was not reached.
const NEXT_DIAL: Duration = Duration::from_millis(50);

/// A connected member.
#[derive(Debug)]
pub(super) struct Peer {
    /// When it connected.
    pub(super) since: Moment,
    pub(super) member: Member,
    /// What it said its metadata is; default before its hello.
    pub(super) versions: Versions,
    /// What we said our metadata is.
    pub(super) told: Versions,
    /// Contents that it was not told of yet: there was no room in the last message.
    pub(super) owed: BTreeSet<Blake3Root>,
    /// Whether it said hello: before that it gets no news.
    pub(super) greeted: bool,
    /// Bytes that it received from us.
    pub(super) served: u64,
    /// Whether there is no place for it, yet or any more: it is no source, and about to leave.
    pub(super) guest: bool,
    /// Contents that it holds a grant of ours for.
    pub(super) grants: BTreeSet<Blake3Root>,
}

impl Core {
    pub(super) fn on_listening(&mut self, now: Moment, mut addresses: Vec<String>) {
        addresses.truncate(limits::ADDRESSES_PER_DEVICE);
        if std::mem::replace(&mut self.addresses, addresses) != self.addresses {
            self.on_moved(now);
        }
        self.timers.bring_forward(Timer::Announce, now);
    }

    pub(super) fn on_connected(&mut self, now: Moment, member: Member) {
        let device = member.device;
        if let Err(rejection) = self.rules.verifier.check_current(&member, self.wall) {
            self.outputs.push_back(Output::Disconnect(device, rejection.into()));
            return;
        }
        if self.peers.contains_key(&device) || device == self.setup.member.device {
            return;
        }
        let guest = self.is_full_for(&member);
        let peer = Peer {
            member,
            versions: Versions::default(),
            told: Versions::default(),
            owed: BTreeSet::new(),
            greeted: false,
            served: 0,
            since: now,
            guest,
            grants: BTreeSet::new(),
        };
        self.peers.insert(device, peer);
        if self.setup.roles.seed {
            // Its site may be a new one.
            self.revise_caps();
        }
        if !self.talks_to(device) {
            self.event(Event::PeerRefused { peer: device, reason: Reason::PeerDownloadOff });
            self.outputs.push_back(Output::Disconnect(device, Reason::PeerDownloadOff));
            return;
        }
        if self.is_out_of_place(device) {
            return self.leave(device, Reason::OtherSite);
        }
        if !guest {
            self.join_as_source(device);
        }
        self.on_neighbour(now, device);
        let hello = Request::Hello(self.hello(device));
        self.ask(device, hello, Pending::Hello(device));
        self.on_company(now, device);
        if self.rules.services.is_seed(device) {
            self.timers.bring_forward(Timer::Announce, now);
        }
        if self.rules.services.aggregator(device).is_some() {
            self.timers.bring_forward(Timer::Reports, now);
        }
    }

    /// Lets the fetcher use the peer, as what it is: a seed, or a neighbour in our site.
    pub(super) fn join_as_source(&mut self, device: DeviceId) {
        let Some(peer) = self.peers.get(&device).filter(|peer| !peer.guest) else { return };
        if self.rules.services.is_seed(device) {
            self.fetcher.add_seed(device);
            self.revise_caps();
        } else if self.is_neighbour(&peer.member) {
            self.fetcher.add_neighbour(device);
            self.fetcher.heard_of_neighbour();
        }
    }

    /// Whether `member` is a peer in our own site, and policy lets content pass between us.
    pub(super) fn is_neighbour(&self, member: &Member) -> bool {
        member.site == self.setup.member.site
            && member.device != self.setup.member.device
            && self.rules.effective.peer_download
    }

    /// With peer download off a node talks to seeds and aggregators alone (N7); and those talk to everybody.
    pub(super) fn talks_to(&self, device: DeviceId) -> bool {
        let serves = self.rules.services.is_seed(device) || self.rules.services.aggregator(device).is_some();
        let roles = self.setup.roles.seed || self.setup.roles.aggregator;
        serves || roles || self.rules.effective.peer_download
    }

    pub(super) fn on_disconnected(&mut self, now: Moment, device: DeviceId) {
        let Some(peer) = self.peers.remove(&device) else { return };
        if !crate::mutant::mutated(crate::mutant::Mutant::KeepTheGone) {
            self.fetcher.remove(device);
        }
        self.tracker.disconnected(&peer.member.site, device);
        for root in peer.grants {
            self.outputs.push_back(Output::Revoke { peer: Some(device), root });
        }
        self.reporting.lost(device);
        self.refreshing.lost(device);
        if self.is_seed(device) {
            self.on_seed_lost();
        }
        if self.is_neighbour(&peer.member) {
            let jitter = Duration::from_millis(self.random() % 1_000);
            self.timers.bring_forward(Timer::Seek, now + NEIGHBOUR_LOST + jitter);
            self.on_missed(now, device, NEIGHBOUR_LOST + jitter);
        }
        if self.is_service(device) {
            // Whoever is thrown out as soon as it comes in must not come back twice a second.
            let pause = if now.since(peer.since) >= SETTLED { REDIAL_FIRST } else { self.redial_pause() };
            if pause == REDIAL_FIRST {
                self.refreshing.redials = 0;
            }
            self.timers.bring_forward(Timer::Redial, now + pause);
        }
    }

    pub(super) fn on_dial_failed(&mut self, now: Moment, device: DeviceId) {
        self.refreshing.dialling.remove(&device);
        self.on_unreached(now, device, NEXT_DIAL);
        if self.is_service(device) && !self.peers.contains_key(&device) {
            // Whoever dialled has set an earlier moment, which grows from time to time.
            self.timers.bring_forward(Timer::Redial, now + REDIAL_MOST);
        }
    }

    pub(super) fn is_service(&self, device: DeviceId) -> bool {
        self.rules.services.is_seed(device) || self.rules.services.aggregator(device).is_some()
    }

    fn redial_pause(&self) -> Duration {
        REDIAL_FIRST.saturating_mul(1 << self.refreshing.redials.min(7)).min(REDIAL_MOST)
    }

    /// When to look again, while this device leaves the services to others that started with it (decision 0051).
    fn waits_in_crowd(&mut self, now: Moment) -> Option<Moment> {
        let until = match self.refreshing.crowd {
            Some(until) => until,
            None => {
                let drawn = self.random();
                let heard = if self.meets() { self.heard_on_lan() } else { 0 };
                *self.refreshing.crowd.insert(now + crowd::pause(heard, drawn))
            }
        };
        let alone = Moment::START + crowd::ALONE;
        if now < until && now >= alone && self.company().len() == 0 {
            self.refreshing.crowd = Some(now);
            return None;
        }
        (now < until).then(|| if now < alone { until.min(alone) } else { until })
    }

    /// Dials every seed and aggregator that is not connected; the pause doubles, with jitter, up to a minute.
    pub(super) fn redial(&mut self, now: Moment) {
        if self.refreshing.redials > 0 && crate::mutant::mutated(crate::mutant::Mutant::RedialOnce) {
            return;
        }
        if let Some(again) = self.waits_in_crowd(now) {
            return self.timers.set(Timer::Redial, again);
        }
        let services = &self.rules.services;
        let seeds = services.seeds.iter().map(|seed| (seed.device, seed.addresses.clone()));
        let aggregators = services.aggregators.iter().map(|entry| (entry.device, entry.addresses.clone()));
        let missing: Vec<(DeviceId, Vec<String>)> = seeds
            .chain(aggregators)
            .filter(|(device, _)| *device != self.setup.member.device && !self.peers.contains_key(device))
            .collect();
        if missing.is_empty() {
            self.refreshing.redials = 0;
            return;
        }
        // A device that is both is dialled once.
        let missing: BTreeMap<DeviceId, Vec<String>> = missing.into_iter().collect();
        for (device, addresses) in missing {
            self.outputs.push_back(Output::Dial { device, addresses, rung: Rung::Services });
        }
        let pause = self.redial_pause();
        self.refreshing.redials = self.refreshing.redials.saturating_add(1);
        let jitter = Duration::from_millis(self.random() % 250);
        self.timers.set(Timer::Redial, now + pause + jitter);
    }

    /// Dials a device of the site, unless it is connected, was dialled just now, is left alone for a while, there are neighbours
    /// enough, or policy wants none (N7).
    pub(super) fn dial_member(&mut self, now: Moment, device: DeviceId, addresses: Vec<String>, rung: Rung) {
        let abroad = self.roaming_at().is_some() && rung != Rung::Lan;
        if !self.rules.effective.peer_download || abroad || self.is_left_alone(now, device) {
            return;
        }
        self.refreshing.dialling.retain(|_, at| now.since(*at) < Duration::from_secs(60));
        // The LAN can show any number of devices, and nothing about them is proven.
        let enough =
            self.company().len() >= limits::NEIGHBOURS || self.refreshing.dialling.len() >= limits::DIALLING;
        let recently =
            self.refreshing.dialling.get(&device).is_some_and(|at| now.since(*at) < Duration::from_secs(5));
        if enough || recently || self.peers.contains_key(&device) || device == self.setup.member.device {
            return;
        }
        self.refreshing.dialling.insert(device, now);
        self.outputs.push_back(Output::Dial { device, addresses, rung });
    }

    pub(super) fn hello(&mut self, to: DeviceId) -> Hello {
        let holdings = self.holdings_for(to, None);
        let news = News { versions: self.versions(), holdings: self.fill(to, holdings) };
        Hello { agent: self.setup.agent.clone(), medium: self.caps.conditions.link.medium(), news }
    }

    /// What we hold and the share gate lets `to` have; only `among` these, where given.
    fn holdings_for(&self, to: DeviceId, among: Option<&BTreeSet<Blake3Root>>) -> Vec<Holding> {
        let Some(peer) = self.peers.get(&to) else { return Vec::new() };
        if self.setup.roles.seed || self.rules.services.is_seed(to) {
            return Vec::new();
        }
        self.contents
            .held()
            .filter(|(root, pieces)| !pieces.is_empty() && among.is_none_or(|roots| roots.contains(root)))
            .filter(|(root, _)| {
                self.gate(*root, None, &peer.member).is_ok()
                    || crate::mutant::mutated(crate::mutant::Mutant::OfferEverything)
            })
            .map(|(root, pieces)| Holding { root, pieces: pieces.clone() })
            .collect()
    }

    /// What of `holdings` fits into one message: first what this node fetches or installs itself, since its neighbours
    /// are likely to need the same. The device is owed the rest.
    pub(super) fn fill(&mut self, to: DeviceId, mut holdings: Vec<Holding>) -> Vec<Holding> {
        let wanted = self.planned_contents();
        holdings.sort_by_key(|holding| !wanted.contains(&holding.root));
        let mut room = limits::HOLDINGS_BYTES;
        let fits = holdings.iter().take(limits::ARTIFACTS_TRACKED).take_while(|holding| {
            let fits = holding.bytes() <= room;
            room = room.saturating_sub(holding.bytes());
            fits
        });
        // One always fits: the largest has 9 KiB.
        let rest = holdings.split_off(fits.count());
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.owed = rest.into_iter().map(|holding| holding.root).collect();
        }
        holdings
    }

    pub(super) fn on_hello(&mut self, now: Moment, from: DeviceId, hello: Hello) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.greeted = true;
        }
        if self.peers.get(&from).is_some_and(|peer| !peer.owed.is_empty()) {
            self.note_news(now, None);
        }
        self.fetcher.on_medium(from, hello.medium);
        self.on_news(now, from, hello.news);
    }

    pub(super) fn on_news(&mut self, now: Moment, from: DeviceId, news: News) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.versions = news.versions;
        self.fetcher.on_holdings(now, from, &news.holdings);
        self.consider_metadata(now, from);
    }

    /// Something about `root` changed here that neighbours may want to know.
    pub(super) fn note_news(&mut self, now: Moment, root: Option<Blake3Root>) {
        self.refreshing.news.extend(root);
        // The first change after a silence goes out at once, those that follow it gather.
        let next = self.refreshing.told.map_or(now, |told| now.max(told + NEWS_DELAY));
        self.timers.bring_forward(Timer::News, next);
    }

    /// What the gate refused until now it may let pass again: neighbours hear of whatever is here and they lack.
    pub(super) fn offer_again(&mut self) {
        let roots: Vec<Blake3Root> = self.contents.held().map(|(root, _)| root).collect();
        self.refreshing.news.extend(roots);
        let next = self.refreshing.told.map_or(Moment::START, |told| told + NEWS_DELAY);
        self.timers.bring_forward(Timer::News, next);
    }

    pub(super) fn send_news(&mut self, now: Moment) {
        if crate::mutant::mutated(crate::mutant::Mutant::NoNews) {
            return;
        }
        self.refreshing.told = Some(now);
        let roots = std::mem::take(&mut self.refreshing.news);
        let mut more = false;
        let neighbours: Vec<DeviceId> = self
            .peers
            .values()
            .filter(|peer| peer.greeted && !peer.guest && self.is_neighbour(&peer.member))
            .map(|peer| peer.member.device)
            .collect();
        for device in neighbours {
            let owed = self.peers.get(&device).map(|peer| &peer.owed);
            let among: BTreeSet<Blake3Root> = owed.into_iter().flatten().chain(&roots).copied().collect();
            let mut holdings = self.holdings_for(device, Some(&among));
            holdings.retain(|holding| !self.fetcher.knows_all(device, holding));
            let holdings = self.fill(device, holdings);
            let versions = self.versions();
            let Some(peer) = self.peers.get_mut(&device) else { continue };
            more |= !peer.owed.is_empty();
            if holdings.is_empty() && peer.told == versions {
                continue;
            }
            peer.told = versions;
            let news = News { versions, holdings };
            self.ask(device, Request::News(news), Pending::News);
        }
        if more {
            self.timers.bring_forward(Timer::News, now + NEWS_DELAY);
        }
    }

    /// An answer came, or none did.
    pub(super) fn on_answered(
        &mut self,
        now: Moment,
        effect: EffectId,
        result: Result<Response, Unanswered>,
    ) {
        let Some(pending) = self.pending.remove(&effect) else { return };
        if let (Err(Unanswered::Malformed), Some(peer)) = (&result, pending.peer()) {
            self.event(Event::PeerRefused { peer, reason: Reason::MalformedMessage });
        }
        let refused = match &result {
            Ok(Response::Refused { reason, versions }) => Some((*reason, *versions)),
            _ => None,
        };
        match (pending, result) {
            (Pending::Hello(from), Ok(Response::Hello(hello))) => self.on_hello(now, from, hello),
            (Pending::Meet(from), Ok(Response::Met(met))) => self.on_met(now, from, met),
            (Pending::Announce(seed, had), Ok(Response::Site(view))) => {
                self.on_site_view(now, seed, had, view)
            }
            (Pending::Announce(..), _) => self.timers.set(Timer::Announce, now + Duration::from_secs(5)),
            (Pending::Metadata(from, had), Ok(Response::Metadata(bundle))) => {
                self.on_bundle(now, from, had, &bundle)
            }
            (Pending::Metadata(from, _), _) => self.on_no_bundle(now, from),
            (Pending::Lease(seed), Ok(Response::Lease(answer))) => self.on_leases(now, effect, seed, answer),
            (Pending::Lease(seed), _) => {
                self.note_versions(now, seed, refused);
                self.fetcher.on_lease(now, seed, effect, refused.map(|(reason, _)| Err(reason)));
            }
            (Pending::Grant(from, root), Ok(Response::Grant(mut answer))) => {
                clip(&mut answer.pieces, self.contents.size_of(root));
                self.fetcher.on_grant(now, from, root, Some(Ok(answer)));
            }
            (Pending::Grant(from, root), _) => {
                self.note_refusal(now, from, root, refused);
                self.fetcher.on_grant(now, from, root, refused.map(|(reason, _)| Err(reason)));
            }
            (Pending::Reports(to), Ok(Response::Watermark { mark, expected })) => {
                self.on_watermark(now, to, &mark, expected)
            }
            (Pending::Reports(to), _) => match refused {
                Some((reason, _)) => self.on_reports_refused(now, to, reason),
                None => self.on_no_watermark(now, to),
            },
            _ => {}
        }
    }

    fn on_leases(&mut self, now: Moment, effect: EffectId, seed: DeviceId, answer: LeaseAnswer) {
        let idle = answer.lines.iter().all(|line| line.leased.is_empty()) && !self.fetcher.fetches_over_wan();
        for line in &answer.lines {
            if let Some(reason) = line.refused {
                self.event(Event::FetchRefused { peer: seed, root: line.root, reason });
            }
            self.on_lease_said(seed, line, idle);
        }
        self.note_versions(now, seed, Some((Reason::StaleSnapshot, answer.versions)));
        self.fetcher.on_lease(now, seed, effect, Some(Ok(answer)));
    }

    /// A source refused: an event, and when its metadata is newer than ours, a reason to catch up.
    fn note_refusal(
        &mut self,
        now: Moment,
        from: DeviceId,
        root: Blake3Root,
        refused: Option<(Reason, Versions)>,
    ) {
        if let Some((reason, _)) = refused {
            self.event(Event::FetchRefused { peer: from, root, reason });
        }
        self.note_versions(now, from, refused);
    }

    /// A source told its versions beside a refusal.
    fn note_versions(&mut self, now: Moment, from: DeviceId, refused: Option<(Reason, Versions)>) {
        let Some((_, versions)) = refused else { return };
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.versions = versions;
        }
        self.consider_metadata(now, from);
    }
}

fn clip(pieces: &mut PieceSet, size: Option<u64>) {
    if let Some(size) = size {
        pieces.clip(crate::piece::count(size));
    }
}
