//! Deploy: the life of one patch on one device, as one table, with counters that survive restarts.
//!
//! Record before action: the caller makes the changed record durable before it performs the actions.

use crate::identifier::{ManifestDigest, PatchId};
use crate::limits;
use crate::reason::Reason;
use crate::system::Family;
use serde::{Deserialize, Serialize};

/// Where a deployment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A plan names it; nothing was done yet.
    Planned,
    /// Its files are being fetched.
    Fetching,
    /// Its files are complete and passed every check.
    Verified,
    /// Verified, and something must come first.
    Waiting(WaitFor),
    /// The installer may be at work; only its end or a restart of the node leads on.
    Installing,
    /// Installed as far as can be without a restart of the machine.
    PendingReboot,
    /// A scan looks whether it is installed now; it decides.
    Rescanning,
    /// Done: a scan found it installed.
    Installed,
    /// The last attempt failed; it is tried again when told to.
    Failed,
    /// Failed as often as allowed.
    GivenUp,
    /// On hold.
    Held,
    /// Excluded from automatic deployment.
    Excluded,
    /// Replaced by another patch.
    Superseded,
}

impl State {
    /// Whether only a plan with a higher generation or another manifest leads on.
    pub const fn is_terminal(self) -> bool {
        matches!(self, State::Installed | State::GivenUp | State::Superseded)
    }

    /// Whether an installer may be at work or its outcome is not known yet, so that nothing may be decided.
    pub const fn is_busy(self) -> bool {
        matches!(self, State::Installing | State::PendingReboot | State::Rescanning)
    }
}

/// What a verified patch waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitFor {
    /// An open window or a passed deadline.
    Window,
    /// A user's word.
    User,
    /// A restart that another patch needs.
    Reboot,
    /// A patch that must be installed before.
    Requirement,
    /// The package manager's lock.
    Lock,
    /// Disk space.
    Disk,
    /// An application that is in use.
    Application,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Fetching began.
    FetchStarted,
    /// Every file is complete and passed every check.
    Fetched,
    /// A check refused a file for good.
    FetchRefused(Reason),
    /// Something must come before the installation.
    Wait(WaitFor),
    /// Nothing stands in the way of the installation any more.
    Go,
    /// The installer process started: this is what counts as an attempt.
    InstallerStarted,
    /// The installer ended, or could not start: `None` when it reported success, else what it reported.
    InstallerExited(Option<Reason>),
    /// The installer ended and the patch takes effect at the next restart of the machine.
    RebootNeeded,
    /// The machine restarted.
    Rebooted,
    /// The node started again, after a crash or not.
    NodeStarted,
    /// A scan found the patch installed.
    FoundInstalled,
    /// The rescan found it missing.
    FoundMissing,
    /// The patch is on hold now.
    Hold,
    /// The hold was released.
    Release,
    /// Policy excludes it from automatic deployment now.
    Exclude,
    /// Another patch replaces it now.
    Supersede,
    /// A failed attempt is to be repeated.
    Retry,
}

/// What the caller must do, after the record is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Fetch and verify the files.
    Fetch,
    /// Start the installer, or start the interrupted one again in the same way.
    Install,
    /// Scan whether the patch is installed.
    Rescan,
    /// Report the state and its cause.
    Report,
}

/// What follows when the rescan still finds the patch missing; follows from the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Hold it: a hold beats everything.
    Hold,
    /// Repeat the interrupted install; the same attempt.
    Repeat,
    /// Wait for what was in the way; the same attempt.
    Wait(WaitFor),
    /// It failed and may be tried again.
    Fail,
    /// It failed for the last time.
    GiveUp,
}

/// An event that does not belong to the state; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The table has no such transition.
    #[error("a deployment that is {state:?} takes no {event:?}")]
    NotNow {
        /// The state.
        state: State,
        /// The event.
        event: Event,
    },
    /// No attempt is left.
    #[error("no attempt is left; a new cycle or a new manifest is needed")]
    NoAttemptLeft,
    /// The plan is not newer than the one that the deployment follows.
    #[error("plan {offered} is not newer than plan {current}, which the deployment follows")]
    OldPlan {
        /// The generation that was offered.
        offered: u64,
        /// The generation that is in force.
        current: u64,
    },
    /// An installer may be at work; try again when its outcome is known.
    #[error("the outcome of an installation is not known yet; try again after the rescan")]
    Busy,
}

/// The transition table. `next` is looked at in one row alone: what follows a failed installation.
///
/// # Errors
/// [`Refused::NotNow`] for an event that does not belong to the state.
pub fn step(state: State, event: Event, next: Next) -> Result<(State, Vec<Action>), Refused> {
    use Action::*;
    use Event as On;
    use State::*;
    let (to, actions): (State, &[Action]) = match (state, event) {
        // Fetch.
        (Planned, On::FetchStarted) => (Fetching, &[Fetch]),
        (Fetching, On::Fetched) => (Verified, &[]),
        (Fetching, On::FetchRefused(_)) => (Failed, &[Report]),
        // Install.
        (Verified | Waiting(_), On::Wait(what)) => (Waiting(what), &[]),
        (Verified | Waiting(_), On::Go) => (Installing, &[Install]),
        (Installing, On::InstallerStarted) => (Installing, &[]),
        (Installing, On::InstallerExited(_)) => (Rescanning, &[Rescan]),
        (Installing, On::RebootNeeded) => (PendingReboot, &[Report]),
        (PendingReboot, On::Rebooted) => (Rescanning, &[Rescan]),
        // The rescan decides, not the installer's exit code.
        (Rescanning, On::FoundInstalled) => (Installed, &[Report]),
        (Rescanning, On::FoundMissing) => match next {
            Next::Hold => (Held, &[Report]),
            Next::Repeat => (Installing, &[Install]),
            Next::Wait(what) => (Waiting(what), &[Report]),
            Next::Fail => (Failed, &[Report]),
            Next::GiveUp => (GivenUp, &[Report]),
        },
        (Failed, On::Retry) => (Planned, &[]),
        // Somebody else installed it: done, not failed.
        (Planned | Fetching | Verified | Waiting(_) | Failed | Held | Excluded, On::FoundInstalled) => {
            (Installed, &[Report])
        }
        // A hold beats everything; a running installer is not torn, its rescan comes first.
        (Planned | Fetching | Verified | Waiting(_) | Failed | Excluded, On::Hold) => (Held, &[Report]),
        (Installing | PendingReboot | Rescanning | Held, On::Hold) => (state, &[]),
        (Held, On::Release) => (Planned, &[]),
        (Installing | PendingReboot | Rescanning, On::Release) => (state, &[]),
        (Planned | Fetching | Verified | Waiting(_) | Failed, On::Exclude) => (Excluded, &[Report]),
        (Planned | Fetching | Verified | Waiting(_) | Failed | Held | Excluded, On::Supersede) => {
            (Superseded, &[Report])
        }
        // Resume.
        (Fetching, On::NodeStarted) => (Fetching, &[Fetch]),
        (Installing | Rescanning, On::NodeStarted) => (Rescanning, &[Rescan]),
        (_, On::NodeStarted) => (state, &[]),
        _ => return Err(Refused::NotNow { state, event }),
    };
    Ok((to, actions.to_vec()))
}

/// How often a failed patch is tried again; only an installer that started counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retries {
    /// In one patch cycle.
    pub in_cycle: u32,
    /// In all.
    pub in_all: u32,
}

impl Retries {
    /// The defaults: Windows 3 in a cycle and 5 in all (N15), macOS 3, Linux none (N16).
    pub const fn of(family: Family) -> Retries {
        match family {
            Family::Windows => Retries { in_cycle: 3, in_all: 5 },
            Family::MacOs => Retries { in_cycle: 3, in_all: 3 },
            Family::Linux => Retries { in_cycle: 0, in_all: 0 },
        }
    }
}

/// The record of one deployment, as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The patch.
    pub patch: PatchId,
    /// The manifest that is deployed.
    pub manifest: ManifestDigest,
    /// Generation of the plan that it follows.
    pub generation: u64,
    /// Where it stands.
    pub state: State,
    /// Installers started in this patch cycle, repeats of one attempt not counted.
    pub attempts_in_cycle: u32,
    /// Installers started in all, repeats of one attempt not counted.
    pub attempts: u32,
    /// Times that the current attempt was interrupted.
    pub interruptions: u32,
    /// Whether the current attempt has been counted.
    pub attempt_counted: bool,
    /// Whether the patch is on hold, also while an installer that was running then finishes.
    pub held: bool,
    /// Why it stands where it stands; `None` when nothing went wrong.
    pub last_result: Option<Reason>,
}

impl Deployment {
    /// A deployment that a plan asks for.
    pub fn new(patch: PatchId, manifest: ManifestDigest, generation: u64) -> Deployment {
        Deployment {
            patch,
            manifest,
            generation,
            state: State::Planned,
            attempts_in_cycle: 0,
            attempts: 0,
            interruptions: 0,
            attempt_counted: false,
            held: false,
            last_result: None,
        }
    }

    /// Applies an event: moves through [`step`] and keeps the counters.
    ///
    /// # Errors
    /// [`Refused`]; the record is then unchanged.
    pub fn apply(&mut self, event: Event, retries: Retries) -> Result<Vec<Action>, Refused> {
        let next = self.next(retries);
        let (state, actions) = step(self.state, event, next)?;
        if event == Event::Go && !self.may_start(retries) {
            return Err(Refused::NoAttemptLeft);
        }
        let before = std::mem::replace(&mut self.state, state);
        match event {
            Event::InstallerStarted if !self.attempt_counted => {
                self.attempt_counted = true;
                self.attempts = self.attempts.saturating_add(1);
                self.attempts_in_cycle = self.attempts_in_cycle.saturating_add(1);
            }
            Event::InstallerExited(result) => {
                self.last_result = Some(result.unwrap_or(Reason::InstallerNoEffect));
            }
            Event::Rebooted => self.last_result = Some(Reason::InstallerNoEffect),
            Event::NodeStarted if before == State::Installing => {
                self.interruptions = self.interruptions.saturating_add(1);
                self.last_result = Some(Reason::InstallerInterrupted);
            }
            Event::FetchRefused(reason) => self.last_result = Some(reason),
            Event::FoundInstalled => {
                self.end_attempt();
                self.last_result = (before != State::Rescanning).then_some(Reason::AlreadyInstalled);
            }
            Event::FoundMissing if !self.continues() => self.end_attempt(),
            Event::Hold => self.held = true,
            Event::Release => self.held = false,
            Event::Exclude => self.last_result = Some(Reason::Excluded),
            Event::Supersede => self.last_result = Some(Reason::Superseded),
            _ => {}
        }
        if self.state == State::Held {
            self.last_result = Some(Reason::Held);
        }
        Ok(actions)
    }

    /// Follows a newer plan. Another manifest starts afresh; the same one goes on where it stands, is planned again
    /// after it was installed, excluded or superseded, and stays given up.
    ///
    /// # Errors
    /// [`Refused::OldPlan`], [`Refused::Busy`] while the outcome of an installation is not known.
    pub fn replan(&mut self, manifest: ManifestDigest, generation: u64) -> Result<(), Refused> {
        if generation <= self.generation {
            return Err(Refused::OldPlan { offered: generation, current: self.generation });
        }
        if self.manifest != manifest || self.state == State::Installed {
            if self.state.is_busy() {
                return Err(Refused::Busy);
            }
            let held = self.held;
            *self = Deployment::new(self.patch.clone(), manifest, generation);
            if held {
                (self.state, self.held, self.last_result) = (State::Held, true, Some(Reason::Held));
            }
            return Ok(());
        }
        self.generation = generation;
        if matches!(self.state, State::Excluded | State::Superseded) {
            (self.state, self.last_result) = (State::Planned, None);
        }
        Ok(())
    }

    /// Begins a new patch cycle: the attempts of the last one no longer count against its limit.
    pub fn new_cycle(&mut self) {
        self.attempts_in_cycle = 0;
    }

    /// Why the deployment was given up, if it was; a plan leaves its manifest out for this reason.
    pub fn given_up(&self) -> Option<Reason> {
        (self.state == State::GivenUp).then_some(Reason::RetriesExhausted)
    }

    /// Whether another attempt may start now: for who decides about [`Event::Retry`].
    pub fn may_start(&self, retries: Retries) -> bool {
        self.attempt_counted || (self.left_in_all(retries) && self.left_in_cycle(retries))
    }

    /// The first attempt ever is no retry; each later one is, whichever cycle it falls in.
    fn left_in_all(&self, retries: Retries) -> bool {
        self.attempts <= retries.in_all
    }

    fn left_in_cycle(&self, retries: Retries) -> bool {
        let first_is_in_cycle = u32::from(self.attempts == self.attempts_in_cycle);
        self.attempts_in_cycle < retries.in_cycle.saturating_add(first_is_in_cycle)
    }

    /// Whether the attempt goes on after a rescan that found the patch missing: a crash, a busy lock and a full disk
    /// end no attempt (N15).
    fn continues(&self) -> bool {
        match self.last_result {
            Some(Reason::InstallerInterrupted) => self.interruptions < limits::INTERRUPTIONS_PER_ATTEMPT,
            Some(Reason::LockBusy | Reason::DiskFull) => true,
            _ => false,
        }
    }

    fn end_attempt(&mut self) {
        self.attempt_counted = false;
        self.interruptions = 0;
    }

    fn next(&self, retries: Retries) -> Next {
        match self.last_result {
            _ if self.held => Next::Hold,
            Some(Reason::InstallerInterrupted) if self.continues() => Next::Repeat,
            Some(Reason::LockBusy) => Next::Wait(WaitFor::Lock),
            Some(Reason::DiskFull) => Next::Wait(WaitFor::Disk),
            _ if self.left_in_all(retries) => Next::Fail,
            _ => Next::GiveUp,
        }
    }
}
