//! One site in virtual time: its devices, its links and the seed's tracker, until every device has the patch.

mod fetching;
mod presence;
mod seed;

use super::agenda::Agenda;
use super::device::Device;
use super::lan::Lan;
use super::plan::Plan;
use super::queue::{Nanos, SECOND, bytes_per_second};
use super::site::{DAY, Site};
use super::wan::{Block, Wan};
use crate::random::Random;
use protocol::effect::EffectId;
use protocol::fetch::tracker::Tracker;
use protocol::fetch::{Fetcher, Inconsistent, Origin};
use protocol::identifier::{DeviceId, ManifestDigest, SiteName};
use protocol::manifest::Content;
use protocol::piece::{PieceIndex, PieceTree};
use protocol::reason::Reason;
use protocol::time::Moment;
use protocol::wire::{LeaseAnswer, LeaseRequest};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The seed of the fleet.
const SEED: DeviceId = DeviceId::from_bytes([0xff; 32]);
/// The patch's manifest.
const MANIFEST: ManifestDigest = ManifestDigest::from_bytes([7; 32]);

/// The patch.
#[derive(Clone, Debug)]
pub struct Patch {
    pub content: Content,
    pub tree: Arc<PieceTree>,
}

/// Why a site did not come to its end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stuck {
    /// Devices lack something although nothing more happens, or after all days of the plan.
    #[error(
        "{devices} devices have not got everything, the first of them {first}, which has {pieces} pieces"
    )]
    Unfinished { devices: usize, first: usize, pieces: u32 },
    /// A fetcher contradicts itself.
    #[error("the fetcher of device {0}: {1}")]
    Inconsistent(usize, Inconsistent),
}

/// What happens at a moment.
#[derive(Debug)]
enum Event {
    /// A device is switched on.
    On(usize),
    /// A device is switched off.
    Off(usize),
    /// It dials the seed, unless it leaves that to others for a while.
    Dial(usize, u32),
    /// Its connection to the seed stands.
    Connected(usize, u32),
    /// It looks for neighbours.
    Meet(usize, u32),
    /// Two devices are connected.
    Met(usize, usize),
    /// It learns that the patch is approved.
    Hear(usize, u32),
    /// It tells the seed that it is there.
    Announce(usize, u32),
    /// The seed hears it, and how many members are to be named.
    Announced(usize, u32, usize),
    /// The seed's answer is there.
    SiteKnown(usize, u32),
    /// A moment that its fetcher named.
    Wake(usize, u32, Nanos),
    /// A neighbour answers a request for a grant.
    Granted { to: usize, life: u32, from: usize, need_tree: bool },
    /// A request for leases is at the seed.
    LeaseAsked(usize, u32, Box<LeaseRequest>),
    /// The seed's answer is there.
    Leased(usize, u32, Box<LeaseAnswer>),
    /// The first byte of a block is there.
    Block(usize, u32, Box<Block>),
    /// A piece is there, from the seed or from a neighbour, and on the disk.
    Came(Piece, Origin),
    /// The seed refused a piece: it is leased to somebody else by now.
    Refused(usize, u32, EffectId),
    /// A neighbour begins to send a piece, which takes until then.
    Sending(Piece, Nanos),
    /// A device tells its neighbours what it holds.
    News(usize, u32),
}

/// A piece on its way to a device, in a life of it and of the neighbour that sends it.
#[derive(Clone, Copy, Debug)]
struct Piece {
    to: usize,
    life: u32,
    from: usize,
    from_life: u32,
    effect: EffectId,
    piece: PieceIndex,
}

/// What passed, as far as outcomes tell.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Bytes of pieces by way and reason, as the fetchers count them.
    pub bytes: BTreeMap<(Origin, Reason), u64>,
    /// When the site had each piece for the first time, in the order of these times.
    pub first: Vec<Nanos>,
    /// What went up, requests for blocks apart, until every device that was on had a piece.
    pub up_until_first: u64,
    /// Events.
    pub events: u64,
    /// A digest of all pieces that came, when and where.
    pub digest: u64,
}

/// One site while it is played.
pub struct World<'a> {
    plan: &'a Plan,
    site: &'a Site,
    patch: &'a Patch,
    now: Nanos,
    approved: Nanos,
    agenda: Agenda<Event>,
    random: Random,
    pub devices: Vec<Device>,
    /// Whom a device tells: room that is used again.
    lacking: Vec<usize>,
    undone: usize,
    tracker: Tracker,
    lan: Lan,
    pub wan: Wan,
    in_site: protocol::bitmap::PieceSet,
    pub counts: Counts,
}

impl<'a> World<'a> {
    /// A site before anything happens.
    ///
    /// # Panics
    /// Never: the site's name is well formed.
    pub fn new(plan: &'a Plan, site: &'a Site, patch: &'a Patch) -> World<'a> {
        let name = SiteName::new(format!("site{}", site.number)).expect("letters and digits");
        let devices: Vec<Device> =
            (0..site.devices.len()).map(|number| Device::new(site, number, &name)).collect();
        let mut world = World {
            plan,
            site,
            patch,
            now: 0,
            approved: (plan.approved_hour * 3_600.0 * SECOND as f64) as Nanos,
            agenda: Agenda::new(),
            random: Random::new(site.seed ^ 0x5173),
            undone: devices.len(),
            lacking: Vec::new(),
            devices,
            tracker: Tracker::default(),
            lan: Lan::new(site, bytes_per_second(plan.air_megabits_per_second)),
            wan: Wan::new(site),
            in_site: protocol::bitmap::PieceSet::new(),
            counts: Counts::default(),
        };
        world.begin();
        world
    }

    /// When the patch is approved.
    pub fn approved(&self) -> Nanos {
        self.approved
    }

    /// Plays until every device has everything.
    ///
    /// # Errors
    /// [`Stuck`] when that does not happen within the days of the plan, or a fetcher contradicts itself.
    pub fn play(&mut self) -> Result<(), Stuck> {
        let end = self.plan.days * DAY;
        while self.undone > 0 {
            let Some((at, event)) = self.agenda.pop().filter(|(at, _)| *at < end) else {
                let mut missing = self.devices.iter().enumerate().filter(|(_, device)| device.done.is_none());
                let first = missing.next().map_or((0, 0), |(at, device)| (at, device.held.len()));
                return Err(Stuck::Unfinished { devices: self.undone, first: first.0, pieces: first.1 });
            };
            debug_assert!(at >= self.now, "time goes on");
            self.now = at;
            self.counts.events += 1;
            self.handle(event)?;
        }
        for device in &self.devices {
            count(&mut self.counts, &device.fetcher);
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), Stuck> {
        match event {
            Event::On(at) => self.switch_on(at),
            Event::Off(at) => self.switch_off(at)?,
            Event::Met(at, other) => self.met(at, other),
            Event::Meet(at, life) if self.lives(at, life) => self.meet(at),
            Event::Dial(at, life) if self.lives(at, life) => self.dial(at),
            Event::Connected(at, life) if self.lives(at, life) => self.connected(at),
            Event::Hear(at, life) if self.lives(at, life) => self.hear(at),
            Event::Announce(at, life) if self.lives(at, life) => self.announce(at),
            Event::Announced(at, life, most) if self.lives(at, life) => self.announced(at, most),
            Event::SiteKnown(at, life) if self.lives(at, life) => self.site_known(at),
            Event::Wake(at, life, wake) if self.lives(at, life) => self.woken(at, wake),
            Event::Granted { to, life, from, need_tree } if self.lives(to, life) => {
                self.granted(to, from, need_tree);
            }
            Event::LeaseAsked(at, life, request) if self.lives(at, life) => self.lease_asked(at, &request),
            Event::Leased(at, life, answer) if self.lives(at, life) => self.leased(at, *answer),
            Event::Block(at, life, block) if self.lives(at, life) => self.block_came(at, *block),
            Event::Refused(at, life, effect) if self.lives(at, life) => self.refused(at, effect),
            Event::Sending(piece, sent) if self.lives(piece.to, piece.life) => self.sending(piece, sent),
            Event::Came(piece, origin) if self.lives(piece.to, piece.life) => self.came(piece, origin)?,
            Event::News(at, life) if self.lives(at, life) => self.tell(at),
            _ => {}
        }
        Ok(())
    }

    fn lives(&self, at: usize, life: u32) -> bool {
        self.devices[at].life == life
    }

    fn moment(&self) -> Moment {
        Moment::from_micros(self.now / 1_000)
    }

    fn schedule(&mut self, at: Nanos, event: Event) {
        self.agenda.put(at.max(self.now), event);
    }

    /// Some time between two others, in milliseconds.
    fn milliseconds(&mut self, least: u64, most: u64) -> Nanos {
        self.random.between(least * 1_000_000, most * 1_000_000)
    }
}

/// Takes in what a fetcher counted before it ends.
fn count(counts: &mut Counts, fetcher: &Fetcher) {
    for transfer in fetcher.transfers() {
        for (way, bytes) in &transfer.bytes {
            *counts.bytes.entry(*way).or_default() += bytes;
        }
    }
}
