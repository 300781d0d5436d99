//! Log lines that somebody else can cause: one of each kind in a while, and how many it stands for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time between two lines of one kind: as often as a person who reads along needs them.
const BETWEEN: Duration = Duration::from_secs(60);

/// What was said, and what was not. Kinds are few: each is remembered for good.
#[derive(Debug)]
pub struct Seldom<K>(BTreeMap<K, (Instant, u64)>);

impl<K> Default for Seldom<K> {
    fn default() -> Seldom<K> {
        Seldom(BTreeMap::new())
    }
}

impl<K: Ord> Seldom<K> {
    /// Counts one of `kind`. When a line is due: how often it happened since the last one, this time included.
    pub fn turn(&mut self, kind: K, now: Instant) -> Option<u64> {
        let Some((said, unsaid)) = self.0.get_mut(&kind) else {
            self.0.insert(kind, (now, 0));
            return Some(1);
        };
        *unsaid += 1;
        if now.saturating_duration_since(*said) < BETWEEN {
            return None;
        }
        *said = now;
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_stands_for_all() {
        let mut seldom = Seldom::default();
        let began = Instant::now();
        let said: Vec<u64> = (0..6_001)
            .filter_map(|tenth: u32| seldom.turn("silent", began + Duration::from_millis(100) * tenth))
            .collect();
        assert_eq!(said, [1, 600, 600, 600, 600, 600, 600, 600, 600, 600, 600]);
        assert_eq!(seldom.turn("malformed", began), Some(1), "of another kind");
    }
}
