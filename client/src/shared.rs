//! What all lanes of a client share: configuration, placement, findings, telemetry.

use std::io;
use std::sync::Arc;

use memkv_proto::mac::FrameMac;
use memkv_proto::session::AuthKey;
use memkv_telemetry::Telemetry;
use memkv_telemetry::clock::{self, Tick};
use parking_lot::Mutex;
use tracing::{debug, info, warn};

use crate::call::CallOptions;
use crate::config::{ClientConfig, ConfigError, PayloadMac, Transport};
use crate::error::TransportCause;
use crate::meter::Meter;
use crate::pump::{Core, CoreConfig, CoreServer, Notice};
use crate::router::{Node, Router};

/// Requests that one connection of a lane may have unanswered.
const WINDOW: usize = 64;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `transport: rdma` in a build without it.
    #[error(
        "transport is rdma, but this build has no RDMA transport; set transport to tcp, or to auto, which takes TCP and says so"
    )]
    NoRdma,
    /// The telemetry exporters can't be started.
    #[error("start the client's telemetry ({what})")]
    Telemetry {
        /// Which exporter, and where it should go.
        what: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No poller could be made.
    #[error("make a poller; raise the limit of open files (ulimit -n)")]
    Poll(#[source] io::Error),
    /// The I/O thread couldn't be started.
    #[error("start the I/O thread")]
    Thread(#[source] io::Error),
}

/// The transport in use and the one asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportState {
    /// As configured.
    pub requested: Transport,
    /// What transfers use.
    pub active: Transport,
    /// Why they differ, where they do.
    pub reason: Option<String>,
}

/// Why a region was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// It has no bytes.
    #[error("region at {address:#x} has length 0; register at least 1 byte")]
    Empty {
        /// Where it starts.
        address: usize,
    },
    /// It would reach past the end of the address space.
    #[error("region at {address:#x} of {len} bytes passes the end of the address space")]
    Wraps {
        /// Where it starts.
        address: usize,
        /// Its length.
        len: usize,
    },
    /// It shares bytes with another one.
    #[error(
        "region at {address:#x} of {len} bytes overlaps the one registered at {other:#x}; deregister that first"
    )]
    Overlaps {
        /// Where it starts.
        address: usize,
        /// Its length.
        len: usize,
        /// Where the other one starts.
        other: usize,
    },
    /// No such region is registered.
    #[error(
        "no region at {address:#x} of {len} bytes is registered; give the address and length of its registration"
    )]
    Unknown {
        /// Where it should start.
        address: usize,
        /// Its length.
        len: usize,
    },
}

pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) router: Router,
    pub(crate) transport: TransportState,
    pub(crate) meter: Meter,
    names: Vec<Arc<str>>,
    regions: Mutex<Vec<(usize, usize)>>,
}

impl Shared {
    pub(crate) fn new(config: ClientConfig) -> Result<Arc<Self>, BuildError> {
        let meter = Meter::from_config(&config)?;
        Self::with_meter(config, meter)
    }

    pub(crate) fn with_telemetry(
        config: ClientConfig,
        telemetry: Telemetry,
    ) -> Result<Arc<Self>, BuildError> {
        let meter = Meter::new(Some(telemetry), &config);
        Self::with_meter(config, meter)
    }

    fn with_meter(config: ClientConfig, meter: Meter) -> Result<Arc<Self>, BuildError> {
        let transport = choose(config.transport)?;
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let nodes = config.servers.iter();
        let nodes = nodes.map(|server| Node {
            identity: server.identity.clone(),
            server: server.server.clone(),
        });
        let router = Router::new(nodes.collect());
        let names = config
            .servers
            .iter()
            .map(|server| server.server.as_str().into())
            .collect();
        Ok(Arc::new(Self {
            config,
            router,
            transport,
            meter,
            names,
            regions: Mutex::default(),
        }))
    }

    pub(crate) fn core_config(&self) -> CoreConfig {
        let config = &self.config;
        let servers = config.servers.iter().zip(&self.names);
        CoreConfig {
            servers: servers
                .map(|(server, name)| CoreServer {
                    name: Arc::clone(name),
                    identity: if config.explicit_node_ids {
                        server.identity.clone()
                    } else {
                        String::new()
                    },
                    bind: server.bind,
                })
                .collect(),
            auth_key: AuthKey::new(*config.auth_key.bytes()),
            payload_mac: config.payload_mac == PayloadMac::Required,
            connect_timeout: config.connect_timeout,
            fence_timeout: config.fence_timeout,
            retries: config.retries,
            small_connections: 0,
            bulk_connections: 1,
            window: WINDOW,
        }
    }

    pub(crate) fn deadline(&self, options: &CallOptions) -> Tick {
        let timeout = options.timeout.unwrap_or(self.config.op_timeout);
        Tick(
            clock::now()
                .0
                .saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    pub(crate) fn servers(&self) -> Vec<String> {
        self.config
            .servers
            .iter()
            .map(|server| server.server.clone())
            .collect()
    }

    /// Takes in what a core has to tell: counts it, and logs what is news.
    pub(crate) fn note<M: FrameMac>(&self, core: &mut Core<M>) {
        while let Some(notice) = core.next_notice() {
            match notice {
                Notice::Moved { server, from, to } => {
                    self.meter.connection_moved(server, from, Some(to))
                }
                Notice::Resent => self.meter.retried(),
                Notice::Connected {
                    server,
                    node_id,
                    clock_skew_ns,
                    took,
                } => {
                    let name = &self.names[server];
                    debug!(server = %name, node_id, clock_skew_ns, took_us = took.as_micros() as u64, "connected");
                    // An address is no name: it may well be written in several ways.
                    let is_named = self.config.explicit_node_ids;
                    let is_other = is_named && self.router.is_other(server, &node_id);
                    self.meter.metrics().set_identity_mismatch(server, is_other);
                    if is_named && self.router.announced(server, &node_id) {
                        let expected = &self.router.nodes()[server].identity;
                        warn!(
                            server = %name, expected, announced = node_id,
                            "server has another identity than the one its keys are placed by; check node_ids and servers"
                        );
                    }
                }
                Notice::Disconnected {
                    server,
                    cause,
                    stood,
                } => {
                    self.log_disconnect(server, &cause, stood);
                }
            }
        }
    }

    fn log_disconnect(&self, server: usize, cause: &TransportCause, stood: bool) {
        let name = &self.names[server];
        match cause {
            TransportCause::ClientClosed => {}
            // The calls that fail say it too, and they may retry; whoever runs the client reads this.
            TransportCause::Protocol(_) => warn!(server = %name, %cause, "connection closed"),
            _ => debug!(server = %name, %cause, stood, "no connection"),
        }
    }

    pub(crate) fn register_region(&self, address: usize, len: usize) -> Result<(), RegionError> {
        if len == 0 {
            return Err(RegionError::Empty { address });
        }
        let end = address
            .checked_add(len)
            .ok_or(RegionError::Wraps { address, len })?;
        let mut regions = self.regions.lock();
        if let Some((other, _)) = regions
            .iter()
            .find(|(start, size)| *start < end && address < start + size)
        {
            return Err(RegionError::Overlaps {
                address,
                len,
                other: *other,
            });
        }
        regions.push((address, len));
        Ok(())
    }

    pub(crate) fn deregister_region(&self, address: usize, len: usize) -> Result<(), RegionError> {
        let mut regions = self.regions.lock();
        let found = regions.iter().position(|region| *region == (address, len));
        let found = found.ok_or(RegionError::Unknown { address, len })?;
        regions.swap_remove(found);
        Ok(())
    }
}

/// How this process names itself to servers, for their logs: host and process id.
pub(crate) fn node_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().take(60).collect();
    format!(
        "{}:{}",
        if host.is_empty() { "client" } else { &host },
        std::process::id()
    )
}

/// Picks the transport, and says so where it isn't what was asked for.
fn choose(requested: Transport) -> Result<TransportState, BuildError> {
    match requested {
        Transport::Rdma => Err(BuildError::NoRdma),
        Transport::Tcp => Ok(TransportState {
            requested,
            active: Transport::Tcp,
            reason: None,
        }),
        Transport::Auto => {
            let devices = std::fs::read_dir("/sys/class/infiniband")
                .map_or(0, |devices| devices.flatten().count());
            let reason = if devices == 0 {
                "no RDMA device on this host, and no RDMA transport in this build".to_owned()
            } else {
                format!(
                    "no RDMA transport in this build, although this host has {devices} RDMA devices"
                )
            };
            // With a NIC at hand it is a downgrade that someone should know of; without one it is what was to be expected.
            if devices == 0 {
                info!(
                    requested = "auto",
                    active = "tcp",
                    reason,
                    "transport chosen"
                );
            } else {
                warn!(
                    requested = "auto",
                    active = "tcp",
                    reason,
                    "transport downgraded"
                );
            }
            Ok(TransportState {
                requested,
                active: Transport::Tcp,
                reason: Some(reason),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memkv_settings::AuthKey;

    fn shared() -> Arc<Shared> {
        Shared::new(ClientConfig::new(["127.0.0.1:9900"], AuthKey::new([7; 32]))).unwrap()
    }

    #[test]
    fn regions_are_bounds_checked_and_must_not_overlap() {
        let shared = shared();
        assert_eq!(
            shared.register_region(4096, 0),
            Err(RegionError::Empty { address: 4096 })
        );
        let wraps = RegionError::Wraps {
            address: usize::MAX,
            len: 2,
        };
        assert_eq!(shared.register_region(usize::MAX, 2), Err(wraps));
        shared.register_region(4096, 4096).unwrap();
        shared
            .register_region(8192, 4096)
            .expect("neighbours don't overlap");
        for (address, len) in [(4096, 1), (8191, 1), (1, 4096), (0, 100_000)] {
            let refused = shared.register_region(address, len);
            assert!(
                matches!(refused, Err(RegionError::Overlaps { .. })),
                "{address}+{len}: {refused:?}"
            );
        }
        assert!(matches!(
            shared.deregister_region(4096, 1),
            Err(RegionError::Unknown { .. })
        ));
        shared.deregister_region(4096, 4096).unwrap();
        shared
            .register_region(4096, 100)
            .expect("it was deregistered");
    }

    #[test]
    fn auto_on_tcp_says_so_and_rdma_is_refused() {
        let state = choose(Transport::Auto).unwrap();
        assert_eq!(state.active, Transport::Tcp);
        assert!(
            state
                .reason
                .is_some_and(|reason| reason.contains("no RDMA transport in this build"))
        );
        assert!(choose(Transport::Tcp).unwrap().reason.is_none());
        assert!(
            choose(Transport::Rdma)
                .unwrap_err()
                .to_string()
                .contains("rdma")
        );
    }
}
