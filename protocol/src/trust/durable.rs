//! The trusted set as records for a store, under one digest, so that a torn set is seen and never half believed.

use super::{Refresh, Refused, RoleName, Step, Trusted, metadata_path};
use crate::codec::canonical_json;
use crate::digest::Sha256;
use crate::identifier::FleetId;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of the record that lists all others.
const INDEX: &str = "index.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    fleet: FleetId,
    /// SHA-256 of every other record, by name.
    records: BTreeMap<String, Sha256>,
    /// Target paths that the last refresh wanted.
    wanted: Vec<String>,
    /// SHA-256 over the canonical JSON of the three above.
    digest: Option<Sha256>,
}

impl Index {
    fn compute(&self) -> Sha256 {
        let parts = (&self.fleet, &self.records, &self.wanted);
        Sha256::of(&canonical_json(&parts).unwrap_or_default())
    }
}

/// Why a stored trusted set cannot be used. It is never replaced by an older one in silence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// No index: nothing was stored, or it was lost.
    #[error("the trusted metadata has no index; if this device was a member before, join again")]
    NoIndex,
    /// The index cannot be read, or is not what was written.
    #[error("the index of the trusted metadata is damaged; restore the state directory or join again")]
    DamagedIndex,
    /// The set of another fleet.
    #[error("the trusted metadata belongs to fleet {found}, expected {expected}")]
    OtherFleet {
        /// The fleet that this node belongs to.
        expected: FleetId,
        /// The fleet of the set.
        found: FleetId,
    },
    /// A record is gone.
    #[error("trusted metadata is torn: {0} is missing; restore the state directory or join again")]
    Missing(String),
    /// A record is not what was written.
    #[error("trusted metadata is torn: {0} was changed; restore the state directory or join again")]
    Changed(String),
    /// A record that does not belong to the set.
    #[error("trusted metadata is torn: {0} does not belong to it; restore the state directory or join again")]
    Foreign(String),
    /// The set is as it was written, and does not verify.
    #[error("the trusted metadata does not verify")]
    Refused(#[from] Refused),
}

impl RestoreError {
    /// The stable reason code.
    pub fn code(&self) -> &'static str {
        match self {
            RestoreError::NoIndex => "trusted-missing",
            RestoreError::OtherFleet { .. } => "other-fleet",
            RestoreError::Refused(refused) => refused.code(),
            _ => "trusted-torn",
        }
    }
}

impl Trusted {
    /// The set as named records, the index last. Store them in one transaction, or the index after all others.
    pub fn records(&self) -> Vec<(String, Vec<u8>)> {
        let files = self.repository_files();
        let mut index = Index {
            fleet: self.fleet,
            records: files.iter().map(|(name, bytes)| (name.clone(), Sha256::of(bytes))).collect(),
            wanted: self.wanted.clone(),
            digest: None,
        };
        index.digest = Some(index.compute());
        let json = serde_json::to_vec(&index).expect("the index serialises into memory");
        let files = files.into_iter().map(|(name, bytes)| (name, bytes.to_vec()));
        files.chain([(INDEX.to_owned(), json)]).collect()
    }

    /// The set that [`Trusted::records`] wrote. Everything in it is verified again from the first root on, except
    /// expiry, which bars accepting and not remembering.
    ///
    /// # Errors
    /// [`RestoreError`] for a torn, missing or changed record, and for one that does not belong to the set.
    pub fn restore(
        records: impl IntoIterator<Item = (String, Vec<u8>)>,
        fleet: FleetId,
    ) -> Result<Trusted, RestoreError> {
        let mut records: BTreeMap<String, Vec<u8>> = records.into_iter().collect();
        let index = records.remove(INDEX).ok_or(RestoreError::NoIndex)?;
        let index: Index = serde_json::from_slice(&index).map_err(|_| RestoreError::DamagedIndex)?;
        if index.digest != Some(index.compute()) {
            return Err(RestoreError::DamagedIndex);
        }
        if index.fleet != fleet {
            return Err(RestoreError::OtherFleet { expected: fleet, found: index.fleet });
        }
        for (name, digest) in &index.records {
            let bytes = records.get(name).ok_or_else(|| RestoreError::Missing(name.clone()))?;
            if Sha256::of(bytes) != *digest {
                return Err(RestoreError::Changed(name.clone()));
            }
        }
        if let Some(name) = records.keys().find(|name| !index.records.contains_key(*name)) {
            return Err(RestoreError::Foreign(name.clone()));
        }
        rebuild(&records, &index.wanted, fleet)
    }
}

fn rebuild(
    records: &BTreeMap<String, Vec<u8>>,
    wanted: &[String],
    fleet: FleetId,
) -> Result<Trusted, RestoreError> {
    let root = |version: u64| metadata_path(&RoleName::root(), version);
    let first = records.get(&root(1)).ok_or_else(|| RestoreError::Missing(root(1)))?;
    let mut trusted = Trusted::from_root(first, fleet)?;
    while let Some(bytes) = records.get(&root(trusted.root_version().saturating_add(1))) {
        trusted.add_root(bytes.as_slice().into())?;
    }
    if !records.contains_key(&metadata_path(&RoleName::timestamp(), 0)) {
        return Ok(trusted);
    }
    let mut refresh = Refresh::new(&trusted, WallTime::from_unix_seconds(0), wanted);
    loop {
        match refresh.step()? {
            Step::Done(trusted) => return Ok(*trusted),
            Step::Need { path, .. } => match records.get(&path) {
                Some(bytes) => refresh.provide(bytes)?,
                None => refresh.provide_missing()?,
            },
        }
    }
}
