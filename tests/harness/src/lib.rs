//! What tests of the whole product share: outside programs, servers under test, waiting.
#![forbid(unsafe_code)]

pub mod collector;
pub mod poll;
pub mod prometheus;
pub mod tier;
