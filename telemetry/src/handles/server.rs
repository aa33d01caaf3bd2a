//! What the server counts.

use std::sync::Arc;

use crate::labels::{AuthFailure, AuthKeyLabel, ProtocolFault, RejectReason, Transport};
use crate::metrics;
use crate::snapshot::{Cells, Family};

/// What the server counts beside the operations themselves.
#[derive(Clone, Debug)]
pub struct ServerMetrics(Arc<ServerCells>);

#[derive(Debug)]
struct ServerCells {
    connections: Cells,
    auth_failures: Cells,
    auth_key_uses: Cells,
    clock_skew: Cells,
    protocol_faults: Cells,
    rejected: Cells,
    admitted_bytes: Cells,
    config_unknown_keys: Cells,
}

impl ServerMetrics {
    /// Counts that nobody scrapes.
    pub fn detached() -> ServerMetrics {
        ServerMetrics(Arc::new(ServerCells {
            connections: Cells::new(&metrics::CONNECTIONS),
            auth_failures: Cells::new(&metrics::AUTH_FAILURES_TOTAL),
            auth_key_uses: Cells::new(&metrics::AUTH_KEY_USES_TOTAL),
            clock_skew: Cells::new(&metrics::CLOCK_SKEW_SECONDS),
            protocol_faults: Cells::new(&metrics::PROTOCOL_FAULTS_TOTAL),
            rejected: Cells::new(&metrics::REJECTED_TOTAL),
            admitted_bytes: Cells::new(&metrics::ADMITTED_BYTES),
            config_unknown_keys: Cells::new(&metrics::CONFIG_UNKNOWN_KEYS),
        }))
    }

    /// A connection was accepted.
    pub fn connection_opened(&self, transport: Transport) {
        self.0.connections.add(transport.idx(), 1);
    }

    /// A connection was closed.
    pub fn connection_closed(&self, transport: Transport) {
        self.0.connections.sub(transport.idx(), 1);
    }

    /// How many connections are open.
    pub fn connections(&self, transport: Transport) -> u64 {
        self.0.connections.get(transport.idx())
    }

    /// Something wasn't authentic.
    pub fn auth_failed(&self, reason: AuthFailure) {
        self.0.auth_failures.add(reason.idx(), 1);
    }

    /// How often something wasn't authentic.
    pub fn auth_failures(&self, reason: AuthFailure) -> u64 {
        self.0.auth_failures.get(reason.idx())
    }

    /// A session was opened with a key.
    pub fn auth_key_used(&self, key: AuthKeyLabel) {
        self.0.auth_key_uses.add(key.idx(), 1);
    }

    /// How many sessions were opened with a key.
    pub fn auth_key_uses(&self, key: AuthKeyLabel) -> u64 {
        self.0.auth_key_uses.get(key.idx())
    }

    /// A handshake's time stamp was so far ahead of our clock.
    pub fn set_clock_skew(&self, skew_ns: i64) {
        self.0.clock_skew.set(0, skew_ns);
    }

    /// Bytes weren't the protocol.
    pub fn protocol_fault(&self, fault: ProtocolFault) {
        self.0.protocol_faults.add(fault.idx(), 1);
    }

    /// How often bytes weren't the protocol.
    pub fn protocol_faults(&self, fault: ProtocolFault) -> u64 {
        self.0.protocol_faults.get(fault.idx())
    }

    /// Work was refused, or dropped before it started.
    pub fn rejected(&self, reason: RejectReason) {
        self.0.rejected.add(reason.idx(), 1);
    }

    /// How much work was refused.
    pub fn rejections(&self, reason: RejectReason) -> u64 {
        self.0.rejected.get(reason.idx())
    }

    /// Sets how much payload memory is held.
    pub fn set_admitted_bytes(&self, bytes: u64) {
        self.0.admitted_bytes.set(0, bytes as i64);
    }

    /// Sets how many unknown keys of the configuration were let through.
    pub fn set_config_unknown_keys(&self, count: u64) {
        self.0.config_unknown_keys.set(0, count as i64);
    }

    pub(crate) fn families(&self) -> Vec<Family> {
        let cells = &self.0;
        vec![
            cells.connections.family(),
            cells.auth_failures.family(),
            cells.auth_key_uses.family(),
            cells.clock_skew.family(),
            cells.protocol_faults.family(),
            cells.rejected.family(),
            cells.admitted_bytes.family(),
            cells.config_unknown_keys.family(),
        ]
    }
}
