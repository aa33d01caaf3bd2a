//! The loop behind the 4 MiB rows: the same threads, buffers and counts for every system.

use crate::peers::{memcached::MemcachedConnection, redis::RedisConnection};
use crate::process::{Server, cpu_seconds_self};
use crate::stats::Measure;
use anyhow::Result;
use std::sync::Barrier;
use std::time::Instant;

/// One connection to a store, driven by one thread.
pub(crate) trait Connection: Send {
    fn get(&mut self, key: &str, value: &mut [u8]) -> Result<()>;
    fn put(&mut self, key: &str, value: &[u8]) -> Result<()>;
}

impl Connection for RedisConnection {
    fn get(&mut self, key: &str, value: &mut [u8]) -> Result<()> {
        RedisConnection::get(self, key, value)
    }
    fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.set(key, value)
    }
}

impl Connection for MemcachedConnection {
    fn get(&mut self, key: &str, value: &mut [u8]) -> Result<()> {
        MemcachedConnection::get(self, key, value)
    }
    fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.set(key, value)
    }
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Get,
    Put,
}

/// How many distinct keys the loop walks: 64 × 4 MiB is larger than any cache here.
pub(crate) const KEYS: usize = 64;

pub(crate) fn key(idx: usize) -> String {
    format!("block/{:04}", idx % KEYS)
}

/// Stores every key once, so that reads hit and overwrites find warm memory.
pub(crate) fn fill(connection: &mut dyn Connection, bytes: usize) -> Result<()> {
    let value = vec![0x5a; bytes];
    (0..KEYS).try_for_each(|idx| connection.put(&key(idx), &value))
}

/// Each connection moves `ops_each` values of `bytes`, all at once; work counts bytes.
///
/// CPU is that of this process and of `server`. Threads start before the clock does.
pub(crate) fn run(
    direction: Direction,
    connections: &mut [Box<dyn Connection>],
    bytes: usize,
    ops_each: usize,
    server: &Server,
) -> Result<Measure> {
    let count = connections.len();
    let barrier = Barrier::new(count + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = connections
            .iter_mut()
            .enumerate()
            .map(|(thread_idx, connection)| {
                let barrier = &barrier;
                scope.spawn(move || -> Result<()> {
                    let mut value = vec![0x5a; bytes];
                    barrier.wait();
                    for op in 0..ops_each {
                        let key = key(thread_idx * KEYS / count + op);
                        match direction {
                            Direction::Get => connection.get(&key, &mut value)?,
                            Direction::Put => connection.put(&key, &value)?,
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let (own, theirs) = (cpu_seconds_self(), server.cpu_seconds());
        barrier.wait();
        let start = Instant::now();
        for worker in workers {
            worker.join().expect("a worker thread panicked")?;
        }
        Ok(Measure {
            seconds: start.elapsed().as_secs_f64(),
            work: (count * ops_each * bytes) as f64,
            cpu_seconds: cpu_seconds_self() - own + server.cpu_seconds() - theirs,
        })
    })
}
