//! Drives that are block devices: what `memkv setup` takes and refuses, and direct mode on them.

mod direct;
mod setup;
