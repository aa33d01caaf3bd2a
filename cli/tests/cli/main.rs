//! The program as a user meets it: what goes to stdout, what to stderr, and how it ends.

mod server;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use expect_test::{Expect, expect};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// memkv in an empty environment, its home and working directory in `home`.
fn memkv(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memkv"));
    command
        .env_clear()
        .env("HOME", home)
        .current_dir(home)
        .args(arguments);
    command.stdin(Stdio::null());
    command
}

fn run(home: &Path, arguments: &[&str]) -> Output {
    memkv(home, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs memkv on a configuration; expects an exit code and what stderr says.
fn check(yaml: &str, arguments: &[&str], code: i32, expected: Expect) {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("c.yaml"), yaml).unwrap();
    let arguments = [&["start", "--config", "c.yaml"], arguments].concat();
    let output = run(home.path(), &arguments);
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    expected.assert_eq(&text(&output.stderr));
}

#[test]
fn check_prints_the_table_and_starts_nothing() {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), &["start", "--dev", "--check"]);
    assert_eq!(output.status.code(), Some(0));
    let table = text(&output.stdout);
    assert!(table.starts_with("KEY "), "{table}");
    for row in [
        "network.address",
        "rdma.traffic_class",
        "storage.drives[0].media",
        "license",
    ] {
        assert!(
            table
                .lines()
                .any(|line| line.split_whitespace().next() == Some(row)),
            "{row}"
        );
    }
    assert!(!table.contains(KEY));
    assert_eq!(
        fs::read_dir(home.path()).unwrap().count(),
        0,
        "no key, no data"
    );
}

#[test]
fn check_prints_json_for_programs() {
    let home = tempfile::tempdir().unwrap();
    let output = memkv(home.path(), &["start", "--dev", "--check", "--json"])
        .env("MEMKV_AUTH_KEY", KEY)
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["values"]["network.address"]["value"], "127.0.0.1:9900");
    assert_eq!(
        json["values"]["network.auth_key"]["from"],
        "env MEMKV_AUTH_KEY"
    );
    assert!(!text(&output.stdout).contains(&KEY[..16]));

    fs::write(home.path().join("c.yaml"), "rmda: {}\n").unwrap();
    let output = run(
        home.path(),
        &["start", "--config", "c.yaml", "--check", "--json"],
    );
    assert_eq!(output.status.code(), Some(3));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        json["problems"][0],
        "c.yaml:1: unknown key rmda; did you mean rdma?"
    );
}

#[test]
fn a_refused_configuration_ends_with_3_and_says_everything() {
    let file = "network: { address: 127.0.0.1:0 }\nrdma: { enabled: false }\nstorage: { mode: file, drives: [{ media: d }] }\n";
    let yaml = file
        .replace("false", "false, trafic_class: 3")
        .replace("file", "disk");
    check(
        &yaml,
        &[],
        3,
        expect![[r#"
        memkv: the configuration has 2 problems:
          c.yaml:2: unknown key trafic_class in rdma; did you mean traffic_class?
          c.yaml:3: storage.mode is disk, but must be direct | file | memory
    "#]],
    );
    check(
        &yaml,
        &["--check"],
        3,
        expect![[r#"
        memkv: the configuration has 2 problems:
          c.yaml:2: unknown key trafic_class in rdma; did you mean traffic_class?
          c.yaml:3: storage.mode is disk, but must be direct | file | memory
    "#]],
    );
    check(
        "a: [",
        &["--check"],
        3,
        expect![[r#"
        memkv: the configuration has 1 problem:
          c.yaml:2:1: not YAML: while parsing a node, did not find expected node content
    "#]],
    );
    check(
        &file.replace("127.0.0.1:0", "0.0.0.0:0"),
        &[],
        3,
        expect![[r#"
        memkv: the configuration has 1 problem:
          network.auth_key is not set, but network.address 0.0.0.0:0 can be reached from other hosts; set it or MEMKV_AUTH_KEY to 64 hexadecimal digits (make one with: openssl rand -hex 32), or listen on 127.0.0.1
    "#]],
    );
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), &["start", "--config", "none.yaml"]);
    assert_eq!(output.status.code(), Some(3));
    expect![[r#"
        memkv: read the configuration none.yaml; write one with memkv setup, name another one with --config, or try memkv start --dev
          because: No such file or directory (os error 2)
    "#]]
    .assert_eq(&text(&output.stderr));
}

#[test]
fn unknown_keys_are_let_through_on_request() {
    let home = tempfile::tempdir().unwrap();
    let yaml = "network: { address: 127.0.0.1:0 }\nrdma: { enabled: false, trafic_class: 3 }\nstorage: { mode: file, drives: [{ media: d }] }\n";
    fs::write(home.path().join("c.yaml"), yaml).unwrap();
    let arguments = [
        "start",
        "--config",
        "c.yaml",
        "--check",
        "--allow-unknown-keys",
    ];
    let output = run(home.path(), &arguments);
    assert_eq!(output.status.code(), Some(0));
    let warning =
        "c.yaml:2: unknown key trafic_class in rdma; did you mean traffic_class? (ignored)";
    assert!(
        text(&output.stderr).contains(warning),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn wrong_command_lines_end_with_2() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [
        &["nonsense"][..],
        &[],
        &["start", "--dev", "--config", "x"],
        &["start", "--json"],
        &["completions", "tcsh"],
    ] {
        let output = run(home.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn version_names_version_commit_and_features() {
    let home = tempfile::tempdir().unwrap();
    for flag in ["--version", "-V"] {
        let output = run(home.path(), &[flag]);
        assert_eq!(output.status.code(), Some(0));
        let version = text(&output.stdout);
        let (first, features) = version.split_once('\n').unwrap();
        let start = format!("memkv {} (commit ", env!("CARGO_PKG_VERSION"));
        let commit = first
            .strip_prefix(&start)
            .and_then(|rest| rest.strip_suffix(')'))
            .unwrap();
        assert_eq!(commit, built_from(), "{first}");
        assert!(features.starts_with("features: tcp,") && features.contains("without rdma"));
    }
}

/// What the version names: the packager's word, else the commit that is checked out, else `unknown`.
fn built_from() -> String {
    if let Some(commit) = option_env!("MEMKV_COMMIT") {
        return commit.trim().to_owned();
    }
    let mut git = Command::new("git");
    git.args(["rev-parse", "--short=12", "HEAD"]);
    match git.current_dir(env!("CARGO_MANIFEST_DIR")).output() {
        Ok(output) if output.status.success() => text(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// Checks the help of `path` and of everything below it; gives the names that were seen.
fn help_has_examples(home: &Path, path: &[&str]) -> Vec<String> {
    let output = run(home, &[path, &["--help"]].concat());
    assert_eq!(output.status.code(), Some(0), "{path:?}");
    let help = text(&output.stdout);
    let Some((_, verbs)) = help.split_once("Commands:") else {
        let example = format!("  memkv {}", path.join(" "));
        let (_, examples) = help.split_once("Examples:").unwrap_or(("", ""));
        assert!(examples.contains(&example), "{path:?}: {help}");
        return vec![path.join(" ")];
    };
    let verbs = verbs.split("Options:").next().unwrap().lines();
    let verbs = verbs
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help");
    verbs
        .flat_map(|verb| help_has_examples(home, &[path, &[verb]].concat()))
        .collect()
}

#[test]
fn every_verb_has_help_with_examples() {
    let home = tempfile::tempdir().unwrap();
    let seen = help_has_examples(home.path(), &[]);
    for verb in ["start", "completions", "admin status", "batch put"] {
        assert!(seen.iter().any(|seen| seen == verb), "{verb}: {seen:?}");
    }
}

/// The shells that the help offers.
fn shells(home: &Path) -> Vec<String> {
    let help = text(&run(home, &["completions", "--help"]).stdout);
    let (_, shells) = help.split_once("possible values: ").unwrap();
    let (shells, _) = shells.split_once(']').unwrap();
    shells.split(", ").map(str::to_owned).collect()
}

#[test]
fn completions_name_every_verb() {
    let home = tempfile::tempdir().unwrap();
    let shells = shells(home.path());
    for shell in ["bash", "zsh", "fish"] {
        assert!(shells.iter().any(|known| known == shell), "{shells:?}");
    }
    for shell in &shells {
        let output = run(home.path(), &["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = text(&output.stdout);
        for word in ["start", "completions", "allow-unknown-keys"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
        if shell == "bash" {
            fs::write(home.path().join("script"), &script).unwrap();
            let mut bash = Command::new("bash");
            let checked = bash.arg("-n").arg(home.path().join("script")).output();
            assert!(checked.unwrap().status.success(), "bash reads it");
        }
    }
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [
        &["start", "--dev", "--check"][..],
        &["completions", "bash"],
        &["--help"],
    ] {
        let mut child = memkv(home.path(), arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{arguments:?}");
        assert!(
            !stderr.contains("panic") && !stderr.contains("ipe"),
            "{arguments:?}: {stderr}"
        );
    }
}

#[test]
fn setup_writes_only_yaml_to_stdout_and_the_server_accepts_it() {
    let home = tempfile::tempdir().unwrap();
    let output = run(
        home.path(),
        &["setup", "--drives", "d0", "d1", "--shard-size", "1024"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("memkv: ") && text(&output.stderr).contains("d0 is blank")
    );
    let yaml = text(&output.stdout).replace("0.0.0.0", "127.0.0.1");
    fs::write(home.path().join("c.yaml"), yaml).unwrap();
    let output = run(home.path(), &["start", "--config", "c.yaml", "--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(
        table.contains(home.path().join("d1").to_str().unwrap()),
        "{table}"
    );
}

#[test]
fn setup_refuses_what_is_not_blank_and_touches_nothing() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("mine"), "precious").unwrap();
    let mut ours = b"memkvSB\x01 and so on".to_vec();
    ours.resize(16 << 20, 0);
    fs::write(home.path().join("ours"), &ours).unwrap();
    let mut late = vec![0; 17 << 20];
    late[16 << 20] = 1;
    fs::write(home.path().join("late"), &late).unwrap();
    fs::write(home.path().join("blank"), "").unwrap();
    let drives = ["setup", "--drives", "blank", "mine", "ours", "late"];
    let output = run(home.path(), &drives);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
    let stderr = text(&output.stderr).replace(home.path().to_str().unwrap(), "HOME");
    expect![[r#"
        memkv: nothing was touched, because
          HOME/mine holds data of unknown origin; --force wipes it
          HOME/ours belongs to memkv, but all copies of its superblock are damaged; --force wipes it
          HOME/late holds data of unknown origin; --force wipes it
    "#]]
    .assert_eq(&stderr);
    assert_eq!(fs::read(home.path().join("mine")).unwrap(), b"precious");
    assert!(fs::read(home.path().join("ours")).unwrap() == ours);

    let output = run(home.path(), &[&drives[..], &["--force"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for name in ["mine", "ours", "late"] {
        assert!(
            fs::read(home.path().join(name)).unwrap().is_empty(),
            "{name} was wiped"
        );
    }
}

#[test]
fn setup_names_every_drive_that_it_cannot_look_at() {
    let home = tempfile::tempdir().unwrap();
    let output = run(
        home.path(),
        &["setup", "--drives", ".", "no/such/place", "x", "x"],
    );
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr).replace(home.path().to_str().unwrap(), "HOME");
    expect![[r#"
        memkv: HOME: is neither a block device nor a regular file
          HOME/no/such/place: No such file or directory (os error 2)
          x is named twice; name each drive once
    "#]]
    .assert_eq(&stderr);
}

#[test]
fn doc_into_a_pipe_prints_and_ends() {
    let home = tempfile::tempdir().unwrap();
    let list = run(home.path(), &["doc", "--list"]);
    let piped = run(home.path(), &["doc"]);
    assert_eq!(piped.status.code(), Some(0), "{}", text(&piped.stderr));
    assert!(text(&piped.stdout) == text(&list.stdout) && piped.stderr.is_empty());
    let names: Vec<String> = text(&list.stdout)
        .lines()
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in &names {
        let page = run(home.path(), &["doc", name]);
        assert_eq!(page.status.code(), Some(0), "{name}");
        assert!(text(&page.stdout).starts_with("# "), "{name}");
    }
    let output = run(home.path(), &["doc", "nonsense"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains(&names[0]));
}

#[test]
fn doc_serves_its_pages_where_it_is_told_to() {
    let home = tempfile::tempdir().unwrap();
    let mut child = memkv(home.path(), &["doc", "--serve", "--address", "127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    let address = line.split("http://").nth(1).unwrap();
    let address = address.split_whitespace().next().unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let request = format!("GET /wire HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<h1>"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
