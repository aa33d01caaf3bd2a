//! The program's verbs against real servers, as people and scripts use them: what goes in, what comes out, how it ends.

mod admin;
mod demo;
mod dev;
mod exits;
mod verbs;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use memkv_tests::program::{Program, Setup, command};
use memkv_tests::server::{KEY, key_hex};
use serde_json::Value;
use tempfile::TempDir;

/// How a run of `memkv` ended.
struct Done {
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl Done {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }

    /// Each line of stdout as JSON.
    fn rows(&self) -> Vec<Value> {
        let row = |line| serde_json::from_str(line).expect("a row of JSON");
        self.text().lines().map(row).collect()
    }

    /// Expects an exit code, and words on stderr.
    #[track_caller]
    fn ends(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, code, "{}\n{}", self.text(), self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for words in words {
            assert!(self.stderr.contains(words), "{words:?}: {}", self.stderr);
        }
        self
    }
}

/// A home with `memkv` in it, pointed at a server by the environment alone.
struct Shell {
    home: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Shell {
    fn at(server: &Program) -> Self {
        Self::of(&server.data.to_string())
    }

    fn of(servers: &str) -> Self {
        let environment = vec![
            ("MEMKV_SERVERS", servers.to_owned()),
            ("MEMKV_AUTH_KEY", key_hex(&KEY)),
            ("MEMKV_NUM_CONNECTIONS", "2".to_owned()),
        ];
        let home = TempDir::new().expect("a home");
        Self { home, environment }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.retain(|(set, _)| *set != name);
        self.environment.push((name, value.into()));
        self
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    fn run(&self, arguments: &[&str]) -> Done {
        self.pipe(arguments, b"")
    }

    /// With `stdin`.
    fn pipe(&self, arguments: &[&str], stdin: &[u8]) -> Done {
        let mut child = command(self.path(), arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("memkv runs");
        let mut input = child.stdin.take().expect("its stdin");
        let bytes = stdin.to_vec();
        let writer = std::thread::spawn(move || {
            // One that ends early doesn't read all of it.
            let _ = input.write_all(&bytes);
        });
        let output = child.wait_with_output().expect("memkv ends");
        writer.join().expect("the writer");
        let done = Done {
            code: output.status.code().expect("an exit code"),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        let documented = self.documented(arguments);
        // Command lines and configurations can be wrong for every verb.
        let is_documented = [2, 3].contains(&done.code) || documented.contains(&done.code);
        assert!(
            documented.is_empty() || is_documented,
            "{arguments:?} ends with {}, but its help names {documented:?}: {}",
            done.code,
            done.stderr
        );
        done
    }

    /// The exit codes in the help of the verb that `arguments` start with; none where it names none.
    fn documented(&self, arguments: &[&str]) -> Vec<i32> {
        let words = match arguments {
            ["batch" | "admin", ..] => 2,
            _ => 1,
        };
        let verb = arguments.get(..words).unwrap_or(arguments);
        let help = command(self.path(), &[verb, &["--help"]].concat());
        let help = { help }.output().expect("memkv runs");
        let help = String::from_utf8(help.stdout).expect("text");
        let codes = help.split("Exit codes:").nth(1).unwrap_or("");
        let codes = codes.split(|c: char| !c.is_ascii_digit());
        codes.filter_map(|code| code.parse().ok()).collect()
    }
}

/// A server in file mode with room for 64 MiB.
fn server(home: &TempDir) -> Program {
    Setup::new(home.path(), "64 MiB").start()
}
