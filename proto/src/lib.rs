//! The contract between client and server; no I/O.
