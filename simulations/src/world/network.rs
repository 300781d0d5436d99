//! Connections, messages and pieces on their way; every message is encoded and decoded as on a real wire.

use super::faults::crosses;
use super::{Broken, Happening, World};
use crate::fleet::HEADQUARTERS;
use crate::link::TransferId;
use protocol::codec;
use protocol::core::{Input, RequestToken};
use protocol::digest::Blake3Root;
use protocol::effect::EffectId;
use protocol::fetch::PieceFailure;
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use protocol::wire::{Channel, Hint, Request, Response, Unanswered};
use std::time::Duration;

/// Bytes around each message: stream, encryption and packet headers.
const OVERHEAD: u64 = 120;
/// One way inside the branch.
const LAN_LATENCY: Duration = Duration::from_micros(150);
/// How often a seed hears that bytes are still on their way.
const SERVING: Duration = Duration::from_millis(200);
/// How long a control request waits for its answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Something that carries, by site or by device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    /// From headquarters to a site.
    WanDown(usize),
    /// From a site to headquarters.
    WanUp(usize),
    /// The wires of a site.
    Lan(usize),
    /// The Wi-Fi of a site.
    Air(usize),
    /// The thin link of a straggler.
    Own(usize),
}

impl Path {
    fn is_wan(self) -> bool {
        matches!(self, Path::WanDown(_) | Path::WanUp(_))
    }
}

/// What is on its way.
#[derive(Clone, Debug)]
pub(super) enum Freight {
    Request { effect: EffectId, channel: Channel, bytes: Vec<u8> },
    Response { effect: EffectId, channel: Channel, bytes: Vec<u8> },
    Hint(Vec<u8>),
    PieceRequest { effect: EffectId, root: Blake3Root, piece: PieceIndex },
    PieceBytes { effect: EffectId, root: Blake3Root, piece: PieceIndex, corrupt: bool },
    PieceRefused { effect: EffectId, reason: Reason },
}

/// Something on its way from one device to another.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub from: usize,
    pub to: usize,
    pub connection: u64,
    /// What carries it now.
    pub path: Path,
    /// What carries it afterwards, the last first.
    pub route: Vec<Path>,
    /// Whether it has crossed the WAN towards a site.
    pub crossed: bool,
    pub bytes: u64,
    /// What its bytes are for.
    pub label: &'static str,
    pub freight: Freight,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    connection: u64,
    /// The channel of a control message; none for a piece.
    channel: Option<Channel>,
}

/// A request that was handed to a core and has not been answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    asker: usize,
    connection: u64,
    effect: EffectId,
    channel: Channel,
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

fn label(channel: Channel) -> &'static str {
    match channel {
        Channel::Hello => "hello",
        Channel::Site => "site",
        Channel::Neighbours => "neighbours",
        Channel::Grant => "grant",
        Channel::Metadata => "metadata",
        Channel::Reports => "reports",
    }
}

impl World<'_> {
    /// What carries something from one device to another, in order.
    fn route(&self, from: usize, to: usize) -> Vec<Path> {
        let (here, there) = (self.scenario.site_of(from), self.scenario.site_of(to));
        let own = |at: usize| self.scenario.stragglers.contains_key(&at).then_some(Path::Own(at));
        let air =
            |site: Option<usize>| site.filter(|site| self.scenario.sites[*site].air.is_some()).map(Path::Air);
        let mut route: Vec<Path> = own(from).into_iter().collect();
        if here == there {
            match (air(here), here) {
                (Some(air), _) => route.extend([air, air]),
                (None, Some(site)) => route.push(Path::Lan(site)),
                (None, None) => {}
            }
        } else {
            route.extend(air(here));
            route.extend(here.map(Path::WanUp));
            route.extend(there.map(Path::WanDown));
            route.extend(air(there));
        }
        route.extend(own(to));
        route
    }

    fn latency(&mut self, from: usize, to: usize) -> Duration {
        let site = self.scenario.site_of(from).or(self.scenario.site_of(to)).unwrap_or(0);
        let site = self.scenario.sites[site];
        let jitter = u64::try_from(site.links.jitter.as_micros()).unwrap_or(0);
        let jitter = Duration::from_micros(self.random.between(0, jitter));
        if from != HEADQUARTERS && to != HEADQUARTERS {
            return LAN_LATENCY + jitter / 10;
        }
        site.links.round_trip / 2 + jitter
    }

    /// How much later something arrives because packets of it were lost and sent again; nothing at all for a hint,
    /// which nobody sends again.
    fn lateness(&mut self, parcel: &Parcel) -> Option<Duration> {
        let site = match parcel.path {
            Path::WanDown(site) | Path::WanUp(site) => self.scenario.sites[site],
            Path::Lan(_) | Path::Air(_) | Path::Own(_) => return Some(Duration::ZERO),
        };
        if site.loss_permille == 0 {
            return Some(Duration::ZERO);
        }
        let packets = parcel.bytes.div_ceil(1_400).clamp(1, 30);
        let lost = (0..packets).filter(|_| self.random.draw() % 1_000 < site.loss_permille).count();
        if lost == 0 {
            return Some(Duration::ZERO);
        }
        self.ledger.fire("loss");
        let again = site.links.round_trip + Duration::from_millis(if packets < 4 { 200 } else { 20 });
        (!matches!(parcel.freight, Freight::Hint(_))).then(|| again * lost as u32)
    }

    /// Whether a line lies between two devices that nothing passes.
    pub(super) fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cuts.iter().any(|cut| crosses(self.scenario, *cut, one, other))
    }

    pub(super) fn dial(&mut self, at: usize, device: DeviceId) {
        let Some(&peer) = self.numbers.get(&device) else { return };
        if self.known.contains_key(&(at, peer)) {
            return;
        }
        let way = self.latency(at, peer);
        // Handshakes take three ways; a machine without power does not even refuse.
        let answers = self.devices[peer].powered && !self.devices[peer].is_asleep(self.now);
        let delay = if answers && !self.is_cut(at, peer) { way * 3 } else { Duration::from_secs(3) };
        let life = self.devices[at].life;
        self.later(delay, Happening::Dialled(at, life, device));
    }

    pub(super) fn dialled(&mut self, at: usize, life: u32, device: DeviceId) -> Result<(), Broken> {
        let Some(&peer) = self.numbers.get(&device) else { return Ok(()) };
        if !self.is_alive(at, life) || self.known.contains_key(&(at, peer)) {
            return Ok(());
        }
        if self.devices[at].is_asleep(self.now) {
            return Ok(());
        }
        let shut = self.firewalled.contains(&peer);
        if shut {
            self.ledger.fire("one-way reachability");
        }
        let away = self.devices[peer].process.is_none() || self.devices[peer].is_asleep(self.now);
        if away || shut || self.is_cut(at, peer) {
            return self.feed(at, Input::DialFailed(device));
        }
        self.last_connection += 1;
        let connection = self.last_connection;
        self.connections.insert(pair(at, peer), connection);
        for (here, there) in [(at, peer), (peer, at)] {
            match self.known.insert((here, there), connection) {
                // The old connection fell silent and nobody noticed: what waited on it is lost, the peer never left.
                Some(old) => self.fail_asked(here, old)?,
                None => self.feed(here, Input::Connected(self.fleet.members[there].clone()))?,
            }
        }
        Ok(())
    }

    /// Both sides close a connection.
    pub(super) fn disconnect(&mut self, at: usize, device: DeviceId) {
        let Some(&peer) = self.numbers.get(&device) else { return };
        let Some(connection) = self.connections.remove(&pair(at, peer)) else { return };
        for (here, there) in [(at, peer), (peer, at)] {
            let life = self.devices[here].life;
            self.later(Duration::ZERO, Happening::Ended(here, life, there, connection));
        }
    }

    pub(super) fn ended(&mut self, at: usize, life: u32, peer: usize, connection: u64) -> Result<(), Broken> {
        if !self.is_alive(at, life) {
            return Ok(());
        }
        self.fail_asked(at, connection)?;
        if self.known.get(&(at, peer)) == Some(&connection) {
            self.known.remove(&(at, peer));
            self.feed(at, Input::Disconnected(self.fleet.keys[peer].device()))?;
        }
        Ok(())
    }

    /// Whatever waited for an answer on this connection gets none.
    fn fail_asked(&mut self, at: usize, connection: u64) -> Result<(), Broken> {
        let lost: Vec<(EffectId, Asked)> = self
            .asked
            .range((at, EffectId::FIRST)..)
            .take_while(|((asker, _), _)| *asker == at)
            .filter(|(_, asked)| asked.connection == connection)
            .map(|((_, effect), asked)| (*effect, *asked))
            .collect();
        for (effect, asked) in lost {
            self.asked.remove(&(at, effect));
            let input = match asked.channel {
                Some(_) => Input::Answered { effect, result: Err(Unanswered::Disconnected) },
                None => Input::Piece { effect, result: Err(PieceFailure::Lost) },
            };
            self.feed(at, input)?;
        }
        Ok(())
    }

    pub(super) fn timed_out(&mut self, at: usize, life: u32, effect: EffectId) -> Result<(), Broken> {
        if !self.is_alive(at, life) {
            return Ok(());
        }
        match self.asked.remove(&(at, effect)).map(|asked| asked.channel) {
            Some(Some(_)) => self.feed(at, Input::Answered { effect, result: Err(Unanswered::TimedOut) }),
            Some(None) => self.feed(at, Input::Piece { effect, result: Err(PieceFailure::Lost) }),
            None => Ok(()),
        }
    }

    pub(super) fn ask(
        &mut self,
        at: usize,
        effect: EffectId,
        to: DeviceId,
        request: &Request,
    ) -> Result<(), Broken> {
        if let Request::Lease(lease) = request {
            self.check_starving(at, lease)?;
        }
        let bytes = codec::encode(&self.as_told(at, request));
        if bytes.len() > limits::MESSAGE_BYTES {
            return Err(format!("device {at}: a request of {} bytes", bytes.len()));
        }
        let channel = request.channel();
        let freight = Freight::Request { effect, channel, bytes };
        let Some(connection) = self.known_connection(at, to) else {
            let input = Input::Answered { effect, result: Err(Unanswered::Disconnected) };
            self.input_later(Duration::ZERO, at, input);
            return Ok(());
        };
        let peer = self.numbers[&to];
        self.asked.insert((at, effect), Asked { connection, channel: Some(channel) });
        self.ledger.count_message(peer, &freight);
        let life = self.devices[at].life;
        self.later(ANSWER_TIME, Happening::TimedOut(at, life, effect));
        self.send(at, peer, connection, label(channel), freight);
        Ok(())
    }

    fn known_connection(&self, at: usize, to: DeviceId) -> Option<u64> {
        let peer = self.numbers.get(&to)?;
        self.known.get(&(at, *peer)).copied()
    }

    pub(super) fn respond(
        &mut self,
        at: usize,
        token: RequestToken,
        response: &Response,
    ) -> Result<(), Broken> {
        let Some(ticket) = self.tickets.remove(&(at, token)) else {
            return Err(format!("device {at} answers a request twice, or one that nobody made"));
        };
        let bytes = codec::encode(&self.as_answered(at, response));
        if bytes.len() > limits::BUNDLE_MESSAGE_BYTES {
            return Err(format!("device {at}: a response of {} bytes", bytes.len()));
        }
        let Ticket { asker, connection, effect, channel } = ticket;
        let freight = Freight::Response { effect, channel, bytes };
        self.ledger.count_message(asker, &freight);
        self.send(at, asker, connection, label(channel), freight);
        Ok(())
    }

    pub(super) fn publish(&mut self, at: usize, hint: &Hint) {
        let peers: Vec<(usize, u64)> = self
            .known
            .range((at, 0)..=(at, usize::MAX))
            .map(|((_, peer), connection)| (*peer, *connection))
            .collect();
        for (peer, connection) in peers {
            self.send(at, peer, connection, "hints", Freight::Hint(codec::encode(hint)));
        }
    }

    pub(super) fn ask_piece(
        &mut self,
        at: usize,
        effect: EffectId,
        from: DeviceId,
        root: Blake3Root,
        piece: PieceIndex,
    ) {
        let Some(connection) = self.known_connection(at, from) else {
            self.input_later(Duration::ZERO, at, Input::Piece { effect, result: Err(PieceFailure::Lost) });
            return;
        };
        let peer = self.numbers[&from];
        self.asked.insert((at, effect), Asked { connection, channel: None });
        if peer == HEADQUARTERS && self.hoarding.contains(&at) {
            self.ledger.fire("hoarded lease");
            let life = self.devices[at].life;
            self.later(ANSWER_TIME, Happening::TimedOut(at, life, effect));
            return;
        }
        self.send(at, peer, connection, "piece requests", Freight::PieceRequest { effect, root, piece });
    }

    pub(super) fn send(
        &mut self,
        from: usize,
        to: usize,
        connection: u64,
        label: &'static str,
        freight: Freight,
    ) -> TransferId {
        let payload = match &freight {
            Freight::Request { bytes, .. } | Freight::Response { bytes, .. } | Freight::Hint(bytes) => {
                bytes.len() as u64 + OVERHEAD
            }
            Freight::PieceRequest { .. } | Freight::PieceRefused { .. } => OVERHEAD,
            Freight::PieceBytes { root, piece, .. } => self.length(*root, *piece),
        };
        let mut route = self.route(from, to);
        route.reverse();
        let path = route.pop().unwrap_or(Path::Lan(0));
        self.last_transfer += 1;
        let id = TransferId(self.last_transfer);
        let parcel =
            Parcel { from, to, connection, path, route, crossed: false, bytes: payload, label, freight };
        self.carry(id, parcel);
        id
    }

    /// The next part of the way of something begins.
    fn carry(&mut self, id: TransferId, parcel: Parcel) {
        let (path, bytes, now) = (parcel.path, parcel.bytes, self.now);
        match path {
            Path::Air(_) => self.ledger.fire("wi-fi"),
            Path::Own(_) => self.ledger.fire("straggler"),
            Path::WanDown(site) | Path::WanUp(site) => {
                let links = &self.scenario.sites[site].links;
                let (thin, uneven) = (links.wan_down < 4_000_000, links.wan_up < links.wan_down);
                [("thin link", thin), ("asymmetric link", uneven), ("several sites", site > 0)]
                    .into_iter()
                    .filter(|(_, is)| *is)
                    .for_each(|(option, _)| self.ledger.fire(option));
            }
            Path::Lan(_) => {}
        }
        self.parcels.insert(id, parcel);
        if let Some((link, _)) = self.links.get_mut(&path) {
            link.start(now, id, bytes);
        }
        self.watch(path);
    }

    pub(super) fn length(&self, root: Blake3Root, piece: PieceIndex) -> u64 {
        let tree = self.fleet.vendor.trees.get(&root);
        tree.and_then(|tree| tree.extent(piece)).map_or(0, |(_, length)| length as u64)
    }

    /// Looks at a link again when its next transfer is through.
    fn watch(&mut self, path: Path) {
        let Some((link, changes)) = self.links.get_mut(&path) else { return };
        *changes += 1;
        let (next, changes) = (link.next(), *changes);
        if let Some(next) = next {
            self.at(next, Happening::Link(path, changes));
        }
    }

    pub(super) fn link_carried(&mut self, path: Path, seen: u64) -> Result<(), Broken> {
        let now = self.now;
        let Some((link, changes)) = self.links.get_mut(&path) else { return Ok(()) };
        if *changes != seen {
            return Ok(());
        }
        let finished = link.take_finished(now);
        self.watch(path);
        for id in finished {
            let Some(mut parcel) = self.parcels.remove(&id) else { continue };
            self.ledger.count_bytes(&parcel, parcel.bytes);
            let Some(late) = self.lateness(&parcel) else { continue };
            if let Some(next) = parcel.route.pop() {
                parcel.crossed |= path.is_wan();
                parcel.path = next;
                self.carry(id, parcel);
                continue;
            }
            let served = match parcel.freight {
                Freight::PieceBytes { root, piece, .. } => Some((root, piece)),
                _ => None,
            };
            let (from, to, bytes) = (parcel.from, parcel.to, parcel.bytes);
            let latency = self.latency(from, to) + late;
            self.later(latency, Happening::Arrives(Box::new(parcel)));
            if let Some((root, piece)) = served {
                let peer = self.fleet.keys[to].device();
                self.feed(from, Input::Serving { peer, bytes })?;
                self.feed(from, Input::Served { peer, root, piece, bytes, whole: true })?;
            }
        }
        Ok(())
    }

    pub(super) fn still_serving(&mut self, id: TransferId) -> Result<(), Broken> {
        let Some(parcel) = self.parcels.get(&id) else { return Ok(()) };
        let (from, peer) = (parcel.from, self.fleet.keys[parcel.to].device());
        self.later(SERVING, Happening::StillServing(id));
        self.feed(from, Input::Serving { peer, bytes: 0 })
    }

    pub(super) fn arrives(&mut self, parcel: Parcel) -> Result<(), Broken> {
        if self.connections.get(&pair(parcel.from, parcel.to)) != Some(&parcel.connection) {
            self.lose_arrival(&parcel);
            return Ok(());
        }
        if let Some(until) = self.devices[parcel.to].asleep_until.filter(|until| self.now < *until) {
            self.at(until, Happening::Arrives(Box::new(parcel)));
            return Ok(());
        }
        let Parcel { from, to, connection, freight, .. } = parcel;
        let sender = self.fleet.keys[from].device();
        match freight {
            Freight::Request { effect, channel, bytes } => {
                let request = Request::decode(channel, &bytes)
                    .map_err(|error| format!("device {from} sent a request that does not decode: {error}"))?;
                self.last_token += 1;
                let token = RequestToken(self.last_token);
                self.tickets.insert((to, token), Ticket { asker: from, connection, effect, channel });
                self.feed(to, Input::Request { token, from: sender, request })
            }
            Freight::Response { effect, channel, bytes } => {
                let response = Response::decode(channel, &bytes).map_err(|error| {
                    format!("device {from} sent a response that does not decode: {error}")
                })?;
                if self.asked.remove(&(to, effect)).is_none() {
                    return Ok(());
                }
                self.feed(to, Input::Answered { effect, result: Ok(response) })
            }
            Freight::Hint(bytes) => {
                let hint = Hint::decode(&bytes).map_err(|error| error.to_string())?;
                self.feed(to, Input::Hint(hint))
            }
            Freight::PieceRequest { effect, root, piece } => {
                self.serve(to, from, connection, effect, root, piece);
                Ok(())
            }
            Freight::PieceRefused { effect, reason } => {
                if self.asked.remove(&(to, effect)).is_none() {
                    return Ok(());
                }
                self.feed(to, Input::Piece { effect, result: Err(PieceFailure::Refused(reason)) })
            }
            Freight::PieceBytes { effect, root, piece, corrupt } => {
                if self.asked.remove(&(to, effect)).is_none() {
                    self.lose_unwritten(to, root, piece);
                    return Ok(());
                }
                self.receive_piece(to, from, effect, root, piece, corrupt)
            }
        }
    }

    /// Serves a piece if a grant allows it and the disk holds it, as a connection task would.
    fn serve(
        &mut self,
        at: usize,
        asker: usize,
        connection: u64,
        effect: EffectId,
        root: Blake3Root,
        piece: PieceIndex,
    ) {
        let peer = self.fleet.keys[asker].device();
        let now = self.now;
        let granted = self.devices[at].process.as_ref().and_then(|process| process.grants.get(&(peer, root)));
        let granted = granted.is_some_and(|grant| {
            now < grant.until && grant.pieces.as_ref().is_none_or(|pieces| pieces.contains(piece))
        });
        if !granted || !self.devices[at].disk.holds(root, piece) {
            let reason = if granted { Reason::NoPieces } else { Reason::NoGrant };
            self.ledger.refused += 1;
            self.send(at, asker, connection, "piece requests", Freight::PieceRefused { effect, reason });
            return;
        }
        let corrupt = at != HEADQUARTERS && self.corrupting.remove(&at);
        if at == HEADQUARTERS {
            self.note_duplicate(asker, root, piece);
            self.starving.retain(|site, _| self.scenario.site_of(asker) != Some(*site));
        }
        let label = if self.is_evidence(root) { "evidence" } else { "pieces" };
        if corrupt {
            self.ledger.fire("corrupt piece");
            self.ledger.note_corrupt(root);
        }
        let freight = Freight::PieceBytes { effect, root, piece, corrupt };
        let id = self.send(at, asker, connection, label, freight);
        self.later(SERVING, Happening::StillServing(id));
        if at == HEADQUARTERS {
            self.wan_piece_started(asker);
        }
    }

    /// A grant was taken back: what runs under it ends.
    pub(super) fn revoke(&mut self, at: usize, peer: Option<DeviceId>, root: Blake3Root) {
        if let Some(process) = &mut self.devices[at].process {
            process
                .grants
                .retain(|(holder, granted), _| *granted != root || peer.is_some_and(|peer| peer != *holder));
        }
        let ends: Vec<(TransferId, Parcel)> = self
            .parcels
            .iter()
            .filter(|(_, parcel)| {
                let named = matches!(parcel.freight, Freight::PieceBytes { root: sent, .. } if sent == root);
                let receiver = self.fleet.keys[parcel.to].device();
                parcel.from == at && named && peer.is_none_or(|peer| peer == receiver)
            })
            .map(|(id, parcel)| (*id, parcel.clone()))
            .collect();
        for (id, parcel) in ends {
            self.lose_transfer(id);
            let Freight::PieceBytes { effect, .. } = parcel.freight else { continue };
            let refused = Freight::PieceRefused { effect, reason: Reason::NoGrant };
            self.send(at, parcel.to, parcel.connection, "piece requests", refused);
        }
    }

    /// Takes a parcel off its link; returns it and how many of its bytes had passed.
    pub(super) fn cancel(&mut self, id: TransferId) -> Option<(Parcel, u64)> {
        let parcel = self.parcels.remove(&id)?;
        let now = self.now;
        let (link, _) = self.links.get_mut(&parcel.path)?;
        let moved = link.cancel(now, id);
        self.watch(parcel.path);
        self.ledger.count_bytes(&parcel, moved);
        Some((parcel, moved))
    }

    /// A transfer ends before it is through: the WAN bytes of a piece that had passed are lost.
    pub(super) fn lose_transfer(&mut self, id: TransferId) {
        let Some((parcel, moved)) = self.cancel(id) else { return };
        let Freight::PieceBytes { root, .. } = &parcel.freight else { return };
        let Some(site) = self.scenario.site_of(parcel.to).filter(|_| parcel.from == HEADQUARTERS) else {
            return;
        };
        let bytes = match (parcel.crossed, parcel.path.is_wan()) {
            (true, _) => parcel.bytes,
            (false, true) => moved,
            (false, false) => 0,
        };
        self.ledger.lose(site, *root, bytes);
    }

    /// What crossed the WAN reaches nobody: its connection ended meanwhile.
    fn lose_arrival(&mut self, parcel: &Parcel) {
        let (HEADQUARTERS, Freight::PieceBytes { root, piece, .. }) = (parcel.from, &parcel.freight) else {
            return;
        };
        let site = self.scenario.site_of(parcel.to);
        match site.filter(|site| self.ledger.came_to(*site, *root, *piece) != Some(parcel.to)) {
            // Somebody else took it over meanwhile.
            Some(site) => self.ledger.lose(site, *root, parcel.bytes),
            None => self.lose_unwritten(parcel.to, *root, *piece),
        }
    }

    /// A piece that came over the WAN for a device does not reach its disk.
    pub(super) fn lose_unwritten(&mut self, at: usize, root: Blake3Root, piece: PieceIndex) {
        let Some(site) = self.scenario.site_of(at) else { return };
        if self.ledger.came_to(site, root, piece) == Some(at) && !self.devices[at].disk.holds(root, piece) {
            let length = self.length(root, piece);
            self.ledger.lose_piece(site, root, piece, length);
        }
    }

    /// Ends every transfer between devices of which `ends` says so.
    pub(super) fn lose_transfers(&mut self, ends: impl Fn(usize, usize) -> bool) {
        let touching = self.parcels.iter().filter(|(_, parcel)| ends(parcel.from, parcel.to));
        let touching: Vec<TransferId> = touching.map(|(id, _)| *id).collect();
        for id in touching {
            self.lose_transfer(id);
        }
    }

    /// Connections between devices of which `ends` says so are dead; each end hears of it after `after`.
    pub(super) fn fall_silent(&mut self, ends: impl Fn(usize, usize) -> bool, after: Duration) {
        let dead: Vec<((usize, usize), u64)> = self
            .connections
            .iter()
            .filter(|((one, other), _)| ends(*one, *other))
            .map(|(ends, connection)| (*ends, *connection))
            .collect();
        for ((one, other), connection) in dead {
            self.connections.remove(&(one, other));
            let way = self.latency(one, other);
            for (here, there) in [(one, other), (other, one)] {
                let life = self.devices[here].life;
                self.later(after + way, Happening::Ended(here, life, there, connection));
            }
        }
    }

    /// Everything between a dead device and the others ends; the others hear of it after `after`.
    pub(super) fn cut_off(&mut self, at: usize, after: Duration) {
        self.fall_silent(|one, other| one == at || other == at, after);
        self.known.retain(|(here, _), _| *here != at);
        self.asked.retain(|(asker, _), _| *asker != at);
        self.tickets.retain(|(server, _), _| *server != at);
    }
}
