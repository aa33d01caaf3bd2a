//! Output that survives a reader who leaves: `println!` would panic.

use std::fmt;
use std::io::{self, Write};

/// Writes `text` to stdout and flushes it.
///
/// # Errors
/// What the stream says; a closed pipe becomes a quiet end, see [`crate::exit::Failure`].
pub(crate) fn print(text: &str) -> io::Result<()> {
    print_bytes(text.as_bytes())
}

/// As [`print`], for bytes.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Writes a line to stderr. There is nobody to tell when that fails.
pub(crate) fn tell(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
