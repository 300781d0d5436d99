//! The client workflow (TUF 5.3 to 5.7) as a state machine: it names the file it needs next, and is given its bytes.

use super::envelope::Read;
use super::keys::Authority;
use super::search::{Loaded, Outcome, search};
use super::trusted::{File, authority};
use super::{
    ListedFile, ListedMetadata, Metadata, Refused, RoleName, Snapshot, Targets, Timestamp, Trusted,
    metadata_path, target_file_path,
};
use crate::digest::Sha256;
use crate::limits;
use crate::time::WallTime;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a refresh wants next.
#[derive(Clone, Debug)]
pub enum Step {
    /// The file at `path` of the repository, of at most `limit` bytes.
    Need {
        /// Path inside the repository: `metadata/…` or `targets/…`.
        path: String,
        /// Most bytes to fetch; more are refused.
        limit: u64,
    },
    /// The refresh succeeded: what the node trusts from now on.
    Done(Box<Trusted>),
}

/// A refresh under way. Call [`Refresh::step`], answer its need, and again, until it is done or refused.
#[derive(Clone, Debug)]
pub struct Refresh {
    now: WallTime,
    /// Trusted before, for rollback checks and for files that are still current.
    old: Trusted,
    /// The snapshot that is held; it may still be the current one when its version no longer binds.
    held_snapshot: Option<Arc<[u8]>>,
    /// What is trusted if this refresh succeeds.
    new: Trusted,
    roots_done: bool,
    rotations: u64,
    loaded: Loaded,
    /// Wanted targets whose search and fetch are finished.
    settled: BTreeSet<String>,
    asked: Option<Need>,
    refused: Option<Refused>,
}

#[derive(Clone, Debug)]
enum Need {
    Root,
    Timestamp,
    Snapshot,
    /// `targets` itself has no delegator.
    Role {
        parent: Option<RoleName>,
        role: RoleName,
    },
    File {
        target: String,
        listed: ListedFile,
    },
}

impl Refresh {
    /// Begins a refresh at wall time `now` that must end with the `wanted` targets, as far as they exist.
    pub fn new(trusted: &Trusted, now: WallTime, wanted: &[impl AsRef<str>]) -> Refresh {
        let mut new = trusted.clone();
        (new.timestamp, new.snapshot) = (None, None);
        new.roles.clear();
        new.files.clear();
        new.wanted = wanted.iter().map(|path| path.as_ref().to_owned()).collect();
        Refresh {
            now,
            old: trusted.clone(),
            held_snapshot: trusted.snapshot.as_ref().map(|file| Arc::clone(&file.bytes)),
            new,
            roots_done: false,
            rotations: 0,
            loaded: Loaded::new(),
            settled: BTreeSet::new(),
            asked: None,
            refused: None,
        }
    }

    /// What is needed next, or the result. Asking again without an answer gives the same.
    ///
    /// # Errors
    /// [`Refused`], and the same from then on; what was trusted before stays as it was.
    pub fn step(&mut self) -> Result<Step, Refused> {
        let result = self.try_step();
        self.keep(result)
    }

    /// The bytes of the file that the last step needed.
    ///
    /// # Errors
    /// [`Refused`], and the same from then on.
    pub fn provide(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let result = self.try_provide(bytes);
        self.keep(result)
    }

    /// The file that the last step needed does not exist. Only the next root may be missing.
    ///
    /// # Errors
    /// [`Refused`], and the same from then on.
    pub fn provide_missing(&mut self) -> Result<(), Refused> {
        let result = self.try_missing();
        self.keep(result)
    }

    fn keep<T>(&mut self, result: Result<T, Refused>) -> Result<T, Refused> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        self.refused = result.as_ref().err().cloned();
        result
    }

    fn try_step(&mut self) -> Result<Step, Refused> {
        if self.asked.is_none() {
            self.asked = self.next_need()?;
        }
        match &self.asked {
            None => Ok(Step::Done(Box::new(self.new.clone()))),
            Some(need) => {
                let (path, limit) = self.place(need)?;
                Ok(Step::Need { path, limit })
            }
        }
    }

    fn try_missing(&mut self) -> Result<(), Refused> {
        match self.asked.take() {
            None => Err(Refused::NotAskedFor),
            Some(Need::Root) => self.end_roots(),
            Some(need) => Err(Refused::Missing(self.place(&need)?.0)),
        }
    }

    fn try_provide(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let need = self.asked.take().ok_or(Refused::NotAskedFor)?;
        let (path, limit) = self.place(&need)?;
        if bytes.len() as u64 > limit {
            return Err(Refused::TooLarge { path, found: bytes.len() as u64, limit });
        }
        match need {
            Need::Root => self.accept_root(bytes),
            Need::Timestamp => self.accept_timestamp(&path, bytes),
            Need::Snapshot => self.accept_snapshot(&path, bytes.into()),
            Need::Role { parent, role } => self.accept_role(parent, role, bytes.into()),
            Need::File { target, listed } => {
                check_file(&path, bytes, Some(listed.length), listed.sha256())?;
                self.new.files.insert(target.clone(), bytes.into());
                self.settled.insert(target);
                Ok(())
            }
        }
    }

    /// Where the needed file lies, and how large it may be.
    fn place(&self, need: &Need) -> Result<(String, u64), Refused> {
        let bounded = |path: String, length: u64, limit: usize| {
            let limit = limit as u64;
            if length > limit {
                Err(Refused::TooLarge { path, found: length, limit })
            } else {
                Ok((path, length))
            }
        };
        let metadata = |role: &RoleName, listed: &ListedMetadata| {
            let length = listed.length.unwrap_or(limits::METADATA_BYTES as u64);
            bounded(metadata_path(role, listed.version), length, limits::METADATA_BYTES)
        };
        match need {
            Need::Root => {
                let version = self.new.root.version.saturating_add(1);
                Ok((metadata_path(&RoleName::root(), version), limits::METADATA_BYTES as u64))
            }
            Need::Timestamp => Ok((metadata_path(&RoleName::timestamp(), 0), limits::TIMESTAMP_BYTES as u64)),
            Need::Snapshot => metadata(&RoleName::snapshot(), self.timestamp()?.snapshot()),
            Need::Role { role, .. } => metadata(role, self.listed(role)?),
            Need::File { target, listed } => {
                let sha256 = listed.sha256().unwrap_or(Sha256::of(b""));
                bounded(target_file_path(target, sha256), listed.length, limits::TARGET_BYTES)
            }
        }
    }

    /// Goes on as far as what is held already allows, and says what is missing then.
    fn next_need(&mut self) -> Result<Option<Need>, Refused> {
        if !self.roots_done {
            return Ok(Some(Need::Root));
        }
        if self.new.timestamp.is_none() {
            return Ok(Some(Need::Timestamp));
        }
        if self.new.snapshot.is_none() && !self.reuse_snapshot()? {
            return Ok(Some(Need::Snapshot));
        }
        let top = RoleName::targets();
        if !self.new.roles.contains_key(&top) && !self.reuse_role(None, &top)? {
            return Ok(Some(Need::Role { parent: None, role: top }));
        }
        for target in self.new.wanted.clone() {
            if self.settled.contains(&target) {
                continue;
            }
            if let Some(need) = self.next_for(&target)? {
                return Ok(Some(need));
            }
            self.settled.insert(target);
        }
        Ok(None)
    }

    fn next_for(&mut self, target: &str) -> Result<Option<Need>, Refused> {
        loop {
            match search(target, self.top()?, &self.loaded) {
                Outcome::Absent => return Ok(None),
                Outcome::TooMany => {
                    let (target, limit) = (target.to_owned(), limits::DELEGATIONS_VISITED);
                    return Err(Refused::TooManyDelegations { target, limit });
                }
                Outcome::Need { parent, role } => {
                    if !self.reuse_role(Some(&parent), &role)? {
                        return Ok(Some(Need::Role { parent: Some(parent), role }));
                    }
                }
                Outcome::Found(listed) => {
                    let held = self.old.files.get(target).cloned();
                    let same = |bytes: &Arc<[u8]>| {
                        bytes.len() as u64 == listed.length && Some(Sha256::of(bytes)) == listed.sha256()
                    };
                    let Some(bytes) = held.filter(same) else {
                        return Ok(Some(Need::File { target: target.to_owned(), listed }));
                    };
                    self.new.files.insert(target.to_owned(), bytes);
                    return Ok(None);
                }
            }
        }
    }

    fn accept_root(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if self.rotations == limits::ROOT_ROTATIONS {
            return Err(Refused::TooManyRotations(limits::ROOT_ROTATIONS));
        }
        self.rotations += 1;
        self.new.add_root(bytes.into())
    }

    /// No newer root: it must not have expired, and keys that were taken away take what they signed with them.
    fn end_roots(&mut self) -> Result<(), Refused> {
        self.roots_done = true;
        self.fresh(&RoleName::root(), self.new.root.expires)?;
        // Recovery from fast-forward attacks (TUF 5.3.11): versions that a revoked key pushed up no longer bind.
        let still = self.still_signed(self.old.timestamp.as_ref(), &RoleName::timestamp())
            && self.still_signed(self.old.snapshot.as_ref(), &RoleName::snapshot());
        if !still {
            (self.old.timestamp, self.old.snapshot) = (None, None);
        }
        Ok(())
    }

    fn still_signed<T: Metadata>(&self, file: Option<&File<T>>, role: &RoleName) -> bool {
        let Some(file) = file else { return true };
        let path = metadata_path(role, file.content.version());
        let verified = Read::<T>::new(&path, Arc::clone(&file.bytes))
            .and_then(|read| read.verify(authority(&self.new.root, role)?));
        verified.is_ok()
    }

    fn accept_timestamp(&mut self, path: &str, bytes: &[u8]) -> Result<(), Refused> {
        let role = RoleName::timestamp();
        let read = Read::<Timestamp>::new(path, bytes.into())?;
        read.verify(authority(&self.new.root, &role)?)?;
        let mut accepted = File::from(read);
        if let Some(old) = &self.old.timestamp {
            let (trusted, found) = (old.content.version, accepted.content.version);
            if found < trusted {
                return Err(Refused::TimestampRollback { trusted, found });
            }
            let (trusted, offered) = (old.content.snapshot().version, accepted.content.snapshot().version);
            if offered < trusted {
                return Err(Refused::SnapshotRollback { trusted, found: offered });
            }
            // The same version again says nothing new (TUF 5.4.3.1): the one that was seen first stays.
            if found == old.content.version {
                accepted = old.clone();
            }
        }
        self.fresh(&role, accepted.content.expires)?;
        self.new.timestamp = Some(accepted);
        Ok(())
    }

    /// Takes the snapshot that is held, if it is still the listed one.
    fn reuse_snapshot(&mut self) -> Result<bool, Refused> {
        let listed = self.timestamp()?.snapshot();
        let held = self.held_snapshot.clone().filter(|bytes| is_listed(bytes, listed));
        let Some(bytes) = held else { return Ok(false) };
        self.accept_snapshot(&metadata_path(&RoleName::snapshot(), listed.version), bytes)?;
        Ok(true)
    }

    fn accept_snapshot(&mut self, path: &str, bytes: Arc<[u8]>) -> Result<(), Refused> {
        let role = RoleName::snapshot();
        let authority = authority(&self.new.root, &role)?;
        let file = verified::<Snapshot>(path, bytes, authority, self.timestamp()?.snapshot())?;
        if let Some(old) = &self.old.snapshot {
            not_rolled_back(&old.content, &file.content)?;
        }
        self.fresh(&role, file.content.expires)?;
        self.new.snapshot = Some(file);
        Ok(())
    }

    /// Takes the metadata of `role` that is held, if it is still the listed one.
    fn reuse_role(&mut self, parent: Option<&RoleName>, role: &RoleName) -> Result<bool, Refused> {
        let listed = self.listed(role)?;
        let held = self.new.roles.get(role).or_else(|| self.old.roles.get(role));
        let bytes = held.map(|file| Arc::clone(&file.bytes)).filter(|bytes| is_listed(bytes, listed));
        let Some(bytes) = bytes else { return Ok(false) };
        self.accept_role(parent.cloned(), role.clone(), bytes)?;
        Ok(true)
    }

    fn accept_role(
        &mut self,
        parent: Option<RoleName>,
        role: RoleName,
        bytes: Arc<[u8]>,
    ) -> Result<(), Refused> {
        let listed = self.listed(&role)?;
        let path = metadata_path(&role, listed.version);
        let authority = match &parent {
            None => authority(&self.new.root, &role)?,
            Some(parent) => self
                .new
                .roles
                .get(parent)
                .and_then(|file| file.content.delegations.as_ref()?.authority(&role))
                .ok_or(Refused::NotAskedFor)?,
        };
        let file = verified::<Targets>(&path, bytes, authority, listed)?;
        self.fresh(&role, file.content.expires)?;
        if let Some(parent) = parent {
            self.loaded.insert((parent, role.clone()), file.content.clone());
        }
        self.new.roles.insert(role, file);
        Ok(())
    }

    fn timestamp(&self) -> Result<&Timestamp, Refused> {
        self.new.timestamp.as_ref().map(|file| &file.content).ok_or(Refused::NotAskedFor)
    }

    fn top(&self) -> Result<&Targets, Refused> {
        self.new.role(&RoleName::targets()).ok_or(Refused::NotAskedFor)
    }

    fn listed(&self, role: &RoleName) -> Result<&ListedMetadata, Refused> {
        let snapshot = self.new.snapshot().ok_or(Refused::NotAskedFor)?;
        snapshot.role(role).ok_or_else(|| Refused::NotInSnapshot(role.clone()))
    }

    fn fresh(&self, role: &RoleName, expires: WallTime) -> Result<(), Refused> {
        if expires <= self.now {
            return Err(Refused::Expired { role: role.clone(), since: expires });
        }
        Ok(())
    }
}

/// Reads a listed metadata file and checks it in the specification's order: digest, signatures, version.
fn verified<T: Metadata>(
    path: &str,
    bytes: Arc<[u8]>,
    authority: Authority<'_>,
    listed: &ListedMetadata,
) -> Result<File<T>, Refused> {
    check_file(path, &bytes, listed.length, listed.sha256())?;
    let read = Read::<T>::new(path, bytes)?;
    read.verify(authority)?;
    let found = read.content.version();
    if found != listed.version {
        return Err(Refused::MixAndMatch { path: path.to_owned(), listed: listed.version, found });
    }
    Ok(read.into())
}

/// Whether held metadata is the very file that is listed now; without a listed digest it is fetched again.
fn is_listed(bytes: &[u8], listed: &ListedMetadata) -> bool {
    listed.sha256() == Some(Sha256::of(bytes))
}

fn check_file(path: &str, bytes: &[u8], length: Option<u64>, sha256: Option<Sha256>) -> Result<(), Refused> {
    let found = bytes.len() as u64;
    if let Some(listed) = length.filter(|length| *length != found) {
        return Err(Refused::WrongLength { path: path.to_owned(), listed, found });
    }
    match sha256 {
        Some(listed) if Sha256::of(bytes) != listed => {
            Err(Refused::WrongHash { path: path.to_owned(), listed })
        }
        _ => Ok(()),
    }
}

/// Every role of the old snapshot is in the new one, in the same version or a newer one (TUF 5.5.5).
fn not_rolled_back(old: &Snapshot, new: &Snapshot) -> Result<(), Refused> {
    let versions: BTreeMap<_, _> = new.meta.iter().map(|(name, listed)| (name, listed.version)).collect();
    for (name, listed) in &old.meta {
        let Some(role) = RoleName::of_file_name(name) else { continue };
        match versions.get(name) {
            None => return Err(Refused::RoleVanished(role)),
            Some(&found) if found < listed.version => {
                return Err(Refused::TargetsRollback { role, trusted: listed.version, found });
            }
            Some(_) => {}
        }
    }
    Ok(())
}
