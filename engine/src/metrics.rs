//! Handles of what the engine emits; they move to `memkv_telemetry`'s once those are there.

/// Nanoseconds on CLOCK_MONOTONIC's scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

/// Typed handles of the engine's series.
#[derive(Clone, Debug, Default)]
pub struct EngineMetrics;

impl EngineMetrics {
    /// Handles that no registry knows: for tests.
    pub fn detached() -> Self {
        Self
    }
}

/// The clock of everything that is timed.
pub(crate) fn now() -> Tick {
    let now = rustix::thread::clock_gettime(rustix::thread::ClockId::Monotonic);
    Tick(0)
}
