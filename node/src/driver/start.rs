//! Starting a node: everything is opened and checked before anything is bound, and bound before anything runs.

use super::aggregator::{Aggregator, AggregatorError};
use super::effects::Means;
use super::events::Happened;
use super::grants::Grants;
use super::registrar::Registrar;
use super::run::Driver;
use super::seed::{Seed, SeedError};
use super::storing::{self, Storing};
use super::turnstile::Turnstile;
use crate::aggregate::{self, SharedState};
use crate::conditions::Sources;
use crate::configuration::Configuration;
use crate::content::{self, ContentStore};
use crate::control;
use crate::deploy::{self, Helper, Target};
use crate::key_file::{self, KeyFileError};
use crate::membership::{self, Joined, MembershipError};
use crate::net::{self, Multiaddr};
use crate::origin::{self, Origins, Reader};
use crate::store::{self, SledStore, Store};
use protocol::conditions::Conditions;
use protocol::core::{Core, Output, RestoreError, Roles, Setup};
use protocol::limits;
use protocol::membership::Verifier;
use protocol::policy::Effective;
use protocol::signature::SigningKey;
use protocol::time::WallTime;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An installation that takes longer is killed.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(3_600);

/// What a node is started with.
#[derive(Debug)]
pub struct Options {
    /// Its configuration.
    pub configuration: Configuration,
    /// How to start the helper that makes sandboxes for installers.
    pub helper: Helper,
    /// Version of the product.
    pub agent: String,
}

/// Why a node did not start; nothing of it runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It has not joined, or its identity is damaged.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The key of a registrar or an aggregator cannot be read.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// Its database does not open.
    #[error(transparent)]
    Open(#[from] store::OpenError),
    /// Its database cannot be read.
    #[error("the node's store cannot be read")]
    Store(#[from] store::Error),
    /// Its content does not open.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// Its records are damaged.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// It cannot install where it is told to.
    #[error(transparent)]
    Target(#[from] deploy::NotATarget),
    /// The installer's own directory cannot be made.
    #[error("cannot make {path}; check space and permissions")]
    Work {
        /// The directory.
        path: std::path::PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Where a seed's content lies.
    #[error(transparent)]
    Origin(#[from] origin::OpenError),
    /// The role of a seed.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The role of an aggregator.
    #[error(transparent)]
    Aggregator(#[from] AggregatorError),
    /// A port or an address.
    #[error(transparent)]
    Net(#[from] net::StartError),
    /// The web server's port.
    #[error(transparent)]
    Http(#[from] aggregate::BindError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] control::ServeError),
    /// The operating system gave no randomness.
    #[error("the operating system gave no random numbers: {0}")]
    NoRandomness(String),
    /// A part of the start was interrupted.
    #[error("the start was interrupted: {0}")]
    Interrupted(String),
}

/// A node that runs.
#[derive(Debug)]
pub struct Running {
    /// Where members connect.
    pub listening: Vec<Multiaddr>,
    /// Where devices enrol, on a registrar.
    pub enrolment: Option<Multiaddr>,
    /// Where the dashboard is, on an aggregator.
    pub http: Option<SocketAddr>,
    driver: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Waits until the node has stopped.
    pub async fn stopped(self) {
        if let Err(error) = self.driver.await {
            tracing::error!(%error, "the driver ended in disorder");
        }
    }
}

/// What is opened on the blocking pool before anything is bound.
struct Opened {
    joined: Joined,
    store: Arc<dyn Store>,
    content: Arc<ContentStore>,
    origins: Option<Arc<Origins>>,
    core: Core,
    target: Option<Arc<Target>>,
    seed: Option<Seed>,
    registrar_key: Option<SigningKey>,
    aggregator: Option<(SharedState, SigningKey)>,
    conditions: Conditions,
}

/// Starts a node. It runs until `stop` is cancelled, and then stops at a safe point.
///
/// # Errors
/// [`StartError`] with the cause and what to do; nothing is left running or half made.
pub async fn start(options: Options, stop: CancellationToken) -> Result<Running, StartError> {
    let Options { configuration, helper, agent } = options;
    let started = Instant::now();
    let opening = configuration.clone();
    let (news, origin_news) = mpsc::channel(limits::DRIVER_QUEUE);
    let stopping = stop.clone();
    let opened = tokio::task::spawn_blocking(move || open(&opening, &helper, agent, news, stopping));
    let opened = opened.await.map_err(|error| StartError::Interrupted(error.to_string()))??;
    let Opened {
        joined,
        store,
        content,
        origins,
        mut core,
        target,
        seed,
        registrar_key,
        aggregator,
        conditions,
    } = opened;

    let tasks = TaskTracker::new();
    let mut outputs: Vec<Output> = std::iter::from_fn(|| core.poll()).collect();
    let turnstile = Turnstile::new(tasks.clone(), stop.clone());
    let grants = Arc::new(Grants::new(seed.is_some(), Arc::clone(&content), origins.clone(), turnstile));
    let state = aggregator.as_ref().map(|(state, _)| state);
    let verifier = first_verifier(&mut outputs, &joined);
    let policy = core.policy().clone();
    let bound = bind(&configuration, &joined, state, verifier, &policy, &grants).await?;
    let Bound { control, http, net, events } = bound;
    let http_address = http.as_ref().map(aggregate::Server::address);
    let enrolment = net.enrol_address();
    let registrar = registrar_key.map(|key| Registrar {
        store: Arc::clone(&store),
        fleet: joined.member.fleet,
        device: joined.member.device,
        key,
        root: joined.root.clone(),
        addresses: enrolment_addresses(&configuration, enrolment.as_ref()),
    });
    let device = joined.member.device;
    let aggregator =
        aggregator.map(|(state, key)| Aggregator::start(Arc::clone(&store), state, device, key, &tasks));
    let (queries, asked) = mpsc::channel(limits::CONTROL_CONNECTIONS);
    tasks.spawn(control.run(queries, stop.clone()));
    if let Some(server) = http {
        tasks.spawn(serve(server, stop.clone()));
    }
    let (inputs, completions) = mpsc::channel(limits::DRIVER_QUEUE);
    let means = Means {
        net: net.clone(),
        content: Arc::clone(&content),
        origins,
        reader: Arc::new(Reader::new(Arc::clone(&content), net.download_cap())),
        root: configuration.node.root.clone(),
        target,
        aggregator,
        reports: Arc::default(),
    };
    let listening = net.listen_addresses();
    let driver = Driver {
        storing: Storing::new(store, inputs.clone()),
        happened: Happened::default(),
        grants,
        means,
        inputs,
        seed: seed.map(Arc::new),
        registrar: registrar.map(|registrar| Arc::new(std::sync::Mutex::new(registrar))),
        configuration,
        started,
        started_at: now(),
        core,
        tasks,
        stop,
        next_token: 0,
        requests: std::collections::BTreeMap::new(),
        starts: std::collections::BTreeMap::new(),
        scans: Vec::new(),
        syncing: false,
        loading: false,
        looking: false,
        conditions,
        load_again: false,
        loads: Vec::new(),
        discovered: std::collections::BTreeMap::new(),
        addresses: std::collections::BTreeMap::new(),
        rejections: crate::listening::Seldom::default(),
    };
    let driver = tokio::spawn(driver.run(outputs, events, completions, asked, origin_news));
    Ok(Running { listening, enrolment, http: http_address, driver })
}

/// What is bound before anything runs.
struct Bound {
    control: control::Server,
    http: Option<aggregate::Server>,
    net: net::Handle,
    events: mpsc::Receiver<net::Event>,
}

/// Binds control socket, web server and network, of which discovery and gossip only where policy wants peers (N7).
async fn bind(
    configuration: &Configuration,
    joined: &Joined,
    state: Option<&SharedState>,
    verifier: Verifier,
    policy: &Effective,
    grants: &Arc<Grants>,
) -> Result<Bound, StartError> {
    let control = control::Server::bind(&configuration.node.control_socket)?;
    let http = match (&configuration.aggregator, state) {
        (Some(entry), Some(state)) => {
            Some(aggregate::Server::bind(entry.http, &entry.names, Arc::new(state.clone())).await?)
        }
        _ => None,
    };
    let registrar = configuration.registrar.as_ref();
    let peers = policy.peer_download;
    let (net, events) = Box::pin(net::start(net::Config {
        identity: joined.identity.clone(),
        listen: configuration.node.listen.clone(),
        external: configuration.node.external.clone(),
        enrol_listen: registrar.and_then(|registrar| registrar.listen.first().cloned()),
        verifier,
        certificate: joined.certificate.clone(),
        clock: net::system_clock(),
        mdns: configuration.node.mdns && peers,
        gossip: peers || configuration.seed.is_some(),
        source: Arc::clone(grants) as Arc<dyn net::PieceSource>,
        patience: net::Patience::default(),
    }))
    .await?;
    Ok(Bound { control, http, net, events })
}

async fn serve(server: aggregate::Server, stop: CancellationToken) {
    if let Err(error) = server.run(stop.cancelled_owned()).await {
        tracing::error!(%error, "the web server ended");
    }
}

fn open(
    configuration: &Configuration,
    helper: &Helper,
    agent: String,
    news: mpsc::Sender<origin::News>,
    stop: CancellationToken,
) -> Result<Opened, StartError> {
    let directory = &configuration.node.directory;
    let joined = membership::Files::new(directory).load()?;
    let store: Arc<dyn Store> = Arc::new(SledStore::open(directory.join("store"))?);
    let content = ContentStore::open(directory.join("content"), limits::CACHE_BYTES, Arc::clone(&store))?;
    let content = Arc::new(content);
    let origins = Origins::open(configuration, &content, &store, news, stop)?;
    let target = open_target(configuration, helper)?;
    let seed =
        configuration.seed.as_ref().map(|seed| Seed::open(&seed.repository, &seed.keys)).transpose()?;
    let registrar_key =
        configuration.registrar.as_ref().map(|registrar| key_file::read(&registrar.key)).transpose()?;
    let aggregator = match &configuration.aggregator {
        Some(aggregator) => {
            let key = key_file::read(&aggregator.watermark_key)?;
            Some((Aggregator::open(&*store, random()?)?, key))
        }
        None => None,
    };
    let setup = Setup {
        key: joined.identity.clone(),
        member: joined.member.clone(),
        fleet: joined.member.fleet,
        root: joined.root.clone(),
        services: joined.services.clone(),
        roles: Roles { seed: seed.is_some(), aggregator: aggregator.is_some() },
        agent,
        seed: random()?,
        wall: now(),
        installs: target.is_some(),
        keep_bytes: configuration.node.keep_bytes,
    };
    let core = Core::restore(setup, stored_records(&*store)?)?;
    let conditions = Sources::of(configuration).look();
    Ok(Opened { joined, store, content, origins, core, target, seed, registrar_key, aggregator, conditions })
}

/// The machine itself only where the configuration says so; any other root directory in a sandbox.
fn open_target(configuration: &Configuration, helper: &Helper) -> Result<Option<Arc<Target>>, StartError> {
    let node = &configuration.node;
    let work = node.directory.join("installer");
    crate::disk::make_private_directory(&work)
        .map_err(|source| StartError::Work { path: work.clone(), source })?;
    let target = match node.root == Path::new("/") {
        true if node.allow_deploy_on_host => Target::machine(&work, INSTALL_TIMEOUT)?,
        true => return Ok(None),
        false => Target::directory(&node.root, &work, deploy::probe(helper), INSTALL_TIMEOUT)?,
    };
    Ok(Some(Arc::new(target)))
}

fn stored_records(store: &dyn Store) -> Result<Vec<store::Record>, store::Error> {
    let mut records = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.page(storing::PREFIX, after.as_deref(), limits::DRIVER_QUEUE)?;
        let Some((last, _)) = page.last() else { return Ok(records) };
        after = Some(last.clone());
        records.extend(page.into_iter().map(|(key, value)| (key[storing::PREFIX.len()..].to_vec(), value)));
    }
}

fn first_verifier(outputs: &mut Vec<Output>, joined: &Joined) -> Verifier {
    let at = outputs.iter().position(|output| matches!(output, Output::TrustChanged(_)));
    match at.map(|at| outputs.remove(at)) {
        Some(Output::TrustChanged(verifier)) => verifier,
        _ => Verifier::new(joined.member.fleet, &joined.services, &protocol::fleet::Revoked::default()),
    }
}

fn enrolment_addresses(configuration: &Configuration, bound: Option<&Multiaddr>) -> Vec<String> {
    let external = configuration.registrar.as_ref().map(|registrar| registrar.external.as_slice());
    let external = external.unwrap_or_default();
    let named = if external.is_empty() { bound.into_iter().cloned().collect() } else { external.to_vec() };
    named.iter().map(Multiaddr::to_string).collect()
}

fn random() -> Result<u64, StartError> {
    getrandom::u64().map_err(|error| StartError::NoRandomness(error.to_string()))
}

/// The wall clock of the operating system.
pub(super) fn now() -> WallTime {
    net::system_clock()()
}
