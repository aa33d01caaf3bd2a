//! The real `memkv` binary as a child process: for what a supervisor, a signal or an exit code decides.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use memkv_client::{Client, ClientConfig};
use memkv_settings::AuthKey;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub use crate::built::{binary, xtask};
use crate::poll::until;
use crate::server::{KEY, key_hex};

/// Beyond this a start or a stop hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// `memkv` in an empty environment, with its home and working directory in `home`.
pub fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    settle(&mut command, home);
    command.args(arguments);
    command
}

fn settle(command: &mut Command, home: &Path) {
    command
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .stdin(Stdio::null());
}

/// How a start that was refused ended.
#[derive(Debug)]
pub struct Refused {
    /// The exit code.
    pub code: Option<i32>,
    /// The log and the error.
    pub stderr: String,
}

impl Refused {
    /// The error without the log: from `memkv: ` on.
    pub fn error(&self) -> &str {
        let at = self.stderr.find("memkv: ").unwrap_or(0);
        &self.stderr[at..]
    }
}

/// A configuration for a server in file mode, on ports that the kernel chooses.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its home: the configuration and its drives are here.
    pub home: PathBuf,
    /// Path and size of each drive.
    pub drives: Vec<(String, String)>,
    /// Size of the pool.
    pub pool: String,
    /// More lines of the `storage` section.
    pub storage: Vec<String>,
    /// More lines of the `network` section.
    pub network: Vec<String>,
    /// More sections, whole.
    pub sections: String,
    /// More arguments of `memkv start`.
    pub arguments: Vec<String>,
    /// The shared key, in hexadecimal digits.
    pub auth_key: String,
    /// `address:port`.
    pub address: String,
    /// What may stand in warnings and errors of the log.
    pub allowed: Vec<String>,
    /// A program in front of `memkv`, with its arguments.
    pub wrapper: Vec<String>,
    /// The whole configuration, where it isn't made from the fields above.
    pub text: Option<String>,
}

impl Setup {
    /// One drive of `size` under `home`.
    pub fn new(home: &Path, size: &str) -> Self {
        Self {
            home: home.into(),
            drives: vec![("drive-0".into(), size.into())],
            pool: "64 MiB".into(),
            storage: Vec::new(),
            network: Vec::new(),
            sections: String::new(),
            arguments: Vec::new(),
            auth_key: key_hex(&KEY),
            address: "127.0.0.1:0".into(),
            allowed: vec!["huge pages".into()],
            wrapper: Vec::new(),
            text: None,
        }
    }

    /// Adds a line to the `storage` section.
    #[must_use]
    pub fn storage(mut self, line: &str) -> Self {
        self.storage.push(line.into());
        self
    }

    /// Sets the pool's size.
    #[must_use]
    pub fn pool(mut self, size: &str) -> Self {
        self.pool = size.into();
        self
    }

    /// Lets the log warn of `text`.
    #[must_use]
    pub fn allow(mut self, text: &str) -> Self {
        self.allowed.push(text.into());
        self
    }

    /// One more drive of the same size.
    #[must_use]
    pub fn drive(mut self, name: &str) -> Self {
        let size = self.drives[0].1.clone();
        self.drives.push((name.into(), size));
        self
    }

    /// Where a drive's file is.
    pub fn media(&self, idx: usize) -> PathBuf {
        self.home.join(&self.drives[idx].0)
    }

    /// A server on a configuration that is already written.
    pub fn of_text(home: &Path, text: String) -> Self {
        let text = Some(text);
        Self {
            text,
            ..Self::new(home, "")
        }
    }

    /// The configuration.
    pub fn yaml(&self) -> String {
        if let Some(text) = &self.text {
            return text.clone();
        }
        let lines = |lines: &[String]| {
            lines
                .iter()
                .map(|line| format!("  {line}\n"))
                .collect::<String>()
        };
        let drive = |(media, size): &(String, String)| {
            format!("    - media: {media}\n      max_size: {size}\n")
        };
        format!(
            "network:\n  address: {}\n  auth_key: {}\n{}memory:\n  max_size: {}\nrdma:\n  enabled: false\n\
             storage:\n  mode: file\n{}  drives:\n{}{}",
            self.address,
            self.auth_key,
            lines(&self.network),
            self.pool,
            lines(&self.storage),
            self.drives.iter().map(drive).collect::<String>(),
            self.sections,
        )
    }

    /// Writes the configuration file.
    ///
    /// # Panics
    /// If the home doesn't take it.
    pub fn write(&self) {
        fs::write(self.home.join("memkv.yaml"), self.yaml()).expect("a writable home");
    }

    /// Starts a server that must start.
    ///
    /// # Panics
    /// If it is refused.
    pub fn start(&self) -> Program {
        self.try_start()
            .unwrap_or_else(|refused| panic!("exit code {:?}\n{}", refused.code, refused.stderr))
    }

    /// Starts a server.
    ///
    /// # Errors
    /// How it ended, if it didn't come up.
    pub fn try_start(&self) -> Result<Program, Refused> {
        self.write();
        let mut start = vec!["start", "--config", "memkv.yaml"];
        start.extend(self.arguments.iter().map(String::as_str));
        let mut command = match self.wrapper.split_first() {
            None => command(&self.home, &start),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary()).args(start);
                settle(&mut command, &self.home);
                command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
                command
            }
        };
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("memkv runs");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().expect("its stderr"));
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let mut program = Program {
            child,
            log,
            data: SocketAddr::from(([0; 4], 0)),
            admin: SocketAddr::from(([0; 4], 0)),
            allowed: self.allowed.clone(),
            reader: Some(reader),
        };
        let ended = until("memkv serves or ends", PATIENCE, || {
            if let Some(line) = program.line("serving") {
                program.data = address(&line, "data_address");
                program.admin = address(&line, "admin_address");
                return Some(None);
            }
            program.child.try_wait().expect("a child").map(Some)
        });
        let Some(status) = ended else {
            return Ok(program);
        };
        program.read_to_end();
        Err(Refused {
            code: status.code(),
            stderr: program.stderr(),
        })
    }

    /// What `memkv start` says where it mustn't come up; the process is given its time and then killed.
    ///
    /// # Panics
    /// If it serves.
    pub fn refused(&self) -> Refused {
        match self.try_start() {
            Err(refused) => refused,
            Ok(program) => panic!("it serves:\n{}", program.stderr()),
        }
    }
}

fn address(line: &Value, field: &str) -> SocketAddr {
    let text = line[field].as_str().expect("an address in the log");
    text.parse().expect("an address in the log")
}

/// How a stop went.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// From the signal to the end.
    pub took: Duration,
    /// The whole log.
    pub stderr: String,
}

/// A running `memkv start`; killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// Where clients connect.
    pub data: SocketAddr,
    /// Where the admin endpoint answers.
    pub admin: SocketAddr,
    allowed: Vec<String>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Program {
    /// The log so far.
    pub fn stderr(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// The first line of the log with this message.
    pub fn line(&self, message: &str) -> Option<Value> {
        let log = self.log.lock().unwrap();
        let mut lines = log
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.find(|line: &Value| line["message"] == message)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a running server");
    }

    /// A client with the tests' key.
    pub fn client(&self) -> Client {
        self.client_with(KEY)
    }

    /// A client with another key.
    ///
    /// # Panics
    /// If there are no file descriptors left.
    pub fn client_with(&self, key: [u8; 32]) -> Client {
        let mut config = ClientConfig::new([self.data.to_string()], AuthKey::new(key));
        config.num_connections = 2;
        config.op_timeout = Duration::from_secs(20);
        Client::new(config).expect("a client")
    }

    /// A page of the admin endpoint.
    ///
    /// # Panics
    /// If it doesn't answer.
    pub fn page(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.admin);
        let mut response = ureq::get(&url).call().expect("the admin endpoint answers");
        response.body_mut().read_to_string().expect("a text")
    }

    /// `/v1/status`.
    ///
    /// # Panics
    /// If it isn't JSON.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.page("/v1/status")).expect("JSON")
    }

    /// The sum of the samples of a series whose line contains all of `labels`; `None` where there is none.
    pub fn metric(&self, series: &str, labels: &[&str]) -> Option<f64> {
        let page = self.page("/v1/metrics");
        let samples = page.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            let (own, _) = name.split_once('{').unwrap_or((name, ""));
            let is_it = own == series && labels.iter().all(|label| name.contains(label));
            is_it.then(|| value.parse::<f64>().expect("a number"))
        });
        samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// Resident bytes of the process; file-backed pages are not counted.
    ///
    /// # Panics
    /// If it has ended.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let kib = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0)
        };
        (kib("RssAnon:") + kib("RssShmem:")) << 10
    }

    /// SIGKILL, and what it said.
    pub fn kill(mut self) -> Ended {
        let asked = Instant::now();
        let _ = self.child.kill();
        self.end(asked)
    }

    /// SIGTERM; it must end with 0, never have panicked nor complained of what isn't allowed.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn stop(self) -> Ended {
        let asked = Instant::now();
        self.signal(Signal::TERM);
        self.ended(asked)
    }

    /// Waits for the end of one that was told to stop at `asked`, and checks it like [`Program::stop`].
    ///
    /// # Panics
    /// As there.
    pub fn ended(mut self, asked: Instant) -> Ended {
        let allowed = std::mem::take(&mut self.allowed);
        let ended = self.end(asked);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        check_log(&ended.stderr, &allowed);
        ended
    }

    fn end(&mut self, asked: Instant) -> Ended {
        let status = until("memkv ends", PATIENCE, || {
            self.child.try_wait().expect("a child")
        });
        let took = asked.elapsed();
        self.read_to_end();
        let stderr = self.stderr();
        assert!(!stderr.contains("panicked"), "{stderr}");
        Ended {
            code: status.code(),
            took,
            stderr,
        }
    }

    fn read_to_end(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log's reader");
        }
    }
}

/// Fails for a warning or an error that contains none of `allowed`.
fn check_log(log: &str, allowed: &[String]) {
    let bad = log.lines().filter(|line| {
        let complains = ["\"WARN\"", "\"ERROR\""]
            .iter()
            .any(|level| line.contains(level));
        complains && !allowed.iter().any(|text| line.contains(text))
    });
    let bad: Vec<&str> = bad.collect();
    assert!(bad.is_empty(), "the server complained: {bad:#?}");
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `memkv` to its end.
///
/// # Panics
/// If it can't be run.
pub fn run(home: &Path, arguments: &[&str]) -> Output {
    command(home, arguments).output().expect("memkv runs")
}
