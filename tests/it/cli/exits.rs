//! Every exit code that the documentation names, from the fault that it is for. Code 7 is `memkv setup`'s.

use std::fs;
use std::time::Instant;

use tempfile::TempDir;

use super::{Shell, server};

const VERBS: [&[&str]; 6] = [
    &["get", "k"],
    &["put", "k", "-"],
    &["del", "k"],
    &["exists", "k"],
    &["batch", "get", "k"],
    &["batch", "put", "-"],
];
/// What all verbs get on stdin; a value for some, a row for others.
const STDIN: &[u8] = b"{\"key\": \"k\", \"value\": \"v\"}\n";

#[test]
fn a_server_that_is_down_ends_every_verb_with_4_and_is_named() {
    let nobody = memkv_tests::free_address().to_string();
    let shell = Shell::of(&nobody);
    for verb in VERBS {
        let start = Instant::now();
        let done = shell.pipe(&[verb, &["--timeout", "5"]].concat(), STDIN);
        let seen = format!("{}{}", done.stderr, done.text());
        done.ends(4, &[]);
        assert!(seen.contains(&nobody) && seen.contains("refused"), "{seen}");
        assert!(start.elapsed().as_secs() < 10, "{verb:?}");
    }
    for verb in [&["admin", "status"][..], &["slow"]] {
        shell.run(verb).ends(4, &["is the server up"]);
    }
}

#[test]
fn a_server_with_another_key_ends_every_verb_with_4_and_says_so() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let shell = Shell::at(&server).with("MEMKV_AUTH_KEY", "ab".repeat(32));
    for verb in VERBS {
        let done = shell.pipe(&[verb, &["--timeout", "5"]].concat(), STDIN);
        let seen = format!("{}{}", done.stderr, done.text());
        done.ends(4, &[]);
        assert!(seen.contains("key"), "{verb:?}: {seen}");
        assert!(!seen.contains("abababab"), "{seen}");
    }
    // Such clients are no fault of the server's: nothing but a count.
    assert!(server.metric("memkv_auth_failures_total", &[]).unwrap() >= 1.0);
    drop(server);
}

#[test]
fn rdma_where_there_is_none_is_refused_with_3_and_never_replaced() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let by_environment = Shell::at(&server).with("MEMKV_TRANSPORT", "rdma");
    let by_file = Shell::at(&server).with("MEMKV_CONFIG", "client.yaml");
    fs::write(by_file.path().join("client.yaml"), "transport: rdma\n").unwrap();
    for shell in [by_environment, by_file] {
        for verb in VERBS {
            let done = shell.pipe(verb, STDIN);
            done.ends(3, &["rdma"]);
            assert!(done.stderr.contains("tcp"), "a remedy: {}", done.stderr);
            assert!(done.stdout.is_empty());
        }
    }
    server.stop();
}

#[test]
fn a_client_configuration_that_is_wrong_ends_with_3() {
    let mut shell = Shell::of("127.0.0.1:1").with("MEMKV_CONFIG", "client.yaml");
    // The environment would win over the file.
    shell
        .environment
        .retain(|(name, _)| *name != "MEMKV_NUM_CONNECTIONS");
    let get = |yaml: &str| {
        fs::write(shell.path().join("client.yaml"), yaml).unwrap();
        shell.run(&["get", "k"])
    };
    get("num_conections: 3\n").ends(3, &["client.yaml:1", "did you mean num_connections?"]);
    get("num_connections: 2000\n").ends(3, &["num_connections is 2000", "0 to 1024"]);
    get("pool: 3\n").ends(3, &["unknown key pool", "the nearest known one is"]);
    let shell = Shell::of("127.0.0.1:1").with("MEMKV_CONFIG", "none.yaml");
    shell.run(&["get", "k"]).ends(3, &["none.yaml"]);
    let shell = Shell::of("127.0.0.1:1").with("MEMKV_AUTH_KEY", "0011");
    let done = shell.run(&["get", "k"]);
    done.ends(3, &["64 hexadecimal digits"]);
    assert!(!done.stderr.contains("0011"), "{}", done.stderr);
}

#[test]
fn keys_and_values_out_of_bounds_end_with_2_and_name_the_bound() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let shell = Shell::at(&server);
    let longest = "k".repeat(512);
    shell.pipe(&["put", &longest, "-"], b"v").ends(0, &[]);
    for key in ["", &"k".repeat(513)] {
        shell.pipe(&["put", key, "-"], b"v").ends(2, &["512"]);
        shell.run(&["get", key]).ends(2, &["512"]);
        shell.run(&["del", key]).ends(2, &["512"]);
        // Of two keys one is fine: some failed.
        shell.run(&["exists", &longest, key]).ends(6, &["512"]);
    }
    let large = fs::File::create(shell.path().join("large")).unwrap();
    large.set_len((1 << 30) + 1).unwrap();
    shell
        .run(&["put", "large", "large"])
        .ends(2, &["1073741825", "1073741824"]);
    // Within the protocol's bound, but not within this server's.
    large.set_len(80 << 20).unwrap();
    shell
        .run(&["put", "large", "large"])
        .ends(2, &["put large", "83886080 bytes", "too_large", "split it"]);
    shell.run(&["exists", "large"]).ends(5, &[]);
    large.set_len(20 << 20).unwrap();
    shell.run(&["put", "large", "large"]).ends(0, &[]);
    let done = shell.run(&["get", "large"]);
    assert_eq!(done.ends(0, &[]).stdout.len(), 20 << 20);
    server.stop();
}

#[test]
fn what_has_no_end_is_no_value() {
    let shell = Shell::of("127.0.0.1:1");
    shell
        .run(&["put", "k", "/dev/zero"])
        .ends(2, &["/dev/zero", "at most 1073741824", "split it"]);
}

#[test]
fn time_that_is_over_ends_with_8() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let shell = Shell::at(&server);
    let timeout = ["--timeout", "0.000001"];
    for verb in VERBS {
        let done = shell.pipe(&[verb, &timeout[..]].concat(), STDIN);
        let seen = format!("{}{}", done.stderr, done.text());
        done.ends(8, &[]);
        assert!(seen.contains("deadline"), "{verb:?}: {seen}");
    }
    server.stop();
}

/// A run of `verb` that ends with `code`, on a server that has the key `k`.
fn run_that_ends(shell: &Shell, verb: &[&str], code: i32) -> super::Done {
    let longest = &"k".repeat(513);
    let nobody = Shell::of("127.0.0.1:1");
    let with = |more: &[&str]| shell.pipe(&[verb, more].concat(), STDIN);
    let is_batch_put = verb.starts_with(&["batch", "put"]);
    match (code, verb) {
        (0, _) => with(&[]),
        (1, ["put", ..]) => with(&["--if-absent"]),
        (1, ["batch", "get", ..]) => with(&["-d", "file/below"]),
        (1, ["batch", "put", ..]) => shell.run(&["batch", "put", "none"]),
        (1, _) => with(&["-o", "no/such/folder"]),
        (2, ["put", ..]) => shell.pipe(&["put", longest, "-"], STDIN),
        (2, _) if is_batch_put => shell.pipe(verb, b"no row"),
        (2, [.., _key]) => shell.run(&[&verb[..verb.len() - 1], &[longest]].concat()),
        (4, _) => nobody.pipe(verb, STDIN),
        (5, [.., _key]) => shell.run(&[&verb[..verb.len() - 1], &["nobody"]].concat()),
        (6, _) if is_batch_put => {
            let rows = "{\"key\": \"k\", \"value\": \"v\"}\n{\"key\": \"l\", \"file\": \"none\"}\n";
            shell.pipe(verb, rows.as_bytes())
        }
        (6, _) => with(&[longest]),
        (8, _) => with(&["--timeout", "0.000001"]),
        (_, verb) => panic!("{verb:?} names exit code {code}, which no run here ends with"),
    }
}

#[test]
fn every_code_that_a_verbs_help_names_is_one_that_it_ends_with() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let shell = Shell::at(&server);
    fs::write(shell.path().join("file"), "").unwrap();
    for verb in VERBS {
        let codes = shell.documented(verb);
        assert!(
            codes.contains(&0) && codes.contains(&4),
            "{verb:?}: {codes:?}"
        );
        for code in codes {
            shell.pipe(&["put", "k", "-"], b"v").ends(0, &[]);
            let done = run_that_ends(&shell, verb, code);
            assert_eq!(
                done.code,
                code,
                "{verb:?}\n{}\n{}",
                done.text(),
                done.stderr
            );
        }
    }
    server.stop();
}

#[test]
fn what_is_no_file_ends_with_1_and_is_named() {
    let home = TempDir::new().unwrap();
    let server = server(&home);
    let shell = Shell::at(&server);
    shell.run(&["put", "k", "none"]).ends(1, &["read none"]);
    shell.pipe(&["put", "k", "-"], b"v").ends(0, &[]);
    shell
        .run(&["get", "k", "-o", "no/such/folder"])
        .ends(1, &["no/such/folder"]);
    shell.run(&["batch", "put", "none"]).ends(1, &["none"]);
    shell.run(&["batch", "get"]).ends(2, &["--keys-from"]);
    server.stop();
}
