//! The program behind `make bench`, run small: what it prints and writes.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn bench(arguments: &[&str], out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_memkv-benches"))
        .args([
            "--repeats",
            "1",
            "--pairs",
            "1",
            "--scale",
            "0.002",
            "--out",
        ])
        .arg(out)
        .args(arguments)
        .output()
        .expect("the program starts")
}

#[test]
fn rows_are_printed_and_written_with_every_field() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rows.json");
    let run = bench(&["--only", "get-1k-rtt,hmac-1"], &out);
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(
        run.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let ids: Vec<&str> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
    assert_eq!(ids, ["get-1k-rtt", "hmac-1"]);
    for row in &rows {
        for text in ["id", "workload", "peer_name", "unit", "better"] {
            assert!(row[text].is_string(), "{text} in {row}");
        }
        for number in [
            "ours",
            "peer",
            "ratio",
            "ratio_min",
            "ratio_max",
            "must",
            "aim",
        ] {
            assert!(
                row[number].as_f64().is_some_and(|n| n > 0.0),
                "{number} in {row}"
            );
        }
        // A row whose unit is CPU already has no second one.
        let cpu = row.get("cpu_ratio").expect("the field");
        match row["unit"].as_str() {
            Some("ops/CPU s") => assert!(cpu.is_null(), "{row}"),
            _ => assert!(cpu.as_f64() > Some(0.0), "{row}"),
        }
        assert!(["higher", "lower"].contains(&row["better"].as_str().unwrap()));
        assert!(said.contains(row["id"].as_str().unwrap()));
    }
}

#[test]
fn a_row_that_does_not_exist_is_refused_with_those_that_do() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("none.json");
    let run = bench(&["--only", "get-4mb"], &out);
    assert!(!run.status.success());
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(
        said.contains("get-4mb") && said.contains("get-4m,"),
        "{said}"
    );
}

#[test]
fn the_limit_of_the_path_stands_beside_large_gets() {
    for peer in ["redis-server", "memcached", "iperf3"] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|dir| dir.join(peer).is_file()) {
            eprintln!("SKIPPED: there is no {peer}; scripts/deps.sh bench installs it");
            return;
        }
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("limit.json");
    let run = bench(&["--only", "get-4m"], &out);
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{said}");
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    for (row, connections) in rows.iter().zip([1, 2, 4]) {
        let limit = format!("iperf3 -P{connections}: ");
        assert!(row["note"].as_str().unwrap().starts_with(&limit), "{row}");
        assert!(row["cpu_ratio"].as_f64() > Some(0.0), "{row}");
        let peer = row["peer_name"].as_str().unwrap();
        assert!(["redis", "memcached"].contains(&peer), "{row}");
    }
    assert_eq!(rows.len(), 3);
}
