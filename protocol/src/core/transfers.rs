//! Bytes that moved, as reports say them: what came from where and why, and what was served.

use super::Core;
use super::timers::Timer;
use crate::digest::Blake3Root;
use crate::fetch::Origin;
use crate::identifier::DeviceId;
use crate::limits;
use crate::reason::Reason;
use crate::report::{Body, ContentKind, Source, Transfer, Transfers};
use crate::share::Part;
use crate::time::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes that moved are reported when none has moved for so long.
const TRANSFERS: Duration = Duration::from_millis(1_500);
/// While they go on moving they are reported this often: a large site would fill a thin link with news of itself.
const TRANSFERS_MOST: Duration = Duration::from_secs(60);

impl Core {
    pub(super) fn note_transfer(&mut self, now: Moment) {
        let since = *self.reporting.moving.get_or_insert(now);
        self.timers.set(Timer::Transfers, (now + TRANSFERS).min(since + TRANSFERS_MOST));
    }

    pub(super) fn note_served(&mut self, now: Moment, root: Blake3Root, bytes: u64) {
        let served = self.reporting.served.entry(root).or_default();
        *served = served.saturating_add(bytes);
        self.note_transfer(now);
    }

    pub(super) fn note_metadata_bytes(&mut self, from: DeviceId, bytes: u64) {
        let wan = self.is_seed(from);
        let network = &mut self.reporting.network;
        let total = if wan { &mut network.metadata_wan } else { &mut network.metadata_lan };
        *total = total.saturating_add(bytes);
    }

    /// Bytes on the wire of all connections that cross the WAN, as the driver counts them.
    pub fn set_wan_bytes(&mut self, received: u64, sent: u64) {
        self.reporting.network.wan_in = received;
        self.reporting.network.wan_out = sent;
    }

    /// Reports the bytes of every content that moved since the last report.
    pub(super) fn report_transfers(&mut self) {
        self.reporting.moving = None;
        let mut changed = self.transfers();
        changed
            .retain(|transfer| self.reporting.log.facts().transfers().get(&transfer.root) != Some(transfer));
        changed.truncate(limits::TRANSFERS_PER_REPORT);
        let network = self.reporting.network;
        if changed.is_empty() && network == self.reporting.log.facts().network() {
            return;
        }
        self.report(Body::Transfers(Transfers { contents: changed, network, served: Vec::new() }));
    }

    /// Bytes of every content that this node received or served, in the form of reports.
    pub(super) fn transfers(&self) -> Vec<Transfer> {
        let mut all = self.reporting.before.clone();
        for transfer in self.fetcher.transfers() {
            let root = transfer.content.root;
            let entry = all.entry(root).or_insert_with(|| self.empty_transfer(root, transfer.content.size));
            let mut fetched: BTreeMap<(Source, Reason), u64> =
                entry.fetched.iter().map(|(source, reason, bytes)| ((*source, *reason), *bytes)).collect();
            for ((origin, reason), bytes) in &transfer.bytes {
                let source = match origin {
                    Origin::Wan | Origin::Mirror => Source::Wan,
                    Origin::Lan => Source::Lan,
                };
                *fetched.entry((source, *reason)).or_default() += bytes;
            }
            entry.fetched =
                fetched.into_iter().map(|((source, reason), bytes)| (source, reason, bytes)).collect();
        }
        for (root, served) in &self.reporting.served {
            let size = self.contents.size_of(*root).unwrap_or(0);
            all.entry(*root).or_insert_with(|| self.empty_transfer(*root, size)).served = *served;
        }
        all.into_values().filter(|transfer| transfer.served > 0 || !transfer.fetched.is_empty()).collect()
    }

    fn empty_transfer(&self, root: Blake3Root, size: u64) -> Transfer {
        Transfer { root, size, kind: self.kind(root), fetched: Vec::new(), served: 0 }
    }

    fn kind(&self, root: Blake3Root) -> ContentKind {
        match self.rules.named_by(root).next() {
            Some((_, _, Part::Evidence)) => ContentKind::Evidence,
            _ => ContentKind::Artifact,
        }
    }
}
