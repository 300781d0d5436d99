//! Waiting for something that another process does, with a bound.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Bound of everything that should take a few seconds at most.
pub const SOON: Duration = Duration::from_secs(60);

/// Looks until there is something to see.
///
/// # Errors
/// `look` failed, or nothing was there in time.
pub fn until<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + bound;
    loop {
        if let Some(seen) = look()? {
            return Ok(seen);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain until {what}", bound.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
}

/// The same for a test that waits for what its own tasks do.
///
/// # Errors
/// `look` failed, or nothing was there in time.
pub async fn until_told<T, F>(what: &str, bound: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let end = Instant::now() + bound;
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain until {what}", bound.as_secs());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
