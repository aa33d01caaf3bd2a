//! How much of a bulk value goes at once: less where small ops share the data thread, on whatever connection.

use std::cell::Cell;

use memkv_telemetry::clock::Tick;

/// For so long after a small op a thread expects the next one.
const RECENT_NS: u64 = 100_000_000;

/// How much of a bulk value goes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Portions {
    /// Most bytes of one value that a frame carries.
    pub(crate) frame: usize,
    /// The most that a connection writes in its turn, and what other connections of the thread wait for then.
    pub(crate) turn: usize,
}

impl Portions {
    /// Where nobody else waits. A frame is a block: its receiver can sleep until a chunk of the frame is there, but never
    /// past its end, and each frame costs both ends a MAC, a digest and a header: with two connections on two cores
    /// frames of 1 MiB cost half more CPU. A turn is about a millisecond: a quarter of it cost 45 % more CPU per 4 MiB
    /// value, because sender and receiver wake each other four times as often.
    pub(crate) const ALONE: Self = Self {
        frame: 4 << 20,
        turn: 4 << 20,
    };

    /// Where small ops wait for the thread: about 0.3 ms.
    const SHARED: Self = Self {
        frame: 1 << 20,
        turn: 1 << 20,
    };
}

/// When a data thread had its last small op.
#[derive(Debug, Default)]
pub(crate) struct SmallOps {
    at: Cell<Option<Tick>>,
}

impl SmallOps {
    /// A small op was done.
    pub(super) fn done(&self, at: Tick) {
        self.at.set(Some(at));
    }

    /// How much of a bulk value may go at once.
    pub(super) fn portions(&self, now: Tick) -> Portions {
        match self.at.get() {
            Some(at) if now.0.saturating_sub(at.0) < RECENT_NS => Portions::SHARED,
            _ => Portions::ALONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_goes_in_a_quarter_of_its_portions_for_a_tenth_of_a_second_after_a_small_op() {
        const MIB: usize = 1 << 20;
        let small_ops = SmallOps::default();
        let portions = |ns| {
            let Portions { frame, turn } = small_ops.portions(Tick(ns));
            (frame, turn)
        };
        assert_eq!(portions(5), (4 * MIB, 4 * MIB), "none yet");
        small_ops.done(Tick(1_000));
        assert_eq!(portions(1_000), (MIB, MIB));
        assert_eq!(portions(100_000_999), (MIB, MIB));
        assert_eq!(portions(100_001_000), (4 * MIB, 4 * MIB), "long ago");
    }
}
