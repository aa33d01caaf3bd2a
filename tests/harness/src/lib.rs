//! What tests of the whole product share: outside programs, servers under test, waiting.
#![forbid(unsafe_code)]

pub mod collector;
pub mod http;
pub mod log;
pub mod poll;
pub mod prometheus;
pub mod server;
pub mod tier;
pub mod wire;
