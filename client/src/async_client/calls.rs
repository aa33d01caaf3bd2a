//! The verbs of the async client: plan, hand to the I/O thread, and what to make of the plan when it is done.

use std::time::Duration;

use memkv_proto::mac::{FrameMac, HmacSha256};
use memkv_proto::op::{Attrs, Condition, OpCode};

use super::{AsyncClient, Filled, Finished, Pending};
use crate::call::{CallOptions, ServerStat, Value};
use crate::error::OpError;
use crate::plan::Plan;
use crate::pool::Load;
use crate::pump::op::{BareReply, Bytes, Dest, Meta};
use crate::shared::Shared;

/// The verbs of an [`AsyncClient`] under given options.
pub struct AsyncCalls<'c, M: FrameMac = HmacSha256> {
    pub(super) client: &'c AsyncClient<M>,
    pub(super) options: CallOptions,
}

impl<M: FrameMac> AsyncCalls<'_, M> {
    fn shared(&self) -> &Shared {
        &self.client.inner.shared
    }

    fn start<T>(&self, plan: Plan<'static>, take: fn(Finished) -> T) -> Pending<T> {
        self.client.start(plan, self.options.trace, take)
    }

    fn attrs(&self) -> Attrs {
        Attrs {
            namespace: self.options.namespace,
            ..Attrs::default()
        }
    }

    /// See [`AsyncClient::get`].
    pub fn get(&self, key: impl Into<Vec<u8>>) -> Pending<Result<Option<Vec<u8>>, OpError>> {
        let items = vec![(key.into(), Dest::Vec(Vec::new()))];
        self.reads(items, Load::Unknown, |finished| {
            Ok(one(finished.plan().read())?.map(|(_, bytes)| bytes))
        })
    }

    /// See [`AsyncClient::get_value`].
    pub fn get_value(&self, key: impl Into<Vec<u8>>) -> Pending<Result<Option<Value>, OpError>> {
        let items = vec![(key.into(), Dest::Vec(Vec::new()))];
        self.reads(items, Load::Unknown, |finished| {
            Ok(one(finished.plan().read())?.map(value_of))
        })
    }

    /// See [`AsyncClient::get_into`].
    pub fn get_into(
        &self,
        key: impl Into<Vec<u8>>,
        buffer: Vec<u8>,
    ) -> Pending<Result<Option<Filled>, OpError>> {
        let load = Load::of_bytes(buffer.len() as u64);
        let items = vec![(key.into(), Dest::Owned(buffer))];
        self.reads(items, load, |finished| {
            Ok(one(finished.plan().read())?.map(filled))
        })
    }

    /// See [`AsyncClient::put`].
    pub fn put(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Bytes<'static>>,
    ) -> Pending<Result<u64, OpError>> {
        self.put_with(key, value, self.attrs(), Condition::None)
    }

    /// See [`AsyncClient::put_with`]. The name space is that of `attrs`.
    pub fn put_with(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Bytes<'static>>,
        attrs: Attrs,
        condition: Condition,
    ) -> Pending<Result<u64, OpError>> {
        let items = [(Bytes::Vec(key.into()), value.into(), attrs, condition)];
        let deadline = self.shared().deadline(&self.options);
        let plan = Plan::writes(&self.shared().router, items, 1, deadline);
        self.start(plan, |finished| one(finished.plan().written()))
    }

    /// See [`AsyncClient::delete`].
    pub fn delete(&self, key: impl Into<Vec<u8>>) -> Pending<Result<bool, OpError>> {
        self.keys(OpCode::Delete, vec![key.into()], |finished| {
            one(finished.plan().found())
        })
    }

    /// See [`AsyncClient::batch_delete`].
    pub fn batch_delete(&self, keys: Vec<Vec<u8>>) -> Pending<Vec<Result<bool, OpError>>> {
        self.keys(OpCode::Delete, keys, |finished| finished.plan().found())
    }

    /// See [`AsyncClient::exists`].
    pub fn exists(&self, key: impl Into<Vec<u8>>) -> Pending<Result<bool, OpError>> {
        self.keys(OpCode::Exists, vec![key.into()], |finished| {
            one(finished.plan().found())
        })
    }

    /// See [`AsyncClient::batch_exists`].
    pub fn batch_exists(&self, keys: Vec<Vec<u8>>) -> Pending<Vec<Result<bool, OpError>>> {
        self.keys(OpCode::Exists, keys, |finished| finished.plan().found())
    }

    fn keys<T>(&self, code: OpCode, keys: Vec<Vec<u8>>, take: fn(Finished) -> T) -> Pending<T> {
        let keys = keys.into_iter().map(Bytes::Vec);
        let (router, namespace) = (&self.shared().router, self.options.namespace);
        let deadline = self.shared().deadline(&self.options);
        self.start(Plan::keys(router, code, keys, deadline, namespace), take)
    }

    /// See [`AsyncClient::batch_get`].
    pub fn batch_get(&self, keys: Vec<Vec<u8>>) -> Pending<Vec<Result<Option<Vec<u8>>, OpError>>> {
        self.reads(anywhere(keys), Load::Bulk, |finished| {
            let results = finished.plan().read().into_iter();
            results
                .map(|result| Ok(result?.map(|(_, bytes)| bytes)))
                .collect()
        })
    }

    /// See [`AsyncClient::batch_get_values`].
    pub fn batch_get_values(
        &self,
        keys: Vec<Vec<u8>>,
    ) -> Pending<Vec<Result<Option<Value>, OpError>>> {
        self.reads(anywhere(keys), Load::Bulk, |finished| {
            let results = finished.plan().read().into_iter();
            results.map(|result| Ok(result?.map(value_of))).collect()
        })
    }

    /// See [`AsyncClient::batch_get_into`].
    pub fn batch_get_into(
        &self,
        items: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Pending<Vec<Result<Option<Filled>, OpError>>> {
        let bytes = items.iter().map(|(_, buffer)| buffer.len() as u64).sum();
        let items = items.into_iter();
        let items = items.map(|(key, buffer)| (key, Dest::Owned(buffer)));
        self.reads(items.collect(), Load::of_bytes(bytes), |finished| {
            let results = finished.plan().read().into_iter();
            results.map(|result| Ok(result?.map(filled))).collect()
        })
    }

    fn reads<T>(
        &self,
        items: Vec<(Vec<u8>, Dest<'static>)>,
        load: Load,
        take: fn(Finished) -> T,
    ) -> Pending<T> {
        let items = items.into_iter().map(|(key, dest)| (Bytes::Vec(key), dest));
        let plan = Plan::reads(
            &self.shared().router,
            items,
            self.shared().config.max_batch_size,
            load,
            self.shared().deadline(&self.options),
            self.options.namespace,
        );
        self.start(plan, take)
    }

    /// See [`AsyncClient::batch_put`].
    pub fn batch_put(
        &self,
        items: Vec<(Vec<u8>, Bytes<'static>)>,
    ) -> Pending<Vec<Result<u64, OpError>>> {
        let attrs = self.attrs();
        let entry = |(key, value)| (Bytes::Vec(key), value, attrs, Condition::None);
        let plan = Plan::writes(
            &self.shared().router,
            items.into_iter().map(entry),
            self.shared().config.max_batch_size,
            self.shared().deadline(&self.options),
        );
        self.start(plan, |finished| finished.plan().written())
    }

    /// See [`AsyncClient::ping`].
    ///
    /// # Panics
    /// If there is no such server.
    pub fn ping(&self, server: usize) -> Pending<Result<Duration, OpError>> {
        self.bare(server, OpCode::Ping, |finished| {
            let plan = finished.plan();
            let steps = plan.ops.first().map(|op| op.steps).unwrap_or_default();
            plan.bare_reply()?;
            let took = steps.settled.zip(steps.submitted);
            let took = took.map_or(0, |(end, start)| end.since(start));
            Ok(Duration::from_nanos(took))
        })
    }

    /// See [`AsyncClient::stat`].
    ///
    /// # Panics
    /// If there is no such server.
    pub fn stat(&self, server: usize) -> Pending<Result<ServerStat, OpError>> {
        self.bare(server, OpCode::Stat, |finished| {
            match finished.plan().bare_reply()? {
                BareReply::Stat(figures) => Ok(ServerStat(figures)),
                BareReply::Pong(_) => {
                    unreachable!("the core answers a request with a reply of its kind")
                }
            }
        })
    }

    fn bare<T>(&self, server: usize, code: OpCode, take: fn(Finished) -> T) -> Pending<T> {
        let count = self.shared().config.servers.len();
        assert!(server < count, "there is no server {server}");
        let deadline = self.shared().deadline(&self.options);
        self.start(Plan::bare(server, code, deadline), take)
    }
}

/// Reads that make room for what they find.
fn anywhere(keys: Vec<Vec<u8>>) -> Vec<(Vec<u8>, Dest<'static>)> {
    let keys = keys.into_iter();
    keys.map(|key| (key, Dest::Vec(Vec::new()))).collect()
}

fn value_of((meta, bytes): (Meta, Vec<u8>)) -> Value {
    Value {
        bytes,
        version: meta.version,
        attrs: meta.attrs,
    }
}

fn filled((meta, buffer): (Meta, Vec<u8>)) -> Filled {
    (buffer, meta.len as usize)
}

fn one<T>(mut results: Vec<Result<T, OpError>>) -> Result<T, OpError> {
    results.pop().unwrap_or(Err(OpError::Closed))
}
