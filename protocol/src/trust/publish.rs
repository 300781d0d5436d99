//! What the publishing side decides: which role signs which file, how long signatures hold, what has to be signed.

use super::{
    Delegation, Delegations, Key, ListedFile, ListedMetadata, RoleKeys, RoleName, Root, Snapshot, Targets,
    Timestamp, Unsigned,
};
use crate::identifier::VendorName;
use crate::signature::PublicKey;
use crate::time::WallTime;
use std::collections::BTreeMap;

/// Days that root metadata holds: keys come out of the safe once a year.
pub const ROOT_DAYS: u32 = 365;
/// Days that `targets` and the delegated roles hold: a change is signed when it is made, not on a schedule.
pub const TARGETS_DAYS: u32 = 365;
/// Days that a snapshot holds; the seed signs it again by itself.
pub const SNAPSHOT_DAYS: u32 = 30;
/// Days that a timestamp holds: how long a stolen seed can hide news. The seed signs it again by itself.
pub const TIMESTAMP_DAYS: u32 = 7;

/// Whether metadata that holds for `days` should be signed again at `now`: less than a third of its time is left.
pub fn is_due(expires: WallTime, days: u32, now: WallTime) -> bool {
    expires.seconds_since(now) < u64::from(days) * 86_400 / 3
}

/// Name of the role that signs the catalogues of `vendor`; `None` when the vendor's name is too long for a role.
pub fn catalogue_role(vendor: &VendorName) -> Option<RoleName> {
    RoleName::new(format!("catalogue-{vendor}")).ok()
}

/// The delegated roles with fixed names, in the order in which they are asked, and the paths each may vouch for.
/// `threat` comes before `policy`, whose pattern covers its file too, and ends the search.
const FIXED: [(&str, &[&str], bool); 5] = [
    ("fleet", &["fleet/sites.toml", "fleet/revoked.json"], true),
    ("threat", &["policy/threats.toml"], true),
    ("policy", &["policy/*.toml"], true),
    ("act", &["act/orders.toml"], true),
    ("hold", &["hold/holds.toml"], true),
];

/// Files that `targets` signs itself.
const TOP: [&str; 2] = ["fleet/vendors.toml", "fleet/services.toml"];

/// The delegated roles of a fleet with these vendors, in order.
pub fn delegated_roles(vendors: &[VendorName]) -> Vec<RoleName> {
    let fixed = FIXED.iter().filter_map(|(name, _, _)| RoleName::new(*name).ok());
    fixed.chain(vendors.iter().filter_map(catalogue_role)).collect()
}

/// The role that signs the target `path` in a fleet with these vendors; `None` when nobody may.
pub fn role_of(path: &str, vendors: &[VendorName]) -> Option<RoleName> {
    if TOP.contains(&path) {
        return Some(RoleName::targets());
    }
    let delegations = delegations(vendors, &|_| Vec::new());
    delegations.roles.into_iter().find(|role| role.covers(path)).map(|role| role.name)
}

/// The delegations that `targets` makes; `keys` gives the keys of a role, of which any one may sign.
pub fn delegations(vendors: &[VendorName], keys: &dyn Fn(&RoleName) -> Vec<PublicKey>) -> Delegations {
    let mut delegations = Delegations::default();
    let mut add = |name: RoleName, paths: Vec<String>, terminating: bool| {
        let public = keys(&name);
        delegations.keys.extend(public.iter().map(|key| Key::ed25519(*key)).map(|key| (key.id(), key)));
        let keys = RoleKeys::any_of(&public);
        let paths = Some(paths);
        delegations.roles.push(Delegation { name, keys, terminating, paths, path_hash_prefixes: None });
    };
    for (name, paths, terminating) in FIXED {
        if let Ok(name) = RoleName::new(name) {
            add(name, paths.iter().map(|path| (*path).to_owned()).collect(), terminating);
        }
    }
    for vendor in vendors {
        if let Some(name) = catalogue_role(vendor) {
            add(name, vec![format!("catalogue/{vendor}/*")], true);
        }
    }
    delegations
}

/// The public keys of the four top-level roles; any key of a role may sign for it.
#[derive(Clone, Debug)]
pub struct TopKeys {
    /// Root keys: the working one, and the recovery key that lies in a safe.
    pub root: Vec<PublicKey>,
    /// Keys of `targets`.
    pub targets: Vec<PublicKey>,
    /// Keys of `snapshot`.
    pub snapshot: Vec<PublicKey>,
    /// Keys of `timestamp`.
    pub timestamp: Vec<PublicKey>,
}

/// The first root metadata of a fleet. SHA-256 of the signed file becomes the fleet's identifier.
pub fn first_root(keys: &TopKeys, now: WallTime) -> Unsigned {
    let roles = [
        (RoleName::root(), &keys.root),
        (RoleName::targets(), &keys.targets),
        (RoleName::snapshot(), &keys.snapshot),
        (RoleName::timestamp(), &keys.timestamp),
    ];
    let all = roles.iter().flat_map(|(_, keys)| keys.iter()).map(|key| Key::ed25519(*key));
    let root = Root {
        version: 1,
        expires: now.plus_days(ROOT_DAYS),
        consistent_snapshot: true,
        keys: all.map(|key| (key.id(), key)).collect(),
        roles: roles.iter().map(|(role, keys)| (role.clone(), RoleKeys::any_of(keys))).collect(),
    };
    Unsigned::new(RoleName::root(), &root)
}

/// The next root: the same keys and roles for another year, when `current` is due; else `None`.
pub fn next_root(current: &Root, now: WallTime) -> Option<Unsigned> {
    if !is_due(current.expires, ROOT_DAYS, now) {
        return None;
    }
    let next = Root { version: current.version + 1, expires: now.plus_days(ROOT_DAYS), ..current.clone() };
    Some(Unsigned::new(RoleName::root(), &next))
}

/// New metadata of a targets role, when what it lists differs from `current` or `current` is due; else `None`.
pub fn next_targets(
    role: &RoleName,
    current: Option<&Targets>,
    targets: BTreeMap<String, ListedFile>,
    delegations: Option<Delegations>,
    now: WallTime,
) -> Option<Unsigned> {
    let same = |old: &&Targets| {
        old.targets == targets && old.delegations == delegations && !is_due(old.expires, TARGETS_DAYS, now)
    };
    if current.filter(same).is_some() {
        return None;
    }
    let version = current.map_or(0, |old| old.version) + 1;
    let content = Targets { version, expires: now.plus_days(TARGETS_DAYS), targets, delegations };
    Some(Unsigned::new(role.clone(), &content))
}

/// New snapshot: what `current` lists, with the `changed` roles in their new versions. No role ever leaves it.
pub fn next_snapshot(
    current: Option<&Snapshot>,
    changed: &BTreeMap<RoleName, ListedMetadata>,
    now: WallTime,
) -> Unsigned {
    let mut meta = current.map(|old| old.meta.clone()).unwrap_or_default();
    meta.extend(changed.iter().map(|(role, listed)| (role.file_name(), listed.clone())));
    let version = current.map_or(0, |old| old.version) + 1;
    let content = Snapshot { version, expires: now.plus_days(SNAPSHOT_DAYS), meta };
    Unsigned::new(RoleName::snapshot(), &content)
}

/// New timestamp for a snapshot; `current` is the version of the timestamp before, 0 for none.
pub fn next_timestamp(current: u64, snapshot: ListedMetadata, now: WallTime) -> Unsigned {
    let meta = BTreeMap::from([("snapshot.json".to_owned(), snapshot)]);
    let content = Timestamp { version: current + 1, expires: now.plus_days(TIMESTAMP_DAYS), meta };
    Unsigned::new(RoleName::timestamp(), &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_role() {
        let vendors = [VendorName::new("debian").expect("vendor")];
        let role = |path: &str| role_of(path, &vendors).map(|role| role.to_string());
        for (path, expected) in [
            ("fleet/vendors.toml", Some("targets")),
            ("fleet/services.toml", Some("targets")),
            ("fleet/sites.toml", Some("fleet")),
            ("fleet/revoked.json", Some("fleet")),
            ("policy/fleet.toml", Some("policy")),
            ("policy/threats.toml", Some("threat")),
            ("act/orders.toml", Some("act")),
            ("hold/holds.toml", Some("hold")),
            ("catalogue/debian/debian-12-amd64.json", Some("catalogue-debian")),
            ("catalogue/other/x.json", None),
            ("fleet/other.toml", None),
        ] {
            assert_eq!(role(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn due_when_a_third_is_left() {
        let now = WallTime::from_unix_seconds(1_000_000_000);
        assert!(!is_due(now.plus_days(7), 7, now));
        assert!(!is_due(now.plus_days(3), 7, now));
        assert!(is_due(now.plus_days(2), 7, now));
        assert!(is_due(now, 7, now.plus_days(1)));
    }
}
