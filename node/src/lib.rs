//! What a Patchmesh node does: network, disk, operating system, installer. The decisions are in `protocol`.
//!
//! Modules stand in layer order: each imports only from those above it.

pub mod aggregate;
