//! What a publisher builds upon: the current metadata of a repository, read back from its files.

use super::envelope::Read;
use super::publish::TIMESTAMP_DAYS;
use super::{Metadata, Refused, RoleName, Root, Snapshot, Targets, Timestamp, metadata_path};
use crate::digest::Sha256;
use crate::identifier::FleetId;
use crate::time::WallTime;
use std::collections::BTreeMap;

/// The current metadata of a repository. Signatures are not looked at here: whoever publishes runs a refresh over the
/// result before it counts.
#[derive(Clone, Debug)]
pub struct Current {
    /// The fleet.
    pub fleet: FleetId,
    /// The newest root.
    pub root: Root,
    /// Version of the timestamp, and the timestamp; `None` before the first publication.
    pub timestamp: Option<Timestamp>,
    /// The snapshot that the timestamp lists.
    pub snapshot: Option<Snapshot>,
    /// The bytes of that snapshot.
    pub snapshot_bytes: Vec<u8>,
    /// All roles that the snapshot lists.
    pub roles: BTreeMap<RoleName, Targets>,
}

impl Current {
    /// Every target that some role vouches for; and for each role that vouches for none, a path that leads to it: who
    /// wants all of these holds every role, and can answer whoever looks into one to see that it is empty.
    pub fn target_paths(&self) -> Vec<String> {
        let listed = self.roles.values().flat_map(|role| role.targets.keys().cloned());
        let delegations = self.roles.get(&RoleName::targets()).and_then(|top| top.delegations.as_ref());
        let delegated = delegations.into_iter().flat_map(|delegations| &delegations.roles);
        let empty = delegated
            .filter(|entry| self.roles.get(&entry.name).is_some_and(|role| role.targets.is_empty()))
            .filter_map(|entry| Some(entry.paths.as_ref()?.first()?.replace('*', "none")));
        let paths: std::collections::BTreeSet<String> = listed.chain(empty).collect();
        paths.into_iter().collect()
    }

    /// Reads the current metadata out of a repository, whose files `read` gives by path.
    ///
    /// # Errors
    /// [`Refused`] when a file that must exist is missing or cannot be read as what it should be.
    pub fn read(mut read: impl FnMut(&str) -> Option<Vec<u8>>) -> Result<Current, Refused> {
        let path = metadata_path(&RoleName::root(), 1);
        let bytes = read(&path).ok_or(Refused::Missing(path.clone()))?;
        let fleet = FleetId::from_bytes(*Sha256::of(&bytes).as_bytes());
        let mut root = Read::<Root>::new(&path, bytes.into())?.content;
        loop {
            let path = metadata_path(&RoleName::root(), root.version.saturating_add(1));
            let Some(bytes) = read(&path) else { break };
            let next = Read::<Root>::new(&path, bytes.into())?.content;
            if next.version <= root.version {
                return Err(Refused::RootVersion {
                    expected: root.version.saturating_add(1),
                    found: next.version,
                });
            }
            root = next;
        }
        let mut current = Current {
            fleet,
            root,
            timestamp: None,
            snapshot: None,
            snapshot_bytes: Vec::new(),
            roles: BTreeMap::new(),
        };
        let path = metadata_path(&RoleName::timestamp(), 0);
        let Some(bytes) = read(&path) else { return Ok(current) };
        let timestamp = Read::<Timestamp>::new(&path, bytes.into())?.content;
        let version = timestamp.snapshot().version;
        let (snapshot, bytes) = file::<Snapshot>(&RoleName::snapshot(), version, &mut read)?;
        for (name, listed) in &snapshot.meta {
            let Some(role) = RoleName::of_file_name(name) else { continue };
            let (targets, _) = file::<Targets>(&role, listed.version, &mut read)?;
            current.roles.insert(role, targets);
        }
        current.snapshot_bytes = bytes;
        (current.timestamp, current.snapshot) = (Some(timestamp), Some(snapshot));
        Ok(current)
    }

    /// When the timestamp was signed, by the clock of whoever signed it; `None` before the first publication.
    pub fn signed(&self) -> Option<WallTime> {
        let expires = self.timestamp.as_ref()?.expires.unix_seconds();
        Some(WallTime::from_unix_seconds(expires.saturating_sub(u64::from(TIMESTAMP_DAYS) * 86_400)))
    }

    /// Version of the timestamp; 0 before the first publication. Publishing compares and swaps on it.
    pub fn timestamp_version(&self) -> u64 {
        self.timestamp.as_ref().map_or(0, |timestamp| timestamp.version)
    }
}

fn file<T: Metadata>(
    role: &RoleName,
    version: u64,
    read: &mut impl FnMut(&str) -> Option<Vec<u8>>,
) -> Result<(T, Vec<u8>), Refused> {
    let path = metadata_path(role, version);
    let bytes = read(&path).ok_or(Refused::Missing(path.clone()))?;
    let content = Read::<T>::new(&path, bytes.as_slice().into())?.content;
    Ok((content, bytes))
}
