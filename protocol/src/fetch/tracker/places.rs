//! Places of a site on its WAN link, when somebody wants what nobody who has one fetches (decision 0059).

use super::site::Site;
use super::{Ask, Exchange, Terms};
use crate::digest::Blake3Root;
use crate::fetch;
use crate::identifier::DeviceId;
use crate::time::Moment;
use std::time::Duration;

/// An asker claims a place when it got nothing of a content for this long: what others fetch too comes to it or to them sooner.
const CLAIMS: Duration = Duration::from_secs(1);

/// What goes first, and then by size.
pub(super) type Rank = (fetch::Rank, u64);

/// A content that somebody has no place for.
#[derive(Debug)]
pub(super) struct Claim {
    root: Blake3Root,
    since: Moment,
}

/// A fetcher that could give up its place.
struct Occupant {
    device: DeviceId,
    since: Moment,
    /// What it fetches that goes first.
    rank: Rank,
    /// Whether others fetch all of that too.
    spare: bool,
}

impl Site {
    /// Where all places are taken, one becomes free for an asker whose first content that came to nobody is fetched by nobody: that
    /// of a fetcher all of whose contents others fetch too, or else of one whose contents go after it. That one ends what it began.
    pub(super) fn make_place(&mut self, asker: DeviceId, asks: &[Ask<'_>], terms: &Terms<'_>, now: Moment) {
        // One more would not do where the link has proven thin.
        let taken = self.standing(terms.exchange) == self.most_fetchers(terms, now);
        let waits = taken && !self.fetchers.contains_key(&asker) && !self.has_lapsed(asker, now);
        let mut wanted = asks.iter().filter(|_| waits);
        let first = wanted.find(|ask| self.left(asker, ask, terms) > 0);
        let Some(ask) = first.filter(|ask| !self.is_fetched(asker, ask, terms)) else {
            self.claims.remove(&asker);
            return;
        };
        let claim = self.claims.entry(asker).or_insert(Claim { root: ask.root, since: now });
        if claim.root != ask.root {
            *claim = Claim { root: ask.root, since: now };
        }
        if now.since(claim.since) < CLAIMS {
            return;
        }
        let occupants: Vec<Occupant> = self.occupants(terms.exchange).collect();
        let spare = occupants.iter().filter(|occupant| occupant.spare);
        let spare = spare.max_by_key(|occupant| (occupant.since, occupant.device));
        let later = occupants.iter().filter(|occupant| occupant.rank > ask.rank());
        let later = later.max_by_key(|occupant| (occupant.rank, occupant.since, occupant.device));
        if let Some(occupant) = spare.or(later) {
            self.ends_with_what_it_has(occupant.device);
            self.claims.remove(&asker);
        }
    }

    fn occupants(&self, exchange: Exchange) -> impl Iterator<Item = Occupant> {
        self.places(exchange).map(|(device, since)| {
            let fetched =
                self.contents.values().filter(move |tracked| tracked.leases.values().any(|by| *by == device));
            let (mut rank, mut spare) = ((fetch::Rank::Normal, u64::MAX), true);
            for tracked in fetched {
                rank = rank.min(tracked.rank);
                spare &= tracked.others(device).any(|other| self.has_place(other));
            }
            Occupant { device, since, rank, spare }
        })
    }

    /// Whether anybody else fetches the content for the same devices as the asker.
    pub(super) fn is_fetched(&self, asker: DeviceId, ask: &Ask<'_>, terms: &Terms<'_>) -> bool {
        self.tracked(asker, ask, terms).is_some_and(|tracked| tracked.others(asker).next().is_some())
    }
}
