//! Deploy: the life of one patch on one device, as one table, with counters that survive restarts.
//!
//! Record before action: the caller makes the changed record durable before it performs the actions.

use crate::reason::Reason;
use serde::{Deserialize, Serialize};

mod record;

pub use record::{Deployment, Retries};

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
    /// Left out by policy since it was planned; a newer plan may take it up again.
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
    /// Fetching began, for the first time or because files were lost from the cache.
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
    /// A newer plan leaves it out, for another reason than a hold or a replacement.
    Exclude(Reason),
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
        (Planned | Verified | Waiting(_), On::FetchStarted) => (Fetching, &[Fetch]),
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
        (Planned | Fetching | Verified | Waiting(_) | Failed, On::Exclude(_)) => (Excluded, &[Report]),
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

/// What `reason` means for a deployment in `state`, in a sentence with what the device needs: what was given up is not repeated
/// before somebody asks for it.
pub const fn explain(state: State, reason: Reason) -> &'static str {
    match (state, reason) {
        (State::GivenUp, Reason::InstallerInterrupted) => {
            "The installer was interrupted as often as it may be and is not repeated; mend the device, then run `patchmesh deploy` \
             with the patch on it."
        }
        (State::GivenUp, Reason::InstallerFailed) => {
            "The installer reported an error and the rescan still finds the patch missing; mend what its log says, then run \
             `patchmesh deploy` with the patch on the device."
        }
        (State::GivenUp, Reason::InstallerNoEffect) => {
            "The installer reported success but the rescan still finds the patch missing; mend what its log says, then run \
             `patchmesh deploy` with the patch on the device."
        }
        _ => reason.explain(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const WAITS: [WaitFor; 7] = [
        WaitFor::Window,
        WaitFor::User,
        WaitFor::Reboot,
        WaitFor::Requirement,
        WaitFor::Lock,
        WaitFor::Disk,
        WaitFor::Application,
    ];
    const STATES: [State; 13] = [
        State::Planned,
        State::Fetching,
        State::Verified,
        State::Waiting(WaitFor::Window),
        State::Installing,
        State::PendingReboot,
        State::Rescanning,
        State::Installed,
        State::Failed,
        State::GivenUp,
        State::Held,
        State::Excluded,
        State::Superseded,
    ];
    pub(super) const EVENTS: [Event; 17] = [
        Event::FetchStarted,
        Event::Fetched,
        Event::FetchRefused(Reason::BadVendorSignature),
        Event::Wait(WaitFor::Lock),
        Event::Go,
        Event::InstallerStarted,
        Event::InstallerExited(None),
        Event::RebootNeeded,
        Event::Rebooted,
        Event::NodeStarted,
        Event::FoundInstalled,
        Event::FoundMissing,
        Event::Hold,
        Event::Release,
        Event::Exclude(Reason::Unapproved),
        Event::Supersede,
        Event::Retry,
    ];
    const NEXT: [Next; 5] = [Next::Hold, Next::Repeat, Next::Wait(WaitFor::Lock), Next::Fail, Next::GiveUp];

    // proves N18, S11, N26
    #[test]
    fn the_whole_table() {
        let mut table = String::new();
        for state in STATES {
            table += &format!("{state:?}\n");
            let mut refused = Vec::new();
            for event in EVENTS {
                let mut rows: Vec<String> = NEXT
                    .iter()
                    .filter_map(|next| {
                        let (to, actions) = step(state, event, *next).ok()?;
                        let when = match (state, event) {
                            (State::Rescanning, Event::FoundMissing) => format!(", then {next:?}"),
                            _ => String::new(),
                        };
                        Some(format!("    {event:?}{when} -> {to:?} {actions:?}\n"))
                    })
                    .collect();
                rows.dedup();
                if rows.is_empty() {
                    refused.push(format!("{event:?}"));
                }
                table += &rows.concat();
            }
            table += &format!("    refused: {}\n", refused.join(", "));
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn whatever_it_waits_for_it_waits_alike() {
        for what in WAITS {
            for event in EVENTS {
                let (this, window) = (State::Waiting(what), State::Waiting(WaitFor::Window));
                let (one, other) = (step(this, event, Next::Fail), step(window, event, Next::Fail));
                if event == Event::NodeStarted {
                    assert_eq!(one, Ok((this, Vec::new())));
                } else {
                    assert_eq!(one.ok(), other.ok(), "{what:?} {event:?}");
                }
            }
        }
    }

    #[test]
    fn terminal_states_take_nothing_and_busy_ones_start_nothing() {
        for (state, event) in STATES.into_iter().flat_map(|state| EVENTS.map(|event| (state, event))) {
            let Ok((to, actions)) = step(state, event, Next::Repeat) else { continue };
            assert!(!state.is_terminal() || (to, actions.len()) == (state, 0), "{state:?} {event:?}");
            let decided = state == State::Rescanning && event == Event::FoundMissing;
            assert!(
                !state.is_busy() || decided || !actions.contains(&Action::Install),
                "{state:?} {event:?}"
            );
        }
    }
}
