//! What a Patchmesh node does: network, disk, operating system, installer. The decisions are in `protocol`.
//!
//! Modules stand in layer order: each imports only from those above it.

pub mod disk;
pub mod store;
pub mod content;
pub mod configuration;
pub mod control;
pub mod net;

pub mod scan;
pub mod verify;
pub mod import;
pub mod deploy;
