//! The clock of everything that is timed, and of expiry.

pub(crate) use memkv_telemetry::clock::{Tick, now, unix_ms};
