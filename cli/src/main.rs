//! memkv: one program for servers, clients and those who run them.
//!
//! Each verb is a module: its arguments, its help with examples, and `run`. What a verb prints for
//! programs goes to stdout, everything else to stderr. Exit codes are listed in [`exit`].
#![forbid(unsafe_code)]

mod admin;
mod admin_http;
mod args;
mod base64;
mod batch;
mod bench;
mod chart;
mod completions;
mod connection;
mod del;
mod demo;
mod doc;
#[cfg(test)]
mod documented;
mod exists;
mod exit;
mod files;
mod get;
mod keys;
mod out;
mod put;
#[cfg(test)]
mod reference;
mod scrape;
mod setup;
mod slow;
mod start;
mod version;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// What a collector may take at the end of a verb.
const EXPORT_TIMEOUT: Duration = Duration::from_millis(500);

/// A key-value server for LLM KV-cache blocks, its client and its tools
#[derive(Debug, Parser)]
#[command(
    name = "memkv",
    version = version::text(),
    max_term_width = 100,
    after_help = exit::Exit::help(),
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Setup(setup::Setup),
    Start(start::Start),
    Bench(bench::Bench),
    Demo(demo::Demo),
    Admin(admin::AdminVerb),
    Slow(slow::Slow),
    Put(put::Put),
    Get(get::Get),
    Del(del::Del),
    Exists(exists::Exists),
    Batch(batch::Batch),
    Doc(doc::Doc),
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; a reader that left doesn't change the code.
            let _ = error.print();
            let exit = if error.use_stderr() {
                exit::Exit::Usage
            } else {
                exit::Exit::Done
            };
            return ExitCode::from(exit as u8);
        }
    };
    let outcome = match cli.verb {
        Verb::Setup(setup) => setup.run(),
        Verb::Start(start) => start.run(),
        Verb::Bench(bench) => bench.run(),
        Verb::Demo(demo) => demo.run(),
        Verb::Admin(admin) => admin.run(),
        Verb::Slow(slow) => slow.run(),
        Verb::Put(put) => put.run(),
        Verb::Get(get) => get.run(),
        Verb::Del(del) => del.run(),
        Verb::Exists(exists) => exists.run(),
        Verb::Batch(batch) => batch.run(),
        Verb::Doc(doc) => doc.run(),
        Verb::Completions(completions) => completions.run(),
    };
    // What a client's exporters hold is sent before the process ends; without exporters this does nothing.
    if let Err(unsent) = memkv_client::shutdown_telemetry(EXPORT_TIMEOUT) {
        out::tell(format_args!("memkv: warning: {unsent}"));
    }
    let exit = outcome.unwrap_or_else(|failure| {
        failure.report();
        failure.exit
    });
    ExitCode::from(exit as u8)
}
