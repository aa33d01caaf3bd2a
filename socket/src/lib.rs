//! Socket options of the data path that no library offers, behind one unsafe fence for server and client.

#![deny(unsafe_code)]

#[expect(
    unsafe_code,
    reason = "setsockopt with an option that no wrapper knows; see the module docs"
)]
mod low_water;

pub use low_water::set_receive_low_water;
