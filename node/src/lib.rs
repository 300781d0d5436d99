//! What a Patchmesh node does: network, disk, operating system, installer. The decisions are in `protocol`.
//!
//! Modules stand in layer order: each imports only from those above it.

pub mod units;
pub mod disk;
pub mod store;
pub mod content;
pub mod key_file;
pub mod key_source;
pub mod repository;
pub mod fleet_directory;
pub mod configuration;
pub mod listening;
pub mod control;
pub mod net;
pub mod conditions;

pub mod scan;
pub mod verify;
pub mod import;
pub mod origin;
pub mod deploy;
pub mod aggregate;

pub mod membership;
pub mod driver;
