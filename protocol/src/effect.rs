//! The identity of an effect: whatever the core asks to be done has one, and completes exactly once under it.

/// Names one effect that the core asked for. Never used twice in the life of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId(u64);

impl EffectId {
    /// Lower than every identity that is ever handed out: where an ordered search begins.
    pub const FIRST: EffectId = EffectId(0);
}

/// Hands out effect identities in rising order.
#[derive(Debug, Default)]
pub struct EffectIds {
    last: u64,
}

impl EffectIds {
    /// A fresh identity.
    pub fn fresh(&mut self) -> EffectId {
        self.last += 1;
        EffectId(self.last)
    }
}
