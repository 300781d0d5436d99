//! The world: a queue of happenings in virtual time, and the machines and links that they happen to.

mod causes;
mod connections;
mod effects;
mod faults;
mod histories;
mod judge;
mod ledger;
mod links;
mod malice;
mod messages;
mod mirror;
mod parcel;
mod pieces;
mod standing;

use crate::device::Device;
use crate::fleet::{Fleet, HEADQUARTERS};
use crate::link::{Link, TransferId};
use crate::random::Random;
use crate::scenario::{Cut, Death, Fault, Scenario};
use crate::summary::Summary;
use crate::trace::Trace;
use crate::vendor;
use connections::Asked;
use parcel::{Parcel, Path};
use protocol::aggregate::State;
use protocol::core::{Input, RequestToken};
use protocol::digest::Blake3Root;
use protocol::effect::EffectId;
use protocol::identifier::DeviceId;
use protocol::piece::PieceIndex;
use protocol::time::Moment;
use protocol::trust::make_bundle;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

/// A rule was broken, or nothing good happened in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{moment_milliseconds} ms: {what}; again with: {replay}")]
pub struct Failure {
    /// The command that plays it again.
    pub replay: String,
    /// When it happened.
    pub moment_milliseconds: u64,
    /// What is wrong.
    pub what: String,
    /// The trace up to there, when it was kept.
    #[serde(skip)]
    pub lines: Vec<String>,
}

/// Whether the lines of the trace are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The digest alone.
    Digest,
    /// Every line, to be read.
    Lines,
}

/// A finished simulation.
#[derive(Debug)]
pub struct Played {
    /// Its figures.
    pub summary: Summary,
    /// Its trace, when it was kept.
    pub lines: Vec<String>,
}

/// Plays a scenario to its end.
///
/// # Errors
/// [`Failure`] with the first rule that broke.
pub fn run(scenario: &Scenario, keep: Keep) -> Result<Played, Box<Failure>> {
    let mut world = World::new(scenario, keep);
    let outcome = world.play();
    match outcome {
        Ok(summary) => Ok(Played { summary, lines: world.trace.into_lines() }),
        Err(what) => Err(Box::new(Failure {
            replay: scenario.replay(),
            moment_milliseconds: world.now.as_micros() / 1_000,
            what,
            lines: world.trace.into_lines(),
        })),
    }
}

/// How often it is looked whether all is done.
const LOOK: Duration = Duration::from_millis(100);
/// So long it goes on after all is done, to see what still happens.
const AFTERWARDS: Duration = Duration::from_secs(20);

/// A rule that is broken, in words.
type Broken = String;

/// Something that happens at a moment.
#[derive(Debug)]
enum Happening {
    /// A device starts.
    Starts(usize),
    /// The administrator approves the rest.
    Approves,
    /// A device goes down.
    Dies(usize, Death, Option<Duration>),
    /// A device falls asleep for so long; its monotonic clock may go on.
    Sleeps(usize, Duration, bool),
    /// A fault begins.
    Begins(Fault),
    /// A fault ends.
    Ends(Fault),
    /// A device asks again for what it may not have.
    Pries(usize),
    /// A device that went down comes back.
    Returns(usize),
    /// Everything that is wrong ends.
    Heals,
    /// A fact reaches a core, unless its process died meanwhile.
    Input(usize, u32, Box<Input>),
    /// A core asked to be woken.
    Wake(usize, u32),
    /// Records are durable.
    Stored(usize, u32, EffectId, Vec<(Vec<u8>, Option<Vec<u8>>)>),
    /// A piece is verified and durable.
    PieceStored(usize, u32, EffectId, Blake3Root, PieceIndex),
    /// A scan reads the packages.
    Scans(usize, u32, EffectId),
    /// An installer ends.
    InstallerEnds(usize, u32, EffectId, String),
    /// A connection comes about, or does not.
    Dialled(usize, u32, DeviceId),
    /// A device hears that a connection ended.
    Ended(usize, u32, usize, u64),
    /// A link has carried something, if nothing changed since this many changes.
    Link(Path, u64),
    /// Something carried reaches the other side.
    Arrives(Box<Parcel>),
    /// No answer came.
    TimedOut(usize, u32, EffectId),
    /// Bytes of a piece are still on their way.
    StillServing(TransferId),
}

/// Everything there is.
#[derive(Debug)]
struct World<'a> {
    scenario: &'a Scenario,
    fleet: Fleet,
    now: Moment,
    queue: BinaryHeap<Reverse<(Moment, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    sequence: u64,
    random: Random,
    trace: Trace,
    devices: Vec<Device>,
    numbers: BTreeMap<DeviceId, usize>,
    /// Physical connections, by the lower number first.
    connections: BTreeMap<(usize, usize), u64>,
    /// Connections as each end knows them: a silent one is known longer than it stands.
    known: BTreeMap<(usize, usize), u64>,
    last_connection: u64,
    links: BTreeMap<Path, (Link, u64)>,
    parcels: BTreeMap<TransferId, Parcel>,
    last_transfer: u64,
    asked: BTreeMap<(usize, EffectId), Asked>,
    tickets: BTreeMap<(usize, RequestToken), messages::Ticket>,
    last_token: u64,
    aggregate: State,
    installing: BTreeMap<usize, String>,
    corrupting: BTreeSet<usize>,
    wan_pieces: u64,
    /// Faults that have not happened yet and have a fixed time.
    outstanding: usize,
    ledger: ledger::Ledger,
    past: causes::Past,
    cuts: BTreeSet<Cut>,
    firewalled: BTreeSet<usize>,
    liars: BTreeSet<usize>,
    prying: BTreeSet<usize>,
    /// Devices whose way to the aggregator loses reports.
    withholding: BTreeSet<usize>,
    /// Devices whose next installer does not do what it should.
    failing: BTreeSet<usize>,
    /// What such installers were to install, and where.
    botched: BTreeSet<(usize, String)>,
    /// Devices that get leases and not the pieces.
    hoarding: BTreeSet<usize>,
    /// Since when a site asks in vain for what nobody there has, and when it asked last.
    starving: BTreeMap<usize, (Moment, Moment)>,
    histories: histories::Histories,
    /// Content that somebody put on a device, which nobody may get from it.
    sideloaded: BTreeSet<(usize, Blake3Root)>,
    /// Devices that the second publication expelled.
    expelled: BTreeSet<usize>,
    healed: Option<Moment>,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, keep: Keep) -> World<'a> {
        let branches: Vec<usize> = scenario.sites.iter().map(|site| site.devices).collect();
        let fleet = Fleet::found(&branches, vendor::publish(&scenario.patches), scenario.mirror.is_some());
        let devices = fleet.keys.iter().map(|_| Device::new(&fleet.vendor.patches)).collect();
        let numbers = fleet.keys.iter().enumerate().map(|(at, key)| (key.device(), at)).collect();
        let mut rates = Vec::new();
        for (at, site) in scenario.sites.iter().enumerate() {
            rates.push((Path::WanDown(at), site.links.wan_down));
            rates.push((Path::WanUp(at), site.links.wan_up));
            rates.push((Path::Lan(at), site.links.lan));
            rates.extend(site.air.map(|air| (Path::Air(at), air)));
        }
        rates.extend(scenario.stragglers.iter().map(|(at, rate)| (Path::Own(*at), *rate)));
        let links = rates.into_iter().map(|(path, bits)| (path, (Link::new(bits / 8), 0))).collect();
        let mut world = World {
            scenario,
            fleet,
            now: Moment::START,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            random: Random::new(scenario.seed),
            trace: Trace::new(keep == Keep::Lines),
            devices,
            numbers,
            connections: BTreeMap::new(),
            known: BTreeMap::new(),
            last_connection: 0,
            links,
            parcels: BTreeMap::new(),
            last_transfer: 0,
            asked: BTreeMap::new(),
            tickets: BTreeMap::new(),
            last_token: 0,
            aggregate: State::new(7),
            installing: BTreeMap::new(),
            corrupting: BTreeSet::new(),
            wan_pieces: 0,
            outstanding: 0,
            ledger: ledger::Ledger::default(),
            past: causes::Past::default(),
            cuts: BTreeSet::new(),
            firewalled: BTreeSet::new(),
            liars: BTreeSet::new(),
            prying: BTreeSet::new(),
            withholding: BTreeSet::new(),
            failing: BTreeSet::new(),
            botched: BTreeSet::new(),
            hoarding: BTreeSet::new(),
            starving: BTreeMap::new(),
            histories: histories::Histories::default(),
            sideloaded: BTreeSet::new(),
            expelled: BTreeSet::new(),
            healed: scenario.heals_after.is_none().then_some(Moment::START),
        };
        world.prepare();
        world
    }

    /// The headquarters holds everything that the vendor made, wanted or not; then all start.
    fn prepare(&mut self) {
        let trees = self.fleet.vendor.trees.clone();
        for (root, tree) in trees {
            let all = protocol::bitmap::PieceSet::full(tree.pieces());
            self.devices[HEADQUARTERS].disk.pieces.insert(root, (tree, all));
        }
        self.later(Duration::ZERO, Happening::Starts(HEADQUARTERS));
        for at in 1..=self.scenario.devices() {
            let within = u64::try_from(self.scenario.start_within.as_micros()).unwrap_or(0);
            let delay = Duration::from_micros(2_000_000 + self.random.between(0, within));
            self.later(delay, Happening::Starts(at));
        }
        if let Some(after) = self.scenario.approves_after {
            self.outstanding += 1;
            self.later(Duration::from_secs(2) + after, Happening::Approves);
        }
        self.prepare_faults();
    }

    fn later(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    fn at(&mut self, moment: Moment, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((moment.max(self.now), self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    /// A fact for a core after some time.
    fn input_later(&mut self, delay: Duration, at: usize, input: Input) {
        let life = self.devices[at].life;
        self.later(delay, Happening::Input(at, life, Box::new(input)));
    }

    fn play(&mut self) -> Result<Summary, Broken> {
        let mut settled_since: Option<Moment> = None;
        let mut looked = Moment::START;
        while let Some(Reverse((moment, sequence))) = self.queue.pop() {
            self.now = moment;
            let Some(happening) = self.happenings.remove(&sequence) else { continue };
            self.happen(happening)?;
            // Looked at often enough to tell when it was, and also before a long silence.
            let quiet = self.queue.peek().is_none_or(|Reverse((next, _))| next.since(looked) >= LOOK);
            if !quiet {
                continue;
            }
            looked = self.now;
            match (self.is_settled(), settled_since) {
                (false, _) => settled_since = None,
                (true, None) => settled_since = Some(self.now),
                (true, Some(since)) if self.now.since(since) >= AFTERWARDS => return self.judge(since),
                (true, Some(_)) => {}
            }
            if self.healed.is_some_and(|healed| self.now.since(healed) > self.scenario.patience) {
                return Err(self.what_is_missing());
            }
        }
        Err(format!("nothing is left to happen; {}", self.what_is_missing()))
    }

    fn is_alive(&self, at: usize, life: u32) -> bool {
        self.devices[at].life == life && self.devices[at].process.is_some()
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Broken> {
        match happening {
            Happening::Starts(at) => self.start(at),
            Happening::Approves => self.approve(),
            Happening::Dies(at, death, returns) => {
                self.outstanding = self.outstanding.saturating_sub(1);
                self.die(at, death, returns);
                Ok(())
            }
            Happening::Sleeps(at, lasts, clock_goes_on) => {
                self.outstanding = self.outstanding.saturating_sub(1);
                self.sleep(at, lasts, clock_goes_on);
                Ok(())
            }
            Happening::Begins(fault) => self.begin(fault),
            Happening::Ends(fault) => self.end(fault),
            Happening::Pries(at) => self.pry(at),
            Happening::Returns(at) => {
                self.outstanding = self.outstanding.saturating_sub(1);
                if self.devices[at].process.is_some() { Ok(()) } else { self.start(at) }
            }
            Happening::Heals => self.heal(),
            Happening::Input(at, life, input) => self.feed_if(at, life, *input),
            Happening::Wake(at, life) => self.wake(at, life),
            Happening::Stored(at, life, effect, records) => self.stored(at, life, effect, records),
            Happening::PieceStored(at, life, effect, root, piece) => {
                self.piece_stored(at, life, effect, root, piece)
            }
            Happening::Scans(at, life, effect) => self.scan(at, life, effect),
            Happening::InstallerEnds(at, life, effect, package) => {
                self.installer_ends(at, life, effect, package)
            }
            Happening::Dialled(at, life, device) => self.dialled(at, life, device),
            Happening::Ended(at, life, peer, connection) => self.ended(at, life, peer, connection),
            Happening::Link(path, changes) => self.link_carried(path, changes),
            Happening::Arrives(parcel) => self.arrives(*parcel),
            Happening::TimedOut(at, life, effect) => self.timed_out(at, life, effect),
            Happening::StillServing(id) => self.still_serving(id),
        }
    }

    /// Starts a process: what it holds, where it listens, and at headquarters the repository.
    fn start(&mut self, at: usize) -> Result<(), Broken> {
        let seed = self.random.draw();
        self.trace.note(self.now, at, format_args!("starts"));
        self.devices[at].start(&self.fleet, at, self.now, seed).map_err(|error| error.to_string())?;
        self.check_remembers(at)?;
        match self.devices[at].life {
            1 => {}
            _ if at == HEADQUARTERS => self.past.seed_starts(self.now),
            _ => self.past.ends(at, causes::Trouble::Away, self.now),
        }
        let held: Vec<_> = self.devices[at].disk.pieces.values().cloned().collect();
        for (tree, pieces) in held {
            self.feed(at, Input::Held { tree, pieces })?;
        }
        if at == HEADQUARTERS {
            self.publish_repository()?;
        }
        self.feed(at, Input::Listening(vec![format!("/sim/{at}")]))
    }

    /// Headquarters reads its repository.
    fn publish_repository(&mut self) -> Result<(), Broken> {
        let process = self.devices[HEADQUARTERS].process.as_ref().ok_or("headquarters runs")?;
        let mut request = process.core.metadata_request();
        request.wanted.extend(self.fleet.targets.iter().map(|target| (target.clone(), None)));
        let bundle = make_bundle(&request, |path| self.fleet.files.get(path).cloned());
        let bundle = bundle.map_err(|error| error.to_string())?;
        let targets = self.fleet.targets.clone();
        self.feed(HEADQUARTERS, Input::Repository { bundle, targets })
    }

    /// The second publication: what nobody had approved is approved now, and every device is to have it.
    fn approve(&mut self) -> Result<(), Broken> {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.fleet.publish_again(self.scenario.expels);
        self.ledger.fire("approved later");
        if self.fleet.vendor.patches.iter().any(|patch| patch.standing == vendor::Standing::Held) {
            self.ledger.fire("held later");
        }
        if self.fleet.vendor.patches.iter().any(|patch| patch.standing == vendor::Standing::Withdrawn) {
            self.ledger.fire("withdrawn later");
        }
        if let Some(at) = self.scenario.expels {
            self.expelled.insert(at);
            self.devices[at].gone = true;
            self.ledger.fire("expelled");
        }
        for device in &mut self.devices {
            device.finished = None;
        }
        if self.devices[HEADQUARTERS].process.is_none() {
            // It reads its repository when it comes back.
            return Ok(());
        }
        self.publish_repository()
    }

    fn wake(&mut self, at: usize, life: u32) -> Result<(), Broken> {
        if !self.is_alive(at, life) {
            return Ok(());
        }
        let Some(process) = &mut self.devices[at].process else { return Ok(()) };
        if process.wake.is_none_or(|wake| wake > self.now) {
            return Ok(());
        }
        process.wake = None;
        self.ledger.count_wake(at, self.now)?;
        self.feed(at, Input::Wake)
    }

    fn feed_if(&mut self, at: usize, life: u32, input: Input) -> Result<(), Broken> {
        if self.is_alive(at, life) { self.feed(at, input) } else { Ok(()) }
    }

    /// One fact for one core; then everything that it asks for is put on its way. A device that sleeps gets it later.
    fn feed(&mut self, at: usize, input: Input) -> Result<(), Broken> {
        if let Some(until) = self.devices[at].asleep_until.filter(|until| self.now < *until) {
            let life = self.devices[at].life;
            self.at(until, Happening::Input(at, life, Box::new(input)));
            return Ok(());
        }
        let wall = self.devices[at].wall(self.now);
        let Some(process) = &mut self.devices[at].process else { return Ok(()) };
        if process.wall != wall {
            // What follows from the time alone was decided before the core knew of the rest.
            process.wall = wall;
            self.take(at, Input::WallClock(wall))?;
            return self.feed(at, input);
        }
        self.note_told(at, &input);
        effects::note_input(&mut self.trace, self.now, at, &input);
        self.take(at, input)?;
        self.ledger.inputs += 1;
        self.check_grants(at)?;
        self.set_wake(at);
        Ok(())
    }

    /// Lets the core take the fact in, and puts on its way what it asks for.
    fn take(&mut self, at: usize, input: Input) -> Result<(), Broken> {
        let now = self.devices[at].moment(self.now);
        let Some(process) = &mut self.devices[at].process else { return Ok(()) };
        process.core.handle(now, input);
        let mut outputs = Vec::new();
        while let Some(output) = process.core.poll() {
            outputs.push(output);
        }
        process.core.check().map_err(|error| format!("device {at}: {error}"))?;
        if outputs.len() > 2_000 {
            return Err(format!("device {at}: one input led to {} outputs", outputs.len()));
        }
        for output in outputs {
            effects::note_output(&mut self.trace, self.now, at, &output);
            self.perform(at, output)?;
        }
        Ok(())
    }

    fn set_wake(&mut self, at: usize) {
        let (now, life, slept) = (self.now, self.devices[at].life, self.devices[at].slept);
        let shown = self.devices[at].moment(now);
        let Some(process) = &mut self.devices[at].process else { return };
        let Some(next) = process.core.next_wake(shown) else { return };
        let next = (next + slept).max(now);
        if process.wake.is_none_or(|wake| next < wake) {
            process.wake = Some(next);
            self.at(next, Happening::Wake(at, life));
        }
    }
}
