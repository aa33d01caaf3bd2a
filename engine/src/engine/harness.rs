//! Blocking calls for tests: one queue, one call at a time.

use std::time::Duration;

use crate::{
    Attrs, Committed, Completion, CompletionQueue, CompletionResult, Condition, DeleteError,
    Engine, EngineConfig, EngineMetrics, GetError, Put, PutError, ReadLease, Step, Token,
    WriteLease,
};

pub(crate) struct Client {
    pub(crate) engine: Engine,
    pub(crate) queue: CompletionQueue,
}

/// Bytes that tell which value of which key they are.
pub(crate) fn value_of(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

pub(crate) fn crc_of(bytes: &[u8]) -> u32 {
    crate::segment_log::bytes::crc_of(&[], &[bytes])
}

impl Client {
    pub(crate) fn open(config: EngineConfig) -> Self {
        Self::new(Engine::open(config, EngineMetrics::detached()).expect("engine opens"))
    }

    pub(crate) fn new(engine: Engine) -> Self {
        let queue = engine.completion_queue(64).expect("queue");
        Self { engine, queue }
    }

    pub(crate) fn wait(&self) -> Completion {
        let mut out = Vec::new();
        while out.is_empty() {
            assert!(
                self.queue.wait(Duration::from_secs(20)).expect("poll"),
                "no completion"
            );
            self.queue.drain(&mut out);
        }
        assert_eq!(out.len(), 1, "one call at a time");
        out.remove(0)
    }

    pub(crate) fn reserve(&self, put: &Put<'_>) -> Result<WriteLease, PutError> {
        match self.engine.reserve(&self.queue, Token(1), put)? {
            Step::Ready(lease) => Ok(lease),
            Step::Pending => match self.wait().result {
                CompletionResult::Reserved(lease) => lease,
                other => panic!("{other:?}"),
            },
        }
    }

    pub(crate) fn put_with(
        &self,
        namespace: u32,
        key: &[u8],
        value: &[u8],
        attrs: Attrs,
        condition: Condition,
    ) -> Result<Committed, PutError> {
        let put = Put {
            namespace,
            key,
            len: value.len() as u64,
            attrs,
            condition,
        };
        let mut lease = self.reserve(&put)?;
        loop {
            let window = lease.window();
            lease.copy_from(
                window.start,
                &value[window.start as usize..window.end as usize],
            );
            if window.end == lease.len() {
                break;
            }
            lease = match lease.advance(&self.queue, Token(4))? {
                Step::Ready(lease) => lease,
                Step::Pending => match self.wait().result {
                    CompletionResult::Advanced(lease) => lease?,
                    other => panic!("{other:?}"),
                },
            };
        }
        match lease.commit(crc_of(value), &self.queue, Token(2))? {
            Step::Ready(committed) => Ok(committed),
            Step::Pending => match self.wait().result {
                CompletionResult::Committed(committed) => committed,
                other => panic!("{other:?}"),
            },
        }
    }

    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> Result<Committed, PutError> {
        self.put_with(0, key, value, Attrs::default(), Condition::None)
    }

    pub(crate) fn lease(&self, namespace: u32, key: &[u8]) -> Result<Option<ReadLease>, GetError> {
        match self.engine.get(&self.queue, Token(3), namespace, key)? {
            Step::Ready(lease) => Ok(lease),
            Step::Pending => match self.wait().result {
                CompletionResult::Got(lease) => lease,
                other => panic!("{other:?}"),
            },
        }
    }

    pub(crate) fn get_in(&self, namespace: u32, key: &[u8]) -> Result<Option<Vec<u8>>, GetError> {
        let Some(mut lease) = self.lease(namespace, key)? else {
            return Ok(None);
        };
        let (len, crc) = (lease.len(), lease.crc());
        let mut value = Vec::new();
        loop {
            value.extend(lease.pieces().flatten());
            assert_eq!(value.len() as u64, lease.window().end);
            if lease.window().end == len {
                break;
            }
            lease = match lease.advance(&self.queue, Token(5))? {
                Step::Ready(lease) => lease,
                Step::Pending => match self.wait().result {
                    CompletionResult::Got(lease) => lease?.expect("advance has no miss"),
                    other => panic!("{other:?}"),
                },
            };
        }
        assert_eq!(
            crc,
            crc_of(&value),
            "the value's bytes are those that were put"
        );
        Ok(Some(value))
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.get_in(0, key).expect("get")
    }

    pub(crate) fn delete(&self, key: &[u8]) -> Result<bool, DeleteError> {
        match self.engine.delete(&self.queue, Token(6), 0, key)? {
            Step::Ready(was) => Ok(was),
            Step::Pending => match self.wait().result {
                CompletionResult::Deleted(was) => was,
                other => panic!("{other:?}"),
            },
        }
    }

    pub(crate) fn exists(&self, key: &[u8]) -> bool {
        let mut out = [false];
        self.engine.exists(0, &[key], &mut out);
        out[0]
    }
}
