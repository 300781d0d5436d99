//! The order of a plan: requirements first, the most severe first among what is free to go.

use crate::identifier::PatchId;
use crate::limits;
use crate::manifest::Severity;
use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// For every patch those that must be installed before it; each of them is a key too.
pub(super) type After<'a> = BTreeMap<&'a PatchId, BTreeSet<&'a PatchId>>;

/// Whether `patch` must, directly or not, come after `other`. After [`limits::REQUIREMENTS_FOLLOWED`] it is taken for
/// granted.
pub(super) fn needs(after: &After<'_>, patch: &PatchId, other: &PatchId) -> bool {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&PatchId> = after.get(patch).into_iter().flatten().copied().collect();
    while let Some(next) = open.pop() {
        if next == other || seen.len() >= limits::REQUIREMENTS_FOLLOWED {
            return true;
        }
        if seen.insert(next) {
            open.extend(after.get(next).into_iter().flatten());
        }
    }
    false
}

/// The patches that require themselves, each with those of its requirements that lead back to it: the strongly
/// connected components (Kosaraju's algorithm, without recursion, since a hostile chain may be long).
pub(super) fn cycles<'a>(after: &After<'a>) -> BTreeMap<&'a PatchId, Vec<PatchId>> {
    let mut behind: After<'a> = after.keys().map(|patch| (*patch, BTreeSet::new())).collect();
    for (patch, requirements) in after {
        for requirement in requirements {
            behind.entry(requirement).or_default().insert(patch);
        }
    }
    let mut component: BTreeMap<&PatchId, usize> = BTreeMap::new();
    for (number, root) in finished(after).into_iter().rev().enumerate() {
        let mut open = vec![root];
        while let Some(patch) = open.pop() {
            if let Entry::Vacant(entry) = component.entry(patch) {
                entry.insert(number);
                open.extend(behind.get(patch).into_iter().flatten());
            }
        }
    }
    let back = |patch: &PatchId, requirements: &BTreeSet<&PatchId>| -> Vec<PatchId> {
        let same = requirements.iter().filter(|other| component.get(**other) == component.get(patch));
        same.map(|other| (*other).clone()).collect()
    };
    let cycles = after.iter().map(|(patch, requirements)| (*patch, back(patch, requirements)));
    cycles.filter(|(_, back)| !back.is_empty()).collect()
}

/// The patches in the order in which a depth-first walk leaves them.
fn finished<'a>(after: &After<'a>) -> Vec<&'a PatchId> {
    let mut left = Vec::with_capacity(after.len());
    let mut entered = BTreeSet::new();
    for root in after.keys().copied() {
        let mut path: Vec<(&'a PatchId, Vec<&'a PatchId>)> = Vec::new();
        let mut enter = Some(root);
        loop {
            if let Some(patch) = enter.take()
                && entered.insert(patch)
            {
                path.push((patch, after.get(patch).into_iter().flatten().copied().collect()));
            }
            let Some((patch, open)) = path.last_mut() else { break };
            enter = open.pop();
            if enter.is_none() {
                left.push(*patch);
                path.pop();
            }
        }
    }
    left
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
            if let Entry::Vacant(entry) = inherited.entry(next) {
                entry.insert(own);
                open.extend(after.get(next).into_iter().flatten());
            }
        }
    }
    inherited
}
