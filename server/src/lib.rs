//! The server as a library.
#![deny(unsafe_code)]

pub mod config;
pub mod env;
