//! Waiting for a condition instead of for a while.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const TICK: Duration = Duration::from_millis(20);

/// Looks until `condition` gives something.
///
/// # Panics
/// If it doesn't within `patience`, naming what was waited for.
pub fn until<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "waited {patience:?} in vain until {what}"
        );
        thread::sleep(TICK);
    }
}
