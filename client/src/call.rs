//! What a call may be given, and what it gives back.

use std::time::Duration;

use memkv_proto::blocks::TraceContext;
use memkv_proto::op::Attrs;
use memkv_proto::stat::StatKey;

/// Options of one call; the default leaves everything to the client's configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallOptions {
    /// When to give up, from the call on; without it `MEMKV_RDMA_TIMEOUT_SECS` holds. The server gets what is left of it.
    pub timeout: Option<Duration>,
    /// The caller's span (W3C trace context). The client's span becomes its child and the server's span the client's child.
    pub trace: Option<TraceContext>,
    /// The name space of the keys; 0 is the native default.
    pub namespace: u32,
}

/// The key figures of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerStat(pub Vec<(StatKey, u64)>);

impl ServerStat {
    /// One figure; `None` where the server didn't send it.
    pub fn get(&self, key: StatKey) -> Option<u64> {
        self.0
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| *value)
    }
}

/// A value with what is stored beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The store's sequence number of the put that wrote it.
    pub version: u64,
    /// Its attributes.
    pub attrs: Attrs,
}
