//! What the engine still owes this thread: tokens, and what to do when their completions land.
//!
//! A token is a slot of this table and the slot's use count, so that a completion is never taken for a later op's. The
//! table reuses its slots: an op in flight costs no allocation.

use memkv_engine::Token;
use slab::Slab;

/// Ops in flight at the engine, each with a `T` that says what it is for.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    slots: Slab<(u32, T)>,
    uses: u32,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self {
            slots: Slab::new(),
            uses: 0,
        }
    }
}

impl<T> Pending<T> {
    /// A token for an op that is about to be started.
    pub(crate) fn open(&mut self, purpose: T) -> Token {
        self.uses = self.uses.wrapping_add(1);
        let slot = self.slots.insert((self.uses, purpose));
        assert!(slot <= u32::MAX as usize, "4 billion ops in flight");
        Token(u64::from(self.uses) << 32 | slot as u64)
    }

    /// Takes what `token` was for; `None` for a token that is not open.
    pub(crate) fn close(&mut self, token: Token) -> Option<T> {
        let slot = self.find(token)?;
        Some(self.slots.remove(slot).1)
    }

    /// What `token` is for, to change it.
    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.find(token)?;
        self.slots.get_mut(slot).map(|(_, purpose)| purpose)
    }

    /// Ops in flight.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.slots.len()
    }

    fn find(&self, token: Token) -> Option<usize> {
        let slot = (token.0 & u64::from(u32::MAX)) as usize;
        let uses = (token.0 >> 32) as u32;
        self.slots
            .get(slot)
            .filter(|(used, _)| *used == uses)
            .map(|_| slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_never_taken_for_a_later_op() {
        let mut pending = Pending::default();
        let first = pending.open("first");
        assert_eq!(pending.close(first), Some("first"));
        let second = pending.open("second");
        assert_eq!(pending.close(first), None);
        assert_eq!(pending.close(second), Some("second"));
        assert_eq!(pending.len(), 0);
    }
}
