//! Waiting for something that another process does, with a bound, and noticing when a process has ended meanwhile.

use super::children::Children;
use crate::exit::{Exit, Failure};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(50);

/// Asks `ready` until it has an answer.
pub fn until<T>(
    what: &str,
    bound: Duration,
    children: &Children,
    mut ready: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let end = Instant::now() + bound;
    loop {
        let asked = ready();
        // That a process has ended explains why it does not answer, and not the other way round.
        children.check()?;
        if let Some(answer) = asked? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            let message = format!("waited {} s and it did not happen that {what}", bound.as_secs());
            return Err(Failure::new(Exit::Failed, message));
        }
        std::thread::sleep(POLL);
    }
}
