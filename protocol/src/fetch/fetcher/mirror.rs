//! Reading at a vendor's mirror, which cannot lease, while no seed can be reached: in rendezvous order, so that each piece crosses the
//! WAN once although nobody hands pieces out. Never a stall, at worst a duplicate (decision 0061).
//!
//! No device knows all of a large site. When one may begin follows from its own weight and the number of devices alone: those of the
//! greatest weight come first, a step after each other, and say so to all. Whoever hears of enough readers that come before it in
//! the order reads nothing. Among the readers each piece has an owner, again by weight.

use super::{Action, Fetcher, Flight, PieceFailure, Want};
use crate::digest::Blake3Root;
use crate::effect::EffectIds;
use crate::fetch::rendezvous;
use crate::fetch::source::Load;
use crate::fetch::transfer::Origin;
use crate::identifier::DeviceId;
use crate::limits;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use crate::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long no seed is there before a mirror is read: a seed that only starts again is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much later the next in rank begins than the one before it, who has said so by then.
const STEP: Duration = Duration::from_secs(2);
/// No rank waits longer than this.
const LONGEST: Duration = Duration::from_secs(600);
/// Whoever begins says so and waits for so long: somebody may reach a seed.
const ASKS: Duration = Duration::from_secs(1);
/// That somebody does is believed for so long although nothing new of anything appears.
const BELIEVED: Duration = Duration::from_secs(300);
/// A reader says so again after this time,
const SAYS: Duration = Duration::from_secs(10);
/// and is one no more when it was not heard for this.
const SAID: Duration = Duration::from_secs(35);
/// When nothing new of a content appeared for so long, the next in rank takes what an owner does not bring; after so long again the
/// two behind it may too, and so on.
const TAKEOVER: Duration = Duration::from_secs(30);
/// When nothing new of anything appeared for so long, twice as many may read, and so on.
const DOUBLES: Duration = Duration::from_secs(60);
/// Doublings after which there is no reader left that is not among them.
const MOST_DOUBLINGS: u32 = limits::READERS.ilog2() + 1;
/// Pieces on their way from mirrors at the same time: one that is arriving, and one behind it.
const READS: usize = 2;
/// How long a content is not looked for again at mirrors that do not have it, or have other bytes.
const UNFIT: Duration = Duration::from_secs(600);

/// What a device knows of mirrors and of who reads them.
#[derive(Debug)]
pub(super) struct Mirrors {
    /// Contents that a mirror may have.
    roots: BTreeSet<Blake3Root>,
    /// Most readers of the site at the same time.
    most: usize,
    /// Since when no seed is there, as far as anybody of the site said.
    since: Option<Moment>,
    /// When somebody first said, since then, that a seed is reached.
    told: Option<Moment>,
    /// Others that said that they read, and when last.
    readers: BTreeMap<DeviceId, Moment>,
    /// When this device said so first, and last.
    said: Option<(Moment, Moment)>,
    /// When something new of a content appeared here or at a neighbour, since no seed is there.
    news: BTreeMap<Blake3Root, Moment>,
    /// Contents that are not read again until then.
    unfit: BTreeMap<Blake3Root, Moment>,
    load: Load,
}

impl Default for Mirrors {
    /// A process begins without a seed.
    fn default() -> Mirrors {
        Mirrors {
            roots: BTreeSet::new(),
            most: 0,
            since: Some(Moment::START),
            told: None,
            readers: BTreeMap::new(),
            said: None,
            news: BTreeMap::new(),
            unfit: BTreeMap::new(),
            load: Load::default(),
        }
    }
}

impl Mirrors {
    /// Since when nothing new of a content appeared.
    fn silent_since(&self, root: Blake3Root, began: Moment) -> Moment {
        self.news.get(&root).map_or(began, |news| began.max(*news))
    }

    /// Since when nothing new of any content appeared.
    fn quiet_since(&self, began: Moment) -> Moment {
        self.news.values().fold(began, |latest, news| latest.max(*news))
    }

    pub(super) fn forget(&mut self, root: Blake3Root) {
        self.news.remove(&root);
        self.unfit.remove(&root);
    }
}

impl Fetcher {
    /// These contents may be had at mirrors, by `most` devices of the site at the same time.
    pub fn set_mirrors(&mut self, roots: BTreeSet<Blake3Root>, most: usize) {
        if roots != self.mirrors.roots || most != self.mirrors.most {
            (self.mirrors.roots, self.mirrors.most) = (roots, most);
            self.touch();
        }
    }

    /// Another device of the site says that it reads at mirrors.
    pub fn on_reads(&mut self, now: Moment, device: DeviceId) {
        let mirrors = &mut self.mirrors;
        // Nothing proves that it does: it must not keep us busy.
        if mirrors.readers.get(&device).is_some_and(|said| now < *said + SAYS / 2) {
            return;
        }
        mirrors.readers.retain(|_, said| now < *said + SAID);
        if mirrors.readers.len() < limits::READERS {
            mirrors.readers.insert(device, now);
            self.touch();
        }
    }

    /// Something new of a content appeared: whoever owns the rest of it has time again.
    pub(super) fn note_appeared(&mut self, now: Moment, root: Blake3Root) {
        if self.mirrors.since.is_some() && self.mirrors.roots.contains(&root) {
            self.mirrors.news.insert(root, now);
            self.touch();
        }
    }

    /// Notes since when no seed is there.
    pub(super) fn note_seeds(&mut self, now: Moment) {
        let beside = crate::mutant::mutated(crate::mutant::Mutant::ReadBesideSeed);
        if !self.seeds.is_empty() && !beside {
            self.mirrors.since = None;
            (self.mirrors.said, self.mirrors.told) = (None, None);
            self.mirrors.news.clear();
        } else if self.mirrors.since.is_none() {
            self.mirrors.since = Some(now);
        }
    }

    /// Another device of the site says that it reaches a seed: nobody reads at mirrors for a while. Returns whether it is believed.
    pub fn on_reached(&mut self, now: Moment) -> bool {
        let mirrors = &mut self.mirrors;
        if mirrors.since.is_none() {
            return false;
        }
        let told = *mirrors.told.get_or_insert(now);
        let believed = now < mirrors.quiet_since(told) + BELIEVED;
        if believed {
            (mirrors.since, mirrors.said) = (Some(now), None);
            self.touch();
        }
        believed
    }

    /// When this device may begin to read at mirrors, while no seed is there.
    fn reads_from(&self, now: Moment) -> Option<Moment> {
        Some(self.mirrors.since? + PATIENCE + self.behind(now))
    }

    /// How much later than the first of the site, by its weight.
    fn behind(&self, now: Moment) -> Duration {
        if self.alone(now).is_some() {
            return Duration::ZERO;
        }
        let devices = self.company.others.max(self.neighbours.iter().count()) + 1;
        let before = (u64::MAX - self.reading_weight(self.me)) as f64 / u64::MAX as f64;
        STEP.mul_f64(before * devices as f64).min(LONGEST)
    }

    fn reading_weight(&self, device: DeviceId) -> u64 {
        rendezvous::weight(self.site.as_str().as_bytes(), device)
    }

    /// Those who read now, this device among them, the first in rank first; none when this device does not.
    fn readers(&self, now: Moment) -> Vec<DeviceId> {
        let Some(from) = self.reads_from(now).filter(|from| *from <= now) else { return Vec::new() };
        if self.alone(now).is_some() {
            return vec![self.me];
        }
        let mirrors = &self.mirrors;
        let others = mirrors.readers.iter().filter(|(_, said)| now < **said + SAID);
        let mut readers: Vec<DeviceId> = others.map(|(device, _)| *device).chain([self.me]).collect();
        readers.sort_by_key(|device| std::cmp::Reverse(self.reading_weight(*device)));
        // Whoever says that it reads may be lying, or cut off from the mirror: the longer nothing comes, the more may try.
        readers.truncate(mirrors.most * doubled(now.since(mirrors.quiet_since(from)), DOUBLES));
        if readers.contains(&self.me) { readers } else { Vec::new() }
    }

    /// Starts pieces at mirrors that nobody near offers, in this device's place of the order.
    pub(super) fn fetch_from_mirrors(&mut self, now: Moment, ids: &mut EffectIds) {
        let waits = self.mirrors.load.is_blocked(now) || self.mirrors.roots.is_empty();
        if waits || self.mirrors.since.is_none() {
            return;
        }
        let readers = self.readers(now);
        let mut flying = self.flights.values().filter(|flight| flight.origin == Origin::Mirror).count();
        if readers.is_empty() {
            return;
        }
        let mut chosen = Vec::new();
        for want in self.order.iter().filter_map(|(_, _, root)| self.wants.get(root)) {
            if !self.is_readable(now, want) {
                continue;
            }
            let room = READS.saturating_sub(flying).min(limits::PIECES_IN_FLIGHT - self.flights.len());
            let root = want.content.root;
            let mine = self.owned(now, want, &readers);
            let mine: Vec<_> = mine.take(room).map(|(piece, reason)| (root, piece, reason)).collect();
            flying += mine.len();
            chosen.extend(mine);
        }
        if chosen.is_empty() && flying == 0 || !self.says_that_it_reads(now) {
            return;
        }
        for (root, piece, reason) in chosen {
            self.start(now, root, piece, None, Origin::Mirror, reason, ids.fresh());
        }
    }

    /// Whether a mirror may have it and nothing speaks against reading it there.
    fn is_readable(&self, now: Moment, want: &Want) -> bool {
        let root = want.content.root;
        self.mirrors.roots.contains(&root)
            && want.tree.is_some()
            && !self.held_over_wan.contains(&root)
            && self.mirrors.unfit.get(&root).is_none_or(|until| *until <= now)
    }

    /// Pieces that are this device's to read, each with the reason: it owns them, or whoever does is silent.
    fn owned(
        &self,
        now: Moment,
        want: &Want,
        readers: &[DeviceId],
    ) -> impl Iterator<Item = (PieceIndex, Reason)> {
        let root = want.content.root;
        let began = self.reads_from(now).unwrap_or(now);
        let overtaken = doubled(now.since(self.mirrors.silent_since(root, began)), TAKEOVER) - 1;
        let near = self.unoffered(now, want);
        want.open().filter(move |piece| near.contains(*piece)).filter_map(move |piece| {
            let mine = piece_weight(root, piece, self.me);
            let before = readers.iter().filter(|other| piece_weight(root, piece, **other) > mine).count();
            let reason = match before {
                _ if want.holders(piece) > 0 => Reason::Duplicate,
                0 => Reason::Mirror,
                _ => Reason::Takeover,
            };
            let takes = before <= overtaken || crate::mutant::mutated(crate::mutant::Mutant::ReadEverything);
            takes.then_some((piece, reason))
        })
    }

    /// Says that this device reads, from time to time; returns whether everybody had time to hear it.
    fn says_that_it_reads(&mut self, now: Moment) -> bool {
        if self.alone(now).is_some() {
            return true;
        }
        // Whoever read nothing for a while begins anew.
        let lately = self.mirrors.said.filter(|(_, last)| now < *last + SAYS + ASKS);
        let (first, last) = lately.unwrap_or((now, Moment::START));
        if lately.is_none() || last + SAYS <= now {
            self.mirrors.said = Some((first, now));
            self.touch();
            self.actions.push_back(Action::SayReads);
        }
        first + ASKS <= now
    }

    /// The outcome of a piece that was read at a mirror.
    pub(super) fn land_from_mirror(
        &mut self,
        now: Moment,
        flight: &Flight,
        outcome: Result<(), PieceFailure>,
    ) {
        match outcome {
            Ok(()) => {
                self.mirrors.load.succeeded(now.since(flight.since));
                self.note_appeared(now, flight.root);
            }
            Err(PieceFailure::Corrupt | PieceFailure::Refused(_)) => {
                self.mirrors.unfit.insert(flight.root, now + UNFIT);
            }
            Err(PieceFailure::Lost) => self.mirrors.load.failed(now),
            Err(PieceFailure::Disk) => {}
        }
    }

    /// The moments at which another device's silence, or the end of a pause, lets this one read.
    pub(super) fn mirror_moments(&self, now: Moment) -> Vec<Moment> {
        let mirrors = &self.mirrors;
        let wanted: Vec<Blake3Root> =
            mirrors.roots.iter().copied().filter(|root| self.wants.contains_key(root)).collect();
        let Some(from) = self.reads_from(now).filter(|_| !wanted.is_empty()) else { return Vec::new() };
        let turns = wanted.iter().flat_map(|root| {
            let silent = mirrors.silent_since(*root, from);
            (1..=MOST_DOUBLINGS).map(move |turn| silent + TAKEOVER * turn)
        });
        let quiet = mirrors.quiet_since(from);
        let doublings = (1..=MOST_DOUBLINGS).map(|doubling| quiet + DOUBLES * doubling);
        let reading = self.flights.values().any(|flight| flight.origin == Origin::Mirror);
        let says = mirrors.said.map(|(first, last)| if reading { last + SAYS } else { first + ASKS });
        let gone = mirrors.readers.values().map(|said| *said + SAID);
        let ends = mirrors.unfit.values().copied().chain(mirrors.load.blocked_until).chain(says);
        turns.chain(doublings).chain(gone).chain(ends).chain([from]).collect()
    }
}

/// How many it is by then, of one at first and twice as many after each `step`.
fn doubled(passed: Duration, step: Duration) -> usize {
    let steps = u32::try_from(passed.as_secs() / step.as_secs()).unwrap_or(u32::MAX);
    1 << steps.min(MOST_DOUBLINGS)
}

/// Who owns a piece: of all readers the one of the greatest weight.
fn piece_weight(root: Blake3Root, piece: PieceIndex, device: DeviceId) -> u64 {
    let mut key = [0; 36];
    key[..32].copy_from_slice(root.as_bytes());
    key[32..].copy_from_slice(&piece.0.to_le_bytes());
    rendezvous::weight(&key, device)
}
