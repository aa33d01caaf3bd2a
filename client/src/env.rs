//! The one place that reads the process: its environment, and the file that `MEMKV_CONFIG` names.

use std::sync::OnceLock;

use memkv_settings::Environment;

/// The process's environment as it is now. Variables that aren't UTF-8 are left out: none of ours can be.
pub fn environment() -> Environment {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// The environment at the first call in this process: what the advanced variables are read from, so that changing them
/// at run time has no effect, as documented.
pub fn environment_at_start() -> &'static Environment {
    static AT_START: OnceLock<Environment> = OnceLock::new();
    AT_START.get_or_init(environment)
}
