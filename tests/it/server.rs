//! The server as clients, good and bad, see it.

mod admin;
mod attacks;
mod bounds;
mod cold;
mod crowd;
mod files;
mod hogs;
mod life;
mod load;
mod ops;
mod values;
