//! Contents: what is here, what is wanted, what may be offered as complete.

use super::evidence::Judged;
use super::priority::{self, Period};
use super::rules::{artifact_of, evidence_of};
use super::{Core, Event, Mending, Output, Pending};
use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::fetch::{Action, PieceFailure, Priority};
use crate::identifier::{DeviceId, ManifestDigest};
use crate::manifest::{Content, Manifest};
use crate::piece::PieceTree;
use crate::policy::Approved;
use crate::policy::caps::Passing;
use crate::reason::Reason;
use crate::report::IncidentKind;
use crate::share::{self, Claim, Offer, PeerDownload, Progress, Server};
use crate::time::Moment;
use crate::wire::{GrantRequest, Hint, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A content that the disk did not keep so often is not fetched again before the next start.
const SPOILED: u8 = 3;

/// One content on this node's disk.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) tree: Arc<PieceTree>,
    /// Pieces verified and durable.
    pub(super) pieces: PieceSet,
    check: Check,
}

/// The full check of a complete content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    NotYet,
    /// Under way; only this effect's answer is about the bytes that are here.
    Running(EffectId),
    Passed,
}

impl Held {
    pub(super) fn is_complete(&self) -> bool {
        self.pieces.len() == self.tree.pieces()
    }

    pub(super) fn is_checked(&self) -> bool {
        self.is_complete()
            && (self.check == Check::Passed || crate::mutant::mutated(crate::mutant::Mutant::SkipFullCheck))
    }

    pub(super) fn progress(&self) -> Progress {
        match self.check {
            _ if self.pieces.is_empty() => Progress::NoPieces,
            Check::Passed if self.is_complete() => Progress::Checked,
            _ => Progress::Arriving,
        }
    }
}

/// All contents of a node, and what is known of who made them.
#[derive(Debug, Default)]
pub(super) struct Contents {
    held: BTreeMap<Blake3Root, Held>,
    pub(super) judged: BTreeMap<ManifestDigest, Judged>,
    /// How often the disk did not keep a content.
    spoiled: BTreeMap<Blake3Root, u8>,
    /// While the clock is in it, the contents that are wanted go in the same order.
    pub(super) due: Period,
}

impl Contents {
    pub(super) fn get(&self, root: Blake3Root) -> Option<&Held> {
        self.held.get(&root)
    }

    pub(super) fn size_of(&self, root: Blake3Root) -> Option<u64> {
        self.held.get(&root).map(|held| held.tree.size())
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (Blake3Root, &PieceSet)> {
        self.held.iter().map(|(root, held)| (*root, &held.pieces))
    }

    /// Whether the content is here, whole and checked.
    pub(super) fn is_checked(&self, content: &Content) -> bool {
        self.held.get(&content.root).is_some_and(Held::is_checked)
    }
}

impl Core {
    /// The disk holds this: after a start, and when content was added from outside.
    pub(super) fn on_held(&mut self, now: Moment, tree: Arc<PieceTree>, pieces: PieceSet) {
        let root = tree.root();
        if crate::mutant::mutated(crate::mutant::Mutant::ForgetHeld) {
            return;
        }
        if !pieces.is_empty() {
            self.obstacles.readable(root);
        }
        let held = Held { tree, pieces, check: Check::NotYet };
        self.contents.held.insert(root, held);
        // What was found damaged on the disk and is here again is judged again.
        for (digest, _, _) in self.rules.named_by(root) {
            let damaged = [Reason::DiskDamaged, Reason::FullCheckFailed];
            if matches!(self.contents.judged.get(&digest), Some(Judged::Refused(reason)) if damaged.contains(reason))
            {
                self.contents.judged.remove(&digest);
            }
        }
        self.advance_contents(now);
        self.note_news(now, Some(root));
    }

    /// Lets the fetcher decide, and carries out what it decides. The asking side of the gate stands here.
    pub(super) fn fetch(&mut self, now: Moment) {
        for action in self.fetcher.advance(now, &mut self.ids) {
            match action {
                Action::AskGrant(_, to, GrantRequest { root, .. })
                    if self.accepts_from(root, to).is_err() =>
                {
                    let Err(reason) = self.accepts_from(root, to) else { continue };
                    self.event(Event::OfferRefused { peer: to, root, reason });
                    self.fetcher.on_grant(now, to, root, Some(Err(reason)));
                }
                Action::AskGrant(effect, to, request) => {
                    self.pending.insert(effect, Pending::Grant(to, request.root));
                    self.outputs.push_back(Output::Request { effect, to, request: Request::Grant(request) });
                }
                Action::AskLease(effect, to, request) => {
                    self.pending.insert(effect, Pending::Lease(to));
                    self.outputs.push_back(Output::Request { effect, to, request: Request::Lease(request) });
                }
                Action::FetchPiece(fetch) => {
                    self.pending.insert(fetch.effect, Pending::Piece);
                    self.outputs.push_back(Output::FetchPiece(fetch));
                }
                Action::ReadMirror(read) => self.read_mirror(now, read),
                Action::SayReads => {
                    let hint =
                        Hint::Reads { site: self.setup.member.site.clone(), roots: self.fetcher.reads() };
                    self.outputs.push_back(Output::Publish(hint));
                }
                Action::Dial(member) => self.on_named(now, member),
                Action::Corrupt(peer, root, piece) => {
                    let reason = match peer {
                        Some(peer) => {
                            self.event(Event::PieceCorrupt { peer, root, piece });
                            Reason::PieceCorrupt
                        }
                        None => Reason::OriginCorrupt,
                    };
                    self.incident(IncidentKind::CorruptPiece, Some(reason), peer, &root.to_string());
                }
            }
        }
    }

    pub(super) fn on_piece(&mut self, now: Moment, effect: EffectId, result: Result<(), PieceFailure>) {
        self.pending.remove(&effect);
        let Some((tree, piece)) = self.fetcher.target(effect) else { return };
        if let (Err(PieceFailure::Refused(reason)), Some(peer)) = (result, self.fetcher.source(effect)) {
            self.event(Event::FetchRefused { peer, root: tree.root(), reason });
            self.on_piece_refused(peer, tree.root(), reason);
        }
        let root = tree.root();
        let result = match result {
            Err(PieceFailure::Corrupt) if crate::mutant::mutated(crate::mutant::Mutant::TakeCorrupt) => {
                Ok(())
            }
            Err(PieceFailure::Disk) if crate::mutant::mutated(crate::mutant::Mutant::TakeUnwritten) => Ok(()),
            result => result,
        };
        if let (Err(failure), None) = (result, self.fetcher.source(effect)) {
            self.on_mirror_failed(root, failure);
        }
        self.fetcher.on_piece(now, effect, result);
        if result.is_ok() {
            self.obstacles.came(root);
            let held = self.contents.held.entry(root).or_insert_with(|| Held {
                tree,
                pieces: PieceSet::new(),
                check: Check::NotYet,
            });
            held.pieces.insert(piece);
            let complete = held.is_complete();
            self.note_news(now, Some(root));
            self.note_transfer(now);
            if complete {
                self.advance_contents(now);
            }
        }
    }

    /// Everything that follows from what is here: evidence that can be checked, contents that can be checked as a
    /// whole, contents to want or to want no more.
    pub(super) fn advance_contents(&mut self, now: Moment) {
        self.check_evidence(now);
        self.check_contents();
        self.retarget();
    }

    /// The manifests whose contents this node has to do with: those of its plan, and approved ones of which it holds
    /// the evidence already, to share them.
    pub(super) fn relevant(&self) -> Vec<(ManifestDigest, Arc<Manifest>)> {
        let planned: BTreeSet<ManifestDigest> = self.deploying.planned();
        let effective = &self.rules.effective;
        self.rules
            .manifests()
            .filter(|(digest, manifest)| {
                let approved = effective.approval(&manifest.patch, *digest) == Approved::Yes
                    && effective.hold(&manifest.patch).is_none();
                planned.contains(digest) || (approved && self.has_evidence(*digest, manifest))
            })
            .map(|(digest, manifest)| (digest, Arc::clone(manifest)))
            .collect()
    }

    /// Contents of the manifests of the plan.
    pub(super) fn planned_contents(&self) -> BTreeSet<Blake3Root> {
        let planned = self.deploying.planned();
        let manifests = planned.iter().filter_map(|digest| self.rules.manifest(*digest));
        manifests.flat_map(|manifest| manifest.contents()).map(|content| content.root).collect()
    }

    /// The disk changed pieces that were proven when they came: nobody gets them, the rest stays. A device that needs
    /// them fetches and checks them again.
    pub(super) fn on_damaged(&mut self, now: Moment, effect: EffectId, pieces: &PieceSet) {
        let root = match self.pending.get(&effect) {
            Some(Pending::FullCheck(root)) => *root,
            _ => return,
        };
        let times = self.contents.spoiled.entry(root).or_default();
        *times = times.saturating_add(1);
        // Where nothing is fetched, nothing uses up the WAN.
        if *times > SPOILED && !self.setup.roles.seed {
            return self.on_full_check(now, effect, Err(Reason::DiskDamaged));
        }
        self.pending.remove(&effect);
        let Some(held) = self.contents.held.get_mut(&root) else { return };
        if held.check != Check::Running(effect) {
            return;
        }
        held.check = Check::NotYet;
        pieces.iter().for_each(|piece| held.pieces.remove(piece));
        self.fetcher.forget(root);
        self.outputs.push_back(Output::Revoke { peer: None, root });
        self.note_damage(root, &format!("{} pieces of it", pieces.len()));
        self.advance_contents(now);
    }

    /// Says what the disk lost of a content, and how it comes back.
    pub(super) fn note_damage(&mut self, root: Blake3Root, lost: &str) {
        self.retarget();
        let spoiled = self.contents.spoiled.get(&root).is_some_and(|times| *times > SPOILED);
        let mending = if self.setup.roles.seed {
            Mending::HandedIn
        } else if spoiled {
            Mending::GivenUp
        } else if self.fetcher.is_wanted(root) {
            Mending::Fetched
        } else {
            Mending::NotNeeded
        };
        let what = match mending {
            Mending::Fetched => "fetched again",
            Mending::HandedIn => "gone until the file is handed in again",
            Mending::NotNeeded => "not needed here any more",
            Mending::GivenUp => "not fetched again before the disk is checked",
        };
        let detail = format!("the disk of this device did not keep {root}: {lost} is {what}");
        self.incident(IncidentKind::Store, Some(Reason::DiskDamaged), None, &detail);
        self.event(Event::DiskDamaged { root, mending });
    }

    /// Drops content that this disk does not keep, to fetch it again; not for ever, since a bad disk would use up the WAN.
    pub(super) fn drop_spoiled(&mut self, root: Blake3Root) -> bool {
        let times = self.contents.spoiled.entry(root).or_default();
        *times = times.saturating_add(1);
        let again = *times <= SPOILED;
        self.drop_content(root);
        again
    }

    pub(super) fn drop_content(&mut self, root: Blake3Root) {
        self.contents.held.remove(&root);
        self.fetcher.forget(root);
        self.outputs.push_back(Output::Revoke { peer: None, root });
        self.outputs.push_back(Output::Discard(root));
    }

    /// Starts the full check of every complete content that a relevant manifest names.
    fn check_contents(&mut self) {
        for (digest, manifest) in self.relevant() {
            for content in manifest.contents() {
                let artifact = artifact_of(&manifest, content.root).cloned();
                let proven = artifact.is_none() || self.contents.verdict(digest, self.wall) == Some(Ok(()));
                let Some(held) = self.contents.held.get_mut(&content.root) else { continue };
                if !proven || !held.is_complete() || held.check != Check::NotYet {
                    continue;
                }
                let effect = self.ids.fresh();
                held.check = Check::Running(effect);
                self.pending.insert(effect, Pending::FullCheck(content.root));
                let artifact = artifact.map(|artifact| (Arc::clone(&manifest), artifact));
                self.outputs.push_back(Output::FullCheck { effect, content, artifact });
            }
        }
        self.check_evidence_files();
    }

    /// Evidence is checked against its SHA-256 for any manifest that names it, since it opens the way to the rest.
    fn check_evidence_files(&mut self) {
        let files: Vec<Content> = self
            .rules
            .manifests()
            .filter(|(digest, manifest)| {
                self.rules.effective.approval(&manifest.patch, *digest) == Approved::Yes
            })
            .flat_map(|(digest, manifest)| evidence_of(digest, manifest))
            .map(|named| named.content)
            .collect();
        for content in files {
            let Some(held) = self.contents.held.get_mut(&content.root) else { continue };
            if held.is_complete() && held.check == Check::NotYet {
                let effect = self.ids.fresh();
                held.check = Check::Running(effect);
                self.pending.insert(effect, Pending::FullCheck(content.root));
                self.outputs.push_back(Output::FullCheck { effect, content, artifact: None });
            }
        }
    }

    pub(super) fn on_full_check(&mut self, now: Moment, effect: EffectId, result: Result<(), Reason>) {
        let Some(Pending::FullCheck(root)) = self.pending.remove(&effect) else { return };
        let Some(held) = self.contents.held.get_mut(&root) else { return };
        if held.check != Check::Running(effect) {
            return;
        }
        match result {
            Ok(()) => {
                held.check = Check::Passed;
                let content = self.named_content(root);
                if let Some(content) = content {
                    self.event(Event::ContentComplete { content });
                }
                if !crate::mutant::mutated(crate::mutant::Mutant::WantForEver) {
                    self.fetcher.forget(root);
                }
                self.note_news(now, Some(root));
            }
            // Nothing speaks against the bytes: what checks them is not on this device. They stay, and nobody gets them.
            Err(reason @ Reason::MissingEvidence) => {
                held.check = Check::NotYet;
                self.outputs.push_back(Output::Revoke { peer: None, root });
                self.event(Event::Unchecked { root });
                self.refuse_content(now, root, reason);
            }
            // Every piece was proven when it came: the disk changed it.
            Err(Reason::PieceCorrupt) if self.drop_spoiled(root) => self.note_damage(root, "it"),
            // Not for ever: a bad disk would use up the WAN.
            Err(Reason::DiskDamaged | Reason::PieceCorrupt) => {
                self.drop_content(root);
                self.refuse_content(now, root, Reason::DiskDamaged);
                self.note_damage(root, "it");
            }
            Err(reason) => {
                self.drop_content(root);
                self.incident(IncidentKind::RefusedContent, Some(reason), None, &root.to_string());
                self.refuse_content(now, root, reason);
            }
        }
        self.advance_contents(now);
        self.advance_deployments(now);
    }

    /// Whether a content counts as checked, for simulations and tests.
    pub fn is_checked(&self, root: Blake3Root) -> bool {
        self.contents.get(root).is_some_and(Held::is_checked)
    }

    fn named_content(&self, root: Blake3Root) -> Option<Content> {
        let mut contents = self.rules.named_by(root).flat_map(|(_, manifest, _)| manifest.contents());
        contents.find(|content| content.root == root)
    }

    /// The whole content is not what the vendor signed although every piece matches the root: its manifests are refused.
    fn refuse_content(&mut self, now: Moment, root: Blake3Root, reason: Reason) {
        let manifests: Vec<ManifestDigest> = self.rules.named_by(root).map(|(digest, _, _)| digest).collect();
        for digest in manifests {
            self.contents.judged.insert(digest, Judged::Refused(reason));
        }
        self.replan(now);
    }

    /// Wants what the plan needs and is not here; wants nothing else.
    pub(super) fn retarget(&mut self) {
        let mut desired: BTreeMap<Blake3Root, (Priority, Content, ManifestDigest)> = BTreeMap::new();
        let mut period = Period::default();
        for digest in self.deploying.planned() {
            let Some(manifest) = self.rules.manifest(digest) else { continue };
            let due = period.judge(self.deadline_of(digest, manifest), self.wall);
            let proven = self.contents.verdict(digest, self.wall) == Some(Ok(()));
            for (content, urgency) in priority::named(digest, manifest, proven) {
                let wanted = (Priority { due, urgency }, content, digest);
                // Of several patches that need it, it is wanted for the one that goes first.
                let first = desired.entry(content.root).or_insert(wanted);
                if wanted.0.rank(content.size) < first.0.rank(content.size) {
                    *first = wanted;
                }
            }
        }
        self.contents.due = period;
        desired.retain(|root, _| !self.contents.get(*root).is_some_and(Held::is_complete));
        desired.retain(|root, _| self.accepts(*root, Server::Seed).is_ok());
        let fetching = self.caps.allowed.fetching;
        if fetching.passing != Passing::All {
            desired.retain(|root, _| fetching.lets(self.kind_of(*root)).is_ok());
        }
        let unwanted: Vec<Blake3Root> = self
            .fetcher
            .wants()
            .map(|want| want.content.root)
            .filter(|root| !desired.contains_key(root))
            .collect();
        for root in unwanted {
            self.fetcher.forget(root);
        }
        for (root, (priority, content, manifest)) in desired {
            let have = self.contents.get(root).map(|held| held.pieces.clone()).unwrap_or_default();
            self.fetcher.want(content, manifest, priority, have);
            if let Some(held) = self.contents.get(root) {
                self.fetcher.learn_tree(&held.tree);
            }
        }
        let fetcher = &self.fetcher;
        self.obstacles.retain(|root| fetcher.is_wanted(root));
        self.note_mirrors();
        self.hold_over_wan();
        self.trim_kept();
    }

    /// The asking side of the gate, for content that `device` offers (N9: a peer offers what is for its own system).
    fn accepts_from(&self, root: Blake3Root, device: DeviceId) -> Result<(), Reason> {
        match self.peers.get(&device) {
            Some(peer) => self.accepts(root, Server::Device(&peer.member.system)),
            None => Err(Reason::NotAMember),
        }
    }

    /// The asking side of the gate, for content from a seed or a peer.
    fn accepts(&self, root: Blake3Root, from: Server<'_>) -> Result<(), Reason> {
        let effective = &self.rules.effective;
        let claims: Vec<Claim<'_>> = self
            .rules
            .named_by(root)
            .map(|(digest, manifest, part)| {
                let verdict = self.contents.verdict(digest, self.wall);
                let approved = effective.approval(&manifest.patch, digest);
                Claim::of(manifest, part, verdict, approved, effective.hold(&manifest.patch).is_some())
            })
            .collect();
        let offer = Offer {
            claims: &claims,
            from,
            own: &self.setup.member.system,
            peer_download: if effective.peer_download { PeerDownload::On } else { PeerDownload::Off },
        };
        share::accept(&offer)
    }

    pub(super) fn is_seed(&self, device: DeviceId) -> bool {
        self.rules.services.is_seed(device)
    }
}
