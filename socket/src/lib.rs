//! Socket options and requests of the data path that no library offers, behind one unsafe fence for server and client.

#![deny(unsafe_code)]

#[expect(
    unsafe_code,
    reason = "setsockopt with an option that no wrapper knows; see the module docs"
)]
mod low_water;
#[expect(
    unsafe_code,
    reason = "ioctl with a request that no wrapper knows; see the module docs"
)]
mod unacknowledged;

pub use low_water::set_receive_low_water;
pub use unacknowledged::unacknowledged;
