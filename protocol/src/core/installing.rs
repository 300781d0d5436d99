//! The installer: asked once more before it starts, counted on the disk first, and judged by the rescan.

use super::timers::Timer;
use super::{Core, InstallEnd, Output, Pending};
use crate::deploy::{Action, Event as Happened, Retries, State};
use crate::effect::EffectId;
use crate::identifier::{ManifestDigest, PatchId};
use crate::manifest::Manifest;
use crate::plan::{Purpose, Step};
use crate::reason::Reason;
use crate::scan::Finding;
use crate::time::Moment;
use std::sync::Arc;
use std::time::Duration;

/// How soon a deployment that waits for a lock or for disk space is tried again.
const WAIT: Duration = Duration::from_secs(30);

impl Core {
    /// The installer is about to start: the attempt is counted on the disk first, so that a crash cannot hide it (N15).
    pub(super) fn on_installer_ready(&mut self, install: EffectId) {
        let patch = match self.pending.get(&install) {
            Some(Pending::Install(patch)) => patch.clone(),
            _ => return,
        };
        let retries = Retries::of(self.setup.member.system.family);
        let Some(deployment) = self.deploying.deployments.get_mut(&patch) else { return };
        // A deployment whose installer was asked for takes the event.
        let _ = deployment.apply(Happened::InstallerStarted, retries);
        let record = self.deployment_record(&patch);
        self.store(vec![record], Pending::StoreStart(install, patch));
    }

    pub(super) fn on_start_stored(&mut self, install: EffectId, patch: &PatchId, durable: bool) {
        let go = if durable { self.may_install(patch).map(drop) } else { Err(Reason::DiskFull) };
        self.outputs.push_back(Output::StartInstaller { effect: install, go });
    }

    pub(super) fn on_deployment_stored(
        &mut self,
        now: Moment,
        patch: &PatchId,
        actions: Vec<Action>,
        durable: bool,
    ) {
        for action in actions {
            match action {
                Action::Fetch => self.retarget(),
                // Not durable: nothing is installed that a restart would not know of.
                Action::Install if !durable => {
                    self.on_install_end(now, patch, InstallEnd::NotStarted(Reason::DiskFull, String::new()));
                }
                Action::Install => self.install(now, patch),
                Action::Rescan if crate::mutant::mutated(crate::mutant::Mutant::NeverRescan) => {}
                Action::Rescan => self.scan(now),
                Action::Report if crate::mutant::mutated(crate::mutant::Mutant::DeploymentUnreported) => {}
                Action::Report => self.report_deployment(patch),
            }
        }
    }

    fn install(&mut self, now: Moment, patch: &PatchId) {
        match self.may_install(patch) {
            Ok((manifest, generation)) => {
                let effect = self.expect(Pending::Install(patch.clone()));
                self.outputs.push_back(Output::Install { effect, manifest, generation });
            }
            Err(reason) => {
                self.on_install_end(now, patch, InstallEnd::NotStarted(reason, String::new()));
            }
        }
    }

    /// The last question before the installer starts: whatever changed while the record became durable, and while a
    /// restarted node checked its files again, counts.
    fn may_install(&self, patch: &PatchId) -> Result<(Arc<Manifest>, u64), Reason> {
        let deployment = self.deploying.deployments.get(patch).ok_or(Reason::NotInCatalogue)?;
        let manifest = self.rules.manifest(deployment.manifest).ok_or(Reason::NotInCatalogue)?;
        if self.rules.effective.hold(patch).is_some() {
            return Err(Reason::Held);
        }
        let left_out = self.deploying.plan.left_out.get(patch);
        match self.deploying.plan.step(patch) {
            Some(step) if step.manifest != deployment.manifest => Err(Reason::ApprovedOtherManifest),
            Some(Step { purpose: Purpose::FetchAhead(reason), .. }) => Err(*reason),
            Some(step) if self.is_ready(step) => Ok((Arc::clone(manifest), deployment.generation)),
            Some(step) => Err(match self.contents.verdict(step.manifest, self.wall) {
                Some(Err(reason)) => reason,
                _ => Reason::NotVerifiedYet,
            }),
            None => Err(left_out.map_or(Reason::NotApplicable, |out| out.reason)),
        }
    }

    pub(super) fn on_installed(&mut self, now: Moment, effect: EffectId, result: InstallEnd) {
        let Some(Pending::Install(patch)) = self.pending.remove(&effect) else { return };
        self.on_install_end(now, &patch, result);
    }

    fn on_install_end(&mut self, now: Moment, patch: &PatchId, end: InstallEnd) {
        match end {
            InstallEnd::Exited { code, log } => {
                self.deploying.ends.insert(patch.clone(), (code, log));
                self.happened(patch, Happened::InstallerStarted);
                let result = if code == Some(0) { None } else { Some(Reason::InstallerFailed) };
                self.happened(patch, Happened::InstallerExited(result));
            }
            InstallEnd::Killed { log } => {
                self.deploying.ends.insert(patch.clone(), (None, log));
                self.happened(patch, Happened::InstallerStarted);
                self.happened(patch, Happened::InstallerExited(Some(Reason::InstallerInterrupted)));
            }
            InstallEnd::NotStarted(reason, detail) => {
                self.deploying.ends.insert(patch.clone(), (None, detail));
                if let Some(deployment) = self.deploying.deployments.get_mut(patch) {
                    deployment.did_not_start();
                }
                self.deploying.not_before.insert(patch.clone(), now + WAIT);
                self.timers.bring_forward(Timer::Deployments, now + WAIT);
                self.happened(patch, Happened::InstallerExited(Some(reason)));
            }
        }
    }

    /// The rescan decides, not the installer's exit code (S11).
    pub(super) fn conclude_rescans(&mut self, now: Moment) {
        let rescanning: Vec<(PatchId, ManifestDigest)> = self
            .deploying
            .deployments
            .values()
            .filter(|deployment| deployment.state == State::Rescanning)
            .map(|deployment| (deployment.patch.clone(), deployment.manifest))
            .collect();
        for (patch, manifest) in rescanning {
            let event = match self.deploying.findings.of(&patch, manifest) {
                _ if crate::mutant::mutated(crate::mutant::Mutant::RescanBelievesInstaller) => {
                    Happened::FoundInstalled
                }
                Finding::Installed => Happened::FoundInstalled,
                Finding::Missing | Finding::NotApplicable | Finding::NotAssessed => Happened::FoundMissing,
            };
            self.happened(&patch, event);
        }
        self.advance_deployments(now);
    }
}
