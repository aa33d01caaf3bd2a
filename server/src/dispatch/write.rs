//! Put and BatchWrite: memory for each value before its bytes, its checksum as they arrive, its commit when they are there.
//!
//! Entries are taken one after the other as their bytes follow each other in the payload ([`Intake`]), so a batch never
//! holds more than one lease that isn't committed. An entry that can't be stored (no memory in time, too large, a bad key,
//! a store that is full) has its bytes skipped and its own outcome; the others go on.
//!
//! Where payloads carry a MAC, nothing is committed before the MAC of the whole frame has been checked, and the leases
//! are kept that long.

mod intake;

use std::rc::Rc;

use memkv_engine::{Attrs, Class, Committed, IoTimes, PutError, Step, WriteLease};
use memkv_proto::op::{self, ErrorCode, Outcome, PutEntry};
use memkv_proto::reply::WriteResult;
use memkv_proto::request::WriteEntries;
use memkv_telemetry::clock;
use memkv_telemetry::{Stage, Tier};

use super::request::{Begun, EntryOf, Request};
use super::{Connection, Purpose};
use crate::admission::Charge;

pub(crate) use intake::{Intake, Slot, sleep_until};

/// One entry that is being committed.
#[derive(Debug)]
pub(crate) struct Committing {
    entry: EntryOf,
    charged: Charge,
}

/// One entry of a write, with its key in the intake's copy of the keys.
#[derive(Debug)]
struct Plan {
    key: (usize, usize),
    attrs: op::Attrs,
    condition: op::Condition,
    len: u64,
    crc: u32,
    refusal: Option<ErrorCode>,
}

impl Connection {
    pub(crate) fn begin_write(
        self: &Rc<Self>,
        mut request: Request,
        payload_mac: bool,
        entries: &WriteEntries<'_>,
    ) -> Begun {
        let now = clock::now();
        let (mut keys, mut plans) = (
            self.thread.buffers.take(0),
            Vec::with_capacity(entries.len()),
        );
        for entry in entries {
            let start = keys.len();
            let refusal = entry.check().err();
            if refusal.is_none() {
                keys.extend_from_slice(entry.key);
            }
            let PutEntry {
                attrs,
                condition,
                value_len,
                crc,
                ..
            } = entry;
            let key = (start, keys.len());
            plans.push(Plan {
                key,
                attrs,
                condition,
                len: value_len,
                crc,
                refusal,
            });
        }
        request.unresolved = plans.len() as u32;
        let none = WriteResult {
            outcome: Outcome::Miss,
            version: 0,
        };
        request.results = vec![none; plans.len()];
        if let Some(first) = plans.first().filter(|plan| plan.refusal.is_none()) {
            let key = &keys[first.key.0..first.key.1];
            request.timeline.key_hash = Some(self.thread.shared.key_hash(key));
        }
        let request = self.state.borrow_mut().requests.insert(request);
        let intake = Intake::new(self, request, keys, plans, payload_mac, now);
        Begun::Payload(Box::new(intake))
    }

    /// A put is in the store, or isn't.
    pub(crate) fn committed(
        &self,
        committing: Committing,
        result: Result<Committed, PutError>,
        io: &IoTimes,
    ) {
        let (outcome, version) = {
            let mut state = self.state.borrow_mut();
            if state.closed {
                return;
            }
            state.account.release(committing.charged);
            let Some(request) = state.requests.get_mut(committing.entry.request) else {
                return;
            };
            request.stamp_io(io);
            match result {
                Ok(Committed { version }) => (Outcome::Ok, version),
                Err(error) => {
                    let timeline = Some(&request.timeline);
                    let shared = &self.thread.shared;
                    let failure = shared.log_failure((&error).into(), &error, timeline);
                    (request.failed(failure), 0)
                }
            }
        };
        let tier = if self.thread.shared.stores_on_drives() {
            Tier::Drive
        } else {
            Tier::Ram
        };
        self.resolve(committing.entry, outcome, version, tier);
    }

    fn commit(self: &Rc<Self>, committing: Committing, lease: WriteLease, crc: u32) {
        let thread = &self.thread;
        let entry = committing.entry;
        let purpose = Purpose::Commit(self.clone(), committing);
        let token = thread.pending.borrow_mut().open(purpose);
        let started = clock::now();
        let result = match lease.commit(crc, &thread.queue, token) {
            Ok(Step::Pending) => return,
            Ok(Step::Ready(committed)) => Ok(committed),
            Err(error) => Err(error),
        };
        let Some(Purpose::Commit(_, committing)) = thread.pending.borrow_mut().close(token) else {
            return;
        };
        if let Some(request) = self.state.borrow_mut().requests.get_mut(entry.request) {
            request.timeline.stamp(Stage::Index, started, clock::now());
        }
        self.committed(committing, result, &IoTimes::default());
    }
}

fn engine_attrs(attrs: &op::Attrs) -> Attrs {
    Attrs {
        type_tag: attrs.type_tag,
        flags: attrs.flags,
        expiry_ms: attrs.expiry_ms,
        class: match attrs.class {
            op::Class::Evictable => Class::Evictable,
            op::Class::Durable => Class::Durable,
        },
    }
}
