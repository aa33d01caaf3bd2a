//! How arguments that several verbs take are read.

use memkv_settings::ByteSize;

/// A size with a unit.
///
/// # Errors
/// Says what is understood.
pub(crate) fn size(text: &str) -> Result<ByteSize, String> {
    ByteSize::parse(text).ok_or_else(|| {
        format!("{text:?} is not a size; write a number and B, KiB, KB, MiB, MB, GiB, GB, TiB or TB, like '4 MiB'")
    })
}
