//! Exists and Delete: requests about keys that move no values.

use std::rc::Rc;

use memkv_engine::{DeleteError, IoTimes, Step};
use memkv_proto::limits::check_key;
use memkv_proto::op::{OpCode, Outcome};
use memkv_proto::reply::WriteResult;
use memkv_proto::request::KeyEntries;
use memkv_telemetry::clock;
use memkv_telemetry::{OutcomeLabel, Stage, Tier};

use super::request::{EntryOf, Request};
use super::{Connection, Purpose};
use crate::status::Failure;

impl Connection {
    pub(super) fn exists(&self, mut request: Request, keys: &KeyEntries<'_>) {
        /// Keys per engine call: enough to hide memory latency, and on the stack.
        const GROUP: usize = 64;
        let started = clock::now();
        if let Some(code) = request.expired(started) {
            self.refuse(request, Failure::plain(code), "");
            return;
        }
        let mut control = self.thread.buffers.take(0);
        let mut outcomes = [Outcome::Miss; memkv_proto::limits::BATCH_ENTRIES_MAX];
        let mut keys_left = keys.iter();
        let (mut count, mut hits) = (0, 0);
        loop {
            let mut group = [&[][..]; GROUP];
            let mut found = [false; GROUP];
            let mut len = 0;
            for key in keys_left.by_ref().take(GROUP) {
                group[len] = key;
                len += 1;
            }
            if len == 0 {
                break;
            }
            self.thread
                .engine
                .exists(keys.namespace(), &group[..len], &mut found[..len]);
            for (key, found) in group[..len].iter().zip(found) {
                outcomes[count] = match check_key(key) {
                    Err(code) => {
                        request.count(&self.thread.shared, Outcome::Error(code), Tier::None);
                        Outcome::Error(code)
                    }
                    Ok(()) if found => {
                        hits += 1;
                        Outcome::Ok
                    }
                    Ok(()) => Outcome::Miss,
                };
                count += 1;
            }
        }
        let errors = outcomes[..count]
            .iter()
            .filter(|o| matches!(o, Outcome::Error(_)))
            .count();
        let misses = count as u32 - hits - errors as u32;
        request.timeline.count(Tier::None, OutcomeLabel::Ok, hits);
        request
            .timeline
            .count(Tier::None, OutcomeLabel::Miss, misses);
        request.timeline.stamp(Stage::Index, started, clock::now());
        let blocks = self.blocks(&request);
        let rows = outcomes[..count].iter().copied();
        let head =
            memkv_proto::reply::encode_outcomes(&mut control, OpCode::Exists, &blocks, 0, rows);
        let mut state = self.state.borrow_mut();
        let key = state.requests.insert(request);
        self.push_encoded(&mut state, key, head, control);
    }

    pub(super) fn delete(self: &Rc<Self>, mut request: Request, keys: &KeyEntries<'_>) {
        let started = clock::now();
        if let Some(code) = request.expired(started) {
            self.refuse(request, Failure::plain(code), "");
            return;
        }
        request.unresolved = keys.len() as u32;
        let none = WriteResult {
            outcome: Outcome::Miss,
            version: 0,
        };
        request.results = vec![none; keys.len()];
        let key_of = self.state.borrow_mut().requests.insert(request);
        for (entry_idx, key) in keys.iter().enumerate() {
            let entry = EntryOf {
                request: key_of,
                entry_idx: entry_idx as u32,
            };
            if let Err(code) = check_key(key) {
                self.resolve(entry, Outcome::Error(code), 0, Tier::None);
                continue;
            }
            let purpose = Purpose::Delete(self.clone(), entry);
            let token = self.thread.pending.borrow_mut().open(purpose);
            match self
                .thread
                .engine
                .delete(&self.thread.queue, token, keys.namespace(), key)
            {
                Ok(Step::Pending) => {}
                Ok(Step::Ready(there)) => {
                    self.thread.pending.borrow_mut().close(token);
                    self.deleted(entry, Ok(there), &IoTimes::default());
                }
                Err(error) => {
                    self.thread.pending.borrow_mut().close(token);
                    self.deleted(entry, Err(error), &IoTimes::default());
                }
            }
        }
    }

    /// One key of a Delete is done.
    pub(super) fn deleted(&self, entry: EntryOf, result: Result<bool, DeleteError>, io: &IoTimes) {
        let outcome = {
            let mut state = self.state.borrow_mut();
            let Some(request) = state.requests.get_mut(entry.request) else {
                return;
            };
            request.stamp_io(io);
            match result {
                Ok(true) => Outcome::Ok,
                Ok(false) => Outcome::Miss,
                Err(error) => {
                    let timeline = Some(&request.timeline);
                    let shared = &self.thread.shared;
                    let failure = shared.log_failure((&error).into(), &error, timeline);
                    request.failed(failure)
                }
            }
        };
        let tier = if io.io_count > 0 {
            Tier::Drive
        } else {
            Tier::Ram
        };
        self.resolve(entry, outcome, 0, tier);
    }
}
