//! The core of a node: one state machine that routes facts to the verbs and their decisions to the driver.
//!
//! Call [`Core::handle`], then drain [`Core::poll`] until it is empty, then wait until [`Core::next_wake`].

mod candidates;
mod caps;
mod content;
mod deployment;
mod evidence;
mod input;
mod installing;
mod kept;
mod meeting;
mod metadata;
mod mirrors;
mod neighbours;
mod obstacle;
mod output;
mod priority;
mod remembered;
mod reporting;
mod roaming;
mod rules;
mod serve;
mod site;
#[cfg(test)]
mod tests;
mod timers;
mod transfers;
pub mod view;

pub use input::{Command, Input, InstallEnd, RequestToken, StoreFailure};
pub use output::{Event, Mending, Output, Record, Rung};
pub use reporting::Aggregated;
pub use rules::{Catalogues, Unreadable};

use crate::crowd;
use crate::digest::Blake3Root;
use crate::effect::{EffectId, EffectIds};
use crate::fetch::Fetcher;
use crate::fetch::tracker::Tracker;
use crate::fleet::Services;
use crate::identifier::{DeviceId, FleetId, PatchId};
use crate::membership::Member;
use crate::random::Random;
use crate::reason::Reason;
use crate::signature::SigningKey;
use crate::time::{Moment, WallTime};
use crate::trust::{self, Trusted};
use crate::wire::{Request, Versions};
use candidates::Candidates;
use caps::Caps;
use content::Contents;
use deployment::Deploying;
use kept::Kept;
use metadata::Refreshing;
use neighbours::Peer;
use obstacle::Obstacles;
use remembered::Remembered;
use reporting::Reporting;
use rules::Rules;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use timers::{Timer, Timers};

/// Seconds between two looks at what ends with time: certificates, keys, the days without news from the seed.
const REVIEW_SECONDS: u64 = 60;
/// A step of the wall clock by so many seconds is a jump: somebody set it.
const JUMP_SECONDS: u64 = 600;

/// What a node does besides being an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Origin of content and metadata, tracker of the sites.
    pub seed: bool,
    /// Where reports go.
    pub aggregator: bool,
}

/// What a core is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The device's key: its identity, and what signs its reports.
    pub key: SigningKey,
    /// What its membership certificate says.
    pub member: Member,
    /// The fleet.
    pub fleet: FleetId,
    /// The fleet's first root metadata file, for a node that has no trusted metadata yet.
    pub root: Vec<u8>,
    /// Services as the registrar knew them, until the signed ones arrive.
    pub services: Services,
    /// Roles.
    pub roles: Roles,
    /// Version of the product.
    pub agent: String,
    /// Randomness: all that the core ever uses follows from it.
    pub seed: u64,
    /// The wall clock.
    pub wall: WallTime,
    /// Whether this node has an installer and is allowed to use it.
    pub installs: bool,
    /// Bytes of content that may stay for the neighbours, what is needed here among them.
    pub keep_bytes: u64,
}

/// Stored records that cannot be used. Nothing is half restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The trusted metadata is torn or was changed: the memory of versions is not to be relied on.
    #[error(
        "the trusted metadata of this node is damaged; restore its directory from a backup, or run `patchmesh join` again"
    )]
    Trust(#[source] trust::RestoreError),
    /// The first root metadata is not that of the fleet.
    #[error(
        "the fleet's root metadata is not the one that this device joined with; run `patchmesh join` again"
    )]
    Root(#[source] trust::Refused),
    /// The trusted metadata says something that this build cannot read.
    #[error("the trusted metadata cannot be read by this version of patchmesh")]
    Rules(#[source] Unreadable),
    /// A record of a deployment cannot be decoded.
    #[error("the record of deployment \"{0}\" is damaged; delete the node's store and let it scan again")]
    Deployment(String),
}

/// What an effect was for, so that its completion finds its way.
#[derive(Debug)]
enum Pending {
    Hello(DeviceId),
    Meet(DeviceId),
    News,
    /// With the versions that this node had when it asked.
    Announce(DeviceId, Versions),
    Lease(DeviceId),
    Grant(DeviceId, Blake3Root),
    /// With the versions that this node had when it asked.
    Metadata(DeviceId, Versions),
    Reports(DeviceId),
    Piece,
    Evidence(crate::identifier::ManifestDigest),
    FullCheck(Blake3Root),
    Scan,
    Install(PatchId),
    StoreTrust(Box<metadata::Accepted>),
    StoreStart(EffectId, PatchId),
    StoreDeployment(PatchId, Vec<crate::deploy::Action>),
    StoreReports(reporting::Batch),
    StoreOther,
    Aggregate(Option<(RequestToken, DeviceId)>),
}

impl Pending {
    /// Whom it was asked of.
    fn peer(&self) -> Option<DeviceId> {
        match self {
            Pending::Hello(peer)
            | Pending::Meet(peer)
            | Pending::Announce(peer, _)
            | Pending::Lease(peer)
            | Pending::Grant(peer, _)
            | Pending::Metadata(peer, _)
            | Pending::Reports(peer) => Some(*peer),
            _ => None,
        }
    }
}

/// The core of one node.
#[derive(Debug)]
pub struct Core {
    setup: Setup,
    wall: WallTime,
    /// Seconds of the wall clock since the last look at what it ends.
    unreviewed: u64,
    /// Whether the metadata was in force then.
    was_in_force: Result<(), Reason>,
    random: Random,
    ids: EffectIds,
    pending: BTreeMap<EffectId, Pending>,
    outputs: VecDeque<Output>,
    timers: Timers,
    addresses: Vec<String>,
    peers: BTreeMap<DeviceId, Peer>,
    trusted: Trusted,
    rules: Rules,
    refreshing: Refreshing,
    remembered: Remembered,
    candidates: Candidates,
    caps: Caps,
    contents: Contents,
    obstacles: Obstacles,
    talk: mirrors::Talk,
    kept: Kept,
    fetcher: Fetcher,
    tracker: Tracker,
    deploying: Deploying,
    reporting: Reporting,
}

impl Core {
    /// A core that goes on where the stored records end; with none it begins anew.
    ///
    /// # Errors
    /// [`RestoreError`] names what is damaged and what to do.
    pub fn restore(setup: Setup, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Core, RestoreError> {
        let mut stored = Stored::sort(records);
        let refreshing = Refreshing::restore(&stored.trust, stored.trusted.as_deref());
        let trusted = metadata::restore(&setup, std::mem::take(&mut stored.trust), stored.trusted.is_some())?;
        let which = if setup.roles.seed { Catalogues::All } else { Catalogues::Own };
        let rules = Rules::read(&trusted, setup.fleet, &setup.services, &setup.member, which)
            .map_err(RestoreError::Rules)?;
        let deploying = Deploying::restore(stored.deployments, stored.plan)?;
        let remembered = Remembered::restore(stored.remembered.as_deref(), &setup.member.site);
        let reporting = Reporting::restore(&setup, stored.reports);
        let mut core = Core {
            wall: setup.wall,
            unreviewed: 0,
            was_in_force: Ok(()),
            random: Random::new(setup.seed),
            ids: EffectIds::default(),
            pending: BTreeMap::new(),
            outputs: VecDeque::new(),
            timers: Timers::default(),
            addresses: Vec::new(),
            peers: BTreeMap::new(),
            fetcher: Fetcher::new(setup.member.device, setup.member.site.clone()),
            tracker: Tracker::default(),
            refreshing,
            remembered,
            candidates: Candidates::default(),
            caps: Caps::default(),
            contents: Contents::default(),
            obstacles: Obstacles::default(),
            talk: mirrors::Talk::default(),
            kept: Kept::restore(stored.kept),
            trusted,
            rules,
            deploying,
            reporting,
            setup,
        };
        core.begin();
        Ok(core)
    }

    fn begin(&mut self) {
        self.outputs.push_back(Output::TrustChanged(self.rules.verifier.clone()));
        self.revise_caps();
        for timer in [Timer::Scan, Timer::CheckIn] {
            self.timers.set(timer, Moment::START);
        }
        let listening = if self.meets() { crowd::listening(self.random()) } else { Duration::ZERO };
        self.timers.set(Timer::Redial, Moment::START + listening);
        self.revise_memory(Moment::START);
        // Multicast, which costs the site less, gets a moment first.
        self.timers.set(Timer::Seek, Moment::START + Duration::from_secs(1));
        self.report_start();
        self.resume_deployments();
    }

    /// Takes one fact. Afterwards [`Core::poll`] has what follows from it.
    pub fn handle(&mut self, now: Moment, input: Input) {
        match input {
            Input::Wake => {}
            Input::WallClock(wall) => self.on_wall_clock(now, wall),
            Input::Conditions(conditions) => self.on_conditions(conditions),
            Input::Listening(addresses) => self.on_listening(now, addresses),
            Input::Connected(member) => self.on_connected(now, member),
            Input::Reached { device, address } => self.on_reached(now, device, address),
            Input::Distant(device) => self.on_distant(now, device),
            Input::Disconnected(device) => self.on_disconnected(now, device),
            Input::DialFailed(device) => self.on_dial_failed(now, device),
            Input::Discovered { device, addresses } => self.on_discovered(now, device, addresses),
            Input::Request { token, from, request } => self.on_request(now, token, from, request),
            Input::Answered { effect, result } => self.on_answered(now, effect, result),
            Input::Hint { from, hint } => self.on_hint(now, from, hint),
            Input::Piece { effect, result } => self.on_piece(now, effect, result),
            Input::Paced(seed, pace) => self.fetcher.on_pace(seed, pace),
            Input::Served { peer, root, piece, bytes, whole } => {
                self.on_served(now, peer, root, bytes);
                if whole {
                    self.on_delivered(now, peer, root, piece);
                }
            }
            Input::Serving { peer, bytes } => self.on_serving(now, peer, bytes),
            Input::Held { tree, pieces } => self.on_held(now, tree, pieces),
            Input::OriginWrong { root, detail } => self.on_origin_wrong(root, &detail),
            Input::Unreadable { root, reason } => self.on_unreadable(root, reason),
            Input::NoRoom { root, says } => self.on_no_room(now, root, says),
            Input::Repository { bundle, targets } => self.on_repository(now, &bundle, targets),
            Input::EvidenceChecked { effect, result } => self.on_evidence(now, effect, result),
            Input::FullChecked { effect, result } => self.on_full_check(now, effect, result),
            Input::Damaged { effect, pieces } => self.on_damaged(now, effect, &pieces),
            Input::Scanned { effect, result } => self.on_scanned(now, effect, result),
            Input::InstallerReady { effect } => self.on_installer_ready(effect),
            Input::Installed { effect, result } => self.on_installed(now, effect, result),
            Input::Stored { effect, result } => self.on_stored(now, effect, result),
            Input::Aggregated { effect, result } => self.on_aggregated(now, effect, result),
            Input::Command(command) => self.on_command(now, command),
            Input::Stopping => self.on_stopping(now),
        }
        self.settle(now);
    }

    /// The next thing to do, or `None` when nothing is left and the caller waits.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Core::handle`] with [`Input::Wake`] although nothing happened.
    pub fn next_wake(&self, now: Moment) -> Option<Moment> {
        [self.timers.next(), self.fetcher.next_wake(now)].into_iter().flatten().min()
    }

    /// Checks what must hold after every input. For simulations and tests.
    ///
    /// # Errors
    /// The first rule that is broken: a mistake in the core.
    pub fn check(&self) -> Result<(), crate::fetch::Inconsistent> {
        self.fetcher.check()
    }

    /// Fires due timers, then lets every verb decide what follows from the facts so far.
    fn settle(&mut self, now: Moment) {
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Redial => self.redial(now),
                Timer::Seek => self.seek_neighbours(now),
                Timer::Meet => self.meet(now),
                Timer::Remember => self.store_memory(now),
                Timer::CheckIn => self.check_in(now),
                Timer::Announce => self.announce(now),
                Timer::News => self.send_news(now),
                Timer::Scan => self.begin_cycle(now),
                Timer::Reports => self.send_reports(),
                Timer::Transfers => self.report_transfers(),
                Timer::Reached => self.say_reached(now),
                Timer::Deployments => self.advance_deployments(now),
            }
        }
        self.fetch(now);
    }

    /// What holds until a certain time is looked at every minute; after a jump, what a wrong clock refused as well.
    fn on_wall_clock(&mut self, now: Moment, wall: WallTime) {
        let before = std::mem::replace(&mut self.wall, wall);
        let passed = wall.seconds_since(before).max(before.seconds_since(wall));
        self.unreviewed = self.unreviewed.saturating_add(passed);
        self.revise_hours();
        self.revise_deadlines();
        if self.unreviewed < REVIEW_SECONDS {
            return;
        }
        self.unreviewed = 0;
        self.drop_strangers();
        self.revise_grants();
        if passed >= JUMP_SECONDS {
            self.forget_refusals(now);
        }
        if passed >= JUMP_SECONDS || self.metadata_in_force() != self.was_in_force {
            self.was_in_force = self.metadata_in_force();
            self.replan(now);
            self.offer_again();
        }
    }

    fn on_stored(&mut self, now: Moment, effect: EffectId, result: Result<(), StoreFailure>) {
        let Some(pending) = self.pending.remove(&effect) else { return };
        if let Err(StoreFailure(cause)) = &result {
            self.event(Event::StoreFailed(cause.clone()));
        }
        match (pending, result) {
            (Pending::StoreTrust(accepted), result) => self.on_trust_stored(now, *accepted, result.is_ok()),
            (Pending::StoreDeployment(patch, actions), result) => {
                self.on_deployment_stored(now, &patch, actions, result.is_ok());
            }
            (Pending::StoreStart(install, patch), result) => {
                self.on_start_stored(install, &patch, result.is_ok())
            }
            (Pending::StoreReports(batch), Ok(())) => self.on_outbox_stored(effect, &batch),
            (Pending::StoreReports(batch), Err(_)) => self.on_outbox_not_stored(now, effect, batch),
            _ => {}
        }
    }

    fn on_command(&mut self, now: Moment, command: Command) {
        match command {
            Command::Scan => self.scan(now),
            Command::CheckIn => self.check_in(now),
            Command::Deploy(patch) => self.deploy_now(now, patch.as_ref()),
        }
    }

    fn ask(&mut self, to: DeviceId, request: Request, pending: Pending) {
        let effect = self.expect(pending);
        self.outputs.push_back(Output::Request { effect, to, request });
    }

    fn store(&mut self, records: Vec<Record>, pending: Pending) -> EffectId {
        let effect = self.expect(pending);
        self.outputs.push_back(Output::Store { effect, records });
        effect
    }

    fn expect(&mut self, pending: Pending) -> EffectId {
        let effect = self.ids.fresh();
        self.pending.insert(effect, pending);
        effect
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// A number that follows from the seed alone.
    fn random(&mut self) -> u64 {
        self.random.draw()
    }
}

/// The prefixes under which the core stores its records.
mod prefix {
    pub const TRUST: &[u8] = b"trust/";
    /// Stands beside the records of the trusted metadata: when they are all gone, this is no new device. Its value is when the
    /// node last checked in.
    pub const TRUSTED: &[u8] = b"trusted";
    pub const DEPLOYMENT: &[u8] = b"deployment/";
    pub const PLAN: &[u8] = b"plan";
    pub const REPORT: &[u8] = b"report/";
    pub const REMEMBERED: &[u8] = b"remembered";
    pub const KEPT: &[u8] = b"kept/";
}

/// Stored records by what they are.
#[derive(Default)]
struct Stored {
    trust: Vec<(String, Vec<u8>)>,
    trusted: Option<Vec<u8>>,
    deployments: Vec<(String, Vec<u8>)>,
    plan: Option<Vec<u8>>,
    reports: Vec<(Vec<u8>, Vec<u8>)>,
    remembered: Option<Vec<u8>>,
    kept: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Stored {
    fn sort(records: Vec<(Vec<u8>, Vec<u8>)>) -> Stored {
        let mut stored = Stored::default();
        for (key, value) in records {
            let text = |prefix: &[u8]| {
                key.strip_prefix(prefix).map(|rest| String::from_utf8_lossy(rest).into_owned())
            };
            if let Some(name) = text(prefix::TRUST) {
                stored.trust.push((name, value));
            } else if let Some(name) = text(prefix::DEPLOYMENT) {
                stored.deployments.push((name, value));
            } else if let Some(rest) = key.strip_prefix(prefix::REPORT) {
                stored.reports.push((rest.to_vec(), value));
            } else if let Some(rest) = key.strip_prefix(prefix::KEPT) {
                stored.kept.push((rest.to_vec(), value));
            } else if key == prefix::TRUSTED {
                stored.trusted = Some(value);
            } else if key == prefix::PLAN {
                stored.plan = Some(value);
            } else if key == prefix::REMEMBERED {
                stored.remembered = Some(value);
            }
        }
        stored
    }
}
