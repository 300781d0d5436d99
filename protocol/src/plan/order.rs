//! The order of a plan: requirements first, the most severe first among what is free to go.

use crate::identifier::PatchId;
use crate::manifest::Severity;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// For every patch those that must be installed before it; each of them is a key too.
pub(super) type After<'a> = BTreeMap<&'a PatchId, BTreeSet<&'a PatchId>>;

/// All patches that must be installed before `patch`, directly or not; `patch` itself when it stands in a cycle.
pub(super) fn before<'a>(after: &After<'a>, patch: &PatchId) -> BTreeSet<&'a PatchId> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&'a PatchId> = after.get(patch).into_iter().flatten().copied().collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(after.get(next).into_iter().flatten());
        }
    }
    found
}

/// The patches that require themselves, each with all that it requires and that requires it.
pub(super) fn cycles<'a>(after: &After<'a>) -> BTreeMap<&'a PatchId, Vec<PatchId>> {
    let sorted: BTreeSet<&PatchId> = sort(after, &BTreeMap::new()).into_iter().collect();
    let stuck = after.keys().copied().filter(|patch| !sorted.contains(*patch));
    let before: BTreeMap<&PatchId, BTreeSet<&PatchId>> =
        stuck.map(|patch| (patch, before(after, patch))).collect();
    let requires = |one: &PatchId, other: &PatchId| before.get(one).is_some_and(|all| all.contains(other));
    let in_cycle = before.keys().copied().filter(|patch| requires(patch, patch));
    in_cycle
        .map(|patch| {
            let members = before[patch].iter().filter(|other| requires(other, patch));
            (patch, members.map(|other| (*other).clone()).collect())
        })
        .collect()
}

/// Every patch after those that it requires; among those that are free to go, the most severe first, where a
/// requirement is as severe as whatever requires it, then by name. What stands in a cycle or behind one is not listed.
pub(super) fn sort<'a>(after: &After<'a>, severity: &BTreeMap<&'a PatchId, Severity>) -> Vec<&'a PatchId> {
    let severity = inherit(after, severity);
    let rank = |patch: &'a PatchId| (Reverse(severity.get(patch).copied()), patch);
    let mut behind: BTreeMap<&PatchId, Vec<&'a PatchId>> = BTreeMap::new();
    let mut open: BTreeMap<&PatchId, usize> = BTreeMap::new();
    let mut free = BTreeSet::new();
    for (patch, requirements) in after {
        for requirement in requirements {
            behind.entry(requirement).or_default().push(patch);
        }
        open.insert(patch, requirements.len());
        if requirements.is_empty() {
            free.insert(rank(patch));
        }
    }
    let mut sorted = Vec::with_capacity(after.len());
    while let Some((_, patch)) = free.pop_first() {
        sorted.push(patch);
        for next in behind.remove(patch).unwrap_or_default() {
            if let Some(count) = open.get_mut(next) {
                *count -= 1;
                if *count == 0 {
                    free.insert(rank(next));
                }
            }
        }
    }
    sorted
}

/// Passes the severity of each patch on to what it requires.
fn inherit<'a>(
    after: &After<'a>,
    severity: &BTreeMap<&'a PatchId, Severity>,
) -> BTreeMap<&'a PatchId, Severity> {
    let mut falling: Vec<(&PatchId, Severity)> = severity.iter().map(|(patch, own)| (*patch, *own)).collect();
    falling.sort_by_key(|(_, own)| Reverse(*own));
    let mut inherited = BTreeMap::new();
    for (patch, own) in falling {
        let mut open = vec![patch];
        while let Some(next) = open.pop() {
            if let std::collections::btree_map::Entry::Vacant(entry) = inherited.entry(next) {
                entry.insert(own);
                open.extend(after.get(next).into_iter().flatten());
            }
        }
    }
    inherited
}
