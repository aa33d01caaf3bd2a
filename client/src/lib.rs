//! The Rust client.
#![deny(unsafe_code)]

pub mod config;
pub mod env;
pub mod pool;
pub mod router;
