//! Serving: requests of members, each through the share gate, and the grants that follow.

use super::site::GRANT;
use super::{Core, Event, Output, RequestToken};
use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::identifier::{DeviceId, ManifestDigest};
use crate::membership::Member;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use crate::report::IncidentKind;
use crate::share::{self, Claim, Permission, Progress, Question, Server, Serving, ShareFrom, Site};
use crate::time::Moment;
use crate::wire::{GrantAnswer, GrantRequest, Request, Response};

impl Core {
    pub(super) fn on_request(&mut self, now: Moment, token: RequestToken, from: DeviceId, request: Request) {
        let Some(member) = self.peers.get(&from).map(|peer| peer.member.clone()) else {
            let response = self.refuse(Reason::NotAMember);
            self.outputs.push_back(Output::Respond { token, response });
            return;
        };
        if let Err(rejection) = self.rules.verifier.check_current(&member, self.wall) {
            let response = self.refuse_peer(from, rejection.into());
            self.outputs.push_back(Output::Respond { token, response });
            self.outputs.push_back(Output::Disconnect(from, rejection.into()));
            return;
        }
        let response = match request {
            _ if !self.talks_to(from) => self.refuse_peer(from, Reason::PeerDownloadOff),
            Request::Hello(hello) => {
                self.on_hello(now, from, hello);
                Response::Hello(self.hello(from))
            }
            Request::News(news) => {
                self.on_news(now, from, news);
                Response::Noted
            }
            Request::Meet(meet) => self.on_meet(now, &member, meet),
            Request::Announce(announce) => self.site_view(now, &member, announce),
            Request::Lease(lease) => self.lease(now, &member, &lease),
            Request::Grant(request) => self.grant_neighbour(&member, &request),
            Request::Metadata(request) => self.metadata_for(&member, &request),
            Request::Reports(reports) => return self.aggregate(token, member, reports),
        };
        self.outputs.push_back(Output::Respond { token, response });
    }

    pub(super) fn refuse(&self, reason: Reason) -> Response {
        Response::Refused { reason, versions: self.versions() }
    }

    /// A request that is refused whatever it is about.
    pub(super) fn refuse_peer(&mut self, peer: DeviceId, reason: Reason) -> Response {
        self.event(Event::PeerRefused { peer, reason });
        self.refuse(reason)
    }

    pub(super) fn refuse_share(&mut self, peer: DeviceId, root: Blake3Root, reason: Reason) -> Response {
        let reason = self.share_refused(peer, root, reason);
        self.refuse(reason)
    }

    /// Notes that a content was refused, and gives the reason that the asker is told.
    pub(super) fn share_refused(&mut self, peer: DeviceId, root: Blake3Root, reason: Reason) -> Reason {
        let reason = self.unless_stale(peer, reason);
        self.event(Event::ShareRefused { peer, root, reason });
        self.note_refused_share(peer, root, reason);
        reason
    }

    /// The two ends judge by different snapshots, as far as the asker told: whichever is behind catches up, and then
    /// the question has another answer or the same one for both.
    fn unless_stale(&self, peer: DeviceId, reason: Reason) -> Reason {
        let theirs = self.peers.get(&peer).map_or(0, |peer| peer.versions.snapshot);
        let stale = theirs != 0 && theirs != self.trusted.snapshot_version();
        if stale && reason.may_be_stale() { Reason::StaleSnapshot } else { reason }
    }

    fn metadata_for(&mut self, member: &Member, request: &crate::trust::Request) -> Response {
        if !self.setup.roles.seed && !self.is_neighbour(member) {
            return self.refuse_peer(member.device, Reason::SiteNotAllowed);
        }
        match self.trusted.bundle_for(request, &member.system) {
            Ok(bundle) => Response::Metadata(bundle),
            Err(_) => self.refuse(Reason::TooLarge),
        }
    }

    fn grant_neighbour(&mut self, member: &Member, request: &GrantRequest) -> Response {
        let root = request.root;
        if self.setup.roles.seed {
            return self.refuse_peer(member.device, Reason::LeaseNeeded);
        }
        if let Err(reason) = self.gate(root, Some(request.manifest), member) {
            return self.refuse_share(member.device, root, reason);
        }
        let Some(held) = self.contents.get(root) else { return self.refuse(Reason::NoPieces) };
        let pieces = held.pieces.clone();
        let tree = request.need_tree.then(|| held.tree.values().to_vec());
        self.grant(member.device, root, None);
        self.note_use(root);
        Response::Grant(GrantAnswer {
            pieces,
            tree,
            seconds: u32::try_from(GRANT.as_secs()).unwrap_or(u32::MAX),
        })
    }

    pub(super) fn grant(&mut self, peer: DeviceId, root: Blake3Root, pieces: Option<PieceSet>) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.grants.insert(root);
        }
        self.outputs.push_back(Output::Grant { peer, root, pieces, lasting: GRANT });
    }

    /// The share gate for `member`, for one manifest where it names one.
    pub(super) fn gate(
        &self,
        root: Blake3Root,
        manifest: Option<ManifestDigest>,
        member: &Member,
    ) -> Result<Permission, Reason> {
        let effective = &self.rules.effective;
        let claims: Vec<Claim<'_>> = self
            .rules
            .named_by(root)
            .filter(|(digest, _, _)| manifest.is_none_or(|named| named == *digest))
            .map(|(digest, manifest, part)| {
                let verdict = self.contents.verdict(digest, self.wall);
                let approved = effective.approval(&manifest.patch, digest);
                Claim::of(manifest, part, verdict, approved, effective.hold(&manifest.patch).is_some())
            })
            .collect();
        let seed = self.setup.roles.seed;
        let site = match (member.site == self.setup.member.site, seed) {
            (true, _) => Site::Same,
            (false, true) => Site::OtherAllowed,
            (false, false) => Site::NotAllowed,
        };
        let serving = match (self.metadata_in_force(), effective.peer_download || seed) {
            (Err(_), _) => Serving::OfflineTooLong,
            (Ok(()), false) => Serving::PeerDownloadOff,
            (Ok(()), true) => match self.passage_to(&member.site).lets(self.kind_of(root)) {
                Ok(()) => Serving::Now,
                Err(reason) => Serving::NotNow(reason),
            },
        };
        share::permit(&Question {
            progress: self.contents.get(root).map_or(Progress::NoPieces, |held| held.progress()),
            share_from: ShareFrom::FirstPiece,
            claims: &claims,
            own: if seed { Server::Seed } else { Server::Device(&self.setup.member.system) },
            asker: &member.system,
            membership: self.rules.verifier.check_current(member, self.wall),
            site,
            serving,
        })
    }

    /// Takes back every grant that the gate would not give any more: a new hold ends running transfers.
    pub(super) fn revise_grants(&mut self) {
        let granted: Vec<(Member, Blake3Root)> = self
            .peers
            .values()
            .flat_map(|peer| peer.grants.iter().map(|root| (peer.member.clone(), *root)))
            .collect();
        for (member, root) in granted {
            if self.gate(root, None, &member).is_err()
                && !crate::mutant::mutated(crate::mutant::Mutant::KeepGrants)
            {
                if let Some(peer) = self.peers.get_mut(&member.device) {
                    peer.grants.remove(&root);
                }
                self.tracker.withdrawn(&member.site, member.device, root);
                self.outputs.push_back(Output::Revoke { peer: Some(member.device), root });
            }
        }
    }

    pub(super) fn on_served(&mut self, now: Moment, peer: DeviceId, root: Blake3Root, bytes: u64) {
        let Some(connected) = self.peers.get_mut(&peer) else { return };
        connected.served = connected.served.saturating_add(bytes);
        self.note_served(now, root, bytes);
    }

    /// A whole piece went to a peer: its site has it.
    pub(super) fn on_delivered(&mut self, now: Moment, peer: DeviceId, root: Blake3Root, piece: PieceIndex) {
        if let Some(connected) = self.peers.get(&peer).filter(|_| self.setup.roles.seed) {
            self.tracker.served(&connected.member.site, peer, root, piece, now);
        }
    }

    /// Nobody in the fleet is to blame; somebody who can write to the origin may be.
    pub(super) fn on_origin_wrong(&mut self, root: Blake3Root, detail: &str) {
        self.event(Event::OriginWrong { root, detail: detail.to_owned() });
        self.incident(IncidentKind::CorruptPiece, Some(Reason::OriginCorrupt), None, detail);
    }

    pub(super) fn on_serving(&mut self, now: Moment, peer: DeviceId, bytes: u64) {
        if let Some(connected) = self.peers.get(&peer).filter(|_| self.setup.roles.seed) {
            self.tracker.active(&connected.member.site, peer, bytes, now);
        }
    }
}
