//! A vendor's mirror: any device reads there over its site's WAN, and nobody counts who reads what.

use super::parcel::{Freight, Parcel};
use super::{Broken, Happening, World};
use crate::scenario::{Cut, Mirror};
use protocol::core::Input;
use protocol::digest::Blake3Root;
use protocol::effect::EffectId;
use protocol::fetch::PieceFailure;
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use std::time::Duration;

/// The sender of what comes from a mirror: no device.
pub(super) const MIRROR: usize = usize::MAX;
/// A mirror that does not answer for so long has failed.
const SILENCE: Duration = Duration::from_secs(10);

impl World<'_> {
    pub(super) fn read_mirror(&mut self, at: usize, effect: EffectId, root: Blake3Root, piece: PieceIndex) {
        let site = self.scenario.site_of(at).unwrap_or_default();
        let failure = match self.scenario.mirror {
            _ if self.cuts.contains(&Cut::Wan(site)) => Some((SILENCE, PieceFailure::Lost)),
            None | Some(Mirror::Empty) => {
                let trip = self.scenario.sites[site].links.round_trip;
                Some((trip, PieceFailure::Refused(Reason::NoPieces)))
            }
            Some(Mirror::Whole | Mirror::Wrong) => None,
        };
        self.ledger.fire("read at a mirror");
        if let Some((after, failure)) = failure {
            return self.input_later(after, at, Input::Piece { effect, result: Err(failure) });
        }
        self.note_duplicate(at, root, piece);
        let life = self.devices[at].life;
        self.send(MIRROR, at, 0, "pieces", Freight::MirrorBytes { effect, root, piece, life });
        self.wan_piece_started(at);
    }

    pub(super) fn receive_from_mirror(
        &mut self,
        at: usize,
        effect: EffectId,
        root: Blake3Root,
        piece: PieceIndex,
    ) -> Result<(), Broken> {
        let wrong = self.scenario.mirror == Some(Mirror::Wrong);
        if wrong {
            self.ledger.fire("wrong bytes at a mirror");
            self.lose_unwritten(at, root, piece);
        }
        self.receive_piece(at, MIRROR, effect, root, piece, wrong)
    }

    /// What is on its way from a mirror ends before it is through: its reader hears of that after a while.
    pub(super) fn note_lost_read(&mut self, parcel: &Parcel) {
        if let Freight::MirrorBytes { effect, life, .. } = parcel.freight {
            let lost = Input::Piece { effect, result: Err(PieceFailure::Lost) };
            self.later(SILENCE, Happening::Input(parcel.to, life, Box::new(lost)));
        }
    }

    /// Whether a piece is on its way from a mirror to another device of the asker's site.
    pub(super) fn is_read_at_mirror(&self, asker: usize, root: Blake3Root, piece: PieceIndex) -> bool {
        let site = self.scenario.site_of(asker);
        let reads = |parcel: &Parcel| {
            matches!(parcel.freight, Freight::MirrorBytes { .. })
                && parcel.freight.piece() == Some((root, piece))
                && parcel.to != asker
                && self.scenario.site_of(parcel.to) == site
        };
        let waits = |happening: &Happening| matches!(happening, Happening::Arrives(parcel) if reads(parcel));
        self.parcels.values().any(reads) || self.happenings.values().any(waits)
    }
}
