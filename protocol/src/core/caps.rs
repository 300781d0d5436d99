//! What may pass now, by policy, the hours and what the device stands on; and what follows when that changes.

use super::{Core, Output};
use crate::conditions::{Allowed, Conditions, Passage};
use crate::digest::Blake3Root;
use crate::fetch::turns::Ceilings;
use crate::identifier::SiteName;
use crate::manifest::Severity;
use crate::policy::Approved;
use crate::policy::caps::{Allowance, LocalTime, Passing};
use crate::rate::Rate;
use std::collections::{BTreeMap, BTreeSet};

/// The caps of a node and, of a seed, those of the sites that it serves.
#[derive(Debug)]
pub(super) struct Caps {
    pub(super) conditions: Conditions,
    pub(super) allowed: Allowed,
    /// What passes to each site that is connected to this seed, where that is not everything.
    pub(super) sites: BTreeMap<SiteName, Passage>,
    /// How much later it is at each site than in UTC, in minutes, as its devices say.
    offsets: BTreeMap<SiteName, i16>,
    told: (Ceilings, Option<Rate>),
    minute: u64,
}

impl Default for Caps {
    fn default() -> Caps {
        Caps {
            conditions: Conditions::default(),
            allowed: Allowed::ALL,
            sites: BTreeMap::new(),
            offsets: BTreeMap::new(),
            told: (Ceilings::default(), None),
            minute: 0,
        }
    }
}

impl Core {
    /// The device stands on something else than before.
    pub(super) fn on_conditions(&mut self, conditions: Conditions) {
        self.caps.conditions = conditions;
        self.revise_caps();
    }

    /// Hours begin and end on the minute.
    pub(super) fn revise_hours(&mut self) {
        let minute = self.wall.unix_seconds() / 60;
        if std::mem::replace(&mut self.caps.minute, minute) != minute {
            self.revise_caps();
        }
    }

    /// A device says what the clock on the wall of its site shows.
    pub(super) fn note_offset(&mut self, site: &SiteName, offset_minutes: i16) {
        if self.setup.roles.seed
            && self.caps.offsets.insert(site.clone(), offset_minutes) != Some(offset_minutes)
        {
            self.revise_caps();
        }
    }

    /// Decides anew what may pass, and says so where it changed.
    pub(super) fn revise_caps(&mut self) {
        let seed = self.setup.roles.seed;
        let caps = &self.caps;
        let own_site = self.rules.caps_of_site(&self.setup.member.site);
        let allowed = Allowed::at(&self.rules.effective, own_site, &caps.conditions, self.wall);
        let sites = if seed { self.passages_of_sites() } else { BTreeMap::new() };
        // A seed serves whole sites: policy's caps on a device's upload, its power and its link are not meant for it.
        let total = if seed { caps.conditions.upload } else { allowed.upload.cap };
        let capped = sites.iter().filter_map(|(site, passage)| Some((site.clone(), passage.cap?)));
        let download = [allowed.download.cap, self.share_at_mirrors()].into_iter().flatten().min();
        let told = (Ceilings { total, sites: capped.collect() }, download);
        if told != self.caps.told {
            let (serving, download) = told.clone();
            self.outputs.push_back(Output::Caps { serving, download });
        }
        let passing = |allowed: &Allowed| {
            [allowed.fetching, allowed.download, allowed.upload]
                .map(|passage| (passage.passing, passage.reason))
        };
        let same = passing(&allowed) == passing(&self.caps.allowed) && sites == self.caps.sites;
        (self.caps.allowed, self.caps.sites, self.caps.told) = (allowed, sites, told);
        if !same {
            self.revise_grants();
            self.offer_again();
            self.retarget();
        }
    }

    /// While no seed is there to hold the site to its cap, each of those who read at mirrors holds itself to a share.
    fn share_at_mirrors(&self) -> Option<Rate> {
        let effective = &self.rules.effective;
        if self.setup.roles.seed || effective.mirrors.is_empty() || self.reaches_seed() {
            return None;
        }
        let local = LocalTime::of(self.wall, self.caps.conditions.utc_offset_minutes);
        let site = Allowance::of(self.rules.caps_of_site(&self.setup.member.site), local).site_download;
        site.cap.map(|cap| cap.shared_by(self.fetcher.readers_at_mirrors()))
    }

    fn passages_of_sites(&self) -> BTreeMap<SiteName, Passage> {
        let names: BTreeSet<&SiteName> = self.peers.values().map(|peer| &peer.member.site).collect();
        let passage = |name: &SiteName| {
            let own = self.caps.conditions.utc_offset_minutes;
            let offset = self.caps.offsets.get(name).copied().unwrap_or(own);
            let at = LocalTime::of(self.wall, offset);
            Passage::by_hours(Allowance::of(self.rules.caps_of_site(name), at).site_download)
        };
        let passages = names.into_iter().map(|name| (name.clone(), passage(name)));
        passages.filter(|(_, passage)| *passage != Passage::OPEN).collect()
    }

    /// What passes from this node to a member of `site`.
    pub(super) fn passage_to(&self, site: &SiteName) -> Passage {
        if self.setup.roles.seed {
            self.caps.sites.get(site).copied().unwrap_or(Passage::OPEN)
        } else {
            self.caps.allowed.upload
        }
    }

    /// Whether a content belongs to an approved patch that is critical.
    pub(super) fn kind_of(&self, root: Blake3Root) -> Passing {
        let critical = self.rules.named_by(root).any(|(digest, manifest, _)| {
            manifest.severity == Severity::Critical
                && self.rules.effective.approval(&manifest.patch, digest) == Approved::Yes
        });
        if critical { Passing::Critical } else { Passing::All }
    }

    /// What may not come over the WAN now, of what is wanted.
    pub(super) fn hold_over_wan(&mut self) {
        let download = self.caps.allowed.download;
        let held = |root: &Blake3Root| download.lets(self.kind_of(*root)).is_err();
        let held = match download.passing {
            Passing::All => BTreeSet::new(),
            _ => self.fetcher.wants().map(|want| want.content.root).filter(held).collect(),
        };
        self.fetcher.hold_over_wan(held);
    }
}
