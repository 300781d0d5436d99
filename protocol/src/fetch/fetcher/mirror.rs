//! Reading at a vendor's mirror, which cannot lease, while no seed can be reached: in rendezvous order, so that each piece crosses the
//! WAN once although nobody hands pieces out. Never a stall, at worst a duplicate (decision 0061).
//!
//! No device knows all of a large site. When one may begin follows from its own weight and the number of devices alone: those of the
//! greatest weight come first, a step after each other, and say so to all. Whoever hears of enough readers of a content that come before
//! it in the order leaves it to them. Among its readers each piece has an owner, again by weight.

use super::{Action, Fetcher, Flight, PieceFailure, Want};
use crate::digest::Blake3Root;
use crate::effect::EffectIds;
use crate::fetch::rendezvous;
use crate::fetch::transfer::Origin;
use crate::identifier::DeviceId;
use crate::limits;
use crate::mutant::{Mutant, mutated};
use crate::piece::PieceIndex;
use crate::policy::mirror::Mirror;
use crate::reason::Reason;
use crate::time::Moment;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long no seed is there before a mirror is read: a seed that only starts again is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much later the next in rank begins than the one before it, who has said so by then.
const STEP: Duration = Duration::from_secs(2);
/// No rank waits longer than this.
const LONGEST: Duration = Duration::from_secs(1_800);
/// Whoever begins says so and waits so much longer than an answer takes: somebody may reach a seed.
const ASKS: Duration = Duration::from_millis(500);
/// An answer takes so long, and so much more for each device, since they do not all answer at once; but no longer than the last.
const ANSWERS: [Duration; 3] = [Duration::from_millis(500), Duration::from_millis(5), Duration::from_secs(5)];
/// That somebody reaches a seed is believed for so long although nothing that is missing here appears.
const BELIEVED: Duration = Duration::from_secs(300);
/// A reader says so again after this time,
const SAYS: Duration = Duration::from_secs(10);
/// and is one no more when it was not heard for this.
const SAID: Duration = Duration::from_secs(35);
/// When nothing that is missing of a content appeared for so long, or for so many times as long as a piece takes, twice as many may
/// read it, and more of those behind the owner of a piece may take it; and so on.
const QUIET: Duration = Duration::from_secs(60);
const QUIET_TIMES: u32 = 3;
/// Doublings after which there is no reader left that is not among them.
const MOST_DOUBLINGS: u32 = limits::READERS.ilog2() + 1;
/// Of a link that needs longer for a block of each reader there are fewer, as where a seed leases (decision 0016).
const BURST: Duration = Duration::from_millis(30);
const BURST_BYTES: f64 = 4096.0;
/// How long a content is not looked for again at mirrors that do not have it, or while there is no room for it here.
const UNFIT: Duration = Duration::from_secs(120);
/// The same where they have other bytes, each of which crosses the WAN in vain.
const WRONG: Duration = Duration::from_secs(600);
/// First pause of a content after a mirror did not give it; it doubles with every further failure, up to the second.
const FAILED: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(120)];
/// A content of which nothing was to be read is not looked at again before.
const LOOKS: Duration = Duration::from_secs(1);

/// What a device knows of mirrors and of who reads them.
#[derive(Debug)]
pub(super) struct Mirrors {
    /// Contents that a mirror may have.
    roots: BTreeSet<Blake3Root>,
    /// The mirrors.
    named: Vec<Mirror>,
    /// Most readers of a content at the same time.
    most: usize,
    /// Since when no seed is there, as far as anybody of the site said.
    since: Option<Moment>,
    /// When somebody first said, since then, that a seed is reached; and whether that is believed no more.
    told: Option<Moment>,
    disbelieved: bool,
    /// When something that is missing here first and last appeared at a neighbour.
    heard: Option<(Moment, Moment)>,
    /// When anybody of the site, this device too, was first heard to read.
    first: Option<Moment>,
    /// Others that said that they read.
    readers: BTreeMap<DeviceId, Reader>,
    /// When this device said so first, and last.
    said: Option<(Moment, Moment)>,
    courses: BTreeMap<Blake3Root, Course>,
    /// Smoothed time that a piece takes here.
    usual: Option<Duration>,
}

/// Another device that reads.
#[derive(Debug)]
struct Reader {
    said: Moment,
    /// The beginnings of the roots that it reads.
    roots: BTreeSet<u32>,
}

/// How the reading of one content goes.
#[derive(Debug, Default)]
struct Course {
    /// When something that is missing here last appeared at a neighbour, or `doublings` grew.
    quiet_from: Option<Moment>,
    /// How often nothing appeared for too long. It never shrinks: those who held the others up would go on with it.
    doublings: u32,
    /// Not read until then.
    paused: Option<Moment>,
    failures: u32,
    /// When nothing was found to read.
    looked: Option<Moment>,
}

impl Default for Mirrors {
    /// A process begins without a seed.
    fn default() -> Mirrors {
        Mirrors {
            roots: BTreeSet::new(),
            named: Vec::new(),
            most: 0,
            since: Some(Moment::START),
            told: None,
            disbelieved: false,
            heard: None,
            first: None,
            readers: BTreeMap::new(),
            said: None,
            courses: BTreeMap::new(),
            usual: None,
        }
    }
}

impl Mirrors {
    pub(super) fn forget(&mut self, root: Blake3Root) {
        self.courses.remove(&root);
    }

    /// The device changed networks: whatever was waited for begins anew.
    pub(super) fn begin_anew(&mut self) {
        (self.since, self.said) = (None, None);
    }

    /// Those who read the content now, by what they said.
    fn readers_of(&self, now: Moment, root: Blake3Root) -> impl Iterator<Item = DeviceId> {
        let reads =
            move |reader: &Reader| now < reader.said + SAID && reader.roots.contains(&beginning(root));
        self.readers.iter().filter(move |(_, reader)| reads(reader)).map(|(device, _)| *device)
    }

    /// After how long without anything new there is another doubling.
    fn patience(&self) -> Duration {
        QUIET.max(self.usual.unwrap_or_default() * QUIET_TIMES)
    }

    fn doublings(&self, root: Blake3Root) -> u32 {
        self.courses.get(&root).map_or(0, |course| course.doublings)
    }
}

impl Fetcher {
    /// These contents may be had at these mirrors, each by `most` devices of the site at the same time.
    pub fn set_mirrors(&mut self, roots: BTreeSet<Blake3Root>, named: &[Mirror], most: usize) {
        let mirrors = &mut self.mirrors;
        if mirrors.named != named {
            mirrors.named = named.to_vec();
            mirrors.courses.values_mut().for_each(|course| course.paused = None);
        } else if roots == mirrors.roots && most == mirrors.most {
            return;
        }
        (mirrors.roots, mirrors.most) = (roots, most);
        self.touch();
    }

    /// Another device of the site says that it reads contents whose roots begin so.
    pub fn on_reads(&mut self, now: Moment, device: DeviceId, roots: BTreeSet<u32>) {
        let weight = |device| self.reading_weight(device);
        let mirrors = &self.mirrors;
        // Nothing proves that it does: it must neither keep us busy nor fill our memory.
        match mirrors.readers.get(&device) {
            Some(reader) if now < reader.said + SAYS / 2 => return,
            None if mirrors.readers.len() >= limits::READERS => {
                let last = mirrors.readers.keys().copied().min_by_key(|device| weight(*device));
                let Some(last) = last.filter(|last| weight(*last) < weight(device)) else { return };
                self.mirrors.readers.remove(&last);
            }
            _ => {}
        }
        self.mirrors.readers.retain(|_, reader| now < reader.said + SAID);
        self.mirrors.readers.insert(device, Reader { said: now, roots });
        self.mirrors.first.get_or_insert(now);
        self.touch();
    }

    /// The contents that this device reads at mirrors, by the beginnings of their roots: as many as are told.
    pub fn reads(&self) -> Vec<u32> {
        let wants = self.order.iter().map(|(_, _, root)| *root);
        wants
            .filter(|root| self.mirrors.roots.contains(root))
            .take(limits::ROOTS_READ)
            .map(beginning)
            .collect()
    }

    /// Whether nothing more of a content comes unless a seed or a mirror gives it: neither is there, and no neighbour has it.
    pub fn is_stranded(&self, root: Blake3Root) -> bool {
        let idle = |want: &Want| want.count_offered() == 0 && want.active().next().is_none();
        self.seeds.is_empty() && self.wants.get(&root).is_some_and(idle)
    }

    /// Among how many devices a cap of the site is divided while nobody is there who sees them all.
    pub fn readers_at_mirrors(&self) -> usize {
        match self.neighbours.is_empty() {
            true => self.company.others + 1,
            false => (self.mirrors.readers.len() + 1).max(self.mirrors.most),
        }
    }

    /// Something appeared at a neighbour that is missing here.
    pub(super) fn note_appeared(&mut self, now: Moment, root: Blake3Root) {
        let mirrors = &mut self.mirrors;
        if mirrors.since.is_some() && mirrors.roots.contains(&root) {
            mirrors.heard = Some((mirrors.heard.map_or(now, |(first, _)| first), now));
            mirrors.courses.entry(root).or_default().quiet_from = Some(now);
            self.touch();
        }
    }

    /// Notes since when no seed is there.
    pub(super) fn note_seeds(&mut self, now: Moment) {
        let mirrors = &mut self.mirrors;
        if self.seeds.is_empty() || mutated(Mutant::ReadBesideSeed) {
            mirrors.since.get_or_insert(now);
        } else if mirrors.since.is_some() {
            (mirrors.since, mirrors.said, mirrors.told, mirrors.disbelieved) = (None, None, None, false);
            (mirrors.heard, mirrors.first) = (None, None);
            for course in mirrors.courses.values_mut() {
                (course.quiet_from, course.doublings, course.looked) = (None, 0, None);
            }
        }
    }

    /// Another device of the site says that it reaches a seed: nobody reads at mirrors for a while. Returns whether it is believed. A
    /// member that says so and brings nothing is believed no more, until a seed is there.
    pub fn on_reached(&mut self, now: Moment) -> bool {
        let mirrors = &mut self.mirrors;
        if mirrors.since.is_none() || mirrors.disbelieved {
            return false;
        }
        let told = *mirrors.told.get_or_insert(now);
        mirrors.disbelieved = mirrors.heard.map_or(told, |(_, last)| last.max(told)) + BELIEVED <= now;
        if !mirrors.disbelieved {
            (mirrors.since, mirrors.said) = (Some(now), None);
        }
        self.touch();
        !self.mirrors.disbelieved
    }

    /// Within which time the devices of a site answer, one after the other, that a seed is reached.
    pub fn answers_within(&self) -> Duration {
        let [least, each, most] = ANSWERS;
        let others = u32::try_from(self.company.others).unwrap_or(u32::MAX);
        (least + each.saturating_mul(others)).min(most)
    }

    /// When this device may begin to read at mirrors, while no seed is there: the later, the more of the site come before it by their
    /// weight.
    fn reads_from(&self) -> Option<Moment> {
        let devices = self.company.others.max(self.neighbours.iter().count()) + 1;
        let before = (u64::MAX - self.reading_weight(self.me)) as f64 / u64::MAX as f64;
        let behind =
            if devices > 1 { STEP.mul_f64(before * devices as f64).min(LONGEST) } else { Duration::ZERO };
        Some(self.mirrors.since? + PATIENCE + behind)
    }

    pub(super) fn reading_weight(&self, device: DeviceId) -> u64 {
        rendezvous::weight(self.site.as_str().as_bytes(), device)
    }

    /// Those who read the content, the first in rank first; none when this device is not among them.
    fn readers(&self, now: Moment, root: Blake3Root) -> Vec<DeviceId> {
        if self.alone(now).is_some() {
            return vec![self.me];
        }
        let mut readers: Vec<DeviceId> = self.mirrors.readers_of(now, root).chain([self.me]).collect();
        readers.sort_by_key(|device| Reverse(self.reading_weight(*device)));
        // Whoever says that it reads may be lying, or cut off from the mirror: the longer nothing comes, the more may try.
        readers.truncate(self.most_readers(root, readers.len()) << self.mirrors.doublings(root));
        if readers.contains(&self.me) { readers } else { Vec::new() }
    }

    /// How many may read, before any doubling: one until something has come from it, then as many as the link takes. There are `readers`
    /// now.
    fn most_readers(&self, root: Blake3Root, readers: usize) -> usize {
        let mirrors = &self.mirrors;
        let size = self.wants.get(&root).map_or(limits::PIECE_BYTES, |want| want.content.size);
        let piece = size.min(limits::PIECE_BYTES) as f64;
        // What came of this device's own reading tells it better than what it hears of the first one's.
        let rate = match (mirrors.usual, mirrors.first, mirrors.heard) {
            (Some(usual), _, _) => piece / usual.as_secs_f64().max(0.001) * readers as f64,
            (None, Some(read), Some((heard, _))) => piece / heard.since(read).as_secs_f64().max(0.001),
            _ => return 1,
        };
        ((rate * BURST.as_secs_f64() / BURST_BYTES) as usize).clamp(1, mirrors.most.max(1))
    }

    /// Notes of which contents nothing appeared for too long.
    fn note_quiet(&mut self, now: Moment, from: Moment) {
        let patience = self.mirrors.patience();
        for root in self.mirrors.roots.iter().filter(|root| self.wants.contains_key(root)) {
            let course = self.mirrors.courses.entry(*root).or_default();
            let quiet_from = course.quiet_from.map_or(from, |quiet| quiet.max(from));
            course.quiet_from = Some(quiet_from);
            if quiet_from + patience <= now {
                (course.quiet_from, course.looked) = (Some(now), None);
                self.touched = true;
                course.doublings = (course.doublings + 1).min(MOST_DOUBLINGS);
            }
        }
    }

    /// Starts pieces at mirrors that nobody near offers, in this device's place of the order.
    pub(super) fn fetch_from_mirrors(&mut self, now: Moment, ids: &mut EffectIds) {
        let Some(from) = self.reads_from().filter(|from| *from <= now) else { return };
        if self.mirrors.roots.is_empty() {
            return;
        }
        self.note_quiet(now, from);
        // One at a time: what waits behind another here may come to somebody else meanwhile.
        if self.flights.values().any(|flight| flight.origin == Origin::Mirror) {
            self.says_that_it_reads(now);
            return;
        }
        if self.flights.len() >= limits::PIECES_IN_FLIGHT {
            return;
        }
        let wanted: Vec<Blake3Root> = self.order.iter().map(|(_, _, root)| *root).collect();
        let found = wanted.into_iter().find_map(|root| Some((root, self.find_to_read(now, root)?)));
        let Some((root, (piece, reason))) = found.filter(|_| self.says_that_it_reads(now)) else { return };
        self.mirrors.first.get_or_insert(now);
        self.start(now, root, piece, None, Origin::Mirror, reason, ids.fresh());
    }

    /// A piece of a content that is this device's to read, with the reason: it owns it, or whoever does is silent.
    fn find_to_read(&mut self, now: Moment, root: Blake3Root) -> Option<(PieceIndex, Reason)> {
        let want = self.wants.get(&root).filter(|want| self.is_readable(now, want))?;
        let found = self.owned(now, want);
        if found.is_none()
            && let Some(course) = self.mirrors.courses.get_mut(&root)
        {
            course.looked = Some(now);
            self.touch();
        }
        found
    }

    fn owned(&self, now: Moment, want: &Want) -> Option<(PieceIndex, Reason)> {
        let root = want.content.root;
        let readers = self.readers(now, root);
        let overtaken = (1 << self.mirrors.doublings(root)) - 1;
        let mut far = want.lacking().clone();
        // Also those that are slow: what they have still comes.
        let near = self.neighbours.values().filter(|neighbour| neighbour.may_serve(root, now));
        near.filter_map(|neighbour| neighbour.offers.held(root)).for_each(|held| far.subtract(held));
        let mut open = want.open().filter(|piece| !readers.is_empty() && far.contains(*piece));
        open.find_map(|piece| {
            let mine = piece_weight(root, piece, self.me);
            let before = readers.iter().filter(|other| piece_weight(root, piece, **other) > mine).count();
            let reason = match before {
                _ if want.holders(piece) > 0 => Reason::Duplicate,
                0 => self.alone(now).unwrap_or(Reason::Mirror),
                _ => Reason::Takeover,
            };
            (before <= overtaken).then_some((piece, reason))
        })
    }

    /// Whether a mirror may have it and nothing speaks against reading it there now.
    fn is_readable(&self, now: Moment, want: &Want) -> bool {
        let root = want.content.root;
        let waits = self.mirrors.courses.get(&root).is_some_and(|course| {
            let looked = course.looked.map(|looked| looked + LOOKS);
            course.paused.into_iter().chain(looked).any(|until| now < until)
        });
        self.mirrors.roots.contains(&root)
            && want.tree.is_some()
            && !want.lacking().is_empty()
            && !self.held_over_wan.contains(&root)
            && !waits
    }

    /// Says that this device reads, from time to time; returns whether everybody had time to answer.
    fn says_that_it_reads(&mut self, now: Moment) -> bool {
        if self.alone(now).is_some() {
            return true;
        }
        let asks = self.answers_within() + ASKS;
        // Whoever read nothing for a while begins anew.
        let lately = self.mirrors.said.filter(|(_, last)| now < *last + SAYS + asks);
        let (first, last) = lately.unwrap_or((now, Moment::START));
        if lately.is_none() || last + SAYS <= now {
            self.mirrors.said = Some((first, now));
            self.touch();
            self.actions.push_back(Action::SayReads);
        }
        first + asks <= now
    }

    /// The outcome of a piece that was read at a mirror.
    pub(super) fn land_from_mirror(
        &mut self,
        now: Moment,
        flight: &Flight,
        outcome: Result<(), PieceFailure>,
    ) {
        if !self.wants.contains_key(&flight.root) {
            return;
        }
        let course = self.mirrors.courses.entry(flight.root).or_default();
        course.looked = None;
        match outcome {
            Ok(()) => {
                let took = now.since(flight.since);
                self.mirrors.usual = Some(self.mirrors.usual.map_or(took, |usual| (usual * 7 + took) / 8));
                course.failures = 0;
            }
            Err(PieceFailure::Corrupt) => course.paused = Some(now + WRONG),
            // Whoever has no room reads no more, and says so no more: others take it over.
            Err(PieceFailure::Refused(_) | PieceFailure::Disk) => course.paused = Some(now + UNFIT),
            Err(PieceFailure::Lost) => {
                let [first, most] = FAILED;
                course.paused = Some(now + first.saturating_mul(1 << course.failures.min(6)).min(most));
                course.failures = course.failures.saturating_add(1);
            }
        }
    }

    /// The moments at which another device's silence, or the end of a pause, lets this one read.
    pub(super) fn mirror_moments(&self) -> Vec<Moment> {
        let mirrors = &self.mirrors;
        let wanted = mirrors.roots.iter().filter(|root| self.wants.contains_key(root));
        let Some(from) = self.reads_from().filter(|_| wanted.clone().next().is_some()) else {
            return Vec::new();
        };
        let courses = wanted.filter_map(|root| mirrors.courses.get(root)).flat_map(|course| {
            let quiet = course.quiet_from.map_or(from, |quiet| quiet.max(from)) + mirrors.patience();
            let doubles = (course.doublings < MOST_DOUBLINGS).then_some(quiet);
            course.paused.into_iter().chain(course.looked.map(|looked| looked + LOOKS)).chain(doubles)
        });
        let reading = self.flights.values().any(|flight| flight.origin == Origin::Mirror);
        let asks = self.answers_within() + ASKS;
        let says = mirrors.said.map(|(first, last)| if reading { last + SAYS } else { first + asks });
        let gone = mirrors.readers.values().map(|reader| reader.said + SAID);
        courses.chain(gone).chain(says).chain([from]).collect()
    }
}

/// By what a root is known among those that a reader tells: that two begin alike does no harm.
fn beginning(root: Blake3Root) -> u32 {
    let [a, b, c, d, ..] = *root.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Who owns a piece: of all readers the one of the greatest weight.
fn piece_weight(root: Blake3Root, piece: PieceIndex, device: DeviceId) -> u64 {
    let mut key = [0; 36];
    key[..32].copy_from_slice(root.as_bytes());
    key[32..].copy_from_slice(&piece.0.to_le_bytes());
    rendezvous::weight(&key, device)
}
