//! The product as a whole: real servers in this process, real sockets, real files.
#![forbid(unsafe_code)]

mod automation;
mod block;
mod cli;
mod client;
mod collector;
mod emitted;
mod faults;
mod prometheus;
mod server;
