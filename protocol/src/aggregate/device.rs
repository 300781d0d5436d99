//! What the aggregator keeps of one device.

use super::counts::Sums;
use crate::digest::Sha256;
use crate::identifier::HostName;
use crate::membership::Member;
use crate::report::{Deployment, Facts};
use crate::system::System;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};

/// Whether a device has every approved patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compliance {
    /// It never scanned.
    NotAssessed,
    /// It scanned and misses approved patches.
    Behind,
    /// It scanned and misses none.
    Compliant,
}

impl Compliance {
    /// Stable code for machines.
    pub const fn code(self) -> &'static str {
        match self {
            Compliance::NotAssessed => "not-assessed",
            Compliance::Behind => "behind",
            Compliance::Compliant => "compliant",
        }
    }
}

/// One device: what its certificate says, how far its reports go, and what they add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub(super) member: Member,
    pub(super) chain: Option<Chain>,
    /// Earlier incarnations and how far they went, latest last.
    pub(super) retired: VecDeque<(u64, u64)>,
    pub(super) seen: WallTime,
    pub(super) reported: Option<WallTime>,
    pub(super) ahead_seconds: u64,
    pub(super) dropped: u64,
    pub(super) facts: Facts,
    pub(super) history: BTreeSet<Deployment>,
    pub(super) sums: Sums,
}

/// How far the reports of one incarnation go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    pub incarnation: u64,
    pub sequence: u64,
    pub hash: Sha256,
    /// The latest reports, by sequence and the first eight bytes of their hash: tells a repetition from a clone.
    pub latest: VecDeque<(u64, [u8; 8])>,
}

/// Reports whose hash is remembered, of each device: older ones that come again are taken for repetitions.
const LATEST: usize = 32;

/// Incarnations that are remembered of each device.
const RETIRED: usize = 8;

/// The part of a device that every report changes, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    member: Member,
    chain: Option<Chain>,
    retired: VecDeque<(u64, u64)>,
    seen: WallTime,
    reported: Option<WallTime>,
    ahead_seconds: u64,
    dropped: u64,
}

impl Chain {
    pub(super) fn start(incarnation: u64) -> Chain {
        Chain { incarnation, sequence: 0, hash: crate::report::FIRST, latest: VecDeque::new() }
    }

    pub(super) fn advance(&mut self, sequence: u64, hash: Sha256) {
        self.sequence = sequence;
        self.hash = hash;
        self.latest.push_back((sequence, prefix(hash)));
        if self.latest.len() > LATEST {
            self.latest.pop_front();
        }
    }

    /// Whether the report that was taken under `sequence` had another hash; unknown counts as the same.
    pub(super) fn contradicts(&self, sequence: u64, hash: Sha256) -> bool {
        self.latest.iter().any(|(known, first)| *known == sequence && *first != prefix(hash))
    }
}

fn prefix(hash: Sha256) -> [u8; 8] {
    std::array::from_fn(|at| hash.as_bytes()[at])
}

impl Device {
    pub(super) fn new(member: Member, now: WallTime) -> Device {
        Device {
            member,
            chain: None,
            retired: VecDeque::new(),
            seen: now,
            reported: None,
            ahead_seconds: 0,
            dropped: 0,
            facts: Facts::default(),
            history: BTreeSet::new(),
            sums: Sums::default(),
        }
    }

    /// What its certificate says.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Host name: as the device says now, or as its certificate says.
    pub fn host(&self) -> &HostName {
        self.facts.inventory().map_or(&self.member.host, |inventory| &inventory.host)
    }

    /// Operating system: as the device says now, or as its certificate says.
    pub fn system(&self) -> &System {
        self.facts.inventory().map_or(&self.member.system, |inventory| &inventory.system)
    }

    /// What its reports add up to.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its latest deployments in order of time, those that were overtaken by later ones included.
    pub fn history(&self) -> &BTreeSet<Deployment> {
        &self.history
    }

    /// Last sign of life, by the aggregator's clock.
    pub fn seen(&self) -> WallTime {
        self.seen
    }

    /// Last report that was taken in, by the aggregator's clock.
    pub fn reported(&self) -> Option<WallTime> {
        self.reported
    }

    /// Incarnation and sequence of the last report.
    pub fn position(&self) -> Option<(u64, u64)> {
        self.chain.as_ref().map(|chain| (chain.incarnation, chain.sequence))
    }

    /// Whether it has every approved patch.
    pub fn compliance(&self) -> Compliance {
        self.sums.compliance(&self.facts)
    }

    pub(super) fn retire_chain(&mut self) {
        if let Some(chain) = self.chain.take() {
            self.retired.push_back((chain.incarnation, chain.sequence));
            if self.retired.len() > RETIRED {
                self.retired.pop_front();
            }
        }
    }

    pub(super) fn head(&self) -> Head {
        Head {
            member: self.member.clone(),
            chain: self.chain.clone(),
            retired: self.retired.clone(),
            seen: self.seen,
            reported: self.reported,
            ahead_seconds: self.ahead_seconds,
            dropped: self.dropped,
        }
    }

    pub(super) fn from_head(head: Head) -> Device {
        let Head { member, chain, retired, seen, reported, ahead_seconds, dropped } = head;
        let fresh = Device::new(member, seen);
        Device { chain, retired, reported, ahead_seconds, dropped, ..fresh }
    }
}
