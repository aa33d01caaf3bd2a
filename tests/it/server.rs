//! The server as clients, good and bad, see it.

mod values;
