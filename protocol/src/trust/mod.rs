//! The organisation's word: metadata of The Update Framework 1.0, its client workflow, and how it is published.
//!
//! Format and rules: The Update Framework Specification 1.0.31, whose section numbers the comments name.

pub mod basis;
pub mod bundle;
mod current;
pub mod durable;
mod envelope;
mod keys;
mod metadata;
pub mod publish;
pub mod refresh;
mod refused;
mod role;
mod search;
mod trusted;

pub use bundle::{Bundle, BundleError, Request, make_bundle, refresh_from_bundle};
pub use current::Current;
pub use durable::RestoreError;
pub use envelope::Unsigned;
pub use keys::{Key, KeyId, RoleKeys};
pub use metadata::{
    Delegation, Delegations, ListedFile, ListedMetadata, Metadata, Root, Snapshot, Targets, Timestamp,
};
pub use refresh::{Refresh, Step};
pub use refused::Refused;
pub use role::{NotARole, RoleName, is_target_path, metadata_path, role_of_metadata_path, target_file_path};
pub use trusted::{Trusted, WANTED_BY_ALL, catalogue_path};

#[cfg(test)]
mod attacks;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod workflow;
