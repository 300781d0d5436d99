//! The site: the seed as tracker tells a node who is there, and the node tells the seed.

use super::timers::Timer;
use super::{Core, Output, Pending, Rung};
use crate::bitmap::PieceSet;
use crate::crowd;
use crate::digest::Blake3Root;
use crate::fetch::tracker::{Ask, Decision, Exchange, Line, Terms};
use crate::identifier::{DeviceId, SiteName};
use crate::limits;
use crate::membership::Member;
use crate::piece::PieceTree;
use crate::policy::Effective;
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::{
    Announce, LeaseAnswer, LeaseLine, LeaseRequest, LeasedLine, Request, Response, SiteMember, SiteView,
    Versions,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often a connected node tells the seed that it is there, when nothing else brings it up.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(300);
/// How soon it asks again when it lacks metadata that another device of the site is fetching.
const ANNOUNCE_STALE: Duration = Duration::from_secs(2);
/// How long a seed's leases and a neighbour's grants hold.
pub(super) const GRANT: Duration = Duration::from_secs(600);

impl Core {
    /// Tells every connected seed where we listen, and asks who else is in the site.
    pub(super) fn announce(&mut self, now: Moment) {
        self.timers.set(Timer::Announce, now + ANNOUNCE_EVERY);
        let seeds: Vec<DeviceId> =
            self.peers.keys().copied().filter(|device| self.rules.services.is_seed(*device)).collect();
        let alone = !seeds.is_empty() && self.fetcher.tell_alone(now);
        for seed in seeds {
            let announce = Announce {
                addresses: self.addresses.clone(),
                versions: self.versions(),
                utc_offset_minutes: self.caps.conditions.utc_offset_minutes,
                members: self.members_wanted(),
                metadata: self.knows_of_newer_metadata().then(|| self.metadata_request()),
                alone,
            };
            let had = Versions::of(&self.trusted);
            self.ask(seed, Request::Announce(announce), Pending::Announce(seed, had));
        }
    }

    /// How many members a seed is to name.
    fn members_wanted(&self) -> u8 {
        let kin = if self.meets() { self.company().kin.len() } else { usize::MAX };
        let wanted = crowd::members_wanted(kin, self.fetcher.knows_site(), limits::MEMBERS_PER_ANSWER);
        u8::try_from(wanted).unwrap_or(u8::MAX)
    }

    pub(super) fn on_site_view(&mut self, now: Moment, seed: DeviceId, had: Versions, view: SiteView) {
        self.fetcher.heard_of_site(now, view.members.len());
        self.watch_whether_alone(now);
        if let Some(peer) = self.peers.get_mut(&seed) {
            peer.versions = view.versions;
        }
        self.on_checked(view.versions);
        if self.rules.effective.peer_download {
            self.on_announced(now, &view.members);
            for member in view.members {
                self.on_candidate(now, member, Rung::Tracker);
            }
        }
        if self.lacks(view.versions) {
            self.timers.bring_forward(Timer::Announce, now + ANNOUNCE_STALE);
            match view.metadata {
                Some(bundle) => self.on_bundle(now, seed, had, &bundle),
                None if view.fetch_metadata => self.request_metadata(seed),
                None => {}
            }
        }
    }

    /// A member of some site announces itself to this seed.
    pub(super) fn site_view(&mut self, now: Moment, member: &Member, announce: Announce) -> Response {
        if !self.setup.roles.seed {
            return self.refuse_peer(member.device, Reason::NotASeed);
        }
        self.note_offset(&member.site, announce.utc_offset_minutes);
        let policy = self.rules.effective_for(member);
        let most = usize::from(announce.members);
        let exchange = exchange(&policy, announce.alone);
        let members = self.tracker.announce(member, announce.addresses, exchange, most, now);
        let versions = self.versions();
        let stale = announce.versions.is_older_than(versions);
        // Whoever is on its own has it from nobody else, and nobody has it from there.
        let own = exchange != Exchange::Open;
        let fetch_metadata = stale && (own || self.tracker.metadata_turn(member, versions, now));
        // Metadata for the whole site, so that its first device has it without another round trip.
        let along = announce.metadata.filter(|_| fetch_metadata);
        let metadata = along
            .and_then(|request| self.trusted.bundle_for(&request, &member.system).ok())
            .filter(|bundle| bundle.bytes() <= limits::BUNDLE_ALONG_BYTES);
        Response::Site(SiteView { members, versions, fetch_metadata, metadata })
    }

    /// A member asks this seed for leases: each content through the share gate first, then to the tracker.
    pub(super) fn lease(&mut self, now: Moment, member: &Member, request: &LeaseRequest) -> Response {
        if !self.setup.roles.seed {
            return self.refuse_peer(member.device, Reason::NotASeed);
        }
        let judged: Vec<Result<(Arc<PieceTree>, PieceSet), Reason>> =
            request.lines.iter().map(|line| self.may_lease(member, line)).collect();
        let policy = self.rules.effective_for(member);
        let asks: Vec<Ask<'_>> = request
            .lines
            .iter()
            .zip(&judged)
            .filter_map(|(line, judged)| {
                let (tree, wanted) = judged.as_ref().ok()?;
                let priority = self.priority_of(&policy, line.manifest, line.root);
                Some(Ask { root: line.root, size: tree.size(), wanted, priority })
            })
            .collect();
        let round_trip = Duration::from_micros(request.round_trip_micros.into());
        let terms = Terms {
            unreachable: &request.unreachable,
            room_bytes: request.room_bytes,
            round_trip: (!round_trip.is_zero()).then_some(round_trip),
            bytes_per_second: request.bytes_per_second,
            fetchers: policy.wan_fetchers,
            exchange: exchange(&policy, request.alone),
        };
        let decision = self.tracker.lease(member, &asks, &terms, now);
        let ended = asks
            .iter()
            .zip(&decision.lines)
            .flat_map(|(ask, line)| line.ended.iter().map(move |device| (*device, ask.root)));
        for (device, root) in ended.collect::<Vec<_>>() {
            self.end_leases(&member.site, device, root);
        }
        self.lease_answer(member, request, judged, decision)
    }

    /// Somebody else got leases that were those of `device`: it is served what is left to it. Else one that slept would go on
    /// where it stopped, and fetch everything once more.
    fn end_leases(&mut self, site: &SiteName, device: DeviceId, root: Blake3Root) {
        let left = self.tracker.leased_to(site, device, root);
        let Some(peer) = self.peers.get_mut(&device).filter(|peer| peer.grants.contains(&root)) else {
            return;
        };
        if left.is_empty() {
            peer.grants.remove(&root);
            self.outputs.push_back(Output::Revoke { peer: Some(device), root });
        } else {
            self.grant(device, root, Some(left));
        }
    }

    /// The piece list of a content that `member` may have, and what of the wanted pieces is here: a seed lacks what its disk
    /// changed, and a lease on that would only keep others from theirs.
    fn may_lease(&mut self, member: &Member, line: &LeaseLine) -> Result<(Arc<PieceTree>, PieceSet), Reason> {
        let gate = self.gate(line.root, Some(line.manifest), member);
        if let Err(reason) = gate.map(drop).or_else(|reason| {
            if crate::mutant::mutated(crate::mutant::Mutant::SeedWithoutGate) { Ok(()) } else { Err(reason) }
        }) {
            let reason = self.unless_unreadable(line, reason);
            return Err(self.share_refused(member.device, line.root, reason));
        }
        let here = self.contents.get(line.root).and_then(|held| {
            let wanted = line.wanted.without(&line.wanted.without(&held.pieces));
            (!wanted.is_empty()).then(|| (Arc::clone(&held.tree), wanted))
        });
        here.ok_or_else(|| self.unless_unreadable(line, Reason::NoPieces))
    }

    fn lease_answer(
        &mut self,
        member: &Member,
        request: &LeaseRequest,
        judged: Vec<Result<(Arc<PieceTree>, PieceSet), Reason>>,
        decision: Decision,
    ) -> Response {
        let mut answer = LeaseAnswer {
            versions: self.versions(),
            retry_milliseconds: u32::try_from(decision.retry.as_millis()).unwrap_or(u32::MAX),
            ..LeaseAnswer::default()
        };
        decision.advice.tell(&mut answer);
        let mut decided = decision.lines.into_iter();
        let mut places: BTreeMap<DeviceId, u8> = BTreeMap::new();
        let mut room = limits::MESSAGE_BYTES / 2;
        for (line, judged) in request.lines.iter().zip(judged) {
            let root = line.root;
            let tree = match judged {
                Ok((tree, _)) => tree,
                Err(reason) => {
                    let line = LeasedLine { refused: Some(reason), ..LeasedLine::nothing(root) };
                    answer.lines.push(line);
                    continue;
                }
            };
            let Some(Line { leased, holders, .. }) = decided.next() else { break };
            let mut line_answer = LeasedLine { leased, ..LeasedLine::nothing(root) };
            for device in holders {
                line_answer.holders.extend(self.place_of(member, device, &mut places, &mut answer.members));
            }
            let bytes = tree.values().len() * 32;
            // Whoever fetches needs the list; the others get it from their neighbours. What does not fit comes with the
            // next answer.
            if line.need_tree && !line_answer.leased.is_empty() && bytes <= room {
                room -= bytes;
                line_answer.tree = Some(tree.values().to_vec());
            }
            if !line_answer.leased.is_empty() {
                let leased = self.tracker.leased_to(&member.site, member.device, root);
                self.grant(member.device, root, Some(leased));
            }
            answer.lines.push(line_answer);
        }
        Response::Lease(answer)
    }

    /// The place of a device in the answer's list of members, where there is room for it.
    fn place_of(
        &self,
        asker: &Member,
        device: DeviceId,
        places: &mut BTreeMap<DeviceId, u8>,
        members: &mut Vec<SiteMember>,
    ) -> Option<u8> {
        if let Some(place) = places.get(&device) {
            return Some(*place);
        }
        if members.len() >= limits::MEMBERS_PER_ANSWER {
            return None;
        }
        let place = u8::try_from(members.len()).ok()?;
        members.push(self.tracker.member(&asker.site, device)?);
        places.insert(device, place);
        Some(place)
    }
}

/// Whether a device exchanges pieces with its site, by policy and its own word.
fn exchange(policy: &Effective, alone: bool) -> Exchange {
    match (policy.peer_download, alone) {
        (false, _) => Exchange::Forbidden,
        (true, true) => Exchange::Cut,
        (true, false) => Exchange::Open,
    }
}
