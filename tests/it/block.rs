//! Drives that are block devices: what `memkv setup` takes and refuses, direct mode on them, huge pages.

mod direct;
mod huge;
mod setup;
