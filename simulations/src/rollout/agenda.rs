//! What is still to happen, in the order of time, and at the same moment in the order in which it was put down.

use super::queue::Nanos;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events of type `T`. Only their moments are sorted: the events, several times as large, stay where they were put.
#[derive(Debug)]
pub struct Agenda<T> {
    /// When, as which one, and where it is kept.
    order: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    kept: Vec<Option<T>>,
    /// Places where nothing is kept.
    free: Vec<usize>,
    put: u64,
}

impl<T> Agenda<T> {
    /// Nothing is to happen.
    pub fn new() -> Agenda<T> {
        Agenda { order: BinaryHeap::new(), kept: Vec::new(), free: Vec::new(), put: 0 }
    }

    /// `event` is to happen at `at`.
    pub fn put(&mut self, at: Nanos, event: T) {
        self.put += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.kept.push(None);
            self.kept.len() - 1
        });
        self.kept[place] = Some(event);
        self.order.push(Reverse((at, self.put, place)));
    }

    /// Takes out what happens next, and when that is.
    pub fn pop(&mut self) -> Option<(Nanos, T)> {
        let Reverse((at, _, place)) = self.order.pop()?;
        self.free.push(place);
        Some((at, self.kept[place].take()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_happen_in_time_and_in_the_order_in_which_they_were_put() {
        let mut agenda = Agenda::new();
        agenda.put(5, "third");
        agenda.put(3, "first");
        assert_eq!(agenda.pop(), Some((3, "first")));
        agenda.put(5, "fourth");
        agenda.put(4, "second");
        let rest: Vec<_> = std::iter::from_fn(|| agenda.pop()).collect();
        assert_eq!(rest, [(4, "second"), (5, "third"), (5, "fourth")]);
    }
}
