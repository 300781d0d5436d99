//! The seed's view of every site: who is there, who fetches which piece over the WAN, who holds it.

use super::rendezvous;
use crate::bitmap::PieceSet;
use crate::digest::Blake3Root;
use crate::identifier::{DeviceId, SiteName};
use crate::limits;
use crate::membership::Member;
use crate::piece::PieceIndex;
use crate::reason::Reason;
use crate::system::System;
use crate::time::Moment;
use crate::wire::{LeaseRequest, SiteMember, Versions};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A lease ends when its holder was sent nothing for this long.
pub const LEASE_IDLE: Duration = Duration::from_secs(5);
/// The chosen fetcher of new metadata has this long before somebody else of the site is chosen.
pub const METADATA_TURN: Duration = Duration::from_secs(5);
/// Who holds what in a site is forgotten when nobody asked for the content for this long.
const CONTENT_IDLE: Duration = Duration::from_secs(3_600);
/// A device that let a lease lapse gets no other for this long, as long as somebody else asks.
const LAPSED: Duration = Duration::from_secs(10);
/// How soon an asker that got no lease may ask again.
const RETRY: Duration = Duration::from_millis(1_000);

/// The seed's tracker for all sites.
#[derive(Debug, Default)]
pub struct Tracker {
    sites: BTreeMap<SiteName, Site>,
}

#[derive(Debug, Default)]
struct Site {
    present: BTreeMap<DeviceId, Present>,
    /// By content; apart from it, for each device that takes nothing from peers and gives them nothing.
    contents: BTreeMap<(Blake3Root, Option<DeviceId>), Tracked>,
    metadata_turn: Option<(Versions, DeviceId, Moment)>,
}

#[derive(Debug)]
struct Present {
    system: System,
    addresses: Vec<String>,
    active: Moment,
    shares: bool,
}

#[derive(Debug, Default)]
struct Tracked {
    leases: BTreeMap<PieceIndex, Lease>,
    delivered: BTreeMap<PieceIndex, BTreeSet<DeviceId>>,
    /// When each device asked last.
    asked: BTreeMap<DeviceId, Moment>,
    /// Devices that did nothing with a lease, and when it ended.
    lapsed: BTreeMap<DeviceId, Moment>,
}

#[derive(Debug)]
struct Lease {
    device: DeviceId,
    since: Moment,
}

/// What the tracker decides about one lease request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Pieces leased to the asker, each with the reason for its bytes.
    pub leased: Vec<(PieceIndex, Reason)>,
    /// Members that hold or fetch the others.
    pub holders: Vec<SiteMember>,
    /// When the asker may ask again.
    pub retry: Duration,
}

impl Tracker {
    /// Notes that `member` is there and where it listens; returns other members of its site, those first that can
    /// share with it. One that does not share (N7) hears of nobody, and nobody hears of it.
    pub fn announce(
        &mut self,
        member: &Member,
        addresses: Vec<String>,
        shares: bool,
        now: Moment,
    ) -> Vec<SiteMember> {
        let site = self.sites.entry(member.site.clone()).or_default();
        // Only bytes on their way are activity: an announcement keeps no lease.
        let active = site.present.get(&member.device).map_or(now, |present| present.active);
        let present = Present { system: member.system.clone(), addresses, active, shares };
        site.present.insert(member.device, present);
        if !shares {
            return Vec::new();
        }
        let key = member.device.as_bytes();
        let sharing = site.present.iter().filter(|(_, present)| present.shares);
        let mut others: Vec<DeviceId> =
            sharing.map(|(device, _)| *device).filter(|device| *device != member.device).collect();
        others.sort_by_key(|&device| {
            let same = site.present[&device].system == member.system;
            (!same, std::cmp::Reverse(rendezvous::weight(key, device)))
        });
        others.truncate(limits::MEMBERS_PER_ANSWER);
        others.into_iter().filter_map(|device| site.member(device)).collect()
    }

    /// Whether `member`, whose metadata is older than `newest`, is the one to fetch it for its site now.
    pub fn metadata_turn(&mut self, member: &Member, newest: Versions, now: Moment) -> bool {
        let site = self.sites.entry(member.site.clone()).or_default();
        match site.metadata_turn {
            Some((versions, device, since))
                if versions == newest
                    && device != member.device
                    && site.present.contains_key(&device)
                    && now.since(since) < METADATA_TURN =>
            {
                false
            }
            _ => {
                site.metadata_turn = Some((newest, member.device, now));
                true
            }
        }
    }

    /// Leases pieces of a content with `pieces` pieces to `member`, as far as nobody else of the site has them.
    /// `fetchers` is the site's maximum of concurrent WAN fetchers. One that does not share is on its own.
    pub fn lease(
        &mut self,
        member: &Member,
        request: &LeaseRequest,
        pieces: u32,
        fetchers: u8,
        shares: bool,
        now: Moment,
    ) -> Decision {
        let site = self.sites.entry(member.site.clone()).or_default();
        site.expire(now);
        let asker = member.device;
        let unreachable: BTreeSet<DeviceId> = request.unreachable.iter().copied().collect();
        let sharing = site.present.iter().filter(|(_, present)| present.shares);
        let present: BTreeSet<DeviceId> = sharing.map(|(device, _)| *device).collect();
        let mut held = site.leases_of(asker);
        let may_fetch = site.may_fetch(asker, fetchers);
        let tracked = site.contents.entry((request.root, (!shares).then_some(asker))).or_default();
        tracked.asked.insert(asker, now);
        let may_fetch = may_fetch && !tracked.waits(asker, now);
        let mut decision = Decision { retry: RETRY, ..Decision::default() };
        let mut holders = BTreeSet::new();
        for piece in request.wanted.iter().filter(|piece| piece.0 < pieces) {
            match tracked.judge(piece, asker, &unreachable, &present) {
                Judged::Elsewhere(devices) => holders.extend(devices),
                Judged::Mine => decision.leased.push((piece, Reason::Lease)),
                Judged::Free(reason) if may_fetch && held < limits::LEASED_PIECES => {
                    held += 1;
                    tracked.leases.insert(piece, Lease { device: asker, since: now });
                    decision.leased.push((piece, reason));
                }
                Judged::Free(_) => {}
            }
        }
        holders.remove(&asker);
        decision.holders = holders
            .into_iter()
            .take(limits::MEMBERS_PER_ANSWER)
            .filter_map(|device| site.member(device))
            .collect();
        decision
    }

    /// A piece went to `device` completely: it holds it, as far as the seed can know.
    pub fn served(
        &mut self,
        site: &SiteName,
        device: DeviceId,
        root: Blake3Root,
        piece: PieceIndex,
        now: Moment,
    ) {
        self.active(site, device, now);
        let Some(site) = self.sites.get_mut(site) else { return };
        let own = (root, Some(device));
        let key = if site.contents.contains_key(&own) { own } else { (root, None) };
        let Some(tracked) = site.contents.get_mut(&key) else { return };
        if tracked.leases.get(&piece).is_some_and(|lease| lease.device == device) {
            tracked.leases.remove(&piece);
        }
        tracked.lapsed.remove(&device);
        tracked.delivered.entry(piece).or_default().insert(device);
    }

    /// Bytes are on their way to `device`: none of its leases ends.
    pub fn active(&mut self, site: &SiteName, device: DeviceId, now: Moment) {
        if let Some(present) = self.sites.get_mut(site).and_then(|site| site.present.get_mut(&device)) {
            present.active = now;
        }
    }

    /// `device` is gone: its leases end, and what only it held has to be fetched again.
    pub fn disconnected(&mut self, site: &SiteName, device: DeviceId) {
        if let Some(site) = self.sites.get_mut(site) {
            site.present.remove(&device);
            for tracked in site.contents.values_mut() {
                tracked.leases.retain(|_, lease| lease.device != device);
            }
        }
    }

    /// The pieces of a content that `device` holds leases on: the seed serves nothing over the WAN without one.
    pub fn leased_to(&self, site: &SiteName, device: DeviceId, root: Blake3Root) -> PieceSet {
        let contents = self.sites.get(site).into_iter().flat_map(|site| {
            [None, Some(device)].into_iter().filter_map(move |owner| site.contents.get(&(root, owner)))
        });
        let leases = contents.flat_map(|tracked| &tracked.leases);
        leases.filter(|(_, lease)| lease.device == device).map(|(piece, _)| *piece).collect()
    }

    /// Members of `site` that are there now.
    pub fn present(&self, site: &SiteName) -> impl Iterator<Item = DeviceId> + '_ {
        self.sites.get(site).into_iter().flat_map(|site| site.present.keys().copied())
    }
}

enum Judged {
    /// Others hold it or are fetching it.
    Elsewhere(Vec<DeviceId>),
    /// The asker has the lease already.
    Mine,
    /// Nobody has it whom the asker can reach.
    Free(Reason),
}

impl Tracked {
    /// Whether `asker` let a lease lapse just now, and somebody who did not asks too.
    fn waits(&self, asker: DeviceId, now: Moment) -> bool {
        let lapsed = |device: &DeviceId| self.lapsed.get(device).is_some_and(|at| now.since(*at) < LAPSED);
        let others =
            self.asked.iter().filter(|(device, at)| **device != asker && now.since(**at) < LEASE_IDLE);
        lapsed(&asker) && others.map(|(device, _)| device).any(|device| !lapsed(device))
    }

    fn judge(
        &self,
        piece: PieceIndex,
        asker: DeviceId,
        unreachable: &BTreeSet<DeviceId>,
        present: &BTreeSet<DeviceId>,
    ) -> Judged {
        let lessee = self.leases.get(&piece).map(|lease| lease.device);
        if lessee == Some(asker) {
            return Judged::Mine;
        }
        let nobody = BTreeSet::new();
        let delivered = self.delivered.get(&piece).unwrap_or(&nobody);
        let known = lessee.into_iter().chain(delivered.iter().copied().filter(|device| *device != asker));
        let reachable: Vec<DeviceId> =
            known.filter(|device| present.contains(device) && !unreachable.contains(device)).collect();
        if !reachable.is_empty() {
            return Judged::Elsewhere(reachable);
        }
        let fetched_before = lessee.is_some() || !delivered.is_empty();
        Judged::Free(if fetched_before { Reason::Takeover } else { Reason::Lease })
    }
}

impl Site {
    fn member(&self, device: DeviceId) -> Option<SiteMember> {
        let present = self.present.get(&device)?;
        Some(SiteMember { device, system: present.system.clone(), addresses: present.addresses.clone() })
    }

    /// Leases of one device on whatever content.
    fn leases_of(&self, device: DeviceId) -> usize {
        let leases = self.contents.values().flat_map(|tracked| tracked.leases.values());
        leases.filter(|lease| lease.device == device).count()
    }

    /// Whether `asker` fetches already, or fewer than `fetchers` others do.
    fn may_fetch(&self, asker: DeviceId, fetchers: u8) -> bool {
        let holders: BTreeSet<DeviceId> = self
            .contents
            .values()
            .flat_map(|tracked| tracked.leases.values().map(|lease| lease.device))
            .collect();
        holders.contains(&asker) || holders.len() < usize::from(fetchers)
    }

    fn expire(&mut self, now: Moment) {
        let Site { present, contents, .. } = self;
        for Tracked { leases, asked, lapsed, .. } in contents.values_mut() {
            asked.retain(|_, at| now.since(*at) < CONTENT_IDLE);
            lapsed.retain(|_, at| now.since(*at) < LAPSED);
            leases.retain(|_, lease| {
                let active = present.get(&lease.device).map(|device| device.active.max(lease.since));
                let lives = active.is_some_and(|active| now.since(active) < LEASE_IDLE);
                if !lives {
                    lapsed.insert(lease.device, now);
                }
                lives
            });
        }
        contents.retain(|_, tracked| !tracked.asked.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identifier::ManifestDigest;
    use crate::policy::tests::member;

    fn device(number: u8) -> Member {
        Member { device: DeviceId::from_bytes([number; 32]), ..member("utrecht") }
    }

    fn at(milliseconds: u64) -> Moment {
        Moment::from_micros(milliseconds * 1_000)
    }

    fn wants(pieces: u32, unreachable: &[u8]) -> LeaseRequest {
        LeaseRequest {
            root: Blake3Root::of(b"x"),
            manifest: ManifestDigest::from_bytes([0; 32]),
            wanted: PieceSet::full(pieces),
            unreachable: unreachable.iter().map(|&number| device(number).device).collect(),
            need_tree: false,
        }
    }

    fn site_of(members: &[u8]) -> Tracker {
        let mut tracker = Tracker::default();
        for &number in members {
            tracker.announce(&device(number), Vec::new(), true, at(0));
        }
        tracker
    }

    fn leased(decision: &Decision) -> Vec<u32> {
        decision.leased.iter().map(|(piece, _)| piece.0).collect()
    }

    // proves X1
    #[test]
    fn each_piece_is_leased_once() {
        let mut tracker = site_of(&[1, 2, 3]);
        let first = tracker.lease(&device(1), &wants(6, &[]), 6, 4, true, at(1));
        let second = tracker.lease(&device(2), &wants(6, &[]), 6, 4, true, at(1));
        let third = tracker.lease(&device(3), &wants(6, &[]), 6, 4, true, at(1));
        assert_eq!((leased(&first), leased(&second), leased(&third)), (vec![0, 1, 2, 3], vec![4, 5], vec![]));
        let told: Vec<DeviceId> = third.holders.iter().map(|holder| holder.device).collect();
        assert_eq!(told, [device(1).device, device(2).device]);
    }

    #[test]
    fn a_silent_or_vanished_holder_is_taken_over() {
        let mut tracker = site_of(&[1, 2]);
        tracker.lease(&device(1), &wants(2, &[]), 2, 4, true, at(0));
        assert_eq!(
            leased(&tracker.lease(&device(2), &wants(2, &[]), 2, 4, true, at(4_000))),
            Vec::<u32>::new()
        );
        tracker.active(&device(1).site, device(1).device, at(4_500));
        assert_eq!(
            leased(&tracker.lease(&device(2), &wants(2, &[]), 2, 4, true, at(6_000))),
            Vec::<u32>::new()
        );
        assert_eq!(leased(&tracker.lease(&device(2), &wants(2, &[]), 2, 4, true, at(9_600))), [0, 1]);

        let mut tracker = site_of(&[1, 2]);
        tracker.lease(&device(1), &wants(1, &[]), 1, 4, true, at(0));
        tracker.served(&device(1).site, device(1).device, Blake3Root::of(b"x"), PieceIndex(0), at(1));
        assert_eq!(leased(&tracker.lease(&device(2), &wants(1, &[]), 1, 4, true, at(2))), Vec::<u32>::new());
        tracker.disconnected(&device(1).site, device(1).device);
        let taken = tracker.lease(&device(2), &wants(1, &[]), 1, 4, true, at(3));
        assert_eq!(taken.leased, [(PieceIndex(0), Reason::Takeover)]);
    }

    #[test]
    fn a_holder_that_neighbours_cannot_reach_is_passed_over() {
        let mut tracker = site_of(&[1, 2]);
        tracker.lease(&device(1), &wants(1, &[]), 1, 4, true, at(0));
        assert_eq!(leased(&tracker.lease(&device(2), &wants(1, &[1]), 1, 4, true, at(1))), [0]);
    }

    #[test]
    fn no_more_fetchers_than_policy_allows() {
        let mut tracker = site_of(&[1, 2, 3]);
        tracker.lease(&device(1), &wants(12, &[]), 12, 2, true, at(0));
        tracker.lease(&device(2), &wants(12, &[]), 12, 2, true, at(0));
        assert_eq!(
            leased(&tracker.lease(&device(3), &wants(12, &[]), 12, 2, true, at(0))),
            Vec::<u32>::new()
        );
        assert_eq!(leased(&tracker.lease(&device(1), &wants(12, &[]), 12, 2, true, at(0))).len(), 4);
    }

    #[test]
    fn leases_are_bounded_over_all_contents_together() {
        let mut tracker = site_of(&[1, 2]);
        let other = LeaseRequest { root: Blake3Root::of(b"y"), ..wants(3, &[]) };
        assert_eq!(leased(&tracker.lease(&device(1), &wants(3, &[]), 3, 4, true, at(0))), [0, 1, 2]);
        assert_eq!(leased(&tracker.lease(&device(1), &other, 3, 4, true, at(0))), [0]);
        assert_eq!(leased(&tracker.lease(&device(2), &other, 3, 4, true, at(0))), [1, 2]);
        // Whoever lost its memory of a lease gets it again.
        assert_eq!(leased(&tracker.lease(&device(1), &wants(3, &[]), 3, 4, true, at(1))), [0, 1, 2]);
    }

    #[test]
    fn one_of_a_site_fetches_the_metadata() {
        let mut tracker = site_of(&[1, 2]);
        let newest = Versions { timestamp: 2, ..Versions::default() };
        assert!(tracker.metadata_turn(&device(1), newest, at(0)));
        assert!(!tracker.metadata_turn(&device(2), newest, at(1)));
        assert!(tracker.metadata_turn(&device(2), newest, at(6_000)));
        assert!(tracker.metadata_turn(&device(1), Versions { timestamp: 3, ..newest }, at(6_001)));
    }

    #[test]
    fn a_device_that_hoards_leases_gets_out_of_the_way() {
        let mut tracker = site_of(&[1, 2]);
        let mut taken = 0;
        for second in 0..20 {
            // The first one asks all the time, announces itself, and fetches nothing.
            tracker.announce(&device(1), Vec::new(), true, at(second * 1_000));
            tracker.lease(&device(1), &wants(4, &[]), 4, 1, true, at(second * 1_000));
            let now = at(second * 1_000 + 500);
            for (piece, _) in tracker.lease(&device(2), &wants(4, &[]), 4, 1, true, now).leased {
                tracker.served(&device(2).site, device(2).device, Blake3Root::of(b"x"), piece, now);
                taken += 1;
            }
            if taken >= 4 {
                break;
            }
        }
        assert_eq!(taken, 4);
    }

    // proves N7
    #[test]
    fn a_device_that_does_not_share_is_on_its_own() {
        let mut tracker = site_of(&[1, 2]);
        assert!(tracker.announce(&device(3), vec!["/sim/3".to_owned()], false, at(0)).is_empty());
        let others = tracker.announce(&device(1), Vec::new(), true, at(0));
        assert_eq!(others.iter().map(|member| member.device).collect::<Vec<_>>(), [device(2).device]);
        assert_eq!(leased(&tracker.lease(&device(1), &wants(2, &[]), 2, 4, true, at(0))), [0, 1]);
        let alone = tracker.lease(&device(3), &wants(2, &[]), 2, 4, false, at(1));
        assert_eq!((leased(&alone), alone.holders.len()), (vec![0, 1], 0));
        let site = device(1).site;
        for number in [1, 3] {
            assert_eq!(tracker.leased_to(&site, device(number).device, Blake3Root::of(b"x")).len(), 2);
        }
        tracker.served(&site, device(3).device, Blake3Root::of(b"x"), PieceIndex(0), at(2));
        let second = tracker.lease(&device(2), &wants(2, &[1]), 2, 4, true, at(3));
        assert_eq!(leased(&second), [0, 1], "what the third one has is of no use to others");
    }
}
