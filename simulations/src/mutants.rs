//! Every mistake of `protocol::mutant` against the seeds: it is caught by a check, or it survives.

use protocol::mutant::Mutant;

/// What became of a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The check of this seed noticed it.
    Caught {
        /// The words of the check, and the command that plays it again.
        by: String,
    },
    /// No seed noticed it.
    Survived,
}

/// Plays every mistake whose name contains `only` against up to `seeds` seeds; `each` hears of each as it is known.
///
/// # Errors
/// This build has no mistakes in it; the message says how to make one that does.
#[cfg(patchmesh_mutants)]
pub fn play(
    seeds: u64,
    threads: usize,
    only: &str,
    mut each: impl FnMut(Mutant, &Verdict),
) -> Result<usize, NoMutants> {
    use crate::scenario::Scenario;
    use crate::sweep::{Next, sweep};
    let mut survived = 0;
    for mutant in Mutant::ALL.into_iter().filter(|mutant| format!("{mutant:?}").contains(only)) {
        protocol::mutant::choose(Some(mutant));
        let swept = sweep(1, seeds, threads, Scenario::drawn, |_| Next::Stop);
        protocol::mutant::choose(None);
        let verdict = match swept.failures.first() {
            Some(failure) => Verdict::Caught { by: failure.to_string() },
            None => Verdict::Survived,
        };
        survived += usize::from(verdict == Verdict::Survived);
        each(mutant, &verdict);
    }
    Ok(survived)
}

/// As with the mistakes built in.
///
/// # Errors
/// Always: this build has none.
#[cfg(not(patchmesh_mutants))]
pub fn play(_: u64, _: usize, _: &str, _: impl FnMut(Mutant, &Verdict)) -> Result<usize, NoMutants> {
    Err(NoMutants)
}

/// This build has no mistakes to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this build has no mutants in it; build one with RUSTFLAGS=\"--cfg patchmesh_mutants\" cargo run --release \
     --target-dir target/mutants -p patchmesh-simulations -- mutants"
)]
pub struct NoMutants;
