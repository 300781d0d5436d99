//! What keeps a content from coming although it is wanted: for whoever asks why a deployment does not go on, and what a seed
//! answers about content that it cannot read.

use super::Core;
use super::view::Cause;
use crate::digest::Blake3Root;
use crate::fetch::PieceFailure;
use crate::identifier::{DeviceId, PatchId};
use crate::manifest::Manifest;
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::{LeaseLine, LeasedLine};
use std::collections::BTreeMap;

/// What keeps one content from coming.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Obstacle {
    /// This device has no room for it; the sentence says how much is needed and free.
    NoRoom(String),
    /// A seed leases nothing of it.
    Declined(DeviceId, Reason),
    /// A seed leased a piece of it and then did not give that.
    Refused(DeviceId, Reason),
    /// Others of the site have the places on its WAN link.
    Waits,
    /// No seed can be reached, and a mirror did not give it.
    Mirror(PieceFailure),
}

/// What stands in the way of contents: of wanted ones on a device, of all on a seed.
#[derive(Debug, Default)]
pub(super) struct Obstacles {
    coming: BTreeMap<Blake3Root, Obstacle>,
    /// Contents that this seed cannot read where they lie.
    unreadable: BTreeMap<Blake3Root, Reason>,
}

impl Obstacles {
    /// Something of the content came.
    pub(super) fn came(&mut self, root: Blake3Root) {
        self.coming.remove(&root);
    }

    /// The content is here, or can be read where it lies.
    pub(super) fn readable(&mut self, root: Blake3Root) {
        self.unreadable.remove(&root);
    }

    /// The last seed is gone: what it said of contents is over.
    pub(super) fn seedless(&mut self) {
        self.coming.retain(|_, obstacle| matches!(obstacle, Obstacle::NoRoom(_)));
    }

    pub(super) fn retain(&mut self, wanted: impl Fn(Blake3Root) -> bool) {
        self.coming.retain(|root, _| wanted(*root));
    }
}

impl Core {
    /// The disk or the quota of this device has no room for a content that is wanted.
    pub(super) fn on_no_room(&mut self, now: Moment, root: Blake3Root, says: String) {
        if self.fetcher.is_wanted(root) && !self.make_room_for(now, root) {
            self.obstacles.coming.insert(root, Obstacle::NoRoom(says));
        }
    }

    /// A seed answered about a content in a lease: it refuses it, leases or names something of it, or neither.
    /// `idle` says that this device fetches nothing over the WAN, and the answer lets it fetch nothing.
    pub(super) fn on_lease_said(&mut self, seed: DeviceId, line: &LeasedLine, idle: bool) {
        let root = line.root;
        if let Some(reason) = line.refused {
            return self.note_refusal_of(root, reason, Obstacle::Declined(seed, reason));
        }
        let waits = idle && line.holders.is_empty();
        match self.obstacles.coming.get(&root) {
            Some(Obstacle::Declined(by, _)) if *by == seed => self.obstacles.came(root),
            Some(Obstacle::Waits) if !waits => self.obstacles.came(root),
            None if waits && self.fetcher.is_wanted(root) => {
                self.obstacles.coming.insert(root, Obstacle::Waits);
            }
            _ => {}
        }
    }

    /// A mirror did not give a piece.
    pub(super) fn on_mirror_failed(&mut self, root: Blake3Root, failure: PieceFailure) {
        if failure != PieceFailure::Disk && self.fetcher.is_wanted(root) {
            self.obstacles.coming.insert(root, Obstacle::Mirror(failure));
        }
    }

    /// A source did not give a piece that it was asked for: of a neighbour that is nothing to tell, since others have it.
    pub(super) fn on_piece_refused(&mut self, from: DeviceId, root: Blake3Root, reason: Reason) {
        if self.is_seed(from) {
            self.note_refusal_of(root, reason, Obstacle::Refused(from, reason));
        }
    }

    fn note_refusal_of(&mut self, root: Blake3Root, reason: Reason, obstacle: Obstacle) {
        // That a grant or a snapshot is older than the other end's settles with the next question.
        let settled = matches!(reason, Reason::NoGrant | Reason::StaleSnapshot);
        if !settled && self.fetcher.is_wanted(root) {
            self.obstacles.coming.insert(root, obstacle);
        }
    }

    /// This seed cannot read a content where it lies, or can again.
    pub(super) fn on_unreadable(&mut self, root: Blake3Root, reason: Option<Reason>) {
        match reason {
            Some(reason) => drop(self.obstacles.unreadable.insert(root, reason)),
            None => self.obstacles.readable(root),
        }
    }

    /// What the asker of a lease is told: that a content is not here yet is no answer where this seed knows that it cannot read it,
    /// or cannot read what proves it.
    pub(super) fn unless_unreadable(&self, line: &LeaseLine, reason: Reason) -> Reason {
        match reason {
            Reason::NoPieces | Reason::NotVerifiedYet | Reason::FullCheckPending => {
                let named = self.rules.manifest(line.manifest).map(|manifest| manifest.contents());
                let named = named.into_iter().flatten().map(|content| content.root);
                let mut contents = std::iter::once(line.root).chain(named);
                contents.find_map(|root| self.obstacles.unreadable.get(&root).copied()).unwrap_or(reason)
            }
            reason => reason,
        }
    }

    /// Why the contents of a manifest do not come, if something stands in their way.
    pub(super) fn obstacle(&self, manifest: &Manifest) -> Option<Cause> {
        let mut missing =
            manifest.contents().into_iter().filter(|content| !self.contents.is_checked(content));
        let stranded = missing.clone().any(|content| self.fetcher.is_stranded(content.root));
        let found = missing.find_map(|content| self.obstacles.coming.get(&content.root));
        let Some(obstacle) = found else { return stranded.then(|| Reason::NoSeed.into()) };
        Some(match obstacle {
            Obstacle::Waits => Reason::WaitsForTurn.into(),
            Obstacle::Mirror(failure) => {
                let (reason, why) = match failure {
                    PieceFailure::Refused(_) => (Reason::NoPieces, "does not have it, or not in parts"),
                    PieceFailure::Corrupt => (Reason::OriginCorrupt, "has other bytes"),
                    PieceFailure::Lost | PieceFailure::Disk => (Reason::OriginUnreachable, "does not answer"),
                };
                let sentence = format!("No seed can be reached, and the mirror that policy names {why}.");
                Cause { code: reason.code().to_owned(), sentence }
            }
            Obstacle::NoRoom(says) => {
                Cause { code: Reason::DiskFull.code().to_owned(), sentence: says.clone() }
            }
            Obstacle::Declined(seed, reason) | Obstacle::Refused(seed, reason) => {
                let why = match reason {
                    Reason::NoPieces => {
                        "It does not have it; run `patchmesh fleet publish`, which hands it in."
                    }
                    reason => reason.explain(),
                };
                let sentence = format!("The seed {} does not give it. {why}", seed.short());
                Cause { code: reason.code().to_owned(), sentence }
            }
        })
    }

    /// Patches of the plan for whose contents this device has no room, and how much they need.
    pub fn without_room(&self) -> Vec<(PatchId, Cause)> {
        let steps = self.deploying.plan.steps.iter();
        let waits = steps.filter_map(|step| {
            let cause = self.obstacle(self.rules.manifest(step.manifest)?)?;
            (cause.code == Reason::DiskFull.code()).then(|| (step.patch.clone(), cause))
        });
        waits.collect()
    }
}
