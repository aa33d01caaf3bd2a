//! Fronts: how clients reach dispatch.

mod handshake;
mod progress;
mod send;
pub(crate) mod stream;
mod taking;
pub(crate) mod tcp;
mod transport;

pub(crate) use progress::Progress;
pub(crate) use taking::Taking;
