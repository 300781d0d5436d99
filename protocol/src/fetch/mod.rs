//! Fetching: each piece once over the WAN for the whole site, and from neighbours otherwise (X1).
//!
//! [`Fetcher`] decides for one node what to ask of whom; [`tracker::Tracker`] decides at the seed who of a site
//! fetches what. Both see facts about pieces, never bytes.

mod brought;
mod fetcher;
mod neighbours;
mod offers;
pub mod rendezvous;
mod shares;
mod source;
pub mod tracker;
mod transfer;
pub mod turns;
pub mod window;

pub use fetcher::{
    Action, Due, Fetch, Fetcher, Inconsistent, PieceFailure, Priority, Rank, Read, Urgency, Want,
};
pub use transfer::{Origin, Transfer};
pub use window::{Advice, Pace};
