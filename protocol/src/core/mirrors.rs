//! Mirrors: what may be read there while no seed can be reached, and who of the site does.

use super::timers::Timer;
use super::{Core, Output, Pending};
use crate::digest::Blake3Root;
use crate::fetch::{PieceFailure, Read};
use crate::identifier::{DeviceId, SiteName};
use crate::manifest::Manifest;
use crate::policy::mirror::Mirror;
use crate::reason::Reason;
use crate::time::Moment;
use crate::wire::Hint;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Nothing proves these hints: one device answers, and dials because of one, no more often than this.
const TALKS: Duration = Duration::from_secs(10);

/// When this device last said that it reaches a seed, and when it last dialled since somebody else does.
#[derive(Debug, Default)]
pub(super) struct Talk {
    answered: Option<Moment>,
    followed: Option<Moment>,
}

impl Core {
    /// Which of the wanted contents mirrors may have: artifacts of vendors whose mirrors policy names.
    pub(super) fn note_mirrors(&mut self) {
        if self.setup.roles.seed {
            return;
        }
        let wanted = self.fetcher.wants().map(|want| (want.content.root, want.manifest));
        let at_mirrors = |(root, digest)| {
            let manifest = self.rules.manifest(digest)?;
            let is_artifact = manifest.artifacts.iter().any(|artifact| artifact.content.root == root);
            (is_artifact && self.mirrors_of(manifest).next().is_some()).then_some(root)
        };
        let roots: BTreeSet<Blake3Root> = wanted.filter_map(at_mirrors).collect();
        let effective = &self.rules.effective;
        self.fetcher.set_mirrors(roots, &effective.mirrors, usize::from(effective.wan_fetchers));
    }

    fn mirrors_of<'a>(&'a self, manifest: &Manifest) -> impl Iterator<Item = &'a Mirror> {
        let vendor = manifest.patch.vendor();
        self.rules.effective.mirrors.iter().filter(move |mirror| mirror.vendor == vendor)
    }

    /// Has a piece read at the mirrors of its vendor.
    pub(super) fn read_mirror(&mut self, now: Moment, read: Read) {
        let root = read.tree.root();
        let want = self.fetcher.wants().find(|want| want.content.root == root);
        let manifest = want.and_then(|want| self.rules.manifest(want.manifest)).map(Arc::clone);
        let Some(manifest) = manifest else {
            let refused = Err(PieceFailure::Refused(Reason::NotInCatalogue));
            return self.fetcher.on_piece(now, read.effect, refused);
        };
        let mirrors = self.mirrors_of(&manifest).cloned().collect();
        self.pending.insert(read.effect, Pending::Piece);
        self.outputs.push_back(Output::ReadMirror { read, manifest, mirrors });
    }

    /// Somebody says that it reads at mirrors: whoever reaches a seed says so, and whoever does not counts it.
    pub(super) fn on_reads(&mut self, now: Moment, from: DeviceId, site: &SiteName, roots: Vec<u32>) {
        if *site != self.setup.member.site || from == self.setup.member.device {
            return;
        }
        if !self.reaches_seed() {
            self.fetcher.on_reads(now, from, roots.into_iter().collect());
            self.revise_caps();
        } else if self.talk.answered.is_none_or(|answered| answered + TALKS <= now) {
            let within = u64::try_from(self.fetcher.answers_within().as_millis()).unwrap_or(u64::MAX);
            let jitter = Duration::from_millis(self.random() % within.max(1));
            self.timers.bring_forward(Timer::Reached, now + jitter);
        }
    }

    /// Tells the site that a seed is reached.
    pub(super) fn say_reached(&mut self, now: Moment) {
        if self.reaches_seed() {
            self.talk.answered = Some(now);
            let site = self.setup.member.site.clone();
            self.outputs.push_back(Output::Publish(Hint::Reached(site)));
        }
    }

    /// Somebody says that it reaches a seed: this device tries again at once, and leaves mirrors alone meanwhile.
    pub(super) fn on_seed_reached(&mut self, now: Moment, site: &SiteName) {
        if *site != self.setup.member.site {
            return;
        }
        self.timers.clear(Timer::Reached);
        let rests = self.talk.followed.is_some_and(|followed| now < followed + TALKS);
        if !self.reaches_seed() && self.fetcher.on_reached(now) && !rests {
            self.talk.followed = Some(now);
            let jitter = Duration::from_millis(self.random() % 1_000);
            self.timers.bring_forward(Timer::Redial, now + jitter);
        }
    }

    /// A seed is connected no more.
    pub(super) fn on_seed_lost(&mut self) {
        if !self.reaches_seed() {
            self.obstacles.seedless();
        }
        self.revise_caps();
    }

    /// Whether a seed is connected.
    pub(super) fn reaches_seed(&self) -> bool {
        self.peers.keys().any(|device| self.is_seed(*device))
    }
}
