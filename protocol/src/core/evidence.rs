//! Who made a patch: evidence that is here is checked, and each manifest judged by it.

use super::content::Contents;
use super::rules::evidence_of;
use super::{Core, Event, Output, Pending};
use crate::digest::Blake3Root;
use crate::effect::EffectId;
use crate::identifier::ManifestDigest;
use crate::manifest::{Evidence, Manifest};
use crate::reason::Reason;
use crate::report::IncidentKind;
use crate::time::{Moment, WallTime};
use crate::verify::{self, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What checking a manifest's evidence came to.
#[derive(Debug)]
pub(super) enum Judged {
    /// Under way; an answer to an earlier question may rest on keys that were revoked since.
    Checking(EffectId),
    /// One verdict for each artifact.
    Verified(Vec<Verdict>),
    Refused(Reason),
}

impl Contents {
    /// What checking the manifest's evidence came to; `None` before. A verdict ends when its key does.
    pub(super) fn verdict(&self, manifest: ManifestDigest, now: WallTime) -> Option<Result<(), Reason>> {
        match self.judged.get(&manifest)? {
            Judged::Checking(_) => None,
            Judged::Verified(verdicts) if verdicts.iter().all(|verdict| verdict.holds(now)) => Some(Ok(())),
            Judged::Verified(_) => Some(Err(Reason::KeyExpired)),
            Judged::Refused(reason) => Some(Err(*reason)),
        }
    }

    /// All that was judged, in the form that plans are made from.
    pub(super) fn verdicts(&self, now: WallTime) -> BTreeMap<ManifestDigest, Result<(), Reason>> {
        self.judged.keys().filter_map(|digest| Some((*digest, self.verdict(*digest, now)?))).collect()
    }
}

impl Core {
    pub(super) fn has_evidence(&self, digest: ManifestDigest, manifest: &Manifest) -> bool {
        evidence_of(digest, manifest).iter().all(|named| self.contents.is_checked(&named.content))
    }

    /// Checks the evidence of every relevant manifest whose evidence is here and not judged yet.
    pub(super) fn check_evidence(&mut self, now: Moment) {
        for (digest, manifest) in self.relevant() {
            if self.contents.judged.contains_key(&digest) || !self.has_evidence(digest, &manifest) {
                continue;
            }
            let needs_disk =
                manifest.artifacts.iter().any(|artifact| matches!(artifact.evidence, Evidence::Apt(_)));
            if needs_disk {
                let effect = self.expect(Pending::Evidence(digest));
                self.contents.judged.insert(digest, Judged::Checking(effect));
                let vendors = Arc::clone(&self.rules.vendors);
                self.outputs.push_back(Output::CheckEvidence { effect, manifest, vendors });
            } else {
                let judged = verify::verify_all_ed25519(&manifest, &self.rules.vendors, self.wall);
                self.judge(now, digest, judged.map_err(|refusal| Reason::from(&refusal)));
            }
        }
    }

    pub(super) fn on_evidence(
        &mut self,
        now: Moment,
        effect: EffectId,
        result: Result<Vec<Verdict>, Reason>,
    ) {
        let Some(Pending::Evidence(digest)) = self.pending.remove(&effect) else { return };
        if matches!(self.contents.judged.get(&digest), Some(Judged::Checking(latest)) if *latest == effect) {
            match result {
                Err(Reason::MissingEvidence) if self.fetch_evidence_again(digest) => {}
                result => self.judge(now, digest, result),
            }
            self.advance_contents(now);
        }
    }

    /// A file of evidence is gone from the disk or cannot be read there: that says nothing about the vendor.
    fn fetch_evidence_again(&mut self, digest: ManifestDigest) -> bool {
        let Some(manifest) = self.rules.manifest(digest) else { return false };
        let roots: Vec<Blake3Root> =
            evidence_of(digest, manifest).iter().map(|named| named.content.root).collect();
        self.contents.judged.remove(&digest);
        // Each of them is counted, whichever it was.
        let spoiled: Vec<bool> = roots.iter().map(|root| self.drop_spoiled(*root)).collect();
        if self.setup.roles.seed {
            // Nothing brings them back by itself.
            roots.into_iter().for_each(|root| self.note_damage(root, "it"));
        }
        spoiled.contains(&true)
    }

    /// A verdict counts for the manifest that it was made for, and when it covers every artifact.
    fn judge(&mut self, now: Moment, digest: ManifestDigest, result: Result<Vec<Verdict>, Reason>) {
        let Some(manifest) = self.rules.manifest(digest).cloned() else {
            self.contents.judged.remove(&digest);
            return;
        };
        let covers = |verdicts: &[Verdict]| {
            manifest.artifacts.iter().all(|artifact| {
                verdicts
                    .iter()
                    .any(|verdict| verdict.manifest() == digest && verdict.content() == artifact.content)
            })
        };
        let judged = match result {
            _ if crate::mutant::mutated(crate::mutant::Mutant::RefuseEvidence) => {
                Judged::Refused(Reason::EvidenceMismatch)
            }
            Ok(verdicts) if covers(&verdicts) => Judged::Verified(verdicts),
            Ok(_) => Judged::Refused(Reason::EvidenceMismatch),
            Err(reason) => Judged::Refused(reason),
        };
        if let Judged::Refused(reason) = &judged {
            let (patch, reason) = (manifest.patch.clone(), *reason);
            self.incident_for(IncidentKind::RefusedContent, Some(reason), &patch);
            self.event(Event::EvidenceRefused { patch, reason });
        }
        let refused = matches!(judged, Judged::Refused(_));
        self.contents.judged.insert(digest, judged);
        if refused {
            self.replan(now);
        } else {
            self.offer_again();
        }
    }

    /// New vendors: what was judged by the keys of the old ones is judged again.
    pub(super) fn recheck_evidence(&mut self) {
        self.contents.judged.clear();
    }

    /// New metadata with the same vendors: verdicts stand for the manifests that are still listed, so that no transfer
    /// is torn; what was refused gets another chance, unless this device's own disk is at fault.
    pub(super) fn keep_verdicts(&mut self) {
        let rules = &self.rules;
        self.contents.judged.retain(|digest, judged| {
            let stands = !matches!(judged, Judged::Refused(reason) if *reason != Reason::DiskDamaged);
            stands && rules.manifest(*digest).is_some()
        });
    }

    /// Who made the vendor's word good for a patch, for people.
    pub(super) fn signers(&self, digest: ManifestDigest) -> Vec<String> {
        match self.contents.judged.get(&digest) {
            Some(Judged::Verified(verdicts)) => {
                verdicts.iter().map(|verdict| verdict.signer().to_string()).collect()
            }
            _ => Vec::new(),
        }
    }
}
