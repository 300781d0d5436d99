//! Attacks on running nodes: real nodes in this process, with members among them that lie.
//!
//! `docs/attacks.md` has the table of every attack, where it is refused, with which code, and which test proves it.

mod disk;
mod evidence;
mod fleet;
mod hostile;
mod members;
mod metadata;
mod peers;
mod policy;

use std::time::Duration;

/// Longer than anything here takes; reaching it fails the test.
const BOUND: Duration = Duration::from_secs(45);

/// Waits until `holds` says so.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while !holds().await {
            tick.tick().await;
        }
    };
    assert!(tokio::time::timeout(BOUND, waiting).await.is_ok(), "did not happen in time: {what}");
}
