//! What is fetched before what: by severity, and by deadlines and the wall clock (decision 0060).

use super::Core;
use super::rules::{artifact_of, evidence_of};
use crate::digest::Blake3Root;
use crate::fetch::{Due, Priority, Urgency};
use crate::identifier::ManifestDigest;
use crate::manifest::{Content, Manifest, Severity};
use crate::policy::Effective;
use crate::policy::deadline::Deadline;
use crate::time::WallTime;

/// Between which times of the wall clock the same patches are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period {
    from: WallTime,
    until: WallTime,
}

impl Default for Period {
    fn default() -> Period {
        Period { from: WallTime::from_unix_seconds(0), until: WallTime::from_unix_seconds(u64::MAX) }
    }
}

impl Period {
    /// Whether a patch is due at `wall`, which is within the period until the next one becomes due.
    pub(super) fn judge(&mut self, deadline: Option<Deadline>, wall: WallTime) -> Due {
        let due = due(deadline, wall);
        match (deadline.map(Deadline::due_from), due) {
            (Some(from), Due::Now) => self.from = self.from.max(from),
            (Some(from), Due::Later) => self.until = self.until.min(from),
            (None, _) => {}
        }
        due
    }
}

impl Core {
    /// Whatever the clock did, forward or back: what is due by it goes first.
    pub(super) fn revise_deadlines(&mut self) {
        let Period { from, until } = self.contents.due;
        if !(from..until).contains(&self.wall) {
            self.retarget();
        }
    }

    /// The deadline of a manifest on this device.
    pub(super) fn deadline_of(&self, digest: ManifestDigest, manifest: &Manifest) -> Option<Deadline> {
        self.rules.effective.deadline(&manifest.patch, digest, manifest.severity)
    }

    /// What a content that is wanted for this manifest goes before, at whoever has this policy.
    pub(super) fn priority_of(
        &self,
        policy: &Effective,
        digest: ManifestDigest,
        root: Blake3Root,
    ) -> Priority {
        let Some(manifest) = self.rules.manifest(digest) else { return Urgency::Evidence.into() };
        let artifact = artifact_of(manifest, root);
        Priority {
            due: due(policy.deadline(&manifest.patch, digest, manifest.severity), self.wall),
            urgency: artifact.map_or(Urgency::Evidence, |_| urgency(manifest)),
        }
    }
}

/// The contents that a manifest names, each with how urgent it is; artifacts only where the evidence proved them.
pub(super) fn named(digest: ManifestDigest, manifest: &Manifest, proven: bool) -> Vec<(Content, Urgency)> {
    let evidence = evidence_of(digest, manifest).into_iter().map(|named| (named.content, Urgency::Evidence));
    let artifacts = manifest.artifacts.iter().filter(|_| proven);
    evidence.chain(artifacts.map(|artifact| (artifact.content, urgency(manifest)))).collect()
}

fn due(deadline: Option<Deadline>, wall: WallTime) -> Due {
    if deadline.is_some_and(|deadline| deadline.due_from() <= wall) { Due::Now } else { Due::Later }
}

fn urgency(manifest: &Manifest) -> Urgency {
    if manifest.severity == Severity::Critical { Urgency::Critical } else { Urgency::Normal }
}
