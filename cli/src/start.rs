//! `memkv start`: checks a configuration, and runs a server on it.

mod observe;
mod run;

use std::path::{Path, PathBuf};

use clap::Args;
use memkv_server::config::{Config, ConfigError, DEFAULT_PATH, DEV_PORT, Origin};
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
  memkv start --dev --port 9910               beside another one, for MEMKV_SERVERS=127.0.0.1:9910
  memkv start                                 run on /etc/memkv/config.yaml
  memkv start --config my.yaml --check        every effective value and where it came from
  memkv start --check --json | jq '.values'   the same for programs

Signals: SIGTERM and SIGINT drain and stop (exit code 0), SIGHUP reads keys and certificates again.

Exit codes: 0 stopped, 3 the configuration is wrong or forbids to start, 7 a drive is in use
or holds what isn't this store's, 1 anything else. --check opens no drive: 0 or 3."
)]
pub(crate) struct Start {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Run on an embedded configuration: 127.0.0.1:9900, files under ./data, a 256 MiB pool, a key
    /// under $HOME
    #[arg(long, conflicts_with = "config")]
    dev: bool,
    /// With --dev: the data port; the admin endpoint takes the one above it
    #[arg(long, requires = "dev", default_value_t = DEV_PORT, value_parser = clap::value_parser!(u16).range(1..=65534))]
    port: u16,
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
            origin: match self.dev {
                true => Origin::Dev { port: self.port },
                false => Origin::File(self.config.clone()),
            },
            options: LoadOptions {
                allow_unknown_keys: self.allow_unknown_keys,
                ..LoadOptions::default()
            },
            environment: env::capture(),
        };
        let config = reading.load();
        if self.check {
            return self.show(config, env::home(&reading.environment).as_deref());
        }
        run::run(config.map_err(refusal)?, &reading)
    }

    /// `--check`: the table or the JSON on stdout, warnings and problems on stderr.
    fn show(&self, config: Result<Config, ConfigError>, home: Option<&Path>) -> Outcome {
        if self.json {
            return show_json(config, home);
        }
        let config = config.map_err(refusal)?;
        // What a start would end with, too.
        config
            .check_auth_keys(home)
            .map_err(|error| Failure::new(Exit::Config, error))?;
        out::print(&effective_table(config.effective()))?;
        for warning in config.warnings() {
            out::tell(format_args!("memkv: warning: {warning}"));
        }
        Ok(Exit::Done)
    }
}

fn show_json(config: Result<Config, ConfigError>, home: Option<&Path>) -> Outcome {
    let (exit, shown) = match config {
        Ok(config) => {
            if let Err(error) = config.check_auth_keys(home) {
                let problem = format!("{:#}", anyhow::Error::new(error));
                out::print(&format!("{:#}\n", json!({ "problems": [problem] })))?;
                return Ok(Exit::Config);
            }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use memkv_server::config::Facts;
    use memkv_settings::Environment;

    use super::*;

    /// How `start --dev --check` ends in this home.
    fn check(home: Option<&Path>) -> Outcome {
        let start = Start {
            config: DEFAULT_PATH.into(),
            dev: true,
            port: DEV_PORT,
            check: true,
            json: false,
            allow_unknown_keys: false,
        };
        let config = Config::dev(
            DEV_PORT,
            &Environment::default(),
            &Facts::read(),
            &LoadOptions::default(),
        );
        start.show(config.map_err(ConfigError::Invalid), home)
    }

    #[test]
    fn a_check_refuses_the_development_key_that_a_start_would_and_makes_none() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(check(Some(home.path())).unwrap(), Exit::Done);
        let key = home.path().join(memkv_settings::dev_key::PATH);
        assert!(!key.parent().unwrap().exists(), "a check makes nothing");
        fs::create_dir(key.parent().unwrap()).unwrap();
        let digits = "0f".repeat(32);
        for (text, mode, ends) in [
            (digits.as_str(), 0o600, None),
            (digits.as_str(), 0o644, Some("mode 0644")),
            ("garbage", 0o600, Some("64 hexadecimal digits")),
        ] {
            fs::write(&key, text).unwrap();
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            refuses(check(Some(home.path())), ends);
        }
        refuses(check(None), Some("HOME is not set"));
    }

    fn refuses(outcome: Outcome, want: Option<&str>) {
        match (outcome, want) {
            (Ok(exit), None) => assert_eq!(exit, Exit::Done),
            (Err(failure), Some(want)) => {
                assert_eq!(failure.exit, Exit::Config);
                let text = failure.error.unwrap().to_string();
                assert!(text.contains(want), "{text}");
            }
            (outcome, want) => panic!("{outcome:?}, but wanted {want:?}"),
        }
    }
}
