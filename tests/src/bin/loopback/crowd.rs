//! Many members of an office that all fetch from one node at the same time: each a real member with a connection of its
//! own, all in this process, since so many nodes would measure the machine.

use crate::office::Office;
use crate::usage::{self, Memory};
use anyhow::{Context as _, Result, bail, ensure};
use node::membership::{Files, Joined};
use node::net::{self, Config, Event, Handle, Multiaddr, Opened, Patience, PieceSource};
use patchmesh_tests::headquarters::SITE;
use patchmesh_tests::program;
use protocol::codec;
use protocol::digest::Blake3Root;
use protocol::identifier::{DeviceId, ManifestDigest};
use protocol::membership::Verifier;
use protocol::piece::{self, PieceIndex};
use protocol::reason::Reason;
use protocol::wire::{GrantRequest, Request, Response};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Pieces that each member has asked for and not got, as many as a node has.
const IN_FLIGHT: u32 = 4;
/// How long they fetch.
const LASTING: Duration = Duration::from_secs(20);
/// Between two looks at the node's memory.
const LOOK: Duration = Duration::from_millis(50);
/// For a connection.
const BOUND: Duration = Duration::from_secs(30);

/// What serving them took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// The most memory that the serving node had at any time.
    pub memory: Memory,
    /// MiB/s of all members together.
    pub speed: f64,
}

/// A member that holds nothing.
struct Nothing;

impl PieceSource for Nothing {
    fn open(&self, _: DeviceId, _: Blake3Root, _: PieceIndex) -> Result<Opened, Reason> {
        Err(Reason::NoPieces)
    }
}

/// `members` members fetch from the first device of the office.
pub fn serve(office: &Office, members: u32) -> Result<Served> {
    let joined = join(office, members)?;
    let first = &office.fleet.devices[0];
    let process = first.node.pid().context("the first device runs")?;
    let path = office.fleet.path().join(&first.host).join("state");
    let source = Files::new(&path).load()?.member.device;
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", office.port).parse()?;
    let (root, manifest) = office.root.context("it is published")?;
    let content = Content { root, manifest, size: office.upgrade.size };
    net::install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut received = Vec::new();
        let mut fetching = JoinSet::new();
        for (number, joined) in (0..).zip(joined) {
            let net = connect(joined, source, &address).await?;
            let own = Arc::new(AtomicU64::new(0));
            received.push(Arc::clone(&own));
            fetching.spawn(fetch(net, (source, address.clone()), content, number, own));
        }
        let bytes = || received.iter().map(|own| own.load(Ordering::Relaxed));
        let (began, already) = (Instant::now(), bytes().sum::<u64>());
        let mut served = Served::default();
        while began.elapsed() < LASTING {
            let memory = usage::memory(process)?;
            served.memory.anonymous = served.memory.anonymous.max(memory.anonymous);
            served.memory.resident = served.memory.resident.max(memory.resident);
            if let Some(ended) = fetching.try_join_next() {
                ended??;
            }
            tokio::time::sleep(LOOK).await;
        }
        ensure!(bytes().all(|own| own > 0), "a member got nothing");
        served.speed =
            (bytes().sum::<u64>() - already) as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64();
        Ok(served)
    })
}

/// Enrols them as the command does, with the system of the first device.
fn join(office: &Office, members: u32) -> Result<Vec<Joined>> {
    let key = office.fleet.headquarters.activation_key(SITE, members as usize)?;
    let root = office.fleet.path().join(&office.fleet.devices[0].host).join("root");
    let mut joined = Vec::new();
    for number in 0..members {
        let place = office.fleet.path().join(format!("member-{number}"));
        fs::create_dir(&place)?;
        let configuration = place.join("patchmesh.toml");
        let text = format!(
            "[node]\ndirectory = \"state\"\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\nroot = \"{}\"\n",
            root.display()
        );
        fs::write(&configuration, text)?;
        let host = format!("member-{number}");
        let arguments = ["join", &key, "--host", &host, "--config"].map(AsRef::as_ref);
        let _: serde_json::Value =
            program::ask("membership", arguments.into_iter().chain([configuration.as_os_str()]))?;
        joined.push(Files::new(&place.join("state")).load()?);
    }
    Ok(joined)
}

async fn connect(joined: Joined, source: DeviceId, address: &Multiaddr) -> Result<Handle> {
    let verifier = Verifier::new(joined.member.fleet, &joined.services, &Default::default());
    let config = Config {
        identity: joined.identity,
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse()?],
        external: Vec::new(),
        enrol_listen: None,
        verifier,
        certificate: joined.certificate,
        clock: net::system_clock(),
        mdns: false,
        gossip: false,
        source: Arc::new(Nothing),
        patience: Patience::default(),
    };
    let (net, mut events) = Box::pin(net::start(config)).await?;
    net.dial(source, vec![address.clone()]).await?;
    let connected = async {
        while let Some(event) = events.recv().await {
            match event {
                Event::Connected { peer, .. } if peer == source => return Ok(()),
                Event::DialFailed { cause, .. } => bail!("no connection to the node: {cause}"),
                _ => {}
            }
        }
        bail!("the network of a member ended")
    };
    tokio::time::timeout(BOUND, connected).await.context("no connection in time")??;
    // Requests stay without an answer, as from a member that is busy.
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    Ok(net)
}

#[derive(Clone, Copy)]
struct Content {
    root: Blake3Root,
    manifest: ManifestDigest,
    size: u64,
}

/// Fetches for ever; each member begins elsewhere. A node has no place for so many neighbours and sends some away now and
/// then: they come back at once.
async fn fetch(
    net: Handle,
    (source, address): (DeviceId, Multiaddr),
    content: Content,
    number: u32,
    received: Arc<AtomicU64>,
) -> Result<()> {
    loop {
        if granted(&net, source, content).await.is_ok() {
            // It ends only with the connection.
            let _ = pieces(&net, source, content, number, &received).await;
        }
        net.dial(source, vec![address.clone()]).await?;
        tokio::time::sleep(LOOK).await;
    }
}

async fn granted(net: &Handle, source: DeviceId, content: Content) -> Result<()> {
    let request =
        Request::Grant(GrantRequest { root: content.root, manifest: content.manifest, need_tree: false });
    let answer = net.request(source, request.channel(), codec::encode(&request)).await?;
    match Response::decode(request.channel(), &answer)? {
        Response::Grant(_) => Ok(()),
        other => bail!("no grant: {other:?}"),
    }
}

/// Until one does not come.
async fn pieces(
    net: &Handle,
    source: DeviceId,
    content: Content,
    number: u32,
    received: &Arc<AtomicU64>,
) -> Result<()> {
    let pieces = piece::count(content.size);
    let mut streams = JoinSet::new();
    for lane in 0..IN_FLIGHT {
        let (net, received) = (net.clone(), Arc::clone(received));
        streams.spawn(async move {
            let mut next = number * 37 + lane;
            loop {
                let index = PieceIndex(next % pieces);
                let (_, length) = piece::extent(content.size, index).context("a piece of it")?;
                let bytes = net.fetch_piece(source, content.root, index, u32::try_from(length)?).await?;
                received.fetch_add(bytes.0.len() as u64, Ordering::Relaxed);
                next += IN_FLIGHT;
            }
        });
    }
    match streams.join_next().await {
        Some(ended) => ended?,
        None => Ok(()),
    }
}
