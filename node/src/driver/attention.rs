//! What needs somebody's attention: what happened and is not over, and what stands so now.

use super::events::Outside;
use super::run::Driver;
use super::start::now;
use crate::control::answer::{Cause, Problem};
use protocol::digest::Blake3Root;
use protocol::membership::Rejection;
use protocol::reason::Reason;
use protocol::time::WallTime;
use std::collections::BTreeMap;

/// The code of what is wrong with the clock.
const CLOCK: &str = "clock";
/// What helps then.
const SET_IT: &str = "set the clock and switch time synchronisation on";
/// Clocks differ by less than this without harm.
const CLOCK_SECONDS: u64 = 300;
/// Problems of one kind that are shown; the last of them counts the rest.
pub(super) const SHOWN: usize = 3;

impl Driver {
    /// Everything that needs attention, in a metadata repository that `expires` then.
    pub(super) fn problems(&self, expires: Option<WallTime>) -> Vec<Problem> {
        let mut problems = self.happened.problems();
        problems.extend(expires.filter(|expires| now() >= *expires).map(|expires| self.expired(expires)));
        if !problems.iter().any(|problem| problem.reason.code == CLOCK) {
            problems.extend(self.clock());
        }
        problems.extend(self.without_room());
        problems.extend(self.unreadable());
        problems
    }

    /// Metadata that expired without news, whether or not anybody offered any.
    fn expired(&self, expires: WallTime) -> Problem {
        let sentence = expired_sentence(expires, self.core.policy().offline_days, now());
        let remedy = "check the clock, then that headquarters runs and can be reached";
        problem(Reason::MetadataExpired, sentence, Some(remedy))
    }

    /// A clock that is so far off that no aggregator can tell: nobody is connected any more, and the network is not to blame.
    fn clock(&self) -> Option<Problem> {
        let (now, member) = (now(), self.core.member());
        if now.plus_seconds(CLOCK_SECONDS) < member.issued {
            let sentence = format!(
                "The clock of this device says {now}, which is before its membership certificate was issued, at {}.",
                member.issued
            );
            return Some(with_code(CLOCK, sentence, Some(SET_IT)));
        }
        if now >= member.expires {
            let sentence = format!(
                "By the clock of this device, which says {now}, its membership certificate expired at {}; no member talks to it.",
                member.expires
            );
            let remedy = "check the clock first; if it is right, stop the node, remove its directory and run `patchmesh join` \
                          with a new activation key";
            return Some(problem(Reason::MembershipExpired, sentence, Some(remedy)));
        }
        let services = self.core.services();
        let devices = services.seeds.iter().map(|seed| seed.device);
        let devices = devices.chain(services.aggregators.iter().map(|aggregator| aggregator.device));
        let (device, outside) = self.happened.outside(devices)?;
        let period = |rejection| match rejection {
            Rejection::Expired => "has expired",
            _ => "is not valid yet",
        };
        let sentence = match outside {
            Outside::Theirs(rejection) => format!(
                "By the clock of this device, which says {now}, the certificate of {} at headquarters {}, so the two do not talk.",
                device.short(),
                period(rejection)
            ),
            Outside::Ours(rejection) => format!(
                "{} at headquarters says that the certificate of this device {}; by the clock here, which says {now}, it counts from \
                 {} to {}.",
                device.short(),
                period(rejection),
                member.issued,
                member.expires
            ),
        };
        let remedy = "compare the clocks of both with the time, set the wrong one and switch time synchronisation on; if both are \
                      right, the device whose certificate it is has to join again";
        Some(with_code(CLOCK, sentence, Some(remedy)))
    }

    /// Patches that cannot be fetched since this device has no room for them.
    fn without_room(&self) -> Option<Problem> {
        let waiting = self.core.without_room();
        let (patch, cause) = waiting.first()?;
        let sentence = format!("{patch}{} cannot be fetched. {}", and_more(waiting.len()), cause.sentence);
        Some(problem(Reason::DiskFull, sentence, None))
    }

    /// Contents that this seed cannot read where they lie: devices wait for them, and cannot say why.
    fn unreadable(&self) -> Vec<Problem> {
        let mut all: BTreeMap<(Reason, String), Vec<Blake3Root>> = BTreeMap::new();
        let failing = self.means.origins.as_ref().map(|origins| origins.failing()).unwrap_or_default();
        for (root, failing) in failing {
            all.entry((failing.reason, failing.says)).or_default().push(root);
        }
        let again =
            "it is tried again and again; `patchmesh doctor` shows whether storage and mirrors answer";
        let from_elsewhere = all.into_iter().map(|((reason, says), roots)| {
            problem(reason, format!("{}: {says}.", self.devices_wait(&roots)), Some(again))
        });
        let mut problems: Vec<Problem> = from_elsewhere.take(SHOWN).collect();
        let here: Vec<(Blake3Root, String)> = self.grants.unreadable().into_iter().collect();
        if let Some((_, says)) = here.first() {
            let roots: Vec<Blake3Root> = here.iter().map(|(root, _)| *root).collect();
            let sentence = format!("{} on its own disk: {says}.", self.devices_wait(&roots));
            let remedy = "check the directory content of this node and who may read it, restart the node, then run \
                          `patchmesh fleet publish`, which hands the content in again";
            problems.push(problem(Reason::DiskDamaged, sentence, Some(remedy)));
        }
        problems
    }

    fn devices_wait(&self, roots: &[Blake3Root]) -> String {
        let Some(root) = roots.first() else { return String::new() };
        let named = self.core.approved_manifests().into_iter().find_map(|(_, manifest)| {
            let names = manifest.contents().iter().any(|content| content.root == *root);
            names.then(|| manifest.patch.to_string())
        });
        let named = named.unwrap_or_else(|| format!("content {root}"));
        format!("Devices wait for {named}{}, which this seed cannot read", and_more(roots.len()))
    }
}

fn expired_sentence(expires: WallTime, days: u32, now: WallTime) -> String {
    let until = expires.plus_days(days);
    match now >= until {
        true => format!(
            "The signed metadata expired at {expires}, and without news for {days} days it is in force no more: the node only scans and reports."
        ),
        false => {
            format!("The signed metadata expired at {expires}; without news it stays in force until {until}.")
        }
    }
}

fn problem(reason: Reason, sentence: String, remedy: Option<&str>) -> Problem {
    with_code(reason.code(), sentence, remedy)
}

fn with_code(code: &str, sentence: String, remedy: Option<&str>) -> Problem {
    let reason = Cause { code: code.to_owned(), sentence };
    Problem { reason, remedy: remedy.map(str::to_owned) }
}

pub(super) fn and_more(all: usize) -> String {
    match all.saturating_sub(1) {
        0 => String::new(),
        others => format!(" and {others} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves X6
    #[test]
    fn expired_metadata_stays_in_force_until_a_day_that_is_to_come() {
        let expires = WallTime::from_unix_seconds(1_800_000_000);
        let until = expires.plus_days(30);
        let before = expired_sentence(expires, 30, expires);
        assert!(before.ends_with(&format!("without news it stays in force until {until}.")), "{before}");
        let after = expired_sentence(expires, 30, until);
        assert!(
            after.ends_with(
                "without news for 30 days it is in force no more: the node only scans and reports."
            )
        );
        assert!(!after.contains(&until.to_string()), "{after}");
    }
}
