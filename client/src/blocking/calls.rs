//! The verbs themselves: plan, check out a lane, drive it, collect.

use std::sync::Arc;
use std::time::{Duration, Instant};

use memkv_proto::mac::{FrameMac, HmacSha256};
use memkv_proto::op::{Attrs, Condition, OpCode};
use memkv_telemetry::clock;

use super::{Client, IDLE_CHECK, Lane, Ops};
use crate::call::{CallOptions, ServerStat, Value};
use crate::error::{OpError, TransportCause};
use crate::plan::Plan;
use crate::pool::{CheckoutError, Load};
use crate::pump::Token;
use crate::pump::op::{BareReply, Bytes, Dest, Meta, Op};
use crate::router::Router;

/// The verbs of a [`Client`] under given options.
pub struct Calls<'c, M: FrameMac = HmacSha256> {
    pub(super) client: &'c Client<M>,
    pub(super) options: &'c CallOptions,
}

impl<M: FrameMac> Calls<'_, M> {
    fn deadline(&self) -> clock::Tick {
        self.client.shared.deadline(self.options)
    }

    fn router(&self) -> &Router {
        &self.client.shared.router
    }

    fn entries_max(&self) -> usize {
        self.client.shared.config.max_batch_size
    }

    /// See [`Client::get`].
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, OpError> {
        Ok(self.get_value(key)?.map(|value| value.bytes))
    }

    /// See [`Client::get_value`].
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn get_value(&self, key: &[u8]) -> Result<Option<Value>, OpError> {
        let items = [(Bytes::Borrowed(key), Dest::Vec(Vec::new()))];
        let plan = Plan::reads(
            self.router(),
            items,
            1,
            Load::Unknown,
            self.deadline(),
            self.options.namespace,
        );
        let found = one(self.run(plan).read())?;
        Ok(found.map(|(meta, bytes)| Value {
            bytes,
            version: meta.version,
            attrs: meta.attrs,
        }))
    }

    /// See [`Client::get_into`].
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn get_into(&self, key: &[u8], buffer: &mut [u8]) -> Result<Option<usize>, OpError> {
        let load = Load::of_bytes(buffer.len() as u64);
        let plan = Plan::reads(
            self.router(),
            [(Bytes::Borrowed(key), Dest::Slice(buffer))],
            1,
            load,
            self.deadline(),
            self.options.namespace,
        );
        Ok(one(self.run(plan).read())?.map(|(meta, _)| meta.len as usize))
    }

    /// See [`Client::put`].
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<u64, OpError> {
        self.put_with(key, value, self.attrs(), Condition::None)
    }

    fn attrs(&self) -> Attrs {
        Attrs {
            namespace: self.options.namespace,
            ..Attrs::default()
        }
    }

    /// See [`Client::put_with`].
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn put_with(
        &self,
        key: &[u8],
        value: &[u8],
        attrs: Attrs,
        condition: Condition,
    ) -> Result<u64, OpError> {
        let items = [(
            Bytes::Borrowed(key),
            Bytes::Borrowed(value),
            attrs,
            condition,
        )];
        one(self
            .run(Plan::writes(self.router(), items, 1, self.deadline()))
            .written())
    }

    /// See [`Client::delete`].
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn delete(&self, key: &[u8]) -> Result<bool, OpError> {
        one(self.batch_delete(&[key]))
    }

    /// See [`Client::batch_delete`].
    pub fn batch_delete<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<bool, OpError>> {
        self.keys(OpCode::Delete, keys)
    }

    /// See [`Client::exists`].
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn exists(&self, key: &[u8]) -> Result<bool, OpError> {
        one(self.batch_exists(&[key]))
    }

    /// See [`Client::batch_exists`].
    pub fn batch_exists<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<bool, OpError>> {
        self.keys(OpCode::Exists, keys)
    }

    fn keys<K: AsRef<[u8]>>(&self, code: OpCode, keys: &[K]) -> Vec<Result<bool, OpError>> {
        let keys = keys.iter().map(|key| Bytes::Borrowed(key.as_ref()));
        self.run(Plan::keys(
            self.router(),
            code,
            keys,
            self.deadline(),
            self.options.namespace,
        ))
        .found()
    }

    /// See [`Client::batch_get`].
    pub fn batch_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Result<Option<Vec<u8>>, OpError>> {
        let results = self.batch_get_values(keys).into_iter();
        results
            .map(|result| Ok(result?.map(|value| value.bytes)))
            .collect()
    }

    /// As [`Client::batch_get`], with versions and attributes.
    pub fn batch_get_values<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Vec<Result<Option<Value>, OpError>> {
        let items = keys
            .iter()
            .map(|key| (Bytes::Borrowed(key.as_ref()), Dest::Vec(Vec::new())));
        let plan = Plan::reads(
            self.router(),
            items,
            self.entries_max(),
            Load::Bulk,
            self.deadline(),
            self.options.namespace,
        );
        let results = self.run(plan).read().into_iter();
        let value = |(meta, bytes): (Meta, Vec<u8>)| Value {
            bytes,
            version: meta.version,
            attrs: meta.attrs,
        };
        results.map(|result| Ok(result?.map(value))).collect()
    }

    /// See [`Client::batch_get_into`].
    pub fn batch_get_into(
        &self,
        items: &mut [(&[u8], &mut [u8])],
    ) -> Vec<Result<Option<usize>, OpError>> {
        let bytes = items.iter().map(|(_, buffer)| buffer.len() as u64).sum();
        let items = items
            .iter_mut()
            .map(|(key, buffer)| (Bytes::Borrowed(key), Dest::Slice(buffer)));
        let plan = Plan::reads(
            self.router(),
            items,
            self.entries_max(),
            Load::of_bytes(bytes),
            self.deadline(),
            self.options.namespace,
        );
        let results = self.run(plan).read().into_iter();
        results
            .map(|result| Ok(result?.map(|(meta, _)| meta.len as usize)))
            .collect()
    }

    /// See [`Client::batch_put`].
    pub fn batch_put<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        items: &[(K, V)],
    ) -> Vec<Result<u64, OpError>> {
        self.writes(
            items
                .iter()
                .map(|(key, value)| (key.as_ref(), value.as_ref())),
        )
    }

    /// See [`Client::batch_put_views`].
    pub fn batch_put_views(&self, items: &[(&[u8], &[u8])]) -> Vec<Result<u64, OpError>> {
        self.writes(items.iter().copied())
    }

    fn writes<'a>(
        &self,
        items: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Vec<Result<u64, OpError>> {
        let attrs = self.attrs();
        let entry = |(key, value)| {
            (
                Bytes::Borrowed(key),
                Bytes::Borrowed(value),
                attrs,
                Condition::None,
            )
        };
        let plan = Plan::writes(
            self.router(),
            items.map(entry),
            self.entries_max(),
            self.deadline(),
        );
        self.run(plan).written()
    }

    /// See [`Client::ping`].
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn ping(&self, server: usize) -> Result<Duration, OpError> {
        let start = Instant::now();
        self.bare(server, OpCode::Ping).map(|_| start.elapsed())
    }

    /// See [`Client::stat`].
    ///
    /// # Errors
    /// See [`OpError`].
    pub fn stat(&self, server: usize) -> Result<ServerStat, OpError> {
        match self.bare(server, OpCode::Stat)? {
            BareReply::Stat(figures) => Ok(ServerStat(figures)),
            BareReply::Pong(_) => {
                unreachable!("the core answers a request with a reply of its kind")
            }
        }
    }

    fn bare(&self, server: usize, code: OpCode) -> Result<BareReply, OpError> {
        assert!(
            server < self.client.shared.config.servers.len(),
            "there is no server {server}"
        );
        self.run(Plan::bare(server, code, self.deadline()))
            .bare_reply()
    }

    /// Checks out a lane, drives the plan's ops to their end, and gives the lane back.
    fn run<'a>(&self, mut plan: Plan<'a>) -> Plan<'a> {
        if plan.ops.is_empty() {
            return plan;
        }
        let shared = &self.client.shared;
        let start = clock::now();
        let deadline = Instant::now() + clock_left(plan.ops[0].deadline);
        match self.client.pool.checkout(plan.load(), deadline) {
            Ok(mut checkout) => {
                let lane = &mut *checkout.lane;
                lane.scribe.begin(&mut plan.ops, self.options.trace, start);
                drive(lane, &mut plan.ops, start);
                for op in &mut plan.ops {
                    lane.scribe.finish(op);
                }
                shared.note(&mut checkout.lane.core);
                self.client.pool.checkin(checkout);
            }
            Err(CheckoutError::TimedOut) => plan.fail(&OpError::NoLane {
                lanes: shared.config.num_connections,
            }),
            Err(CheckoutError::Closed) => plan.fail(&OpError::Closed),
        }
        plan
    }
}

fn clock_left(deadline: clock::Tick) -> Duration {
    Duration::from_nanos(deadline.0.saturating_sub(clock::now().0))
}

fn drive<M: FrameMac>(lane: &mut Lane<M>, ops: &mut [Op<'_>], start: clock::Tick) {
    let core = &mut lane.core;
    let rested = clock::now().0.saturating_sub(lane.used.0);
    if rested > IDLE_CHECK.as_nanos() as u64 {
        // A failure to poll shows in the loop below.
        let _ = core.refresh(&mut Ops(&mut []));
    }
    for (idx, op) in ops.iter_mut().enumerate() {
        core.submit(Token(idx as u64), op, start);
    }
    let mut left = ops.len();
    let mut table = Ops(ops);
    while left > 0 {
        if let Err(error) = core.poll(&mut table, None) {
            core.close(&mut table, &TransportCause::Lost(Arc::new(error)));
        }
        while core.next_done().is_some() {
            left -= 1;
        }
    }
    lane.used = clock::now();
}

fn one<T>(mut results: Vec<Result<T, OpError>>) -> Result<T, OpError> {
    results.pop().unwrap_or(Err(OpError::Closed))
}
