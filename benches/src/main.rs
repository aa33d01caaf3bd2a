//! `make bench`: memkv beside its peers, in the same run, in turn, with ratios and their spread.
//!
//! It prints a table and writes `bench.json`. Exit code 0 says that every row was measured; 1 that one could not be, or,
//! with `--strict`, that one is below its `must`.
#![forbid(unsafe_code)]

mod bulk;
mod no_mac;
mod ours;
mod peers;
mod process;
mod rows;
mod sink;
mod stats;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use rows::{ALL, Effort};
use stats::{Better, Row};
use std::path::PathBuf;
use std::process::ExitCode;

/// Compare memkv with its peers
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Run these rows only, comma-separated ids
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Repeats of rows against a peer
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Pairs of rows against ourselves
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// Scale the work of each run; 0.01 only shows that a row runs
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Where to write the rows as JSON
    #[arg(long, default_value = "bench.json")]
    out: PathBuf,
    /// Fail when a row is below its must
    #[arg(long)]
    strict: bool,
}

/// What this program is when it starts itself again.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Serve(ours::Serve),
    #[command(hide = true)]
    Echo {
        port: u16,
        request_bytes: usize,
        reply_bytes: usize,
    },
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match &arguments.role {
        Some(Role::Serve(serve)) => serve.run()?,
        Some(Role::Echo {
            port,
            request_bytes,
            reply_bytes,
        }) => {
            peers::echo::serve(*port, *request_bytes, *reply_bytes)?;
        }
        None => return run(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    for id in &arguments.only {
        if !ALL.iter().any(|benchmark| benchmark.id == id) {
            let ids: Vec<&str> = ALL.iter().map(|benchmark| benchmark.id).collect();
            bail!("there is no row {id:?}; there are {}", ids.join(", "));
        }
    }
    let effort = Effort {
        repeats: arguments.repeats,
        pairs: arguments.pairs,
        scale: arguments.scale,
    };
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    let chosen = ALL.iter().filter(|benchmark| {
        arguments.only.is_empty() || arguments.only.iter().any(|id| id == benchmark.id)
    });
    for benchmark in chosen {
        eprintln!("{} …", benchmark.id);
        match (benchmark.measure)(benchmark.goal, effort) {
            Ok(measured) => {
                for row in &measured {
                    println!("{}", line(row));
                }
                rows.extend(measured);
            }
            Err(error) => {
                eprintln!("{}: not measured: {error:#}", benchmark.id);
                failed.push(benchmark.id);
            }
        }
    }
    std::fs::write(&arguments.out, serde_json::to_string_pretty(&rows)? + "\n")?;
    let below: Vec<&str> = rows
        .iter()
        .filter(|row| !row.holds())
        .map(|row| row.id)
        .collect();
    eprintln!(
        "{} rows in {}; below must: {}; not measured: {}",
        rows.len(),
        arguments.out.display(),
        list(&below),
        list(&failed)
    );
    Ok(match passes(arguments.strict, &below, &failed) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// A row that can't be measured is no row that holds; one below its must counts if we are strict.
fn passes(strict: bool, below: &[&str], not_measured: &[&str]) -> bool {
    not_measured.is_empty() && (below.is_empty() || !strict)
}

fn list(ids: &[&str]) -> String {
    if ids.is_empty() {
        "none".to_owned()
    } else {
        ids.join(", ")
    }
}

fn line(row: &Row) -> String {
    let direction = if row.better == Better::Higher {
        "≥"
    } else {
        "≤"
    };
    let verdict = if row.holds() { "holds" } else { "BELOW" };
    let cpu = row
        .cpu_ratio
        .map_or_else(String::new, |ratio| format!(", CPU {ratio:.2}×"));
    let note = row
        .note
        .as_ref()
        .map_or_else(String::new, |note| format!("  [{note}]"));
    format!(
        "{:<13} {:<52} {:>9.2} vs {:>9.2} {:<11} ratio {:.2} ({:.2}–{:.2}){cpu}; must {direction} {} {verdict}, aim {}; {}{note}",
        row.id,
        row.workload,
        row.ours,
        row.peer,
        row.unit,
        row.ratio,
        row.ratio_min,
        row.ratio_max,
        row.must,
        row.aim,
        row.peer_name,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_runs_fail_below_a_must_and_all_without_a_measurement() {
        for (strict, below, not_measured, expected) in [
            (false, &[][..], &[][..], true),
            (true, &[], &[], true),
            (false, &["get-4m"], &[], true),
            (true, &["get-4m"], &[], false),
            (false, &[], &["put-4m"], false),
            (true, &[], &["put-4m"], false),
        ] {
            let found = passes(strict, below, not_measured);
            assert_eq!(found, expected, "{strict} {below:?} {not_measured:?}");
        }
    }

    #[test]
    fn by_itself_it_repeats_often_enough() {
        let arguments = Arguments::parse_from(["memkv-benches"]);
        assert!(arguments.repeats >= 5 && arguments.pairs >= 20);
        assert_eq!(arguments.scale, 1.0);
        assert_eq!(arguments.out, PathBuf::from("bench.json"));
    }

    #[test]
    fn a_line_names_the_figures_their_spread_the_bounds_and_the_peer() {
        let goal = stats::Goal {
            better: Better::Higher,
            must: 1.0,
            aim: 1.25,
        };
        let pairs = [(2.0, 4.0), (3.0, 4.0), (4.0, 4.0)];
        let (workload, peer) = ("GET 4 MiB".to_owned(), "redis".to_owned());
        let mut row = Row::paired(
            "get-4m",
            workload,
            peer,
            "GB/s",
            goal,
            &pairs,
            &[(1.0, 2.0)],
        );
        row.note = Some("iperf3 -P1: 9.00 GB/s".to_owned());
        let line = line(&row);
        for part in [
            "get-4m ",
            "GET 4 MiB",
            "3.00 vs",
            "4.00 GB/s",
            "ratio 0.75 (0.50–1.00)",
            "CPU 0.50×",
            "must ≥ 1 BELOW",
            "aim 1.25",
            "redis",
            "[iperf3 -P1: 9.00 GB/s]",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}
