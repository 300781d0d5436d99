//! The driver: the one task that owns the core. It hands it facts, and has done what the core asks for.

mod administration;
mod aggregator;
mod answers;
mod attention;
mod effects;
mod enrolling;
mod events;
mod grants;
mod network;
mod perform;
mod pieces;
mod registrar;
mod run;
mod seed;
mod start;
mod storing;
mod turnstile;

pub use aggregator::AggregatorError;
pub use seed::SeedError;
pub use start::{Options, Running, StartError, start};
pub use tokio_util::sync::CancellationToken;
