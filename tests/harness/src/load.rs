//! Clients that keep a server busy with everything it can do, until they are dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use memkv_client::{Attrs, Client, ClientConfig, Condition, ErrorCode, OpError};
use memkv_settings::AuthKey;

/// A client's configuration for one server under test.
pub fn config(address: SocketAddr) -> ClientConfig {
    ClientConfig::new([address.to_string()], AuthKey::new(crate::server::KEY))
}

/// Threads that put and get; they end, and panic if an operation did what it mustn't, on drop.
pub struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Every kind of operation with every outcome, over values of 100 bytes to 1 MiB, from
    /// `threads` threads of one client.
    pub fn mixed(client: Client, threads: usize) -> Load {
        let client = Arc::new(client);
        Load::start(threads, move |thread| {
            let client = Arc::clone(&client);
            let mut round = 0u64;
            move || {
                mixed_round(&client, thread, round);
                round += 1;
            }
        })
    }

    /// Sessions with a key that isn't the server's.
    pub fn with_wrong_key(address: SocketAddr) -> Load {
        Load::start(1, move |_| {
            move || {
                let mut config = ClientConfig::new([address.to_string()], AuthKey::new([9; 32]));
                config.num_connections = 1;
                let client = Client::new(config).expect("a client can be made");
                client
                    .get(b"key")
                    .expect_err("the server lets nobody in with another key");
            }
        })
    }

    /// Threads that each call what `make` gave them until they are stopped.
    pub fn start<F: FnMut() + Send + 'static>(threads: usize, make: impl Fn(usize) -> F) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let spawn = |thread| {
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            let mut round = make(thread);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    round();
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..threads).map(spawn).collect();
        Load {
            stop,
            rounds,
            threads,
        }
    }

    /// How often a round was done so far, over all threads.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let result = thread.join();
            if let Err(panic) = result
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Values are told from the round and their number, so that reads can be checked.
fn value(round: u64, idx: u64) -> Vec<u8> {
    let sizes = [100, 1 << 10, 64 << 10, 300 << 10, 1 << 20];
    let size = sizes[usize::try_from(round + idx).expect("small") % sizes.len()];
    vec![(round ^ idx) as u8; size]
}

/// What was asked, unless the server was too busy: a small pool turns work away under load.
fn unless_busy<T>(result: Result<T, OpError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(OpError::Server {
            code: ErrorCode::Busy,
            ..
        }) => None,
        Err(error) => panic!("{error:?}"),
    }
}

fn mixed_round(client: &Client, thread: usize, round: u64) {
    let key = |idx: u64| format!("{thread}/{round}/{idx}").into_bytes();
    let items: Vec<(Vec<u8>, Vec<u8>)> = (0..4).map(|idx| (key(idx), value(round, idx))).collect();
    for stored in client.batch_put(&items) {
        unless_busy(stored);
    }
    unless_busy(client.put(&key(9), &value(round, 9)));
    match client.put_with(&key(9), b"x", Attrs::default(), Condition::IfAbsent) {
        // It wasn't stored, or is evicted already, and then the condition holds.
        Ok(_)
        | Err(OpError::Server {
            code: ErrorCode::ConditionFailed,
            ..
        }) => {}
        other => drop(unless_busy(other)),
    }

    let keys: Vec<Vec<u8>> = items.iter().map(|(key, _)| key.clone()).collect();
    for (read, (_, value)) in client.batch_get(&keys).into_iter().zip(&items) {
        if let Some(read) = unless_busy(read).flatten() {
            assert!(read == *value, "another value came back");
        }
    }
    unless_busy(client.get(&key(9)));
    let never_put = unless_busy(client.get(&key(10))).flatten();
    assert_eq!(never_put, None);
    if let Some(earlier) = round.checked_sub(20) {
        let earlier = format!("{thread}/{earlier}/1").into_bytes();
        unless_busy(client.get(&earlier));
    }
    for known in client.batch_exists(&keys) {
        unless_busy(known);
    }
    unless_busy(client.delete(&key(0)));
}
