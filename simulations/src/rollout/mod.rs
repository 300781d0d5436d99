//! One patch for a fleet of hundreds of large sites: how long it takes, and how far that is from what no way of fetching can beat.
//!
//! The fetchers, the seed's tracker and the window of each WAN connection are those of a node; links are queues in virtual time.

pub mod plan;
pub mod queue;
mod agenda;
pub mod site;
mod device;
mod lan;
mod wan;
pub mod uplink;
mod world;
mod bound;
pub mod outcome;
pub mod run;
pub mod report;
pub mod chart;

pub use plan::Plan;
pub use run::{Failure, Rollout, run};
