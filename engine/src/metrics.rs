//! The clock of everything that is timed.

pub(crate) use memkv_telemetry::clock::{Tick, now};
