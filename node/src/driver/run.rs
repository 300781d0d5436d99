//! The driver's loop: one fact in, everything that follows out, then wait for the next.

use super::effects::{self, Means};
use super::events::Happened;
use super::grants::{Grants, Served};
use super::pieces;
use super::registrar::Registrar;
use super::seed::Seed;
use super::start::now;
use super::storing::Storing;
use crate::conditions::Sources;
use crate::configuration::Configuration;
use crate::control;
use crate::listening::Seldom;
use crate::net::{self, Multiaddr};
use crate::origin;
use protocol::bitmap::PieceSet;
use protocol::conditions::Conditions;
use protocol::core::{Core, Input, Output, RequestToken};
use protocol::digest::Blake3Root;
use protocol::effect::EffectId;
use protocol::identifier::DeviceId;
use protocol::membership::Rejection;
use protocol::reason::Reason;
use protocol::time::Moment;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often the wall clock and the byte counters are read.
const TICK: Duration = Duration::from_secs(1);
/// How often a seed looks after its repository.
const REPOSITORY: Duration = Duration::from_secs(60);
/// How often connections are held against the rules: certificates expire while they are in use.
const REVIEW: Duration = Duration::from_secs(60);
/// How often a node looks at what it stands on: power, link, time zone.
const CONDITIONS: Duration = Duration::from_secs(15);
/// How long tasks have to reach a safe point when the node stops; an installer is waited for longer, by its own rule.
const GRACE: Duration = Duration::from_secs(10);

/// Something that a task finished.
pub(super) enum Done {
    /// An effect of the core.
    Effect(Input),
    /// One batch of the store, with the completion of every effect in it.
    Stored(Vec<Input>),
    /// The origins have the right bytes of a content again, or nobody wants it any more.
    OriginRight(Blake3Root),
    /// Content that was added from outside.
    Held(Vec<Input>),
    /// An installer passed all its checks and waits for the word to start.
    InstallerReady(EffectId, oneshot::Sender<Result<(), Reason>>),
    /// Pieces that were written are durable now.
    Synced,
    /// What the device stands on, if it could be looked at.
    Conditions(Option<Conditions>),
    /// The repository was looked after: what is new in it, if anything, and what is wrong with it.
    Repository { new: Option<Input>, failure: Option<String> },
}

/// Everything that the one driver task owns.
pub(super) struct Driver {
    pub(super) configuration: Configuration,
    pub(super) core: Core,
    pub(super) means: Means,
    pub(super) grants: Arc<Grants>,
    pub(super) storing: Storing,
    pub(super) happened: Happened,
    pub(super) seed: Option<Arc<Seed>>,
    pub(super) registrar: Option<Arc<Mutex<Registrar>>>,
    pub(super) inputs: mpsc::Sender<Done>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) started: Instant,
    pub(super) started_at: protocol::time::WallTime,
    pub(super) next_token: u64,
    pub(super) requests: BTreeMap<RequestToken, oneshot::Sender<Vec<u8>>>,
    /// Installers that wait for the word to start.
    pub(super) starts: BTreeMap<EffectId, oneshot::Sender<Result<(), Reason>>>,
    /// Who waits for the end of a scan.
    pub(super) scans: Vec<oneshot::Sender<control::Response>>,
    /// Whether pieces are being made durable.
    pub(super) syncing: bool,
    /// What the device stood on when it started.
    pub(super) conditions: Conditions,
    /// Whether somebody looks at it again.
    pub(super) looking: bool,
    /// Whether the repository is being read.
    pub(super) loading: bool,
    /// Whether somebody wants it to be read once more after that.
    pub(super) load_again: bool,
    /// Who waits for the repository to be taken over.
    pub(super) loads: Vec<oneshot::Sender<control::Response>>,
    /// How each peer was found, for people.
    pub(super) discovered: BTreeMap<DeviceId, &'static str>,
    /// The address of each connection.
    pub(super) addresses: BTreeMap<DeviceId, Multiaddr>,
    /// Lines in the log about who was refused, and by whom: strangers cause them.
    pub(super) rejections: Seldom<(Rejection, bool)>,
}

impl Driver {
    /// Runs until the stop is asked for.
    pub(super) async fn run(
        mut self,
        outputs: Vec<Output>,
        mut events: mpsc::Receiver<net::Event>,
        mut completions: mpsc::Receiver<Done>,
        mut asked: mpsc::Receiver<control::Query>,
        origin_news: mpsc::Receiver<origin::News>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut repository = tokio::time::interval(REPOSITORY);
        let mut review = tokio::time::interval(REVIEW);
        let mut conditions = tokio::time::interval(CONDITIONS);
        for output in outputs {
            self.perform(output);
        }
        // Before the core hears what is here: what lies at an origin too is mended from there.
        self.follow_origins(origin_news);
        self.begin();
        self.tell_enrolled();
        let grants = Arc::clone(&self.grants);
        let stop = self.stop.clone();
        while !stop.is_cancelled() {
            let wake = self.until_wake();
            tokio::select! {
                () = stop.cancelled() => break,
                event = events.recv() => match event {
                    Some(event) => self.on_net(event),
                    None => break,
                },
                Some(done) = completions.recv() => self.on_done(done),
                Some((request, answer)) = asked.recv() => self.on_query(request, answer),
                () = grants.changed() => self.on_served(),
                () = tokio::time::sleep(wake) => self.handle(Input::Wake),
                _ = tick.tick() => self.on_tick(),
                _ = review.tick() => self.review_connections(),
                _ = conditions.tick() => self.look_at_conditions(),
                _ = repository.tick(), if self.seed.is_some() => self.look_after_repository(),
            }
        }
        self.end(completions).await;
    }

    /// Tells the core where the node listens and what its disk holds.
    fn begin(&mut self) {
        // Before anything is fetched on battery.
        self.handle(Input::Conditions(self.conditions));
        self.say_where_it_listens();
        for held in self.means.content.held() {
            if let Some(tree) = self.means.content.tree(held.root) {
                self.handle(Input::Held { tree, pieces: held.durable });
            }
        }
        self.handle(Input::Wake);
    }

    /// A seed looks at its origins for what is approved, and the core hears what is found.
    fn follow_origins(&self, mut news: mpsc::Receiver<origin::News>) {
        let Some(origins) = self.means.origins.clone() else { return };
        origins.want(&self.core.approved_manifests());
        self.tasks.spawn(origins.run());
        let (inputs, stop, content) = (self.inputs.clone(), self.stop.clone(), self.means.content.clone());
        self.tasks.spawn(async move {
            while let Some(Some(one)) = stop.run_until_cancelled(news.recv()).await {
                let done = match one {
                    origin::News::Found(tree) => {
                        let pieces = PieceSet::full(tree.pieces());
                        Done::Held(vec![Input::Held { tree, pieces }])
                    }
                    origin::News::Gone(tree) => {
                        let pieces = content.durable(tree.root()).unwrap_or_default();
                        Done::Held(vec![Input::Held { tree, pieces }])
                    }
                    origin::News::Wrong { root, detail } => {
                        Done::Held(vec![Input::OriginWrong { root, detail }])
                    }
                    origin::News::Unreadable { root, reason } => {
                        Done::Held(vec![Input::Unreadable { root, reason }])
                    }
                    origin::News::Right(root) => Done::OriginRight(root),
                };
                // Nobody takes it only when the driver has stopped.
                let _ = inputs.send(done).await;
            }
        });
    }

    /// Stops at a safe point: nothing new begins, what is under way ends, the store is flushed by its own fsyncs.
    async fn end(mut self, mut completions: mpsc::Receiver<Done>) {
        tracing::info!("stopping");
        self.handle(Input::Stopping);
        self.stop.cancel();
        let deadline = Instant::now() + GRACE;
        while !self.storing.is_idle() && Instant::now() < deadline {
            match tokio::time::timeout(GRACE, completions.recv()).await {
                Ok(Some(done)) => self.on_done(done),
                _ => break,
            }
        }
        self.means.net.shutdown().await;
        pieces::sync_contents(Arc::clone(&self.means.content)).await;
        self.means.aggregator = None;
        // An installer that did not start yet does so after the next start.
        self.starts.clear();
        drop(completions);
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "tasks did not end in time");
        }
        tracing::info!("stopped");
    }

    fn moment(&self) -> Moment {
        Moment::from_micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn until_wake(&self) -> Duration {
        let now = self.moment();
        self.core.next_wake(now).map_or(TICK, |wake| wake.since(now)).min(TICK)
    }

    /// Hands one fact to the core and does everything that follows.
    pub(super) fn handle(&mut self, input: Input) {
        let moment = self.moment();
        self.core.handle(moment, input);
        while let Some(output) = self.core.poll() {
            self.perform(output);
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Effect(input) => {
                if matches!(input, Input::Scanned { result: Ok(_), .. }) {
                    self.happened.scan_succeeded();
                }
                self.handle(input);
            }
            Done::InstallerReady(effect, go) => {
                self.starts.insert(effect, go);
                self.handle(Input::InstallerReady { effect });
            }
            Done::Stored(inputs) => {
                self.happened.stored(&inputs);
                for input in inputs {
                    self.handle(input);
                }
                self.storing.done(&self.tasks);
            }
            Done::OriginRight(root) => self.happened.origin_right(root),
            Done::Held(inputs) => {
                for input in inputs {
                    self.handle(input);
                }
            }
            Done::Synced => self.syncing = false,
            Done::Conditions(conditions) => {
                self.looking = false;
                if let Some(conditions) = conditions {
                    self.handle(Input::Conditions(conditions));
                }
            }
            Done::Repository { new, failure } => {
                self.loading = false;
                self.happened.repository(failure.as_deref());
                if let Some(input) = new {
                    // What was wrong with it before may be mended: what still is, is said again.
                    self.happened.metadata_comes();
                    self.handle(input);
                }
                if std::mem::take(&mut self.load_again) {
                    self.look_after_repository();
                }
            }
        }
        // A scan that began before the question says nothing of what was done in between: then another one follows.
        if !self.core.is_scanning() {
            self.answer_scans();
        }
        if !self.loading && !self.core.is_storing_metadata() {
            self.answer_loads();
        }
    }

    fn on_tick(&mut self) {
        let (mut received, mut sent) = (0u64, 0u64);
        for (device, traffic) in self.means.net.traffic() {
            if self.core.is_across_the_wan(device) {
                received = received.saturating_add(traffic.received);
                sent = sent.saturating_add(traffic.sent);
            }
        }
        self.core.set_wan_bytes(received, sent);
        self.handle(Input::WallClock(now()));
        self.sync_contents();
    }

    /// Once a second, unless the disk is still at the last one.
    fn sync_contents(&mut self) {
        if std::mem::replace(&mut self.syncing, true) {
            return;
        }
        let (content, inputs) = (Arc::clone(&self.means.content), self.inputs.clone());
        self.tasks.spawn(async move {
            pieces::sync_contents(content).await;
            // Nobody takes it only when the driver has stopped.
            let _ = inputs.send(Done::Synced).await;
        });
    }

    /// Looks at power, link and time zone, on the blocking pool: some batteries answer slowly.
    fn look_at_conditions(&mut self) {
        if std::mem::replace(&mut self.looking, true) {
            return;
        }
        let (sources, inputs) = (Sources::of(&self.configuration), self.inputs.clone());
        self.tasks.spawn(async move {
            let looked = tokio::task::spawn_blocking(move || sources.look());
            // Nobody takes it only when the driver has stopped.
            let _ = inputs.send(Done::Conditions(looked.await.ok())).await;
        });
    }

    fn on_served(&mut self) {
        let (served, serving) = self.grants.take();
        for (peer, bytes) in serving {
            self.handle(Input::Serving { peer, bytes });
        }
        for one in served {
            let Served { peer, root, piece, bytes, whole } = one;
            self.handle(Input::Served { peer, root, piece, bytes, whole });
        }
    }

    /// A seed signs its timestamp again when it is due, and takes over what was published.
    pub(super) fn look_after_repository(&mut self) {
        let Some(seed) = self.seed.clone() else { return };
        if self.loading {
            // Two at the same time could end in the wrong order.
            self.load_again = true;
            return;
        }
        self.loading = true;
        let (inputs, known) = (self.inputs.clone(), self.core.trusted().clone());
        self.tasks.spawn(async move {
            let read = tokio::task::spawn_blocking(move || {
                let signed = seed.refresh(now());
                // What cannot be signed again can be served as long as it is fresh.
                let read = seed.read(|targets| known.request(targets));
                let failure =
                    signed.err().as_ref().or(read.as_ref().err()).map(|error| effects::chain(error));
                (read.ok().flatten(), failure)
            });
            let (new, failure) = read.await.unwrap_or_else(|error| (None, Some(error.to_string())));
            let new = new.map(|(bundle, targets)| Input::Repository { bundle, targets });
            // Nobody takes it only when the driver has stopped. Nothing new may say that nothing was published yet.
            let _ = inputs.send(Done::Repository { new, failure }).await;
        });
    }
}
