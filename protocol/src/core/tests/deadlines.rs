//! Deadlines: what becomes due by the clock, and what that changes.

use super::*;
use crate::fetch::{Due, Priority, Urgency};
use crate::manifest::Severity;
use crate::policy::caps::{BusinessHours, Caps};
use crate::reason::Reason;

const DAY: u64 = 86_400;

/// A fleet whose only patch has this severity, with a deadline after so many days where policy says one.
fn fleet(severity: Severity, days: Option<u32>) -> Fleet {
    let mut fleet = Fleet::new();
    fleet.layer.policies[0].deadline_days = days;
    fleet.manifest.severity = severity;
    fleet.layer.approvals[0].manifest = fleet.manifest.digest();
    fleet.publish();
    fleet
}

/// What the one content that the node wants goes before.
fn priority(node: &Node) -> Priority {
    let wants: Vec<Priority> = node.core.fetcher.wants().map(|want| want.priority).collect();
    assert_eq!(wants.len(), 1);
    wants[0]
}

fn link(node: &Node, fleet: &Fleet, code: &str) -> Option<String> {
    let explanation = node.core.explain(&fleet.patch()).expect("a patch of the catalogue");
    explanation.chain.into_iter().find(|link| link.code == code).map(|link| link.sentence)
}

// proves M4: normally 14 days, for critical patches; policy may say otherwise
#[test]
fn a_patch_becomes_due_by_the_clock_alone() {
    for (severity, days, from) in [
        (Severity::Critical, None, Some(13 * DAY)),
        (Severity::Critical, Some(3), Some(2 * DAY)),
        (Severity::Important, Some(3), Some(2 * DAY)),
        (Severity::Important, None, None),
    ] {
        let mut node = fleet(severity, days).member_node(1);
        let urgency = if severity == Severity::Critical { Urgency::Critical } else { Urgency::Normal };
        assert_eq!(priority(&node), Priority::from(urgency));
        let from = from.unwrap_or(20 * DAY);
        node.wall(NOW.plus_seconds(from - 1));
        assert_eq!(priority(&node).due, Due::Later, "{severity:?} {days:?}");
        node.wall(NOW.plus_seconds(from));
        let due = if (severity, days) == (Severity::Important, None) { Due::Later } else { Due::Now };
        assert_eq!(priority(&node), Priority { due, urgency }, "{severity:?} {days:?}");
    }
}

#[test]
fn a_clock_that_is_set_changes_the_order_and_nothing_else() {
    let mut node = fleet(Severity::Critical, Some(14)).member_node(1);
    for (wall, due) in [
        (NOW.plus_days(13), Due::Now),
        (NOW.plus_days(12), Due::Later),
        (WallTime::from_unix_seconds(0), Due::Later),
        (NOW.plus_days(20), Due::Now),
        (NOW, Due::Later),
    ] {
        node.wall(wall);
        assert_eq!(priority(&node).due, due, "{wall}");
        assert_eq!(node.core.fetcher.wants().count(), 1);
    }
}

#[test]
fn a_deadline_that_policy_changes_counts_at_once() {
    let mut fleet = fleet(Severity::Important, None);
    let mut node = fleet.member_node(1);
    assert_eq!(priority(&node).due, Due::Later);
    fleet.layer.policies[0].deadline_days = Some(0);
    fleet.publish();
    node.refresh(&fleet);
    assert_eq!(priority(&node).due, Due::Now);
}

/// The same files in a second patch of another vendor's numbering, approved ten days before the first.
#[test]
fn a_content_of_several_patches_has_the_earliest_of_their_deadlines() {
    let mut fleet = fleet(Severity::Important, Some(14));
    let mut other = fleet.manifest.clone();
    other.patch = PatchId::new("debian/libone-again=1.0-2").expect("a plain name");
    other.severity = Severity::Important;
    let approved = WallTime::from_unix_seconds(NOW.unix_seconds() - 10 * DAY);
    let approval = Approval { patch: other.patch.clone(), manifest: other.digest(), approved };
    fleet.layer.approvals.push(approval);
    fleet.others.push(other.clone());
    fleet.publish();
    let mut node = fleet.member_node(1);
    let wanted_for = |node: &Node| node.core.fetcher.wants().map(|want| want.manifest).collect::<Vec<_>>();
    assert_eq!(priority(&node).due, Due::Later);
    node.wall(NOW.plus_days(3));
    assert_eq!(priority(&node).due, Due::Now);
    assert_eq!(wanted_for(&node), [other.digest()], "so that the seed ranks it alike");
}

// proves X3: what is due passes no sooner than anything else
#[test]
fn a_deadline_opens_no_closed_hours() {
    let mut fleet = fleet(Severity::Important, Some(0));
    let hours = "days = [\"monday\", \"tuesday\", \"wednesday\", \"thursday\", \"friday\", \"saturday\", \"sunday\"]\n\
                 from = \"00:00\"\nuntil = \"00:00\"\nsite-download = \"nothing\"";
    let hours: BusinessHours = toml::from_str(hours).expect("hours");
    fleet.layer.policies[0].caps = Caps { business_hours: Some(hours), ..Caps::default() };
    fleet.publish();
    let mut node = fleet.member_node(1);
    node.wall(NOW.plus_days(1));
    let fetch = link(&node, &fleet, "business-hours");
    assert_eq!(fetch.as_deref(), Some(Reason::BusinessHours.explain()));
    assert!(link(&node, &fleet, "deadline").is_some_and(|said| said.contains("overdue")));
}

// proves X4
#[test]
fn people_are_told_until_when_a_patch_is_to_be_here() {
    let fleet = fleet(Severity::Critical, None);
    let mut node = fleet.member_node(1);
    let deadline = |node: &Node| node.core.explain(&fleet.patch()).and_then(|said| said.deadline);
    assert_eq!(deadline(&node), Some(NOW.plus_days(14)));
    let said = link(&node, &fleet, "deadline");
    assert_eq!(said, Some(format!("It is due by {}, 14 days after its approval.", NOW.plus_days(14))));
    node.wall(NOW.plus_days(20));
    assert!(link(&node, &fleet, "deadline").is_some_and(|said| said.contains("overdue since")));
    let mut node = fleet.node(2);
    node.refresh(&fleet);
    node.scanned(&fleet, "1.0-2");
    assert_eq!((deadline(&node), link(&node, &fleet, "deadline")), (None, None), "it is here");
}

// proves X3: the seed ranks by what it knows itself
#[test]
fn a_seed_ranks_by_policy_and_its_own_clock() {
    let fleet = fleet(Severity::Important, Some(2));
    let mut seed = fleet.holder(0);
    let digest = fleet.manifest.digest();
    let of = |seed: &Node, member: &Member| {
        seed.core.priority_of(&seed.core.rules.effective_for(member), digest, fleet.root())
    };
    let member = fleet.member(1);
    assert_eq!(of(&seed, &member), Priority::from(Urgency::Normal));
    seed.wall(NOW.plus_days(1));
    assert_eq!(of(&seed, &member), Priority { due: Due::Now, urgency: Urgency::Normal });
    let elsewhere = Member { site: SiteName::new("delft").expect("site"), ..member };
    assert_eq!(of(&seed, &elsewhere).due, Due::Later, "the policy is of another site");
}
