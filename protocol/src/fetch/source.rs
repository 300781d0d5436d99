//! What the fetcher knows of one place that pieces can come from.

use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::identifier::DeviceId;
use crate::limits;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use crate::time::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a neighbour that refused a content is not asked for it again.
const REFUSED: Duration = Duration::from_secs(30);
/// How long a neighbour on another metadata version, or that is not so far yet, is not asked again.
const STALE: Duration = Duration::from_secs(2);
/// How long a neighbour that forgot its grant, because it started again, is not asked for a new one.
const NO_GRANT: Duration = Duration::from_millis(200);
/// How long a source that sent wrong bytes is not asked for anything.
const CORRUPT: Duration = Duration::from_secs(600);
/// First pause after a piece did not come; it doubles with every further failure.
const FAILED: Duration = Duration::from_secs(2);
/// Longest pause after failures.
const FAILED_MOST: Duration = Duration::from_secs(120);

/// A neighbour.
#[derive(Debug, Default)]
pub(super) struct Neighbour {
    pub(super) holds: BTreeMap<Blake3Root, PieceSet>,
    pub(super) grants: BTreeMap<Blake3Root, Grant>,
    pub(super) load: Load,
}

/// Where the permission of one neighbour for one content stands.
#[derive(Debug)]
pub(super) enum Grant {
    /// Asked, no answer yet.
    Asking,
    /// Given until then.
    Given(Moment),
    /// Refused; not asked again until then.
    Refused(Moment),
}

/// How busy and how trustworthy a source is.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) in_flight: usize,
    failures: u32,
    pub(super) blocked_until: Option<Moment>,
    /// It sent wrong bytes: not asked until then, whatever happens in between.
    pub(super) corrupt_until: Option<Moment>,
}

impl Load {
    pub(super) fn is_blocked(&self, now: Moment) -> bool {
        self.blocked_until.is_some_and(|until| now < until)
            || self.corrupt_until.is_some_and(|until| now < until)
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.blocked_until = None;
    }

    pub(super) fn failed(&mut self, now: Moment) {
        let pause = FAILED.saturating_mul(1 << self.failures.min(6)).min(FAILED_MOST);
        self.failures = self.failures.saturating_add(1);
        self.blocked_until = Some(now + pause);
    }

    pub(super) fn corrupt(&mut self, now: Moment) {
        self.corrupt_until = Some(now + CORRUPT);
    }
}

impl Neighbour {
    /// A neighbour from which so many pieces are on their way.
    pub(super) fn with(in_flight: usize) -> Neighbour {
        Neighbour { load: Load { in_flight, ..Load::default() }, ..Neighbour::default() }
    }

    /// Takes in what the neighbour says it holds, as far as there is room; whether anything of it is new.
    pub(super) fn learn(&mut self, root: Blake3Root, pieces: &PieceSet) -> bool {
        let words: usize = self.holds.values().map(PieceSet::words).sum();
        let known = self.holds.len() < limits::ARTIFACTS_TRACKED || self.holds.contains_key(&root);
        known
            && words + pieces.words() <= limits::HOLDINGS_WORDS
            && self.holds.entry(root).or_default().merge(pieces)
    }

    /// Whether the neighbour says it holds the piece and nothing speaks against asking it.
    pub(super) fn offers(&self, root: Blake3Root, piece: PieceIndex, now: Moment) -> bool {
        self.is_usable(root, now) && self.holds.get(&root).is_some_and(|pieces| pieces.contains(piece))
    }

    pub(super) fn is_usable(&self, root: Blake3Root, now: Moment) -> bool {
        let refused = matches!(self.grants.get(&root), Some(Grant::Refused(until)) if now < *until);
        !refused && !self.load.is_blocked(now)
    }

    pub(super) fn refused(&mut self, root: Blake3Root, reason: Reason, now: Moment) {
        let pause = match reason {
            Reason::NoGrant => NO_GRANT,
            Reason::StaleSnapshot | Reason::NotVerifiedYet | Reason::NoPieces | Reason::FullCheckPending => {
                STALE
            }
            reason if reason.may_be_stale() => STALE,
            _ => REFUSED,
        };
        self.grants.insert(root, Grant::Refused(now + pause));
    }

    pub(super) fn next_change(&self, now: Moment) -> Option<Moment> {
        let refusals = self.grants.values().filter_map(|grant| match grant {
            Grant::Refused(until) | Grant::Given(until) => Some(*until),
            Grant::Asking => None,
        });
        refusals
            .chain(self.load.blocked_until)
            .chain(self.load.corrupt_until)
            .filter(|until| *until > now)
            .min()
    }
}

/// A seed.
#[derive(Debug, Default)]
pub(super) struct Seed {
    pub(super) leases: BTreeMap<Blake3Root, BTreeMap<PieceIndex, Reason>>,
    pub(super) asking: BTreeMap<Blake3Root, EffectId>,
    pub(super) retry: BTreeMap<Blake3Root, Moment>,
    /// Contents that the seed refused, each until when another seed is asked instead.
    pub(super) declined: BTreeMap<Blake3Root, Moment>,
    /// Members that the seed named for a content: since when we wait to hear from them.
    pub(super) named: BTreeMap<(Blake3Root, DeviceId), Moment>,
    pub(super) load: Load,
}

impl Seed {
    /// A seed from which so many pieces are on their way.
    pub(super) fn with(in_flight: usize) -> Seed {
        Seed { load: Load { in_flight, ..Load::default() }, ..Seed::default() }
    }
}
