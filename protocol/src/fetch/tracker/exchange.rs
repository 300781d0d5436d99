//! Who exchanges pieces with its site, and what becomes of leases and deliveries when that changes (decision 0059).

use super::Exchange;
use super::content::Tracked;
use super::site::{Site, release};
use crate::digest::Blake3Root;
use crate::identifier::DeviceId;
use crate::piece::PieceIndex;

impl Site {
    /// Notes whether a device exchanges pieces with its site now; what it fetches and got goes with it.
    pub(super) fn set_exchange(&mut self, device: DeviceId, exchange: Exchange) {
        let Some(present) = self.present.get_mut(&device) else { return };
        if std::mem::replace(&mut present.exchange, exchange) == exchange {
            return;
        }
        match exchange {
            Exchange::Open => self.join(device),
            Exchange::Cut | Exchange::Forbidden => self.part(device),
        }
        if let Some(held) = self.fetchers.get_mut(&device) {
            held.exchange = exchange;
        }
    }

    /// What a device got, and is fetching, for itself is its site's from now on.
    fn join(&mut self, device: DeviceId) {
        let own: Vec<Blake3Root> =
            self.contents.keys().filter(|(_, owner)| *owner == Some(device)).map(|(root, _)| *root).collect();
        for root in own {
            let Some(own) = self.contents.remove(&(root, Some(device))) else { continue };
            let tracked =
                self.contents.entry((root, None)).or_insert_with(|| Tracked::new(own.rank, own.asked));
            for piece in tracked.take_over(own) {
                release(&mut self.fetchers, device, tracked.length(piece));
            }
        }
    }

    /// Ends the leases of a device that are the site's: it has nobody to give the pieces to.
    pub(super) fn part(&mut self, device: DeviceId) {
        let Site { contents, fetchers, .. } = self;
        for ((_, owner), tracked) in contents {
            if owner.is_some() {
                continue;
            }
            let ends = tracked.leases.extract_if(.., |_, lessee| *lessee == device);
            let ends: Vec<PieceIndex> = ends.map(|(piece, _)| piece).collect();
            for piece in ends {
                release(fetchers, device, tracked.length(piece));
                tracked.lapsed.insert(piece, device);
            }
        }
    }

    /// What a device that is gone fetched for itself is nobody's.
    pub(super) fn forget_own(&mut self, device: DeviceId) {
        self.contents.retain(|(_, owner), _| *owner != Some(device));
    }
}
