//! What all threads of a server share: configuration, keys, budgets, counts, and the store once it is open.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use memkv_engine::{Engine, EngineStatus};
use memkv_proto::op::ErrorCode;
use memkv_proto::session::{Features, KeyId, KeyRing, KeyUse, SessionInfo};
use memkv_proto::stat::StatKey;
use memkv_telemetry::log::Chain;
use memkv_telemetry::trace::hex;
use memkv_telemetry::{
    AuthFailure, AuthKeyLabel, CrcSource, EngineMetrics, ProtocolFault, RejectReason,
    ServerMetrics, Telemetry, Timeline, Transport,
};
use parking_lot::Mutex;
use tracing::{debug, info, warn};

use crate::admission::Admission;
use crate::config::{AuthKeys, Backend, Config, PayloadMac};
use crate::dispatch::End;
use crate::limits::Limits;
use crate::server::LogLevelSetter;
use crate::status::{Failure, reject_reason};

/// Most identities that are kept of those that clients took this server for.
const MISTAKEN_MAX: usize = 8;

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Life {
    /// Opening the store.
    Starting = 0,
    /// Serves.
    Serving = 1,
    /// Finishes what it has.
    Draining = 2,
    /// Gone.
    Stopped = 3,
}

/// Shared by all threads of a server.
pub(crate) struct Shared {
    config: ArcSwap<Config>,
    limits: Limits,
    keys: ArcSwap<KeyRing>,
    key_ids: Mutex<(KeyId, Option<KeyId>)>,
    telemetry: Telemetry,
    metrics: ServerMetrics,
    engine_metrics: EngineMetrics,
    engine: OnceLock<Engine>,
    admission: Arc<Admission>,
    log_level: Option<LogLevelSetter>,
    version: String,
    addresses: (SocketAddr, SocketAddr),
    node_id: String,
    /// Whether the configuration says so.
    is_named: bool,
    mistaken_for: Mutex<BTreeSet<String>>,
    started: Instant,
    life: AtomicU8,
    draining: AtomicBool,
    in_flight: AtomicU64,
    connections: AtomicU64,
    half_open: AtomicU64,
    connection_numbers: AtomicU64,
    hasher: std::hash::RandomState,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        keys: &AuthKeys,
        limits: Limits,
        telemetry: Telemetry,
        (log_level, version): (Option<LogLevelSetter>, String),
        addresses: (SocketAddr, SocketAddr),
    ) -> Arc<Self> {
        let metrics = telemetry.server_metrics();
        let engine_metrics = telemetry.engine_metrics();
        metrics.set_config_unknown_keys(config.unknown_keys() as u64);
        let named = config.network.node_id.clone();
        let is_named = named.is_some();
        let node_id = named.unwrap_or_else(|| addresses.0.to_string());
        let admission = Admission::new(config.limits.max_in_flight_bytes, limits.control_bytes_max);
        Arc::new(Self {
            keys: ArcSwap::from_pointee(ring_of(keys)),
            key_ids: Mutex::new(ids_of(keys)),
            config: ArcSwap::from_pointee(config),
            limits,
            telemetry,
            metrics,
            engine_metrics,
            engine: OnceLock::new(),
            admission,
            log_level,
            version,
            addresses,
            node_id,
            is_named,
            mistaken_for: Mutex::default(),
            started: Instant::now(),
            life: AtomicU8::new(Life::Starting as u8),
            draining: AtomicBool::new(false),
            in_flight: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            half_open: AtomicU64::new(0),
            connection_numbers: AtomicU64::new(0),
            hasher: std::hash::RandomState::new(),
        })
    }

    pub(crate) fn config(&self) -> arc_swap::Guard<Arc<Config>> {
        self.config.load()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    pub(crate) fn metrics(&self) -> &ServerMetrics {
        &self.metrics
    }

    pub(crate) fn engine_metrics(&self) -> EngineMetrics {
        self.engine_metrics.clone()
    }

    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    pub(crate) fn log_level(&self) -> Option<&LogLevelSetter> {
        self.log_level.as_ref()
    }

    pub(crate) fn data_address(&self) -> SocketAddr {
        self.addresses.0
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.addresses.1
    }

    pub(crate) fn node_id(&self) -> &str {
        &self.node_id
    }

    /// What it was configured to be called; empty where it wasn't, and then nobody can be wrong about it.
    pub(crate) fn given_node_id(&self) -> &str {
        if self.is_named { &self.node_id } else { "" }
    }

    /// The identities that clients took it for, and that aren't its own.
    pub(crate) fn mistaken_for(&self) -> Vec<String> {
        self.mistaken_for.lock().iter().cloned().collect()
    }

    /// Notes what a client places this server's keys by.
    fn taken_for(&self, identity: &str, peer: SocketAddr) {
        if !self.is_named || identity.is_empty() || identity == self.node_id {
            return;
        }
        let mut known = self.mistaken_for.lock();
        if known.len() < MISTAKEN_MAX && known.insert(identity.into()) {
            warn!(
                %peer, taken_for = identity, node_id = self.node_id,
                "a client places this server's keys by another identity; check its node_ids and servers, and network.node_id"
            );
        }
    }

    /// What this build calls itself.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn uptime(&self) -> std::time::Duration {
        self.started.elapsed()
    }

    // ---- the store

    /// The store is open.
    pub(crate) fn opened(&self, engine: Engine) {
        assert!(
            self.engine.set(engine).is_ok(),
            "a server opens its store once"
        );
    }

    pub(crate) fn engine(&self) -> Option<&Engine> {
        self.engine.get()
    }

    /// How the store is; `None` until it is open.
    pub(crate) fn store(&self) -> Option<EngineStatus> {
        self.engine().map(Engine::status)
    }

    /// Whether an acknowledged put lies on a drive.
    pub(crate) fn stores_on_drives(&self) -> bool {
        !matches!(self.config.load().storage.backend, Backend::Memory { .. })
    }

    /// See [`Config::bytes_held`].
    pub(crate) fn bytes_held(&self, len: u64) -> u64 {
        self.config.load().bytes_held(len)
    }

    // ---- life

    pub(crate) fn enter(&self, life: Life) {
        self.life.fetch_max(life as u8, Ordering::SeqCst);
    }

    pub(crate) fn life(&self) -> Life {
        match self.life.load(Ordering::SeqCst) {
            0 => Life::Starting,
            1 => Life::Serving,
            2 => Life::Draining,
            _ => Life::Stopped,
        }
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.enter(Life::Draining);
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn request_started(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn request_finished(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn requests_in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::SeqCst)
    }

    // ---- keys

    pub(crate) fn keys(&self) -> arc_swap::Guard<Arc<KeyRing>> {
        self.keys.load()
    }

    /// The ids of the current and the previous key.
    pub(crate) fn key_ids(&self) -> (KeyId, Option<KeyId>) {
        *self.key_ids.lock()
    }

    /// Takes other keys; whether they differ from the ones before.
    pub(crate) fn replace_keys(&self, keys: &AuthKeys) -> bool {
        let ids = ids_of(keys);
        let mut running = self.key_ids.lock();
        let changed = *running != ids;
        *running = ids;
        self.keys.store(Arc::new(ring_of(keys)));
        changed
    }

    pub(crate) fn key_is_valid(&self, id: KeyId) -> bool {
        self.keys.load().key_use(id).is_some()
    }

    pub(crate) fn features(&self) -> Features {
        Features::requiring(match self.config.load().network.payload_mac {
            PayloadMac::Required => Features::PAYLOAD_MAC,
            PayloadMac::Off => 0,
        })
    }

    /// A session was opened.
    pub(crate) fn authenticated(&self, info: &SessionInfo, peer: SocketAddr) {
        self.half_open.fetch_sub(1, Ordering::SeqCst);
        self.metrics.set_clock_skew(info.clock_skew_ns);
        let key = match info.key_use {
            KeyUse::Current => AuthKeyLabel::Current,
            KeyUse::Previous => {
                // A rotation ends when nobody is left here, so whoever still is must be found.
                info!(%peer, key = %info.key_id, "a client uses the previous key");
                AuthKeyLabel::Previous
            }
        };
        self.metrics.auth_key_used(key);
        self.taken_for(&info.peer_node, peer);
        debug!(%peer, taken_for = %info.peer_node, version = info.version, key = %info.key_id, "session opened");
    }

    // ---- connections

    /// Whether one more connection may be served; counts it if so.
    pub(crate) fn may_connect(&self) -> bool {
        let max = u64::from(self.config.load().limits.max_connections);
        let open = self.connections.load(Ordering::SeqCst) >= max;
        let half_open =
            self.half_open.load(Ordering::SeqCst) >= u64::from(self.limits.half_open_max);
        if open || half_open {
            return false;
        }
        self.connections.fetch_add(1, Ordering::SeqCst);
        self.half_open.fetch_add(1, Ordering::SeqCst);
        self.metrics.connection_opened(Transport::Tcp);
        true
    }

    /// A connection was closed because there is no room for it.
    pub(crate) fn no_room(&self) {
        self.metrics.rejected(RejectReason::Connections);
    }

    /// The acceptor could not accept.
    pub(crate) fn refused_connection(&self, error: &io::Error) {
        self.metrics.rejected(RejectReason::Connections);
        warn!(%error, "a connection can't be accepted; raise ulimit -n if this goes on");
    }

    /// A connection that [`Shared::may_connect`] counted is gone.
    pub(crate) fn connection_closed(&self, was_authenticated: bool) {
        self.connections.fetch_sub(1, Ordering::SeqCst);
        if !was_authenticated {
            self.half_open.fetch_sub(1, Ordering::SeqCst);
        }
        self.metrics.connection_closed(Transport::Tcp);
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections without a session yet.
    pub(crate) fn half_open(&self) -> u64 {
        self.half_open.load(Ordering::SeqCst)
    }

    pub(crate) fn next_connection(&self) -> u64 {
        self.connection_numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts and logs how a connection ended.
    pub(crate) fn connection_ended(&self, number: u64, peer: SocketAddr, end: End) {
        match end {
            End::Closed => debug!(connection = number, %peer, "closed by the client"),
            End::Broken => debug!(connection = number, %peer, "broke off"),
            End::KeyRemoved => {
                debug!(connection = number, %peer, "closed: the session's key was removed");
            }
            End::HandshakeTimeout | End::FrameStalled | End::NeverReads => {
                self.metrics.protocol_fault(ProtocolFault::Stalled);
                debug!(connection = number, %peer, ?end, "closed: the client stalled");
            }
            End::Crowded => {
                self.no_room();
                debug!(connection = number, %peer, "closed: a newer connection needed its place");
            }
            End::Auth(reason) => {
                self.metrics.auth_failed(reason);
                debug!(connection = number, %peer, reason = reason.name(), "closed: not authentic");
            }
            End::Protocol(fault) => {
                self.metrics.protocol_fault(fault);
                debug!(connection = number, %peer, fault = fault.name(), "closed: not our protocol");
            }
        }
    }

    /// Sets the gauges that are cheaper to look up than to keep current.
    pub(crate) fn refresh_gauges(&self) {
        self.metrics
            .set_admitted_bytes(self.admission.value_bytes());
        if let Some(engine) = self.engine() {
            engine.refresh_gauges();
        }
    }

    /// An admin verb came without the token.
    pub(crate) fn admin_refused(&self) {
        self.metrics.auth_failed(AuthFailure::AdminToken);
    }

    // ---- failures

    /// Logs a failure that a human must see, with the trace of the operation that met it: a failed op is always traced,
    /// so that the line leads there.
    pub(crate) fn log_failure(
        &self,
        failure: Failure,
        error: &(dyn std::error::Error + 'static),
        timeline: Option<&Timeline>,
    ) -> Failure {
        if matches!(
            failure.code,
            ErrorCode::Io | ErrorCode::Internal | ErrorCode::Corrupt
        ) {
            let traced = timeline.filter(|timeline| timeline.trace.is_valid());
            let trace_id = traced.map(|timeline| hex(&timeline.trace.trace_id));
            let span_id = traced.map(|timeline| hex(&timeline.span_id));
            warn!(
                trace_id,
                span_id,
                error = %Chain(error),
                code = failure.code.name(),
                "an operation failed"
            );
        }
        failure
    }

    /// Counts work that was refused or dropped.
    pub(crate) fn rejected(&self, code: ErrorCode) {
        if let Some(reason) = reject_reason(code) {
            self.metrics.rejected(reason);
        }
    }

    /// A value arrived damaged.
    pub(crate) fn crc_mismatch(&self) {
        self.engine_metrics.crc_mismatch(CrcSource::Put);
    }

    // ---- facts

    /// A key's hash for the slow-op log: keyed per server, so that nobody can look keys up by it.
    pub(crate) fn key_hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The key figures of a Stat reply.
    pub(crate) fn stat(&self) -> Vec<(StatKey, u64)> {
        let mut fields = vec![(StatKey::UptimeMs, self.uptime().as_millis() as u64)];
        if let Some(status) = self.store() {
            let sum = |get: fn(&memkv_engine::DriveStatus) -> u64| {
                status.drives.iter().map(get).sum::<u64>()
            };
            let (used, capacity) = match status.drives.is_empty() {
                true => (status.hot_bytes, status.pool_bytes),
                false => (
                    sum(|drive| drive.used_bytes),
                    sum(|drive| drive.capacity_bytes),
                ),
            };
            let is_up = |drive: &&memkv_engine::DriveStatus| {
                matches!(drive.state, memkv_engine::DriveState::Up)
            };
            let up = status.drives.iter().filter(is_up).count() as u64;
            fields.extend([
                (StatKey::Entries, status.entries),
                (StatKey::UsedBytes, used),
                (StatKey::CapacityBytes, capacity),
                (StatKey::PoolBytes, status.pool_bytes),
                (StatKey::PoolFreeBytes, status.pool_free_bytes),
                (StatKey::Connections, self.connections()),
                (StatKey::InFlight, self.requests_in_flight()),
                (StatKey::Drives, status.drives.len() as u64),
                (StatKey::DrivesUp, up),
                (StatKey::Version, status.version),
            ]);
        }
        // What the store takes; the protocol's own bound until it is open.
        let stored_max = self.engine().map_or(u64::MAX, Engine::value_bytes_max);
        let value_bytes_max = memkv_proto::limits::VALUE_BYTES_MAX.min(stored_max);
        fields.extend([
            (StatKey::ValueBytesMax, value_bytes_max),
            (
                StatKey::BatchEntriesMax,
                memkv_proto::limits::BATCH_ENTRIES_MAX as u64,
            ),
        ]);
        fields
    }
}

fn proto_key(key: &memkv_settings::AuthKey) -> memkv_proto::session::AuthKey {
    memkv_proto::session::AuthKey::new(*key.bytes())
}

fn ids_of(keys: &AuthKeys) -> (KeyId, Option<KeyId>) {
    let id = |key: &memkv_settings::AuthKey| proto_key(key).id();
    (id(&keys.current), keys.previous.as_ref().map(id))
}

fn ring_of(keys: &AuthKeys) -> KeyRing {
    KeyRing::new(
        proto_key(&keys.current),
        keys.previous.as_ref().map(proto_key),
    )
}
