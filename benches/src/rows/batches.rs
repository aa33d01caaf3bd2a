//! The batch rows, against Mooncake Store over TCP.

use super::Effort;
use crate::ours::{Ours, Variant};
use crate::peers::iperf;
use crate::peers::mooncake::Mooncake;
use crate::process::cpu_seconds_self;
use crate::stats::{Better, Goal, Measure, Row};
use anyhow::{Context, Result, ensure};
use memkv_client::Client;
use memkv_proto::mac::HmacSha256;
use std::time::Instant;

const BATCH: usize = 64;
const MIB: u64 = 1 << 20;

/// The bound of batch-get-4m where Mooncake doesn't run: what one TCP stream of this machine moves at all.
pub(super) const WITHOUT_MOONCAKE: Goal = Goal {
    better: Better::Higher,
    must: 0.95,
    aim: 0.95,
};

fn keys(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|idx| format!("{prefix}/{idx:04}")).collect()
}

/// One run of `work` `rounds` times on our side; work counts `per_round` each.
fn run_ours(
    ours: &Ours,
    rounds: usize,
    per_round: usize,
    mut work: impl FnMut() -> Result<()>,
) -> Result<Measure> {
    let (own, theirs, start) = (
        cpu_seconds_self(),
        ours.server.cpu_seconds(),
        Instant::now(),
    );
    for _ in 0..rounds {
        work()?;
    }
    Ok(Measure {
        seconds: start.elapsed().as_secs_f64(),
        work: (rounds * per_round) as f64,
        cpu_seconds: cpu_seconds_self() - own + ours.server.cpu_seconds() - theirs,
    })
}

fn put_all(client: &Client<HmacSha256>, keys: &[String], bytes: usize) -> Result<()> {
    let value = vec![0x5a; bytes];
    for key in keys {
        client
            .put(key.as_bytes(), &value)
            .with_context(|| format!("put {key}"))?;
    }
    Ok(())
}

/// Reads all `keys` into `buffer`, `bytes` each, as one batch.
fn get_batch(
    client: &Client<HmacSha256>,
    keys: &[String],
    bytes: usize,
    buffer: &mut [u8],
) -> Result<()> {
    let mut items: Vec<(&[u8], &mut [u8])> = keys
        .iter()
        .map(String::as_bytes)
        .zip(buffer.chunks_exact_mut(bytes))
        .collect();
    for outcome in client.batch_get_into(&mut items) {
        ensure!(
            outcome? == Some(bytes),
            "a value is missing or has another length"
        );
    }
    Ok(())
}

/// Pairs of (ours, peer) rates in units of `unit`, and of CPU per unit of work.
type Pairs = (Vec<(f64, f64)>, Vec<(f64, f64)>);

fn pairs(
    repeats: usize,
    unit: f64,
    mut ours: impl FnMut() -> Result<Measure>,
    mut peer: impl FnMut() -> Result<Measure>,
) -> Result<Pairs> {
    let mut found: Pairs = (Vec::new(), Vec::new());
    ours()?;
    peer()?;
    for _ in 0..repeats {
        let (a, b) = (ours()?, peer()?);
        found.0.push((a.rate() / unit, b.rate() / unit));
        found.1.push((a.cpu_per_work(), b.cpu_per_work()));
    }
    Ok(found)
}

pub(super) fn get_4m(goal: Goal, effort: Effort) -> Result<Vec<Row>> {
    let bytes = 4 * MIB as usize;
    let ours = Ours::start(&Variant::default())?;
    let client = ours.client::<HmacSha256>(1)?;
    let keys = keys("block", BATCH);
    put_all(&client, &keys, bytes)?;
    let mut buffer = vec![0u8; BATCH * bytes];
    let rounds = effort.scaled(4);
    let mut run_once = || {
        run_ours(&ours, rounds, BATCH * bytes, || {
            get_batch(&client, &keys, bytes, &mut buffer)
        })
    };
    let workload = "BatchRead 64 × 4 MiB, one connection, loopback, RAM".to_owned();
    let mooncake = Mooncake::start(1024 * MIB, BATCH as u64 * 4 * MIB).and_then(|mut peer| {
        peer.run("put", &keys, bytes, 1)?;
        Ok(peer)
    });
    let mut peer = match mooncake {
        Ok(peer) => peer,
        Err(error) => {
            let floor = || {
                let rate = iperf::gigabytes_per_second(1, 2)? * 1e9;
                Ok(Measure {
                    seconds: 1.0,
                    work: rate,
                    cpu_seconds: f64::NAN,
                })
            };
            let (rates, _) = pairs(effort.repeats, 1e9, &mut run_once, floor)?;
            let mut row = Row::paired(
                "batch-get-4m",
                workload,
                "iperf3 -P1".to_owned(),
                "GB/s",
                WITHOUT_MOONCAKE,
                &rates,
                &[],
            );
            row.note = Some(format!("Mooncake Store does not run here: {error:#}"));
            return Ok(vec![row]);
        }
    };
    let theirs = || {
        let mut measure = peer.run("get", &keys, bytes, rounds)?;
        measure.work *= bytes as f64;
        Ok(measure)
    };
    let (rates, cpu) = pairs(effort.repeats, 1e9, run_once, theirs)?;
    let name = "Mooncake Store batch_get_into, TCP".to_owned();
    Ok(vec![Row::paired(
        "batch-get-4m",
        workload,
        name,
        "GB/s",
        goal,
        &rates,
        &cpu,
    )])
}

pub(super) fn get_1k(goal: Goal, effort: Effort) -> Result<Vec<Row>> {
    let bytes = 1024;
    let ours = Ours::start(&Variant::default())?;
    let client = ours.client::<HmacSha256>(1)?;
    let keys = keys("small", BATCH);
    put_all(&client, &keys, bytes)?;
    let mut buffer = vec![0u8; BATCH * bytes];
    let mut peer = Mooncake::start(256 * MIB, MIB)?;
    peer.run("put", &keys, bytes, 1)?;
    let (own_rounds, their_rounds) = (effort.scaled(10_000), effort.scaled(300));
    let (rates, cpu) = pairs(
        effort.repeats,
        1e3,
        || {
            run_ours(&ours, own_rounds, BATCH, || {
                get_batch(&client, &keys, bytes, &mut buffer)
            })
        },
        || peer.run("get", &keys, bytes, their_rounds),
    )?;
    let workload = "BatchRead 64 × 1 KiB, one connection, loopback, RAM".to_owned();
    let name = "Mooncake Store batch_get_into, TCP".to_owned();
    Ok(vec![Row::paired(
        "batch-get-1k",
        workload,
        name,
        "k objects/s",
        goal,
        &rates,
        &cpu,
    )])
}

pub(super) fn exists_512(goal: Goal, effort: Effort) -> Result<Vec<Row>> {
    /// Requests under way at once: both ends of the connection then have something to do.
    const THREADS: usize = 2;
    let ours = Ours::start(&Variant::default())?;
    let client = ours.client::<HmacSha256>(THREADS)?;
    let keys = keys("exists/prefix-hash", 512);
    put_all(&client, &keys, 64)?;
    let mut peer = Mooncake::start(256 * MIB, MIB)?;
    peer.run("put", &keys, 64, 1)?;
    let rounds = effort.scaled(10_000);
    let ask = || -> Result<()> {
        for found in client.batch_exists(&keys) {
            ensure!(found?, "a key that was stored does not exist");
        }
        Ok(())
    };
    let own = || {
        run_ours(&ours, 1, rounds * THREADS * keys.len(), || {
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS)
                    .map(|_| scope.spawn(|| (0..rounds).try_for_each(|_| ask())))
                    .collect();
                threads
                    .into_iter()
                    .try_for_each(|t| t.join().expect("a worker panicked"))
            })
        })
    };
    let their_rounds = effort.scaled(2_000);
    let (rates, cpu) = pairs(effort.repeats, 1e6, own, || {
        peer.run("exists", &keys, 0, their_rounds)
    })?;
    let workload = format!("Exists, batches of 512 keys, {THREADS} connections, loopback");
    let name = "Mooncake Store batch_is_exist".to_owned();
    Ok(vec![Row::paired(
        "exists-512",
        workload,
        name,
        "M keys/s",
        goal,
        &rates,
        &cpu,
    )])
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn both_sides_run_in_turn_once_a_repeat_after_one_warm_up() {
        let order = RefCell::new(String::new());
        let side = |name: char, seconds: f64| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok(Measure {
                    seconds,
                    work: 8.0,
                    cpu_seconds: 4.0,
                })
            }
        };
        let (rates, cpu) = pairs(5, 2.0, side('o', 1.0), side('p', 2.0)).unwrap();
        assert_eq!(*order.borrow(), "op".repeat(6));
        assert_eq!(rates, [(4.0, 2.0); 5]);
        assert_eq!(cpu, [(0.5, 0.5); 5]);
    }
}
