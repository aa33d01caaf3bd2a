//! get-4m and put-4m: one large value per op over loopback, 1 to 4 connections, from and into RAM.

use super::Effort;
use crate::bulk::{Connection, Direction, fill, run};
use crate::ours::{Ours, Variant};
use crate::peers::iperf;
use crate::peers::memcached::Memcached;
use crate::peers::redis::Redis;
use crate::process::Server;
use crate::stats::{Goal, Measure, Row};
use anyhow::Result;

const BYTES: usize = 4 << 20;
/// Values one connection moves per run: about a second on this class of machine.
const OPS: usize = 1200;

pub(super) fn get_4m(goal: Goal, effort: Effort) -> Result<Vec<Row>> {
    let (ours, redis, memcached) = (
        Ours::start(&Variant::default())?,
        Redis::start()?,
        Memcached::start()?,
    );
    [1, 2, 4]
        .into_iter()
        .map(|count| {
            let mut sides = vec![
                Side::new("memkv", &ours.server, ours.connections(count)?),
                Side::new("redis", &redis.server, boxed(count, || redis.connect())?),
                Side::new(
                    "memcached",
                    &memcached.server,
                    boxed(count, || memcached.connect())?,
                ),
            ];
            let mut row = compare("get-4m", Direction::Get, goal, effort, &mut sides)?;
            let limit = iperf::gigabytes_per_second(count, 2)?;
            row.note = Some(format!("iperf3 -P{count}: {limit:.2} GB/s"));
            Ok(row)
        })
        .collect()
}

pub(super) fn put_4m(goal: Goal, effort: Effort) -> Result<Vec<Row>> {
    let (ours, redis) = (Ours::start(&Variant::default())?, Redis::start()?);
    [1, 4]
        .into_iter()
        .map(|count| {
            let mut sides = vec![
                Side::new("memkv", &ours.server, ours.connections(count)?),
                Side::new("redis", &redis.server, boxed(count, || redis.connect())?),
            ];
            compare("put-4m", Direction::Put, goal, effort, &mut sides)
        })
        .collect()
}

struct Side<'a> {
    name: &'static str,
    server: &'a Server,
    connections: Vec<Box<dyn Connection>>,
}

impl<'a> Side<'a> {
    fn new(name: &'static str, server: &'a Server, connections: Vec<Box<dyn Connection>>) -> Self {
        Self {
            name,
            server,
            connections,
        }
    }
}

fn boxed<C: Connection + 'static>(
    count: usize,
    connect: impl Fn() -> Result<C>,
) -> Result<Vec<Box<dyn Connection>>> {
    (0..count)
        .map(|_| Ok(Box::new(connect()?) as Box<dyn Connection>))
        .collect()
}

/// Runs all sides in turn, `effort.repeats` times after one warm-up; the peer of a repeat is its fastest one.
fn compare(
    id: &'static str,
    direction: Direction,
    goal: Goal,
    effort: Effort,
    sides: &mut [Side<'_>],
) -> Result<Row> {
    let count = sides[0].connections.len();
    let ops = effort.scaled(OPS / count);
    let mut repeats: Vec<Vec<Measure>> = Vec::new();
    for side in &mut *sides {
        fill(side.connections[0].as_mut(), BYTES)?;
        run(
            direction,
            &mut side.connections,
            BYTES,
            ops.min(50),
            side.server,
        )?;
    }
    for _ in 0..effort.repeats {
        let measures: Result<Vec<Measure>> = sides
            .iter_mut()
            .map(|side| run(direction, &mut side.connections, BYTES, ops, side.server))
            .collect();
        repeats.push(measures?);
    }
    let best_peer = |measures: &[Measure]| {
        (1..measures.len())
            .max_by(|a, b| measures[*a].rate().total_cmp(&measures[*b].rate()))
            .expect("there is a peer")
    };
    let names: Vec<&str> = repeats.iter().map(|m| sides[best_peer(m)].name).collect();
    let gigabytes = |measure: &Measure| measure.rate() / 1e9;
    let pairs: Vec<(f64, f64)> = repeats
        .iter()
        .map(|m| (gigabytes(&m[0]), gigabytes(&m[best_peer(m)])))
        .collect();
    let cpu: Vec<(f64, f64)> = repeats
        .iter()
        .map(|m| (m[0].cpu_per_work(), m[best_peer(m)].cpu_per_work()))
        .collect();
    let mut peers = names;
    peers.sort_unstable();
    peers.dedup();
    let verb = if direction == Direction::Get {
        "GET"
    } else {
        "PUT"
    };
    let workload = format!("{verb} 4 MiB, {count} connection(s), loopback, RAM");
    Ok(Row::paired(
        id,
        workload,
        peers.join(" or "),
        "GB/s",
        goal,
        &pairs,
        &cpu,
    ))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::stats::Better;

    /// Takes this long for a value, and says whose turn it was.
    struct Paced(char, Duration, Arc<Mutex<String>>);

    impl Connection for Paced {
        fn get(&mut self, _: &str, _: &mut [u8]) -> Result<()> {
            self.2.lock().unwrap().push(self.0);
            std::thread::sleep(self.1);
            Ok(())
        }

        fn put(&mut self, _: &str, _: &[u8]) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_sides_run_in_turn_and_the_fastest_peer_counts() {
        let server = Server::spawn("sleep", Command::new("sleep").arg("60")).unwrap();
        let turns = Arc::new(Mutex::new(String::new()));
        let side = |name: &'static str, millis| {
            let letter = name.chars().next().unwrap();
            let paced = Paced(letter, Duration::from_millis(millis), Arc::clone(&turns));
            Side::new(name, &server, vec![Box::new(paced)])
        };
        let goal = Goal {
            better: Better::Higher,
            must: 1.0,
            aim: 1.25,
        };
        let effort = Effort {
            repeats: 3,
            pairs: 1,
            // One value a run.
            scale: 0.0,
        };
        let mut sides = [side("ours", 5), side("slow", 40), side("quick", 20)];
        let row = compare("x", Direction::Get, goal, effort, &mut sides).unwrap();
        assert_eq!(*turns.lock().unwrap(), "osq".repeat(4));
        assert_eq!(row.peer_name, "quick");
        assert!(row.ratio > 1.0 && row.ratio_min <= row.ratio && row.ratio <= row.ratio_max);
        assert!(row.cpu_ratio.is_some());
    }
}
