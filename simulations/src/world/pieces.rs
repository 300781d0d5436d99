//! Pieces: asked for, served under grants, taken back, and what of them is lost on the way.

use super::connections::Asked;
use super::messages::ANSWER_TIME;
use super::mirror::MIRROR;
use super::parcel::{Freight, Parcel};
use super::{Broken, Happening, World};
use crate::fleet::HEADQUARTERS;
use crate::link::TransferId;
use protocol::core::Input;
use protocol::digest::Blake3Root;
use protocol::effect::EffectId;
use protocol::fetch::PieceFailure;
use protocol::identifier::DeviceId;
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use std::time::Duration;

/// How often a seed hears that bytes are still on their way.
const SERVING: Duration = Duration::from_millis(200);

impl World<'_> {
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

    pub(super) fn length(&self, root: Blake3Root, piece: PieceIndex) -> u64 {
        let tree = self.fleet.vendor.trees.get(&root);
        tree.and_then(|tree| tree.extent(piece)).map_or(0, |(_, length)| length as u64)
    }

    /// Serves a piece if a grant allows it and the disk holds it, as a connection task would.
    pub(super) fn serve(
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
            self.past.sent_wrong(at, asker);
        }
        let freight = Freight::PieceBytes { effect, root, piece, corrupt };
        let id = self.send(at, asker, connection, label, freight);
        self.later(SERVING, Happening::StillServing(id));
        if at == HEADQUARTERS {
            self.wan_piece_started(asker);
        }
    }

    pub(super) fn still_serving(&mut self, id: TransferId) -> Result<(), Broken> {
        let Some(parcel) = self.parcels.get(&id) else { return Ok(()) };
        let (from, peer) = (parcel.from, self.fleet.keys[parcel.to].device());
        self.later(SERVING, Happening::StillServing(id));
        self.feed(from, Input::Serving { peer, bytes: 0 })
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

    /// A transfer ends before it is through: the WAN bytes of a piece that had passed are lost.
    pub(super) fn lose_transfer(&mut self, id: TransferId) {
        let Some((parcel, moved)) = self.cancel(id) else { return };
        self.note_lost_read(&parcel);
        let Some((root, _)) = parcel.freight.piece() else { return };
        let over_wan = [HEADQUARTERS, MIRROR].contains(&parcel.from);
        let Some(site) = self.scenario.site_of(parcel.to).filter(|_| over_wan) else { return };
        let bytes = match (parcel.crossed, parcel.path.is_wan()) {
            (true, _) => parcel.bytes,
            (false, true) => moved,
            (false, false) => 0,
        };
        self.ledger.lose(site, root, bytes);
    }

    /// What crossed the WAN reaches nobody: its connection ended meanwhile.
    pub(super) fn lose_arrival(&mut self, parcel: &Parcel) {
        let Some((root, piece)) = parcel.freight.piece() else { return };
        let over_wan = [HEADQUARTERS, MIRROR].contains(&parcel.from);
        let Some(site) = self.scenario.site_of(parcel.to).filter(|_| over_wan) else { return };
        match self.ledger.came_to(site, root, piece) {
            Some((at, _)) if at == parcel.to => self.lose_unwritten(at, root, piece),
            // Somebody else took it over meanwhile.
            _ => self.ledger.lose(site, root, parcel.bytes),
        }
    }

    /// A piece that came over the WAN for a device does not reach its disk.
    pub(super) fn lose_unwritten(&mut self, at: usize, root: Blake3Root, piece: PieceIndex) {
        let Some(site) = self.scenario.site_of(at) else { return };
        let came = self.ledger.came_to(site, root, piece);
        if came.is_some_and(|(to, _)| to == at) && !self.devices[at].disk.holds(root, piece) {
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
}
