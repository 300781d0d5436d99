//! What happened, for logs and for whoever asks: events are values first, log lines and counters derive from them.

use super::attention::{SHOWN, and_more};
use crate::control::{self, FailureKind, answer};
use protocol::core::{Event, Input, Mending};
use protocol::digest::Blake3Root;
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::membership::Rejection;
use protocol::reason::Reason;
use protocol::time::WallTime;
use std::collections::{BTreeMap, BTreeSet};

/// Refusals that are remembered, each with its count.
const REFUSALS: usize = 256;

/// Refusals and problems since the start.
#[derive(Debug, Default)]
pub(super) struct Happened {
    refusals: BTreeMap<(Reason, String, Option<DeviceId>), (u64, WallTime)>,
    problems: BTreeMap<String, answer::Problem>,
    /// Contents that the disk changed and that do not come back by themselves.
    damaged: BTreeMap<Blake3Root, Mending>,
    /// Contents that have other bytes at an origin of this seed: where, and what is wrong.
    wrong: BTreeMap<Blake3Root, String>,
    /// Contents that are here whole and cannot be checked here.
    unchecked: BTreeSet<Blake3Root>,
    unreached: BTreeMap<DeviceId, answer::Unreached>,
    /// Devices that were dialled and did not agree with this one about the time: a certificate is outside its period.
    times: BTreeMap<DeviceId, Outside>,
}

/// By whose clock whose certificate is outside its period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    /// By the clock of this device, the other's.
    Theirs(Rejection),
    /// By the clock of the other device, this one's.
    Ours(Rejection),
}

/// What to do about metadata that was refused: a wrong clock can make it look expired, and nothing else.
fn mend_metadata(code: &str) -> &'static str {
    match code {
        "expired" => "check the clock, then that headquarters runs and can be reached",
        "other-fleet" => "check which fleet this device and its seed belong to",
        _ => "run `patchmesh doctor` at headquarters, which checks the repository of the seed",
    }
}

/// What to do about two devices with one key.
const COPIED: &str = "find the copy (a cloned disk or virtual machine), stop its node, remove its directory and let it join with an activation \
                      key of its own";

impl Happened {
    /// Takes an event: logs it, counts it.
    pub(super) fn take(&mut self, event: Event, now: WallTime) {
        match event {
            Event::MetadataAccepted { timestamp } => {
                self.problems.remove("metadata");
                tracing::info!(timestamp, "newer metadata is in force");
            }
            Event::MetadataRefused { code, message } => {
                tracing::warn!(code, message, "metadata refused; what was trusted before stays in force");
                self.problem("metadata", code, message, mend_metadata(code));
            }
            Event::ShareRefused { peer, root, reason } => {
                tracing::info!(peer = peer.short(), %root, %reason, "not shared");
                self.refused(reason, root.to_string(), Some(peer), now);
            }
            Event::PeerRefused { peer, reason } => {
                tracing::info!(peer = peer.short(), %reason, "message refused");
                self.refused(reason, "message".to_owned(), Some(peer), now);
            }
            Event::OfferRefused { peer, root, reason } => {
                tracing::info!(peer = peer.short(), %root, %reason, "not taken from this peer");
                self.refused(reason, root.to_string(), Some(peer), now);
            }
            Event::FetchRefused { peer, root, reason } => {
                tracing::info!(peer = peer.short(), %root, %reason, "refused by a peer");
                // Both ends show what is wrong with a content, or this one would seem to fetch it for ever.
                if reason.is_about_content() {
                    self.refused(reason, root.to_string(), Some(peer), now);
                }
            }
            Event::PieceCorrupt { peer, root, piece } => {
                tracing::warn!(peer = peer.short(), %root, piece = piece.0, "a peer sent a wrong piece");
                self.refused(Reason::PieceCorrupt, root.to_string(), Some(peer), now);
            }
            Event::OriginWrong { root, detail } => {
                tracing::error!(%root, detail, "an origin of this seed has other bytes");
                self.wrong.insert(root, detail);
            }
            Event::Unchecked { root } => {
                tracing::error!(%root, "content cannot be checked on this device");
                self.unchecked.insert(root);
            }
            Event::ContentComplete { content } => {
                self.damaged.remove(&content.root);
                self.unchecked.remove(&content.root);
                tracing::info!(root = %content.root, size = content.size, "content complete and checked");
            }
            Event::EvidenceRefused { patch, reason } => {
                tracing::warn!(%patch, %reason, "the vendor's signature was refused");
                self.refused(reason, patch.to_string(), None, now);
            }
            Event::Deployment { patch, state } => tracing::info!(%patch, state, "deployment"),
            Event::ScanFailed(message) => {
                tracing::error!(message, "the scan failed");
                self.problem(
                    "scan",
                    "scan-failed",
                    message,
                    "mend the package database, then run `patchmesh scan`",
                );
            }
            Event::StoreFailed(message) => {
                tracing::error!(message, "the store failed");
                self.problem("store", "store-failed", message, "free disk space; the node goes on by itself");
            }
            Event::ClockDiffers { seconds: 0 } => {
                tracing::info!("the clock agrees with the aggregator's again");
                self.problems.remove("clock");
            }
            Event::ClockDiffers { seconds } => {
                tracing::warn!(seconds, "the clock differs from the aggregator's");
                let word = if seconds < 0 { "behind" } else { "ahead of" };
                let minutes = seconds.unsigned_abs() / 60;
                let sentence =
                    format!("The clock of this device is {minutes} minutes {word} the aggregator's.");
                self.problem("clock", "clock", sentence, "set the clock and switch time synchronisation on");
            }
            Event::OtherHistory { stands: false } => {
                tracing::info!("the aggregator takes this device's reports again");
                self.problems.remove("history");
            }
            Event::OtherHistory { stands: true } => {
                tracing::error!("another device reports under this device's identity; reports wait");
                let sentence = "Another device reports to headquarters with the identity of this one; the reports of this one wait.";
                self.problem("history", Reason::OtherHistory.code(), sentence.to_owned(), COPIED);
            }
            Event::DiskDamaged { root, mending } => {
                tracing::error!(%root, ?mending, "the disk changed content that was verified; check the disk");
                match mending {
                    Mending::Fetched | Mending::NotNeeded => {}
                    Mending::HandedIn | Mending::GivenUp => {
                        self.damaged.insert(root, mending);
                    }
                }
            }
            Event::LetGo { root, bytes, last } => {
                self.unchecked.remove(&root);
                tracing::info!(%root, bytes, last, "content that is not needed here any more is let go");
            }
            Event::Problem(message) => {
                tracing::error!(message, "problem");
                self.problem("other", "problem", message, "see the node's log");
            }
        }
    }

    /// A dial reached nobody. Anybody on the LAN can show devices that do not exist, so not for ever so many.
    pub(super) fn dial_failed(&mut self, device: DeviceId, discovered: &str, cause: String, now: WallTime) {
        self.times.remove(&device);
        if self.unreached.len() < limits::CONNECTIONS as usize || self.unreached.contains_key(&device) {
            let entry = answer::Unreached { device, discovered: discovered.to_owned(), cause, last: now };
            self.unreached.insert(device, entry);
        }
    }

    /// A dial ended at the membership check.
    pub(super) fn rejected(&mut self, device: DeviceId, rejection: Rejection, by_them: bool) {
        let by_time = matches!(rejection, Rejection::Expired | Rejection::NotYetValid);
        if by_time && self.unreached.contains_key(&device) {
            let outside = if by_them { Outside::Ours(rejection) } else { Outside::Theirs(rejection) };
            self.times.insert(device, outside);
        }
    }

    /// Whoever of `devices` does not agree with this one about the time.
    pub(super) fn outside(&self, devices: impl Iterator<Item = DeviceId>) -> Option<(DeviceId, Outside)> {
        devices.filter_map(|device| Some((device, *self.times.get(&device)?))).next()
    }

    /// The store answered: when it takes records again, its problem is over. Reports are stored again, metadata is asked for and an
    /// installation tried again; the rest is stored when it next changes.
    pub(super) fn stored(&mut self, answers: &[Input]) {
        let taken = |answer: &Input| matches!(answer, Input::Stored { result: Ok(()), .. });
        if answers.iter().all(taken) && self.problems.remove("store").is_some() {
            tracing::info!("the store takes records again");
        }
    }

    /// A device is connected: what kept it from that is over.
    pub(super) fn reached(&mut self, device: DeviceId) {
        self.times.remove(&device);
        self.unreached.remove(&device);
    }

    /// Devices that could not be reached.
    pub(super) fn unreached(&self) -> Vec<answer::Unreached> {
        self.unreached.values().cloned().collect()
    }

    /// A seed read its repository, or could not: devices cannot tell which of its files is at fault.
    pub(super) fn repository(&mut self, failure: Option<&str>) {
        let Some(cause) = failure else {
            self.problems.remove("repository");
            return;
        };
        tracing::error!(cause, "the repository cannot be served");
        self.problem(
            "repository",
            "repository",
            format!("Devices get no new metadata from this seed: {cause}."),
            "mend its disk, or restore the directory that seed.repository names from a backup and run `patchmesh fleet publish --anew`",
        );
    }

    /// The repository of this seed is looked at anew, and nobody else gives it metadata.
    pub(super) fn metadata_comes(&mut self) {
        self.problems.remove("metadata");
    }

    /// Why this seed does not serve what its repository holds.
    pub(super) fn not_served(&self) -> Option<control::Failure> {
        let answer::Problem { reason, remedy } =
            self.problems.get("repository").or_else(|| self.problems.get("metadata"))?.clone();
        Some(control::Failure {
            kind: FailureKind::Failed,
            code: reason.code,
            message: reason.sentence,
            remedy,
        })
    }

    /// A scan succeeded: what was wrong with scans is over.
    pub(super) fn scan_succeeded(&mut self) {
        self.problems.remove("scan");
    }

    /// The origins of this seed have the right bytes of a content again, or nobody wants it any more.
    pub(super) fn origin_right(&mut self, root: Blake3Root) {
        if self.wrong.remove(&root).is_some() {
            tracing::info!(%root, "no origin of this seed has other bytes of this content any more");
        }
    }

    fn problem(&mut self, about: &str, code: &str, sentence: String, remedy: &str) {
        let reason = answer::Cause { code: code.to_owned(), sentence };
        self.problems.insert(about.to_owned(), answer::Problem { reason, remedy: Some(remedy.to_owned()) });
    }

    /// Counts a refusal.
    pub(super) fn refused(&mut self, reason: Reason, subject: String, peer: Option<DeviceId>, now: WallTime) {
        let key = (reason, subject, peer);
        if self.refusals.len() >= REFUSALS && !self.refusals.contains_key(&key) {
            self.make_room();
        }
        let entry = self.refusals.entry(key).or_default();
        *entry = (entry.0.saturating_add(1), now);
    }

    /// A peer that is refused in many ways, and often, does not drive out what others do: of whoever has most entries the
    /// rarest and oldest goes.
    fn make_room(&mut self) {
        let mut entries: BTreeMap<Option<DeviceId>, usize> = BTreeMap::new();
        for (_, _, peer) in self.refusals.keys() {
            *entries.entry(*peer).or_default() += 1;
        }
        let most = entries.into_iter().max_by_key(|(_, entries)| *entries).map(|(peer, _)| peer);
        let of_most = self.refusals.iter().filter(|((_, _, peer), _)| Some(*peer) == most);
        let least = of_most.min_by_key(|(_, counted)| **counted).map(|(key, _)| key.clone());
        least.map(|key| self.refusals.remove(&key));
    }

    /// The refusals, most frequent first.
    pub(super) fn refusals(&self) -> Vec<answer::Refusal> {
        let mut refusals: Vec<answer::Refusal> = self
            .refusals
            .iter()
            .map(|((reason, subject, peer), (count, last))| answer::Refusal {
                reason: (*reason).into(),
                subject: subject.clone(),
                peer: *peer,
                count: *count,
                last: *last,
            })
            .collect();
        refusals.sort_by_key(|refusal| std::cmp::Reverse(refusal.count));
        refusals
    }

    /// What needs attention.
    pub(super) fn problems(&self) -> Vec<answer::Problem> {
        let contents = self.origin_problems().into_iter().chain(self.unchecked_problem());
        self.problems.values().cloned().chain(self.disk_problem()).chain(contents).collect()
    }

    /// One for each content, since each says another place; the last that is shown counts the rest.
    fn origin_problems(&self) -> Vec<answer::Problem> {
        let rest = self.wrong.len().saturating_sub(SHOWN);
        let shown = self.wrong.iter().take(SHOWN).enumerate().map(|(at, (root, detail))| {
            let others = match rest {
                others if others > 0 && at + 1 == SHOWN => format!("; so have {others} more contents"),
                _ => String::new(),
            };
            let sentence = format!("Content {root} has other bytes where this seed reads it: {detail}{others}.");
            let reason = answer::Cause { code: Reason::OriginCorrupt.code().to_owned(), sentence };
            let remedy = "find out who changed it and put the right file there again; what reads right is served again";
            answer::Problem { reason, remedy: Some(remedy.to_owned()) }
        });
        shown.collect()
    }

    fn unchecked_problem(&self) -> Option<answer::Problem> {
        let root = self.unchecked.first()?;
        let sentence = format!(
            "Content {root}{} is here and cannot be checked on this device, so nobody gets it.",
            and_more(self.unchecked.len())
        );
        let reason = answer::Cause { code: Reason::MissingEvidence.code().to_owned(), sentence };
        Some(answer::Problem {
            reason,
            remedy: Some("see the node's log, which names what is missing".to_owned()),
        })
    }

    fn disk_problem(&self) -> Option<answer::Problem> {
        let (root, mending) = self.damaged.first_key_value()?;
        let others = and_more(self.damaged.len());
        let sentence =
            format!("The disk of this device changed content {root}{others}; nobody gets what is damaged.");
        let remedy = match mending {
            Mending::HandedIn => {
                "check the disk, then run `patchmesh fleet publish`, which hands the content in again"
            }
            _ => "check the disk, then restart the node, which fetches the content again",
        };
        let reason = answer::Cause { code: Reason::DiskDamaged.code().to_owned(), sentence };
        Some(answer::Problem { reason, remedy: Some(remedy.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::core::StoreFailure;
    use protocol::effect::EffectIds;

    const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);

    fn root(number: u8) -> Blake3Root {
        Blake3Root::from_bytes([number; 32])
    }

    fn wrong(happened: &mut Happened, number: u8) {
        let detail = format!("the bucket has other bytes in piece {number}");
        happened.take(Event::OriginWrong { root: root(number), detail }, NOW);
    }

    #[test]
    fn each_wrong_content_needs_attention_until_it_reads_right() {
        let mut happened = Happened::default();
        wrong(&mut happened, 1);
        wrong(&mut happened, 2);
        let sentences: Vec<String> =
            happened.problems().into_iter().map(|problem| problem.reason.sentence).collect();
        assert_eq!(sentences.len(), 2, "the second hides the first: {sentences:?}");
        happened.origin_right(root(1));
        let left = happened.problems();
        assert_eq!(left.len(), 1);
        assert!(left[0].reason.sentence.contains("piece 2"), "{:?}", left[0]);
        happened.origin_right(root(2));
        assert_eq!(happened.problems(), Vec::new());
        (1..=9).for_each(|number| wrong(&mut happened, number));
        let many = happened.problems();
        assert_eq!(many.len(), SHOWN);
        assert!(many[SHOWN - 1].reason.sentence.contains("6 more"), "{:?}", many[SHOWN - 1]);
    }

    #[test]
    fn a_store_that_takes_records_again_needs_no_attention() {
        let mut happened = Happened::default();
        happened.take(Event::StoreFailed("no space left".to_owned()), NOW);
        let answer = |result| Input::Stored { effect: EffectIds::default().fresh(), result };
        happened.stored(&[answer(Err(StoreFailure("no space left".to_owned())))]);
        assert_eq!(happened.problems().len(), 1);
        happened.stored(&[answer(Ok(()))]);
        assert_eq!(happened.problems(), Vec::new());
    }

    #[test]
    fn what_could_not_be_checked_is_over_when_it_was() {
        let mut happened = Happened::default();
        happened.take(Event::Unchecked { root: root(1) }, NOW);
        assert_eq!(happened.problems().len(), 1);
        happened.take(Event::LetGo { root: root(1), bytes: 1, last: false }, NOW);
        assert_eq!(happened.problems(), Vec::new());
    }

    #[test]
    fn a_peer_that_is_refused_often_drives_out_nobody_else() {
        let mut happened = Happened::default();
        let (loud, quiet) = (DeviceId::from_bytes([1; 32]), DeviceId::from_bytes([2; 32]));
        happened.refused(Reason::PieceCorrupt, "the one".to_owned(), Some(quiet), NOW);
        let later = NOW.plus_seconds(1);
        for _ in 0..2 {
            for subject in 0..REFUSALS {
                happened.refused(Reason::PieceCorrupt, subject.to_string(), Some(loud), later);
            }
        }
        let kept = happened.refusals();
        assert_eq!(kept.len(), REFUSALS);
        assert!(kept.iter().any(|refusal| refusal.peer == Some(quiet)), "it is gone");
    }
}
