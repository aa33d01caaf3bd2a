//! Typed handles on what the engine, the server and the client count.
//!
//! They travel in the structs that are passed in, never in a global, so every test has its own. Clones
//! share the counts. What an op's thread counts goes through its [`crate::Recorder`] instead; these are
//! for rarer events, and any thread may call them (5 to 20 ns).

use std::borrow::Cow;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::histogram::{Histogram, HistogramSnapshot, Scale};
use crate::labels::{
    AuthFailure, AuthKey, ConnectionState, CrcSource, DriveOp, EvictionReason, ProtocolFault,
    RejectReason, RetryReason, SlabState, Transport,
};
use crate::metrics::{self, Series};
use crate::snapshot::{Cells, Family, Histograms, Sample, Value};

/// What the engine counts.
#[derive(Clone, Debug)]
pub struct EngineMetrics(Arc<EngineCells>);

#[derive(Debug)]
struct EngineCells {
    slabs: Cells,
    slab_wait: Histograms,
    slab_double_frees: Cells,
    index_entries: Cells,
    evictions: Cells,
    never_read_bytes: Cells,
    crc_mismatches: Cells,
    stale_completions: Cells,
    drives: Mutex<Vec<DriveMetrics>>,
}

impl EngineMetrics {
    /// Counts that nobody scrapes: for tests and benchmarks of the engine alone.
    pub fn detached() -> EngineMetrics {
        EngineMetrics(Arc::new(EngineCells {
            slabs: Cells::new(&metrics::SLABS),
            slab_wait: Histograms::new(&metrics::SLAB_WAIT_SECONDS),
            slab_double_frees: Cells::new(&metrics::SLAB_DOUBLE_FREES_TOTAL),
            index_entries: Cells::new(&metrics::INDEX_ENTRIES),
            evictions: Cells::new(&metrics::EVICTIONS_TOTAL),
            never_read_bytes: Cells::new(&metrics::NEVER_READ_BYTES_TOTAL),
            crc_mismatches: Cells::new(&metrics::CRC_MISMATCHES_TOTAL),
            stale_completions: Cells::new(&metrics::STALE_COMPLETIONS_TOTAL),
            drives: Mutex::new(Vec::new()),
        }))
    }

    /// Sets how many slabs are in a state.
    pub fn set_slabs(&self, state: SlabState, count: u64) {
        self.0.slabs.set(state.idx(), count as i64);
    }

    /// Moves slabs from one state to another.
    pub fn move_slabs(&self, from: SlabState, to: SlabState, count: u64) {
        self.0.slabs.sub(from.idx(), count);
        self.0.slabs.add(to.idx(), count);
    }

    /// How many slabs are in a state.
    pub fn slabs(&self, state: SlabState) -> u64 {
        self.0.slabs.get(state.idx())
    }

    /// A request for slab memory waited so long.
    pub fn slab_waited(&self, wait_ns: u64) {
        self.0.slab_wait.at(0).observe_shared(wait_ns);
    }

    /// How many requests for slab memory waited so far.
    pub fn slab_wait_count(&self) -> u64 {
        self.0.slab_wait.at(0).snapshot().count()
    }

    /// A slab was returned twice.
    pub fn slab_double_freed(&self) {
        self.0.slab_double_frees.add(0, 1);
    }

    /// Sets how many entries the index holds.
    pub fn set_index_entries(&self, count: u64) {
        self.0.index_entries.set(0, count as i64);
    }

    /// Entries left; `never_read_bytes` of them were never read.
    pub fn evicted(&self, reason: EvictionReason, entries: u64, never_read_bytes: u64) {
        self.0.evictions.add(reason.idx(), entries);
        self.0.never_read_bytes.add(0, never_read_bytes);
    }

    /// How many entries left for a reason.
    pub fn evictions(&self, reason: EvictionReason) -> u64 {
        self.0.evictions.get(reason.idx())
    }

    /// A value's checksum was wrong.
    pub fn crc_mismatch(&self, source: CrcSource) {
        self.0.crc_mismatches.add(source.idx(), 1);
    }

    /// How many checksums were wrong.
    pub fn crc_mismatches(&self, source: CrcSource) -> u64 {
        self.0.crc_mismatches.get(source.idx())
    }

    /// A completion named an operation no longer in flight.
    pub fn stale_completion(&self) {
        self.0.stale_completions.add(0, 1);
    }

    /// The handles of a drive; the same drive has the same ones. Beyond [`metrics::DRIVES_MAX`] drives
    /// the handles are the drive's own, but are exposed together as [`metrics::MORE`].
    pub fn drive(&self, name: &str) -> DriveMetrics {
        let mut drives = self.0.drives.lock();
        if let Some(known) = drives.iter().find(|drive| &*drive.0.name == name) {
            return known.clone();
        }
        let drive = DriveMetrics::detached(name);
        drives.push(drive.clone());
        drive
    }

    pub(crate) fn families(&self) -> Vec<Family> {
        let cells = &self.0;
        let mut families = vec![
            cells.slabs.family(),
            cells.slab_wait.family(),
            cells.slab_double_frees.family(),
            cells.index_entries.family(),
            cells.evictions.family(),
            cells.never_read_bytes.family(),
            cells.crc_mismatches.family(),
            cells.stale_completions.family(),
        ];
        families.extend(drive_families(&cells.drives.lock()));
        families
    }
}

/// What one drive counts.
#[derive(Clone, Debug)]
pub struct DriveMetrics(Arc<DriveCells>);

#[derive(Debug)]
struct DriveCells {
    name: Box<str>,
    io: [Histogram; DriveOp::COUNT],
    bytes: [Count; DriveOp::COUNT],
    errors: [Count; DriveOp::COUNT],
    up: Count,
    used_bytes: Count,
    capacity_bytes: Count,
    queue_depth: Count,
}

/// One number of a series whose labels aren't all closed.
#[derive(Debug, Default)]
struct Count(std::sync::atomic::AtomicU64);

impl Count {
    fn add(&self, n: u64) {
        self.0.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
    }

    fn set(&self, n: u64) {
        self.0.store(n, std::sync::atomic::Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl DriveMetrics {
    /// Counts that nobody scrapes.
    pub fn detached(name: &str) -> DriveMetrics {
        DriveMetrics(Arc::new(DriveCells {
            name: name.into(),
            io: std::array::from_fn(|_| Histogram::new(Scale::Time)),
            bytes: Default::default(),
            errors: Default::default(),
            up: Count::default(),
            used_bytes: Count::default(),
            capacity_bytes: Count::default(),
            queue_depth: Count::default(),
        }))
    }

    /// The drive's name, as configured.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A request completed.
    pub fn io_done(&self, op: DriveOp, dur_ns: u64, bytes: u64) {
        self.0.io[op.idx()].observe_shared(dur_ns);
        self.0.bytes[op.idx()].add(bytes);
    }

    /// A request failed.
    pub fn io_failed(&self, op: DriveOp) {
        self.0.errors[op.idx()].add(1);
    }

    /// How many requests failed.
    pub fn errors(&self, op: DriveOp) -> u64 {
        self.0.errors[op.idx()].get()
    }

    /// Sets whether it serves.
    pub fn set_up(&self, is_up: bool) {
        self.0.up.set(u64::from(is_up));
    }

    /// Sets how much live data it holds and how much it can hold.
    pub fn set_space(&self, used_bytes: u64, capacity_bytes: u64) {
        self.0.used_bytes.set(used_bytes);
        self.0.capacity_bytes.set(capacity_bytes);
    }

    /// Sets how many requests are in flight.
    pub fn set_queue_depth(&self, requests: u64) {
        self.0.queue_depth.set(requests);
    }

    /// The times of its requests so far.
    pub fn io_times(&self, op: DriveOp) -> HistogramSnapshot {
        self.0.io[op.idx()].snapshot()
    }
}

/// Drives that share a label are added up.
fn drive_families(drives: &[DriveMetrics]) -> Vec<Family> {
    let mut groups: Vec<(Cow<'static, str>, Vec<&DriveCells>)> = Vec::new();
    for (idx, drive) in drives.iter().enumerate() {
        if idx < metrics::DRIVES_MAX {
            groups.push((Cow::Owned(drive.0.name.to_string()), vec![&drive.0]));
        } else if idx == metrics::DRIVES_MAX {
            groups.push((Cow::Borrowed(metrics::MORE), vec![&drive.0]));
        } else {
            groups[metrics::DRIVES_MAX].1.push(&drive.0);
        }
    }
    let gauge = |series: &'static Series, get: fn(&DriveCells) -> &Count| Family {
        series,
        samples: groups
            .iter()
            .map(|(name, drives)| Sample {
                labels: vec![name.clone()],
                value: Value::Number(drives.iter().map(|drive| get(drive).get() as f64).sum()),
            })
            .collect(),
    };
    let counter = |series: &'static Series, get: fn(&DriveCells) -> &[Count; DriveOp::COUNT]| {
        let mut samples = Vec::new();
        for (name, drives) in &groups {
            for op in DriveOp::ALL {
                let total = drives
                    .iter()
                    .map(|drive| get(drive)[op.idx()].get() as f64)
                    .sum();
                let labels = vec![name.clone(), Cow::Borrowed(op.name())];
                samples.push(Sample {
                    labels,
                    value: Value::Number(total),
                });
            }
        }
        Family { series, samples }
    };
    let mut times = Family {
        series: &metrics::DRIVE_IO_DURATION,
        samples: Vec::new(),
    };
    for (name, drives) in &groups {
        for op in DriveOp::ALL {
            let mut total = HistogramSnapshot::new(Scale::Time);
            drives
                .iter()
                .for_each(|drive| drive.io[op.idx()].add_to(&mut total));
            if total.count() > 0 {
                let labels = vec![name.clone(), Cow::Borrowed(op.name())];
                times.samples.push(Sample {
                    labels,
                    value: Value::histogram(times.series, &total),
                });
            }
        }
    }
    vec![
        times,
        gauge(&metrics::DRIVE_UP, |drive| &drive.up),
        gauge(&metrics::DRIVE_USED_BYTES, |drive| &drive.used_bytes),
        gauge(&metrics::DRIVE_CAPACITY_BYTES, |drive| {
            &drive.capacity_bytes
        }),
        gauge(&metrics::DRIVE_QUEUE_DEPTH, |drive| &drive.queue_depth),
        counter(&metrics::DRIVE_BYTES_TOTAL, |drive| &drive.bytes),
        counter(&metrics::DRIVE_ERRORS_TOTAL, |drive| &drive.errors),
    ]
}

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
    pub fn auth_key_used(&self, key: AuthKey) {
        self.0.auth_key_uses.add(key.idx(), 1);
    }

    /// How many sessions were opened with a key.
    pub fn auth_key_uses(&self, key: AuthKey) -> u64 {
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

/// What the client counts beside the operations themselves.
#[derive(Clone, Debug)]
pub struct ClientMetrics(Arc<ClientCells>);

#[derive(Debug)]
struct ClientCells {
    servers: Vec<Cow<'static, str>>,
    connections: Vec<[Count; ConnectionState::COUNT]>,
    transport_active: Cells,
    retries: Cells,
}

impl ClientMetrics {
    /// Counts that nobody scrapes, for one server.
    pub fn detached() -> ClientMetrics {
        ClientMetrics::for_servers(&["detached".to_owned()])
    }

    /// Counts for these servers, in the order of the configuration; those beyond
    /// [`metrics::SERVERS_MAX`] share one label.
    pub fn for_servers(servers: &[String]) -> ClientMetrics {
        let mut names: Vec<Cow<'static, str>> = servers
            .iter()
            .take(metrics::SERVERS_MAX)
            .map(|name| Cow::Owned(name.clone()))
            .collect();
        if servers.len() > metrics::SERVERS_MAX {
            names.push(Cow::Borrowed(metrics::MORE));
        }
        ClientMetrics(Arc::new(ClientCells {
            connections: names.iter().map(|_| Default::default()).collect(),
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
        vec![
            connections,
            self.0.transport_active.family(),
            self.0.retries.family(),
        ]
    }
}
