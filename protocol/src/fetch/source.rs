//! What the fetcher knows of one place that pieces can come from.

use super::offers::{Grant, Offers};
use super::window::{Advice, Pace};
use crate::conditions::Medium;
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::identifier::DeviceId;
use crate::limits;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use crate::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
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
/// A piece from a neighbour is overdue after this time at the earliest, and after this many times the usual time.
const OVERDUE: Duration = Duration::from_millis(1_500);
const OVERDUE_TIMES: u32 = 4;
/// A neighbour in the air is asked as if so many more pieces were on their way from it.
const AIR: usize = 2;

/// A neighbour.
#[derive(Debug, Default)]
pub(super) struct Neighbour {
    pub(super) offers: Offers,
    pub(super) load: Load,
    /// What its bytes pass through.
    pub(super) medium: Medium,
}

/// How busy and how trustworthy a source is.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) in_flight: usize,
    pub(super) bytes_in_flight: u64,
    failures: u32,
    pub(super) blocked_until: Option<Moment>,
    /// It sent wrong bytes: not asked until then, whatever happens in between.
    pub(super) corrupt_until: Option<Moment>,
    /// A piece from it is overdue: nothing more is asked of it until something comes.
    pub(super) silent: bool,
    /// Smoothed time that a piece takes from asking to its being stored.
    usual: Option<Duration>,
}

impl Load {
    pub(super) fn is_blocked(&self, now: Moment) -> bool {
        self.silent || self.failed_lately(now)
    }

    /// Whether it failed or sent wrong bytes, and that is not long ago.
    fn failed_lately(&self, now: Moment) -> bool {
        self.blocked_until.is_some_and(|until| now < until)
            || self.corrupt_until.is_some_and(|until| now < until)
    }

    pub(super) fn started(&mut self, bytes: u64) {
        self.in_flight += 1;
        self.bytes_in_flight += bytes;
    }

    /// A piece from it ended, in whatever way: it is not silent.
    pub(super) fn ended(&mut self, bytes: u64) {
        self.silent = false;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(bytes);
    }

    pub(super) fn succeeded(&mut self, took: Duration) {
        self.failures = 0;
        self.blocked_until = None;
        self.usual = Some(self.usual.map_or(took, |usual| (usual * 7 + took) / 8));
    }

    pub(super) fn failed(&mut self, now: Moment) {
        let pause = FAILED.saturating_mul(1 << self.failures.min(6)).min(FAILED_MOST);
        self.failures = self.failures.saturating_add(1);
        self.blocked_until = Some(now + pause);
    }

    pub(super) fn corrupt(&mut self, now: Moment) {
        self.corrupt_until = Some(now + CORRUPT);
    }

    /// After how long a piece that was asked of it is overdue.
    pub(super) fn patience(&self) -> Duration {
        self.usual.map_or(OVERDUE * 2, |usual| OVERDUE.max(usual * OVERDUE_TIMES))
    }
}

impl Neighbour {
    /// A neighbour from which so many pieces, and bytes, are on their way.
    pub(super) fn with((in_flight, bytes_in_flight): (usize, u64)) -> Neighbour {
        Neighbour { load: Load { in_flight, bytes_in_flight, ..Load::default() }, ..Neighbour::default() }
    }

    /// What speaks against asking it rather than another: pieces on their way from it, and the air.
    pub(super) fn burden(&self) -> usize {
        self.load.in_flight + if self.medium == Medium::Air { AIR } else { 0 }
    }

    /// Pieces that may still be asked of it, with those on their way counted as burden.
    pub(super) fn burden_limit(&self) -> usize {
        limits::PIECES_IN_FLIGHT_PER_SOURCE + self.burden() - self.load.in_flight
    }

    /// Whether it is neither being asked for a grant nor gave or refused one that still holds.
    pub(super) fn may_be_asked(&self, root: Blake3Root, now: Moment) -> bool {
        match self.offers.grant(root) {
            Some(Grant::Asking) => false,
            Some(Grant::Given(until) | Grant::Refused(until) | Grant::NotYet(until)) => *until <= now,
            None => true,
        }
    }

    /// Whether the neighbour says it holds the piece and nothing speaks against asking it.
    pub(super) fn offers(&self, root: Blake3Root, piece: PieceIndex, now: Moment) -> bool {
        self.offers.held(root).is_some_and(|pieces| pieces.contains(piece)) && self.is_usable(root, now)
    }

    /// Whether it gave a grant that holds, has a free slot, and nothing speaks against asking it.
    pub(super) fn is_ready(&self, root: Blake3Root, now: Moment) -> bool {
        matches!(self.offers.grant(root), Some(Grant::Given(until)) if now < *until)
            && self.load.in_flight < limits::PIECES_IN_FLIGHT_PER_SOURCE
            && !self.load.is_blocked(now)
    }

    pub(super) fn is_usable(&self, root: Blake3Root, now: Moment) -> bool {
        self.may_serve(root, now) && !self.load.silent
    }

    /// Whether it is likely to serve the content, to us now or, when it is slow, to others and later to us.
    pub(super) fn may_serve(&self, root: Blake3Root, now: Moment) -> bool {
        let not_yet = matches!(self.offers.grant(root), Some(Grant::NotYet(until)) if now < *until);
        !not_yet && self.may_serve_later(root, now)
    }

    /// Whether it is likely to serve the content some time: it may be fetching or checking it still.
    pub(super) fn may_serve_later(&self, root: Blake3Root, now: Moment) -> bool {
        let refused = matches!(self.offers.grant(root), Some(Grant::Refused(until)) if now < *until);
        !refused && !self.load.failed_lately(now)
    }

    pub(super) fn refused(&mut self, root: Blake3Root, reason: Reason, now: Moment) {
        let grant = match reason {
            Reason::NotVerifiedYet | Reason::NoPieces | Reason::FullCheckPending => {
                Grant::NotYet(now + STALE)
            }
            Reason::NoGrant => Grant::Refused(now + NO_GRANT),
            reason if reason == Reason::StaleSnapshot || reason.may_be_stale() => Grant::Refused(now + STALE),
            _ => Grant::Refused(now + REFUSED),
        };
        self.offers.note(root, Some(grant));
    }

    pub(super) fn next_change(&self, now: Moment) -> Option<Moment> {
        self.offers
            .ends()
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
    /// The question for leases that is under way, and what it is about.
    pub(super) asking: Option<(EffectId, Vec<Blake3Root>)>,
    /// When to ask again for what was not leased.
    pub(super) retry: Option<Moment>,
    /// Contents that it was asked for: another one is no reason to wait.
    pub(super) asked: BTreeSet<Blake3Root>,
    /// Contents that the seed refused, each until when another seed is asked instead.
    pub(super) declined: BTreeMap<Blake3Root, Moment>,
    /// Pieces that the seed sent wrong, each until when they are not asked of it again.
    pub(super) spoiled: BTreeMap<(Blake3Root, PieceIndex), Moment>,
    /// Members that the seed named for each content.
    pub(super) named: BTreeMap<Blake3Root, Named>,
    pub(super) load: Load,
    /// How the connection goes.
    pub(super) pace: Option<Pace>,
    /// What it said of the way.
    pub(super) advice: Advice,
    /// When it wants everybody to slow down, until the connection was told.
    pub(super) drain: Option<Moment>,
    /// Its rendezvous weight for the site: all of one site ask the same seed.
    pub(super) weight: u64,
}

/// Members that a seed named as holders of one content.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Since when we wait to hear from each.
    waiting: BTreeMap<DeviceId, Moment>,
    /// When those of them that were asked what they hold were asked last.
    asked: BTreeMap<DeviceId, Moment>,
    /// When anything new of the content appeared among the neighbours: waiting begins again.
    appeared: Moment,
}

impl Named {
    /// The seed names `device`.
    pub(super) fn name(&mut self, device: DeviceId, now: Moment) {
        self.waiting.entry(device).or_insert(now);
    }

    /// `device` says that it has something new. While the content spreads, what the others hold comes by way of the
    /// neighbours sooner or later.
    pub(super) fn appeared(&mut self, device: DeviceId, now: Moment) {
        self.waiting.remove(&device);
        self.asked.remove(&device);
        self.appeared = now;
    }

    /// Those of whom we heard nothing for `patience` or longer, nor asked them, and that `may_be_asked` now: they count as asked.
    pub(super) fn take_silent(
        &mut self,
        now: Moment,
        patience: Duration,
        may_be_asked: impl Fn(DeviceId) -> bool,
    ) -> Vec<DeviceId> {
        let since = |(device, since): (DeviceId, Moment)| {
            (device, self.asked.get(&device).map_or(since, |asked| since.max(*asked)))
        };
        let late = self.waiting().map(since).filter(|(_, since)| now.since(*since) >= patience);
        let devices: Vec<DeviceId> =
            late.map(|(device, _)| device).filter(|device| may_be_asked(*device)).collect();
        self.asked.extend(devices.iter().map(|device| (*device, now)));
        devices
    }

    /// Whom we wait to hear from, and since when.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (DeviceId, Moment)> {
        self.waiting.iter().map(|(device, since)| (*device, self.appeared.max(*since)))
    }
}

impl Seed {
    /// A seed of this weight from which so many pieces, and bytes, are on their way.
    pub(super) fn with(weight: u64, (in_flight, bytes_in_flight): (usize, u64)) -> Seed {
        Seed { weight, load: Load { in_flight, bytes_in_flight, ..Load::default() }, ..Seed::default() }
    }

    /// What the connection is to know of the way now; of a slowing down only once.
    pub(super) fn advise(&mut self, now: Moment) -> Advice {
        let drain = self.drain.take().filter(|drain| *drain > now).map(|drain| drain.since(now));
        Advice { drain, ..self.advice }
    }

    /// Bytes to have on their way so that the connection never waits for work: what it carries in a round trip, twice the same
    /// again while more is being leased, since the answer comes behind what is on its way, and what is left of a piece that is
    /// nearly whole; no more than a seed leases.
    pub(super) fn ahead_bytes(&self) -> u64 {
        let window = self.pace.map_or(0, |pace| pace.window_bytes.min(limits::WINDOW_BYTES as u64));
        (limits::PIECE_BYTES + limits::PIECE_BYTES / 2 + 3 * window).min(limits::LEASED_BYTES)
    }
}
