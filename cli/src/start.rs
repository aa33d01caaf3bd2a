//! `memkv start`: checks a configuration, and runs a server on it.

mod observe;
mod run;

use std::path::PathBuf;

use clap::Args;
use memkv_server::config::{Config, ConfigError, DEFAULT_PATH, Origin};
use memkv_server::env;
use memkv_settings::{LoadOptions, effective_json, effective_table};
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome};
use crate::out;

/// Start a server, or check its configuration
#[derive(Debug, Args)]
#[command(
    after_help = "Values come, weakest first, from the defaults, the file and the environment.

Examples:
  memkv start --dev                           try memkv out: loopback, files under ./data
  memkv start                                 run on /etc/memkv/config.yaml
  memkv start --config my.yaml --check        every effective value and where it came from
  memkv start --check --json | jq '.values'   the same for programs

Signals: SIGTERM and SIGINT drain and stop (exit code 0), SIGHUP reads keys and certificates again."
)]
pub(crate) struct Start {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Run on an embedded configuration: 127.0.0.1:9900, files under ./data, a 256 MiB pool, a key
    /// under $HOME
    #[arg(long, conflicts_with = "config")]
    dev: bool,
    /// Print every effective value and where it came from, and stop
    #[arg(long)]
    check: bool,
    /// With --check: print JSON
    #[arg(long, requires = "check")]
    json: bool,
    /// Warn of keys that mean nothing, instead of refusing them
    #[arg(long)]
    allow_unknown_keys: bool,
}

impl Start {
    pub(crate) fn run(self) -> Outcome {
        let reading = run::Reading {
            origin: Origin::from_flags(self.dev, Some(&self.config)),
            options: LoadOptions {
                allow_unknown_keys: self.allow_unknown_keys,
                ..LoadOptions::default()
            },
            environment: env::capture(),
        };
        let config = reading.load();
        if self.check {
            return self.show(config);
        }
        run::run(config.map_err(refusal)?, &reading)
    }

    /// `--check`: the table or the JSON on stdout, warnings and problems on stderr.
    fn show(&self, config: Result<Config, ConfigError>) -> Outcome {
        if self.json {
            return show_json(config);
        }
        let config = config.map_err(refusal)?;
        out::print(&effective_table(config.effective()))?;
        for warning in config.warnings() {
            out::tell(format_args!("memkv: warning: {warning}"));
        }
        Ok(Exit::Done)
    }
}

fn show_json(config: Result<Config, ConfigError>) -> Outcome {
    let (exit, shown) = match config {
        Ok(config) => {
            let values = effective_json(config.effective());
            (
                Exit::Done,
                json!({ "values": values, "warnings": config.warnings() }),
            )
        }
        Err(ConfigError::Invalid(problems)) => {
            let problems: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
            (Exit::Config, json!({ "problems": problems }))
        }
        Err(error) => return Err(refusal(error)),
    };
    out::print(&format!("{shown:#}\n"))?;
    Ok(exit)
}

fn refusal(error: ConfigError) -> Failure {
    match error {
        ConfigError::Invalid(problems) => {
            let count = match problems.0.len() {
                1 => "1 problem".to_owned(),
                n => format!("{n} problems"),
            };
            let text = problems.to_string().replace('\n', "\n  ");
            Failure::new(
                Exit::Config,
                anyhow::anyhow!("the configuration has {count}:\n  {text}"),
            )
        }
        error => Failure::new(Exit::Config, error),
    }
}
