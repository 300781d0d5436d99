//! What a Patchmesh node decides. Pure: no clock, no sockets, no files, no randomness of its own.
//!
//! Modules stand in layer order: each imports only from those above it.

pub mod codec;
pub mod digest;
pub mod fleet;
pub mod identifier;
pub mod inventory;
pub mod limits;
pub mod manifest;
pub mod membership;
pub mod piece;
pub mod policy;
pub mod signature;
pub mod system;
pub mod time;
pub mod version;

pub mod reason;
pub mod scan;
pub mod plan;
pub mod share;
pub mod deploy;

pub mod report;

pub mod aggregate;
