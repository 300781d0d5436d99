//! The site: the seed as tracker tells a node who is there, and the node tells the seed.

use super::timers::Timer;
use super::{Core, Pending, Rung};
use crate::bitmap::PieceSet;
use crate::identifier::DeviceId;
use crate::limits;
use crate::membership::Member;
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::{Announce, LeaseAnswer, LeaseRequest, Request, Response, SiteView};
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
        for seed in seeds {
            let announce = Announce { addresses: self.addresses.clone(), versions: self.versions() };
            self.ask(seed, Request::Announce(announce), Pending::Announce(seed));
        }
    }

    pub(super) fn on_site_view(&mut self, now: Moment, seed: DeviceId, view: SiteView) {
        self.fetcher.heard_of_site();
        if let Some(peer) = self.peers.get_mut(&seed) {
            peer.versions = view.versions;
        }
        if self.rules.effective.peer_download {
            self.on_announced(now, &view.members);
            for member in view.members.into_iter().take(limits::NEIGHBOURS) {
                self.dial_member(now, member.device, member.addresses, Rung::Tracker);
            }
        }
        if self.lacks(view.versions) {
            self.timers.bring_forward(Timer::Announce, now + ANNOUNCE_STALE);
            if view.fetch_metadata {
                self.request_metadata(seed);
            }
        }
    }

    /// A member of some site announces itself to this seed.
    pub(super) fn site_view(&mut self, now: Moment, member: &Member, announce: Announce) -> Response {
        if !self.setup.roles.seed {
            return self.refuse_peer(member.device, Reason::NotASeed);
        }
        let policy = self.rules.effective_for(member);
        let members = self.tracker.announce(member, announce.addresses, policy.peer_download, now);
        let versions = self.versions();
        let stale = announce.versions.is_older_than(versions);
        let fetch_metadata =
            stale && (!policy.peer_download || self.tracker.metadata_turn(member, versions, now));
        Response::Site(SiteView { members, versions, fetch_metadata })
    }

    /// A member asks this seed for leases: the share gate first, then the tracker.
    pub(super) fn lease(&mut self, now: Moment, member: &Member, request: &LeaseRequest) -> Response {
        if !self.setup.roles.seed {
            return self.refuse_peer(member.device, Reason::NotASeed);
        }
        let root = request.root;
        if let Err(reason) = self.gate(root, Some(request.manifest), member) {
            return self.refuse_share(member.device, root, reason);
        }
        let Some(held) = self.contents.get(root) else { return self.refuse(Reason::NoPieces) };
        let tree = held.tree.clone();
        // A seed lacks what its disk changed: a lease on that would only keep others from theirs.
        let wanted: PieceSet = request.wanted.iter().filter(|piece| held.pieces.contains(*piece)).collect();
        if wanted.is_empty() {
            return self.refuse(Reason::NoPieces);
        }
        let request = &LeaseRequest { wanted, ..request.clone() };
        let policy = self.rules.effective_for(member);
        let (fetchers, shares) = (policy.wan_fetchers, policy.peer_download);
        let decision = self.tracker.lease(member, request, tree.pieces(), fetchers, shares, now);
        let leased = self.tracker.leased_to(&member.site, member.device, root);
        self.grant(member.device, root, Some(leased));
        Response::Lease(LeaseAnswer {
            leased: decision.leased,
            holders: decision.holders,
            tree: request.need_tree.then(|| tree.values().to_vec()),
            retry_milliseconds: u32::try_from(decision.retry.as_millis()).unwrap_or(u32::MAX),
        })
    }
}
