//! Bounds on what a client can make the server hold or wait for.
//!
//! They follow from the protocol's own limits and are not configuration: a deployment has no reason to change them. Tests
//! shorten the times.

use std::time::Duration;

/// Every bound of the TCP front and of dispatch.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From accept to a finished handshake.
    pub handshake: Duration,
    /// Connections between accept and a finished handshake, over the whole server. Beyond it the oldest is closed.
    pub half_open_max: u32,
    /// Without one more byte of a frame that has begun: a client that trickles is closed.
    pub frame_stall: Duration,
    /// The least bytes per second of a frame that has begun, after [`Limits::frame_stall`]. A client that sends one byte
    /// now and then makes progress, but not enough to keep a lease.
    pub frame_bytes_per_second_min: u64,
    /// Without one more byte of a reply taken by the client, from the first look at its full socket on: a client that
    /// never reads is closed.
    pub reply_stall: Duration,
    /// [`Limits::frame_stall`] and [`Limits::reply_stall`] for a client that holds value bytes (unread replies, a payload
    /// that has begun) while another op has just been refused some: so many of them as hold the whole budget keep nobody
    /// out for longer. Longer than a lost packet takes to be sent again. A client that has taken more replies than its
    /// kernel would by itself, however slowly, is given four times as much for the rest of them. It is the time between
    /// two looks that found nothing new: what a client did while nobody looked is not held against it.
    pub stall_pressed: Duration,
    /// How long an op waits for bytes that others hold before it is answered `Busy`.
    pub admission_wait: Duration,
    /// Requests of one connection that are unanswered; beyond it the connection isn't read.
    pub requests_per_connection_max: usize,
    /// Bytes of small replies that one connection may leave unread; beyond it the connection isn't read.
    pub reply_bytes_per_connection_max: usize,
    /// Bytes of request descriptions held by unfinished requests of the whole server.
    pub control_bytes_max: u64,
    /// The longest request line and headers, and the largest body, of an admin request.
    pub admin_request_bytes_max: usize,
    /// From accept to a complete admin request header.
    pub admin_header: Duration,
    /// Admin connections at once. Beyond it the oldest that hasn't sent a request's head is closed, and where all have, the
    /// one whose last lies longest back.
    pub admin_connections_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            half_open_max: 4096,
            frame_stall: Duration::from_secs(10),
            frame_bytes_per_second_min: 4096,
            reply_stall: Duration::from_secs(30),
            stall_pressed: Duration::from_millis(500),
            admission_wait: Duration::from_millis(50),
            requests_per_connection_max: 1024,
            reply_bytes_per_connection_max: 4 << 20,
            control_bytes_max: 64 << 20,
            admin_request_bytes_max: 64 << 10,
            admin_header: Duration::from_secs(10),
            admin_connections_max: 256,
        }
    }
}
