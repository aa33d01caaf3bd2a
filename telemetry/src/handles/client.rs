//! What the client counts.

use std::borrow::Cow;
use std::sync::Arc;

use super::Count;
use crate::labels::{ConnectionState, RetryReason, Transport};
use crate::metrics;
use crate::snapshot::{Cells, Family, Sample, Value};

/// What the client counts beside the operations themselves.
#[derive(Clone, Debug)]
pub struct ClientMetrics(Arc<ClientCells>);

#[derive(Debug)]
struct ClientCells {
    servers: Vec<Cow<'static, str>>,
    connections: Vec<[Count; ConnectionState::COUNT]>,
    /// Per server, also those that share a label.
    identity_mismatches: Vec<Count>,
    transport_active: Cells,
    retries: Cells,
}

impl ClientMetrics {
    /// Counts that nobody scrapes, for one server.
    pub fn detached() -> ClientMetrics {
        ClientMetrics::for_servers(&["detached".to_owned()])
    }

    /// Counts for these servers, in the order of the configuration; those beyond
    /// [`metrics::SERVER_LABELS_MAX`] share one label.
    pub fn for_servers(servers: &[String]) -> ClientMetrics {
        let mut names: Vec<Cow<'static, str>> = servers
            .iter()
            .take(metrics::SERVER_LABELS_MAX)
            .map(|name| Cow::Owned(name.clone()))
            .collect();
        if servers.len() > metrics::SERVER_LABELS_MAX {
            names.push(Cow::Borrowed(metrics::MORE));
        }
        ClientMetrics(Arc::new(ClientCells {
            connections: names.iter().map(|_| Default::default()).collect(),
            identity_mismatches: servers.iter().map(|_| Count::default()).collect(),
            servers: names,
            transport_active: Cells::new(&metrics::CLIENT_TRANSPORT_ACTIVE),
            retries: Cells::new(&metrics::CLIENT_RETRIES_TOTAL),
        }))
    }

    fn connection(&self, server_idx: usize, state: ConnectionState) -> Option<&Count> {
        let last = self.0.connections.len().checked_sub(1)?;
        Some(&self.0.connections[server_idx.min(last)][state.idx()])
    }

    /// A connection to a server is now in `to`; `from` is `None` where it is new.
    pub fn connection_moved(
        &self,
        server_idx: usize,
        from: Option<ConnectionState>,
        to: Option<ConnectionState>,
    ) {
        if let Some(count) = from.and_then(|state| self.connection(server_idx, state)) {
            count.add(u64::MAX); // one less, as the addition wraps
        }
        if let Some(count) = to.and_then(|state| self.connection(server_idx, state)) {
            count.add(1);
        }
    }

    /// How many connections to a server are in a state.
    pub fn connections(&self, server_idx: usize, state: ConnectionState) -> u64 {
        self.connection(server_idx, state).map_or(0, Count::get)
    }

    /// Sets whether a server said that it is another node than the one its keys are placed by.
    pub fn set_identity_mismatch(&self, server_idx: usize, is_other: bool) {
        if let Some(count) = self.0.identity_mismatches.get(server_idx) {
            count.set(u64::from(is_other));
        }
    }

    /// How many servers are other nodes than expected.
    pub fn identity_mismatches(&self) -> u64 {
        self.0.identity_mismatches.iter().map(Count::get).sum()
    }

    /// Sets the transport in use.
    pub fn set_transport(&self, active: Transport) {
        for transport in Transport::ALL {
            self.0
                .transport_active
                .set(transport.idx(), i64::from(*transport == active));
        }
    }

    /// A read was sent again.
    pub fn retried(&self, reason: RetryReason) {
        self.0.retries.add(reason.idx(), 1);
    }

    /// How often reads were sent again.
    pub fn retries(&self, reason: RetryReason) -> u64 {
        self.0.retries.get(reason.idx())
    }

    /// The servers' label values.
    pub(crate) fn servers(&self) -> &[Cow<'static, str>] {
        &self.0.servers
    }

    pub(crate) fn families(&self) -> Vec<Family> {
        let mut connections = Family {
            series: &metrics::CLIENT_CONNECTIONS,
            samples: Vec::new(),
        };
        for (server, counts) in self.0.servers.iter().zip(&self.0.connections) {
            for state in ConnectionState::ALL {
                connections.samples.push(Sample {
                    labels: vec![server.clone(), Cow::Borrowed(state.name())],
                    value: Value::Number(counts[state.idx()].get() as f64),
                });
            }
        }
        let names = self.0.servers.iter().enumerate();
        let last = self.0.servers.len().saturating_sub(1);
        let identities = names.map(|(idx, server)| {
            let counts = &self.0.identity_mismatches;
            // The last label is that of all servers from there on.
            let end = if idx == last { counts.len() } else { idx + 1 };
            let others: u64 = counts[idx..end].iter().map(Count::get).sum();
            Sample {
                labels: vec![server.clone()],
                value: Value::Number(others as f64),
            }
        });
        let identities = Family {
            series: &metrics::CLIENT_IDENTITY_MISMATCH,
            samples: identities.collect(),
        };
        vec![
            connections,
            identities,
            self.0.transport_active.family(),
            self.0.retries.family(),
        ]
    }
}
