//! What signing and telemetry cost: ourselves with and without, CPU per op of both ends together.
//!
//! The ratio is CPU without over CPU with: 0.95 says that the feature takes 5 % of the CPU.

use super::Effort;
use crate::no_mac::NoMac;
use crate::ours::{Ours, Variant};
use crate::process::cpu_seconds_self;
use crate::stats::{Goal, Row};
use anyhow::{Result, ensure};
use memkv_client::Client;
use memkv_proto::mac::{FrameMac, HmacSha256};

const BYTES: usize = 1024;

pub(super) fn hmac_1(goal: Goal, effort: Effort) -> Result<Vec<Row>> {
    hmac("hmac-1", "single GET 1 KiB, MAC on", goal, 1, effort)
}

pub(super) fn hmac_64(goal: Goal, effort: Effort) -> Result<Vec<Row>> {
    hmac("hmac-64", "BatchRead 64 × 1 KiB, MAC on", goal, 64, effort)
}

fn hmac(
    id: &'static str,
    workload: &str,
    goal: Goal,
    batch: usize,
    effort: Effort,
) -> Result<Vec<Row>> {
    let on = Ours::start(&Variant::default())?;
    let off = Ours::start(&Variant {
        mac: false,
        ..Variant::default()
    })?;
    let (client_on, client_off) = (on.client::<HmacSha256>(1)?, off.client::<NoMac>(1)?);
    let rounds = effort.scaled(30_000 / batch.min(20));
    let with = || cpu_per_op(&on, &client_on, batch, rounds);
    let without = || cpu_per_op(&off, &client_off, batch, rounds);
    row(
        id,
        workload,
        "the same, MAC off",
        goal,
        effort,
        with,
        without,
    )
}

pub(super) fn telemetry(goal: Goal, effort: Effort) -> Result<Vec<Row>> {
    let sink = crate::sink::Sink::start()?;
    let otlp = Some((sink.endpoint(), 0.01));
    let on = Ours::start(&Variant {
        otlp,
        ..Variant::default()
    })?;
    let off = Ours::start(&Variant {
        telemetry: false,
        ..Variant::default()
    })?;
    let (client_on, client_off) = (on.client::<HmacSha256>(1)?, off.client::<HmacSha256>(1)?);
    let rounds = effort.scaled(30_000);
    let with = || cpu_per_op(&on, &client_on, 1, rounds);
    let without = || cpu_per_op(&off, &client_off, 1, rounds);
    let workload = "single GET 1 KiB, Timelines, metrics and 1 % OTLP on";
    let mut rows = row(
        "telemetry",
        workload,
        "the same, all off",
        goal,
        effort,
        with,
        without,
    )?;
    let spans = sink.spans();
    ensure!(
        spans > 0,
        "the collector's sink got no spans: telemetry was not on"
    );
    rows[0].note = Some(format!("{spans} export requests received"));
    Ok(rows)
}

/// CPU µs per op of client and server together.
fn cpu_per_op<M: FrameMac>(
    ours: &Ours,
    client: &Client<M>,
    batch: usize,
    rounds: usize,
) -> Result<f64> {
    let keys: Vec<String> = (0..batch).map(|idx| format!("overhead/{idx:04}")).collect();
    for key in &keys {
        client.put(key.as_bytes(), &[0x5a; BYTES])?;
    }
    let mut buffer = vec![0u8; batch * BYTES];
    let before = cpu_seconds_self() + ours.server.cpu_seconds();
    for _ in 0..rounds {
        if batch == 1 {
            client.get_into(keys[0].as_bytes(), &mut buffer)?;
            continue;
        }
        let mut items: Vec<(&[u8], &mut [u8])> = keys
            .iter()
            .map(String::as_bytes)
            .zip(buffer.chunks_exact_mut(BYTES))
            .collect();
        for outcome in client.batch_get_into(&mut items) {
            ensure!(outcome? == Some(BYTES));
        }
    }
    let spent = cpu_seconds_self() + ours.server.cpu_seconds() - before;
    Ok(spent / rounds as f64 * 1e6)
}

fn row(
    id: &'static str,
    workload: &str,
    peer: &str,
    goal: Goal,
    effort: Effort,
    with: impl Fn() -> Result<f64>,
    without: impl Fn() -> Result<f64>,
) -> Result<Vec<Row>> {
    with()?;
    without()?;
    let mut pairs = Vec::new();
    for pair in 0..effort.pairs {
        // Each goes first every other time, so that neither always inherits the other's warm caches.
        let (on, off) = if pair % 2 == 0 {
            let on = with()?;
            (on, without()?)
        } else {
            let off = without()?;
            (with()?, off)
        };
        // As rates, so that higher is better: ops per CPU second.
        pairs.push((1e6 / on, 1e6 / off));
    }
    Ok(vec![Row::paired(
        id,
        workload.to_owned(),
        peer.to_owned(),
        "ops/CPU s",
        goal,
        &pairs,
        &[],
    )])
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::stats::Better;

    #[test]
    fn with_and_without_run_in_turn_and_each_goes_first_every_other_time() {
        let order = RefCell::new(String::new());
        let side = |name: char, cpu_us: f64| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok(cpu_us)
            }
        };
        let goal = Goal {
            better: Better::Higher,
            must: 0.85,
            aim: 0.93,
        };
        let effort = Effort {
            repeats: 5,
            pairs: 4,
            scale: 1.0,
        };
        let rows = row("x", "", "", goal, effort, side('+', 20.0), side('-', 19.0)).unwrap();
        assert_eq!(*order.borrow(), "+-+--++--+");
        // CPU without over CPU with: it takes 5 % of the CPU.
        assert!((rows[0].ratio - 0.95).abs() < 1e-9, "{}", rows[0].ratio);
    }
}
