//! All automation: what CI runs, what generates committed files, what builds outside tools.
//!
//! `cargo xtask help` lists the tasks; the Makefile's targets are thin callers of them. Nothing of
//! ours is linked here: tasks drive cargo, git and other programs, so that this builds in seconds
//! even while the workspace doesn't compile.
#![forbid(unsafe_code)]

mod ci;
mod collector;
mod fuzz;
mod generated;
mod install;
mod nightly;
mod run;
mod sh;
mod tidy;
mod tiers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "memkv's automation",
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that decides whether a change lands (`make test`)
    Ci,
    /// Formatting, lints, dead links, stray words, licences, generated files
    Tidy,
    /// Fuzz one target, or every target in turn
    #[command(
        after_help = "Needs cargo-fuzz (cargo install cargo-fuzz --locked), but no nightly toolchain.

Examples:
  cargo xtask fuzz                             every target for a minute
  cargo xtask fuzz --seconds 5                 do they all still run?
  cargo xtask fuzz proto_frame --seconds 3600  one target for an hour"
    )]
    Fuzz {
        /// Name of a target in tests/fuzz (`cargo fuzz list --fuzz-dir tests/fuzz`); all of them when absent
        target: Option<String>,
        /// Seconds per target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Write dashboards/json and dashboards/alerts anew
    Dashboards,
    /// Write every generated file anew: dashboards, config/*.yaml, what is generated in docs
    Docs,
    /// Install what a make target needs (scripts/deps.sh)
    Deps {
        /// build, test or bench
        #[arg(default_value = "test")]
        group: String,
    },
    /// Build the OpenTelemetry Collector that the tests run; prints its path
    Collector,
    /// Build, start a development server, run the demo, stay up until Ctrl-C (`make run`)
    #[command(after_help = "Examples:
  cargo xtask run                               what `make run` does
  cargo xtask run --port 9910 --dir /tmp/other  beside another one
  cargo xtask run --once --bytes '64 MiB'       a quick look, and then it ends")]
    Run {
        /// Stop after the demo instead of waiting for Ctrl-C
        #[arg(long)]
        once: bool,
        /// Where clients connect; the admin endpoint takes the port above it
        #[arg(long, default_value_t = run::PORT, value_parser = clap::value_parser!(u16).range(1..=65534))]
        port: u16,
        /// How much the demo writes
        #[arg(long, value_name = "SIZE", default_value = "1 GiB")]
        bytes: String,
        /// Where ./data is made; the workspace's root by default
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// A binary that is already built, instead of building the release
        #[arg(long, value_name = "FILE")]
        memkv: Option<PathBuf>,
    },
    /// Install the release binary, completions and example configs (`make install`)
    Install {
        /// Directory that gets bin/ and share/
        #[arg(long)]
        prefix: PathBuf,
        /// A binary that is already built, instead of building the release
        #[arg(long, value_name = "FILE")]
        memkv: Option<PathBuf>,
    },
    /// What is too slow for every change: slow tests, AddressSanitizer, fuzzing
    #[command(
        after_help = "Every step runs although one before it failed; the end lists them with their times.

Examples:
  cargo xtask nightly               an estimated three and a half hours, nearly all of it fuzzing
  cargo xtask nightly --seconds 10  the same steps, as quick as can be"
    )]
    Nightly {
        /// Seconds per fuzz target
        #[arg(long, default_value_t = 600)]
        seconds: u32,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Ci => ci::ci(),
        Task::Tidy => tidy::tidy(),
        Task::Fuzz { target, seconds } => fuzz::fuzz(target.as_deref(), seconds),
        Task::Dashboards => generated::dashboards(),
        Task::Docs => generated::docs(),
        Task::Deps { group } => sh::run(sh::command("scripts/deps.sh").arg(group)),
        Task::Collector => collector::print_path(),
        Task::Run {
            once,
            port,
            bytes,
            dir,
            memkv,
        } => run::run(&run::Run {
            once,
            port,
            bytes,
            dir,
            memkv,
        }),
        Task::Install { prefix, memkv } => install::install(&prefix, memkv.as_deref()),
        Task::Nightly { seconds } => nightly::nightly(seconds),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
