//! Fronts: how clients reach dispatch.

mod handshake;
mod send;
pub(crate) mod stream;
pub(crate) mod tcp;
