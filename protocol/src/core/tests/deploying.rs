//! Deployments: what stops one, and what may not start one.

use super::*;
use crate::core::{Command, InstallEnd};
use crate::deploy::{State, WaitFor};
use crate::reason::Reason;

fn state(node: &Node, fleet: &Fleet) -> (State, Option<Reason>) {
    let deployment = &node.core.deploying.deployments[&fleet.patch()];
    (deployment.state, deployment.last_result)
}

fn install(output: &Output) -> Option<EffectId> {
    match output {
        Output::Install { effect, .. } => Some(*effect),
        _ => None,
    }
}

fn withdraw(fleet: &mut Fleet) -> Vec<Approval> {
    let approvals = std::mem::take(&mut fleet.layer.approvals);
    fleet.publish();
    approvals
}

// proves N5
#[test]
fn a_withdrawn_approval_stops_a_deployment_and_a_new_one_starts_it_again() {
    let mut fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    assert_eq!(state(&node, &fleet).0, State::Fetching);
    let approvals = withdraw(&mut fleet);
    node.refresh(&fleet);
    assert_eq!(state(&node, &fleet), (State::Excluded, Some(Reason::Unapproved)));
    node.hold(&fleet);
    assert_eq!(node.installs(), 0);
    fleet.layer.approvals = approvals;
    fleet.publish();
    node.refresh(&fleet);
    node.check_content();
    assert_eq!(node.installs(), 1);
}

// proves N5
#[test]
fn an_approval_withdrawn_while_the_record_becomes_durable_starts_no_installer() {
    let mut fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.slow_disk = true;
    node.hold(&fleet);
    assert_eq!(state(&node, &fleet).0, State::Installing);
    withdraw(&mut fleet);
    // The record of the installation is slower than the metadata.
    let installing = std::mem::take(&mut node.stores);
    node.refresh(&fleet);
    node.flush();
    node.stores = installing;
    node.flush();
    assert_eq!(node.installs(), 0);
    node.scanned(&fleet, "1.0-1");
    assert_eq!(state(&node, &fleet), (State::Excluded, Some(Reason::Unapproved)));
}

// proves N8
#[test]
fn a_vendor_key_revoked_meanwhile_starts_no_installer() {
    let mut fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.slow_disk = true;
    node.hold(&fleet);
    fleet.vendors.vendors[0].keys[0].revoked = true;
    fleet.publish();
    let installing = std::mem::take(&mut node.stores);
    node.refresh(&fleet);
    node.flush();
    node.stores = installing;
    node.flush();
    assert_eq!(node.installs(), 0);
}

#[test]
fn an_installation_that_never_started_is_tried_again_in_the_next_cycle() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.hold(&fleet);
    let effect = node.take().iter().find_map(install).expect("it installs");
    let refused = InstallEnd::NotStarted(Reason::InstallerRefused, String::new());
    node.handle(Input::Installed { effect, result: refused });
    node.scanned(&fleet, "1.0-1");
    assert_eq!(state(&node, &fleet), (State::Failed, Some(Reason::InstallerRefused)));
    node.pass(Duration::from_secs(4 * 3_600 + 1));
    node.scanned(&fleet, "1.0-1");
    assert_eq!(node.installs(), 1);
}

#[test]
fn what_was_interrupted_waits_until_its_files_are_checked_again() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.hold(&fleet);
    assert_eq!(state(&node, &fleet).0, State::Installing);
    let mut again = fleet.node(1);
    again.core.deploying.deployments = std::mem::take(&mut node.core.deploying.deployments);
    again.core.resume_deployments();
    again.settle();
    again.refresh(&fleet);
    again.scanned(&fleet, "1.0-1");
    // The wish of the restart for a scan came while one was under way.
    again.scanned(&fleet, "1.0-1");
    again.scanned(&fleet, "1.0-1");
    assert_eq!(state(&again, &fleet).0, State::Waiting(WaitFor::Requirement));
    assert_eq!(again.installs(), 0);
    again.hold(&fleet);
    assert_eq!(again.installs(), 1);
}

#[test]
fn a_scan_that_was_asked_for_during_another_is_over_when_the_one_after_it_is() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.hold(&fleet);
    while node.core.is_scanning() {
        node.scanned(&fleet, "1.0-1");
    }
    node.handle(Input::Command(Command::Scan));
    node.handle(Input::Command(Command::Scan));
    node.scanned(&fleet, "1.0-1");
    assert!(node.core.is_scanning(), "what was asked for second is not answered yet");
    node.scanned(&fleet, "1.0-1");
    assert!(!node.core.is_scanning());
}

#[test]
fn two_patches_that_wait_for_a_lock_are_both_woken() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    let (first, second) = (node.now + Duration::from_secs(30), node.now + Duration::from_secs(40));
    let other = PatchId::new("debian/libtwo=1.0-2").expect("a patch");
    node.core.deploying.not_before = [(fleet.patch(), first), (other, second)].into();
    node.core.advance_deployments(node.now);
    node.pass(Duration::from_secs(30));
    assert!(node.core.next_wake(node.now).is_some_and(|wake| wake <= second));
}

// proves N15: Linux has no retries, and none is needed
#[test]
fn an_installer_that_somebody_killed_is_repeated_and_one_that_failed_is_not() {
    let install = |output: &Output| match output {
        Output::Install { effect, .. } => Some(*effect),
        _ => None,
    };
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.hold(&fleet);
    let effect = node.take().iter().find_map(install).expect("it installs");
    node.handle(Input::Installed { effect, result: InstallEnd::Killed { log: "killed".to_owned() } });
    node.scanned(&fleet, "1.0-1");
    assert_eq!(state(&node, &fleet), (State::Installing, Some(Reason::InstallerInterrupted)));
    let effect = node.take().iter().find_map(install).expect("it installs again");
    node.handle(Input::Installed {
        effect,
        result: InstallEnd::Exited { code: Some(1), log: "failed".to_owned() },
    });
    node.scanned(&fleet, "1.0-1");
    assert_eq!(state(&node, &fleet), (State::GivenUp, Some(Reason::InstallerFailed)));
    assert_eq!(node.core.deploying.deployments[&fleet.patch()].attempts, 1);
}

// proves N15, X4: what is given up waits for an order that names it, says so, and starts with that anew
#[test]
fn whoever_names_a_patch_that_was_given_up_has_it_tried_anew() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.hold(&fleet);
    let killed = || InstallEnd::Killed { log: String::new() };
    let mut installs = 0;
    while let Some(effect) = node.take().iter().find_map(install) {
        node.handle(Input::InstallerReady { effect });
        node.handle(Input::Installed { effect, result: killed() });
        node.scanned(&fleet, "1.0-1");
        installs += 1;
    }
    assert_eq!(installs, crate::limits::INTERRUPTIONS_PER_ATTEMPT);
    assert_eq!(state(&node, &fleet), (State::GivenUp, Some(Reason::InstallerInterrupted)));
    let told = node.core.status().deployments[0].reason.clone().expect("a reason").sentence;
    assert!(told.contains("is not repeated") && told.contains("`patchmesh deploy`"), "{told}");
    let explained = node.core.explain(&fleet.patch()).expect("a patch of the catalogue");
    assert!(explained.chain.iter().any(|cause| cause.sentence.contains(&told)), "{explained:?}");

    node.handle(Input::Command(Command::Deploy(None)));
    node.scanned(&fleet, "1.0-1");
    assert_eq!(state(&node, &fleet).0, State::GivenUp, "all that the plan names is less than this one");
    node.handle(Input::Command(Command::Deploy(Some(fleet.patch()))));
    let began = node.core.deploying(Some(&fleet.patch())).expect("a patch of the catalogue");
    assert_eq!((began.started, began.left_out.len()), (vec![fleet.patch()], 0));
    node.scanned(&fleet, "1.0-1");
    let effect = node.take().iter().find_map(install).expect("it installs");
    node.handle(Input::InstallerReady { effect });
    node.handle(Input::Installed { effect, result: killed() });
    node.scanned(&fleet, "1.0-1");
    assert_eq!(state(&node, &fleet).0, State::Installing, "the interruptions before do not count");
}

// proves X8
#[test]
fn an_end_that_was_recorded_and_not_reported_before_a_restart_is_reported_after_it() {
    let fleet = Fleet::new();
    let fresh = fleet.node(1);
    let mut deployment = crate::deploy::Deployment::new(fleet.patch(), fleet.manifest.digest(), 1);
    deployment.state = State::Installed;
    let key = [crate::core::prefix::DEPLOYMENT, fleet.patch().as_str().as_bytes()].concat();
    let records = vec![(key, crate::codec::encode(&deployment))];
    let core = Core::restore(fresh.core.setup.clone(), records).expect("what was stored is whole");
    let reported = core.reported().deployments();
    assert_eq!(reported.get(&fleet.patch()).map(|entry| entry.state), Some(State::Installed));
    assert_eq!(reported.len(), 1);
}

// proves X8, N15: an attempt is on the disk before its installer starts
#[test]
fn an_attempt_is_durable_before_the_installer_starts() {
    let fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.hold(&fleet);
    let effect = node.outputs.iter().find_map(|output| match output {
        Output::Install { effect, .. } => Some(*effect),
        _ => None,
    });
    let effect = effect.expect("an installation");
    let starts = |node: &mut Node| {
        let start = |output: &Output| match output {
            Output::StartInstaller { go, .. } => Some(*go),
            _ => None,
        };
        node.take().iter().filter_map(start).collect::<Vec<_>>()
    };
    let attempts =
        |node: &Node| node.core.deploying.deployments.values().next().map_or(0, |one| one.attempts);
    assert_eq!(attempts(&node), 0);
    node.slow_disk = true;
    node.handle(Input::InstallerReady { effect });
    assert!(starts(&mut node).is_empty(), "not before the record is durable");
    node.flush();
    assert_eq!((starts(&mut node), attempts(&node)), (vec![Ok(())], 1));
    // It ends, and is counted once.
    let end = InstallEnd::Exited { code: Some(0), log: String::new() };
    node.handle(Input::Installed { effect, result: end });
    node.scanned(&fleet, "1.0-2");
    assert_eq!((state(&node, &fleet).0, attempts(&node)), (State::Installed, 1));
}

// proves N15: only an installer that started counts
#[test]
fn an_installer_that_is_called_off_is_no_attempt() {
    let mut fleet = Fleet::new();
    let mut node = fleet.member_node(1);
    node.hold(&fleet);
    let effect = node.outputs.iter().find_map(|output| match output {
        Output::Install { effect, .. } => Some(*effect),
        _ => None,
    });
    let effect = effect.expect("an installation");
    withdraw(&mut fleet);
    node.refresh(&fleet);
    node.handle(Input::InstallerReady { effect });
    let called_off = |output: &Output| matches!(output, Output::StartInstaller { go: Err(_), .. });
    assert!(node.take().iter().any(called_off));
    let end = InstallEnd::NotStarted(Reason::Unapproved, String::new());
    node.handle(Input::Installed { effect, result: end });
    assert_eq!(node.core.deploying.deployments.values().next().map_or(0, |one| one.attempts), 0);
}
