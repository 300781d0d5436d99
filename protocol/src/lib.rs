//! What a Patchmesh node decides. Pure: no clock, no sockets, no files, no randomness of its own.
//!
//! Modules stand in layer order: each imports only from those above it.

pub mod limits;
pub mod mutant;
pub mod time;
pub mod rate;
pub mod text;
pub mod codec;
pub mod digest;
pub mod identifier;
pub mod effect;
pub mod random;
pub mod signature;
pub mod system;
pub mod version;
pub mod piece;
pub mod bitmap;
pub mod manifest;
pub mod inventory;
pub mod fleet;
pub mod membership;
pub mod policy;
pub mod trust;
pub mod reason;
pub mod conditions;
pub mod wire;
pub mod discovery;
pub mod crowd;

pub mod scan;
pub mod plan;
pub mod fetch;
pub mod verify;
pub mod share;
pub mod deploy;
pub mod report;
pub mod aggregate;

pub mod core;
