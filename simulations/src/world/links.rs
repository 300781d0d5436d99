//! What carries something from one device to another: one link after the other, each shared by all that is on it.

use super::mirror::MIRROR;
use super::parcel::{Freight, Parcel, Path};
use super::{Broken, Happening, World};
use crate::fleet::HEADQUARTERS;
use crate::link::TransferId;
use protocol::core::Input;
use std::time::Duration;

/// One way inside the branch.
const LAN_LATENCY: Duration = Duration::from_micros(150);

impl World<'_> {
    /// What carries something from one device to another, in order.
    pub(super) fn route(&self, from: usize, to: usize) -> Vec<Path> {
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

    pub(super) fn latency(&mut self, from: usize, to: usize) -> Duration {
        let site = self.scenario.site_of(from).or(self.scenario.site_of(to)).unwrap_or(0);
        let site = self.scenario.sites[site];
        let jitter = u64::try_from(site.links.jitter.as_micros()).unwrap_or(0);
        let jitter = Duration::from_micros(self.random.between(0, jitter));
        if from != HEADQUARTERS && from != MIRROR && to != HEADQUARTERS {
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

    /// The next part of the way of something begins.
    pub(super) fn carry(&mut self, id: TransferId, parcel: Parcel) {
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
            self.ledger.count_bytes(&parcel, parcel.bytes, now);
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

    /// Takes a parcel off its link; returns it and how many of its bytes had passed.
    pub(super) fn cancel(&mut self, id: TransferId) -> Option<(Parcel, u64)> {
        let parcel = self.parcels.remove(&id)?;
        let now = self.now;
        let (link, _) = self.links.get_mut(&parcel.path)?;
        let moved = link.cancel(now, id);
        self.watch(parcel.path);
        self.ledger.count_bytes(&parcel, moved, now);
        Some((parcel, moved))
    }
}
