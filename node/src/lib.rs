//! What a Patchmesh node does: network, disk, operating system, installer. The decisions are in `protocol`.
//!
//! Modules stand in layer order: each imports only from those above it.

pub mod key_source;
pub mod repository;

pub mod fleet_directory;
pub mod trusted_file;
