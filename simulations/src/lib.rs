//! A fleet in one process on the real core, in virtual time.
//!
//! One seed decides everything: sizes, delays, who dies and when. The same seed gives the same trace digest.

pub mod random;
pub mod trace;
pub mod link;
pub mod vendor;
pub mod scenario;
mod draw;
pub mod options;
pub mod fleet;
pub mod device;
pub mod summary;
pub mod world;
pub mod rollout;
pub mod sweep;
pub mod mutants;

pub use scenario::Scenario;
pub use summary::Summary;
pub use world::{Failure, run};
