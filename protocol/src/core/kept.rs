//! What a device keeps although it does not need it any more, for its neighbours: within a quota, and where others in the site
//! have it too, for a time. The site's last copy goes last.

use super::{Core, Event, Pending, Record, prefix};
use crate::codec;
use crate::digest::Blake3Root;
use crate::fetch::rendezvous;
use crate::limits;
use crate::share::Part;
use crate::time::{Moment, WallTime};
use std::collections::BTreeMap;
use std::time::Duration;

/// The pieces that were on their way when the disk was full all say so; room was made for them once.
const CLEARED: Duration = Duration::from_secs(10);

/// When contents were last needed, fetched or given, by the wall clock, give or take a day.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) used: BTreeMap<Blake3Root, WallTime>,
    /// When room was last made for a content that is needed.
    cleared: BTreeMap<Blake3Root, Moment>,
}

impl Kept {
    /// What the records say. One that cannot be read is as good as none: its content counts as used now.
    pub(super) fn restore(records: Vec<(Vec<u8>, Vec<u8>)>) -> Kept {
        let read = |(root, value): (Vec<u8>, Vec<u8>)| {
            let root = Blake3Root::from_bytes(root.try_into().ok()?);
            Some((root, codec::decode::<WallTime, 16>(&value).ok()?))
        };
        Kept { used: records.into_iter().filter_map(read).collect(), cleared: BTreeMap::new() }
    }
}

/// How easily a content that is not needed here is let go; the first goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// No manifest that is known here names it: nobody may have it.
    Nobody,
    /// Neighbours say that they have it, and one of them keeps it before this device does.
    Elsewhere,
    /// As far as is known here nobody else in the site has it, or would keep it.
    LastCopy,
}

/// A content that is not needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spare {
    worth: Worth,
    used: WallTime,
    root: Blake3Root,
    size: u64,
}

impl Core {
    /// A content was fetched, needed, or given to somebody.
    pub(super) fn note_use(&mut self, root: Blake3Root) {
        let wall = self.wall;
        if self.kept.used.get(&root).is_some_and(|used| *used <= wall && wall < used.plus_days(1)) {
            return;
        }
        self.kept.used.insert(root, wall);
        self.store_use(root, Some(codec::encode(&wall)));
    }

    fn store_use(&mut self, root: Blake3Root, value: Option<Vec<u8>>) {
        let key = [prefix::KEPT, root.as_bytes()].concat();
        self.store(vec![Record { key, value }], Pending::StoreOther);
    }

    /// Lets go of what is not needed here: what is too much for the quota, and what others have and nobody asked for in a
    /// long time. What is needed here stays, whatever the quota is.
    pub(super) fn trim_kept(&mut self) {
        if !self.knows_needs() {
            return;
        }
        for root in self.contents.held().map(|(root, _)| root).collect::<Vec<_>>() {
            if !self.kept.used.contains_key(&root) {
                self.note_use(root);
            }
        }
        let gone = self.kept.used.keys().filter(|root| self.contents.get(**root).is_none());
        for root in gone.copied().collect::<Vec<_>>() {
            self.kept.used.remove(&root);
            self.store_use(root, None);
        }
        let mut excess = self.kept_bytes().saturating_add(self.coming_bytes());
        excess = excess.saturating_sub(self.setup.keep_bytes);
        // A clock that is far off lets nothing grow old: metadata that is in force bounds it.
        let aging = self.metadata_in_force().is_ok()
            && self.kept.used.values().any(|used| is_overdue(*used, self.wall));
        if excess == 0 && !aging {
            return;
        }
        for spare in self.spare() {
            let old = aging && spare.worth != Worth::LastCopy && is_overdue(spare.used, self.wall);
            if excess > 0 || old {
                excess = excess.saturating_sub(spare.size);
                self.let_go(spare);
            }
        }
    }

    /// Before the first scan it is not known what is needed. A seed has what was published.
    fn knows_needs(&self) -> bool {
        !self.setup.roles.seed && self.deploying.scanned()
    }

    /// The disk has no room for a wanted content: lets go of as much that is not needed, where there is as much. Returns
    /// whether there was.
    pub(super) fn make_room_for(&mut self, now: Moment, root: Blake3Root) -> bool {
        self.kept.cleared.retain(|_, at| now.since(*at) < CLEARED);
        if self.kept.cleared.contains_key(&root) {
            return true;
        }
        let wanted = self.fetcher.wants().find(|want| want.content.root == root);
        let Some(mut needed) = wanted.map(|want| want.content.size).filter(|_| self.knows_needs()) else {
            return false;
        };
        let spare = self.spare();
        if spare.iter().map(|spare| spare.size).sum::<u64>() < needed {
            return false;
        }
        self.kept.cleared.insert(root, now);
        for spare in spare {
            if needed > 0 {
                needed = needed.saturating_sub(spare.size);
                self.let_go(spare);
            }
        }
        true
    }

    /// Bytes of all contents that are here or begun.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.contents.held().filter_map(|(root, _)| self.contents.size_of(root)).sum()
    }

    /// Bytes of contents that are wanted and not begun.
    fn coming_bytes(&self) -> u64 {
        let coming = self.fetcher.wants().filter(|want| self.contents.get(want.content.root).is_none());
        coming.map(|want| want.content.size).sum()
    }

    /// What is not needed here, first to go first. What proves a patch is small, and stays as long as a manifest names it.
    fn spare(&self) -> Vec<Spare> {
        let planned = self.planned_contents();
        let mut spare: Vec<Spare> = self
            .contents
            .held()
            .filter(|(root, _)| !planned.contains(root) && !self.fetcher.is_wanted(*root))
            .filter(|(root, _)| {
                self.rules.named_by(*root).all(|(_, manifest, part)| {
                    let deployment = self.deploying.deployments.get(&manifest.patch);
                    part == Part::Artifact
                        && deployment.is_none_or(|deployment| deployment.state.is_terminal())
                })
            })
            .filter_map(|(root, _)| {
                let used = self.kept.used.get(&root).copied().unwrap_or(self.wall);
                Some(Spare { worth: self.worth(root), used, root, size: self.contents.size_of(root)? })
            })
            .collect();
        spare.sort_unstable();
        spare
    }

    fn worth(&self, root: Blake3Root) -> Worth {
        let Some(held) = self.contents.get(root) else { return Worth::Nobody };
        if self.rules.named_by(root).next().is_none() {
            return Worth::Nobody;
        }
        // Two that know of each other's copy must not both rely on it.
        let key = root.as_bytes();
        let own = rendezvous::weight(key, self.setup.member.device);
        let mut others = self.fetcher.whole_at(root, held.tree.pieces());
        if !held.is_complete() || others.any(|device| rendezvous::weight(key, device) > own) {
            Worth::Elsewhere
        } else {
            Worth::LastCopy
        }
    }

    fn let_go(&mut self, spare: Spare) {
        let last = spare.worth == Worth::LastCopy;
        self.event(Event::LetGo { root: spare.root, bytes: spare.size, last });
        self.drop_content(spare.root);
        self.kept.used.remove(&spare.root);
        self.store_use(spare.root, None);
    }
}

/// Whether nobody used it for the days that a copy is kept.
fn is_overdue(used: WallTime, wall: WallTime) -> bool {
    used.plus_days(limits::DAYS_KEPT) <= wall
}
