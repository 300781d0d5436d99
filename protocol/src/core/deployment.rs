//! Scan, plan and deploy: what is missing becomes a plan, the plan becomes deployments, the rescan decides.

use super::timers::Timer;
use super::{Core, Event, Output, Pending, Record, RestoreError, prefix};
use crate::codec;
use crate::deploy::{Deployment, Event as Happened, Retries, State, WaitFor};
use crate::effect::EffectId;
use crate::identifier::{ManifestDigest, PatchId};
use crate::inventory::Inventory;
use crate::limits;
use crate::plan::{self, Facts, Plan, Purpose, Step};
use crate::reason::Reason;
use crate::scan::{self, Finding, Findings, Scope};
use crate::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How soon a failed scan is repeated.
const SCAN_AGAIN: Duration = Duration::from_secs(60);

/// Observed and desired state of the patches on this device.
#[derive(Debug, Default)]
pub(super) struct Deploying {
    inventory: Option<Inventory>,
    pub(super) findings: Findings,
    pub(super) plan: Plan,
    pub(super) deployments: BTreeMap<PatchId, Deployment>,
    scanning: bool,
    scan_again: bool,
    /// The deployment whose installer may be at work, or is about to be.
    running: Option<PatchId>,
    /// Not tried again before: a lock was busy or a disk full.
    pub(super) not_before: BTreeMap<PatchId, Moment>,
    /// How the last installer of a patch ended: exit code and the end of what it said.
    pub(super) ends: BTreeMap<PatchId, (Option<i32>, String)>,
}

impl Deploying {
    pub(super) fn restore(
        records: Vec<(String, Vec<u8>)>,
        plan: Option<Vec<u8>>,
    ) -> Result<Deploying, RestoreError> {
        let mut deploying = Deploying::default();
        for (name, bytes) in records {
            let deployment: Deployment = codec::decode::<_, { limits::MESSAGE_BYTES }>(&bytes)
                .map_err(|_| RestoreError::Deployment(name.clone()))?;
            deploying.deployments.insert(deployment.patch.clone(), deployment);
        }
        if let Some(bytes) = plan {
            let generation: u64 =
                codec::decode::<_, 16>(&bytes).map_err(|_| RestoreError::Deployment("plan".to_owned()))?;
            deploying.plan.generation = generation;
        }
        Ok(deploying)
    }

    /// Manifests of the plan.
    pub(super) fn planned(&self) -> BTreeSet<ManifestDigest> {
        self.plan.steps.iter().map(|step| step.manifest).collect()
    }

    /// What the last scan read.
    pub(super) fn inventory(&self) -> Option<&Inventory> {
        self.inventory.as_ref()
    }

    pub(super) fn scanned(&self) -> bool {
        self.inventory.is_some()
    }
}

impl Core {
    /// Whether a scan is under way; one that was asked for meanwhile follows it at once.
    pub fn is_scanning(&self) -> bool {
        self.deploying.scanning
    }

    pub(super) fn scan(&mut self, now: Moment) {
        let minutes = u64::from(self.rules.effective.scan_minutes);
        self.timers.set(Timer::Scan, now + Duration::from_secs(minutes * 60));
        if self.deploying.scanning {
            self.deploying.scan_again = true;
            return;
        }
        self.deploying.scanning = true;
        let effect = self.expect(Pending::Scan);
        self.outputs.push_back(Output::Scan { effect });
    }

    /// A scan that was due by policy begins a new cycle: what failed and may be tried again is tried again.
    pub(super) fn begin_cycle(&mut self, now: Moment) {
        let retries = Retries::of(self.setup.member.system.family);
        for deployment in self.deploying.deployments.values_mut() {
            deployment.new_cycle();
        }
        let failed: Vec<PatchId> = self
            .deploying
            .deployments
            .values()
            .filter(|deployment| deployment.state == State::Failed && deployment.may_start(retries))
            .map(|deployment| deployment.patch.clone())
            .collect();
        for patch in failed {
            self.happened(&patch, Happened::Retry);
        }
        self.scan(now);
    }

    pub(super) fn on_scanned(&mut self, now: Moment, effect: EffectId, result: Result<Inventory, String>) {
        self.pending.remove(&effect);
        self.deploying.scanning = false;
        if std::mem::take(&mut self.deploying.scan_again) {
            // The facts are older than the wish for them.
            self.scan(now);
            return;
        }
        match result {
            Ok(inventory) => {
                self.deploying.inventory = Some(inventory);
                self.reassess(now);
                self.conclude_rescans(now);
                self.replan(now);
            }
            Err(cause) => {
                self.event(Event::ScanFailed(cause));
                self.timers.bring_forward(Timer::Scan, now + SCAN_AGAIN);
            }
        }
    }

    /// Compares the catalogues with what is installed, as far as that is known.
    pub(super) fn reassess(&mut self, now: Moment) {
        let Some(inventory) = &self.deploying.inventory else { return };
        self.deploying.findings = scan::assess(&self.rules.catalogues, inventory, &Scope::AllPatches);
        if !crate::mutant::mutated(crate::mutant::Mutant::FindingsUnreported) {
            self.report_findings();
        }
        self.replan(now);
    }

    /// Makes a new plan when the facts say something else than the one in force.
    pub(super) fn replan(&mut self, now: Moment) {
        if !self.deploying.scanned() {
            return;
        }
        let given_up = self.deploying.deployments.values();
        let given_up = given_up.filter_map(|entry| Some((entry.manifest, entry.given_up()?))).collect();
        let mut plan = plan::make(&Facts {
            generation: self.deploying.plan.generation + 1,
            findings: &self.deploying.findings,
            catalogues: &self.rules.catalogues,
            effective: &self.rules.effective,
            evidence: &self.contents.verdicts(self.wall),
            given_up: &given_up,
            metadata: self.metadata_in_force(),
            now: self.wall,
        });
        if !self.setup.installs {
            for step in &mut plan.steps {
                step.purpose = Purpose::FetchAhead(Reason::NoInstaller);
            }
        }
        if !plan.same_as(&self.deploying.plan) {
            let value = Some(codec::encode(&plan.generation));
            self.store(vec![Record { key: prefix::PLAN.to_vec(), value }], Pending::StoreOther);
            self.deploying.plan = plan;
        }
        self.follow_plan();
        self.advance_contents(now);
        self.advance_deployments(now);
    }

    /// Deployments follow the plan: new ones begin, others take its generation, holds are set and released.
    fn follow_plan(&mut self) {
        let generation = self.deploying.plan.generation;
        let steps = self.deploying.plan.steps.clone();
        for step in steps.iter().filter(|step| step.purpose == Purpose::Deploy) {
            match self.deploying.deployments.get_mut(&step.patch) {
                Some(deployment) if deployment.generation < generation => {
                    // A busy one is asked again after its rescan.
                    let _ = deployment.replan(step.manifest, generation);
                }
                Some(_) => {}
                None => {
                    let deployment = Deployment::new(step.patch.clone(), step.manifest, generation);
                    self.deploying.deployments.insert(step.patch.clone(), deployment);
                }
            }
        }
        let patches: Vec<PatchId> = self.deploying.deployments.keys().cloned().collect();
        for patch in patches {
            let held = self.rules.effective.hold(&patch).is_some();
            let Some(deployment) = self.deploying.deployments.get(&patch) else { continue };
            let installed = matches!(
                self.deploying.findings.by_patch.get(&patch),
                Some((manifest, Finding::Installed)) if *manifest == deployment.manifest
            );
            match (held, deployment.held) {
                (true, false) => self.happened(&patch, Happened::Hold),
                (false, true) => self.happened(&patch, Happened::Release),
                _ if installed && !deployment.state.is_busy() && deployment.state != State::Installed => {
                    self.happened(&patch, Happened::FoundInstalled);
                }
                (false, false) => self.withdraw(&patch),
                _ => {}
            }
        }
    }

    /// Stops a deployment that the plan does not ask for any more: an approval was withdrawn, a newer patch replaces
    /// it, policy does not deploy. A running installer is not torn; its rescan comes first.
    fn withdraw(&mut self, patch: &PatchId) {
        let Some(deployment) = self.deploying.deployments.get(patch) else { return };
        let plan = &self.deploying.plan;
        let reason = match (plan.step(patch).map(|step| step.purpose), plan.left_out.get(patch)) {
            (Some(Purpose::Deploy), _) => return,
            (Some(Purpose::FetchAhead(reason)), _) => reason,
            (None, Some(out)) => out.reason,
            (None, None) => Reason::NotApplicable,
        };
        let event = match reason {
            Reason::Superseded => Happened::Supersede,
            reason => Happened::Exclude(reason),
        };
        if !deployment.state.is_busy() {
            self.happened(patch, event);
        }
    }

    /// Moves every deployment of the plan as far as the facts let it; one installer at a time, in the plan's order.
    pub(super) fn advance_deployments(&mut self, now: Moment) {
        let steps: Vec<Step> = self
            .deploying
            .plan
            .steps
            .iter()
            .filter(|step| step.purpose == Purpose::Deploy)
            .cloned()
            .collect();
        for step in steps {
            self.advance_deployment(now, &step);
        }
        self.deploying.not_before.retain(|_, moment| *moment > now);
        if let Some(next) = self.deploying.not_before.values().min() {
            self.timers.bring_forward(Timer::Deployments, *next);
        }
    }

    fn advance_deployment(&mut self, now: Moment, step: &Step) {
        loop {
            let Some(deployment) = self.deploying.deployments.get(&step.patch) else { return };
            let event = match deployment.state {
                _ if deployment.manifest != step.manifest => return,
                State::Planned => Happened::FetchStarted,
                State::Fetching if self.is_ready(step) => Happened::Fetched,
                State::Verified | State::Waiting(_) => {
                    if self.deploying.running.is_some()
                        && !crate::mutant::mutated(crate::mutant::Mutant::InstallTwoAtOnce)
                    {
                        return;
                    }
                    if !self.requirements_installed(step) {
                        if deployment.state == State::Waiting(WaitFor::Requirement) {
                            return;
                        }
                        Happened::Wait(WaitFor::Requirement)
                    } else if self.waits(now, &step.patch) || !self.is_ready(step) {
                        return;
                    } else {
                        Happened::Go
                    }
                }
                _ => return,
            };
            let before = deployment.state;
            self.happened(&step.patch, event);
            let after = self.deploying.deployments.get(&step.patch).map(|deployment| deployment.state);
            if after == Some(before) || event == Happened::Go {
                return;
            }
        }
    }

    /// Every file is here and checked, the vendor's signature holds now, and nothing forbids it: asked again right
    /// before the installer starts.
    pub(super) fn is_ready(&self, step: &Step) -> bool {
        self.contents.verdict(step.manifest, self.wall) == Some(Ok(()))
            && step.artifacts.iter().all(|content| self.contents.is_checked(content))
            && self.rules.effective.hold(&step.patch).is_none()
            && self.rules.effective.deployment.is_ok()
            && self.metadata_in_force().is_ok()
    }

    fn requirements_installed(&self, step: &Step) -> bool {
        crate::mutant::mutated(crate::mutant::Mutant::ForgetRequirements)
            || step.after.iter().all(|patch| {
                matches!(self.deploying.findings.by_patch.get(patch), Some((_, Finding::Installed)))
            })
    }

    /// Whether a deployment that met a busy lock or a full disk has to wait longer.
    fn waits(&self, now: Moment, patch: &PatchId) -> bool {
        let Some(deployment) = self.deploying.deployments.get(patch) else { return false };
        if !matches!(deployment.state, State::Waiting(WaitFor::Lock | WaitFor::Disk)) {
            return false;
        }
        self.deploying.not_before.get(patch).is_some_and(|moment| now < *moment)
    }

    /// Applies an event; what follows is done when the record is durable.
    pub(super) fn happened(&mut self, patch: &PatchId, event: Happened) {
        let retries = Retries::of(self.setup.member.system.family);
        let Some(deployment) = self.deploying.deployments.get_mut(patch) else { return };
        let before = deployment.clone();
        let Ok(actions) = deployment.apply(event, retries) else { return };
        if *deployment == before && actions.is_empty() {
            return;
        }
        let state = deployment.state;
        if state.is_busy() {
            self.deploying.running = Some(patch.clone());
        } else if self.deploying.running.as_ref() == Some(patch) {
            self.deploying.running = None;
        }
        let record = self.deployment_record(patch);
        self.store(vec![record], Pending::StoreDeployment(patch.clone(), actions));
        if state != before.state {
            self.event(Event::Deployment { patch: patch.clone(), state: state_name(state) });
        }
    }

    pub(super) fn deployment_record(&self, patch: &PatchId) -> Record {
        let key = [prefix::DEPLOYMENT, patch.as_str().as_bytes()].concat();
        Record { key, value: self.deploying.deployments.get(patch).map(codec::encode) }
    }

    /// After a start: what may have been interrupted is looked at again before anything is decided.
    pub(super) fn resume_deployments(&mut self) {
        let patches: Vec<PatchId> = self.deploying.deployments.keys().cloned().collect();
        for patch in &patches {
            if !crate::mutant::mutated(crate::mutant::Mutant::ForgetInterrupted) {
                self.happened(patch, Happened::NodeStarted);
            }
        }
        for patch in &patches {
            self.report_unreported(patch);
        }
    }

    /// A restart may have come between the record of a deployment's end and the report of it.
    fn report_unreported(&mut self, patch: &PatchId) {
        let reported = self.reporting.log.facts().deployments().get(patch).map(|entry| entry.state);
        let Some(deployment) = self.deploying.deployments.get(patch) else { return };
        let is_reported_state = deployment.state.is_terminal()
            || matches!(
                deployment.state,
                State::Failed | State::Held | State::Excluded | State::PendingReboot
            );
        if is_reported_state && reported != Some(deployment.state) {
            self.report_deployment(patch);
        }
    }

    /// A person at this device wants it now, within policy: a failed one is tried again, one that was given up starts anew when
    /// it is named, everything else goes its way.
    pub(super) fn deploy_now(&mut self, now: Moment, patch: Option<&PatchId>) {
        if let Some(patch) = patch {
            self.begin_anew(now, patch);
        }
        let failed: Vec<PatchId> = self
            .deploying
            .deployments
            .values()
            .filter(|deployment| {
                deployment.state == State::Failed && patch.is_none_or(|patch| *patch == deployment.patch)
            })
            .map(|deployment| deployment.patch.clone())
            .collect();
        for patch in failed {
            self.happened(&patch, Happened::Retry);
        }
        self.scan(now);
    }

    /// Whoever names a patch has mended what made it fail: the attempts before that count no longer.
    fn begin_anew(&mut self, now: Moment, patch: &PatchId) {
        let Some(deployment) = self.deploying.deployments.get_mut(patch) else { return };
        if deployment.given_up().is_none() {
            return;
        }
        *deployment = Deployment::new(patch.clone(), deployment.manifest, deployment.generation);
        let state = state_name(deployment.state);
        let record = self.deployment_record(patch);
        self.store(vec![record], Pending::StoreOther);
        self.event(Event::Deployment { patch: patch.clone(), state });
        self.replan(now);
    }
}

/// The state in the words of the design.
pub(super) fn state_name(state: State) -> String {
    match state {
        State::Planned => "planned".to_owned(),
        State::Fetching => "fetching".to_owned(),
        State::Verified => "verified".to_owned(),
        State::Waiting(what) => format!("waiting ({})", wait_name(what)),
        State::Installing => "installing".to_owned(),
        State::PendingReboot => "pending reboot".to_owned(),
        State::Rescanning => "rescanning".to_owned(),
        State::Installed => "installed".to_owned(),
        State::Failed => "failed".to_owned(),
        State::GivenUp => "given up".to_owned(),
        State::Held => "held".to_owned(),
        State::Excluded => "excluded".to_owned(),
        State::Superseded => "superseded".to_owned(),
    }
}

fn wait_name(what: WaitFor) -> &'static str {
    match what {
        WaitFor::Window => "window",
        WaitFor::User => "user",
        WaitFor::Reboot => "reboot",
        WaitFor::Requirement => "requirement",
        WaitFor::Lock => "lock",
        WaitFor::Disk => "disk space",
        WaitFor::Application => "application in use",
    }
}
