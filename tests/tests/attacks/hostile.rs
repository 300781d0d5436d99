//! A member that lies: it has a certificate of the fleet and speaks every protocol, and says what the test wants.

use super::fleet::{Fleet, Node};
use super::until;
use node::net::{self, Config, Event, Handle, Opened, Patience, PieceReader, PieceSource, RequestFailure};
use protocol::codec;
use protocol::digest::Blake3Root;
use protocol::identifier::DeviceId;
use protocol::membership::Verifier;
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use protocol::signature::SigningKey;
use protocol::system::System;
use protocol::wire::{Channel, Request, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::{Arc, Mutex};

type Answer = Box<dyn FnMut(&Request) -> Option<Vec<u8>> + Send>;

#[derive(Default)]
struct Seen {
    connected: BTreeSet<DeviceId>,
    rejected: Vec<Reason>,
    requests: Vec<(DeviceId, Request)>,
}

/// What it serves: contents that it has, and otherwise the bytes of one file, whatever is asked for.
#[derive(Default)]
pub struct Wares {
    contents: Mutex<BTreeMap<Blake3Root, Arc<File>>>,
    file: Mutex<Option<Arc<File>>>,
    asked: Mutex<usize>,
}

impl PieceSource for Wares {
    fn open(&self, _: DeviceId, root: Blake3Root, index: PieceIndex) -> Result<Opened, Reason> {
        *self.asked.lock().expect("lock") += 1;
        let genuine = self.contents.lock().expect("lock").get(&root).cloned();
        let file = genuine.or_else(|| self.file.lock().expect("lock").clone()).ok_or(Reason::NoGrant)?;
        let size = file.metadata().map_err(|_| Reason::NoPieces)?.len();
        let (offset, length) = protocol::piece::extent(size, index).ok_or(Reason::NoPieces)?;
        Ok(Opened::Here(PieceReader::File { file, offset, length: u32::try_from(length).expect("a piece") }))
    }
}

fn file(bytes: &[u8]) -> Arc<File> {
    use std::io::Write as _;
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(bytes).expect("bytes");
    Arc::new(file)
}

/// The hostile member.
pub struct Hostile {
    pub net: Handle,
    pub device: DeviceId,
    pub key: SigningKey,
    seen: Arc<Mutex<Seen>>,
    answer: Arc<Mutex<Answer>>,
    wares: Arc<Wares>,
}

impl Hostile {
    pub async fn join(fleet: &Fleet, number: u8, site: &str, system: &System) -> Hostile {
        let key = SigningKey::from_seed(&[number; 32]);
        let member = fleet.member(key.device(), "mallory", site, system);
        let verifier = Verifier::new(fleet.directory.fleet(), &fleet.services, &Default::default());
        let wares = Arc::new(Wares::default());
        let (net, mut events) = Box::pin(net::start(Config {
            identity: key.clone(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("address")],
            external: Vec::new(),
            enrol_listen: None,
            verifier,
            certificate: fleet.certificate(&member),
            clock: net::system_clock(),
            mdns: false,
            gossip: true,
            source: Arc::clone(&wares) as Arc<dyn PieceSource>,
            patience: Patience::default(),
        }))
        .await
        .expect("starts");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let silent: Answer = Box::new(|_| None);
        let answer = Arc::new(Mutex::new(silent));
        let (shared, script) = (Arc::clone(&seen), Arc::clone(&answer));
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let mut seen = shared.lock().expect("lock");
                match event {
                    Event::Connected { peer, .. } => drop(seen.connected.insert(peer)),
                    Event::Disconnected { peer } => drop(seen.connected.remove(&peer)),
                    Event::Rejected { rejection, by_them: true, .. } => seen.rejected.push(rejection.into()),
                    Event::Request { from, channel, bytes, respond } => {
                        let Ok(request) = Request::decode(channel, &bytes) else { continue };
                        seen.requests.push((from, request.clone()));
                        drop(seen);
                        if let Some(bytes) = (script.lock().expect("lock"))(&request) {
                            let _ = respond.send(bytes);
                        }
                    }
                    _ => {}
                }
            }
        });
        Hostile { net, device: key.device(), key, seen, answer, wares }
    }

    /// What it answers from now on; `None` leaves the asker without an answer.
    pub fn answers(&self, mut answer: impl FnMut(&Request) -> Option<Response> + Send + 'static) {
        self.answers_raw(move |request| answer(request).map(|response| codec::encode(&response)));
    }

    pub fn answers_raw(&self, answer: impl FnMut(&Request) -> Option<Vec<u8>> + Send + 'static) {
        *self.answer.lock().expect("lock") = Box::new(answer);
    }

    /// Serves these bytes for every content.
    pub fn serves(&self, bytes: &[u8]) {
        *self.wares.file.lock().expect("lock") = Some(file(bytes));
    }

    /// Serves a content as what it is.
    pub fn has(&self, bytes: &[u8]) -> Blake3Root {
        let root = Blake3Root::of(bytes);
        self.wares.contents.lock().expect("lock").insert(root, file(bytes));
        root
    }

    /// How many pieces were asked of it.
    pub fn pieces_asked(&self) -> usize {
        *self.wares.asked.lock().expect("lock")
    }

    pub fn is_connected(&self, node: &Node) -> bool {
        self.seen.lock().expect("lock").connected.contains(&node.device)
    }

    pub async fn dial(&self, node: &Node) {
        self.net.dial(node.device, node.listening.clone()).await.expect("runs");
    }

    pub async fn connect(&self, node: &Node) {
        self.dial(node).await;
        until("the hostile member is connected", async || self.is_connected(node)).await;
        // Both ends know each other before anything else is said.
        until("the node knows it", async || {
            node.ask(|client| client.peers()).await.iter().any(|peer| peer.device == self.device)
        })
        .await;
    }

    /// Waits until the node refuses it at the door, and says why.
    pub async fn rejected(&self) -> Reason {
        until("the node refuses", async || !self.seen.lock().expect("lock").rejected.is_empty()).await;
        self.seen.lock().expect("lock").rejected[0]
    }

    /// Forgets who refused it.
    pub fn forget(&self) {
        self.seen.lock().expect("lock").rejected.clear();
    }

    /// Requests of `node` for which `pick` says yes.
    pub fn asked_by(&self, node: &Node, pick: impl Fn(&Request) -> bool) -> usize {
        let seen = self.seen.lock().expect("lock");
        seen.requests.iter().filter(|(from, request)| *from == node.device && pick(request)).count()
    }

    pub async fn raw(
        &self,
        node: &Node,
        channel: Channel,
        bytes: Vec<u8>,
    ) -> Result<Vec<u8>, RequestFailure> {
        self.net.request(node.device, channel, bytes).await
    }

    pub async fn ask(&self, node: &Node, request: &Request) -> Response {
        let channel = request.channel();
        let answer = self.raw(node, channel, codec::encode(request)).await.expect("an answer");
        Response::decode(channel, &answer).expect("decodes")
    }

    /// The reason with which the node refuses a request.
    pub async fn refusal(&self, node: &Node, request: &Request) -> Reason {
        match self.ask(node, request).await {
            Response::Refused { reason, .. } => reason,
            Response::Lease(answer) => {
                assert!(
                    answer.lines.iter().all(|line| line.leased.is_empty() && line.tree.is_none()),
                    "{answer:?}"
                );
                answer.lines.first().and_then(|line| line.refused).expect("refused")
            }
            other => panic!("not refused: {other:?}"),
        }
    }
}
