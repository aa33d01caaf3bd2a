//! The async client: one core on a thread of its own; futures that any runtime can poll.
//!
//! A future that is dropped cancels its call: the op keeps its memory until the server has acknowledged that, or until its
//! connection is closed, and only then is that memory freed. So nothing can land in memory that has a new owner, whatever a
//! runtime does with futures.

mod calls;
mod driver;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

pub use self::calls::AsyncCalls;
use self::driver::Driver;
use memkv_proto::blocks::TraceContext;
use memkv_proto::mac::{FrameMac, HmacSha256};
use memkv_proto::op::{Attrs, Condition};
use memkv_telemetry::clock::{self, Tick};
use memkv_telemetry::{ClientMetrics, Telemetry};
use parking_lot::Mutex;

use crate::call::{CallOptions, ServerStat, Value};
use crate::config::ClientConfig;
use crate::error::OpError;
use crate::plan::Plan;
use crate::pump::op::Bytes;
use crate::pump::{Core, CoreConfig};
use crate::router::IdentityMismatch;
use crate::shared::{BuildError, RegionError, Shared, TransportState};

/// A buffer that was given to a read, back with the length of the value at its start.
pub type Filled = (Vec<u8>, usize);

/// Requests that one connection may have unanswered here, where many callers share it.
const WINDOW: usize = 256;

/// The async client. Clone it freely: all clones share one I/O thread and its connections, and the last one to go closes them.
pub struct AsyncClient<M: FrameMac = HmacSha256> {
    inner: Arc<Inner>,
    mac: std::marker::PhantomData<fn() -> M>,
}

impl<M: FrameMac> Clone for AsyncClient<M> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            mac: std::marker::PhantomData,
        }
    }
}

struct Inner {
    shared: Arc<Shared>,
    link: Arc<Link>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How callers reach the I/O thread.
struct Link {
    waker: mio::Waker,
    commands: Mutex<Commands>,
}

#[derive(Default)]
struct Commands {
    queue: Vec<Command>,
    closed: bool,
}

enum Command {
    Start {
        plan: Plan<'static>,
        since: Tick,
        trace: Option<TraceContext>,
        promise: Arc<Promise>,
    },
    Cancel(Arc<Promise>),
    WarmUp(Arc<Promise>),
    Close,
}

/// Where a call's result appears.
#[derive(Default)]
struct Promise {
    state: Mutex<PromiseState>,
}

#[derive(Default)]
struct PromiseState {
    done: Option<Finished>,
    waker: Option<Waker>,
}

enum Finished {
    Plan(Plan<'static>),
    WarmUp(Result<usize, OpError>),
}

impl Promise {
    fn fulfil(&self, finished: Finished) {
        let mut state = self.state.lock();
        state.done = Some(finished);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Link {
    /// Hands a command to the I/O thread, or back where that has ended.
    fn send(&self, command: Command) -> Result<(), Command> {
        let mut commands = self.commands.lock();
        if commands.closed {
            return Err(command);
        }
        commands.queue.push(command);
        let first = commands.queue.len() == 1;
        drop(commands);
        // Only the first of a batch needs to wake the thread: it takes all of them.
        if first {
            // A waker fails only when its poller is gone, and then `closed` is set as well.
            let _ = self.waker.wake();
        }
        Ok(())
    }
}

/// A call under way. Drop it to cancel.
#[must_use = "futures do nothing unless polled"]
pub struct Pending<T> {
    promise: Option<Arc<Promise>>,
    link: Arc<Link>,
    take: fn(Finished) -> T,
}

impl<T> Future for Pending<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let promise = Arc::clone(self.promise.as_ref().expect("polled after it was ready"));
        let mut state = promise.state.lock();
        match state.done.take() {
            Some(finished) => {
                drop(state);
                self.promise = None;
                Poll::Ready((self.take)(finished))
            }
            None => {
                // A future may move between tasks: the last waker is the one that counts.
                if !state
                    .waker
                    .as_ref()
                    .is_some_and(|waker| waker.will_wake(context.waker()))
                {
                    state.waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if let Some(promise) = self.promise.take() {
            let mut state = promise.state.lock();
            state.waker = None;
            let running = state.done.is_none();
            drop(state);
            if running {
                // When the thread has ended, so has the call.
                let _ = self.link.send(Command::Cancel(promise));
            }
        }
    }
}

impl AsyncClient<HmacSha256> {
    /// A client on `config`. Starts its I/O thread; opens no connection yet.
    ///
    /// # Errors
    /// When the transport isn't in this build, or the process is out of file descriptors or threads.
    pub fn new(config: ClientConfig) -> Result<Self, BuildError> {
        Self::with_mac(config)
    }

    /// As [`AsyncClient::new`], recording into `telemetry` whatever the configuration says of exporters: for programs that
    /// have their own.
    ///
    /// # Errors
    /// As [`AsyncClient::new`].
    pub fn with_telemetry(config: ClientConfig, telemetry: Telemetry) -> Result<Self, BuildError> {
        Self::on(Shared::with_telemetry(config, telemetry)?)
    }

    /// A client on the process's own configuration.
    ///
    /// # Errors
    /// As [`AsyncClient::new`], and when that configuration is wrong.
    pub fn from_process() -> Result<Self, BuildError> {
        Self::new(ClientConfig::from_process()?)
    }
}

impl<M: FrameMac> AsyncClient<M> {
    /// As [`AsyncClient::new`], for a MAC of the caller's.
    ///
    /// # Errors
    /// As [`AsyncClient::new`].
    pub fn with_mac(config: ClientConfig) -> Result<Self, BuildError> {
        Self::on(Shared::new(config)?)
    }

    fn on(shared: Arc<Shared>) -> Result<Self, BuildError> {
        // One connection for what is small, the others for bulk; with a single one configured there are two, since an exists
        // must not wait behind a batch.
        let bulk_connections = shared.config.num_connections.saturating_sub(1).max(1);
        let core_config = CoreConfig {
            small_connections: 1,
            bulk_connections,
            window: WINDOW,
            ..shared.core_config()
        };
        let core = Core::<M>::new(Arc::new(core_config)).map_err(BuildError::Poll)?;
        let waker = core.waker().map_err(BuildError::Poll)?;
        let link = Arc::new(Link {
            waker,
            commands: Mutex::default(),
        });
        let driver = Driver::new(core, Arc::clone(&shared), Arc::clone(&link));
        let thread = std::thread::Builder::new()
            .name("memkv-client-io".to_owned())
            .spawn(move || driver.run());
        let thread = Mutex::new(Some(thread.map_err(BuildError::Thread)?));
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                link,
                thread,
            }),
            mac: std::marker::PhantomData,
        })
    }

    fn start<T>(
        &self,
        plan: Plan<'static>,
        trace: Option<TraceContext>,
        take: fn(Finished) -> T,
    ) -> Pending<T> {
        let promise = Arc::new(Promise::default());
        let command = Command::Start {
            plan,
            since: clock::now(),
            trace,
            promise: Arc::clone(&promise),
        };
        if let Err(Command::Start {
            mut plan, promise, ..
        }) = self.inner.link.send(command)
        {
            plan.fail(&OpError::Closed);
            promise.fulfil(Finished::Plan(plan));
        }
        Pending {
            promise: Some(promise),
            link: Arc::clone(&self.inner.link),
            take,
        }
    }

    /// The same verbs with other options than the client's defaults, for the calls that need them.
    pub fn with(&self, options: &CallOptions) -> AsyncCalls<'_, M> {
        AsyncCalls {
            client: self,
            options: *options,
        }
    }

    fn calls(&self) -> AsyncCalls<'_, M> {
        self.with(&CallOptions::default())
    }

    /// Reads the value of `key`; `None` is a miss.
    pub fn get(&self, key: impl Into<Vec<u8>>) -> Pending<Result<Option<Vec<u8>>, OpError>> {
        self.calls().get(key)
    }

    /// Reads the value of `key` with its version and attributes.
    pub fn get_value(&self, key: impl Into<Vec<u8>>) -> Pending<Result<Option<Value>, OpError>> {
        self.calls().get_value(key)
    }

    /// Reads the value of `key` into `buffer`, which comes back with the value's length; a miss gives it up.
    pub fn get_into(
        &self,
        key: impl Into<Vec<u8>>,
        buffer: Vec<u8>,
    ) -> Pending<Result<Option<Filled>, OpError>> {
        self.calls().get_into(key, buffer)
    }

    /// Stores `value` under `key` and returns its version.
    pub fn put(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Bytes<'static>>,
    ) -> Pending<Result<u64, OpError>> {
        self.calls().put(key, value)
    }

    /// Stores `value` under `key` with attributes, if `condition` holds.
    pub fn put_with(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Bytes<'static>>,
        attrs: Attrs,
        condition: Condition,
    ) -> Pending<Result<u64, OpError>> {
        self.calls().put_with(key, value, attrs, condition)
    }

    /// Removes `key`; false when it wasn't there.
    pub fn delete(&self, key: impl Into<Vec<u8>>) -> Pending<Result<bool, OpError>> {
        self.calls().delete(key)
    }

    /// Removes `keys`; one result each, in order.
    pub fn batch_delete(&self, keys: Vec<Vec<u8>>) -> Pending<Vec<Result<bool, OpError>>> {
        self.calls().batch_delete(keys)
    }

    /// Whether `key` is there.
    pub fn exists(&self, key: impl Into<Vec<u8>>) -> Pending<Result<bool, OpError>> {
        self.calls().exists(key)
    }

    /// Whether each of `keys` is there, in order.
    pub fn batch_exists(&self, keys: Vec<Vec<u8>>) -> Pending<Vec<Result<bool, OpError>>> {
        self.calls().batch_exists(keys)
    }

    /// Reads the values of `keys`; one result each, in order.
    pub fn batch_get(&self, keys: Vec<Vec<u8>>) -> Pending<Vec<Result<Option<Vec<u8>>, OpError>>> {
        self.calls().batch_get(keys)
    }

    /// As [`AsyncClient::batch_get`], with versions and attributes.
    pub fn batch_get_values(
        &self,
        keys: Vec<Vec<u8>>,
    ) -> Pending<Vec<Result<Option<Value>, OpError>>> {
        self.calls().batch_get_values(keys)
    }

    /// Reads values into buffers, which come back with the values' lengths.
    pub fn batch_get_into(
        &self,
        items: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Pending<Vec<Result<Option<Filled>, OpError>>> {
        self.calls().batch_get_into(items)
    }

    /// Stores `items` and returns their versions, in order. Not atomic: each entry succeeds or fails alone.
    pub fn batch_put(
        &self,
        items: Vec<(Vec<u8>, Bytes<'static>)>,
    ) -> Pending<Vec<Result<u64, OpError>>> {
        self.calls().batch_put(items)
    }

    /// Asks server `server`, by its index, for a sign of life; how long that took.
    ///
    /// # Panics
    /// If there is no such server.
    pub fn ping(&self, server: usize) -> Pending<Result<Duration, OpError>> {
        self.calls().ping(server)
    }

    /// The key figures of server `server`, by its index.
    ///
    /// # Panics
    /// If there is no such server.
    pub fn stat(&self, server: usize) -> Pending<Result<ServerStat, OpError>> {
        self.calls().stat(server)
    }

    /// Opens every connection now. Returns how many stand.
    pub fn warmup(&self) -> Pending<Result<usize, OpError>> {
        let promise = Arc::new(Promise::default());
        if self
            .inner
            .link
            .send(Command::WarmUp(Arc::clone(&promise)))
            .is_err()
        {
            promise.fulfil(Finished::WarmUp(Err(OpError::Closed)));
        }
        let take = |finished| match finished {
            Finished::WarmUp(result) => result,
            Finished::Plan(_) => Err(OpError::Closed),
        };
        Pending {
            promise: Some(promise),
            link: Arc::clone(&self.inner.link),
            take,
        }
    }

    /// As [`crate::Client::register_region`].
    ///
    /// # Errors
    /// As there.
    pub fn register_region(&self, address: usize, len: usize) -> Result<(), RegionError> {
        self.inner.shared.register_region(address, len)
    }

    /// As [`crate::Client::deregister_region`].
    ///
    /// # Errors
    /// As there.
    pub fn deregister_region(&self, address: usize, len: usize) -> Result<(), RegionError> {
        self.inner.shared.deregister_region(address, len)
    }

    /// What the client counts: connections by state, the transport in use, reads sent again.
    pub fn metrics(&self) -> &ClientMetrics {
        self.inner.shared.meter.metrics()
    }

    /// The servers, as configured.
    pub fn servers(&self) -> Vec<String> {
        self.inner.shared.servers()
    }

    /// The transport in use, the one asked for, and why they differ.
    pub fn transport(&self) -> &TransportState {
        &self.inner.shared.transport
    }

    /// Servers that call themselves otherwise than this client does.
    pub fn identity_mismatches(&self) -> Vec<IdentityMismatch> {
        self.inner.shared.router.mismatches()
    }

    /// Closes all connections and ends the I/O thread; calls under way fail. Blocks for milliseconds.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Inner {
    fn close(&self) {
        let _ = self.link.send(Command::Close);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // A panic there was reported by the hook already, and every promise fails on its own.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Finished {
    fn plan(self) -> Plan<'static> {
        match self {
            Self::Plan(plan) => plan,
            Self::WarmUp(_) => unreachable!("a call is fulfilled with its plan"),
        }
    }
}
