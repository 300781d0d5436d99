//! Whole-system tests of Patchmesh: a small fleet of real processes, driven as a user would, that the scenarios share.

pub mod program;
pub mod typed;
pub mod wait;
pub mod memory_disk;
pub mod process;
pub mod sockets;
pub mod installer;
pub mod package;
pub mod bootstrap;
pub mod maintainer_scripts;
pub mod http;
pub mod wan;
pub mod device;
pub mod headquarters;
pub mod fleet;
