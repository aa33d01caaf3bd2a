//! `memkv demo`: does memkv's main job in front of one's eyes, and shows where the time went.
//!
//! It writes about a gibibyte of KV-cache-like blocks of mixed sizes, reads the newest back (from RAM, where the pool
//! holds them) and the oldest (from the drive), checks every byte, and then lets the server's own telemetry speak:
//! every stage and tier below comes from `/v1/metrics` and `/v1/slow`, not from guesses of this program. Only how long an
//! op took is this program's own measurement, because that is exact.

mod blocks;
mod progress;
mod report;

use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use memkv_client::config::{ClientConfig, Transport};
use memkv_client::{Client, OpError};
use memkv_settings::ByteSize;
use memkv_telemetry::OpKind;

use crate::admin_http::Admin;
use crate::args::size;
use crate::exit::{Exit, Failure, Outcome};
use crate::scrape::Scrape;
use crate::slow::Sort;
use blocks::{Block, Blocks};
use progress::Progress;
use report::{Phase, Report, Times};

/// Write, read back and verify a gibibyte of blocks, and show where the time goes
#[derive(Debug, Args)]
#[command(
    after_help = "The blocks are deleted at the end unless --keep is given.

Examples:
  memkv demo                       against 127.0.0.1:9900 (or MEMKV_SERVERS)
  memkv demo --bytes '4 GiB'       more of it
  memkv demo --json | jq .phases   the figures for programs"
)]
pub(crate) struct Demo {
    /// How much to write, in whole blocks of mixed sizes: 11.4 MiB at least, since each size is there once
    #[arg(long, value_name = "SIZE", default_value = "1 GiB", value_parser = size)]
    bytes: ByteSize,
    /// The server's admin endpoint; default: the port above its data port
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Leave the blocks in the store
    #[arg(long)]
    keep: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn transport_name(client: &Client) -> &'static str {
    match client.transport().active {
        Transport::Rdma => "RDMA",
        Transport::Auto | Transport::Tcp => "TCP",
    }
}

/// How many entries one batch has; a batch of blocks then carries a few MiB.
const BATCH: usize = 8;

impl Demo {
    pub(crate) fn run(self) -> Outcome {
        let config =
            ClientConfig::from_process().map_err(|error| Failure::new(Exit::Config, error))?;
        crate::connection::warn(&config);
        let server = config
            .servers
            .first()
            .context("no server is configured")?
            .server
            .clone();
        let admin = match &self.admin {
            Some(url) => Admin::all(std::slice::from_ref(url), None)?.remove(0),
            None => Admin::beside(&server)?,
        };
        let client = Client::new(config).map_err(|error| Failure::new(Exit::Config, error))?;
        let connected = client.warmup().map_err(|error| {
            Failure::new(
                Exit::Unreachable,
                anyhow::Error::new(error).context(format!("connect to {server}")),
            )
        })?;
        crate::out::tell(format_args!(
            "memkv demo: {connected} connections to {server} over {}",
            transport_name(&client)
        ));
        let mut run = Run {
            client: &client,
            admin: &admin,
            quiet: self.json,
            report: Report::default(),
        };
        let blocks = Blocks::plan(self.bytes.0);
        if blocks.bytes() > self.bytes.0 {
            crate::out::tell(format_args!(
                "memkv demo: writes {} for --bytes '{}': whole blocks, each size at least once",
                crate::chart::bytes(blocks.bytes()),
                self.bytes
            ));
        }
        run.report.describe_server(&admin.json("/v1/status")?);
        let outcome = run.all(&blocks);
        if !self.keep {
            run.delete(&blocks);
        }
        outcome?;
        run.report.slowest = crate::slow::fetch(&admin, Sort::Slowest, 1)?
            .into_iter()
            .next();
        let shown = if self.json {
            format!("{:#}\n", run.report.json())
        } else {
            run.report.text()
        };
        crate::out::print(&shown)?;
        Ok(Exit::Done)
    }
}

struct Run<'a> {
    client: &'a Client,
    admin: &'a Admin,
    quiet: bool,
    report: Report,
}

impl Run<'_> {
    fn all(&mut self, blocks: &Blocks) -> Result<(), Failure> {
        // The newest blocks that surely fit the pool beside its other duties; the oldest ones surely don't.
        let pool = self.report.pool_bytes();
        let newest = blocks.newest(pool / 4);
        let oldest = blocks.oldest((blocks.bytes().saturating_sub(pool)).min(blocks.bytes() / 4));
        self.phase("write", &blocks.all, |client, batch, scratch| {
            put(client, batch, scratch)
        })?;
        self.phase("read the newest", newest, |client, batch, scratch| {
            get(client, batch, scratch)
        })?;
        self.phase("read them again", newest, |client, batch, scratch| {
            get(client, batch, scratch)
        })?;
        if oldest.is_empty() {
            self.report.unread_drive = true;
        } else {
            self.phase("read the oldest", oldest, |client, batch, scratch| {
                get(client, batch, scratch)
            })?;
        }
        self.phase("ask what exists", &blocks.all, |client, batch, scratch| {
            exists(client, batch, scratch)
        })
    }

    /// Runs `work` over `blocks` in batches, between two scrapes.
    fn phase(
        &mut self,
        name: &'static str,
        blocks: &[Block],
        work: impl Fn(&Client, &[Block], &mut Scratch) -> anyhow::Result<u64>,
    ) -> Result<(), Failure> {
        let mut progress = Progress::new(name, blocks::sum(blocks), self.quiet);
        let before = Scrape::parse(&self.admin.text("/v1/metrics")?);
        let mut scratch = Scratch::default();
        let (start, mut moved) = (Instant::now(), 0);
        for batch in blocks.chunks(BATCH) {
            moved += work(self.client, batch, &mut scratch)
                .with_context(|| format!("while it tried to {name}"))?;
            progress.advance(blocks::sum(batch));
        }
        let seconds = start.elapsed().as_secs_f64() - scratch.checking;
        drop(progress);
        let after = Scrape::parse(&self.admin.text("/v1/metrics")?);
        self.report.phases.push(Phase {
            name,
            entries: blocks.len(),
            bytes: moved,
            seconds,
            times: scratch.times,
            seen: after.since(&before),
        });
        Ok(())
    }

    fn delete(&self, blocks: &Blocks) {
        for batch in blocks.all.chunks(64) {
            let keys: Vec<&[u8]> = batch.iter().map(|block| block.key.as_bytes()).collect();
            // The blocks are evictable and nobody's; what can't be deleted now leaves by eviction.
            let _ = self.client.batch_delete(&keys);
        }
    }
}

/// Memory that phases reuse, and time that isn't the server's.
#[derive(Debug, Default)]
struct Scratch {
    expected: Vec<u8>,
    /// Seconds spent on comparing, which the rates leave out.
    checking: f64,
    times: Times,
}

fn put(client: &Client, batch: &[Block], scratch: &mut Scratch) -> anyhow::Result<u64> {
    let values: Vec<Vec<u8>> = batch.iter().map(Block::content).collect();
    let items: Vec<(&[u8], &[u8])> = batch
        .iter()
        .zip(&values)
        .map(|(block, value)| (block.key.as_bytes(), value.as_slice()))
        .collect();
    // One entry in a batch of its own shows the single op beside the batch.
    let (single, rest) = items.split_first().context("a batch is never empty")?;
    let times = &mut scratch.times;
    let (first, others) = batch.split_at(1);
    times.of(OpKind::Put, 1, blocks::sum(first), || {
        client.put(single.0, single.1)
    })?;
    if !rest.is_empty() {
        times
            .of(OpKind::BatchWrite, rest.len(), blocks::sum(others), || {
                client.batch_put_views(rest)
            })
            .into_iter()
            .collect::<Result<Vec<u64>, OpError>>()?;
    }
    Ok(values.iter().map(|value| value.len() as u64).sum())
}

/// Reads and compares; a block that is gone is an error, because nothing but eviction may take it and the demo's data fits.
fn get(client: &Client, batch: &[Block], scratch: &mut Scratch) -> anyhow::Result<u64> {
    let (single, rest) = batch.split_first().context("a batch is never empty")?;
    let times = &mut scratch.times;
    let first = times.of(OpKind::Get, 1, single.bytes as u64, || {
        client.get(single.key.as_bytes())
    })?;
    let keys: Vec<&[u8]> = rest.iter().map(|block| block.key.as_bytes()).collect();
    let others = match keys.as_slice() {
        [] => Vec::new(),
        keys => times.of(OpKind::BatchRead, keys.len(), blocks::sum(rest), || {
            client.batch_get(keys)
        }),
    };
    let started = Instant::now();
    let mut moved = 0;
    for (block, value) in batch.iter().zip(std::iter::once(Ok(first)).chain(others)) {
        verify(block, value?, &mut scratch.expected)?;
        moved += block.bytes as u64;
    }
    scratch.checking += started.elapsed().as_secs_f64();
    Ok(moved)
}

/// Compares what came back with what was written.
fn verify(block: &Block, value: Option<Vec<u8>>, expected: &mut Vec<u8>) -> anyhow::Result<()> {
    let Some(value) = value else {
        bail!(
            "{} is gone: evicted, or never stored; is the store smaller than the demo? try --bytes",
            block.key
        );
    };
    block.content_into(expected);
    if value != *expected {
        bail!(
            "{} came back different; this is a defect, please keep the store as it is",
            block.key
        );
    }
    Ok(())
}

fn exists(client: &Client, batch: &[Block], scratch: &mut Scratch) -> anyhow::Result<u64> {
    let keys: Vec<&[u8]> = batch.iter().map(|block| block.key.as_bytes()).collect();
    let found = scratch.times.of(OpKind::Exists, batch.len(), 0, || {
        client.batch_exists(&keys)
    });
    for (block, found) in batch.iter().zip(found) {
        if !found? {
            bail!("{} does not exist any more", block.key);
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        demo: Demo,
    }

    #[test]
    fn by_itself_it_writes_a_gibibyte_of_mixed_sizes() {
        let demo = Line::parse_from(["demo"]).demo;
        assert_eq!(demo.bytes.0, 1 << 30);
        let blocks = Blocks::plan(demo.bytes.0);
        let sizes: std::collections::BTreeSet<usize> =
            blocks.all.iter().map(|block| block.bytes).collect();
        assert!(sizes.len() > 4, "{sizes:?}");
        // Of which a part is in the development server's pool of 256 MiB for sure, and a part surely isn't.
        let pool = 256 << 20;
        assert!(blocks::sum(blocks.newest(pool / 4)) > 32 << 20);
        assert!(blocks::sum(blocks.oldest(blocks.bytes() - pool)) > 512 << 20);
    }

    #[test]
    fn a_block_that_is_gone_or_differs_in_one_byte_is_no_success() {
        let blocks = Blocks::plan(1);
        let block = &blocks.all[4];
        let mut expected = Vec::new();
        verify(block, Some(block.content()), &mut expected).unwrap();
        let mut value = block.content();
        value[500] ^= 1;
        for (value, words) in [(Some(value), "came back different"), (None, "is gone")] {
            let error = verify(block, value, &mut expected).unwrap_err().to_string();
            assert!(
                error.contains(words) && error.contains(&block.key),
                "{error}"
            );
        }
        let mut short = block.content();
        short.pop();
        assert!(verify(block, Some(short), &mut expected).is_err());
    }
}
