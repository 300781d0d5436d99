//! What goes wrong: processes that are killed, machines that lose power.

use super::network::Freight;
use super::{Happening, World};
use crate::fleet::HEADQUARTERS;
use crate::link::TransferId;
use crate::scenario::{Death, Fault, When};
use crate::vendor::{NEW_VERSION, OLD_VERSION};
use protocol::inventory::PackageState;
use std::time::Duration;

/// After this silence a connection counts as ended.
const SILENCE: Duration = Duration::from_secs(10);

impl World<'_> {
    /// A device goes down. Its process is gone at once; its disk keeps what was durable.
    pub(super) fn die(&mut self, at: usize, death: Death, returns: Option<Duration>) {
        if at == HEADQUARTERS || self.devices[at].process.is_none() {
            return;
        }
        self.trace.note(self.now, at, format_args!("dies: {death:?}"));
        self.note_loss(at);
        self.devices[at].process = None;
        self.devices[at].powered = death == Death::Killed;
        let after = if death == Death::Killed { Duration::ZERO } else { SILENCE };
        self.cut_off(at, after);
        if let Some(package) = self.installing.remove(&at) {
            let left = [
                (NEW_VERSION, PackageState::Broken),
                (OLD_VERSION, PackageState::Installed),
                (NEW_VERSION, PackageState::Installed),
            ];
            let state = self.random.choose(&left);
            self.devices[at].disk.packages.insert(package, state);
            self.note_finished(at);
        }
        match returns {
            Some(after) => self.later(after, Happening::Starts(at)),
            None => self.devices[at].gone = true,
        }
    }

    /// What the branch loses with a device: WAN bytes on their way to it, and pieces that nobody else there holds.
    fn note_loss(&mut self, at: usize) {
        self.ledger.deaths += 1;
        let touching: Vec<TransferId> = self
            .parcels
            .iter()
            .filter(|(_, parcel)| parcel.from == at || parcel.to == at)
            .map(|(id, _)| *id)
            .collect();
        for id in touching {
            let Some((parcel, moved)) = self.cancel(id) else { continue };
            if let (Freight::PieceBytes { root, .. }, HEADQUARTERS) = (&parcel.freight, parcel.from) {
                self.ledger.lose(*root, moved);
            }
        }
        // Pieces that nobody else who lives holds durably are lost, with the process or with the whole machine.
        for (root, piece, to) in self.ledger.fetched() {
            let elsewhere = (1..self.devices.len()).any(|other| {
                let device = &self.devices[other];
                other != at && device.process.is_some() && device.disk.holds(root, piece)
            });
            let here = to == at || self.devices[at].disk.holds(root, piece);
            if here && !elsewhere {
                let length = self.length(root, piece);
                self.ledger.lose_piece(root, piece, length);
            }
        }
    }

    /// A WAN piece began to flow to a device: perhaps that is its end.
    pub(super) fn wan_piece_started(&mut self, to: usize) {
        let number = self.wan_pieces;
        self.wan_pieces += 1;
        for fault in &self.scenario.faults {
            let Fault::Dies { when: When::FetchingWanPiece(piece, after), death, returns } = fault else {
                continue;
            };
            if *piece == number {
                self.outstanding += 1;
                self.later(*after, Happening::Dies(to, *death, *returns));
            }
        }
    }
}
