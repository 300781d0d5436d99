//! The search for a target through delegations: preorder, depth first, ended by terminating ones (TUF 5.6.7).

use super::{Delegation, ListedFile, RoleName, Targets};
use crate::digest::Sha256;
use crate::limits;
use std::collections::{BTreeMap, BTreeSet};

/// Delegated roles that were loaded, by (delegating role, role): the same name delegated by two roles is verified
/// for each.
pub(super) type Loaded = BTreeMap<(RoleName, RoleName), Targets>;

/// How a search ends, or what it needs to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The file.
    Found(ListedFile),
    /// No role vouches for it.
    Absent,
    /// Metadata that has to be loaded first: the role, and who delegates to it.
    Need { parent: RoleName, role: RoleName },
    /// More roles than a search may visit.
    TooMany,
}

/// Searches `path` from `top` downwards through the roles that are loaded.
pub(super) fn search(path: &str, top: &Targets, loaded: &Loaded) -> Outcome {
    let mut visited = BTreeSet::new();
    // Roles still to visit, the next one last.
    let mut open: Vec<(RoleName, &Delegation)> = Vec::new();
    if let Some(file) = top.targets.get(path) {
        return Outcome::Found(file.clone());
    }
    push(&mut open, path, RoleName::targets(), top);
    while let Some((parent, delegation)) = open.pop() {
        if !visited.insert(delegation.name.clone()) {
            continue;
        }
        if visited.len() > limits::DELEGATIONS_VISITED {
            return Outcome::TooMany;
        }
        let key = (parent, delegation.name.clone());
        let Some(targets) = loaded.get(&key) else {
            return Outcome::Need { parent: key.0, role: key.1 };
        };
        if let Some(file) = targets.targets.get(path) {
            return Outcome::Found(file.clone());
        }
        if delegation.terminating {
            open.clear();
        }
        push(&mut open, path, key.1, targets);
    }
    Outcome::Absent
}

fn push<'a>(open: &mut Vec<(RoleName, &'a Delegation)>, path: &str, parent: RoleName, targets: &'a Targets) {
    let delegations = targets.delegations.iter().flat_map(|delegations| &delegations.roles);
    for delegation in delegations.rev().filter(|delegation| delegation.covers(path)) {
        open.push((parent.clone(), delegation));
    }
}

impl Delegation {
    /// Whether the role may vouch for `path`.
    pub fn covers(&self, path: &str) -> bool {
        let by_hash = || {
            let digest = Sha256::of(path.as_bytes()).to_string();
            self.path_hash_prefixes.iter().flatten().any(|prefix| digest.starts_with(prefix.as_str()))
        };
        self.paths.iter().flatten().any(|pattern| matches(pattern, path)) || by_hash()
    }
}

/// Whether `path` matches `pattern`, segment by segment; `*` and `?` never match a slash.
fn matches(pattern: &str, path: &str) -> bool {
    let (patterns, segments) = (pattern.split('/'), path.split('/'));
    patterns.clone().count() == segments.clone().count()
        && patterns
            .zip(segments)
            .all(|(pattern, segment)| matches_segment(pattern.as_bytes(), segment.as_bytes()))
}

/// Linear wildcard matching: on a mismatch, the last `*` swallows one byte more.
fn matches_segment(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((back, swallowed)) = star else { return false };
                star = Some((back, swallowed + 1));
                at = back + 1;
                from = swallowed + 1;
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::WallTime;
    use crate::trust::{Delegations, RoleKeys};
    use proptest::prelude::*;

    #[test]
    fn patterns() {
        assert!(matches("policy/*.toml", "policy/fleet.toml"));
        assert!(matches("catalogue/debian/*", "catalogue/debian/debian-12-amd64.json"));
        assert!(matches("a?c/**x", "abc/yyx"));
        for (pattern, path) in [
            ("policy/*.toml", "policy/a/b.toml"),
            ("*", "a/b"),
            ("a?", "a"),
            ("policy/*.toml", "policy/x.json"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    fn name(text: &str) -> RoleName {
        RoleName::new(text).expect("role")
    }

    fn delegation(role: &str, pattern: &str, terminating: bool) -> Delegation {
        Delegation {
            name: name(role),
            keys: RoleKeys::any_of(&[]),
            terminating,
            paths: Some(vec![pattern.to_owned()]),
            path_hash_prefixes: None,
        }
    }

    fn targets(files: &[&str], roles: Vec<Delegation>) -> Targets {
        Targets {
            version: 1,
            expires: WallTime::default(),
            targets: files.iter().map(|path| ((*path).to_owned(), ListedFile::of(path.as_bytes()))).collect(),
            delegations: Some(Delegations { keys: BTreeMap::new(), roles }),
        }
    }

    fn loaded(entries: Vec<(&str, &str, Targets)>) -> Loaded {
        entries.into_iter().map(|(parent, role, content)| ((name(parent), name(role)), content)).collect()
    }

    #[test]
    fn order_is_preorder_and_lazy() {
        let top = targets(&[], vec![delegation("a", "x/*", false), delegation("b", "x/*", false)]);
        let need = |parent: &str, role: &str| Outcome::Need { parent: name(parent), role: name(role) };
        assert_eq!(search("x/f", &top, &Loaded::new()), need("targets", "a"));
        assert_eq!(search("y/f", &top, &Loaded::new()), Outcome::Absent);
        let a = targets(&[], vec![delegation("c", "x/*", false)]);
        assert_eq!(search("x/f", &top, &loaded(vec![("targets", "a", a.clone())])), need("a", "c"));
        let c = targets(&["x/f"], vec![]);
        let found = search("x/f", &top, &loaded(vec![("targets", "a", a), ("a", "c", c)]));
        assert_eq!(found, Outcome::Found(ListedFile::of(b"x/f")));
    }

    #[test]
    fn a_role_vouches_only_for_its_paths() {
        let top = targets(&[], vec![delegation("a", "x/*", false)]);
        let a = targets(&["x/f", "y/f"], vec![]);
        let loaded = loaded(vec![("targets", "a", a)]);
        assert!(matches!(search("x/f", &top, &loaded), Outcome::Found(_)));
        assert_eq!(search("y/f", &top, &loaded), Outcome::Absent);
    }

    #[test]
    fn hash_prefixes_select_paths() {
        let prefix = Sha256::of(b"x/f").to_string()[..3].to_owned();
        let by_hash =
            Delegation { paths: None, path_hash_prefixes: Some(vec![prefix]), ..delegation("a", "", true) };
        assert!(by_hash.covers("x/f") && !by_hash.covers("x/g"));
    }

    #[test]
    fn terminating_ends_the_search() {
        let top = targets(&[], vec![delegation("a", "x/*", true), delegation("b", "x/*", false)]);
        let loaded =
            loaded(vec![("targets", "a", targets(&[], vec![])), ("targets", "b", targets(&["x/f"], vec![]))]);
        assert_eq!(search("x/f", &top, &loaded), Outcome::Absent);
    }

    #[test]
    fn cycles_and_large_graphs_end() {
        let top = targets(&[], vec![delegation("a", "x/*", false)]);
        let around = loaded(vec![
            ("targets", "a", targets(&[], vec![delegation("b", "x/*", false)])),
            ("a", "b", targets(&[], vec![delegation("a", "x/*", false)])),
        ]);
        assert_eq!(search("x/f", &top, &around), Outcome::Absent);
        let many: Vec<_> = (0..=limits::DELEGATIONS_VISITED).map(|at| format!("r{at}")).collect();
        let wide = targets(&[], many.iter().map(|role| delegation(role, "x/*", false)).collect());
        let all = many.iter().map(|role| ("targets", role.as_str(), targets(&[], vec![]))).collect();
        assert_eq!(search("x/f", &wide, &loaded(all)), Outcome::TooMany);
    }

    proptest! {
        #[test]
        fn a_star_matches_any_segment(text in "[a-z.]{0,12}", before in "[a-z]{0,3}", after in "[a-z]{0,3}") {
            let pattern = format!("{}*{}", before, after);
            let longer = format!("{before}{text}{after}");
            prop_assert!(matches(&pattern, &longer));
            prop_assert_eq!(matches(&pattern, &text), text.len() >= before.len() + after.len()
                && text.starts_with(&before) && text.ends_with(&after));
        }
    }
}
