//! Requests, answers and hints: each is encoded and decoded as on a real wire.

use super::connections::Asked;
use super::parcel::{Freight, Parcel, Path};
use super::{Broken, Happening, World};
use crate::link::TransferId;
use protocol::codec;
use protocol::core::{Input, RequestToken};
use protocol::effect::EffectId;
use protocol::fetch::PieceFailure;
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::wire::{Channel, Hint, Request, Response, Unanswered};
use std::time::Duration;

/// Bytes around each message: stream, encryption and packet headers.
const OVERHEAD: u64 = 120;
/// How long a control request waits for its answer.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A request that was handed to a core and has not been answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    asker: usize,
    connection: u64,
    effect: EffectId,
    channel: Channel,
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
            Freight::PieceBytes { root, piece, .. } | Freight::MirrorBytes { root, piece, .. } => {
                self.length(*root, *piece)
            }
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

    pub(super) fn arrives(&mut self, parcel: Parcel) -> Result<(), Broken> {
        if !self.stands(&parcel) {
            self.lose_arrival(&parcel);
            return Ok(());
        }
        if let Some(until) = self.devices[parcel.to].asleep_until.filter(|until| self.now < *until) {
            self.at(until, Happening::Arrives(Box::new(parcel)));
            return Ok(());
        }
        let Parcel { from, to, connection, freight, .. } = parcel;
        if let Freight::MirrorBytes { effect, root, piece, .. } = freight {
            return self.receive_from_mirror(to, effect, root, piece);
        }
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
                self.feed(to, Input::Hint { from: sender, hint })
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
            Freight::MirrorBytes { .. } => Ok(()),
        }
    }
}
