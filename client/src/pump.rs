//! The client's core: submit requests, poll for results. It has no thread, takes no lock and blocks only in [`Core::poll`],
//! for as long as it is told.
//!
//! ```text
//!   submit(token, op) ─► queue of a connection ─► sealed, written ─► reply, in parts, in any order ─► token in `done`
//!                            │ connect, handshake        │ deadline: Cancel ─► acknowledged, or the connection is closed
//! ```
//!
//! What it promises:
//! * Requests on one connection are pipelined; replies may come in any order and in parts.
//! * An op is reported once, and only when nobody works on it any more: answered, never sent, cancelled with the server's
//!   acknowledgement, or its connection closed. So whoever sends again after a report can't be overtaken by the first try.
//! * It keeps no reference to a caller's memory between polls (see [`op`]).
//!
//! What it doesn't do: place keys, split batches, retry writes. The facades do the former; nobody does the latter.

mod conn;
mod inbound;
mod job;
pub mod op;
mod outbound;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use memkv_proto::mac::{FrameMac, HmacSha256};
use memkv_proto::session::AuthKey;
use memkv_telemetry::ConnectionState;
use memkv_telemetry::clock::{self, Tick};

use crate::error::{OpError, TransportCause};
use crate::pool::Load;
use conn::Conn;
use job::{Jobs, Phase};
pub use job::{OpId, Token};
use op::Op;

/// Where a core finds the ops that it works on. It asks only for tokens that were submitted and not yet reported.
pub trait OpTable<'a> {
    /// The op of `token`.
    fn op(&self, token: Token) -> Option<&Op<'a>>;
    /// The op of `token`, to be changed.
    fn op_mut(&mut self, token: Token) -> Option<&mut Op<'a>>;
}

/// One server as a core reaches it.
#[derive(Debug, Clone)]
pub struct CoreServer {
    /// `host:port`.
    pub name: Arc<str>,
    /// What its keys are placed by, where `node_ids` says so, else empty: told to it, so that both sides
    /// notice where it is another's.
    pub identity: String,
    /// The source address.
    pub bind: Option<IpAddr>,
}

/// What a core needs to know.
#[derive(Clone)]
pub struct CoreConfig {
    /// The servers; [`Op::server`] is an index into them.
    pub servers: Vec<CoreServer>,
    /// The shared key.
    pub auth_key: AuthKey,
    /// Whether every payload must carry a MAC.
    pub payload_mac: bool,
    /// Within this a connection must stand.
    pub connect_timeout: Duration,
    /// Within this a cancellation must be acknowledged.
    pub fence_timeout: Duration,
    /// How often a read that lost its connection is sent again.
    pub retries: u32,
    /// Connections per server for small ops alone; 0 lets them share the bulk ones.
    pub small_connections: usize,
    /// Connections per server for bulk.
    pub bulk_connections: usize,
    /// Requests that one connection may have unanswered; more wait here.
    pub window: usize,
}

/// News of a connection that whoever owns the core may want to count or log.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A connection has another state; one that is new had none.
    Moved {
        /// Index of the server.
        server: usize,
        /// Its state before.
        from: Option<ConnectionState>,
        /// Its state now.
        to: ConnectionState,
    },
    /// A read was sent again after its connection was lost.
    Resent,
    /// A connection stands.
    Connected {
        /// Index of the server.
        server: usize,
        /// What it calls itself.
        node_id: String,
        /// Its clock minus ours, in nanoseconds.
        clock_skew_ns: i64,
        /// How long it took, handshake included.
        took: Duration,
    },
    /// A connection that stood is gone, or one that was asked for did not come about.
    Disconnected {
        /// Index of the server.
        server: usize,
        /// Why.
        cause: TransportCause,
        /// Whether it had stood.
        stood: bool,
    },
}

/// The core. See the module's documentation.
pub struct Core<M: FrameMac = HmacSha256> {
    poll: mio::Poll,
    events: mio::Events,
    conns: Vec<Conn<M>>,
    state: State,
}

/// All of a core but its connections, so that a connection can be worked on with the rest at hand.
pub(crate) struct State {
    config: Arc<CoreConfig>,
    registry: mio::Registry,
    jobs: Jobs,
    timers: BTreeSet<(Tick, OpId)>,
    done: VecDeque<Token>,
    notices: VecDeque<Notice>,
    scratch: Vec<OpId>,
}

const WAKER: mio::Token = mio::Token(usize::MAX);

impl<M: FrameMac> Core<M> {
    /// A core without any connection yet.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    ///
    /// # Panics
    /// If `bulk_connections` or `window` is 0.
    pub fn new(config: Arc<CoreConfig>) -> io::Result<Self> {
        assert!(
            config.bulk_connections > 0 && config.window > 0,
            "a core needs a connection to work with"
        );
        let poll = mio::Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let per_server = config.small_connections + config.bulk_connections;
        let conns = (0..config.servers.len() * per_server)
            .map(|idx| Conn::new(idx, idx / per_server))
            .collect();
        let state = State {
            config,
            registry,
            jobs: Jobs::default(),
            timers: BTreeSet::new(),
            done: VecDeque::new(),
            notices: VecDeque::new(),
            scratch: Vec::new(),
        };
        Ok(Self {
            poll,
            events: mio::Events::with_capacity(128),
            conns,
            state,
        })
    }

    /// Something that ends a [`Core::poll`] from another thread.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn waker(&self) -> io::Result<mio::Waker> {
        mio::Waker::new(self.poll.registry(), WAKER)
    }

    /// Queues `op`, which the table holds as `token` from now until the token is reported. Nothing is sent before the next
    /// [`Core::poll`]. `since` is when its call began, for its record.
    pub fn submit(&mut self, token: Token, op: &mut Op<'_>, since: Tick) -> OpId {
        let conn = self.pick(op.server, op.load);
        op.steps.submitted = Some(since);
        let id = self.state.jobs.insert(token, conn, op.deadline);
        self.state.timers.insert((op.deadline, id));
        self.conns[conn].enqueue(id);
        id
    }

    /// The connection for an op: its own lane, and in it the one with the least to do.
    fn pick(&self, server: usize, load: Load) -> usize {
        let (small, bulk) = (
            self.state.config.small_connections,
            self.state.config.bulk_connections,
        );
        let first = server * (small + bulk);
        let lane = match load {
            Load::Small if small > 0 => first..first + small,
            _ => first + small..first + small + bulk,
        };
        lane.min_by_key(|&conn| self.conns[conn].load())
            .expect("a lane has at least one connection")
    }

    /// Works on what is queued and what arrived, waiting until `until` for something to happen where nothing did. Returns
    /// as soon as a token is done; [`Core::next_done`] hands it out.
    ///
    /// # Errors
    /// When waiting itself fails; a broken connection is the outcome of its ops, not an error of the core.
    pub fn poll<'a, T: OpTable<'a>>(
        &mut self,
        table: &mut T,
        until: Option<Tick>,
    ) -> io::Result<()> {
        self.pump(table);
        self.expire(table, clock::now());
        let now = clock::now();
        let timeout = if !self.state.done.is_empty() || self.conns.iter().any(Conn::goes_on) {
            Some(Duration::ZERO)
        } else {
            let conn_timer = self.conns.iter().filter_map(Conn::timer).min();
            let job_timer = self.state.timers.first().map(|(tick, _)| *tick);
            let next = [until, conn_timer, job_timer].into_iter().flatten().min();
            next.map(|next| Duration::from_nanos(next.0.saturating_sub(now.0)))
        };
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in self.events.iter().filter(|event| event.token() != WAKER) {
            let Some(conn) = self.conns.get_mut(event.token().0) else {
                continue;
            };
            conn.on_event(event);
        }
        self.pump(table);
        self.expire(table, clock::now());
        Ok(())
    }

    fn pump<'a, T: OpTable<'a>>(&mut self, table: &mut T) {
        for conn in &mut self.conns {
            if conn.wants_work() {
                conn.work(&mut self.state, table);
            }
        }
    }

    /// Gives up what is overdue.
    fn expire<'a, T: OpTable<'a>>(&mut self, table: &mut T, now: Tick) {
        while let Some(&(tick, id)) = self.state.timers.first().filter(|(tick, _)| *tick <= now) {
            self.state.timers.remove(&(tick, id));
            self.give_up(table, id, TransportCause::DeadlineFenced, now);
        }
        for conn in &mut self.conns {
            if conn.timer().is_some_and(|timer| timer <= now) {
                let limit = self.state.config.connect_timeout;
                conn.fail(
                    &mut self.state,
                    table,
                    TransportCause::ConnectTimeout(limit),
                );
            }
        }
    }

    /// First time: withdraw what wasn't sent, ask the server to stop on what was. Second time: close the connection.
    fn give_up<'a, T: OpTable<'a>>(
        &mut self,
        table: &mut T,
        id: OpId,
        cause: TransportCause,
        now: Tick,
    ) {
        let Some(job) = self.state.jobs.get_mut(id) else {
            return;
        };
        let conn = &mut self.conns[job.conn];
        match &job.phase {
            Phase::Queued => {
                conn.withdraw(id);
                let cause = match cause {
                    TransportCause::DeadlineFenced => TransportCause::DeadlineUnsent,
                    other => other,
                };
                self.state.finish_with(table, id, conn.server(), cause);
            }
            Phase::Sent => {
                let until = Tick(now.0 + self.state.config.fence_timeout.as_nanos() as u64);
                job.phase = Phase::Fencing { cause, until };
                self.state.timers.insert((until, id));
                conn.cancel(id);
                if conn.wants_work() {
                    conn.work(&mut self.state, table);
                }
            }
            Phase::Fencing { .. } => {
                conn.fail(&mut self.state, table, TransportCause::ClosedForFence)
            }
        }
    }

    /// Cancels an op: it is reported as cancelled once that is safe, or as answered if the answer was faster.
    pub fn cancel<'a, T: OpTable<'a>>(&mut self, table: &mut T, id: OpId) {
        let Some(job) = self.state.jobs.get(id) else {
            return;
        };
        if matches!(job.phase, Phase::Fencing { .. }) {
            return;
        }
        self.state.timers.remove(&(job.deadline, id));
        self.give_up(table, id, TransportCause::Cancelled, clock::now());
    }

    /// The next op that is settled and that nobody works on any more.
    pub fn next_done(&mut self) -> Option<Token> {
        self.state.done.pop_front()
    }

    /// The next news of a connection.
    pub fn next_notice(&mut self) -> Option<Notice> {
        self.state.notices.pop_front()
    }

    /// How many ops are submitted and not yet done.
    pub fn in_flight(&self) -> usize {
        self.state.jobs.len()
    }

    /// Starts every connection that doesn't stand; true once all do. Poll until then.
    ///
    /// # Errors
    /// The first failure since the last call.
    pub fn warm_up<'a, T: OpTable<'a>>(&mut self, table: &mut T) -> Result<bool, OpError> {
        for conn in &mut self.conns {
            if let Some(cause) = conn.take_failure() {
                let server = Arc::clone(&self.state.config.servers[conn.server()].name);
                return Err(OpError::Transport { server, cause });
            }
            conn.want_up();
            conn.work(&mut self.state, table);
        }
        Ok(self.conns.iter().all(Conn::is_up))
    }

    /// How many connections stand.
    pub fn connections_up(&self) -> usize {
        self.conns.iter().filter(|conn| conn.is_up()).count()
    }

    /// Closes every connection; ops in flight fail with `cause`.
    pub fn close<'a, T: OpTable<'a>>(&mut self, table: &mut T, cause: &TransportCause) {
        for conn in &mut self.conns {
            conn.forget_queue(&mut self.state, table, cause);
            conn.fail(&mut self.state, table, cause.clone());
        }
    }

    /// Looks whether idle connections were closed by the server meanwhile, so that the next op opens a new one instead of
    /// failing on the old. One system call.
    ///
    /// # Errors
    /// As [`Core::poll`].
    pub fn refresh<'a, T: OpTable<'a>>(&mut self, table: &mut T) -> io::Result<()> {
        self.poll(table, Some(Tick(0)))
    }
}

impl State {
    /// Reports a job whose op is settled.
    fn finish(&mut self, id: OpId) {
        if let Some(job) = self.jobs.remove(id) {
            let tick = match job.phase {
                Phase::Fencing { until, .. } => until,
                Phase::Queued | Phase::Sent => job.deadline,
            };
            self.timers.remove(&(tick, id));
            self.done.push_back(job.token);
        }
    }

    /// Settles what is left of a job's op with `cause`, and reports it.
    fn finish_with<'a, T: OpTable<'a>>(
        &mut self,
        table: &mut T,
        id: OpId,
        server: usize,
        cause: TransportCause,
    ) {
        if let Some(op) = self.jobs.get(id).and_then(|job| table.op_mut(job.token)) {
            let server = Arc::clone(&self.config.servers[server].name);
            op.fail_unsettled(&OpError::Transport { server, cause });
            op.steps.settled = Some(clock::now());
        }
        self.finish(id);
    }
}
