//! How a site's WAN link goes, and how many may fetch over it at once.

use super::site::{LINK_KNOWN, Site};
use super::{Exchange, Terms};
use crate::fetch::brought::Brought;
use crate::identifier::DeviceId;
use crate::time::Moment;
use std::time::Duration;

/// When the first fetcher has not said how the link goes after this time, what went to it tells.
const LINK_UNKNOWN: Duration = Duration::from_secs(3);
/// Another fetcher is worth it where a block of each takes the link no longer than this.
const BLOCKS_QUEUE: Duration = Duration::from_millis(30);
const BLOCK: u64 = 32 << 10;
/// Bytes per second of a link that two of the smallest blocks fill for that time.
const THIN: u64 = 270_000;

impl Site {
    /// How many may fetch at once: as policy says, where the link carries a block of each in a short time. Those on their own
    /// have no link in common, as far as anybody knows.
    pub(super) fn most_fetchers(&self, terms: &Terms<'_>, now: Moment) -> usize {
        let most = usize::from(terms.fetchers.max(1));
        if terms.exchange == Exchange::Cut {
            return most;
        }
        let micros = u64::try_from(BLOCKS_QUEUE.as_micros()).unwrap_or(u64::MAX);
        let rate = self.link_rate(terms.exchange, now);
        let worth = rate.map_or(1, |rate| rate.saturating_mul(micros) / 1_000_000 / BLOCK);
        usize::try_from(worth).unwrap_or(usize::MAX).clamp(1, most)
    }

    /// Bytes per second of the site's link, as far as they are known: what fetchers said of it, or else what went over it.
    pub(super) fn link_rate(&self, exchange: Exchange, now: Moment) -> Option<u64> {
        let known = self.rates.iter().filter(|(device, (_, at))| {
            now.since(*at) < LINK_KNOWN && self.exchange_of(**device).is_none_or(|of| of == exchange)
        });
        let rates: Vec<(DeviceId, u64)> =
            known.map(|(device, (rate, _))| (*device, (*rate).into())).collect();
        // Those that fetch at the same time share the link: what they said last adds up to it, at most. What others said
        // who fetched before them had the same link.
        let fetching = rates.iter().filter(|(device, _)| self.fetchers.contains_key(device));
        let together: u64 = fetching.map(|(_, rate)| rate).sum();
        let fastest = rates.iter().map(|(_, rate)| *rate).max();
        fastest.map(|fastest| fastest.max(together)).or_else(|| {
            let fetching = self.places(exchange);
            let brought = fetching.filter_map(|(device, _)| self.present.get(&device)?.brought);
            self.fetch_for(exchange, LINK_UNKNOWN, now).then(|| brought.map(Brought::rate).sum())
        })
    }

    /// Whether two of the smallest blocks take long on the link, when fetching has gone on for a while.
    pub(super) fn is_thin(&self, exchange: Exchange, now: Moment) -> bool {
        exchange != Exchange::Cut
            && self.fetch_for(exchange, LINK_UNKNOWN, now)
            && self.link_rate(exchange, now).is_some_and(|rate| rate < THIN)
    }

    pub(super) fn fetch_for(&self, exchange: Exchange, time: Duration, now: Moment) -> bool {
        self.places(exchange).any(|(_, since)| now.since(since) >= time)
    }

    pub(super) fn knows_link(&self, now: Moment) -> bool {
        self.rates.values().any(|(_, at)| now.since(*at) < LINK_KNOWN)
    }

    pub(super) fn exchange_of(&self, device: DeviceId) -> Option<Exchange> {
        self.present.get(&device).map(|present| present.exchange)
    }
}
