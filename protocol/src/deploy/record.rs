//! The record of one deployment: where it stands in the table, and the counters that survive restarts.

use super::{Action, Event, Next, Refused, State, WaitFor, explain, step};
use crate::identifier::{ManifestDigest, PatchId};
use crate::limits;
use crate::reason::Reason;
use crate::system::Family;
use serde::{Deserialize, Serialize};

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
        let (state, actions) = step(self.state, event, self.next(retries))?;
        if event == Event::Go && !self.may_start(retries) {
            return Err(Refused::NoAttemptLeft);
        }
        let before = std::mem::replace(&mut self.state, state);
        match event {
            Event::Go | Event::Retry | Event::Rebooted => self.last_result = None,
            Event::InstallerStarted => self.count_attempt(),
            Event::InstallerExited(Some(Reason::InstallerInterrupted)) => self.on_interrupted(),
            Event::InstallerExited(result) => self.last_result = result,
            Event::NodeStarted if before == State::Installing => self.on_interrupted(),
            Event::FetchRefused(reason) => self.last_result = Some(reason),
            Event::FoundInstalled => {
                self.end_attempt();
                self.held = false;
                self.last_result = (before != State::Rescanning).then_some(Reason::AlreadyInstalled);
            }
            Event::FoundMissing => {
                if !self.continues() {
                    self.end_attempt();
                }
                self.last_result = self.last_result.or(Some(Reason::InstallerNoEffect));
            }
            Event::Hold => self.held = true,
            Event::Release => self.held = false,
            Event::Exclude(reason) => self.last_result = Some(reason),
            Event::Supersede => self.last_result = Some(Reason::Superseded),
            Event::FetchStarted
            | Event::Fetched
            | Event::Wait(_)
            | Event::RebootNeeded
            | Event::NodeStarted => {}
        }
        match (before, self.state) {
            (_, State::Held) => self.last_result = Some(Reason::Held),
            (State::Held, State::Planned) => self.last_result = None,
            _ => {}
        }
        Ok(actions)
    }

    /// The installer was killed, or the node died while it may have been at work. Repeating it is no retry, but not for ever: the last
    /// interruption ends the attempt and counts it, whether or not the record of its start survived.
    fn on_interrupted(&mut self) {
        self.interruptions = self.interruptions.saturating_add(1);
        self.last_result = Some(Reason::InstallerInterrupted);
        if !self.continues() {
            self.count_attempt();
        }
    }

    /// The installer that was about to start did not, or changed nothing: only one that started counts.
    pub fn did_not_start(&mut self) {
        if self.attempt_counted && self.interruptions == 0 {
            self.attempt_counted = false;
            self.attempts = self.attempts.saturating_sub(1);
            self.attempts_in_cycle = self.attempts_in_cycle.saturating_sub(1);
        }
    }

    fn count_attempt(&mut self) {
        if !self.attempt_counted {
            self.attempt_counted = true;
            self.attempts = self.attempts.saturating_add(1);
            self.attempts_in_cycle = self.attempts_in_cycle.saturating_add(1);
        }
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

    /// Why the deployment stands where it stands, in a sentence with what the device needs.
    pub fn explain(&self) -> Option<&'static str> {
        self.last_result.map(|reason| explain(self.state, reason))
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
            Some(Reason::LockBusy | Reason::DiskFull | Reason::NotVerifiedYet) => true,
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
            // Its files are checked again first, after a restart or under new keys.
            Some(Reason::NotVerifiedYet) => Next::Wait(WaitFor::Requirement),
            _ if self.left_in_all(retries) => Next::Fail,
            _ => Next::GiveUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::deploy::tests::{EVENTS, WAITS};
    use proptest::prelude::*;

    const LINUX: Retries = Retries::of(Family::Linux);
    const WINDOWS: Retries = Retries::of(Family::Windows);
    const FAILED: Event = Event::InstallerExited(Some(Reason::InstallerFailed));
    const TO_INSTALLING: [Event; 3] = [Event::FetchStarted, Event::Fetched, Event::Go];
    const FAILURE: [Event; 3] = [Event::InstallerStarted, FAILED, Event::FoundMissing];

    fn deployment() -> Deployment {
        let patch = PatchId::new("debian/libone=1.0-2").expect("patch");
        Deployment::new(patch, ManifestDigest::from_bytes([1; 32]), 1)
    }

    fn play(deployment: &mut Deployment, events: &[Event], retries: Retries) -> Vec<Action> {
        let taken =
            |event: &Event| deployment.apply(*event, retries).map_err(|error| format!("{event:?}: {error}"));
        events.iter().map(taken).collect::<Result<Vec<_>, _>>().expect("a legal life").concat()
    }

    // proves N16, S11
    #[test]
    fn linux_never_retries_and_the_rescan_overrules_the_exit_code() {
        let mut failing = deployment();
        play(&mut failing, &TO_INSTALLING, LINUX);
        play(&mut failing, &FAILURE, LINUX);
        assert_eq!((failing.state, failing.attempts), (State::GivenUp, 1));
        assert_eq!(failing.last_result, Some(Reason::InstallerFailed));
        assert_eq!(failing.given_up(), Some(Reason::RetriesExhausted));

        let mut fine = deployment();
        play(&mut fine, &TO_INSTALLING, LINUX);
        play(&mut fine, &[Event::InstallerStarted, FAILED, Event::FoundInstalled], LINUX);
        assert_eq!((fine.state, fine.last_result), (State::Installed, None));

        let mut idle = deployment();
        play(&mut idle, &TO_INSTALLING, LINUX);
        play(&mut idle, &[Event::InstallerStarted, Event::InstallerExited(None), Event::FoundMissing], LINUX);
        assert_eq!(idle.last_result, Some(Reason::InstallerNoEffect));
    }

    // proves N15
    #[test]
    fn windows_retries_three_times_in_a_cycle_and_five_times_in_all() {
        let mut failing = deployment();
        play(&mut failing, &TO_INSTALLING, WINDOWS);
        play(&mut failing, &FAILURE, WINDOWS);
        let mut retries_by_cycle = Vec::new();
        while failing.state == State::Failed {
            let mut retries = 0;
            while failing.state == State::Failed && failing.may_start(WINDOWS) {
                failing = decode::<Deployment, 1024>(&encode(&failing)).expect("survives a restart");
                play(&mut failing, &[Event::Retry], WINDOWS);
                play(&mut failing, &TO_INSTALLING, WINDOWS);
                play(&mut failing, &FAILURE, WINDOWS);
                retries += 1;
            }
            retries_by_cycle.push(retries);
            failing.new_cycle();
        }
        assert_eq!(retries_by_cycle, [3, 2]);
        assert_eq!((failing.state, failing.attempts), (State::GivenUp, 6));
    }

    // proves N15
    #[test]
    fn crash_lock_and_full_disk_are_no_retries() {
        let mut record = deployment();
        play(&mut record, &TO_INSTALLING, LINUX);
        let again =
            play(&mut record, &[Event::InstallerStarted, Event::NodeStarted, Event::FoundMissing], LINUX);
        assert_eq!(again, [Action::Rescan, Action::Install]);
        for (reason, wait) in [(Reason::LockBusy, WaitFor::Lock), (Reason::DiskFull, WaitFor::Disk)] {
            let exit = Event::InstallerExited(Some(reason));
            play(&mut record, &[Event::InstallerStarted, exit, Event::FoundMissing], LINUX);
            assert_eq!((record.state, record.last_result), (State::Waiting(wait), Some(reason)));
            play(&mut record, &[Event::Go], LINUX);
        }
        play(&mut record, &FAILURE, LINUX);
        assert_eq!((record.state, record.attempts), (State::GivenUp, 1));
    }

    #[test]
    fn an_installer_that_always_brings_the_machine_down_is_given_up() {
        let mut record = deployment();
        play(&mut record, &TO_INSTALLING, LINUX);
        let mut installs = 1;
        while record.state == State::Installing {
            let killed = Event::InstallerExited(Some(Reason::InstallerInterrupted));
            let end = if installs % 2 == 0 { killed } else { Event::NodeStarted };
            let actions = play(&mut record, &[end, Event::FoundMissing], LINUX);
            installs += actions.iter().filter(|action| **action == Action::Install).count();
        }
        assert_eq!((record.state, installs), (State::GivenUp, limits::INTERRUPTIONS_PER_ATTEMPT as usize));
        assert_eq!(record.last_result, Some(Reason::InstallerInterrupted));
    }

    // proves N26
    #[test]
    fn what_is_there_already_ends_as_installed() {
        for events in [&[][..], &TO_INSTALLING[..1], &TO_INSTALLING[..2], &[Event::Hold]] {
            let mut record = deployment();
            play(&mut record, events, LINUX);
            play(&mut record, &[Event::FoundInstalled], LINUX);
            assert_eq!(
                (record.state, record.last_result),
                (State::Installed, Some(Reason::AlreadyInstalled))
            );
        }
    }

    #[test]
    fn a_hold_waits_for_the_rescan_and_then_beats_the_repeat() {
        let mut record = deployment();
        play(&mut record, &TO_INSTALLING, LINUX);
        let actions = play(
            &mut record,
            &[Event::InstallerStarted, Event::Hold, Event::NodeStarted, Event::FoundMissing],
            LINUX,
        );
        assert_eq!(actions, [Action::Rescan, Action::Report]);
        assert_eq!((record.state, record.last_result), (State::Held, Some(Reason::Held)));
        // Released, the interrupted attempt goes on and is still the first one.
        play(&mut record, &[Event::Release], LINUX);
        play(&mut record, &TO_INSTALLING, LINUX);
        play(&mut record, &[Event::InstallerStarted], LINUX);
        assert_eq!(record.attempts, 1);
    }

    #[test]
    fn an_older_plan_is_refused_and_a_new_manifest_starts_afresh() {
        let mut record = deployment();
        let (same, other) = (record.manifest, ManifestDigest::from_bytes([2; 32]));
        assert_eq!(record.replan(same, 1), Err(Refused::OldPlan { offered: 1, current: 1 }));
        play(&mut record, &TO_INSTALLING, LINUX);
        assert_eq!(record.replan(other, 2), Err(Refused::Busy));
        play(&mut record, &FAILURE, LINUX);
        assert_eq!(record.replan(same, 2), Ok(()));
        assert_eq!((record.state, record.attempts), (State::GivenUp, 1));
        assert_eq!(record.replan(other, 3), Ok(()));
        assert_eq!((record.state, record.attempts), (State::Planned, 0));
    }

    #[derive(Clone, Debug)]
    enum Move {
        Apply(Event),
        NewCycle,
        Reload,
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let exits = [
            None,
            Some(Reason::InstallerFailed),
            Some(Reason::LockBusy),
            Some(Reason::DiskFull),
            Some(Reason::InstallerInterrupted),
        ];
        // Most random sequences stop at the first door, so the road to the installer is likelier than the rest.
        let road = [
            Event::FetchStarted,
            Event::Fetched,
            Event::Go,
            Event::InstallerStarted,
            Event::FoundMissing,
            Event::Retry,
        ];
        let one = prop_oneof![
            6 => prop::sample::select(road.to_vec()).prop_map(Move::Apply),
            3 => prop::sample::select(exits.to_vec()).prop_map(|exit| Move::Apply(Event::InstallerExited(exit))),
            2 => prop::sample::select(EVENTS.to_vec()).prop_map(Move::Apply),
            1 => prop::sample::select(WAITS.to_vec()).prop_map(|what| Move::Apply(Event::Wait(what))),
            1 => Just(Move::NewCycle),
            1 => Just(Move::Reload),
        ];
        prop::collection::vec(one, 0..400)
    }

    proptest! {
        // proves N15, N16, N18
        #[test]
        fn any_sequence_of_events_keeps_the_rules(
            moves in moves(),
            family in prop::sample::select(vec![Family::Linux, Family::Windows, Family::MacOs]),
        ) {
            let retries = Retries::of(family);
            let mut record = deployment();
            let (mut rescanned, mut repeats, mut started_in_cycle) = (true, 0, 0);
            for a_move in moves {
                let before = record.clone();
                match a_move {
                    Move::NewCycle => { record.new_cycle(); started_in_cycle = 0; }
                    Move::Reload => {
                        record = decode::<Deployment, 1024>(&encode(&record)).expect("own bytes");
                        prop_assert_eq!(&record, &before);
                    }
                    Move::Apply(event) => match record.apply(event, retries) {
                        Err(_) => prop_assert_eq!(&record, &before, "a refused event changed the record"),
                        Ok(actions) => {
                            rescanned |= before.state == State::Rescanning && event == Event::FoundMissing;
                            if actions.contains(&Action::Install) {
                                prop_assert!(rescanned, "installed twice without a rescan");
                                prop_assert!(!record.held, "installed what is on hold");
                                rescanned = false;
                                repeats += u32::from(before.state == State::Rescanning);
                            }
                            started_in_cycle += record.attempts - before.attempts;
                            if record.interruptions == 0 { repeats = 0; }
                            let ends = record.state != before.state
                                && (record.state.is_terminal() || record.state == State::Failed);
                            prop_assert!(!ends || actions.contains(&Action::Report), "an end was not reported");
                        }
                    },
                }
                prop_assert!(!before.state.is_terminal() || record.state == before.state);
                prop_assert!(record.attempts <= retries.in_all + 1);
                prop_assert!(started_in_cycle <= retries.in_cycle + 1);
                prop_assert!(record.interruptions <= limits::INTERRUPTIONS_PER_ATTEMPT);
                prop_assert!(repeats < limits::INTERRUPTIONS_PER_ATTEMPT, "repeated for ever");
            }
        }
    }
}
