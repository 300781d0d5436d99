//! Buffers of pieces that were written: a new one for each piece costs a pass over its bytes, and the kernel its pages.

use protocol::limits;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Buffers of one node.
#[derive(Debug, Default)]
pub(in crate::net) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// A buffer of `length` bytes, whatever they are.
    pub(super) fn take(&self, length: usize) -> Vec<u8> {
        let mut buffer = self.kept().pop().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    /// Takes one back.
    pub(in crate::net) fn give(&self, buffer: Vec<u8>) {
        let mut kept = self.kept();
        if kept.len() < limits::PIECE_BUFFERS {
            kept.push(buffer);
        }
    }

    /// Nothing is fetched any more.
    pub(super) fn clear(&self) {
        self.kept().clear();
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_kept_and_fit_whatever_is_asked_for() {
        let buffers = Buffers::default();
        buffers.give(vec![1; 1 << 20]);
        assert_eq!(buffers.take(10).len(), 10);
        for length in 0..2 * limits::PIECE_BUFFERS {
            buffers.give(vec![0; length]);
        }
        assert_eq!(buffers.kept().len(), limits::PIECE_BUFFERS);
        assert_eq!(buffers.take(1 << 20).len(), 1 << 20);
        buffers.clear();
        assert_eq!(buffers.kept().len(), 0);
    }
}
