//! `memkv start` on configurations that can't work: exit code 3, and every message says what, where and what to do.

use std::fs;

use expect_test::{Expect, expect};
use memkv_tests::program::{command, run};
use tempfile::TempDir;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const START: [&str; 3] = ["start", "--config", "c.yaml"];

/// A configuration in which `from` is replaced by `to`, and that would work otherwise.
fn yaml(from: &str, to: &str) -> String {
    let good = format!(
        "network:\n  address: 127.0.0.1:0\n  auth_key: {KEY}\nmemory:\n  max_size: 64 MiB\nrdma:\n  enabled: false\n\
         storage:\n  mode: file\n  sync: always\n  drives:\n    - media: drive\n      max_size: 64 MiB\n"
    );
    assert!(good.contains(from), "{from}");
    good.replacen(from, to, 1)
}

/// Starts on `yaml`; what stderr says.
fn refused(yaml: &str, environment: &[(&str, &str)]) -> String {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("c.yaml"), yaml).unwrap();
    let output = command(home.path(), &START)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{yaml}\n{stderr}");
    assert!(output.stdout.is_empty(), "stdout is for results");
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "a refused start leaves nothing behind");
    let mut check = command(home.path(), &START);
    let checked = check.arg("--check").envs(environment.iter().copied());
    let checked = checked.output().unwrap();
    let said = String::from_utf8(checked.stderr).unwrap();
    assert_eq!((checked.status.code(), &said), (Some(3), &stderr), "{yaml}");
    stderr
}

fn check(from: &str, to: &str, expected: Expect) {
    expected.assert_eq(&refused(&yaml(from, to), &[]));
}

#[test]
fn messages_name_field_value_bound_and_remedy() {
    check(
        "max_size: 64 MiB\nrdma",
        "max_size: 1 MiB\nrdma",
        expect![[r#"
            memkv: the configuration has 1 problem:
              c.yaml:5: memory.max_size is 1 MiB, but must be at least four blocks of 2 MiB (memory.block_size); raise it to 8 MiB
        "#]],
    );
    check(
        "sync: always",
        "sync: sometimes",
        expect![[r#"
            memkv: the configuration has 1 problem:
              c.yaml:10: storage.sync is sometimes, but must be always | everysec | no
        "#]],
    );
    check(
        "sync: always",
        "snyc: always",
        expect![[r#"
            memkv: the configuration has 1 problem:
              c.yaml:10: unknown key snyc in storage; did you mean sync?
        "#]],
    );
    check(
        "address: 127.0.0.1:0",
        "address: localhost",
        expect![[r#"
            memkv: the configuration has 1 problem:
              c.yaml:2: network.address is localhost, but must be ip:port; write for example 0.0.0.0:9900, 127.0.0.1:9900 or, with quotes, "[::]:9900"
        "#]],
    );
    check(
        KEY,
        "0011",
        expect![[r#"
            memkv: the configuration has 1 problem:
              c.yaml:3: network.auth_key is (not shown), but must be 64 hexadecimal digits (32 bytes); it has 4 characters; make one with: openssl rand -hex 32
        "#]],
    );
    check(
        "enabled: false",
        "enabled: true",
        expect![[r#"
            memkv: the configuration has 1 problem:
              c.yaml:7: rdma.enabled is true, but this build has no RDMA; set it to auto to serve TCP
        "#]],
    );
}

#[test]
fn every_kind_of_mistake_is_refused_and_named() {
    let second = "media: drive\n      max_size: 64 MiB\n    - media: drive\n";
    for (from, to, words) in [
        // Types and units.
        (
            "max_size: 64 MiB\nrdma",
            "max_size: plenty\nrdma",
            &["memory.max_size", "plenty", "MiB"][..],
        ),
        (
            "max_size: 64 MiB\nrdma",
            "max_size: [1]\nrdma",
            &["memory.max_size"],
        ),
        (
            "enabled: false",
            "enabled: perhaps",
            &["rdma.enabled", "perhaps", "auto"],
        ),
        (
            "mode: file",
            "mode: tape",
            &["storage.mode", "tape", "direct", "file", "memory"],
        ),
        // Bounds.
        (
            "sync: always",
            "flap_threshold: 0",
            &["storage.flap_threshold", "0", "1"],
        ),
        (
            "sync: always",
            "block_size: 1 GiB",
            &["storage.block_size", "1 GiB", "16 MiB"],
        ),
        (
            "max_size: 64 MiB\n",
            "max_size: 64 MiB\n  block_size: 1 KiB\n",
            &["memory.block_size", "1 KiB", "64 KiB"],
        ),
        (
            "media: drive\n      max_size: 64 MiB",
            "media: drive\n      max_size: 1 MiB",
            &["storage.drives[0].max_size", "1 MiB", "16 MiB"],
        ),
        (
            "address: 127.0.0.1:0",
            "address: 127.0.0.1:65535",
            &["network.address", "65535"],
        ),
        // Keys that belong together.
        ("mode: file", "mode: memory", &["storage.max_size"]),
        ("media: drive", second, &["storage.drives", "drive"]),
        (
            "    - media: drive\n      max_size: 64 MiB\n",
            "",
            &["storage.drives"],
        ),
        (
            "address: 127.0.0.1:0",
            "address: 127.0.0.1:0\n  tls_cert: c.pem",
            &["network.tls_cert", "network.tls_key"],
        ),
        (
            &format!("127.0.0.1:0\n  auth_key: {KEY}"),
            "0.0.0.0:0",
            &["network.auth_key", "openssl rand"],
        ),
        // Not our YAML.
        ("mode: file", "mode: [file", &["c.yaml"]),
        ("rdma:", "network:", &["network", "already set"]),
        ("rdma:", "rmda:", &["rmda", "did you mean rdma?"]),
    ] {
        let stderr = refused(&yaml(from, to), &[]);
        for word in words {
            assert!(stderr.contains(word), "{word:?} isn't in:\n{stderr}");
        }
        assert!(!stderr.contains(&KEY[..16]), "a secret in:\n{stderr}");
    }
}

#[test]
fn a_mistake_in_the_environment_names_its_variable() {
    let stderr = refused(&yaml("", ""), &[("MEMKV_AUTH_KEY", "c0ffee")]);
    assert!(stderr.contains("MEMKV_AUTH_KEY"), "{stderr}");
    assert!(stderr.contains("64"), "{stderr}");
    assert!(!stderr.contains("c0ffee"), "a secret in:\n{stderr}");
}

#[test]
fn a_missing_configuration_is_named_with_what_to_do() {
    let home = TempDir::new().unwrap();
    let output = run(home.path(), &START);
    assert_eq!(output.status.code(), Some(3));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for word in ["c.yaml", "--dev"] {
        assert!(stderr.contains(word), "{word:?} isn't in:\n{stderr}");
    }
}
