//! The blocking client: each call drives a lane's core on its own thread, so that nothing but the wire is between a call
//! and its reply.

mod calls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use memkv_proto::mac::{FrameMac, HmacSha256};
use memkv_proto::op::{Attrs, Condition};
use memkv_telemetry::{ClientMetrics, Telemetry, clock};

use crate::call::{CallOptions, ServerStat, Value};
use crate::config::ClientConfig;
use crate::error::{OpError, TransportCause};
use crate::meter::Scribe;
use crate::pool::Pool;
use crate::pump::op::Op;
use crate::pump::{Core, CoreConfig, OpTable, Token};
use crate::router::IdentityMismatch;
use crate::shared::{BuildError, RegionError, Shared, TransportState};

pub use calls::Calls;

/// Connections per server beyond `num_connections`, opened for small calls while all others are busy.
const PRIORITY_LANES: usize = 2;
/// A lane that rested this long looks for closed connections before it sends: a server may have restarted meanwhile.
const IDLE_CHECK: Duration = Duration::from_millis(500);

struct Lane<M: FrameMac> {
    core: Core<M>,
    scribe: Scribe,
    used: clock::Tick,
}

/// The blocking client. `Send + Sync`: share one per process (in an `Arc`, or by reference) among any number of threads.
///
/// Calls block until the server answered, or until their deadline and the fence behind it: when a call returns, nobody works
/// on it any more, and the buffers it was given are the caller's again. Values are checked end to end by CRC32C.
///
/// Connections are opened by the first calls that need them, or all at once by [`Client::warmup`].
pub struct Client<M: FrameMac = HmacSha256> {
    shared: Arc<Shared>,
    pool: Pool<Box<Lane<M>>>,
    options: CallOptions,
}

/// The ops of one call, on the caller's stack.
struct Ops<'s, 'a>(&'s mut [Op<'a>]);

impl<'a> OpTable<'a> for Ops<'_, 'a> {
    fn op(&self, token: Token) -> Option<&Op<'a>> {
        self.0.get(token.0 as usize)
    }

    fn op_mut(&mut self, token: Token) -> Option<&mut Op<'a>> {
        self.0.get_mut(token.0 as usize)
    }
}

impl Client<HmacSha256> {
    /// A client on the process's own configuration: `MEMKV_CONFIG` and the environment.
    ///
    /// # Errors
    /// When that configuration is wrong or the process is out of file descriptors.
    pub fn from_process() -> Result<Self, BuildError> {
        Self::new(ClientConfig::from_process()?)
    }

    /// A client on `config`. Opens no connection yet.
    ///
    /// # Errors
    /// When the transport isn't in this build or the process is out of file descriptors.
    pub fn new(config: ClientConfig) -> Result<Self, BuildError> {
        Self::with_mac(config)
    }

    /// As [`Client::new`], recording into `telemetry` whatever the configuration says of exporters: for programs that
    /// have their own.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_telemetry(config: ClientConfig, telemetry: Telemetry) -> Result<Self, BuildError> {
        Self::on(Shared::with_telemetry(config, telemetry)?)
    }
}

impl<M: FrameMac> Client<M> {
    /// As [`Client::new`], for a MAC of the caller's: benchmarks measure what ours costs.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_mac(config: ClientConfig) -> Result<Self, BuildError> {
        Self::on(Shared::new(config)?)
    }

    fn on(shared: Arc<Shared>) -> Result<Self, BuildError> {
        let lanes = shared.config.num_connections;
        let core_config = Arc::new(CoreConfig {
            small_connections: 0,
            bulk_connections: 1,
            ..shared.core_config()
        });
        let lane = || -> Result<Box<Lane<M>>, BuildError> {
            let core = Core::new(Arc::clone(&core_config)).map_err(BuildError::Poll)?;
            Ok(Box::new(Lane {
                core,
                scribe: shared.meter.scribe(),
                used: clock::now(),
            }))
        };
        let general = (0..lanes).map(|_| lane()).collect::<Result<_, _>>()?;
        let priority = (0..PRIORITY_LANES)
            .map(|_| lane())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            shared,
            pool: Pool::new(general, priority),
            options: CallOptions::default(),
        })
    }

    /// The same verbs with other options than the client's defaults, for the calls that need them.
    pub fn with<'c>(&'c self, options: &'c CallOptions) -> Calls<'c, M> {
        Calls {
            client: self,
            options,
        }
    }

    fn calls(&self) -> Calls<'_, M> {
        Calls {
            client: self,
            options: &self.options,
        }
    }

    /// Reads the value of `key`; `None` is a miss. The whole value or nothing: never a part of it.
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, OpError> {
        self.calls().get(key)
    }

    /// Reads the value of `key` with its version and attributes.
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn get_value(&self, key: &[u8]) -> Result<Option<Value>, OpError> {
        self.calls().get_value(key)
    }

    /// Reads the value of `key` into `buffer` and returns its length, which may be less than the buffer's.
    ///
    /// # Errors
    /// [`OpError::BufferTooSmall`] for a longer value; the buffer's contents are then unspecified. Else see [`OpError`].
    pub fn get_into(&self, key: &[u8], buffer: &mut [u8]) -> Result<Option<usize>, OpError> {
        self.calls().get_into(key, buffer)
    }

    /// Stores `value` under `key` and returns its version.
    ///
    /// # Errors
    /// See [`OpError`]; after a transport error the put may or may not have been applied, and won't be any more.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<u64, OpError> {
        self.calls().put(key, value)
    }

    /// Stores `value` under `key` with attributes, if `condition` holds.
    ///
    /// # Errors
    /// `ConditionFailed` where it doesn't; else as [`Client::put`].
    pub fn put_with(
        &self,
        key: &[u8],
        value: &[u8],
        attrs: Attrs,
        condition: Condition,
    ) -> Result<u64, OpError> {
        self.calls().put_with(key, value, attrs, condition)
    }

    /// Removes `key`; false when it wasn't there.
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn delete(&self, key: &[u8]) -> Result<bool, OpError> {
        self.calls().delete(key)
    }

    /// Removes `keys`; one result each, in order.
    pub fn batch_delete<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<bool, OpError>> {
        self.calls().batch_delete(keys)
    }

    /// Whether `key` is there.
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn exists(&self, key: &[u8]) -> Result<bool, OpError> {
        self.calls().exists(key)
    }

    /// Whether each of `keys` is there, in order: one message per server and 1024 keys.
    pub fn batch_exists<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<bool, OpError>> {
        self.calls().batch_exists(keys)
    }

    /// Reads the values of `keys`; one result each, in order.
    pub fn batch_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<Vec<u8>>, OpError>> {
        self.calls().batch_get(keys)
    }

    /// Reads values into buffers of the caller; each result is the value's length.
    pub fn batch_get_into(
        &self,
        items: &mut [(&[u8], &mut [u8])],
    ) -> Vec<Result<Option<usize>, OpError>> {
        self.calls().batch_get_into(items)
    }

    /// Stores `items` and returns their versions, in order. Not atomic: each entry succeeds or fails alone.
    pub fn batch_put<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        items: &[(K, V)],
    ) -> Vec<Result<u64, OpError>> {
        self.calls().batch_put(items)
    }

    /// As [`Client::batch_put`], from borrowed memory: keys and values are sent from where they lie.
    pub fn batch_put_views(&self, items: &[(&[u8], &[u8])]) -> Vec<Result<u64, OpError>> {
        self.calls().batch_put_views(items)
    }

    /// Opens every connection of every lane now, so that no later call waits for one. Returns how many stand.
    ///
    /// # Errors
    /// The first connection that couldn't be opened within `connect_timeout_ms`. The others stay.
    pub fn warmup(&self) -> Result<usize, OpError> {
        let mut count = 0;
        let mut first_error = None;
        for mut checkout in self.pool.checkout_all_free() {
            let core = &mut checkout.lane.core;
            loop {
                match core.warm_up(&mut Ops(&mut [])) {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => {
                        first_error.get_or_insert(error);
                        break;
                    }
                }
                if core.poll(&mut Ops(&mut []), None).is_err() {
                    break;
                }
            }
            count += core.connections_up();
            self.shared.note(core);
            self.pool.checkin(checkout);
        }
        first_error.map_or(Ok(count), Err)
    }

    /// Notes memory that transfers will use. Over TCP nothing needs it; over RDMA such memory is registered with the NIC at
    /// its first use. Overlaps are refused now, so that a program that works over TCP also works over RDMA.
    ///
    /// # Errors
    /// When the range is empty, wraps around, or overlaps a registered one.
    pub fn register_region(&self, address: usize, len: usize) -> Result<(), RegionError> {
        self.shared.register_region(address, len)
    }

    /// Forgets a range that was registered, by exactly its address and length.
    ///
    /// # Errors
    /// When no such range is registered.
    pub fn deregister_region(&self, address: usize, len: usize) -> Result<(), RegionError> {
        self.shared.deregister_region(address, len)
    }

    /// The servers, as configured.
    pub fn servers(&self) -> Vec<String> {
        self.shared.servers()
    }

    /// Which server holds `key`.
    pub fn server_of(&self, key: &[u8]) -> usize {
        self.shared.router.pick(key)
    }

    /// What the client counts: connections by state, the transport in use, reads sent again.
    pub fn metrics(&self) -> &ClientMetrics {
        self.shared.meter.metrics()
    }

    /// The transport in use, the one asked for, and why they differ.
    pub fn transport(&self) -> &TransportState {
        &self.shared.transport
    }

    /// Servers that call themselves otherwise than this client does: it may place keys where others don't look.
    pub fn identity_mismatches(&self) -> Vec<IdentityMismatch> {
        self.shared.router.mismatches()
    }

    /// The time of a round trip to server `server`, by its index.
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn ping(&self, server: usize) -> Result<Duration, OpError> {
        self.calls().ping(server)
    }

    /// The key figures of server `server`, by its index.
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn stat(&self, server: usize) -> Result<ServerStat, OpError> {
        self.calls().stat(server)
    }

    /// Closes all connections; later calls fail. Waits up to `timeout` for calls under way and says whether all ended.
    pub fn close(&self, timeout: Duration) -> bool {
        let (lanes, ended) = self.pool.close(Instant::now() + timeout);
        for mut lane in lanes {
            lane.core
                .close(&mut Ops(&mut []), &TransportCause::ClientClosed);
        }
        ended
    }
}

impl<M: FrameMac> std::fmt::Debug for Client<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("servers", &self.servers())
            .finish_non_exhaustive()
    }
}
