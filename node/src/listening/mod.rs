//! What the listeners of a node share: they bear with a system that is short of descriptors, and strangers fill neither
//! their places nor the log.

mod places;
mod seldom;

pub use places::{Place, Places};
pub use seldom::Seldom;

use std::io;
use std::time::{Duration, Instant};

/// Time for descriptors or memory to come free: whoever tries again at once spins.
const PAUSE: Duration = Duration::from_millis(200);

/// What a listener does when it cannot accept.
#[derive(Debug)]
pub struct Refusals {
    listener: &'static str,
    said: Seldom<()>,
}

impl Refusals {
    /// For the listener of that name in the log.
    pub fn of(listener: &'static str) -> Refusals {
        Refusals { listener, said: Seldom::default() }
    }

    /// Waits until it is worth trying again after accepting failed with `error`, and says so in the log, seldom.
    pub async fn wait(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            // Of one connection that is gone; the next one waits.
            return;
        }
        if let Some(times) = self.said.turn((), Instant::now()) {
            let listener = self.listener;
            tracing::warn!(%error, listener, times, "connections cannot be accepted at the moment");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_cannot_accept_waits_before_it_tries_again() {
        let mut refusals = Refusals::of("test");
        let began = Instant::now();
        for _ in 0..3 {
            refusals.wait(&io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error())).await;
        }
        assert!(began.elapsed() >= 3 * PAUSE);
    }
}
