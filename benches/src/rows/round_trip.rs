//! get-1k-rtt: how long one small get takes beside a bare echo of the same bytes.

use super::Effort;
use crate::ours::{Ours, Variant};
use crate::peers::echo::Echo;
use crate::process::cpu_seconds_self;
use crate::stats::{Goal, Measure, Row};
use anyhow::Result;
use memkv_proto::frame::HEADER_BYTES;
use memkv_proto::mac::HmacSha256;
use std::time::Instant;

pub(super) fn get_1k(goal: Goal, effort: Effort) -> Result<Vec<Row>> {
    let ours = Ours::start(&Variant::default())?;
    let client = ours.client::<HmacSha256>(1)?;
    let key = b"round-trip";
    client.put(key, &[0x5a; 1024])?;
    // Headers both ways; the request's control part is at least the key, the reply's at least one segment. Rounding
    // them down favours the echo.
    let mut echo = Echo::start(HEADER_BYTES + key.len(), HEADER_BYTES + 1024)?;
    let rounds = effort.scaled(20_000);
    let mut value = vec![0u8; 1024];
    let mut own = || {
        let (own, theirs, start) = (
            cpu_seconds_self(),
            ours.server.cpu_seconds(),
            Instant::now(),
        );
        for _ in 0..rounds {
            client.get_into(key, &mut value)?;
        }
        measure(
            rounds,
            start,
            cpu_seconds_self() - own + ours.server.cpu_seconds() - theirs,
        )
    };
    let mut floor = || {
        let (own, theirs, start) = (
            cpu_seconds_self(),
            echo.server.cpu_seconds(),
            Instant::now(),
        );
        for _ in 0..rounds {
            echo.round_trip()?;
        }
        measure(
            rounds,
            start,
            cpu_seconds_self() - own + echo.server.cpu_seconds() - theirs,
        )
    };
    own()?;
    floor()?;
    let (mut times, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..effort.repeats.max(9) {
        let (a, b) = (own()?, floor()?);
        times.push((1e6 / a.rate(), 1e6 / b.rate()));
        cpu.push((a.cpu_per_work(), b.cpu_per_work()));
    }
    let workload = "single GET 1 KiB, one connection, loopback, RAM".to_owned();
    let name = "bare TCP echo of the same bytes".to_owned();
    Ok(vec![Row::paired(
        "get-1k-rtt",
        workload,
        name,
        "µs",
        goal,
        &times,
        &cpu,
    )])
}

fn measure(rounds: usize, start: Instant, cpu_seconds: f64) -> Result<Measure> {
    Ok(Measure {
        seconds: start.elapsed().as_secs_f64(),
        work: rounds as f64,
        cpu_seconds,
    })
}
