//! The I/O thread of an async client: takes calls in, drives the core, fulfils promises.

use std::sync::Arc;

use memkv_proto::blocks::TraceContext;
use memkv_proto::mac::FrameMac;
use memkv_telemetry::clock::Tick;
use slab::Slab;

use super::{Command, Finished, Link, Promise};
use crate::error::{OpError, TransportCause};
use crate::meter::Scribe;
use crate::plan::Plan;
use crate::pump::op::Op;
use crate::pump::{Core, OpId, OpTable, Token};
use crate::shared::Shared;

/// The ops of all calls under way.
pub(super) struct Table(Slab<Slot>);

pub(super) struct Slot {
    op: Op<'static>,
    call: usize,
    place: usize,
}

impl OpTable<'static> for Table {
    fn op(&self, token: Token) -> Option<&Op<'static>> {
        self.0.get(token.0 as usize).map(|slot| &slot.op)
    }

    fn op_mut(&mut self, token: Token) -> Option<&mut Op<'static>> {
        self.0.get_mut(token.0 as usize).map(|slot| &mut slot.op)
    }
}

/// A call under way: its plan, whose ops are in the table and come back one by one.
struct Running {
    plan: Plan<'static>,
    promise: Arc<Promise>,
    ids: Vec<OpId>,
    back: Vec<Option<Op<'static>>>,
    left: usize,
}

/// What the I/O thread owns.
pub(super) struct Driver<M: FrameMac> {
    core: Core<M>,
    scribe: Scribe,
    shared: Arc<Shared>,
    link: Arc<Link>,
    table: Table,
    calls: Slab<Running>,
    warming: Vec<Arc<Promise>>,
}

impl<M: FrameMac> Driver<M> {
    pub(super) fn new(core: Core<M>, shared: Arc<Shared>, link: Arc<Link>) -> Self {
        let scribe = shared.meter.scribe();
        let (table, calls) = (Table(Slab::new()), Slab::new());
        Self {
            core,
            scribe,
            shared,
            link,
            table,
            calls,
            warming: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        while self.turn() {}
        self.end();
    }

    /// Takes in what callers ask and works until something happens; false when that was the end.
    fn turn(&mut self) -> bool {
        let commands = std::mem::take(&mut self.link.commands.lock().queue);
        for command in commands {
            if !self.apply(command) {
                return false;
            }
        }
        self.warm_up();
        let polled = self.core.poll(&mut self.table, None);
        self.reap();
        if let Err(error) = &polled {
            tracing::error!(%error, "the client's poller failed; closing the client");
        }
        polled.is_ok()
    }

    /// False when that was the last one.
    fn apply(&mut self, command: Command) -> bool {
        match command {
            Command::Start {
                plan,
                since,
                trace,
                promise,
            } => self.start(plan, since, trace, promise),
            Command::Cancel(promise) => {
                let call = self
                    .calls
                    .iter()
                    .find(|(_, call)| Arc::ptr_eq(&call.promise, &promise));
                let ids = call.map(|(_, call)| call.ids.clone()).unwrap_or_default();
                for id in ids {
                    self.core.cancel(&mut self.table, id);
                }
            }
            Command::WarmUp(promise) => self.warming.push(promise),
            Command::Close => return false,
        }
        true
    }

    fn start(
        &mut self,
        mut plan: Plan<'static>,
        since: Tick,
        trace: Option<TraceContext>,
        promise: Arc<Promise>,
    ) {
        self.scribe.begin(&mut plan.ops, trace, since);
        let ops = std::mem::take(&mut plan.ops);
        if ops.is_empty() {
            promise.fulfil(Finished::Plan(plan));
            return;
        }
        let left = ops.len();
        let entry = self.calls.vacant_entry();
        let mut ids = Vec::with_capacity(left);
        for (place, op) in ops.into_iter().enumerate() {
            let slot = self.table.0.insert(Slot {
                op,
                call: entry.key(),
                place,
            });
            ids.push(
                self.core
                    .submit(Token(slot as u64), &mut self.table.0[slot].op, since),
            );
        }
        let back = (0..left).map(|_| None).collect();
        entry.insert(Running {
            plan,
            promise,
            ids,
            back,
            left,
        });
    }

    fn reap(&mut self) {
        while let Some(token) = self.core.next_done() {
            let Slot {
                mut op,
                call,
                place,
            } = self.table.0.remove(token.0 as usize);
            self.scribe.finish(&mut op);
            let running = &mut self.calls[call];
            running.back[place] = Some(op);
            running.left -= 1;
            if running.left == 0 {
                let mut done = self.calls.remove(call);
                done.plan.ops = done.back.into_iter().flatten().collect();
                done.promise.fulfil(Finished::Plan(done.plan));
            }
        }
        self.shared.note(&mut self.core);
    }

    fn warm_up(&mut self) {
        if self.warming.is_empty() {
            return;
        }
        let result = match self.core.warm_up(&mut self.table) {
            Ok(false) => return,
            Ok(true) => Ok(self.core.connections_up()),
            Err(error) => Err(error),
        };
        for promise in self.warming.drain(..) {
            promise.fulfil(Finished::WarmUp(result.clone()));
        }
    }

    /// Fails whatever is under way or comes later.
    fn end(&mut self) {
        let mut commands = self.link.commands.lock();
        commands.closed = true;
        let rest = std::mem::take(&mut commands.queue);
        drop(commands);
        for command in rest {
            self.apply(command);
        }
        self.core
            .close(&mut self.table, &TransportCause::ClientClosed);
        self.reap();
        for promise in self.warming.drain(..) {
            promise.fulfil(Finished::WarmUp(Err(OpError::Closed)));
        }
    }
}
