//! The loops: threads that each have one op under way for a given time.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use memkv_client::Client;

use super::floor::Floor;

/// What a cell measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    Get,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// One repeat: how many ops in how long, each op's time, this process's CPU.
#[derive(Debug, Default)]
pub(super) struct Run {
    latencies_ns: Vec<u64>,
    seconds: f64,
    cpu_seconds: f64,
}

impl Run {
    fn ops_per_second(&self) -> f64 {
        self.latencies_ns.len() as f64 / self.seconds
    }
}

/// All repeats of one op and size.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) kind: Kind,
    pub(super) bytes: u64,
    runs: Vec<Run>,
    ratios: Vec<f64>,
    latencies_ns: Vec<u64>,
}

impl Cell {
    pub(super) fn new(kind: Kind, bytes: u64) -> Self {
        Self {
            kind,
            bytes,
            runs: Vec::new(),
            ratios: Vec::new(),
            latencies_ns: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, run: Run, floor: Option<Run>) {
        self.ratios
            .extend(floor.map(|floor| run.ops_per_second() / floor.ops_per_second()));
        self.latencies_ns.extend(&run.latencies_ns);
        self.latencies_ns.sort_unstable();
        self.runs.push(run);
    }

    pub(super) fn ops_per_second(&self) -> f64 {
        median(self.runs.iter().map(Run::ops_per_second).collect())
    }

    pub(super) fn cpu_us_per_op(&self) -> f64 {
        median(
            self.runs
                .iter()
                .map(|run| run.cpu_seconds / run.latencies_ns.len() as f64 * 1e6)
                .collect(),
        )
    }

    /// Over all repeats, in µs.
    pub(super) fn latency_us(&self, q: f64) -> f64 {
        let rank = (q * self.latencies_ns.len() as f64).ceil() as usize;
        let value = self
            .latencies_ns
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default();
        value as f64 / 1e3
    }

    /// Median, least and greatest ratio to the floor of the same repeat.
    pub(super) fn floor_ratio(&self) -> Option<(f64, f64, f64)> {
        if self.ratios.is_empty() {
            return None;
        }
        let least = self.ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.ratios.iter().copied().fold(0.0, f64::max);
        Some((median(self.ratios.clone()), least, most))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Keys each thread walks; few enough that 4 MiB values fit a small pool.
const KEYS_PER_THREAD: usize = 8;
const THREADS_MAX: usize = 1024;

fn key(thread_idx: usize, op: usize) -> String {
    format!("bench/{thread_idx:04}/{}", op % KEYS_PER_THREAD)
}

/// Deletes what the loops wrote.
pub(super) fn clean(client: &Client) {
    let keys: Vec<String> = (0..THREADS_MAX)
        .flat_map(|thread| (0..KEYS_PER_THREAD).map(move |op| key(thread, op)))
        .collect();
    for keys in keys.chunks(512) {
        // What can't be deleted now leaves by eviction or by the next run.
        let _ = client.batch_delete(keys);
    }
}

/// Puts or gets `bytes` for `span` on `threads` threads.
///
/// # Errors
/// When an op fails; a bench of failures would measure nothing.
pub(super) fn measure_store(
    client: &Client,
    kind: Kind,
    bytes: usize,
    threads: usize,
    span: Duration,
) -> anyhow::Result<Run> {
    if kind == Kind::Get {
        let value = vec![0x5a; bytes];
        for thread in 0..threads {
            for op in 0..KEYS_PER_THREAD {
                client
                    .put(key(thread, op).as_bytes(), &value)
                    .context("write what will be read")?;
            }
        }
    }
    run(threads, span, |thread_idx| {
        let mut value = vec![0x5a; bytes];
        let keys: Vec<String> = (0..KEYS_PER_THREAD).map(|op| key(thread_idx, op)).collect();
        Ok(move |op: usize| {
            let key = keys[op % KEYS_PER_THREAD].as_bytes();
            match kind {
                Kind::Put => client.put(key, &value).map(drop)?,
                Kind::Get => match client.get_into(key, &mut value)? {
                    Some(_) => {}
                    None => bail!(
                        "a key that was just written is gone: the store is too small for this bench"
                    ),
                },
            }
            Ok(())
        })
    })
}

/// The same bytes over the floor.
///
/// # Errors
/// When loopback fails.
pub(super) fn measure_floor(
    floor: &Floor,
    kind: Kind,
    bytes: usize,
    threads: usize,
    span: Duration,
) -> anyhow::Result<Run> {
    run(threads, span, |_| {
        let mut exchange = floor.connect()?;
        let mut value = vec![0x5a; bytes];
        Ok(move |_| {
            match kind {
                Kind::Put => exchange.run(&value, &mut [])?,
                Kind::Get => exchange.run(&[], &mut value)?,
            }
            Ok(())
        })
    })
}

/// Prepares one worker per thread, then lets all of them loop for `span`.
fn run<W>(
    threads: usize,
    span: Duration,
    prepare: impl Fn(usize) -> anyhow::Result<W> + Sync,
) -> anyhow::Result<Run>
where
    W: FnMut(usize) -> anyhow::Result<()>,
{
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|idx| {
                let (barrier, prepare) = (&barrier, &prepare);
                scope.spawn(move || -> anyhow::Result<Vec<u64>> {
                    let worker = prepare(idx);
                    barrier.wait();
                    let mut worker = worker?;
                    let (start, mut latencies) = (Instant::now(), Vec::new());
                    while start.elapsed() < span {
                        let began = Instant::now();
                        worker(latencies.len())?;
                        latencies.push(began.elapsed().as_nanos() as u64);
                    }
                    Ok(latencies)
                })
            })
            .collect();
        barrier.wait();
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let mut whole = Run::default();
        for worker in workers {
            whole
                .latencies_ns
                .extend(worker.join().expect("a worker of the bench panicked")?);
        }
        whole.seconds = start.elapsed().as_secs_f64();
        whole.cpu_seconds = cpu_seconds() - cpu;
        Ok(whole)
    })
}

/// CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_over_all_repeats_and_ratios_within_one() {
        let run = |latencies: &[u64], seconds| Run {
            latencies_ns: latencies.to_vec(),
            seconds,
            cpu_seconds: 1.0,
        };
        let mut cell = Cell::new(Kind::Get, 1);
        cell.push(run(&[1000, 3000], 1.0), Some(run(&[1, 1, 1, 1], 1.0)));
        cell.push(run(&[2000, 4000], 2.0), Some(run(&[1, 1, 1, 1], 2.0)));
        assert_eq!(cell.latency_us(0.5), 2.0);
        assert_eq!(cell.latency_us(0.99), 4.0);
        assert_eq!(cell.floor_ratio(), Some((0.5, 0.5, 0.5)));
    }

    #[test]
    fn the_floor_moves_bytes() {
        let floor = Floor::start().unwrap();
        let run = measure_floor(&floor, Kind::Get, 4096, 2, Duration::from_millis(50)).unwrap();
        assert!(run.ops_per_second() > 0.0);
    }
}
