//! The store; knows no network, no tokio.
