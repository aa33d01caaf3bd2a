//! A real Prometheus that scrapes servers under test, and promtool.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::free_address;
use crate::poll::until;
use crate::tier::{Tier, find_program};

/// How long Prometheus may take to start, and a query's data to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running Prometheus; killed when dropped.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    dir: TempDir,
}

/// What it scrapes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// Such as `/v1/metrics`.
    pub path: &'static str,
}

/// One series of an instant query's answer.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its labels, as Prometheus has them.
    pub labels: Value,
    /// Its value now.
    pub value: f64,
}

impl Prometheus {
    /// Starts one that scrapes each of `targets` as a job of its own every second and evaluates `rules` as
    /// often; `None`, reported as a skipped tier, where there is no Prometheus.
    pub fn start(targets: &[Target], rules: &[PathBuf]) -> Option<Prometheus> {
        let Some(program) = find_program("prometheus") else {
            Tier::Prometheus.skipped("no prometheus; run `scripts/deps.sh test`");
            return None;
        };
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        write_config(dir.path(), targets, rules);
        // Prometheus can't be asked which port it got, so a free one is found for it; should
        // somebody else take it in between, the start fails and is tried again.
        for _ in 0..5 {
            let address = free_address();
            let mut child = spawn(&program, dir.path(), address);
            let is_ready = until("Prometheus is ready or has ended", PATIENCE, || {
                let has_ended = child.try_wait().expect("can be waited for").is_some();
                let is_ready = get(address, "/-/ready").is_ok();
                (has_ended || is_ready).then_some(!has_ended)
            });
            if is_ready {
                Tier::Prometheus.ran();
                return Some(Prometheus {
                    child,
                    address,
                    dir,
                });
            }
        }
        let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("Prometheus doesn't start:\n{log}");
    }

    /// Evaluates an expression now.
    ///
    /// # Errors
    /// What Prometheus says is wrong with it.
    pub fn query(&self, expr: &str) -> Result<Vec<Sample>, String> {
        let answer = self.api("/api/v1/query", &[("query", expr)])?;
        let result = answer["result"].as_array().cloned().unwrap_or_default();
        if answer["resultType"] == "scalar" {
            return Err(format!("{expr} is a scalar; panels and rules are vectors"));
        }
        Ok(result.iter().map(sample).collect())
    }

    /// Waits until an expression, which stands at `place`, returns at least one number.
    pub fn wait_for(&self, place: &str, expr: &str) -> Vec<Sample> {
        until(&format!("{place}: {expr} returns data"), PATIENCE, || {
            let samples = self
                .query(expr)
                .unwrap_or_else(|error| panic!("{expr}: {error}"));
            samples
                .iter()
                .any(|sample| !sample.value.is_nan())
                .then_some(samples)
        })
    }

    /// Every rule as `/api/v1/rules` shows it, once all were evaluated.
    pub fn rules(&self) -> Vec<Value> {
        until("every rule was evaluated", PATIENCE, || {
            let answer = self.api("/api/v1/rules", &[]).expect("rules can be listed");
            let groups = answer["groups"].as_array().cloned().unwrap_or_default();
            let rules: Vec<Value> = groups
                .iter()
                .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
                .collect();
            let is_done = !rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown");
            is_done.then_some(rules)
        })
    }

    /// Exemplars of an expression within the last five minutes.
    ///
    /// # Errors
    /// What Prometheus says is wrong with it.
    pub fn exemplars(&self, expr: &str) -> Result<Vec<Value>, String> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("the clock is past 1970")
            .as_secs();
        let (start, end) = ((now - 300).to_string(), (now + 60).to_string());
        let query = [("query", expr), ("start", &start), ("end", &end)];
        let answer = self.api("/api/v1/query_exemplars", &query)?;
        Ok(answer.as_array().cloned().unwrap_or_default())
    }

    fn api(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let url = format!("http://{}{path}", self.address);
        let agent = agent();
        let request = agent.get(&url).query_pairs(query.iter().copied());
        let mut response = request.call().map_err(|error| error.to_string())?;
        let text = response
            .body_mut()
            .read_to_string()
            .map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if answer["status"] == "success" {
            Ok(answer["data"].clone())
        } else {
            Err(answer["error"].as_str().unwrap_or(&text).to_owned())
        }
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Runs promtool in `dir` on `input` and returns what it wrote; `None`, reported as a skipped tier, where
/// there is none.
///
/// # Errors
/// What it wrote, if it found fault.
pub fn promtool(dir: &Path, arguments: &[&str], input: &str) -> Option<Result<String, String>> {
    let Some(program) = find_program("promtool") else {
        Tier::Prometheus.skipped("no promtool; run `scripts/deps.sh test`");
        return None;
    };
    Tier::Prometheus.ran();
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be started");
    // It reads all its input before it writes; dropping the pipe ends the input.
    let mut pipe = child.stdin.take().expect("is piped");
    pipe.write_all(input.as_bytes())
        .expect("promtool reads its input");
    drop(pipe);
    let output = child
        .wait_with_output()
        .expect("promtool can be waited for");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Some(if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    })
}

fn write_config(dir: &Path, targets: &[Target], rules: &[PathBuf]) {
    let mut config = "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n".to_owned();
    config.push_str("rule_files: [\"*.rules.yaml\"]\n");
    config.push_str("scrape_configs:\n");
    for (idx, Target { address, path }) in targets.iter().enumerate() {
        config.push_str(&format!(
            "  - job_name: memkv-{idx}\n    metrics_path: {path}\n    \
             static_configs: [{{targets: [\"{address}\"]}}]\n"
        ));
    }
    fs::write(dir.join("prometheus.yml"), config).expect("the configuration can be written");
    for path in rules {
        let text = fs::read_to_string(path).expect("the rule file can be read");
        // As shipped, but evaluated often enough for a test.
        let text = text.replace("interval: 30s", "interval: 1s");
        let name = path.file_stem().expect("has a name").to_string_lossy();
        fs::write(dir.join(format!("{name}.rules.yaml")), text).expect("rules can be written");
    }
}

fn spawn(program: &Path, dir: &Path, address: SocketAddr) -> Child {
    let log = fs::File::create(dir.join("log")).expect("the log can be made");
    Command::new(program)
        .current_dir(dir)
        .arg("--config.file=prometheus.yml")
        .arg("--storage.tsdb.path=data")
        .arg("--enable-feature=exemplar-storage")
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("Prometheus can be started")
}

fn agent() -> ureq::Agent {
    // Prometheus explains a bad query in the body of a 400.
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .into()
}

fn get(address: SocketAddr, path: &str) -> Result<(), ureq::Error> {
    ureq::get(format!("http://{address}{path}"))
        .call()
        .map(|_| ())
}

fn sample(result: &Value) -> Sample {
    let value = result["value"][1].as_str().unwrap_or("NaN");
    Sample {
        labels: result["metric"].clone(),
        value: value.parse().unwrap_or(f64::NAN),
    }
}
