//! Many seeds over several threads: the outcome stands in the order of the seeds, whatever the number of threads.

use crate::options::OPTIONS;
use crate::scenario::Scenario;
use crate::world::{Failure, Keep, run};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

/// What a sweep came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// How many seeds were played.
    pub seeds: u64,
    /// Those that failed, in the order of the seeds.
    pub failures: Vec<Failure>,
    /// How often each option took effect; one that never did stands with 0.
    pub fired: BTreeMap<String, u64>,
    /// Bytes that crossed a WAN again, by cause.
    pub duplicate_bytes_by_cause: BTreeMap<String, u64>,
    /// BLAKE3 over the digests of all seeds, in order.
    pub digest: String,
}

/// Plays `seeds` seeds from `first` on over `threads` threads. `each` hears of every failure as soon as those before it
/// are known; when it says so, nothing more is begun.
pub fn sweep(
    first: u64,
    seeds: u64,
    threads: usize,
    scenario: impl Fn(u64) -> Scenario + Sync,
    mut each: impl FnMut(&Failure) -> Next,
) -> Swept {
    let next = AtomicU64::new(0);
    let (sender, receiver) = mpsc::sync_channel(1_024);
    let mut swept = Swept::default();
    swept.fired.extend(OPTIONS.iter().map(|option| ((*option).to_owned(), 0)));
    let mut digest = blake3::Hasher::new();
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (sender, next, scenario) = (sender.clone(), &next, &scenario);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds {
                        return;
                    }
                    let played = run(&scenario(first + number), Keep::Digest);
                    if sender.send((number, played)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let (mut early, mut expected) = (BTreeMap::new(), 0);
        for (number, played) in receiver {
            early.insert(number, played);
            while let Some(played) = early.remove(&expected) {
                expected += 1;
                swept.seeds += 1;
                match played {
                    Ok(played) => {
                        digest.update(played.summary.digest.as_bytes());
                        for (option, count) in played.summary.fired {
                            *swept.fired.entry(option).or_default() += count;
                        }
                        for (cause, bytes) in played.summary.duplicate_bytes_by_cause {
                            *swept.duplicate_bytes_by_cause.entry(cause).or_default() += bytes;
                        }
                    }
                    Err(failure) => {
                        digest.update(failure.to_string().as_bytes());
                        if each(&failure) == Next::Stop {
                            next.store(seeds, Ordering::Relaxed);
                        }
                        swept.failures.push(*failure);
                    }
                }
            }
        }
    });
    swept.digest = digest.finalize().to_hex().to_string();
    swept
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    Go,
    /// Begin no more seeds.
    Stop,
}
