//! What a machine, an operator and a disk do to a server: the real program, killed, starved, damaged and misconfigured.

mod config;
mod corruption;
mod crash;
mod drives;
mod signals;
mod space;
mod values;

use std::collections::HashMap;

use memkv_client::{Client, OpError};
use memkv_tests::wire::value;

/// What a key holds: nothing, or the value of a put, which is derived from the key and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Nothing,
    Put(u64),
}

/// Sizes of small records, of extents and of striped values.
const SIZES: [usize; 7] = [0, 1, 100, 4096, 70_000, 300_000, 4_300_000];

/// Mostly small values, now and then a large one.
fn size_of(number: u64) -> usize {
    match number % 40 {
        39 => SIZES[6],
        n => SIZES[n as usize % 6],
    }
}

fn bytes_of(key: &str, number: u64) -> Vec<u8> {
    let key = key.bytes().fold(0u64, |sum, byte| {
        sum.wrapping_mul(257).wrapping_add(u64::from(byte))
    });
    value(
        key.wrapping_mul(1_000_003).wrapping_add(number),
        size_of(number),
    )
}

/// Whether a store may forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    Everything,
    /// It evicts: a key may be gone, but never hold what it held before.
    WhatFits,
}

/// What a writer knows of its keys: what was acknowledged, and what was asked for since without an answer.
#[derive(Debug, Default)]
struct Ledger(HashMap<String, (Option<Held>, Vec<Held>)>);

impl Ledger {
    /// Before a change is sent.
    fn ask(&mut self, key: &str, change: Held) {
        let entry = self
            .0
            .entry(key.into())
            .or_insert((Some(Held::Nothing), Vec::new()));
        entry.1.push(change);
    }

    /// The change that was asked for last was acknowledged.
    fn acknowledge(&mut self, key: &str) {
        let entry = self.0.get_mut(key).expect("it was asked for");
        entry.0 = entry.1.pop();
        entry.1.clear();
    }

    /// The change that was asked for last was refused without any effect.
    fn withdraw(&mut self, key: &str) {
        self.0.get_mut(key).expect("it was asked for").1.pop();
    }

    /// Reads every key: each must hold what was acknowledged last or, whole, what was asked for since. Afterwards that
    /// is what counts as acknowledged. Returns how many values were gone that nobody had asked to delete.
    fn check(&mut self, client: &Client, context: &str, keeps: Keeps) -> usize {
        let mut forgotten = 0;
        for (key, (acknowledged, asked)) in &mut self.0 {
            let found = client
                .get(key.as_bytes())
                .unwrap_or_else(|error| panic!("{context}: {key}: {error:?}"));
            let mut expected: Vec<Held> = acknowledged.iter().chain(&*asked).copied().collect();
            if keeps == Keeps::WhatFits {
                expected.push(Held::Nothing);
            }
            let held = expected.iter().find(|held| match held {
                Held::Nothing => found.is_none(),
                Held::Put(number) => found.as_deref() == Some(&bytes_of(key, *number)[..]),
            });
            let Some(held) = held else {
                let len = found.map(|bytes| bytes.len());
                panic!("{context}: {key} holds {len:?} bytes; expected one of {expected:?}");
            };
            let had = acknowledged.replace(*held);
            forgotten += usize::from(asked.is_empty() && had != *acknowledged);
            asked.clear();
        }
        forgotten
    }
}

/// Whether an error says that the server is going or gone.
fn is_going(error: &OpError) -> bool {
    use memkv_client::ErrorCode;
    match error {
        OpError::Server { code, .. } => *code == ErrorCode::Draining,
        OpError::Transport { .. } => true,
        _ => false,
    }
}
