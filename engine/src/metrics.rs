//! The clock of everything that is timed.

pub(crate) use memkv_telemetry::clock::{Tick, now};

/// Wall-clock milliseconds, for expiry.
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as u64
}
