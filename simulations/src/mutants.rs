//! Every mistake of `protocol::mutant` against the seeds: it is caught by a check, or it survives.

use protocol::mutant::Mutant;
use serde_json::{Value, json};

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

impl Verdict {
    /// The same for programs: the name of the mistake, what it is, and which check caught it; `null` when none did.
    #[must_use]
    pub fn document(&self, mutant: Mutant) -> Value {
        let caught_by = match self {
            Verdict::Caught { by } => Some(by),
            Verdict::Survived => None,
        };
        json!({ "mutant": format!("{mutant:?}"), "what": mutant.what(), "caught_by": caught_by })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_to_programs_what_it_says_to_people() {
        let by = "12 ms: installed twice; again with: simulate --seed 7".to_owned();
        let caught = Verdict::Caught { by: by.clone() }.document(Mutant::PlanTakesHeld);
        let what = "plan: held patches are planned";
        assert_eq!(caught, json!({ "mutant": "PlanTakesHeld", "what": what, "caught_by": by }));
        assert_eq!(Verdict::Survived.document(Mutant::PlanTakesHeld)["caught_by"], Value::Null);
    }
}
