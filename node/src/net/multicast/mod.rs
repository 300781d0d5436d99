//! Discovery by multicast: the DNS messages, the sockets of each link, and the task that follows the interfaces.
//!
//! What is said when is decided by `protocol::discovery`, one machine for each interface and address family.

mod message;

mod subnet;

mod link;

mod links;

#[cfg(test)]
mod tests;

pub(super) use links::{Found, Surroundings, follow};
