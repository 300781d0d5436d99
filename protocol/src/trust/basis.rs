//! What an administrator's copy of a role is based on, and whether it may take the place of what the seed has now.

use super::{ListedMetadata, Targets};
use crate::digest::Sha256;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A role as an administrator's directory last published it or took it over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Basis {
    /// Version of the role's metadata; 0 for a role that was not published yet.
    pub version: u64,
    /// SHA-256 of that metadata file.
    pub sha256: Option<Sha256>,
    /// SHA-256 of the files that it vouches for, by target path.
    pub files: BTreeMap<String, Sha256>,
}

impl Basis {
    /// The basis of somebody who has just seen the metadata `role`, which the snapshot lists as `listed`.
    pub fn of(listed: &ListedMetadata, role: &Targets) -> Basis {
        let files = role.targets.iter().filter_map(|(path, file)| Some((path.clone(), file.sha256()?)));
        Basis { version: listed.version, sha256: listed.sha256(), files: files.collect() }
    }
}

/// A version that is so much higher was not counted to: the repository was begun anew.
const LEAP: u64 = 1_000_000;

/// How a copy of a role stands to what the seed has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The copy builds upon what the seed has, or says the same: it may be published.
    Current,
    /// Somebody else published, and this copy changed nothing: the published role replaces the copy.
    Behind,
    /// Somebody else published, and this copy changed something too: one of the two would be lost.
    Diverged,
    /// The seed has an older version than the copy is based on: it was set back, and devices refuse it.
    SetBack,
}

/// Compares `staged`, the digests of the files of a role in an administrator's copy, with what the copy is based on and with
/// what is published. Who does not know what the copy is based on gives no `basis`; it counts as changed then.
pub fn standing(staged: &BTreeMap<String, Sha256>, basis: Option<&Basis>, published: &Basis) -> Standing {
    if let Some(basis) = basis {
        if basis.version == published.version && basis.sha256 == published.sha256 {
            return Standing::Current;
        }
        if basis.version > published.version {
            return Standing::SetBack;
        }
    }
    // The same content on both sides, or a role that somebody signed again without a change: nothing can be lost.
    if *staged == published.files || basis.is_some_and(|basis| basis.files == published.files) {
        return Standing::Current;
    }
    // File by file, so that a copy that was taken over in part, before a crash, counts as unchanged.
    let unchanged = |basis: &Basis| {
        let paths = staged.keys().chain(basis.files.keys()).chain(published.files.keys());
        let mut same = paths.map(|path| {
            let here = staged.get(path);
            here == basis.files.get(path) || here == published.files.get(path)
        });
        same.all(|same| same)
    };
    // Two of the same version, each published, or one of a repository that was begun anew, without what this is based on:
    // whichever devices do not have would be lost without a word.
    let newer = |basis: &&Basis| (1..LEAP).contains(&published.version.saturating_sub(basis.version));
    if basis.filter(newer).is_some_and(unchanged) { Standing::Behind } else { Standing::Diverged }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, Sha256> {
        list.iter().map(|(path, text)| ((*path).to_owned(), Sha256::of(text.as_bytes()))).collect()
    }

    fn basis(version: u64, list: &[(&str, &str)]) -> Basis {
        Basis {
            version,
            sha256: Some(Sha256::of(format!("{version}{list:?}").as_bytes())),
            files: files(list),
        }
    }

    #[test]
    fn only_what_somebody_would_lose_diverges() {
        let one = basis(1, &[("a", "1"), ("b", "1")]);
        let two = basis(2, &[("a", "2"), ("b", "1"), ("c", "1")]);
        let other_two = basis(2, &[("a", "3"), ("b", "1")]);
        let nothing = Basis::default();
        for (staged, basis, published, expected) in [
            // Nobody else published: whatever the copy says may follow.
            (files(&[("a", "9")]), Some(&one), &one, Standing::Current),
            (files(&[]), Some(&nothing), &nothing, Standing::Current),
            // Somebody did, and the copy is as it was, also one that a crash left half taken over.
            (one.files.clone(), Some(&one), &two, Standing::Behind),
            (files(&[("a", "2"), ("b", "1")]), Some(&one), &two, Standing::Behind),
            (files(&[]), Some(&nothing), &two, Standing::Behind),
            // Both made the same change.
            (two.files.clone(), Some(&one), &two, Standing::Current),
            (two.files.clone(), None, &two, Standing::Current),
            // Signed for another year by somebody else.
            (files(&[("a", "9")]), Some(&one), &Basis { version: 2, ..one.clone() }, Standing::Current),
            // Both changed something, the same file or not, or nobody knows.
            (files(&[("a", "3"), ("b", "1")]), Some(&one), &two, Standing::Diverged),
            (files(&[("a", "1"), ("b", "7")]), Some(&one), &two, Standing::Diverged),
            (files(&[("a", "1")]), Some(&one), &two, Standing::Diverged),
            (one.files.clone(), None, &two, Standing::Diverged),
            // The same number twice, by two who did not know of each other.
            (files(&[("a", "5"), ("b", "1")]), Some(&two), &other_two, Standing::Diverged),
            (two.files.clone(), Some(&two), &other_two, Standing::Diverged),
            // A repository that was begun anew by somebody who did not know of it.
            (
                two.files.clone(),
                Some(&two),
                &Basis { version: 1_800_000_000, ..one.clone() },
                Standing::Diverged,
            ),
            (
                two.files.clone(),
                Some(&two),
                &Basis { version: 1_800_000_000, ..two.clone() },
                Standing::Current,
            ),
            // A seed that was restored from a backup.
            (two.files.clone(), Some(&two), &one, Standing::SetBack),
            (two.files.clone(), Some(&two), &nothing, Standing::SetBack),
        ] {
            assert_eq!(standing(&staged, basis, published), expected, "{staged:?} {basis:?} {published:?}");
        }
    }
}
